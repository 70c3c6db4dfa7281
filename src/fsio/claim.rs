//! The name of a file to the one process that writes it.
//!
//! The hidden file that the content is written to is locked meanwhile, so that a second process learns at once that it
//! comes too late, and nothing takes away what another one is writing. The lock goes with the process: what a kill
//! leaves is written over by the next one. Where a file system or an operating system has no such locks, a claim is
//! given to everybody, and only the name itself can still be taken.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use super::append::open_lock;
use super::error::FsError;
use super::folders::remove_quietly;
use super::hash::hash_file;
use super::points::{WRITE_BEFORE_CREATE, WRITE_BEFORE_SYNC, failpoint};
use super::write::{TEMPORARY_ENDING, Unnamed, fill, remove_leftovers, temporary_path};

/// The number in the name of a hidden file that is locked; no process has it.
const LOCKED: &str = "0";

/// The right to write a file. Without a use its hidden file goes.
pub(crate) struct Claim {
    path: PathBuf,
    temporary: Option<PathBuf>,
    /// Open and, where it can be, locked.
    file: File,
    is_locked: bool,
}

/// Claims the name of a file; `None` where another process is writing it.
///
/// # Errors
///
/// [`FsError`], where the folder takes no file.
pub(crate) fn claim(path: &Path) -> Result<Option<Claim>, FsError> {
    failpoint(WRITE_BEFORE_CREATE, path)?;
    take(path, |file| match file.try_lock() {
        Ok(()) => Ok(Some(true)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(cause)) => is_locked(Err(cause)),
    })
}

/// Claims the name of a file once no other process has it.
///
/// # Errors
///
/// [`FsError`], where the folder takes no file.
pub(crate) fn wait_for_claim(path: &Path) -> Result<Option<Claim>, FsError> {
    take(path, |file| is_locked(file.lock()))
}

/// Whether a lock was taken: not where the file system has none, and any other failure is one.
fn is_locked(lock: io::Result<()>) -> io::Result<Option<bool>> {
    match lock {
        Ok(()) => Ok(Some(true)),
        Err(cause) if knows_no_locks(&cause) => Ok(Some(false)),
        Err(cause) => Err(cause),
    }
}

/// Whether a lock failed because the file system has none.
pub(crate) fn knows_no_locks(cause: &io::Error) -> bool {
    #[cfg(unix)]
    let is_without = cause.raw_os_error() == Some(rustix::io::Errno::NOLCK.raw_os_error());
    #[cfg(not(unix))]
    let is_without = false;
    is_without || cause.kind() == io::ErrorKind::Unsupported
}

fn take(
    path: &Path,
    lock: impl Fn(&File) -> io::Result<Option<bool>>,
) -> Result<Option<Claim>, FsError> {
    loop {
        let temporary = hidden(path, LOCKED);
        let failed = |cause| FsError::new("create", &temporary, cause);
        let file = open_lock(&temporary).map_err(failed)?;
        // Elsewhere a locked file can neither be read by others nor renamed.
        let locked = if cfg!(unix) {
            lock(&file).map_err(failed)?
        } else {
            Some(false)
        };
        match locked {
            None => return Ok(None),
            // The one before may have named or removed the file that was opened.
            Some(true) if !is_at(&file, &temporary) => {}
            Some(true) => {
                return Ok(Some(Claim {
                    path: path.to_path_buf(),
                    temporary: Some(temporary),
                    file,
                    is_locked: true,
                }));
            }
            Some(false) => {
                // Nothing keeps others from this file, so each has its own.
                remove_quietly(&temporary);
                let temporary = temporary_path(path);
                let failed = |cause| FsError::new("create", &temporary, cause);
                let file = File::create(&temporary).map_err(failed)?;
                return Ok(Some(Claim {
                    path: path.to_path_buf(),
                    temporary: Some(temporary),
                    file,
                    is_locked: false,
                }));
            }
        }
    }
}

impl Claim {
    /// Removes what processes that were killed have left of this file, and of another that is written under this claim
    /// alone.
    pub(crate) fn remove_leftovers(&self, other: Option<&Path>) {
        if self.is_locked {
            remove_leftovers(&self.path, self.temporary.as_deref());
            if let Some(other) = other {
                remove_leftovers(other, None);
            }
        }
    }

    /// Writes the file and syncs it; it has no name yet, and the claim stays with it.
    ///
    /// # Errors
    ///
    /// [`FsError`], where it could not be written.
    pub(crate) fn write(
        mut self,
        write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    ) -> Result<Unnamed, FsError> {
        let Some(temporary) = self.temporary.clone() else {
            return Err(FsError::new(
                "write",
                &self.path,
                io::ErrorKind::NotFound.into(),
            ));
        };
        let failed = |cause| FsError::new("write", &temporary, cause);
        // What a kill left is cut away.
        self.file.set_len(0).map_err(failed)?;
        let guard = self.file.try_clone().map_err(failed)?;
        let out = BufWriter::new(self.file.try_clone().map_err(failed)?);
        fill(out, &temporary, write, WRITE_BEFORE_SYNC)?;
        let digest = hash_file(&temporary)?;
        self.temporary = None;
        Ok(Unnamed::new(temporary, self.path.clone(), digest, guard))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            remove_quietly(temporary);
        }
    }
}

/// A hidden name beside a file.
fn hidden(path: &Path, number: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{number}{TEMPORARY_ENDING}"));
    path.with_file_name(name)
}

/// Whether an open file is the one at a path.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (Ok(open), Ok(there)) = (file.metadata(), path.symlink_metadata()) else {
        return false;
    };
    (open.dev(), open.ino()) == (there.dev(), there.ino())
}

#[cfg(not(unix))]
fn is_at(_file: &File, _path: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[cfg(unix)]
    #[test]
    fn a_name_has_one_writer_and_a_loser_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let first = claim(&path).unwrap().unwrap();
        assert!(claim(&path).unwrap().is_none());
        std::fs::write(folder.path().join(".a.jsonl.7.tmp"), "half").unwrap();
        first.remove_leftovers(None);
        let unnamed = first.write(|out| out.write_all(b"whole")).unwrap();
        // While it has no name it still has its writer.
        assert!(claim(&path).unwrap().is_none());
        assert_eq!(names(folder.path()), [".a.jsonl.0.tmp"]);
        assert!(unnamed.name().unwrap().is_some());
        assert_eq!(names(folder.path()), ["a.jsonl"]);
        // A later writer gets a file of its own, and never that which has the name now.
        let second = claim(&path).unwrap().unwrap();
        let unnamed = second.write(|out| out.write_all(b"other")).unwrap();
        assert!(unnamed.name().unwrap().is_none());
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert_eq!(names(folder.path()), ["a.jsonl"]);
    }

    #[cfg(unix)]
    #[test]
    fn what_a_kill_left_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        std::fs::write(folder.path().join(".a.jsonl.0.tmp"), "a long half").unwrap();
        let claimed = claim(&path).unwrap().unwrap();
        claimed
            .write(|out| out.write_all(b"whole"))
            .unwrap()
            .name()
            .unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        drop(claim(&path).unwrap());
        assert_eq!(names(folder.path()), ["a.jsonl"]);
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let failed = claim(&path).unwrap().unwrap().write(|out| {
            out.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert!(failed.err().unwrap().is_full());
        assert_eq!(names(folder.path()), [""; 0]);
    }
}
