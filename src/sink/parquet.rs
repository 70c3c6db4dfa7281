//! Lines of a window to one Parquet file.
//!
//! Invariant: the same lines give the same bytes, and every file of a job has the same schema, whatever
//! types the input's files hold beside it.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;

use ::parquet::arrow::arrow_writer::ArrowWriterOptions;
use ::parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use ::parquet::basic::{Compression, ZstdLevel};
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::WriterProperties;
use arrow_array::builder::{Float32Builder, Int32Builder, ListBuilder, StringBuilder};
use arrow_array::{
    ArrayRef, BooleanArray, Float32Array, Int32Array, Int64Array, ListArray, RecordBatch,
    StringArray,
};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::ArrowError;
use arrow_schema::{Field, Schema, SchemaRef};

use crate::input::{Carried, InputWindow, is_first_rule};
use crate::job::OutputFormat;
use crate::outcome::{Cell, Outcomes, Sample};

use super::annotations::annotate;
use super::carried::{Records, arrow_column, json_column, json_type, output_type};
use super::columns::{Column, KEYS, Kind, RowValue, SampleValue, Value};
use super::layout::{CarriedColumn, Layout};
use super::lines::{Line, Shown, ended_rows, rendered_prefix, rendered_prompt};
use super::sizes::value_bytes;
use super::{ResultSink, SinkError};

/// Lines handed to the writer at once, at most; a constant, because page borders depend on it.
const LINES_AT_ONCE: usize = 256;

/// Bytes of carried values handed to the writer at once, at most, unless one line has more. Rows may share their
/// texts; the writer's pages do not.
const BYTES_AT_ONCE: usize = 16 << 20;

/// Bytes of a row group at most, as they are written: a window of texts that share their bytes may be far more
/// than it takes in memory.
const ROW_GROUP_BYTES: usize = 32 << 20;

/// Balance of size and speed; the writer's own default packs a fifth worse on Chinese text.
const ZSTD_LEVEL: i32 = 3;

/// Writes parts as Parquet.
#[derive(Debug)]
pub(super) struct ParquetSink {
    layout: Layout,
    schema: SchemaRef,
    options: ArrowWriterOptions,
    /// Whether the lines of a window are no more than what it holds in memory.
    is_bounded: bool,
}

impl ParquetSink {
    /// Fixes the schema of all parts and checks that it can be written.
    pub(super) fn new(layout: Layout, input: Option<&Schema>) -> Result<Self, SinkError> {
        let field_of = |column: &Column| column.field(layout.nested);
        let mut fields: Vec<Field> = KEYS.iter().map(field_of).collect();
        // The fields that say how each column is annotated.
        let mut marked = fields.clone();
        // JSON lines are never more than their window, but the prompts made of them may be; a job of the first
        // rule keeps its bytes.
        let is_bounded = input.is_none_or(is_first_rule) && !layout.prompts;
        let properties = properties(is_bounded)?;
        for column in &layout.carried {
            let source = input.map(|schema| schema.field_with_name(&column.source));
            let source = source.transpose()?;
            let field = carried_field(column, source);
            let mark = source.unwrap_or(&field).clone();
            check(&field, &mark, column, &properties)?;
            fields.push(field);
            marked.push(mark);
        }
        fields.extend(layout.results.iter().copied().map(field_of));
        marked.extend_from_slice(&fields[marked.len()..]);
        let schema = Schema::new(fields);
        Ok(Self {
            options: options(&schema, &marked, &properties)?,
            schema: Arc::new(schema),
            layout,
            is_bounded,
        })
    }

