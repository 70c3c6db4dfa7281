//! What a result column is: its name, when it is written, its type and its values.
//!
//! This file lists the columns that all results have. Each task lists its own in its file in `tasks/`, and hands them
//! over in a [`Form`]. JSON lines, Parquet, the types that readers are told, `show` and the list in `docs/RESULTS.md` all walk
//! the same list. A column with a new type of value is one more variant of [`RowValue`], [`SampleValue`] or [`Kind`];
//! then the compiler names each place that must write it.
//!
//! ```text
//! row  id  | the input's columns |  sample  status  error | completion  ... | rendered_prompt  ...
//! KEYS     | Layout::carried     |  FIRST                 | the task's      | LAST
//! ```

use std::borrow::Cow;
use std::sync::Arc;

use arrow_schema::{DataType, Field};

use crate::job::JobSpec;
use crate::outcome::Sample;

use super::lines::{Line, prompt_tokens, rendered_prefix, rendered_prompt, sample_number};

/// The column of the row's identifier.
pub(super) const ID: &str = "id";

/// The columns before those of the input.
pub(super) static KEYS: &[Column] = &[
    of_row("row", RowValue::Int64(|line| Some(line.row.row.0))).in_heading(),
    of_row(ID, RowValue::Text(|line| Some((&line.row.id).into()))).in_heading(),
];

/// The columns between those of the input and those of the task.
static FIRST: &[Column] = &[
    of_row("sample", RowValue::Int32(sample_number))
        .only(When::FLAT)
        .in_heading(),
    of_row("status", RowValue::Text(|line| Some(line.status().into()))).in_heading(),
    of_row("error", RowValue::Text(|line| line.error().map(Cow::Owned))),
];

/// The columns after those of the task.
static LAST: &[Column] = &[
    of_row("rendered_prompt", RowValue::Text(rendered_prompt)).only(When::PROMPT),
    of_row("rendered_prefix", RowValue::Text(rendered_prefix)).only(When::PROMPT),
];

/// The form of a job's results, as its task has it.
#[derive(Clone, Copy, Debug)]
pub struct Form<'a> {
    /// The job.
    pub spec: &'a JobSpec,
    /// The columns of its task: all that it may have.
    pub columns: &'static [Column],
    /// Whether a row has one line with lists, instead of a line a sample.
    pub is_nested: bool,
}

/// One column of ours.
#[derive(Debug)]
pub struct Column {
    /// Its name, the same in every format.
    pub(super) name: &'static str,
    /// The value of a line.
    pub(super) value: Value,
    when: When,
    /// Whether `show` puts it into the heading of a row.
    is_in_heading: bool,
}

/// Which jobs have a column.
#[derive(Clone, Copy, Debug)]
pub struct When {
    /// As the document says it; empty for all jobs.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "a test compares it with the document")
    )]
    words: &'static str,
    /// The key of the job file that adds the column and does nothing else.
    key: Option<&'static str>,
    is_asked_for: fn(&Form<'_>) -> bool,
}

/// What a column takes from a line.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value {
    /// One value a row, the same on all its lines.
    Row(RowValue),
    /// One value an answer: nested results hold a list of them. Null where the row failed.
    Sample(SampleValue),
    /// The value at a place of [`Measured::row`](crate::outcome::Measured::row).
    RowCell(usize, Kind),
    /// The value at a place of a sample of [`Measured::samples`](crate::outcome::Measured::samples).
    SampleCell(usize, Kind),
}

/// A value of a row, by its type in Parquet; `None` is null.
#[derive(Clone, Copy, Debug)]
pub(super) enum RowValue {
    /// int64.
    Int64(fn(&Line<'_>) -> Option<u64>),
    /// int32.
    Int32(fn(&Line<'_>) -> Option<u32>),
    /// string.
    Text(for<'a> fn(&Line<'a>) -> Option<Cow<'a, str>>),
}

/// A value of an answer, by its type in Parquet.
#[derive(Clone, Copy, Debug)]
pub enum SampleValue {
    /// int32.
    Int32(fn(&Sample) -> u32),
    /// float32; `None` is null.
    Float32(fn(&Sample) -> Option<f32>),
    /// string.
    Text(fn(&Sample) -> &str),
    /// list of int32.
    Int32List(fn(&Sample) -> &[u32]),
    /// list of float32.
    Float32List(fn(&Sample) -> &[f32]),
    /// list of string.
    TextList(fn(&Sample) -> Vec<&str>),
}

/// The type of a [`Cell`](crate::outcome::Cell) in Parquet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// bool.
    Bool,
    /// int32.
    Int32,
    /// float32.
    Float32,
    /// string.
    Text,
    /// list of float32.
    Float32List,
    /// list of string.
    TextList,
}

impl Form<'_> {
    /// The columns after those of the input that the job asks for, in their order.
    pub(super) fn results(&self) -> Vec<&'static Column> {
        let all = FIRST.iter().chain(self.columns).chain(LAST);
        all.filter(|column| (column.when.is_asked_for)(self))
            .collect()
    }

    /// Names of all columns of ours.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        let keys = KEYS.iter().map(|column| column.name);
        keys.chain(self.results().into_iter().map(|column| column.name))
    }

    /// Names of the columns of ours that hold an entry for each sample where results are nested.
    pub(crate) fn sample_names(&self) -> impl Iterator<Item = &'static str> {
        let is_of_sample =
            |column: &&Column| matches!(column.value, Value::Sample(_) | Value::SampleCell(..));
        let results = self.results().into_iter();
        results.filter(is_of_sample).map(|column| column.name)
    }
}

