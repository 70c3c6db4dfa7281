//! What reading gives: the index of the whole input, and one window's rows.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::LazyLock;

use arrow_array::RecordBatch;
use serde::{Deserialize, Serialize};

use super::json_rows::JsonRows;
use crate::ids::{RowId, WindowId};
use crate::job::InputSpec;
use crate::outcome::{BadRow, LeftOut};

/// The whole input as the first pass saw it. Stored in `job.json`; resume and shards seek by it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InputIndex {
    /// Format of every file.
    pub format: InputFormat,
    /// Files in reading order.
    pub files: Vec<InputFile>,
    /// Rows in all files: non-blank lines, or Parquet rows.
    pub rows: u64,
    /// Windows in row order; one empty window where there are no rows. Those behind the job's last row may be left out.
    pub windows: Vec<WindowSpan>,
    /// Columns in order of first appearance, with the type that all rows share.
    pub columns: Vec<InputColumn>,
    /// Jobs whose results are among the files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<EarlierJob>,
}

/// A job whose results are read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlierJob {
    /// Its output folder, an absolute path.
    pub folder: PathBuf,
    /// What its files name it by; the jobs of earlier versions have nothing of the kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Columns that it has made: they can be read, and are carried where `output.columns` names them.
    pub results: Vec<String>,
    /// Columns that it has carried.
    pub carried: Vec<String>,
}

/// Format of an input file, whatever its compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputFormat {
    /// JSON lines, plain or packed, and tables whose records are read as such.
    Jsonl,
    /// Apache Parquet.
    Parquet,
}

/// One input file and what identifies its content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InputFile {
    /// Absolute path.
    pub path: PathBuf,
    /// Size in bytes, as stored.
    pub bytes: u64,
    /// Modification time, nanoseconds since the epoch.
    pub modified_ns: u64,
    /// Number of the file in its file system; a `job.json` of an earlier version has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
    /// blake3 of all bytes, in hex; a job that an earlier version began has that of size and footer for
    /// Parquet.
    pub fingerprint: String,
    /// Rows in this file.
    pub rows: u64,
    /// Columns that folders named `column=value` give to every row of this file, outermost first; without
    /// those that the rows have themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partition: Vec<Partition>,
    /// Place in [`InputIndex::earlier`] of the job whose results the file holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier: Option<u32>,
}

/// The column that a folder named `column=value` gives to all rows below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Name of the column.
    pub name: String,
    /// Its value as text; `None` is null.
    pub value: Option<String>,
}

impl InputIndex {
    /// Rows that are in no window, because they all come after the last one that the job takes.
    pub(crate) fn rows_behind(&self) -> u64 {
        let last = self.windows.last();
        let end = last.map_or(0, |span| span.first_row.0 + span.rows);
        self.rows.saturating_sub(end)
    }

    /// Leaves out the windows whose rows all come after the last one that the job takes; the first one stays.
    pub(super) fn limit(&mut self, input: &InputSpec) {
        if let Some(limit) = input.limit {
            let end = input.skip.saturating_add(limit);
            self.windows
                .retain(|span| span.id.0 == 0 || span.first_row.0 < end);
        }
    }

    /// Whether the rows themselves have a column.
    pub(super) fn has_own_columns(&self) -> bool {
        let is_own = |column: &InputColumn| {
            let mut partitions = self.files.iter().flat_map(|file| &file.partition);
            partitions.all(|one| one.name != column.name)
        };
        self.columns.iter().any(is_own)
    }

    /// Whether a file has results of an earlier job.
    pub(super) fn is_result_file(&self, file: u32) -> bool {
        let file = self.files.get(file as usize);
        file.is_some_and(|file| file.earlier.is_some())
    }

    /// Whether a column is a result of an earlier job.
    pub(crate) fn is_result(&self, column: &str) -> bool {
        let mut results = self.earlier.iter().flat_map(|job| &job.results);
        results.any(|result| result == column)
    }

    /// The files that a window's rows are in.
    pub(super) fn files_of(&self, span: &WindowSpan) -> impl Iterator<Item = &InputFile> {
        let (first, end) = (span.first_row.0, span.first_row.0 + span.rows);
        let mut before = 0;
        self.files.iter().filter(move |file| {
            let start = before;
            before += file.rows;
            start < end && first < before
        })
    }
}

/// A run of consecutive rows that is sorted, batched and committed as one part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSpan {
    /// Number of the window.
    pub id: WindowId,
    /// First row.
    pub first_row: RowId,
    /// Number of rows.
    pub rows: u64,
    /// Index in [`InputIndex::files`] of the file that the first row is in.
    pub file: u32,
    /// JSONL: byte offset of the first row in the unpacked file. Parquet: 0.
    pub offset: u64,
    /// JSONL: number of the first row's line, from 1. Parquet: 0.
    pub line: u64,
    /// Parquet: row group of the first row.
    pub row_group: u32,
    /// Parquet: the first row's position in its row group.
    pub row_in_group: u64,
}

/// One input column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputColumn {
    /// Name.
    pub name: String,
    /// Type.
    pub kind: ColumnKind,
    /// Where the column holds texts beside other values: the first row whose value is a text and those before are not,
    /// or the other way round. A `job.json` of an earlier version does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mixed_at: Option<RowId>,
}

/// Type that the rows of a column share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColumnKind {
    /// true and false.
    Bool,
    /// Whole numbers that fit 64 bits.
    Int64,
    /// Numbers, some of them not whole, that float64 holds.
    Float64,
    /// Text; also a column that holds nothing but nulls.
    String,
    /// Mixed or nested JSON: carried into Parquet as its JSON text.
    Json,
    /// A Parquet column, with its Arrow type in words; its schema is read from the files.
    Arrow(String),
}

