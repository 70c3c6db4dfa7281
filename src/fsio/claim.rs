//! The name of a file to the one process that writes it.
//!
//! The hidden file that the content is written to is locked meanwhile, so that a second process learns at once that it
//! comes too late, and nothing takes away what another one is writing. The lock goes with the process: what a kill
//! leaves is written over by the next one. Where a file system or an operating system has no such locks, a claim is
//! given to everybody, and only the name itself can still be taken.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::append::open_lock;
use super::error::FsError;
use super::folders::remove_quietly;
use super::hash::hash_file;
use super::points::{WRITE_BEFORE_CREATE, WRITE_BEFORE_SYNC, failpoint};
use super::write::{TEMPORARY_ENDING, Unnamed, fill, remove_leftovers, temporary_path};
use crate::stop::StopFlag;

/// The number in the name of a hidden file that is locked; no process has it.
const LOCKED: &str = "0";

/// Time between two looks at a name that another process has.
const POLL: Duration = Duration::from_millis(50);

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
    take(path)
}

/// Claims the name of a file once no other process has it; `None` where the wait is to stop.
///
/// # Errors
///
/// [`FsError`], where the folder takes no file.
pub(crate) fn wait_for_claim(path: &Path, stop: &StopFlag) -> Result<Option<Claim>, FsError> {
    while !stop.is_requested() {
        if let Some(claim) = take(path)? {
            return Ok(Some(claim));
        }
        thread::sleep(POLL);
    }
    Ok(None)
}

/// Tries to lock a file: whether that is so, or `None` where another process has the lock. It is not so where the file
/// system has no locks, and any other failure is one.
fn try_lock(file: &File) -> io::Result<Option<bool>> {
    match file.try_lock() {
        Ok(()) => Ok(Some(true)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(cause)) if knows_no_locks(&cause) => Ok(Some(false)),
        Err(TryLockError::Error(cause)) => Err(cause),
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

fn take(path: &Path) -> Result<Option<Claim>, FsError> {
    let temporary = hidden(path, LOCKED);
    loop {
        let failed = |cause| FsError::new("create", &temporary, cause);
        let file = match open_lock(&temporary) {
            Ok(file) => file,
            Err(cause) if is_denied(&cause) && temporary.symlink_metadata().is_ok() => {
                return beside_a_stranger(path, &temporary);
            }
            Err(cause) => return Err(failed(cause)),
        };
        // Elsewhere a locked file can neither be read by others nor renamed.
        let locked = if cfg!(unix) {
            try_lock(&file).map_err(failed)?
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
                return Claim::unlocked(path).map(Some);
            }
        }
    }
}

fn is_denied(cause: &io::Error) -> bool {
    cause.kind() == io::ErrorKind::PermissionDenied
}

/// A claim where the hidden file belongs to another user, and this one may not write it. If no process holds that file
/// any more, a kill has left it there, and the name is free.
fn beside_a_stranger(path: &Path, theirs: &Path) -> Result<Option<Claim>, FsError> {
    let is_written = File::open(theirs).is_ok_and(|file| matches!(try_lock(&file), Ok(None)));
    if is_written {
        return Ok(None);
    }
    Claim::unlocked(path).map(Some)
}

impl Claim {
    /// A claim whose hidden file no other process knows.
    fn unlocked(path: &Path) -> Result<Self, FsError> {
        let temporary = temporary_path(path);
        let failed = |cause| FsError::new("create", &temporary, cause);
        let file = File::create(&temporary).map_err(failed)?;
        Ok(Self {
            path: path.to_path_buf(),
            temporary: Some(temporary),
            file,
            is_locked: false,
        })
    }

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

    #[cfg(unix)]
    #[test]
    fn a_wait_for_a_name_ends_when_it_is_free_and_when_it_is_to_stop() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let first = claim(&path).unwrap().unwrap();
        let stop = StopFlag::default();
        let to_stop = StopFlag::default();
        thread::scope(|scope| {
            let stopped = scope.spawn(|| wait_for_claim(&path, &to_stop).unwrap().is_none());
            to_stop.request();
            assert!(stopped.join().unwrap());
            let waiting = scope.spawn(|| wait_for_claim(&path, &stop).unwrap().is_some());
            drop(first);
            assert!(waiting.join().unwrap());
        });
    }

    /// What a process without the right to write the hidden file does; root has the right to everything.
    #[cfg(unix)]
    #[test]
    fn a_hidden_file_of_another_user_keeps_the_name_only_while_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let theirs = claim(&path).unwrap().unwrap();
        let hidden = folder.path().join(".a.jsonl.0.tmp");
        assert!(beside_a_stranger(&path, &hidden).unwrap().is_none());
        drop(theirs);
        std::fs::write(&hidden, "half").unwrap();
        let ours = beside_a_stranger(&path, &hidden).unwrap().unwrap();
        let unnamed = ours.write(|out| out.write_all(b"whole")).unwrap();
        assert!(unnamed.name().unwrap().is_some());
        assert_eq!(names(folder.path()), [".a.jsonl.0.tmp", "a.jsonl"]);
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
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
