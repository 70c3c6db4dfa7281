//! Carried input values to Arrow columns: their output types, and the values of the chosen rows.
//!
//! Types lose their metadata at every depth, since it belongs to the input's files; values never change.

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray, UInt64Array,
};
use arrow_schema::ArrowError;
use arrow_schema::{DataType, Field};
use serde_json::value::RawValue;

use crate::input::{ColumnKind, InputRow, JsonFields, JsonRows, with_children};

use super::SinkError;
use super::layout::CarriedColumn;
use super::lines::Line;

/// The fields of the rows that some lines are of.
pub(super) struct Records<'a> {
    fields: Vec<JsonFields<'a>>,
    /// By line, the place of its row's fields.
    of_lines: Vec<usize>,
}

impl<'a> Records<'a> {
    /// Reads the fields from the rows' own lines; lines of one row follow one another.
    pub(super) fn read(rows: &'a JsonRows, lines: &[Line<'_>]) -> Self {
        let (mut fields, mut of_lines) = (Vec::new(), Vec::with_capacity(lines.len()));
        let mut last = None;
        for line in lines {
            if last.replace(line.position) != Some(line.position) {
                fields.push(rows.fields(line.position));
            }
            of_lines.push(fields.len() - 1);
        }
        Self { fields, of_lines }
    }
}

/// Type of a carried JSON column in Parquet.
pub(super) fn json_type(kind: &ColumnKind) -> DataType {
    match kind {
        ColumnKind::Bool => DataType::Boolean,
        ColumnKind::Int64 => DataType::Int64,
        ColumnKind::Float64 => DataType::Float64,
        ColumnKind::String | ColumnKind::Json | ColumnKind::Arrow(_) => DataType::Utf8,
    }
}

/// One JSON column of the given lines.
pub(super) fn json_column(
    column: &CarriedColumn,
    records: &Records<'_>,
    lines: &[Line<'_>],
) -> Result<ArrayRef, SinkError> {
    let cells = Cells {
        column,
        records,
        lines,
    };
    Ok(match column.kind {
        ColumnKind::Bool => Arc::new(BooleanArray::from(
            cells.parse("true or false", |text| text.parse().ok())?,
        )),
        ColumnKind::Int64 => Arc::new(Int64Array::from(
            cells.parse("whole number", |text| text.parse().ok())?,
        )),
        ColumnKind::Float64 => Arc::new(Float64Array::from(
            cells.parse("number", |text| text.parse().ok())?,
        )),
        ColumnKind::String => {
            Arc::new(StringArray::from(cells.parse("text", |text| {
                serde_json::from_str::<String>(text).ok()
            })?))
        }
        ColumnKind::Json | ColumnKind::Arrow(_) => Arc::new(StringArray::from(
            cells.parse("value", |text| Some(text.to_owned()))?,
        )),
    })
}

struct Cells<'a> {
    column: &'a CarriedColumn,
    records: &'a Records<'a>,
    lines: &'a [Line<'a>],
}

impl Cells<'_> {
    fn parse<T>(
        &self,
        kind: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<Option<T>>, SinkError> {
        let cell = |(line, of_line): (&Line<'_>, &usize)| {
            let fields = &self.records.fields[*of_line];
            let text = fields.get(&self.column.source).map(RawValue::get);
            match text {
                None | Some("null") => Ok(None),
                Some(text) => parse(text)
                    .map(Some)
                    .ok_or_else(|| self.wrong_value(line.row, kind)),
            }
        };
        let lines = self.lines.iter().zip(&self.records.of_lines);
        lines.map(cell).collect()
    }

    fn wrong_value(&self, row: &InputRow, kind: &'static str) -> SinkError {
        SinkError::Value {
            row: row.row,
            column: self.column.source.clone(),
            kind,
        }
    }
}

/// Type of a carried Parquet column: its own without metadata. Parquet has one type for the three forms that text
/// has in memory, so a column of text becomes the form that text from JSON has. Text inside a list or a struct keeps
/// its form, because the bytes of earlier jobs have it so.
pub(super) fn output_type(from: &DataType) -> DataType {
    match from {
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        other => plain_type(other),
    }
}

/// The type without metadata at any depth.
fn plain_type(from: &DataType) -> DataType {
    if let DataType::Dictionary(key, value) = from {
        return DataType::Dictionary(key.clone(), Box::new(plain_type(value)));
    }
    with_children(from, |field| {
        let kind = plain_type(field.data_type());
        Arc::new(Field::new(field.name(), kind, field.is_nullable()))
    })
}

/// One Parquet column of the given lines, in the layout in which it is held: the writer takes views for text and
/// values for a dictionary, so that a text which many rows share is never copied for each of them.
pub(super) fn arrow_column(array: &dyn Array, lines: &[Line<'_>]) -> Result<ArrayRef, ArrowError> {
    let positions = UInt64Array::from_iter_values(lines.iter().map(|line| line.position as u64));
    arrow_select::take::take(array, &positions, None)
}
