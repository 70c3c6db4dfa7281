//! Lines to bytes: JSON lines, Parquet, or values between commas or tabs.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_json::ReaderBuilder;
use arrow_schema::{DataType, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use serde_json::Value;

use super::{ExportError, Result};
use crate::sink::{self, PartLine, ResultRow, SinkError};

/// Lines that become a batch of Parquet at once.
const LINES_AT_ONCE: usize = 256;

/// Bytes of a row group at most: it is held, in a multiple of them, until it is written.
const ROW_GROUP_BYTES: usize = 8 << 20;

/// Rows of a row group at most, so that texts that pack well do not keep all rows of an export in memory.
const ROW_GROUP_ROWS: usize = 32 << 10;

/// As for the parts of a job.
const ZSTD_LEVEL: i32 = 3;

/// What the bytes are written to.
pub(super) type Out<'w> = dyn Write + Send + 'w;

/// Writes lines in one form.
pub(super) enum Writer<'w> {
    Json(&'w mut Out<'w>),
    Separated(Separated<'w>),
    Parquet(Lines<'w>),
    /// Batches as the parts hold them.
    Stored(ArrowWriter<&'w mut Out<'w>>),
}

impl<'w> Writer<'w> {
    /// Writes values between commas or tabs, under a line with the names of the columns.
    pub(super) fn separated(
        out: &'w mut Out<'w>,
        separator: u8,
        columns: Vec<String>,
    ) -> Result<Self> {
        let mut writer = Separated {
            out,
            separator,
            columns,
            line: Vec::new(),
        };
        writer.heading()?;
        Ok(Self::Separated(writer))
    }

    /// Writes lines as Parquet in these types.
    pub(super) fn parquet(out: &'w mut Out<'w>, schema: Schema) -> Result<Self> {
        let schema = Arc::new(schema);
        Ok(Self::Parquet(Lines {
            writer: ArrowWriter::try_new_with_options(out, Arc::clone(&schema), options()?)
                .map_err(of_parquet)?,
            schema,
            waiting: Vec::new(),
        }))
    }

    /// Writes batches as parts hold them; one of the parts tells the types.
    pub(super) fn stored(out: &'w mut Out<'w>, part: &Path) -> Result<Self> {
        let (schema, own) = sink::stored_schema(part)?;
        let options = options()?.with_parquet_schema(own.as_ref().clone());
        let writer = ArrowWriter::try_new_with_options(out, schema, options);
        Ok(Self::Stored(writer.map_err(of_parquet)?))
    }

    /// Whether it wants batches as the parts hold them.
    pub(super) fn wants_batches(&self) -> bool {
        matches!(self, Self::Stored(_))
    }

    /// Writes a line that was made.
    pub(super) fn line(&mut self, line: &Value) -> Result<()> {
        match self {
            Self::Json(out) => {
                let mut text = line.to_string();
                text.push('\n');
                out.write_all(text.as_bytes()).map_err(ExportError::Output)
            }
            Self::Separated(writer) => match line {
                Value::Object(row) => writer.row(row),
                _ => Ok(()),
            },
            Self::Parquet(writer) => writer.push(line.clone()),
            Self::Stored(_) => Ok(()),
        }
    }

    /// Writes a result row: in JSON lines as the part has it.
    pub(super) fn row(&mut self, mut line: PartLine) -> Result<()> {
        match self {
            Self::Json(out) => {
                line.text.push(b'\n');
                out.write_all(&line.text).map_err(ExportError::Output)
            }
            Self::Separated(writer) => writer.row(&line.row),
            Self::Parquet(writer) => writer.push(Value::Object(line.row)),
            Self::Stored(_) => Ok(()),
        }
    }

    /// Writes rows of a part as it holds them.
    pub(super) fn stored_rows(&mut self, rows: &RecordBatch) -> Result<()> {
        match self {
            Self::Stored(writer) => writer.write(rows).map_err(of_parquet),
            Self::Json(_) | Self::Separated(_) | Self::Parquet(_) => Ok(()),
        }
    }

    /// Writes what is left.
    pub(super) fn finish(self) -> Result<()> {
        match self {
            Self::Json(out) => out.flush().map_err(ExportError::Output),
            Self::Separated(writer) => writer.out.flush().map_err(ExportError::Output),
            Self::Parquet(mut writer) => {
                writer.write()?;
                writer.writer.close().map(drop).map_err(of_parquet)
            }
            Self::Stored(writer) => writer.close().map(drop).map_err(of_parquet),
        }
    }
}

/// Writes values between commas or tabs.
pub(super) struct Separated<'w> {
    out: &'w mut Out<'w>,
    separator: u8,
    columns: Vec<String>,
    line: Vec<u8>,
}

impl Separated<'_> {
    fn heading(&mut self) -> Result<()> {
        let names = self.columns.clone();
        for name in &names {
            self.field(name);
        }
        self.end()
    }

    fn row(&mut self, row: &ResultRow) -> Result<()> {
        let names = std::mem::take(&mut self.columns);
        for name in &names {
            match row.get(name) {
                None | Some(Value::Null) => self.line.push(self.separator),
                Some(Value::String(text)) => self.field(text),
                Some(other) => self.field(&other.to_string()),
            }
        }
        self.columns = names;
        self.end()
    }

    /// A text, in quotes where it would be taken for something else. Null alone is nothing at all.
    fn field(&mut self, text: &str) {
        let separates = |c: char| c == char::from(self.separator) || matches!(c, '"' | '\n' | '\r');
        if text.is_empty() || text.contains(separates) {
            self.line.push(b'"');
            self.line.extend(text.replace('"', "\"\"").bytes());
            self.line.push(b'"');
        } else {
            self.line.extend(text.bytes());
        }
        self.line.push(self.separator);
    }

    fn end(&mut self) -> Result<()> {
        self.line.pop();
        self.line.push(b'\n');
        let written = self.out.write_all(&self.line);
        self.line.clear();
        written.map_err(ExportError::Output)
    }
}