/// Names of the columns that tell one row from another, as a heading shows them.
pub(crate) fn heading_columns() -> impl Iterator<Item = &'static str> {
    let all = KEYS.iter().chain(FIRST);
    all.filter(|column| column.is_in_heading)
        .map(|column| column.name)
}

impl Column {
    /// Tokens of the context; every task that reads one has it.
    pub const PROMPT_TOKENS: Self = of_row("prompt_tokens", RowValue::Int32(prompt_tokens));

    /// A value of each answer of a [`Completion`](crate::outcome::Completion).
    pub const fn of_answer(name: &'static str, value: SampleValue) -> Self {
        column(name, Value::Sample(value))
    }

    /// The value at a place of [`Measured::row`](crate::outcome::Measured::row).
    pub const fn of_row(name: &'static str, place: usize, kind: Kind) -> Self {
        column(name, Value::RowCell(place, kind))
    }

    /// The value at a place of each sample of [`Measured::samples`](crate::outcome::Measured::samples).
    pub const fn of_sample(name: &'static str, place: usize, kind: Kind) -> Self {
        column(name, Value::SampleCell(place, kind))
    }

    /// The column in some jobs alone.
    #[must_use]
    pub const fn only(mut self, when: When) -> Self {
        self.when = when;
        self
    }

    const fn in_heading(mut self) -> Self {
        self.is_in_heading = true;
        self
    }

    /// The key of the job file that adds the column, where it does nothing else.
    pub(super) fn key(&self) -> Option<&'static str> {
        self.when.key
    }

    /// The column in the schema of Parquet, where every one may be null.
    pub(super) fn field(&self, nested: bool) -> Field {
        let kind = match self.value {
            Value::Row(value) => value.kind(),
            Value::Sample(value) if nested => list(value.kind()),
            Value::Sample(value) => value.kind(),
            Value::SampleCell(_, kind) if nested => list(kind.of_values()),
            Value::RowCell(_, kind) | Value::SampleCell(_, kind) => kind.of_values(),
        };
        Field::new(self.name, kind, true)
    }
}

impl When {
    const ALWAYS: Self = Self {
        words: "",
        key: None,
        is_asked_for: |_| true,
    };
    const FLAT: Self = Self::asked("not with `nested`", |form| !form.is_nested);
    const PROMPT: Self = Self::added_by("output.prompt", |form| form.spec.output.prompt);

    /// Jobs that ask for it; `words` are what the document says of them, such as "with `generation.logprobs`".
    pub const fn asked(words: &'static str, is_asked_for: fn(&Form<'_>) -> bool) -> Self {
        Self {
            words,
            key: None,
            is_asked_for,
        }
    }

    /// Jobs with a key of the job file that adds columns and does nothing else.
    pub const fn added_by(key: &'static str, is_asked_for: fn(&Form<'_>) -> bool) -> Self {
        Self {
            words: "",
            key: Some(key),
            is_asked_for,
        }
    }
}

impl RowValue {
    fn kind(self) -> DataType {
        match self {
            Self::Int64(_) => DataType::Int64,
            Self::Int32(_) => DataType::Int32,
            Self::Text(_) => DataType::Utf8,
        }
    }
}

impl SampleValue {
    fn kind(self) -> DataType {
        match self {
            Self::Int32(_) => DataType::Int32,
            Self::Float32(_) => DataType::Float32,
            Self::Text(_) => DataType::Utf8,
            Self::Int32List(_) => list(DataType::Int32),
            Self::Float32List(_) => list(DataType::Float32),
            Self::TextList(_) => list(DataType::Utf8),
        }
    }
}

impl Kind {
    fn of_values(self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int32 => DataType::Int32,
            Self::Float32 => DataType::Float32,
            Self::Text => DataType::Utf8,
            Self::Float32List => list(DataType::Float32),
            Self::TextList => list(DataType::Utf8),
        }
    }
}

fn list(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(item, true)))
}

const fn of_row(name: &'static str, value: RowValue) -> Column {
    column(name, Value::Row(value))
}

const fn column(name: &'static str, value: Value) -> Column {
    Column {
        name,
        value,
        when: When::ALWAYS,
        is_in_heading: false,
    }
}

/// What `docs/RESULTS.md` has to say of a column: its name, its type, the jobs that have it, and whether it is a list
/// in nested results.
#[cfg(test)]
pub(crate) fn described(columns: &'static [Column]) -> Vec<(String, String, String, bool)> {
    let in_words = |column: &Column| {
        let when = match column.when.key {
            Some(key) => format!("with `{key}`"),
            None => column.when.words.to_owned(),
        };
        let is_list = matches!(column.value, Value::Sample(_) | Value::SampleCell(..));
        let kind = type_in_words(column.field(false).data_type());
        (column.name.to_owned(), kind, when, is_list)
    };
    columns.iter().map(in_words).collect()
}

/// The columns of all tasks: before those of the input, after them, and at the end.
#[cfg(test)]
pub(crate) fn common() -> [&'static [Column]; 3] {
    [KEYS, FIRST, LAST]
}

#[cfg(test)]
fn type_in_words(kind: &DataType) -> String {
    match kind {
        DataType::Utf8 => "string".to_owned(),
        DataType::Boolean => "bool".to_owned(),
        DataType::List(item) => format!("list of {}", type_in_words(item.data_type())),
        kind => kind.to_string().to_lowercase(),
    }
}
