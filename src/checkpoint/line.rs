//! One row's outcome to a journal line and back; and the line above all rows, which names the job.
//!
//! The fields are those of [`Outcome`]'s own JSON form, so that the journal reads like the results.

use serde::{Deserialize, Serialize};

use crate::ids::RowId;
use crate::outcome::Outcome;

use super::seal;

/// First line of a journal.
#[derive(Serialize, Deserialize)]
struct Header {
    /// Fingerprint of the job.
    job: String,
}

/// The first line of a journal of this job, without its end.
pub(super) fn write_header(job: &str) -> serde_json::Result<String> {
    seal::seal_line(&Header {
        job: job.to_owned(),
    })
}

/// The job that a sound first line names; `None` where it is a row's line.
pub(super) fn read_header(line: &[u8]) -> Option<String> {
    let header: Header = serde_json::from_slice(line).ok()?;
    Some(header.job)
}

/// A journal line, without its end.
pub(super) fn write(row: RowId, outcome: &Outcome) -> serde_json::Result<String> {
    seal::seal_line(&Line { row, outcome })
}

#[derive(Serialize)]
struct Line<'a> {
    row: RowId,
    #[serde(flatten)]
    outcome: &'a Outcome,
}

/// Reads a journal line; the error says what is wrong with it.
pub(super) fn read(line: &[u8]) -> Result<(RowId, Outcome), String> {
    if !seal::is_sound_line(line) {
        return Err("its checksum does not fit its content".to_owned());
    }
    read_fields(line).map_err(|error| error.to_string())
}

/// The line is read once for its number and once for the rest, since a flattened field would lose bits of floats.
fn read_fields(line: &[u8]) -> serde_json::Result<(RowId, Outcome)> {
    #[derive(Deserialize)]
    struct Numbered {
        row: RowId,
    }
    let Numbered { row } = serde_json::from_slice(line)?;
    Ok((row, serde_json::from_slice(line)?))
}
