//! An output folder to one HTML page: counts, speed, lengths, failures, metrics and some rows side by side.
//!
//! ```text
//! manifests, shard reports, parts -> gather::Gathered -> html -> report.html
//!                                          charts -> SVG __/
//! ```
//!
//! The page has its style and its charts in itself and asks for nothing from outside, so that it can be sent to others and
//! opened without a network. Every text of the data is escaped.

mod charts;
mod gather;
mod html;
mod numbers;

use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use crate::checkpoint::{JobRecord, OutputFolder};
use crate::error::{Error, Result};
use crate::fsio;

/// What a page of ours begins with, so that no other file is written over.
const MARK: &str = "<!DOCTYPE html><!-- written by glm-batch report -->";

/// Writes the page of a job.
///
/// # Errors
///
/// A manifest or a part that cannot be read; a file at `path` that is not a page of ours.
pub(crate) fn write(
    folder: &OutputFolder,
    record: &JobRecord,
    by: Option<&str>,
    path: &Path,
) -> Result<()> {
    if !is_ours(path) {
        return Err(Error::Usage(format!(
            "`{}` is not a page of `report`, so it stays as it is\nhint: name another file with `--output`",
            path.display()
        )));
    }
    let gathered = gather::gather(folder, record, by)?;
    let page = html::page(&gathered).into_string();
    fsio::write_atomic(path, |out| {
        out.write_all(MARK.as_bytes())?;
        out.write_all(page.as_bytes())
    })?;
    Ok(())
}

/// Whether a page may be written there: nothing is, or an earlier page.
fn is_ours(path: &Path) -> bool {
    let mut start = vec![0; MARK.len()];
    match std::fs::File::open(path) {
        Ok(mut file) => file.read_exact(&mut start).is_ok() && start == MARK.as_bytes(),
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}
