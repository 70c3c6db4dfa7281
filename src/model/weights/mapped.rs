//! A file of weights in memory: mapped for what is looked at, read for what is copied as it is.
//!
//! Pages of the map count as memory of the process once they were looked at. What has been turned into something else
//! gives them back, so that weights are not held twice.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::Mmap;

use super::super::ModelError;
use crate::download;

/// A mapped file; it is the slice of its bytes.
pub(super) struct MappedFile {
    map: Mmap,
    #[cfg_attr(
        not(unix),
        expect(dead_code, reason = "elsewhere bytes are copied out of the map")
    )]
    file: File,
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl MappedFile {
    /// Maps a file.
    ///
    /// # Errors
    ///
    /// [`ModelError::File`] where it is something else, [`ModelError::Io`] where it cannot be read.
    #[expect(
        unsafe_code,
        reason = "memory maps are unsafe because another process may change the file"
    )]
    pub(super) fn open(path: &Path) -> Result<Self, ModelError> {
        let file = download::open(path).map_err(ModelError::unusable(path))?;
        // SAFETY: the map is read only, every access is bounds-checked against its length, and any bytes
        // are valid numbers. A file that another process truncates while it is mapped ends this one with
        // a bus error; weights are not written while a job runs.
        let map = unsafe { Mmap::map(&file) }.map_err(ModelError::io(path))?;
        Ok(Self { map, file })
    }

    /// Copies bytes from place `start` on, without a page of the map.
    ///
    /// # Errors
    ///
    /// What the system says; the end of the file where it has become shorter.
    pub(super) fn read(&self, start: usize, out: &mut [u8]) -> io::Result<()> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::FileExt;
            self.file.read_exact_at(out, start as u64)
        }
        #[cfg(not(unix))]
        {
            out.copy_from_slice(&self.map[start..start + out.len()]);
            Ok(())
        }
    }

    /// Gives back the pages of these bytes; a later look at them reads them again.
    #[cfg_attr(
        unix,
        expect(
            unsafe_code,
            reason = "the advice would lose what was written to a map"
        )
    )]
    pub(super) fn forget(&self, bytes: Range<usize>) {
        #[cfg(unix)]
        {
            use memmap2::UncheckedAdvice;
            let (start, count) = (bytes.start, bytes.len());
            // Where it is refused, nothing is lost but memory.
            // SAFETY: the map is read only, so that its pages hold the file's bytes and nothing else.
            let _ = unsafe {
                self.map
                    .unchecked_advise_range(UncheckedAdvice::DontNeed, start, count)
            };
        }
        #[cfg(not(unix))]
        let _ = bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_there_after_their_pages_were_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytes");
        let bytes: Vec<u8> = (0..100_000_u32).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let mapped = MappedFile::open(&path).unwrap();
        assert!(*mapped == bytes[..]);
        for range in [0..0, 5_000..90_000, 99_999..100_000, 0..100_000] {
            mapped.forget(range);
            assert!(*mapped == bytes[..]);
        }
        let mut some = [0; 300];
        mapped.read(4_000, &mut some).unwrap();
        assert_eq!(some, bytes[4_000..4_300]);
        assert!(mapped.read(99_800, &mut some).is_err());
    }
}
