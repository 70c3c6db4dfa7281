//! A local file to what identifies it: size, time and inode by a look, the fingerprint by its bytes.
//!
//! The first pass looks before it reads, so that what it hashes is what it saw. While path, size, time and
//! inode agree, a fingerprint is not computed again. [`Checked`] looks again around every window, because an
//! answer belongs to the bytes that were hashed.

use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use arrow_schema::SchemaRef;

use super::error::InputError;
use super::parquet::footer_fingerprint;
use super::types::{InputFile, InputFormat, InputIndex, InputWindow, Partition, WindowSpan};
use super::{EachRow, PromptSource, TakePrompt};
use crate::fsio;
use crate::job::Rules;
use crate::stop::StopFlag;

/// Path, size, time and inode of a file before it is read.
pub(super) struct Stat {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    modified_ns: u64,
    pub(super) inode: Option<u64>,
}

impl Stat {
    /// Looks at a file. What is not a regular file is refused before it is opened: a pipe would wait.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let found = std::fs::metadata(path)?;
        if !found.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        let modified = found
            .modified()?
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Ok(Self {
            path: std::path::absolute(path)?,
            bytes: found.len(),
            modified_ns: u64::try_from(modified.as_nanos()).unwrap_or(u64::MAX),
            inode: inode(&found),
        })
    }

    /// Whether the file is still the one that an index knows.
    pub(super) fn is(&self, known: &InputFile) -> bool {
        self.path == known.path && self.difference(known).is_none()
    }

    /// What differs from the file that an index knows, in words.
    fn difference(&self, known: &InputFile) -> Option<String> {
        if self.bytes != known.bytes {
            return Some(format!(
                "it has {} bytes, it had {}",
                self.bytes, known.bytes
            ));
        }
        if self.modified_ns != known.modified_ns {
            return Some("it was written to meanwhile".to_owned());
        }
        match (self.inode, known.inode) {
            (Some(now), Some(first)) if now != first => {
                Some("another file was put in its place".to_owned())
            }
            _ => None,
        }
    }

    /// The entry of an index.
    pub(super) fn file(
        &self,
        fingerprint: String,
        rows: u64,
        partition: Vec<Partition>,
    ) -> InputFile {
        InputFile {
            path: self.path.clone(),
            bytes: self.bytes,
            modified_ns: self.modified_ns,
            inode: self.inode,
            fingerprint,
            rows,
            partition,
            earlier: None,
        }
    }
}

/// The number of a file in its file system.
#[cfg(unix)]
#[expect(clippy::unnecessary_wraps, reason = "other systems have none")]
pub(crate) fn inode(found: &Metadata) -> Option<u64> {
    Some(std::os::unix::fs::MetadataExt::ino(found))
}

/// The number of a file in its file system.
#[cfg(not(unix))]
pub(crate) fn inode(_found: &Metadata) -> Option<u64> {
    None
}

/// blake3 of all bytes of a file, in hex; [`io::ErrorKind::Interrupted`], where a signal came.
pub(super) fn hash(path: &Path, stop: &StopFlag) -> io::Result<String> {
    match fsio::hash_file_unless(path, stop) {
        Ok(digest) => Ok(digest.blake3),
        Err(error) => Err(error.cause),
    }
}

/// Refuses a file that is not the one of the index any more.
pub(super) fn check(known: &InputFile) -> Result<(), InputError> {
    let path = || known.path.clone();
    let now = Stat::of(&known.path).map_err(|source| InputError::Io {
        path: path(),
        source,
    })?;
    match now.difference(known) {
        None => Ok(()),
        Some(what) => Err(InputError::Changed { path: path(), what }),
    }
}

/// Looks whether the files of an index are still what it knows: by their bytes, where they were written or moved
/// since. The index then knows them as they are now.
///
/// # Errors
///
/// [`InputError::Io`], where a file is gone; [`InputError::Changed`]; [`InputError::Interrupted`].
pub(crate) fn confirm(
    index: &mut InputIndex,
    rules: Rules,
    stop: &StopFlag,
) -> Result<(), InputError> {
    let by_footer = index.format == InputFormat::Parquet && rules.input_fingerprint == 1;
    for known in &mut index.files {
        let path = known.path.clone();
        let failed = |source| InputError::Io {
            path: path.clone(),
            source,
        };
        let now = Stat::of(&path).map_err(failed)?;
        if now.is(known) {
            continue;
        }
        let what = if now.bytes == known.bytes {
            let fingerprint = if by_footer {
                footer_fingerprint(&path)
            } else {
                hash(&path, stop)
            };
            let fingerprint = fingerprint.map_err(|cause| match cause.kind() {
                io::ErrorKind::Interrupted => InputError::Interrupted,
                _ => failed(cause),
            })?;
            (fingerprint != known.fingerprint).then(|| "its bytes are others".to_owned())
        } else {
            now.difference(known)
        };
        if let Some(what) = what {
            return Err(InputError::Changed { path, what });
        }
        known.modified_ns = now.modified_ns;
        known.inode = now.inode;
    }
    Ok(())
}

/// A source that gives a window only where its files are, before and after it was read, the ones of the
/// index.
pub(super) struct Checked<S> {
    pub(super) index: Arc<InputIndex>,
    pub(super) source: S,
}

impl<S: PromptSource> PromptSource for Checked<S> {
    fn read_rows(&self, window: &WindowSpan, each: EachRow<'_>) -> Result<InputWindow, InputError> {
        self.check_unchanged(window)?;
        let read = self.source.read_rows(window, each);
        // A file that is written while it is read looks damaged: the user needs to know that it changed.
        self.check_unchanged(window)?;
        read
    }

    fn read_prompts(&self, window: &WindowSpan, take: TakePrompt<'_>) -> Result<(), InputError> {
        self.check_unchanged(window)?;
        let read = self.source.read_prompts(window, take);
        self.check_unchanged(window)?;
        read
    }

    fn keep_turns(&mut self) {
        self.source.keep_turns();
    }

    fn stop_with(&mut self, stop: &StopFlag) {
        self.source.stop_with(stop);
    }

    fn check_unchanged(&self, window: &WindowSpan) -> Result<(), InputError> {
        self.index.files_of(window).try_for_each(check)
    }

    fn arrow_schema(&self) -> Option<SchemaRef> {
        self.source.arrow_schema()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_that_ends_early_is_none() {
        let path = Path::new(file!());
        assert!(hash(path, &StopFlag::default()).is_ok());
        let interrupted = hash(path, &StopFlag::asking(|| true)).unwrap_err();
        assert_eq!(interrupted.kind(), io::ErrorKind::Interrupted);
    }
}
