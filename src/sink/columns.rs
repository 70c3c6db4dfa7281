//! The one table of result columns: the name of each, when it is written, its type and its values.
//!
//! JSON lines, Parquet, the types that readers are told, `show` and the list in `docs/RESULTS.md` all walk this
//! table. A new column is one more entry here and one more line in the document. A column with a new type of value
//! is one more variant of [`RowValue`] or [`SampleValue`]; then the compiler names each place that must write it.
//!
//! ```text
//! row  id  | the input's columns |  sample  status  error  completion  ...
//! KEYS     | Layout::carried     |  RESULTS, those that the job asks for
//! ```

use std::borrow::Cow;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};

use crate::job::{GenerationSpec, OutputSpec, SampleLayout};
use crate::outcome::Sample;

use super::lines::{Line, logprob, prompt_tokens, rendered_prefix, rendered_prompt, sample_number};

/// The columns before those of the input.
pub(super) static KEYS: &[Column] = &[
    of_row("row", RowValue::Int64(|line| Some(line.row.row.0))).in_heading(),
    of_row("id", RowValue::Text(|line| Some((&line.row.id).into()))).in_heading(),
];

/// The columns after those of the input.
static RESULTS: &[Column] = &[
    of_row("sample", RowValue::Int32(sample_number))
        .only(When::Flat)
        .in_heading(),
    of_row("status", RowValue::Text(|line| Some(line.status().into()))).in_heading(),
    of_row("error", RowValue::Text(|line| line.error().map(Cow::Owned))),
    of_samples("completion", SampleValue::Text(|sample| &sample.text)),
    of_samples(
        "finish_reason",
        SampleValue::Text(|sample| sample.finish_reason.as_str()),
    ),
    of_row("prompt_tokens", RowValue::Int32(prompt_tokens)),
    of_samples(
        "completion_tokens",
        SampleValue::Int32(|sample| sample.token_ids.len() as u32),
    ),
    of_samples("logprob", SampleValue::Float32(logprob)).only(When::Logprobs),
    of_samples(
        "token_logprobs",
        SampleValue::Float32List(|sample| &sample.token_logprobs),
    )
    .only(When::Logprobs),
    of_samples(
        "token_ids",
        SampleValue::Int32List(|sample| &sample.token_ids),
    )
    .only(When::TokenIds),
    of_row("rendered_prompt", RowValue::Text(rendered_prompt)).only(When::Prompt),
    of_row("rendered_prefix", RowValue::Text(rendered_prefix)).only(When::Prompt),
];

/// One column of ours.
#[derive(Debug)]
pub(super) struct Column {
    /// Its name, the same in every format.
    pub(super) name: &'static str,
    /// The value of a line.
    pub(super) value: Value,
    when: When,
    /// Whether `show` puts it into the heading of a row.
    is_in_heading: bool,
}

/// Which jobs have a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// All.
    Always,
    /// Those that write a line a sample.
    Flat,
    /// Those with `generation.logprobs`.
    Logprobs,
    /// Those with `output.token_ids`.
    TokenIds,
    /// Those with `output.prompt`.
    Prompt,
}

/// What a column takes from a line.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value {
    /// One value a row, the same on all its lines.
    Row(RowValue),
    /// One value a sample: nested results hold a list of them. Null where the row failed.
    Sample(SampleValue),
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

/// A value of a sample, by its type in Parquet.
#[derive(Clone, Copy, Debug)]
pub(super) enum SampleValue {
    /// int32.
    Int32(fn(&Sample) -> u32),
    /// float32.
    Float32(fn(&Sample) -> f32),
    /// string.
    Text(fn(&Sample) -> &str),
    /// list of int32.
    Int32List(fn(&Sample) -> &[u32]),
    /// list of float32.
    Float32List(fn(&Sample) -> &[f32]),
}

/// The columns after those of the input that a job asks for, in their order.
pub(super) fn results(output: &OutputSpec, generation: &GenerationSpec) -> Vec<&'static Column> {
    let is_asked_for = |column: &&Column| column.when.is_asked_for(output, generation);
    RESULTS.iter().filter(is_asked_for).collect()
}

/// Names of the columns that tell one row from another, as a heading shows them.
pub fn heading_columns() -> impl Iterator<Item = &'static str> {
    let all = KEYS.iter().chain(RESULTS);
    all.filter(|column| column.is_in_heading)
        .map(|column| column.name)
}

