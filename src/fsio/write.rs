//! Whole files: written beside their name, synced, and given it in one step.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use super::error::FsError;
use super::folders::{parent, remove_quietly, sync_parent};
use super::hash::{FileDigest, hash_file};
use super::points::{
    CREATE_AFTER_LINK, CREATE_BEFORE_LINK, WRITE_AFTER, WRITE_BEFORE_CREATE,
    WRITE_BEFORE_FOLDER_SYNC, WRITE_BEFORE_RENAME, WRITE_BEFORE_SYNC, failpoint,
};

/// End of the names of files that are being written; they start with a dot.
pub(super) const TEMPORARY_ENDING: &str = ".tmp";

/// Writes a file so that its name only ever holds the old or the complete new content: temporary
/// file beside it, sync, rename, sync of the folder.
///
/// # Errors
///
/// [`FsError`]: the file then has its old content, if any, or already the new one.
pub fn write_atomic(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<FileDigest, FsError> {
    let temporary = temporary_path(path);
    failpoint(WRITE_BEFORE_CREATE, path)?;
    let digest = write_synced(&temporary, write, WRITE_BEFORE_SYNC)
        .inspect_err(|_| remove_quietly(&temporary))?;
    failpoint(WRITE_BEFORE_RENAME, path)?;
    std::fs::rename(&temporary, path).map_err(|cause| FsError::new("rename to", path, cause))?;
    failpoint(WRITE_BEFORE_FOLDER_SYNC, path)?;
    sync_parent(path)?;
    failpoint(WRITE_AFTER, path)?;
    Ok(digest)
}

/// Fails where [`write_atomic`] would; what is at the path stays as it is.
///
/// # Errors
///
/// [`FsError`], where the folder takes no file, or the path is a folder itself.
pub(crate) fn check_writable(path: &Path) -> Result<(), FsError> {
    let folder = parent(path).unwrap_or_else(|| Path::new("."));
    let made = if path.is_dir() {
        Err(io::ErrorKind::IsADirectory.into())
    } else {
        tempfile::tempfile_in(folder)
    };
    made.map(drop)
        .map_err(|cause| FsError::new("write", path, cause))
}

/// Creates a file with this content unless the name is taken: true where this call created it.
///
/// The content is complete and synced before the name appears.
///
/// # Errors
///
/// [`FsError`], where it could be neither created nor found.
pub(crate) fn create_exclusive(path: &Path, bytes: &[u8]) -> Result<bool, FsError> {
    let unnamed = write_unnamed(path, |out| out.write_all(bytes))?;
    Ok(unnamed.name()?.is_some())
}

/// A file that is complete and synced, and has no name yet; without one it goes when this is dropped.
pub(crate) struct Unnamed {
    temporary: Option<PathBuf>,
    path: PathBuf,
    digest: FileDigest,
    /// Keeps other writers from the name, where it was claimed.
    _lock: Option<File>,
}

impl Unnamed {
    /// A file that was written under a claim, which `lock` holds.
    pub(super) fn new(temporary: PathBuf, path: PathBuf, digest: FileDigest, lock: File) -> Self {
        Self {
            temporary: Some(temporary),
            path,
            digest,
            _lock: Some(lock),
        }
    }

    /// Length and hash of its content.
    pub(crate) fn digest(&self) -> &FileDigest {
        &self.digest
    }

    /// Gives it its name; `None`, and the file is gone, where the name is taken.
    ///
    /// # Errors
    ///
    /// [`FsError`], where it could not be given.
    pub(crate) fn name(mut self) -> Result<Option<FileDigest>, FsError> {
        let path = self.path.clone();
        failpoint(CREATE_BEFORE_LINK, &path)?;
        if let Some(temporary) = self.temporary.take() {
            let linked = link_new(&temporary, &path);
            remove_quietly(&temporary);
            match linked {
                Ok(()) => {}
                Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
                Err(cause) => return Err(FsError::new("create", &path, cause)),
            }
        }
        sync_parent(&path)?;
        failpoint(CREATE_AFTER_LINK, &path)?;
        Ok(Some(self.digest.clone()))
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            remove_quietly(temporary);
        }
    }
}

/// Writes a file beside the name that it is to have, and syncs it.
fn write_unnamed(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<Unnamed, FsError> {
    let temporary = temporary_path(path);
    failpoint(WRITE_BEFORE_CREATE, path)?;
    let digest = write_synced(&temporary, write, WRITE_BEFORE_SYNC)
        .inspect_err(|_| remove_quietly(&temporary))?;
    Ok(Unnamed {
        temporary: Some(temporary),
        path: path.to_path_buf(),
        digest,
        _lock: None,
    })
}

/// Removes what processes that were killed have left of a file that they never finished, but the file `own`.
pub(super) fn remove_leftovers(path: &Path, own: Option<&Path>) {
    let folder = parent(path).unwrap_or_else(|| Path::new("."));
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    let target = path.file_name().and_then(|name| name.to_str());
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_own = own.and_then(Path::file_name) == Some(&name);
        if target.is_some() && !is_own && name.to_str().and_then(temporary_target) == target {
            remove_quietly(&entry.path());
        }
    }
}

