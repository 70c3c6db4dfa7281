//! Result files back to rows, for people and tools that look at them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::input::json_lines;

use super::SinkError;

/// Rows decoded at a time.
const BATCH_ROWS: usize = 1024;

/// A result row by column.
pub type ResultRow = Map<String, Value>;

/// Reads a part of either format, row by row.
///
/// # Errors
///
/// [`SinkError`], where the file cannot be opened; each row may fail on its own.
pub fn read_part(
    path: &Path,
) -> Result<Box<dyn Iterator<Item = Result<ResultRow, SinkError>>>, SinkError> {
    let file = File::open(path)?;
    if path
        .extension()
        .is_some_and(|extension| extension == "parquet")
    {
        let reader = ParquetRecordBatchReaderBuilder::try_new(file)?
            .with_batch_size(BATCH_ROWS)
            .build()?;
        return Ok(Box::new(reader.flat_map(|batch| {
            let lines = batch.and_then(|batch| json_lines(&batch));
            match lines {
                Ok(lines) => rows_of(&lines),
                Err(error) => vec![Err(error.into())],
            }
        })));
    }
    let lines = BufReader::new(file).split(b'\n');
    Ok(Box::new(lines.map(|line| row_of(&line?))))
}

/// A line as a row. Carried values stand in the file as they came, so a number may be out of the range
/// of any type here: it is given as its text.
fn row_of(line: &[u8]) -> Result<ResultRow, SinkError> {
    if let Ok(row) = serde_json::from_slice(line) {
        return Ok(row);
    }
    let raw: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(line)?;
    let value = |text: &RawValue| {
        serde_json::from_str(text.get()).unwrap_or_else(|_| Value::from(text.get()))
    };
    Ok(raw
        .into_iter()
        .map(|(name, text)| (name, value(&text)))
        .collect())
}

fn rows_of(lines: &[u8]) -> Vec<Result<ResultRow, SinkError>> {
    lines
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(row_of)
        .collect()
}
