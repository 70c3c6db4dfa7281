//! A batch to records: the columns that prompts are made of, by row.
//!
//! Text is read as it is, a UUID as its text; all else goes through JSON, one value at a time, so that a
//! template sees in a nested column what it would see in JSON lines.

use std::borrow::Cow;
use std::collections::HashMap;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch, StringViewArray};
use arrow_cast::cast;
use arrow_schema::ArrowError;
use arrow_schema::{DataType, Schema};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::json::json_lines;
use super::layout::is_text;
use super::logical::text_of;
use super::schema::is_first_rule;
use crate::input::cell::{Cell, Record};
use crate::input::digits::keep_digits;

/// The used columns of a batch.
pub(super) struct Cells {
    columns: HashMap<String, Column>,
}

enum Column {
    Text(StringViewArray),
    Json {
        /// The type in words.
        kind: String,
        /// Whether numbers are numbers, and not something that JSON writes as one.
        numeric: bool,
        /// Whether a number keeps all its digits, and is none in a template that could not print them.
        exact: bool,
        /// Whether texts are what the values are, and not a way to write them.
        textual: bool,
        /// This column alone.
        batch: RecordBatch,
    },
}

impl Cells {
    /// `schema` says of the batch's columns what Arrow's types do not.
    pub(super) fn new(
        batch: &RecordBatch,
        schema: &Schema,
        names: &[&str],
    ) -> Result<Self, ArrowError> {
        let mut columns = HashMap::new();
        for name in names {
            let Ok(place) = batch.schema_ref().index_of(name) else {
                continue;
            };
            columns.insert((*name).to_owned(), Column::new(batch, schema, place)?);
        }
        Ok(Self { columns })
    }

    /// Takes the columns that `other` has.
    pub(super) fn replace(&mut self, other: Self) {
        self.columns.extend(other.columns);
    }

    pub(super) fn row(&self, row: usize) -> CellsRow<'_> {
        CellsRow { cells: self, row }
    }
}

impl Column {
    fn new(batch: &RecordBatch, schema: &Schema, place: usize) -> Result<Self, ArrowError> {
        let array = batch.column(place);
        let kind = array.data_type();
        if is_text(kind) {
            let text = cast(array, &DataType::Utf8View)?;
            return Ok(Self::Text(text.as_string_view().clone()));
        }
        let known = schema.field_with_name(batch.schema_ref().field(place).name());
        let kind = known.map_or(kind, |field| field.data_type());
        let seen = if is_first_rule(schema) {
            kind
        } else {
            array.data_type()
        };
        Ok(Self::Json {
            kind: kind.to_string(),
            numeric: seen.is_numeric(),
            exact: !is_first_rule(schema),
            textual: text_of(batch.schema_ref().field(place)).is_some(),
            batch: batch.project(&[place])?,
        })
    }
}

/// A value with its JSON text.
fn json_value(one_column: &RecordBatch, row: usize) -> Result<(Value, Box<RawValue>), String> {
    let text = json_lines(&one_column.slice(row, 1));
    let record: HashMap<String, Box<RawValue>> =
        serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    let text = record.into_values().next().unwrap_or_default();
    let value = serde_json::from_str(text.get()).map_err(|error| error.to_string())?;
    Ok((value, text))
}

/// One row of the used columns.
pub(super) struct CellsRow<'a> {
    cells: &'a Cells,
    row: usize,
}

impl Record for CellsRow<'_> {
    fn cell(&self, name: &str) -> Cell<'_> {
        match self.cells.columns.get(name) {
            None => Cell::Absent,
            Some(Column::Text(texts)) if texts.is_null(self.row) => Cell::Null,
            Some(Column::Text(texts)) => Cell::Text(Cow::Borrowed(texts.value(self.row))),
            Some(Column::Json {
                kind,
                numeric,
                exact,
                textual,
                batch,
            }) => match json_value(batch, self.row) {
                Ok((Value::Null, _)) => Cell::Null,
                Ok((Value::String(text), _)) if *textual => Cell::Text(Cow::Owned(text)),
                Ok((Value::Number(_), text)) if *numeric && *exact => {
                    Cell::Number(Cow::Owned(text.get().to_owned()))
                }
                Ok((Value::Number(number), _)) if *numeric => {
                    Cell::Number(Cow::Owned(number.to_string()))
                }
                Ok((Value::String(digits), _)) if *numeric => Cell::Number(Cow::Owned(digits)),
                _ => Cell::Other(kind),
            },
        }
    }

    fn raw(&self, name: &str) -> Result<Option<Cow<'_, RawValue>>, String> {
        let text = match self.cells.columns.get(name) {
            None => return Ok(None),
            Some(Column::Text(texts)) if texts.is_null(self.row) => to_raw_value(&Value::Null),
            Some(Column::Text(texts)) => to_raw_value(texts.value(self.row)),
            Some(Column::Json { batch, .. }) => {
                let (_, text) = json_value(batch, self.row)?;
                return Ok(Some(Cow::Owned(text)));
            }
        };
        text.map(|text| Some(Cow::Owned(text)))
            .map_err(|error| error.to_string())
    }

    fn json(&self, name: &str) -> Result<Option<Value>, String> {
        match self.cells.columns.get(name) {
            None => Ok(None),
            Some(Column::Text(texts)) if texts.is_null(self.row) => Ok(Some(Value::Null)),
            Some(Column::Text(texts)) => Ok(Some(Value::from(texts.value(self.row)))),
            Some(Column::Json { batch, exact, .. }) => {
                let (mut value, text) = json_value(batch, self.row)
                    .map_err(|reason| format!("cannot be read as JSON ({reason})"))?;
                let odd = exact.then(|| keep_digits(&mut value, &text)).flatten();
                odd.map_or(Ok(Some(value)), |digits| {
                    Err(format!(
                        "holds {digits}, which float64 cannot hold exactly; write the column as text"
                    ))
                })
            }
        }
    }
}