/// The final name that a temporary file was meant for; `None` where it is not a temporary file.
pub(crate) fn temporary_target(name: &str) -> Option<&str> {
    let (target, process) = name
        .strip_prefix('.')?
        .strip_suffix(TEMPORARY_ENDING)?
        .rsplit_once('.')?;
    process
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some(target)
}

/// Name beside `path` for the time of writing. It holds a number of this process, so that two
/// processes never write into one file: in containers on many hosts every process may have one id.
pub(super) fn temporary_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}{TEMPORARY_ENDING}", process_number()));
    path.with_file_name(name)
}

/// A number that no other process has: its id and the time of its first call.
pub(super) fn process_number() -> u128 {
    static NUMBER: OnceLock<u128> = OnceLock::new();
    *NUMBER.get_or_init(|| {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u128::from(std::process::id()) * 10_u128.pow(20) + now.as_nanos() % 10_u128.pow(20)
    })
}

fn write_synced(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    before_sync: &'static str,
) -> Result<FileDigest, FsError> {
    let file = File::create(path).map_err(|cause| FsError::new("create", path, cause))?;
    fill(BufWriter::new(file), path, write, before_sync)?;
    hash_file(path)
}

/// Writes to a new file and syncs it.
pub(super) fn fill(
    mut out: BufWriter<File>,
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    before_sync: &'static str,
) -> Result<(), FsError> {
    let write_error = |cause| FsError::new("write", path, cause);
    write(&mut out)
        .and_then(|()| out.flush())
        .map_err(write_error)?;
    failpoint(before_sync, path)?;
    out.get_ref()
        .sync_all()
        .map_err(|cause| FsError::new("sync", path, cause))
}

/// Gives a complete file its name, unless the name is taken.
fn link_new(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::hard_link(from, to) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => rename_new(from, to, error),
        result => result,
    }
}

/// For file systems without hard links: a rename that refuses to replace.
#[cfg(any(target_os = "linux", target_os = "macos"))]
fn rename_new(from: &Path, to: &Path, _hard_link: io::Error) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn rename_new(_from: &Path, _to: &Path, hard_link: io::Error) -> io::Result<()> {
    Err(hard_link)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fsio::hash_file_unless;
    use crate::stop::StopFlag;

    #[test]
    fn atomic_write_replaces_and_leaves_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_atomic(&path, |out| out.write_all(b"old")).unwrap();
        let digest = write_atomic(&path, |out| out.write_all(b"newer")).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"newer");
        assert_eq!(digest, hash_file(&path).unwrap());
        assert_eq!(digest.blake3, blake3::hash(b"newer").to_hex().to_string());
        assert_eq!(digest.bytes, 5);
        let interrupted = hash_file_unless(&path, &StopFlag::asking(|| true)).unwrap_err();
        assert_eq!(interrupted.cause.kind(), io::ErrorKind::Interrupted);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn failed_write_keeps_the_old_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_atomic(&path, |out| out.write_all(b"old")).unwrap();
        let error = write_atomic(&path, |out| {
            out.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert!(error.is_full());
        assert!(
            error.to_string().ends_with("run the same command again"),
            "{error}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn whether_a_file_can_be_written_is_found_out_without_touching_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        check_writable(&file).unwrap();
        assert!(!file.exists());
        std::fs::write(&file, "old").unwrap();
        check_writable(&file).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "old");
        let error = check_writable(folder.path()).unwrap_err();
        assert!(error.to_string().contains("directory"), "{error}");
        let error = check_writable(&folder.path().join("none/a")).unwrap_err();
        assert!(error.to_string().contains("none/a"), "{error}");
    }

    #[test]
    fn exclusive_creation_is_won_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("job.json");
        assert!(create_exclusive(&path, b"first").unwrap());
        assert!(!create_exclusive(&path, b"second").unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(any(target_os = "linux", target_os = "macos"))]
    #[test]
    fn the_rename_without_hard_links_does_not_replace() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let refused = || io::Error::from(io::ErrorKind::Unsupported);
        std::fs::write(&from, "1").unwrap();
        rename_new(&from, &to, refused()).unwrap();
        std::fs::write(&from, "2").unwrap();
        let error = rename_new(&from, &to, refused()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&to).unwrap(), b"1");
    }

    #[test]
    fn temporary_names_lead_back_to_their_target() {
        let path = temporary_path(Path::new("/out/parts/part-000001.parquet"));
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(temporary_target(name), Some("part-000001.parquet"));
        assert_eq!(temporary_target("part-000001.parquet"), None);
        assert_eq!(temporary_target(".notes.tmp"), None);
    }
}
