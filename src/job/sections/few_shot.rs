//! `prompt.few_shot`: solved examples that go before each prompt.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::job::flaw::{Checked, not_empty};
use crate::job::paths;

/// Solved examples that go before each prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FewShotSpec {
    /// One file of JSON lines or Parquet whose rows are the examples.
    #[schemars(with = "String")]
    pub path: PathBuf,
    /// Examples before each prompt; 0 is none.
    #[serde(default = "five")]
    pub n: u32,
    /// Which of the examples a row gets.
    #[serde(default)]
    pub order: ShotOrder,
    /// Seed of `order = "random"`; with the number of the row it decides the draw.
    #[serde(default)]
    pub seed: u64,
    /// Column: a row gets only examples with its own value there.
    #[serde(default)]
    pub by: Option<String>,
    /// minijinja template over the row's columns: a text before the first example; none where no example is left.
    #[serde(default)]
    pub intro: Option<String>,
    /// minijinja template over the example's columns; default: its prompt, made as that of a row, with its answer.
    #[serde(default)]
    pub template: Option<String>,
    /// Text between two examples, and before the prompt.
    #[serde(default = "blank_line")]
    pub separator: String,
}

const fn five() -> u32 {
    5
}

fn blank_line() -> String {
    "\n\n".to_owned()
}

/// Which of the examples a row gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ShotOrder {
    /// The first ones of the file, in its order.
    #[default]
    First,
    /// Others for each row, drawn by `seed` and the number of the row.
    Random,
}

impl FewShotSpec {
    /// Refuses empty texts, and makes the path absolute.
    pub(super) fn check(&mut self, base: &Path) -> Checked<()> {
        self.path = paths::absolute("path", &self.path, base)?;
        not_empty("by", self.by.as_deref())?;
        not_empty("intro", self.intro.as_deref())?;
        not_empty("template", self.template.as_deref())
    }
}
