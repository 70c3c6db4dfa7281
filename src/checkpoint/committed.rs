//! A committed file to its path, once its bytes are what the manifest says of them.
//!
//! Whatever makes something of committed results takes its files from here: what is damaged may end in no export, in no
//! page and on no screen as if it were a result.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::fsio;
use crate::shell::shell_word;
use crate::stop::StopFlag;

use super::manifest::FileEntry;
use super::{CheckpointError, OutputFolder};

/// The path of a committed file, which is read once from start to end to compare it with its size and checksum.
///
/// # Errors
///
/// [`CheckpointError::Altered`], where it is not as it was written; [`CheckpointError::Fs`], where it cannot be read;
/// [`CheckpointError::Interrupted`].
pub(crate) fn unchanged(
    folder: &OutputFolder,
    file: &FileEntry,
    stop: &StopFlag,
) -> Result<PathBuf, CheckpointError> {
    let path = folder.entry(&file.name);
    match difference(&path, file, stop)? {
        None => Ok(path),
        Some(reason) => Err(CheckpointError::Altered {
            path,
            reason,
            results: shell_word(&folder.results().to_string_lossy()),
        }),
    }
}

/// What differs between a committed file and what is at its path, in words; `None` where nothing does.
///
/// # Errors
///
/// [`CheckpointError::Fs`], [`CheckpointError::Interrupted`].
pub(super) fn difference(
    path: &Path,
    file: &FileEntry,
    stop: &StopFlag,
) -> Result<Option<String>, CheckpointError> {
    let expected = &file.digest;
    match std::fs::metadata(path) {
        // A pipe would be waited for, and a folder cannot be read: neither is what was written.
        Ok(found) if !found.is_file() => return Ok(Some("is not a file any more".to_owned())),
        Ok(found) if found.len() != expected.bytes => {
            let (bytes, written) = (found.len(), expected.bytes);
            return Ok(Some(format!(
                "has {bytes} bytes, was written with {written}"
            )));
        }
        _ => {}
    }
    match fsio::hash_file_unless(path, stop) {
        Ok(found) if found == *expected => Ok(None),
        Ok(_) => Ok(Some("does not hold what was written".to_owned())),
        Err(error) => match error.cause.kind() {
            ErrorKind::NotFound => Ok(Some("is gone".to_owned())),
            ErrorKind::Interrupted => Err(CheckpointError::Interrupted),
            _ => Err(error.into()),
        },
    }
}