    /// As many of the lines as are handed to the writer at once, from the first on.
    fn split<'a, 'l>(
        &self,
        window: &InputWindow,
        lines: &'a [Line<'l>],
    ) -> Result<&'a [Line<'l>], SinkError> {
        let most = lines.len().min(LINES_AT_ONCE);
        if self.is_bounded {
            return Ok(&lines[..most]);
        }
        let columns = match &window.carried {
            Carried::Arrow(batch) => {
                let carried = self.layout.carried.iter();
                let columns = carried
                    .map(|column| Ok(batch.column(batch.schema_ref().index_of(&column.source)?)));
                columns.collect::<Result<Vec<_>, ArrowError>>()?
            }
            Carried::Json(_) => Vec::new(),
        };
        let mut bytes = 0;
        let fitting = lines[..most].iter().take_while(|line| {
            let at = line.position;
            bytes += columns
                .iter()
                .map(|column| value_bytes(column, at, at + 1))
                .sum::<usize>();
            if self.layout.prompts {
                bytes += rendered_bytes(line);
            }
            bytes <= BYTES_AT_ONCE
        });
        Ok(&lines[..fitting.count().max(1)])
    }

    fn batch(&self, window: &InputWindow, lines: &[Line<'_>]) -> Result<RecordBatch, SinkError> {
        let array_of = |column: &Column| array(column, lines, self.layout.nested);
        let mut columns: Vec<ArrayRef> = KEYS.iter().map(array_of).collect();
        columns.extend(self.carried(&window.carried, lines)?);
        columns.extend(self.layout.results.iter().copied().map(array_of));
        let fields = self.schema.fields().iter().zip(&columns);
        let fields = fields.map(|(field, array)| {
            Field::new(field.name(), array.data_type().clone(), field.is_nullable())
        });
        let held = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Ok(RecordBatch::try_new(held, columns)?)
    }

    fn carried(&self, input: &Carried, lines: &[Line<'_>]) -> Result<Vec<ArrayRef>, SinkError> {
        let columns = self.layout.carried.iter();
        match input {
            Carried::Json(_) if self.layout.carried.is_empty() => Ok(Vec::new()),
            Carried::Json(rows) => {
                let records = Records::read(rows, lines);
                columns
                    .map(|column| json_column(column, &records, lines))
                    .collect()
            }
            Carried::Arrow(batch) => columns
                .map(|column| {
                    let index = batch.schema_ref().index_of(&column.source)?;
                    Ok(arrow_column(batch.column(index), lines)?)
                })
                .collect(),
        }
    }
}

impl ResultSink for ParquetSink {
    fn extension(&self) -> &'static str {
        OutputFormat::Parquet.extension()
    }

    fn write_part(
        &self,
        window: &InputWindow,
        outcomes: &dyn Outcomes,
        out: &mut (dyn Write + Send),
    ) -> Result<(), SinkError> {
        let schema = Arc::clone(&self.schema);
        let mut writer = ArrowWriter::try_new_with_options(out, schema, self.options.clone())?;
        let nested = self.layout.nested;
        let mut rows = ended_rows(window, outcomes);
        // Rows whose lines are not all written, their lines, and how many of these are written.
        let (mut held, mut lines, mut written) = (VecDeque::new(), 0, 0);
        loop {
            // As many lines as may be handed over at once, or all that are left.
            while lines - written < LINES_AT_ONCE {
                let Some(row) = rows.next().transpose()? else {
                    break;
                };
                lines += row.lines(nested)?.count();
                held.push_back(row);
            }
            let mut all = Vec::with_capacity(lines);
            for row in &held {
                all.extend(row.lines(nested)?);
            }
            let left = &all[written..];
            if left.is_empty() {
                break;
            }
            let chunk = self.split(window, left)?;
            writer.write(&self.batch(window, chunk)?)?;
            written += chunk.len();
            while let Some(row) = held.front() {
                let of_row = row.lines(nested)?.count();
                if of_row > written {
                    break;
                }
                (lines, written) = (lines - of_row, written - of_row);
                held.pop_front();
            }
        }
        writer.close()?;
        Ok(())
    }
}

fn properties(is_bounded: bool) -> Result<WriterProperties, ParquetError> {
    let level = ZstdLevel::try_new(ZSTD_LEVEL)?;
    Ok(WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        // Another version of the program or of the library must not change the bytes.
        .set_created_by("glm-batch".to_owned())
        .set_max_row_group_bytes((!is_bounded).then_some(ROW_GROUP_BYTES))
        .build())
}

