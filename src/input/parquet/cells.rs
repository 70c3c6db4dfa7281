//! A batch to records: the columns that prompts are made of, by row.
//!
//! Text of any layout is read as it stands; all else goes through JSON, so that a template sees in a
//! nested column what it would see in JSON lines.

use std::borrow::Cow;
use std::collections::HashMap;

use arrow::array::{Array, LargeStringArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use serde_json::Value;

use super::json::json_lines;
use super::logical::text_of;
use super::schema::is_text;
use crate::input::build::{Cell, Record};

/// The used columns of a batch.
pub(super) struct Cells {
    columns: HashMap<String, Column>,
}

enum Column {
    Text(LargeStringArray),
    Json {
        kind: String,
        /// Whether numbers are numbers, and not something that JSON writes as one.
        numeric: bool,
        /// Whether texts are what the values are, and not a way to write them.
        textual: bool,
        values: Vec<Value>,
    },
    /// The column is nested too deeply.
    Unreadable(String),
}

impl Cells {
    pub(super) fn new(batch: &RecordBatch, names: &[&str]) -> Result<Self, ArrowError> {
        let mut columns = HashMap::new();
        for name in names {
            let Ok(place) = batch.schema_ref().index_of(name) else {
                continue;
            };
            columns.insert((*name).to_owned(), Column::new(batch, place)?);
        }
        Ok(Self { columns })
    }

    pub(super) fn row(&self, row: usize) -> CellsRow<'_> {
        CellsRow { cells: self, row }
    }
}

impl Column {
    fn new(batch: &RecordBatch, place: usize) -> Result<Self, ArrowError> {
        let array = batch.column(place);
        let kind = array.data_type();
        if is_text(kind) {
            let text = cast(array, &DataType::LargeUtf8)?;
            return Ok(Self::Text(LargeStringArray::from(text.to_data())));
        }
        let numeric = kind.is_numeric();
        let textual = text_of(batch.schema_ref().field(place)).is_some();
        let kind = kind.to_string();
        Ok(match json_values(&batch.project(&[place])?) {
            Ok(values) => Self::Json {
                kind,
                numeric,
                textual,
                values,
            },
            Err(reason) => Self::Unreadable(format!("{kind}: {reason}")),
        })
    }
}

fn json_values(one_column: &RecordBatch) -> Result<Vec<Value>, serde_json::Error> {
    json_lines(one_column)
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            let row: serde_json::Map<String, Value> = serde_json::from_slice(line)?;
            let value = row.into_iter().next().map(|(_, value)| value);
            Ok(value.unwrap_or_default())
        })
        .collect()
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
            Some(Column::Unreadable(reason)) => Cell::Other(reason),
            Some(Column::Json {
                kind,
                numeric,
                textual,
                values,
            }) => match &values[self.row] {
                Value::Null => Cell::Null,
                Value::String(text) if *textual => Cell::Text(Cow::Borrowed(text)),
                Value::Number(number) if *numeric => Cell::Number(Cow::Owned(number.to_string())),
                Value::String(digits) if *numeric => Cell::Number(Cow::Borrowed(digits)),
                _ => Cell::Other(kind),
            },
        }
    }

    fn json(&self, name: &str) -> Result<Option<Value>, String> {
        match self.cells.columns.get(name) {
            None => Ok(None),
            Some(Column::Text(texts)) if texts.is_null(self.row) => Ok(Some(Value::Null)),
            Some(Column::Text(texts)) => Ok(Some(Value::from(texts.value(self.row)))),
            Some(Column::Unreadable(reason)) => Err(format!("cannot be read as JSON ({reason})")),
            Some(Column::Json { values, .. }) => Ok(Some(values[self.row].clone())),
        }
    }
}
