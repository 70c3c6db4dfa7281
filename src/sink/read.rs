//! Result files back to rows, for people and tools that look at them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use arrow_array::{RecordBatch, RecordBatchReader};
use arrow_schema::SchemaRef;
use parquet::schema::types::SchemaDescPtr;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::input::{json_lines, keep_digits, marked_batches, stored_batches};

use super::SinkError;

/// Rows decoded at a time: few, since the rows of a part may repeat one long text.
const BATCH_ROWS: usize = 64;

/// Decimal digits that float64 always gives back.
const SAFE_DIGITS: usize = f64::DIGITS as usize;

/// A result row by column.
pub type ResultRow = Map<String, Value>;

/// Rows of one file.
type Rows = Box<dyn Iterator<Item = Result<ResultRow, SinkError>>>;

/// Reads a part of either format, or a file of failed rows, row by row.
///
/// # Errors
///
/// [`SinkError::Read`], where the file cannot be opened; each row may fail on its own.
pub fn read_part(path: &Path) -> Result<Rows, SinkError> {
    let place = path.to_path_buf();
    let wrong = move |reason: String| SinkError::Read {
        path: place.clone(),
        reason,
    };
    let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
    if path
        .extension()
        .is_some_and(|extension| extension == "parquet")
    {
        let batches = marked_batches(file, BATCH_ROWS).map_err(|error| wrong(error.to_string()))?;
        let lines = batches.map(|batch| batch.map(|batch| json_lines(&batch)));
        let rows = lines.flat_map(|lines| match lines {
            Ok(lines) => rows_of(&lines),
            Err(error) => vec![Err(error.to_string())],
        });
        return Ok(Box::new(rows.map(move |row| row.map_err(&wrong))));
    }
    let lines = BufReader::new(file).split(b'\n');
    Ok(Box::new(lines.map(move |line| {
        let line = line.map_err(|error| wrong(error.to_string()))?;
        row_of(&line).map_err(&wrong)
    })))
}

/// A result row, and the JSON text that it was read from, without a line end. The text has the digits of every number.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PartLine {
    /// JSON.
    pub text: Vec<u8>,
    /// The same by column.
    pub row: ResultRow,
}

/// Some consecutive rows of a part.
pub(crate) struct Chunk {
    /// The rows.
    pub lines: Vec<PartLine>,
    /// The same rows as a Parquet part holds them, where that was asked for.
    pub stored: Option<RecordBatch>,
}

/// Chunks of one file.
type Chunks = Box<dyn Iterator<Item = Result<Chunk, SinkError>>>;

/// Reads a part of either format, a few rows at a time; `as_stored` asks for the batches of a Parquet part too.
///
/// # Errors
///
/// [`SinkError::Read`], where the file cannot be opened; each chunk may fail on its own.
pub(crate) fn read_chunks(path: &Path, as_stored: bool) -> Result<Chunks, SinkError> {
    let place = path.to_path_buf();
    let wrong = move |reason: String| SinkError::Read {
        path: place.clone(),
        reason,
    };
    let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
    if path
        .extension()
        .is_none_or(|extension| extension != "parquet")
    {
        let lines = BufReader::new(file).split(b'\n');
        return Ok(Box::new(lines.map(move |line| {
            let text = line.map_err(|error| wrong(error.to_string()))?;
            let row = row_of(&text).map_err(&wrong)?;
            let lines = vec![PartLine { text, row }];
            Ok(Chunk {
                lines,
                stored: None,
            })
        })));
    }
    let mut stored = None;
    if as_stored {
        let file = file.try_clone().map_err(|error| wrong(error.to_string()))?;
        let opened = stored_batches(file, BATCH_ROWS);
        stored = Some(opened.map_err(|error| wrong(error.to_string()))?);
    }
    let batches = marked_batches(file, BATCH_ROWS).map_err(|error| wrong(error.to_string()))?;
    Ok(Box::new(batches.map(move |batch| {
        let text = json_lines(&batch.map_err(|error| wrong(error.to_string()))?);
        let texts = text.split(|&byte| byte == b'\n');
        let lines = texts.filter(|line| !line.is_empty()).map(|text| {
            let row = row_of(text).map_err(&wrong)?;
            Ok(PartLine {
                text: text.to_vec(),
                row,
            })
        });
        let lines = lines.collect::<Result<_, SinkError>>()?;
        let stored = stored.as_mut().and_then(|(batches, _)| batches.next());
        Ok(Chunk {
            lines,
            stored: stored
                .transpose()
                .map_err(|error| wrong(error.to_string()))?,
        })
    })))
}

/// The schema of a Parquet part: as its batches have it, and its own, with all that Arrow has no type for.
///
/// # Errors
///
/// [`SinkError::Read`], where the file cannot be read.
pub(crate) fn stored_schema(path: &Path) -> Result<(SchemaRef, SchemaDescPtr), SinkError> {
    let wrong = |reason: String| SinkError::Read {
        path: path.to_path_buf(),
        reason,
    };
    let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
    let opened = stored_batches(file, BATCH_ROWS);
    let (batches, own) = opened.map_err(|error| wrong(error.to_string()))?;
    Ok((batches.schema(), own))
}

/// Reads lines that a sink of JSON lines wrote, or those of failed rows.
///
/// # Errors
///
/// What is wrong with the first line that is not a row.
pub(crate) fn read_lines(lines: &[u8]) -> Result<Vec<ResultRow>, String> {
    rows_of(lines).into_iter().collect()
}

fn rows_of(lines: &[u8]) -> Vec<Result<ResultRow, String>> {
    let lines = lines
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty());
    lines.map(row_of).collect()
}

/// A line as a row. Carried values are in the file as they came, so a number may be out of the range
/// of any type here, or have more digits than it: it is given as its text.
fn row_of(line: &[u8]) -> Result<ResultRow, String> {
    if let Ok(row) = serde_json::from_slice(line) {
        return Ok(with_digits(row, line));
    }
    let raw: BTreeMap<String, Box<RawValue>> =
        serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let value = |text: &RawValue| {
        let mut value =
            serde_json::from_str(text.get()).unwrap_or_else(|_| Value::from(text.get()));
        keep_digits(&mut value, text);
        value
    };
    Ok(raw
        .into_iter()
        .map(|(name, text)| (name, value(&text)))
        .collect())
}

/// The row with the text of each number that it could not hold.
fn with_digits(row: ResultRow, line: &[u8]) -> ResultRow {
    let is_digit = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
    let mut numbers = line.split(|byte| !is_digit(byte));
    let has_long_number = numbers.any(|number| number.len() > SAFE_DIGITS);
    let Some(text) = has_long_number
        .then(|| serde_json::from_slice::<&RawValue>(line).ok())
        .flatten()
    else {
        return row;
    };
    let mut value = Value::Object(row);
    keep_digits(&mut value, text);
    match value {
        Value::Object(row) => row,
        _ => ResultRow::new(),
    }
}
