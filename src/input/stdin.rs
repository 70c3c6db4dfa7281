//! Standard input to a file in the output folder, so that a resume can read it again.

use std::io::{self, Read, Write};
use std::path::Path;

use super::error::InputError;
use crate::fsio::{self, FsError};

/// Bytes that are copied between two looks for a signal.
const BLOCK_BYTES: usize = 64 << 10;

/// Copies a stream to its end into a file, whose folder is made; the name stands only once all is
/// there. A signal that ends the writer at the other end ends the stream too: what came by then is not
/// taken for the whole.
///
/// # Errors
/// [`InputError::Copy`]; [`InputError::Interrupted`].
pub fn copy_stdin(
    mut reader: impl Read,
    to: &Path,
    is_interrupted: &dyn Fn() -> bool,
) -> Result<(), InputError> {
    if let Some(folder) = to.parent() {
        fsio::create_dir_all(folder)
            .map_err(|cause| InputError::Copy(FsError::new("create", folder, cause)))?;
    }
    let copied = fsio::write_atomic(to, |out| {
        let mut block = vec![0; BLOCK_BYTES];
        loop {
            let read = reader.read(&mut block);
            if is_interrupted() {
                return Err(io::Error::other("interrupted"));
            }
            let length = match read {
                // Another signal than ours: nothing is lost, the read begins again.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            if length == 0 {
                return Ok(());
            }
            out.write_all(&block[..length])?;
        }
    });
    match copied {
        Err(_) if is_interrupted() => Err(InputError::Interrupted),
        copied => copied.map(drop).map_err(InputError::Copy),
    }
}
