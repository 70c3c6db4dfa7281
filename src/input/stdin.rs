//! Standard input to a file in the output folder, so that a resume can read it again.

use std::io::{self, Read};
use std::path::Path;

use super::error::InputError;
use crate::fsio::{self, FsError};

/// Copies a stream to its end into a file, whose folder is made; the name stands only once all is
/// there.
///
/// # Errors
/// [`InputError::Copy`]
pub fn copy_stdin(mut reader: impl Read, to: &Path) -> Result<(), InputError> {
    if let Some(folder) = to.parent() {
        fsio::create_dir_all(folder)
            .map_err(|cause| InputError::Copy(FsError::new("create", folder, cause)))?;
    }
    fsio::write_atomic(to, |out| io::copy(&mut reader, out).map(drop))
        .map(drop)
        .map_err(InputError::Copy)
}
