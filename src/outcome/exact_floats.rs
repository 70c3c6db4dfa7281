//! Floats in JSON that come back bit for bit.

use serde::de::Error as _;
use serde::ser::SerializeSeq as _;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

pub(super) fn serialize<S: Serializer>(floats: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
    let mut sequence = serializer.serialize_seq(Some(floats.len()))?;
    for &float in floats {
        sequence.serialize_element(&Exact(float))?;
    }
    sequence.end()
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<f32>, D::Error> {
    let floats = Vec::<Exact>::deserialize(deserializer)?;
    Ok(floats.into_iter().map(|Exact(float)| float).collect())
}

/// One float that may be missing.
pub(super) mod optional {
    use super::{Deserialize as _, Deserializer, Exact, Serializer};

    #[expect(
        clippy::ref_option,
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference to the field"
    )]
    pub(in crate::outcome) fn serialize<S: Serializer>(
        float: &Option<f32>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match float {
            Some(float) => serializer.serialize_some(&Exact(*float)),
            None => serializer.serialize_none(),
        }
    }

    pub(in crate::outcome) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<f32>, D::Error> {
        let Exact(float) = Exact::deserialize(deserializer)?;
        Ok(Some(float))
    }
}

/// Sums by their names.
pub(super) mod sums {
    use std::collections::BTreeMap;

    use serde::de::Error as _;

    use super::{Deserialize as _, Deserializer, RawValue, Serialize as _, Serializer};

    pub(in crate::outcome) fn serialize<S: Serializer>(
        sums: &BTreeMap<String, f64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        sums.serialize(serializer)
    }

    pub(in crate::outcome) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<String, f64>, D::Error> {
        let texts = BTreeMap::<String, Box<RawValue>>::deserialize(deserializer)?;
        let sums = texts.into_iter().map(|(name, text)| {
            let sum = text.get().parse().map_err(D::Error::custom)?;
            Ok((name, sum))
        });
        sums.collect()
    }
}

/// One of them.
pub(super) struct Exact(pub(super) f32);

/// JSON has no NaN and no infinities, so those are strings.
impl Serialize for Exact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() {
            serializer.serialize_f32(self.0)
        } else {
            serializer.collect_str(&self.0)
        }
    }
}

/// `serde_json` reads a number as an f64 that may be a bit off and then rounds it again; the standard library
/// reads the shortest form of an f32 exactly.
impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&RawValue>::deserialize(deserializer)?;
        let digits = text.get().trim_matches('"');
        digits.parse().map(Self).map_err(D::Error::custom)
    }
}
