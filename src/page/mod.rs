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
use crate::run::Columns;

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
    columns: Columns<'_>,
    path: &Path,
) -> Result<()> {
    if !has_folder(path) {
        return Err(Error::Usage(format!(
            "`{}` is not a file in a folder that is there\nhint: make the folder first, or name another file with `--output`",
            path.display()
        )));
    }
    if !is_ours(path) {
        return Err(Error::Usage(format!(
            "`{}` is not a page of `report`, so it stays as it is\nhint: name another file with `--output`",
            path.display()
        )));
    }
    // A stray file among the results would be taken for damage.
    let inside = std::path::absolute(path).is_ok_and(|path| path.starts_with(folder.root()));
    if inside && path != folder.page() {
        return Err(Error::Usage(format!(
            "`{}` lies among the results\nhint: leave out `--output`, which writes `{}`, or name a file elsewhere",
            path.display(),
            folder.page().display()
        )));
    }
    let gathered = gather::gather(folder, record, columns)?;
    let page = html::page(&gathered).into_string();
    fsio::write_atomic(path, |out| {
        out.write_all(MARK.as_bytes())?;
        out.write_all(page.as_bytes())
    })?;
    Ok(())
}

/// Whether a page may be written there: nothing is, or an earlier page. Only a plain file is opened: a pipe would wait
/// for its other end.
fn is_ours(path: &Path) -> bool {
    match path.symlink_metadata() {
        Ok(there) => there.is_file() && begins_with_mark(path),
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

fn begins_with_mark(path: &Path) -> bool {
    let mut start = vec![0; MARK.len()];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == MARK.as_bytes()
}

/// Whether the path names a file in a folder that is there.
fn has_folder(path: &Path) -> bool {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let names_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    !names_folder && folder.is_none_or(Path::is_dir)
}
