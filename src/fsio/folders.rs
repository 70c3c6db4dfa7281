//! Folders: made all the way, synced, looked at, moved and removed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::error::FsError;
use super::points::{REMOVE_AFTER, REMOVE_BEFORE, RENAME_AFTER, RENAME_BEFORE, failpoint};

/// Creates a folder and those above it, and syncs every folder that got a new entry.
///
/// # Errors
///
/// The system's, where a folder cannot be created or synced.
pub(crate) fn create_dir_all(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = parent(path) {
        create_dir_all(parent)?;
    }
    match std::fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if !path.is_dir() {
                return create_behind_link(path, error);
            }
        }
        result => result?,
    }
    parent(path).map_or(Ok(()), sync_dir)
}

/// Creates the folder that a symbolic link leads to, in a folder that is there. Whatever else is in the way is
/// the error that there was.
fn create_behind_link(path: &Path, in_the_way: io::Error) -> io::Result<()> {
    let Ok(target) = std::fs::read_link(path) else {
        return Err(in_the_way);
    };
    let target = parent(path).map_or_else(|| target.clone(), |folder| folder.join(&target));
    std::fs::create_dir(&target)?;
    parent(&target).map_or(Ok(()), sync_dir)
}

/// Syncs a folder, so that the names in it survive a power cut.
///
/// # Errors
///
/// The system's. File systems that cannot sync a folder are taken as they are.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    match File::open(path)?.sync_all() {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
            ) =>
        {
            Ok(())
        }
        result => result,
    }
}

/// Renames a file or folder and syncs both folders.
///
/// # Errors
///
/// [`FsError`].
pub(crate) fn rename_synced(from: &Path, to: &Path) -> Result<(), FsError> {
    failpoint(RENAME_BEFORE, from)?;
    std::fs::rename(from, to).map_err(|cause| FsError::new("move", from, cause))?;
    sync_parent(to)?;
    if parent(from) != parent(to) {
        sync_parent(from)?;
    }
    failpoint(RENAME_AFTER, from)
}

/// Removes a file, if it is there, and syncs its folder.
///
/// # Errors
///
/// [`FsError`].
pub(crate) fn remove_synced(path: &Path) -> Result<(), FsError> {
    failpoint(REMOVE_BEFORE, path)?;
    match std::fs::remove_file(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result.map_err(|cause| FsError::new("remove", path, cause))?,
    }
    sync_parent(path)?;
    failpoint(REMOVE_AFTER, path)
}

/// Removes a folder with everything in it, and syncs the one that holds it.
///
/// # Errors
///
/// [`FsError`]; a part of it may be gone by then.
pub(crate) fn remove_folder(path: &Path) -> Result<(), FsError> {
    failpoint(REMOVE_BEFORE, path)?;
    std::fs::remove_dir_all(path).map_err(|cause| FsError::new("remove", path, cause))?;
    sync_parent(path)?;
    failpoint(REMOVE_AFTER, path)
}

/// Removes a folder that may as well stay, if nothing is in it.
pub(crate) fn remove_empty_folder(path: &Path) {
    let _ = std::fs::remove_dir(path);
}

/// Removes a file that may as well stay.
pub(crate) fn remove_quietly(path: &Path) {
    let _ = std::fs::remove_file(path);
}

/// Whether a path does not exist, or is a folder without entries.
pub(crate) fn is_empty_or_absent(path: &Path) -> bool {
    match std::fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// The first of numbered paths, from 1, that is not taken.
pub(crate) fn free_path(path: impl Fn(u64) -> PathBuf) -> PathBuf {
    let mut number = 1;
    while path(number).symlink_metadata().is_ok() {
        number += 1;
    }
    path(number)
}

/// A folder for files that are not kept, among the system's temporary files; it goes with the value.
///
/// # Errors
///
/// [`FsError`].
pub(crate) fn temporary_folder(prefix: &str) -> Result<TempDir, FsError> {
    let made = tempfile::Builder::new().prefix(prefix).tempdir();
    made.map_err(|cause| FsError::new("create", &std::env::temp_dir(), cause))
}

pub(super) fn sync_parent(path: &Path) -> Result<(), FsError> {
    let Some(folder) = parent(path) else {
        return Ok(());
    };
    sync_dir(folder).map_err(|cause| FsError::new("sync", folder, cause))
}

/// The folder a path is in; `.` for a bare name.
pub(super) fn parent(path: &Path) -> Option<&Path> {
    path.parent().map(|folder| {
        if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_made_all_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b/c");
        create_dir_all(&deep).unwrap();
        create_dir_all(&deep).unwrap();
        assert!(deep.is_dir());
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert!(create_dir_all(&folder.path().join("file/x")).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_nothing_gets_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("disk", &link).unwrap();
        create_dir_all(&link.join("parts")).unwrap();
        assert!(folder.path().join("disk/parts").is_dir());
        let loose = folder.path().join("loose");
        std::os::unix::fs::symlink("loose", &loose).unwrap();
        assert!(create_dir_all(&loose).is_err());
    }
}
