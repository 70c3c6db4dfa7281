//! Lines of a window to JSON, fields in a fixed order.
//!
//! Values of JSON input stand as they stood there, those of Parquet as [`JsonColumn`] writes
//! them; a field that a row does not have is null.

use std::collections::BTreeMap;
use std::io::Write;

use arrow::json::writer::EncoderOptions;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::ids::RowId;
use crate::input::{Carried, InputWindow, JsonColumn, json_options};
use crate::job::OutputFormat;
use crate::outcome::{Outcome, Sample};

use super::columns::{CarriedColumn, Layout};
use super::json_line::{end_line, field, write_key};
use super::lines::{Line, lines, logprob};
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

    fn write_results(&self, line: &Line<'_>, out: &mut Vec<u8>) {
        if !self.layout.nested {
            field("sample", &line.sample_number(), out);
        }
        field("status", line.status(), out);
        field("error", &line.error(), out);
        self.per_sample("completion", line, |sample| sample.text.as_str(), out);
        self.per_sample(
            "finish_reason",
            line,
            |sample| sample.finish_reason.as_str(),
            out,
        );
        field("prompt_tokens", &line.prompt_tokens(), out);
        self.per_sample(
            "completion_tokens",
            line,
            |sample| sample.token_ids.len(),
            out,
        );
        if self.layout.logprobs {
            self.per_sample("logprob", line, logprob, out);
            self.per_sample("token_logprobs", line, |sample| &sample.token_logprobs, out);
        }
        if self.layout.token_ids {
            self.per_sample("token_ids", line, |sample| &sample.token_ids, out);
        }
    }

    fn per_sample<'a, T: Serialize>(
        &self,
        name: &str,
        line: &Line<'a>,
        value: impl Fn(&'a Sample) -> T,
        out: &mut Vec<u8>,
    ) {
        match line.samples() {
            Some(samples) if self.layout.nested => {
                field(name, &samples.iter().map(value).collect::<Vec<_>>(), out);
            }
            samples => field(name, &samples.and_then(<[_]>::first).map(value), out),
        }
    }
}

impl ResultSink for JsonlSink {
    fn extension(&self) -> &'static str {
        OutputFormat::Jsonl.extension()
    }

    fn write_part(
        &self,
        window: &InputWindow,
        outcomes: &BTreeMap<RowId, Outcome>,
        out: &mut (dyn Write + Send),
    ) -> Result<(), SinkError> {
        let lines = lines(window, outcomes, self.layout.nested)?;
        let options = match &window.carried {
            Carried::Arrow(batch) => json_options(batch.schema_ref()),
            Carried::Json { .. } => EncoderOptions::default(),
        };
        let mut columns = Columns::new(&self.layout.carried, &window.carried, &options)?;
        let mut buffer = Vec::new();
        for line in &lines {
            buffer.push(b'{');
            field("row", &line.row.row, &mut buffer);
            field("id", &line.row.id, &mut buffer);
            columns.write(line.position, &mut buffer);
            self.write_results(line, &mut buffer);
            end_line(&mut buffer, out)?;
        }
        Ok(())
    }
}

/// The carried columns of one window.
enum Columns<'a> {
    Json(&'a [CarriedColumn], &'a [Vec<(String, Box<RawValue>)>]),
    Arrow(Vec<(&'a str, JsonColumn<'a>)>),
}

impl<'a> Columns<'a> {
    fn new(
        carried: &'a [CarriedColumn],
        window: &'a Carried,
        options: &'a EncoderOptions,
    ) -> Result<Self, SinkError> {
        let batch = match window {
            Carried::Json { fields, .. } => return Ok(Self::Json(carried, fields)),
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
            Self::Json(carried, fields) => {
                for column in *carried {
                    write_key(&column.name, out);
                    write_raw(super::carried::raw(&fields[position], &column.source), out);
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

/// Writes a value as it stood. Outside strings a carriage return is mere space in JSON, but many readers
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
