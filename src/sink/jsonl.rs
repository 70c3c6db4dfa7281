//! Lines of a window to JSON, fields in a fixed order.
//!
//! Values of JSON input are copied as they are, those of Parquet are written by [`JsonColumn`]; a field that a
//! row does not have is null.

use std::io::Write;

use arrow_json::writer::EncoderOptions;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::input::{Carried, InputWindow, JsonColumn, JsonFields, JsonRows, json_options};
use crate::job::OutputFormat;
use crate::outcome::{Cell, Outcomes};

use super::columns::{Column, KEYS, RowValue, SampleValue, Value};
use super::json_line::{end_line, field, write_key};
use super::layout::{CarriedColumn, Layout};
use super::lines::{Line, Shown, ended_rows};
use super::{ResultSink, SinkError};

/// Writes parts as JSON lines.
#[derive(Debug)]
pub(super) struct JsonlSink {
    layout: Layout,
}

impl JsonlSink {
    pub(super) fn new(layout: Layout) -> Self {
        Self { layout }
    }
}

/// Writes the field of one of our own columns.
fn write_column(column: &Column, line: &Line<'_>, out: &mut Vec<u8>) {
    let name = column.name;
    match column.value {
        Value::Row(RowValue::Int64(value)) => field(name, &value(line), out),
        Value::Row(RowValue::Int32(value)) => field(name, &value(line), out),
        Value::Row(RowValue::Text(value)) => field(name, &value(line), out),
        Value::Sample(SampleValue::Int32(value)) => per_sample(name, &line.answers(), value, out),
        Value::Sample(SampleValue::Float32(value)) => per_sample(name, &line.answers(), value, out),
        Value::Sample(SampleValue::Text(value)) => per_sample(name, &line.answers(), value, out),
        Value::Sample(SampleValue::Int32List(value)) => {
            per_sample(name, &line.answers(), value, out);
        }
        Value::Sample(SampleValue::Float32List(value)) => {
            per_sample(name, &line.answers(), value, out);
        }
        Value::Sample(SampleValue::TextList(value)) => {
            per_sample(name, &line.answers(), value, out);
        }
        Value::RowCell(place, _) => field(name, &line.cell(place).map(Plain), out),
        Value::SampleCell(place, _) => {
            fn at(cells: &[Cell], place: usize) -> Option<Plain<'_>> {
                cells.get(place).map(Plain)
            }
            per_sample(name, &line.measured(), |cells| at(cells, place), out);
        }
    }
}

/// A value as results have it: a number that JSON does not have is null, as in the columns of answers.
struct Plain<'a>(&'a Cell);

impl Serialize for Plain<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Cell::Float(value) => serializer.serialize_f32(*value),
            Cell::List(items) => serializer.collect_seq(items.iter().map(Plain)),
            other => other.serialize(serializer),
        }
    }
}

fn per_sample<'a, S, T: Serialize>(
    name: &str,
    shown: &Shown<'a, S>,
    value: impl Fn(&'a S) -> T,
    out: &mut Vec<u8>,
) {
    match *shown {
        Shown::One(sample) => field(name, &value(sample), out),
        Shown::All(samples) => field(name, &samples.iter().map(value).collect::<Vec<_>>(), out),
        Shown::None => field(name, &(), out),
    }
}

impl ResultSink for JsonlSink {
    fn extension(&self) -> &'static str {
        OutputFormat::Jsonl.extension()
    }

    fn write_part(
        &self,
        window: &InputWindow,
        outcomes: &dyn Outcomes,
        out: &mut (dyn Write + Send),
    ) -> Result<(), SinkError> {
        let options = match &window.carried {
            Carried::Arrow(batch) => json_options(batch.schema_ref()),
            Carried::Json(_) => EncoderOptions::default(),
        };
        let mut columns = Columns::new(&self.layout.carried, &window.carried, &options)?;
        let mut buffer = Vec::new();
        for row in ended_rows(window, outcomes) {
            for line in row?.lines(self.layout.nested)? {
                buffer.push(b'{');
                for column in KEYS {
                    write_column(column, &line, &mut buffer);
                }
                columns.write(line.position, &mut buffer);
                for column in &self.layout.results {
                    write_column(column, &line, &mut buffer);
                }
                end_line(&mut buffer, out)?;
            }
        }
        Ok(())
    }
}

/// The carried columns of one window.
enum Columns<'a> {
    Json {
        carried: &'a [CarriedColumn],
        lines: &'a JsonRows,
        /// The fields of the row that was written last, which may have several lines.
        last: Option<(usize, JsonFields<'a>)>,
    },
    Arrow(Vec<(&'a str, JsonColumn<'a>)>),
}

impl<'a> Columns<'a> {
    fn new(
        carried: &'a [CarriedColumn],
        window: &'a Carried,
        options: &'a EncoderOptions,
    ) -> Result<Self, SinkError> {
        let batch = match window {
            Carried::Json(lines) => {
                return Ok(Self::Json {
                    carried,
                    lines,
                    last: None,
                });
            }
            Carried::Arrow(batch) => batch,
        };
        let columns = carried.iter().map(|column| {
            let index = batch.schema_ref().index_of(&column.source)?;
            let field = &batch.schema_ref().fields()[index];
            let values = JsonColumn::new(field, batch.column(index), options);
            Ok((column.name.as_str(), values))
        });
        Ok(Self::Arrow(columns.collect::<Result<_, SinkError>>()?))
    }

    fn write(&mut self, position: usize, out: &mut Vec<u8>) {
        match self {
            Self::Json { carried: [], .. } => {}
            Self::Json {
                carried,
                lines,
                last,
            } => {
                let known = last.take().filter(|(of, _)| *of == position);
                let (_, fields) =
                    last.insert(known.unwrap_or_else(|| (position, lines.fields(position))));
                for column in *carried {
                    write_key(&column.name, out);
                    write_raw(fields.get(&column.source), out);
                }
            }
            Self::Arrow(columns) => {
                for (name, column) in columns {
                    write_key(name, out);
                    column.write(position, out);
                }
            }
        }
    }
}

/// Writes a value as the input has it. Outside strings a carriage return is only space in JSON, but many readers
/// take it for a line end.
fn write_raw(value: Option<&RawValue>, out: &mut Vec<u8>) {
    let text = value.map_or("null", RawValue::get);
    out.extend(text.bytes().map(|byte| {
        if matches!(byte, b'\r' | b'\n') {
            b' '
        } else {
            byte
        }
    }));
}
