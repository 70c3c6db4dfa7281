//! The words of `[generation]` that beams alone use: what a length counts, and when a search stops.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What the length in a beam's score counts.
///
/// | | answer that an ending token ended | answer cut at the limit | bound of a running beam |
/// | --- | --- | --- | --- |
/// | `Sequence` | context, start token, answer without its ending token | all | all before the new token |
/// | `Piece` | start token, answer without its ending token | both | both before the new token |
/// | `Generated` | answer with its ending token | answer | answer with the new token |
///
/// An answer that a stop string ended has no ending token, so all its tokens count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LengthOver {
    /// Context, start token and answer: transformers 4.25 to 4.35.
    #[default]
    Sequence,
    /// Start token and answer: `generate_samples.py` of THUDM/GLM. No job says so: it is what the task `infill` makes of
    /// `Sequence`.
    #[serde(skip)]
    Piece,
    /// The answer alone: transformers from 4.36.
    Generated,
}

/// When a search stops before the longest answer, once `num_beams` answers have ended.
///
/// Written as in transformers: `false`, `true` or `"never"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EarlyStopping {
    /// `false`: once the best running beam, scored at its length of now, is not above the worst ended answer.
    #[default]
    Likely,
    /// `true`: at once.
    Always,
    /// `"never"`: once no running beam can get above the worst ended answer at any length.
    Never,
}

const NEVER: &str = "never";

impl Serialize for EarlyStopping {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Likely => serializer.serialize_bool(false),
            Self::Always => serializer.serialize_bool(true),
            Self::Never => serializer.serialize_str(NEVER),
        }
    }
}

impl<'de> Deserialize<'de> for EarlyStopping {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EarlyStoppingVisitor)
    }
}

struct EarlyStoppingVisitor;

impl Visitor<'_> for EarlyStoppingVisitor {
    type Value = EarlyStopping;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`true`, `false` or `\"{NEVER}\"`")
    }

    fn visit_bool<E: de::Error>(self, is_early: bool) -> Result<EarlyStopping, E> {
        Ok(if is_early {
            EarlyStopping::Always
        } else {
            EarlyStopping::Likely
        })
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<EarlyStopping, E> {
        if text == NEVER {
            return Ok(EarlyStopping::Never);
        }
        Err(E::invalid_value(Unexpected::Str(text), &self))
    }
}

impl JsonSchema for EarlyStopping {
    fn schema_name() -> Cow<'static, str> {
        "EarlyStopping".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "boolean" }, { "const": NEVER }] })
    }
}