/// One window as read.
#[derive(Debug)]
pub struct InputWindow {
    /// Number of the window.
    pub id: WindowId,
    /// Its rows in input order, every one of them: broken ones too.
    pub rows: Vec<InputRow>,
    /// The rows' columns, aligned with `rows`.
    pub carried: Carried,
}

/// The expected answer of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The text; of a list the first.
    pub text: Box<str>,
    /// What else a list holds.
    list: Option<Box<List>>,
}

/// A list of answers behind the first one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct List {
    others: Vec<String>,
    is_ranked: bool,
}

impl Reference {
    /// A text alone.
    pub fn new(text: String) -> Self {
        Self {
            text: text.into(),
            list: None,
        }
    }

    /// A text and what a list holds after it, a null or any other value left out; `is_ranked` where the list is one of answers
    /// with scores, of which the first is the best.
    pub fn first_of(text: String, others: Vec<String>, is_ranked: bool) -> Self {
        Self {
            list: Some(Box::new(List { others, is_ranked })),
            ..Self::new(text)
        }
    }

    /// What a list holds after its first text.
    pub fn others(&self) -> &[String] {
        self.list.as_ref().map_or(&[], |list| &list.others)
    }

    /// The texts that are right answers: all of a list of texts, the best of answers with scores.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let list = self.list.as_ref().filter(|list| !list.is_ranked);
        let others = list.map_or(&[][..], |list| list.others.as_slice());
        std::iter::once(&*self.text).chain(others.iter().map(String::as_str))
    }
}

impl Deref for Reference {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

/// One input row: a prompt, or the reason why there is none.
#[derive(Debug)]
pub struct InputRow {
    /// Number in the whole input.
    pub row: RowId,
    /// Its place in the input.
    pub place: Place,
    /// Identifier as written out. The row number where the input has none.
    pub id: String,
    /// Expected answer.
    pub reference: Option<Reference>,
    /// The group that the metrics count it in.
    pub group: Option<Box<str>>,
    /// False for a broken line, which is not a record: it has no line in the results.
    pub is_record: bool,
    /// Why the job leaves the row out; `outcome` says no more then.
    pub left_out: Option<LeftOut>,
    /// The prompt, an empty one after [`release`](Self::release), or why the row is bad.
    pub outcome: Result<HeldPrompt, BadRow>,
}

impl InputRow {
    /// Lets go of the texts of the prompt, once nothing needs them any more.
    pub fn release(&mut self) {
        if let Ok(prompt) = &mut self.outcome {
            *prompt = HeldPrompt::default();
        }
    }
}

/// A prompt that may be let go of: an empty one takes no memory but a pointer, and a window holds thousands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeldPrompt(Option<Box<Prompt>>);

static EMPTY: LazyLock<Prompt> = LazyLock::new(Prompt::default);

impl HeldPrompt {
    /// The prompt itself.
    pub fn into_inner(self) -> Prompt {
        self.0.map_or_else(Prompt::default, |prompt| *prompt)
    }
}

impl From<Prompt> for HeldPrompt {
    fn from(prompt: Prompt) -> Self {
        Self(Some(Box::new(prompt)))
    }
}

impl Deref for HeldPrompt {
    type Target = Prompt;

    fn deref(&self) -> &Prompt {
        self.0.as_deref().unwrap_or(&EMPTY)
    }
}

impl DerefMut for HeldPrompt {
    fn deref_mut(&mut self) -> &mut Prompt {
        self.0.get_or_insert_default()
    }
}

/// The place of a row in the input, for messages and `failed/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A line, counted from 1, of a file.
    Line {
        /// Index in [`InputIndex::files`].
        file: u32,
        /// Line, from 1, blank lines counted.
        line: u64,
    },
    /// A row of a row group, both counted from 0.
    RowGroup {
        /// Index in [`InputIndex::files`].
        file: u32,
        /// Row group.
        row_group: u32,
        /// Row in the group.
        row: u64,
    },
}

/// A row's columns as they must appear in the results.
#[derive(Debug)]
pub enum Carried {
    /// JSON lines: the raw line of every row.
    Json(JsonRows),
    /// Parquet: one batch with all columns, one record a row, in the schema that all files share. Text and bytes
    /// are views, so that rows of one value share it; dictionaries are their values.
    Arrow(RecordBatch),
}

/// What a row asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    /// Prompt text, after the template.
    pub text: String,
    /// Text before the mask, which the answer continues: the row's, else the job's.
    pub prefix: Option<String>,
    /// Settings of this row alone, by key of `[generation]`; nulls are dropped.
    pub overrides: serde_json::Map<String, serde_json::Value>,
    /// Whether the row, a request, has keys that say nothing of the answer.
    pub has_passed_over: bool,
    /// Texts that the task reads behind the prompt, such as the targets to score or the choices; none of them is empty.
    pub following: Vec<String>,
    /// Which of them is right; `None` where the row does not say.
    pub label: Option<Label>,
    /// What `prompt.few_shot.by` compares; `None` where it compares nothing.
    pub group: Option<String>,
    /// What goes before the first example, where there is one.
    pub intro: Option<String>,
    /// The template filled with each of them, where the task reads that; `text` is the first.
    pub filled: Vec<String>,
    /// The conversation that `text` was made of, where it was made of one and of nothing else.
    pub turns: Vec<Turn>,
}

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// What a row says of the right choice, unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Label {
    /// A number in its own digits.
    Number(String),
    /// A text.
    Text(String),
}
