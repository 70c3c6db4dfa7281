//! Bad and failed rows of a window to the lines of `failed/`.
//!
//! Each line says where the row is in the input and why it has no result, and holds the raw record, so that the
//! rows can be fixed and run again on their own. Broken lines are in these files only.

use std::io::{self, Write};

use arrow_array::RecordBatch;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::input::{Carried, InputFile, InputWindow, Place, json_lines};
use crate::outcome::Outcomes;

use super::json_line::{end_line, field};
use super::lines::failure;

/// Fields that a line may have, in their order.
pub(crate) const FAILED_COLUMNS: [&str; 10] = [
    "row",
    "id",
    "file",
    "line",
    "row_group",
    "row_in_group",
    "stage",
    "reason",
    "raw",
    "raw_base64",
];

/// Writes a JSON line for each row of the window without a result; gives their number.
///
/// # Errors
///
/// The writer's.
pub fn write_failed(
    window: &InputWindow,
    outcomes: &dyn Outcomes,
    files: &[InputFile],
    out: &mut dyn Write,
) -> io::Result<u64> {
    let mut count = 0;
    let mut line = Vec::new();
    for (position, row) in window.rows.iter().enumerate() {
        let Some(bad) = failure(row, outcomes) else {
            continue;
        };
        line.push(b'{');
        field("row", &row.row, &mut line);
        field("id", &row.id, &mut line);
        write_place(&row.place, files, &mut line);
        field("stage", &bad.stage, &mut line);
        field("reason", &bad.reason, &mut line);
        write_record(&window.carried, position, &mut line);
        end_line(&mut line, out)?;
        count += 1;
    }
    Ok(count)
}

fn write_place(place: &Place, files: &[InputFile], out: &mut Vec<u8>) {
    let path = |file: u32| {
        files
            .get(file as usize)
            .map(|file| file.path.to_string_lossy())
    };
    match *place {
        Place::Line { file, line } => {
            field("file", &path(file), out);
            field("line", &line, out);
        }
        Place::RowGroup {
            file,
            row_group,
            row,
        } => {
            field("file", &path(file), out);
            field("row_group", &row_group, out);
            field("row_in_group", &row, out);
        }
    }
}

fn write_record(carried: &Carried, position: usize, out: &mut Vec<u8>) {
    match carried {
        Carried::Json(lines) => match std::str::from_utf8(lines.line(position)) {
            Ok(text) => field("raw", text, out),
            Err(_) => field("raw_base64", &STANDARD.encode(lines.line(position)), out),
        },
        Carried::Arrow(batch) => field("raw", &record_text(batch, position), out),
    }
}

/// A Parquet row as a JSON object; all null where its row group is damaged.
fn record_text(batch: &RecordBatch, position: usize) -> String {
    let mut record = json_lines(&batch.slice(position, 1));
    record.pop();
    String::from_utf8_lossy(&record).into_owned()
}
