//! Lines of a window to one Parquet file.
//!
//! Invariant: the same lines give the same bytes, and every file of a job has the same schema, whatever
//! types the input's files hold beside it.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use ::parquet::arrow::arrow_writer::ArrowWriterOptions;
use ::parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use ::parquet::basic::{Compression, ZstdLevel};
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::WriterProperties;
use arrow::array::{
    ArrayRef, Float32Array, Float32Builder, Int32Array, Int32Builder, Int64Array, ListArray,
    ListBuilder, RecordBatch, StringArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;

use crate::ids::RowId;
use crate::input::{Carried, InputWindow, is_first_rule};
use crate::job::OutputFormat;
use crate::outcome::{Outcome, Sample};

use super::annotations::annotate;
use super::carried::{arrow_column, json_column, json_type, output_type};
use super::columns::{CarriedColumn, Layout};
use super::lines::{Line, lines, logprob};
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
        let mut fields = vec![
            Field::new("row", DataType::Int64, true),
            Field::new("id", DataType::Utf8, true),
        ];
        // The fields that say how each column is annotated.
        let mut marked = fields.clone();
        // JSON lines are never more than their window; a job of the first rule keeps its bytes.
        let is_bounded = input.is_none_or(is_first_rule);
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
        let results = layout.result_names().into_iter();
        fields.extend(results.map(|name| result_field(name, &layout)));
        marked.extend_from_slice(&fields[marked.len()..]);
        let schema = Schema::new(fields);
        Ok(Self {
            options: options(&schema, &marked, &properties)?,
            schema: Arc::new(schema),
            layout,
            is_bounded,
        })
    }

    /// Splits off as many lines as are handed to the writer at once.
    fn split<'a, 'l>(
        &self,
        window: &InputWindow,
        lines: &'a [Line<'l>],
    ) -> Result<(&'a [Line<'l>], &'a [Line<'l>]), SinkError> {
        let most = lines.len().min(LINES_AT_ONCE);
        let Carried::Arrow(batch) = &window.carried else {
            return Ok(lines.split_at(most));
        };
        if self.is_bounded {
            return Ok(lines.split_at(most));
        }
        let carried = self.layout.carried.iter();
        let columns =
            carried.map(|column| Ok(batch.column(batch.schema_ref().index_of(&column.source)?)));
        let columns = columns.collect::<Result<Vec<_>, ArrowError>>()?;
        let mut bytes = 0;
        let fitting = lines[..most].iter().take_while(|line| {
            let at = line.position;
            bytes += columns
                .iter()
                .map(|column| value_bytes(column, at, at + 1))
                .sum::<usize>();
            bytes <= BYTES_AT_ONCE
        });
        Ok(lines.split_at(fitting.count().max(1)))
    }

    fn batch(&self, window: &InputWindow, lines: &[Line<'_>]) -> Result<RecordBatch, SinkError> {
        let rows = lines.iter().map(|line| line.row.row.0 as i64);
        let ids = lines.iter().map(|line| line.row.id.as_str());
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(rows)),
            Arc::new(StringArray::from_iter_values(ids)),
        ];
        for column in &self.layout.carried {
            columns.push(match &window.carried {
                Carried::Json { fields, .. } => json_column(column, fields, lines)?,
                Carried::Arrow(batch) => {
                    let index = batch.schema_ref().index_of(&column.source)?;
                    arrow_column(batch.column(index), lines)?
                }
            });
        }
        for name in self.layout.result_names() {
            columns.push(result_column(name, lines, self.layout.nested));
        }
        let fields = self.schema.fields().iter().zip(&columns);
        let fields = fields.map(|(field, array)| {
            Field::new(field.name(), array.data_type().clone(), field.is_nullable())
        });
        let held = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Ok(RecordBatch::try_new(held, columns)?)
    }
}

