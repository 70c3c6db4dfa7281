//! `[input]`: which files, which columns.

use std::collections::BTreeSet;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::Section;
use crate::job::flaw::{Checked, Flaw, at_least_one, not_empty};
use crate::job::paths;
use crate::job::values::{OneOrMany, Texts, TextsVisitor, one_or_several};

/// Which files, which columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// Files, globs and folders: jsonl, jsonl.gz, jsonl.zst, parquet; the output folder of another job; `-` is standard input.
    #[serde(deserialize_with = "one_or_several")]
    #[schemars(with = "Texts")]
    pub path: Vec<String>,
    /// What the rows are.
    #[serde(default, skip_serializing_if = "RowForm::is_default")]
    #[schemars(!skip_serializing_if)]
    pub format: RowForm,
    /// Columns that mean something to the job.
    #[serde(default)]
    pub columns: ColumnSpec,
    /// What a row that fails before generation does to the job.
    #[serde(default)]
    pub on_bad_row: OnBadRow,
    /// Only rows for which this minijinja expression over their columns is true, as in `difficulty > 3`.
    #[serde(rename = "where", default, skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub filter: Option<String>,
    /// Rows of the input that are left out at its beginning.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(!skip_serializing_if)]
    pub skip: u64,
    /// Rows after those that are skipped, counted before `where`; all others are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if, range(min = 1))]
    pub limit: Option<u64>,
    /// What becomes of an earlier job's results, named in `path`, where that job is not finished.
    #[serde(default, skip_serializing_if = "Unfinished::is_default")]
    #[schemars(!skip_serializing_if)]
    pub unfinished: Unfinished,
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
            format: RowForm::default(),
            columns: ColumnSpec::default(),
            on_bad_row: OnBadRow::default(),
            filter: None,
            skip: 0,
            limit: None,
            unfinished: Unfinished::default(),
            max_row_bytes: max_row_bytes(),
        }
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(n: &u64) -> bool {
    *n == 0
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
    /// Conversation: a list of messages with `role` and `content`, of which `prompt.turns` makes the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub messages: Option<String>,
    /// Text before the mask, which the answer continues.
    pub prefix: Option<String>,
    /// Expected answer, compared in the summary; of a list, its first entry.
    pub reference: Option<String>,
    /// Settings of this row alone.
    pub generation: Option<String>,
    /// Text to score: a column of texts or of lists of them, or a list of columns.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub target: Option<ColumnNames>,
    /// Choices: a column of lists of texts, or a list of columns of texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub choices: Option<ColumnNames>,
    /// Which choice is right: its index, its letter or its text; rows that do not say it are not compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub label: Option<String>,
    /// Answer to judge: a column of texts or of lists of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub answer: Option<String>,
}

/// A column, or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum ColumnNames {
    /// One, of texts or of lists of them.
    One(String),
    /// Several, of texts.
    Several(Vec<String>),
}

impl ColumnNames {
    /// The names.
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Several(names) => names,
        }
    }
}

impl<'de> Deserialize<'de> for ColumnNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let visitor = TextsVisitor {
            expecting: "a column or a list of columns",
        };
        Ok(match deserializer.deserialize_any(visitor)? {
            OneOrMany::One(name) => Self::One(name),
            OneOrMany::Many(names) => Self::Several(names),
        })
    }
}

impl ColumnSpec {
    /// The columns that are named, each with its key.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("input.columns.id", &self.id),
            ("input.columns.prompt", &self.prompt),
            ("input.columns.messages", &self.messages),
            ("input.columns.prefix", &self.prefix),
            ("input.columns.reference", &self.reference),
            ("input.columns.generation", &self.generation),
            ("input.columns.label", &self.label),
            ("input.columns.answer", &self.answer),
        ]
        .into_iter()
        .filter_map(|(key, name)| Some((key, name.as_deref()?)))
        .chain(named_of("input.columns.target", self.target.as_ref()))
        .chain(named_of("input.columns.choices", self.choices.as_ref()))
    }
}

/// The columns of a key that may name several.
fn named_of<'a>(
    key: &'static str,
    names: Option<&'a ColumnNames>,
) -> impl Iterator<Item = (&'static str, &'a str)> {
    let names = names.map_or(&[][..], ColumnNames::as_slice).iter();
    names.map(move |name| (key, name.as_str()))
}

/// What the rows are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RowForm {
    /// Records whose columns the job names.
    #[default]
    Rows,
    /// Requests of the batch API of `OpenAI`, as in the files that it takes.
    OpenaiBatch,
}

impl RowForm {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Where requests have their conversation.
const BODY_MESSAGES: &str = "body.messages";

impl InputSpec {
    /// Names the columns of requests where the job names no others; `has_template` where a template makes the prompt.
    pub(in crate::job) fn complete(&mut self, has_template: bool) -> Checked<()> {
        if self.format == RowForm::Rows {
            return Ok(());
        }
        let columns = &mut self.columns;
        if let Some(other) = columns.generation.as_ref().filter(|name| *name != "body") {
            let reason = format!("is `{other}`, and the settings of a request are in its `body`");
            return Err(Flaw::new("input.columns.generation", reason).hint("take it out"));
        }
        let name = |column: &str| Some(column.to_owned());
        columns.generation = name("body");
        columns.id = columns.id.take().or_else(|| name("custom_id"));
        if columns.prompt.is_none() && !has_template {
            columns.messages = columns.messages.take().or_else(|| name(BODY_MESSAGES));
        }
        Ok(())
    }

    /// Whether rows are requests, which may have a prompt in the place of messages.
    pub(crate) fn may_lack_messages(&self) -> bool {
        let messages = self.columns.messages.as_deref();
        self.format == RowForm::OpenaiBatch && messages == Some(BODY_MESSAGES)
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

/// What becomes of an earlier job's results where that job is not finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unfinished {
    /// The job is refused.
    #[default]
    Refuse,
    /// What is committed by the first run is read, and nothing that comes later.
    Allow,
}

impl Unfinished {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Section for InputSpec {
    const NAME: &'static str = "input";

    fn check(&mut self, base: &Path) -> Checked<()> {
        let columns = &self.columns;
        for (key, column) in [
            ("columns.id", &columns.id),
            ("columns.prompt", &columns.prompt),
            ("columns.messages", &columns.messages),
            ("columns.prefix", &columns.prefix),
            ("columns.reference", &columns.reference),
            ("columns.generation", &columns.generation),
            ("columns.label", &columns.label),
            ("columns.answer", &columns.answer),
        ] {
            not_empty(key, column.as_deref())?;
        }
        check_several("columns.target", columns.target.as_ref())?;
        check_several("columns.choices", columns.choices.as_ref())?;
        at_least_one("max_row_bytes", self.max_row_bytes)?;
        not_empty("where", self.filter.as_deref())?;
        if let Some(limit) = self.limit {
            at_least_one("limit", limit)?;
        }
        self.path = paths::inputs("path", std::mem::take(&mut self.path), base)?;
        Ok(())
    }
}

fn check_several(key: &'static str, names: Option<&ColumnNames>) -> Checked<()> {
    let mut seen = BTreeSet::new();
    for (_, name) in named_of(key, names) {
        not_empty(key, Some(name))?;
        if !seen.insert(name) {
            return Err(Flaw::new(key, format!("names `{name}` twice")));
        }
    }
    match names {
        Some(ColumnNames::Several(names)) if names.is_empty() => {
            Err(Flaw::new(key, "is an empty list"))
        }
        _ => Ok(()),
    }
}