/// Writes lines as Parquet.
pub(super) struct Lines<'w> {
    writer: ArrowWriter<&'w mut Out<'w>>,
    schema: SchemaRef,
    waiting: Vec<Value>,
}

impl Lines<'_> {
    fn push(&mut self, mut line: Value) -> Result<()> {
        if let Value::Object(row) = &mut line {
            for field in self.schema.fields() {
                if let (DataType::Utf8, Some(value)) =
                    (field.data_type(), row.get_mut(field.name()))
                {
                    as_text(value);
                }
            }
        }
        self.waiting.push(line);
        if self.waiting.len() == LINES_AT_ONCE {
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        let lines = std::mem::take(&mut self.waiting);
        let wrong = |error| ExportError::from(SinkError::from(error));
        let mut decoder = ReaderBuilder::new(Arc::clone(&self.schema))
            .with_batch_size(LINES_AT_ONCE)
            .build_decoder()
            .map_err(wrong)?;
        decoder.serialize(&lines).map_err(wrong)?;
        match decoder.flush().map_err(wrong)? {
            Some(batch) => self.writer.write(&batch).map_err(of_parquet),
            None => Ok(()),
        }
    }
}

/// A value of a column of several kinds as its JSON text, as the parts of a job in Parquet have it.
fn as_text(value: &mut Value) {
    if !matches!(value, Value::Null | Value::String(_)) {
        *value = Value::String(value.to_string());
    }
}

fn options() -> Result<ArrowWriterOptions> {
    let level = ZstdLevel::try_new(ZSTD_LEVEL).map_err(of_parquet)?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_created_by("glm-batch".to_owned())
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .build();
    Ok(ArrowWriterOptions::new().with_properties(properties))
}

/// An error of the writer is mostly one of the file below it.
fn of_parquet(error: ParquetError) -> ExportError {
    match error {
        ParquetError::External(cause) => match cause.downcast::<io::Error>() {
            Ok(cause) => ExportError::Output(*cause),
            Err(cause) => SinkError::from(ParquetError::External(cause)).into(),
        },
        error => SinkError::from(error).into(),
    }
}