/// How a schema is written, with the annotations of the marked fields, one a column.
fn options(
    schema: &Schema,
    marked: &[Field],
    properties: &WriterProperties,
) -> Result<ArrowWriterOptions, ParquetError> {
    let plain = ArrowSchemaConverter::new().convert(schema)?;
    Ok(ArrowWriterOptions::new()
        .with_properties(properties.clone())
        .with_parquet_schema(annotate(&plain, marked)?))
}

fn carried_field(column: &CarriedColumn, source: Option<&Field>) -> Field {
    let kind = match source {
        Some(field) => output_type(field.data_type()),
        None => json_type(&column.kind),
    };
    Field::new(&column.name, kind, true)
}

/// Tries a column alone, so that the message can name it.
fn check(
    field: &Field,
    mark: &Field,
    column: &CarriedColumn,
    properties: &WriterProperties,
) -> Result<(), SinkError> {
    let schema = Arc::new(Schema::new(vec![field.clone()]));
    options(&schema, std::slice::from_ref(mark), properties)
        .and_then(|options| ArrowWriter::try_new_with_options(Vec::new(), schema, options))
        .and_then(ArrowWriter::close)
        .map(drop)
        .map_err(|error| SinkError::Unsupported {
            column: column.source.clone(),
            kind: field.data_type().to_string(),
            reason: error.to_string(),
        })
}

/// Bytes of the prompt and the prefix that a line shows.
fn rendered_bytes(line: &Line<'_>) -> usize {
    let texts = [rendered_prompt(line), rendered_prefix(line)];
    texts.iter().flatten().map(|text| text.len()).sum()
}

