//! `[input]`: which files, which columns.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Section;
use crate::job::flaw::{Checked, at_least_one, not_empty};
use crate::job::paths;
use crate::job::values::{Texts, one_or_several};

/// Which files, which columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// Files, globs and folders: jsonl, jsonl.gz, jsonl.zst, parquet; `-` is standard input.
    #[serde(deserialize_with = "one_or_several")]
    #[schemars(with = "Texts")]
    pub path: Vec<String>,
    /// Columns that mean something to the job.
    #[serde(default)]
    pub columns: ColumnSpec,
    /// What a row that fails before generation does to the job.
    #[serde(default)]
    pub on_bad_row: OnBadRow,
    /// Bytes that a JSON line may have; a longer one is a bad row, and is not kept in memory.
    #[serde(default = "max_row_bytes")]
    #[schemars(range(min = 1))]
    pub max_row_bytes: u64,
}

impl InputSpec {
    /// These files and globs, every other key at its default.
    pub fn of(path: Vec<String>) -> Self {
        Self {
            path,
            columns: ColumnSpec::default(),
            on_bad_row: OnBadRow::default(),
            max_row_bytes: max_row_bytes(),
        }
    }
}

const fn max_row_bytes() -> u64 {
    64 << 20
}

/// Names of the columns that mean something to the job, or paths into them, as in `answers.0.answer`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ColumnSpec {
    /// Identifier; default: column `id` where the input has it, else the row number.
    pub id: Option<String>,
    /// Prompt text; needed unless a template is given.
    pub prompt: Option<String>,
    /// Text before the mask, which the answer continues.
    pub prefix: Option<String>,
    /// Expected answer, compared in the summary; of a list, its first entry.
    pub reference: Option<String>,
    /// Settings of this row alone.
    pub generation: Option<String>,
}

impl ColumnSpec {
    /// The columns that are named, each with its key.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("input.columns.id", &self.id),
            ("input.columns.prompt", &self.prompt),
            ("input.columns.prefix", &self.prefix),
            ("input.columns.reference", &self.reference),
            ("input.columns.generation", &self.generation),
        ]
        .into_iter()
        .filter_map(|(key, name)| Some((key, name.as_deref()?)))
    }
}

/// What a row that fails before generation does to the job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnBadRow {
    /// The row fails, the job goes on.
    #[default]
    Record,
    /// The job stops.
    Stop,
}

impl Section for InputSpec {
    const NAME: &'static str = "input";

    fn check(&mut self, base: &Path) -> Checked<()> {
        let columns = &self.columns;
        for (key, column) in [
            ("columns.id", &columns.id),
            ("columns.prompt", &columns.prompt),
            ("columns.prefix", &columns.prefix),
            ("columns.reference", &columns.reference),
            ("columns.generation", &columns.generation),
        ] {
            not_empty(key, column.as_deref())?;
        }
        at_least_one("max_row_bytes", self.max_row_bytes)?;
        self.path = paths::inputs("path", std::mem::take(&mut self.path), base)?;
        Ok(())
    }
}
