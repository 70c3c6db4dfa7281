//! Files that grow: journals, whose reader must tell a torn tail, and locks, which hold nothing.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use super::error::FsError;
use super::folders::sync_parent;
use super::points::{
    APPEND_AFTER, APPEND_BEFORE_SYNC, APPEND_BEFORE_WRITE, TRUNCATE_AFTER, TRUNCATE_BEFORE,
    failpoint,
};

/// Opens a file for appending; a new one is made and its folder synced.
///
/// # Errors
///
/// [`FsError`].
pub(crate) fn open_append(path: &Path) -> Result<File, FsError> {
    let is_new = !path.exists();
    let file = OpenOptions::new()
        .append(true)
        .read(true)
        .create(true)
        .open(path)
        .map_err(|cause| FsError::new("open", path, cause))?;
    if is_new {
        sync_parent(path)?;
    }
    Ok(file)
}

/// Appends bytes to a file of known length and syncs them.
///
/// # Errors
///
/// [`FsError`]. The file is cut back to `length` as far as the system lets it, so that the same bytes
/// can be appended again.
pub fn append_synced(
    file: &mut File,
    path: &Path,
    length: u64,
    bytes: &[u8],
) -> Result<(), FsError> {
    let appended = append(file, path, bytes);
    if appended.is_err() {
        // A failure here leaves a torn tail, which the reader cuts.
        let _ = file.set_len(length);
    }
    appended?;
    failpoint(APPEND_AFTER, path)
}

fn append(file: &mut File, path: &Path, bytes: &[u8]) -> Result<(), FsError> {
    failpoint(APPEND_BEFORE_WRITE, path)?;
    file.write_all(bytes)
        .map_err(|cause| FsError::new("append to", path, cause))?;
    failpoint(APPEND_BEFORE_SYNC, path)?;
    file.sync_data()
        .map_err(|cause| FsError::new("sync", path, cause))
}

/// Cuts an open file to `length` bytes and syncs it.
///
/// # Errors
///
/// [`FsError`].
pub(crate) fn truncate_synced(file: &mut File, path: &Path, length: u64) -> Result<(), FsError> {
    failpoint(TRUNCATE_BEFORE, path)?;
    file.set_len(length)
        .and_then(|()| file.seek(SeekFrom::End(0)))
        .and_then(|_| file.sync_all())
        .map_err(|cause| FsError::new("truncate", path, cause))?;
    failpoint(TRUNCATE_AFTER, path)
}

/// Opens a file to be locked; a new one is empty and made without a sync, because the lock goes with the process and
/// not with the name.
///
/// # Errors
///
/// The system's.
pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
}
