//! Values that are written in more than one way: `auto` or a number, one text or several, ...
//!
//! Each reads and writes the form that stands in a job file (also in `job.json`) and has its
//! schema. Used by [`super::file`] and [`super::types`].

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::types::{CarriedColumns, DeviceSpec, MaxNewTokens};

/// The word that stands for "no number".
pub(super) trait Word {
    const TEXT: &'static str;
    /// The least number, as the schema has it.
    const LEAST: u64;
}

/// `auto`: the program chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AutoWord;
/// `all`: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AllWord;

impl Word for AutoWord {
    const TEXT: &'static str = "auto";
    const LEAST: u64 = 1;
}
impl Word for AllWord {
    const TEXT: &'static str = "all";
    const LEAST: u64 = 0;
}

/// A whole number, or the word `W` (`None`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NumberOr<W>(pub(super) Option<u64>, PhantomData<W>);

impl<W> Default for NumberOr<W> {
    fn default() -> Self {
        Self(None, PhantomData)
    }
}

impl<W: Word> Serialize for NumberOr<W> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(number) => serializer.serialize_u64(number),
            None => serializer.serialize_str(W::TEXT),
        }
    }
}

impl<'de, W: Word> Deserialize<'de> for NumberOr<W> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(NumberOrVisitor(W::TEXT))
            .map(|read| Self(read, PhantomData))
    }
}

impl<W: Word> JsonSchema for NumberOr<W> {
    fn schema_name() -> Cow<'static, str> {
        format!("NumberOr_{}", W::TEXT).into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "const": W::TEXT }, { "type": "integer", "minimum": W::LEAST }] })
    }
}

/// Reads a whole number or one word, which becomes `None`.
struct NumberOrVisitor(&'static str);

impl Visitor<'_> for NumberOrVisitor {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number or `\"{}\"`", self.0)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Some(number))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        if text == self.0 {
            return Ok(None);
        }
        Err(E::invalid_value(Unexpected::Str(text), &self))
    }
}

impl Serialize for MaxNewTokens {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => serializer.serialize_u32(*count),
            Self::Rest => serializer.serialize_str("rest"),
        }
    }
}

impl<'de> Deserialize<'de> for MaxNewTokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = deserializer.deserialize_any(NumberOrVisitor("rest"))?;
        // More tokens than 32 bits count is more than any model has.
        Ok(read.map_or(Self::Rest, |count| {
            Self::Count(u32::try_from(count).unwrap_or(u32::MAX))
        }))
    }
}

impl JsonSchema for MaxNewTokens {
    fn schema_name() -> Cow<'static, str> {
        "MaxNewTokens".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 1 }, { "const": "rest" }] })
    }
}

impl DeviceSpec {
    fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "auto" => Self::Auto,
            "cpu" => Self::Cpu,
            "cuda" => Self::Cuda(vec![0]),
            "cuda:all" => Self::CudaAll,
            "metal" => Self::Metal,
            _ => Self::Cuda(cuda_numbers(word)?),
        })
    }
}

/// The numbers of `cuda:0,cuda:1`.
fn cuda_numbers(word: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for device in word.split(',') {
        let digits = device.trim().strip_prefix("cuda:")?;
        let number = digits
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| digits.parse().ok())??;
        if numbers.contains(&number) {
            return None;
        }
        numbers.push(number);
    }
    Some(numbers)
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(numbers) => {
                let words: Vec<String> = numbers.iter().map(|n| format!("cuda:{n}")).collect();
                f.write_str(&words.join(","))
            }
            Self::CudaAll => f.write_str("cuda:all"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

impl Serialize for DeviceSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeviceSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DeviceVisitor;

        impl Visitor<'_> for DeviceVisitor {
            type Value = DeviceSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "`auto`, `cpu`, `cuda`, `cuda:N`, `cuda:0,cuda:1`, `cuda:all` or `metal`",
                )
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<DeviceSpec, E> {
                DeviceSpec::from_word(text)
                    .ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(DeviceVisitor)
    }
}

