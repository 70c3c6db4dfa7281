//! One value of a result, and its JSON form, which says its kind without help.
//!
//! ```text
//! null  true  3  -2.5  {"float":"inf"}  "text"  [-2.5,-1.0]
//!       bool  i32 f32   f32 beyond JSON  text    list
//! ```

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::exact_floats::Exact;

/// One value that a task has for a row or a sample.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// No value.
    Null,
    /// true or false.
    Bool(bool),
    /// A whole number.
    Int(i32),
    /// A number.
    Float(f32),
    /// A text.
    Text(String),
    /// Values of one kind.
    List(Vec<Cell>),
}

impl From<&[f32]> for Cell {
    fn from(floats: &[f32]) -> Self {
        Self::List(floats.iter().map(|&float| Self::Float(float)).collect())
    }
}

/// The one key of a float that JSON has no number for.
const FLOAT: &str = "float";

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Int(value) => serializer.serialize_i32(*value),
            Self::Float(value) if value.is_finite() => serializer.serialize_f32(*value),
            Self::Float(value) => serializer.collect_map([(FLOAT, value.to_string())]),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => serializer.collect_seq(items),
        }
    }
}

/// Reads by the first character. A number with a point or an exponent is a float: `serde_json` writes every f32
/// so, and reads one exactly only from its text.
impl<'de> Deserialize<'de> for Cell {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Beyond {
            float: String,
        }
        fn read<'de, T: Deserialize<'de>, E: serde::de::Error>(text: &'de str) -> Result<T, E> {
            serde_json::from_str(text).map_err(E::custom)
        }
        let text = <&RawValue>::deserialize(deserializer)?.get();
        Ok(match text.as_bytes().first() {
            Some(b'n') => Self::Null,
            Some(b't' | b'f') => Self::Bool(read(text)?),
            Some(b'"') => Self::Text(read(text)?),
            Some(b'[') => Self::List(read(text)?),
            Some(b'{') => {
                let Beyond { float } = read(text)?;
                Self::Float(float.parse().map_err(D::Error::custom)?)
            }
            _ if text.contains(['.', 'e', 'E']) => Self::Float(read::<Exact, _>(text)?.0),
            _ => Self::Int(read(text)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_comes_back_as_it_was() {
        let floats = [
            0.0,
            -0.0,
            1.0,
            -2.5,
            1e-45,
            f32::MAX,
            f32::INFINITY,
            16_777_216.0,
        ];
        let mut cells: Vec<Cell> = floats.map(Cell::Float).into();
        cells.extend([
            Cell::Null,
            Cell::Bool(true),
            Cell::Bool(false),
            Cell::Int(-3),
            Cell::Text("inf \"x\"".to_owned()),
            Cell::List(vec![]),
            Cell::from([-1.5, f32::NEG_INFINITY].as_slice()),
        ]);
        for cell in cells {
            let text = serde_json::to_string(&cell).unwrap();
            let read: Cell = serde_json::from_str(&text).unwrap();
            assert_eq!(read, cell, "{text}");
            if let (Cell::Float(a), Cell::Float(b)) = (&read, &cell) {
                assert_eq!(a.to_bits(), b.to_bits(), "{text}");
            }
        }
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for text in ["{}", "{\"float\":\"x\"}", "99999999999", "[{}]"] {
            assert!(serde_json::from_str::<Cell>(text).is_err(), "{text}");
        }
    }
}