impl Column {
    const fn only(mut self, when: When) -> Self {
        self.when = when;
        self
    }

    const fn in_heading(mut self) -> Self {
        self.is_in_heading = true;
        self
    }

    /// The key of the job file that adds the column, where it does nothing else.
    pub(super) fn key(&self) -> Option<&'static str> {
        match self.when {
            When::TokenIds => Some("output.token_ids"),
            When::Prompt => Some("output.prompt"),
            When::Always | When::Flat | When::Logprobs => None,
        }
    }

    /// The column in the schema of Parquet, where every one may be null.
    pub(super) fn field(&self, nested: bool) -> Field {
        let kind = match self.value {
            Value::Row(value) => value.kind(),
            Value::Sample(value) if nested => list(value.kind()),
            Value::Sample(value) => value.kind(),
        };
        Field::new(self.name, kind, true)
    }
}

impl When {
    fn is_asked_for(self, output: &OutputSpec, generation: &GenerationSpec) -> bool {
        match self {
            Self::Always => true,
            Self::Flat => output.samples == SampleLayout::Flat,
            Self::Logprobs => generation.logprobs,
            Self::TokenIds => output.token_ids,
            Self::Prompt => output.prompt,
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
        }
    }
}

fn list(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(item, true)))
}

const fn of_row(name: &'static str, value: RowValue) -> Column {
    column(name, Value::Row(value))
}

const fn of_samples(name: &'static str, value: SampleValue) -> Column {
    column(name, Value::Sample(value))
}

const fn column(name: &'static str, value: Value) -> Column {
    Column {
        name,
        value,
        when: When::Always,
        is_in_heading: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the document says of a column.
    #[derive(Debug, PartialEq)]
    struct Said {
        name: String,
        kind: String,
        when: When,
    }

    const CONDITIONS: [(When, &str); 4] = [
        (When::Flat, "not with `nested`"),
        (When::Logprobs, "with `generation.logprobs`"),
        (When::TokenIds, "with `output.token_ids`"),
        (When::Prompt, "with `output.prompt`"),
    ];

    /// The section of the document on columns.
    fn section() -> &'static str {
        let text = include_str!("../../docs/RESULTS.md");
        let (_, rest) = text.split_once("\n## Columns\n").unwrap();
        rest.split("\n## ").next().unwrap()
    }

    fn documented() -> Vec<Said> {
        let rows = section().lines().filter(|line| line.starts_with("| `"));
        let said = rows.map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            let [name, kind, holds] = cells[..] else {
                panic!("{row}")
            };
            let when = CONDITIONS.iter().find(|(_, words)| holds.ends_with(words));
            Said {
                name: name.trim_matches('`').to_owned(),
                kind: kind.to_owned(),
                when: when.map_or(When::Always, |(when, _)| *when),
            }
        });
        said.collect()
    }

    fn in_words(kind: &DataType) -> String {
        match kind {
            DataType::Utf8 => "string".to_owned(),
            DataType::List(item) => format!("list of {}", in_words(item.data_type())),
            kind => kind.to_string().to_lowercase(),
        }
    }

    #[test]
    fn the_document_lists_the_columns_of_the_table() {
        let columns = KEYS.iter().chain(RESULTS);
        let said = columns.map(|column| Said {
            name: column.name.to_owned(),
            kind: in_words(column.field(false).data_type()),
            when: column.when,
        });
        assert_eq!(documented(), said.collect::<Vec<_>>());
    }

    #[test]
    fn the_document_names_the_columns_that_are_lists_in_nested_results() {
        let of_samples = RESULTS
            .iter()
            .filter(|column| matches!(column.value, Value::Sample(_)));
        let names: Vec<String> = of_samples
            .map(|column| format!("`{}`", column.name))
            .collect();
        let (last, first) = names.split_last().unwrap();
        let sentence = format!("{} and {last} are lists", first.join(", "));
        let section = section().replace('\n', " ");
        assert!(section.contains(&sentence), "{sentence}");
    }

    #[test]
    fn no_two_columns_have_one_name() {
        let mut names: Vec<_> = KEYS.iter().chain(RESULTS).map(|c| c.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KEYS.len() + RESULTS.len());
    }
}