/// One of our own columns of the given lines.
fn array(column: &Column, lines: &[Line<'_>], nested: bool) -> ArrayRef {
    match column.value {
        Value::Row(value) => row_array(value, lines),
        Value::RowCell(place, kind) => {
            let cells = lines.iter().map(|line| line.cell(place));
            cell_array(kind, &cells.collect::<Vec<_>>())
        }
        Value::Sample(value) => {
            let shown: Vec<_> = lines.iter().map(Line::answers).collect();
            per_sample(&shown, nested, |samples| sample_array(value, samples))
        }
        Value::SampleCell(place, kind) => {
            let shown: Vec<_> = lines.iter().map(Line::measured).collect();
            per_sample(&shown, nested, |samples| {
                let cells = samples
                    .iter()
                    .map(|cells| cells.and_then(|cells| cells.get(place)));
                cell_array(kind, &cells.collect::<Vec<_>>())
            })
        }
    }
}

/// A value a line, or a list of them where results are nested; null where the row failed.
fn per_sample<T>(
    shown: &[Shown<'_, T>],
    nested: bool,
    array: impl Fn(&[Option<&T>]) -> ArrayRef,
) -> ArrayRef {
    if nested {
        return nested_array(shown, array);
    }
    let samples = shown
        .iter()
        .map(|one| one.as_slice().and_then(<[_]>::first));
    array(&samples.collect::<Vec<_>>())
}

fn row_array(value: RowValue, lines: &[Line<'_>]) -> ArrayRef {
    let each = lines.iter();
    match value {
        RowValue::Int64(of) => Arc::new(
            each.map(|line| of(line).map(|number| number as i64))
                .collect::<Int64Array>(),
        ),
        RowValue::Int32(of) => Arc::new(
            each.map(|line| of(line).map(|number| number as i32))
                .collect::<Int32Array>(),
        ),
        RowValue::Text(of) => Arc::new(each.map(of).collect::<StringArray>()),
    }
}

/// A list a line, with the values of its samples; null where the row failed.
fn nested_array<T>(shown: &[Shown<'_, T>], array: impl Fn(&[Option<&T>]) -> ArrayRef) -> ArrayRef {
    let samples: Vec<_> = shown
        .iter()
        .flat_map(|one| one.as_slice().unwrap_or_default())
        .map(Some)
        .collect();
    let values = array(&samples);
    let lengths = shown.iter().map(|one| one.as_slice().map_or(0, <[_]>::len));
    let offsets = OffsetBuffer::from_lengths(lengths);
    let nulls: NullBuffer = shown.iter().map(|one| one.as_slice().is_some()).collect();
    let item = Arc::new(Field::new_list_field(values.data_type().clone(), true));
    Arc::new(ListArray::new(item, offsets, values, Some(nulls)))
}

/// One measured value a line or a sample; null where there is none.
fn cell_array(kind: Kind, cells: &[Option<&Cell>]) -> ArrayRef {
    let each = cells.iter();
    match kind {
        Kind::Bool => Arc::new(each.map(|cell| as_bool(*cell)).collect::<BooleanArray>()),
        Kind::Int32 => Arc::new(each.map(|cell| as_int(*cell)).collect::<Int32Array>()),
        Kind::Float32 => Arc::new(each.map(|cell| as_float(*cell)).collect::<Float32Array>()),
        Kind::Text => Arc::new(each.map(|cell| as_text(*cell)).collect::<StringArray>()),
        Kind::Float32List => {
            let mut lists = ListBuilder::new(Float32Builder::new());
            for cell in each {
                let items =
                    as_list(*cell).map(|items| items.iter().map(|cell| as_float(Some(cell))));
                lists.append_option(items);
            }
            Arc::new(lists.finish())
        }
        Kind::TextList => {
            let mut lists = ListBuilder::new(StringBuilder::new());
            for cell in each {
                let items =
                    as_list(*cell).map(|items| items.iter().map(|cell| as_text(Some(cell))));
                lists.append_option(items);
            }
            Arc::new(lists.finish())
        }
    }
}

fn as_bool(cell: Option<&Cell>) -> Option<bool> {
    match cell? {
        Cell::Bool(value) => Some(*value),
        _ => None,
    }
}

fn as_int(cell: Option<&Cell>) -> Option<i32> {
    match cell? {
        Cell::Int(value) => Some(*value),
        _ => None,
    }
}

fn as_float(cell: Option<&Cell>) -> Option<f32> {
    match cell? {
        Cell::Float(value) => Some(*value),
        _ => None,
    }
}

fn as_text(cell: Option<&Cell>) -> Option<&str> {
    match cell? {
        Cell::Text(text) => Some(text),
        _ => None,
    }
}

fn as_list(cell: Option<&Cell>) -> Option<&[Cell]> {
    match cell? {
        Cell::List(items) => Some(items),
        _ => None,
    }
}

/// One value a sample; null where there is none.
fn sample_array(value: SampleValue, samples: &[Option<&Sample>]) -> ArrayRef {
    let each = samples.iter();
    match value {
        SampleValue::Int32(of) => Arc::new(
            each.map(|sample| sample.map(|sample| of(sample) as i32))
                .collect::<Int32Array>(),
        ),
        SampleValue::Float32(of) => Arc::new(
            each.map(|sample| sample.and_then(of))
                .collect::<Float32Array>(),
        ),
        SampleValue::Text(of) => {
            Arc::new(each.map(|sample| sample.map(of)).collect::<StringArray>())
        }
        SampleValue::Int32List(of) => {
            let mut lists = ListBuilder::new(Int32Builder::new());
            for sample in each {
                lists
                    .append_option(sample.map(|s| of(s).iter().map(|&number| Some(number as i32))));
            }
            Arc::new(lists.finish())
        }
        SampleValue::Float32List(of) => {
            let mut lists = ListBuilder::new(Float32Builder::new());
            for sample in each {
                lists.append_option(sample.map(|s| of(s).iter().copied().map(Some)));
            }
            Arc::new(lists.finish())
        }
        SampleValue::TextList(of) => {
            let mut lists = ListBuilder::new(StringBuilder::new());
            for sample in each {
                lists.append_option(sample.map(|s| of(s).into_iter().map(Some)));
            }
            Arc::new(lists.finish())
        }
    }
}
