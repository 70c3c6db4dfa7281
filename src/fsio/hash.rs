//! A file to its size and hash.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::stop::StopFlag;

use super::error::FsError;

/// Bytes that are hashed at once, by all cores.
const HASH_BLOCK_BYTES: u64 = 1 << 20;

/// Size and blake3 hash of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// Size in bytes.
    pub bytes: u64,
    /// blake3 of the content, in hex.
    pub blake3: String,
}

/// Hashes a file, which is read once from start to end.
///
/// # Errors
///
/// [`FsError`], where it cannot be read.
pub(super) fn hash_file(path: &Path) -> Result<FileDigest, FsError> {
    hash_file_unless(path, &StopFlag::default())
}

/// As [`hash_file`], block by block on all cores, so that it can be interrupted.
///
/// # Errors
///
/// As [`hash_file`]; its cause is [`io::ErrorKind::Interrupted`] where, and only where, it was interrupted.
pub(crate) fn hash_file_unless(path: &Path, stop: &StopFlag) -> Result<FileDigest, FsError> {
    let read_error = |cause| FsError::new("read", path, cause);
    let mut file = File::open(path).map_err(read_error)?;
    let mut hasher = blake3::Hasher::new();
    let mut block = Vec::with_capacity(HASH_BLOCK_BYTES as usize);
    loop {
        if stop.is_requested() {
            return Err(read_error(io::ErrorKind::Interrupted.into()));
        }
        block.clear();
        let mut next = Read::by_ref(&mut file).take(HASH_BLOCK_BYTES);
        if next.read_to_end(&mut block).map_err(read_error)? == 0 {
            break;
        }
        hasher.update_rayon(&block);
    }
    Ok(FileDigest {
        bytes: hasher.count(),
        blake3: hasher.finalize().to_hex().to_string(),
    })
}
