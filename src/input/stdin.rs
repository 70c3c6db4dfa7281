//! Standard input to a file in the output folder, so that a resume can read it again.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

use super::error::InputError;

/// Copies a stream to its end into a file; the name stands only once all is there.
///
/// # Errors
/// [`InputError::Copy`]
pub fn copy_stdin(mut reader: impl Read, to: &Path) -> Result<(), InputError> {
    write_beside(to, |file| io::copy(&mut reader, file).map(drop)).map_err(|source| {
        InputError::Copy {
            path: to.to_owned(),
            source,
        }
    })
}

/// Writes a temporary file beside, syncs it, renames it, syncs the folder.
#[expect(clippy::disallowed_methods, reason = "synced here, before and after")]
fn write_beside(to: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = to.with_file_name(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&temporary)?;
    write(&mut file)?;
    file.sync_all()?;
    std::fs::rename(&temporary, to)?;
    match to.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
