//! Names and types of the results' columns, for the readers of the parts.
//!
//! A reader of JSON lines guesses types from the first rows, and a column may be null in all of them.

use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, Fields, Schema, TimeUnit};

use crate::input::{ColumnKind, InputIndex, list_item};
use crate::job::OutputFormat;

use super::SinkError;
use super::carried::{json_type, output_type};
use super::columns::{Column, Form, KEYS};
use super::layout::{CarriedColumn, Layout};

/// One column of the results.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ResultColumn {
    /// Its name.
    pub name: String,
    /// The type of its values in the parts; `None` in JSON lines, where a column has values of several kinds.
    pub kind: Option<DataType>,
}

/// Names and types of the columns that the results of a job have, in their order.
///
/// # Errors
///
/// As [`new_sink`](super::new_sink).
pub(crate) fn result_types(
    form: &Form<'_>,
    index: &InputIndex,
    id_column: Option<&str>,
    arrow_schema: Option<&Schema>,
) -> Result<Vec<ResultColumn>, SinkError> {
    let layout = Layout::new(form, index, id_column)?;
    let column = |name: &str, kind| ResultColumn {
        name: name.to_owned(),
        kind,
    };
    let of_table = |ours: &Column| {
        let kind = ours.field(layout.nested).data_type().clone();
        column(ours.name, Some(kind))
    };
    let mut columns: Vec<ResultColumn> = KEYS.iter().map(of_table).collect();
    for carried in &layout.carried {
        let source = arrow_schema.map(|schema| schema.field_with_name(&carried.source));
        let kind = carried_kind(carried, source.transpose()?, form.spec.output.format);
        columns.push(column(&carried.name, kind));
    }
    columns.extend(layout.results.iter().copied().map(of_table));
    Ok(columns)
}

fn carried_kind(
    column: &CarriedColumn,
    source: Option<&Field>,
    format: OutputFormat,
) -> Option<DataType> {
    match (format, source) {
        (OutputFormat::Parquet, Some(source)) => Some(output_type(source.data_type())),
        (OutputFormat::Parquet, None) => Some(json_type(&column.kind)),
        (OutputFormat::Jsonl, Some(source)) => written(source.data_type()),
        (OutputFormat::Jsonl, None) => match column.kind {
            ColumnKind::Json => None,
            ref kind => Some(json_type(kind)),
        },
    }
}

/// The type that values of an Arrow type have once they are written as JSON.
fn written(kind: &DataType) -> Option<DataType> {
    use DataType::{Date32, Date64, Float16, Float32, Float64, Timestamp};
    Some(match kind {
        DataType::Boolean | Float32 | Float64 | Date32 => kind.clone(),
        kind if kind.is_integer() => kind.clone(),
        Float16 => Float32,
        kind if kind.is_decimal() => Float64,
        Date64 => Timestamp(TimeUnit::Millisecond, None),
        Timestamp(unit, zone) => Timestamp(*unit, zone.as_ref().map(|_| "UTC".into())),
        DataType::Dictionary(_, value) => return written(value),
        DataType::RunEndEncoded(_, value) => return written(value.data_type()),
        DataType::Struct(fields) => {
            let fields = fields.iter().map(written_inside);
            DataType::Struct(fields.collect::<Option<Fields>>()?)
        }
        // An object made of a map has other keys in each row, so it has no type of its own.
        DataType::Map(..) | DataType::Union(..) => return None,
        other => match list_item(other) {
            Some(item) => DataType::List(written_inside(item)?),
            None => DataType::Utf8,
        },
    })
}

/// As [`written`], for a value inside another one: readers turn only outer texts into dates.
fn written_inside(field: &FieldRef) -> Option<FieldRef> {
    let kind = match written(field.data_type())? {
        kind if kind.is_temporal() => DataType::Utf8,
        kind => kind,
    };
    Some(Arc::new(Field::new(field.name(), kind, true)))
}
