//! `[batch]`: limits of what runs together.

use std::path::Path;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

use super::Section;
use crate::job::flaw::{Checked, at_least_one};
use crate::job::values::{AutoWord, NumberOr, up_to};

/// Padded lengths beyond this would pad every row to the model's limit.
const MAX_BUCKET: u64 = 4096;

/// Limits of what runs together; they change the speed and the memory, never an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BatchSpec {
    /// Rows in flight, at least 1.
    #[serde(deserialize_with = "rows")]
    #[schemars(with = "NumberOr<AutoWord>")]
    pub max_batch_size: Option<u32>,
    /// Tokens of all slots: reserved answers and padded contexts, on a CPU each context once for the samples that start
    /// together, on a GPU each slot rounded up to few sizes. The real limit; `auto` is what memory allows.
    #[serde(deserialize_with = "tokens")]
    #[schemars(with = "NumberOr<AutoWord>")]
    pub max_batch_tokens: Option<u64>,
    /// Rows that are sorted by length, batched and committed together; fixed by the first run.
    #[schemars(range(min = 1))]
    pub window_rows: u32,
    /// Padded lengths are multiples of this; `auto` is 32 on a GPU, 8 on the CPU.
    #[serde(deserialize_with = "bucket")]
    #[schemars(schema_with = "bucket_schema")]
    pub bucket_tokens: Option<u32>,
}

impl Default for BatchSpec {
    fn default() -> Self {
        Self {
            max_batch_size: None,
            max_batch_tokens: None,
            window_rows: 8192,
            bucket_tokens: None,
        }
    }
}

fn rows<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<u32>, D::Error> {
    up_to(u32::MAX.into(), reader)
}

fn tokens<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<u64>, D::Error> {
    // TOML has no larger whole numbers.
    up_to(i64::MAX as u64, reader)
}

fn bucket<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<u32>, D::Error> {
    up_to(MAX_BUCKET, reader)
}

fn bucket_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "anyOf": [
            { "const": "auto" },
            { "type": "integer", "minimum": 1, "maximum": MAX_BUCKET },
        ],
    })
}

impl Section for BatchSpec {
    const NAME: &'static str = "batch";

    fn check(&mut self, _: &Path) -> Checked<()> {
        at_least_one("window_rows", self.window_rows)
    }
}
