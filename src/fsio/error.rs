//! A file operation that failed: which, where, and what helps.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A file operation that failed.
#[derive(Debug)]
pub struct FsError {
    /// What was tried, as a verb with its object's preposition: `write`, `sync`, `rename`.
    pub operation: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// What the system said.
    pub cause: io::Error,
}

impl FsError {
    /// Names the operation and the path that an i/o error belongs to.
    pub fn new(operation: &'static str, path: &Path, cause: io::Error) -> Self {
        Self {
            operation,
            path: path.to_path_buf(),
            cause,
        }
    }

    /// What helps where the path leads to no folder.
    fn cure_of_path(&self) -> Option<&'static str> {
        #[cfg(unix)]
        if self.cause.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
            return Some(
                "a symbolic link on this path leads to itself: remove it, or name another path",
            );
        }
        let is_blocked = matches!(
            self.cause.kind(),
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists
        );
        is_blocked.then_some(
            "a file has the name that a folder on this path needs: move it away, or name another path",
        )
    }

    /// Whether the disk or the quota is full.
    pub fn is_full(&self) -> bool {
        is_full(&self.cause)
    }
}

impl fmt::Display for FsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot {} `{}`: {}",
            self.operation,
            self.path.display(),
            self.cause
        )?;
        if self.is_full() {
            f.write_str("\nhint: free some space there, then run the same command again")?;
        }
        if let Some(cure) = self.cure_of_path() {
            write!(f, "\nhint: {cure}")?;
        }
        if self.cause.kind() == io::ErrorKind::FileTooLarge {
            write!(
                f,
                "\nhint: {}, then run the same command again",
                size_limit()
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for FsError {}

/// What allows no larger file here, and what helps.
fn size_limit() -> String {
    #[cfg(unix)]
    if let Some(bytes) = rustix::process::getrlimit(rustix::process::Resource::Fsize).current {
        return format!(
            "a file may have {bytes} bytes at most here (`ulimit -f`): raise that limit"
        );
    }
    "this file system allows no larger file: choose another place".to_owned()
}

/// Whether an i/o error says that the disk or the quota is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_through_a_file_or_a_loop_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let mut paths = vec![(file.join("parts"), "move it away")];
        #[cfg(unix)]
        {
            let link = folder.path().join("loop");
            std::os::unix::fs::symlink("loop", &link).unwrap();
            paths.push((link.join("parts"), "leads to itself"));
        }
        for (path, cure) in paths {
            let cause = std::fs::create_dir_all(&path).unwrap_err();
            let text = FsError::new("create", &path, cause).to_string();
            assert!(text.contains(cure), "{text}");
        }
    }
}