impl JsonSchema for DeviceSpec {
    fn schema_name() -> Cow<'static, str> {
        "Device".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "anyOf": [
                { "enum": ["auto", "cpu", "cuda", "cuda:all", "metal"] },
                { "pattern": "^cuda:[0-9]+( *, *cuda:[0-9]+)*$" },
            ],
        })
    }
}

/// One text or a list of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct Texts(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let visitor = TextsVisitor {
            expecting: "a string or a list of strings",
        };
        deserializer
            .deserialize_any(visitor)
            .map(|read| match read {
                OneOrMany::One(text) => Self(vec![text]),
                OneOrMany::Many(texts) => Self(texts),
            })
    }
}

impl JsonSchema for Texts {
    fn schema_name() -> Cow<'static, str> {
        "Texts".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "array", "items": { "type": "string" }, "minItems": 1 },
                { "type": "string" },
            ],
        })
    }
}

enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

struct TextsVisitor {
    expecting: &'static str,
}

impl<'de> Visitor<'de> for TextsVisitor {
    type Value = OneOrMany;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMany, E> {
        Ok(OneOrMany::One(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<OneOrMany, A::Error> {
        let mut texts = Vec::new();
        while let Some(text) = items.next_element()? {
            texts.push(text);
        }
        Ok(OneOrMany::Many(texts))
    }
}

impl Serialize for CarriedColumns {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::None => serializer.serialize_str("none"),
            Self::Names(names) => names.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for CarriedColumns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_any(COLUMNS)? {
            OneOrMany::Many(names) => Ok(Self::Names(names)),
            OneOrMany::One(word) if word == "all" => Ok(Self::All),
            OneOrMany::One(word) if word == "none" => Ok(Self::None),
            OneOrMany::One(word) => Err(de::Error::invalid_value(Unexpected::Str(&word), &COLUMNS)),
        }
    }
}

const COLUMNS: TextsVisitor = TextsVisitor {
    expecting: "`\"all\"`, `\"none\"` or a list of column names",
};

impl JsonSchema for CarriedColumns {
    fn schema_name() -> Cow<'static, str> {
        "CarriedColumns".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "enum": ["all", "none"] },
                { "type": "array", "items": { "type": "string" } },
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_words() {
        for (word, device) in [
            ("auto", Some(DeviceSpec::Auto)),
            ("cuda", Some(DeviceSpec::Cuda(vec![0]))),
            ("cuda:3", Some(DeviceSpec::Cuda(vec![3]))),
            ("cuda:1, cuda:0", Some(DeviceSpec::Cuda(vec![1, 0]))),
            ("cuda:all", Some(DeviceSpec::CudaAll)),
            ("cuda:1,cuda:1", None),
            ("cuda:0,", None),
            ("cuda:0,cpu", None),
            ("cuda:", None),
            ("cuda:+3", None),
            ("cuda:99999999999999999999999", None),
            ("gpu", None),
        ] {
            assert_eq!(DeviceSpec::from_word(word), device, "{word}");
        }
    }

    #[test]
    fn values_are_stored_as_they_are_written() {
        let text = |value: serde_json::Value| value.to_string();
        let json =
            |value: &dyn Fn() -> serde_json::Result<serde_json::Value>| text(value().unwrap());
        assert_eq!(json(&|| serde_json::to_value(MaxNewTokens::Count(7))), "7");
        assert_eq!(
            json(&|| serde_json::to_value(MaxNewTokens::Rest)),
            "\"rest\""
        );
        assert_eq!(
            json(&|| serde_json::to_value(DeviceSpec::Cuda(vec![1]))),
            "\"cuda:1\""
        );
        assert_eq!(
            json(&|| serde_json::to_value(CarriedColumns::None)),
            "\"none\""
        );
        let names: CarriedColumns = serde_json::from_str("[\"a\"]").unwrap();
        assert_eq!(names, CarriedColumns::Names(vec!["a".into()]));
        let rest: MaxNewTokens = serde_json::from_str("\"rest\"").unwrap();
        assert_eq!(rest, MaxNewTokens::Rest);
    }
}