impl ResultSink for ParquetSink {
    fn extension(&self) -> &'static str {
        OutputFormat::Parquet.extension()
    }

    fn write_part(
        &self,
        window: &InputWindow,
        outcomes: &BTreeMap<RowId, Outcome>,
        out: &mut (dyn Write + Send),
    ) -> Result<(), SinkError> {
        let lines = lines(window, outcomes, self.layout.nested)?;
        let schema = Arc::clone(&self.schema);
        let mut writer = ArrowWriter::try_new_with_options(out, schema, self.options.clone())?;
        let mut left = lines.as_slice();
        while !left.is_empty() {
            let (chunk, rest) = self.split(window, left)?;
            writer.write(&self.batch(window, chunk)?)?;
            left = rest;
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

/// One of our own columns.
pub(super) fn result_field(name: &str, layout: &Layout) -> Field {
    let list = |item| DataType::List(Arc::new(Field::new_list_field(item, true)));
    let kind = match name {
        "sample" | "prompt_tokens" | "completion_tokens" => DataType::Int32,
        "logprob" => DataType::Float32,
        "token_logprobs" => list(DataType::Float32),
        "token_ids" => list(DataType::Int32),
        _ => DataType::Utf8,
    };
    let is_row_wide = matches!(name, "status" | "error" | "prompt_tokens");
    Field::new(
        name,
        if layout.nested && !is_row_wide {
            list(kind)
        } else {
            kind
        },
        true,
    )
}

fn result_column(name: &str, lines: &[Line<'_>], nested: bool) -> ArrayRef {
    match name {
        "sample" => Arc::new(
            lines
                .iter()
                .map(Line::sample_number)
                .collect::<Int32Array>(),
        ),
        "status" => Arc::new(StringArray::from_iter_values(
            lines.iter().map(Line::status),
        )),
        "error" => Arc::new(lines.iter().map(Line::error).collect::<StringArray>()),
        "prompt_tokens" => {
            let counts = lines
                .iter()
                .map(|line| line.prompt_tokens().map(|count| count as i32));
            Arc::new(counts.collect::<Int32Array>())
        }
        _ if nested => nested_column(name, lines),
        _ => {
            let samples = lines
                .iter()
                .map(|line| line.samples().and_then(<[_]>::first));
            sample_column(name, &samples.collect::<Vec<_>>())
        }
    }
}

fn nested_column(name: &str, lines: &[Line<'_>]) -> ArrayRef {
    let samples: Vec<_> = lines
        .iter()
        .flat_map(|line| line.samples().unwrap_or_default())
        .map(Some)
        .collect();
    let values = sample_column(name, &samples);
    let lengths = lines
        .iter()
        .map(|line| line.samples().map_or(0, <[_]>::len));
    let offsets = OffsetBuffer::from_lengths(lengths);
    let nulls: NullBuffer = lines.iter().map(|line| line.samples().is_some()).collect();
    let item = Arc::new(Field::new_list_field(values.data_type().clone(), true));
    Arc::new(ListArray::new(item, offsets, values, Some(nulls)))
}

/// One value a sample; null where there is none.
fn sample_column(name: &str, samples: &[Option<&Sample>]) -> ArrayRef {
    let each = samples.iter();
    match name {
        "completion" => Arc::new(
            each.map(|s| s.map(|s| s.text.as_str()))
                .collect::<StringArray>(),
        ),
        "finish_reason" => Arc::new(
            each.map(|s| s.map(|s| s.finish_reason.as_str()))
                .collect::<StringArray>(),
        ),
        "completion_tokens" => Arc::new(
            each.map(|s| s.map(|s| s.token_ids.len() as i32))
                .collect::<Int32Array>(),
        ),
        "logprob" => Arc::new(each.map(|s| s.map(logprob)).collect::<Float32Array>()),
        "token_logprobs" => {
            let mut lists = ListBuilder::new(Float32Builder::new());
            for sample in each {
                lists.append_option(sample.map(|s| s.token_logprobs.iter().copied().map(Some)));
            }
            Arc::new(lists.finish())
        }
        _ => {
            let mut lists = ListBuilder::new(Int32Builder::new());
            for sample in each {
                lists.append_option(sample.map(|s| s.token_ids.iter().map(|&id| Some(id as i32))));
            }
            Arc::new(lists.finish())
        }
    }
}
