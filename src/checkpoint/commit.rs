//! A finished window to a committed one, and what is left over of commits that were interrupted.
//!
//! Order: the part and the failed rows are written and synced, then the manifest names them, then the
//! journal goes. Stopped anywhere before the manifest, the journal still has every row and the next run
//! writes the same files again; stopped after it, the journal is a leftover.

use std::fs::Metadata;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::fsio::{self, FileDigest, FsError};
use crate::ids::RowId;
use crate::input::{InputFile, InputWindow};
use crate::outcome::Outcomes;
use crate::sink::{ResultSink, SinkError, write_failed};

use super::lock::{self, JobLock, ShardLock};
use super::manifest::{CommittedWindow, FileEntry, Manifest};
use super::totals::{Example, Totals};
use super::{CheckpointError, JobFingerprint, OutputFolder, journal};

/// A window whose every row has an outcome.
#[derive(Clone, Copy)]
pub struct Commit<'a> {
    /// The window.
    pub window: &'a InputWindow,
    /// First row of the window, also where it has none.
    pub first_row: RowId,
    /// Rows of the input in the window, those that are left out too.
    pub rows: u64,
    /// How its rows ended; bad rows may be left out.
    pub outcomes: &'a dyn Outcomes,
    /// Writes the part.
    pub sink: &'a dyn ResultSink,
    /// The input's files, for `failed/`.
    pub files: &'a [InputFile],
    /// Counts for the manifest.
    pub totals: &'a Totals,
    /// Rows for the manifest.
    pub examples: &'a [Example],
}

/// Makes a window's results durable and counts it as done.
///
/// # Errors
///
/// [`CheckpointError::TakenOver`], where another writer has the shard; [`CheckpointError::DiskFull`];
/// [`CheckpointError::Part`]; those of [`Manifest::commit`]. The window is not committed then, and its journal
/// stays.
pub fn commit_window(
    folder: &OutputFolder,
    lock: &ShardLock,
    manifest: &mut Manifest,
    commit: &Commit<'_>,
) -> Result<(), CheckpointError> {
    lock.ensure_mine()?;
    let part = write_part(folder, commit)?;
    let failed = write_failed_rows(folder, commit)?;
    lock.ensure_mine()?;
    let window = CommittedWindow {
        window: commit.window.id,
        first_row: commit.first_row.0,
        rows: commit.rows,
        part,
        failed,
        totals: commit.totals.clone(),
        examples: commit.examples.to_vec(),
    };
    manifest.commit(folder, window)?;
    fsio::remove_synced(&folder.journal(commit.window.id))?;
    Ok(())
}

fn write_part(folder: &OutputFolder, commit: &Commit<'_>) -> Result<FileEntry, CheckpointError> {
    let path = folder.part(commit.window.id, commit.sink.extension());
    let mut refused = None;
    let written = fsio::write_atomic(&path, |out| {
        let mut out = Noting { out, failure: None };
        match commit
            .sink
            .write_part(commit.window, commit.outcomes, &mut out)
        {
            Ok(()) => Ok(()),
            // Formats wrap the system's error in their own; the wrapped one says whether the disk is full.
            Err(error) => Err(out.failure.unwrap_or_else(|| {
                refused = Some(error);
                io::ErrorKind::Other.into()
            })),
        }
    });
    match refused {
        Some(SinkError::Io(cause)) => Err(FsError::new("write", &path, cause).into()),
        Some(cause) => Err(CheckpointError::Part { path, cause }),
        None => Ok(entry(folder, &path, written?)),
    }
}

fn write_failed_rows(
    folder: &OutputFolder,
    commit: &Commit<'_>,
) -> Result<Option<FileEntry>, CheckpointError> {
    let Commit {
        window,
        outcomes,
        files,
        ..
    } = *commit;
    let path = folder.failed(window.id);
    if !window.rows.iter().any(|row| {
        outcomes.failure(row.row).is_some() || (row.outcome.is_err() && !outcomes.has(row.row))
    }) {
        if path.exists() {
            fsio::remove_synced(&path)?;
        }
        return Ok(None);
    }
    let digest = fsio::write_atomic(&path, |out| {
        write_failed(window, outcomes, files, out).map(drop)
    })?;
    Ok(Some(entry(folder, &path, digest)))
}

fn entry(folder: &OutputFolder, path: &Path, digest: FileDigest) -> FileEntry {
    FileEntry {
        name: folder.name_of(path),
        digest,
    }
}

/// A writer that remembers what the system said.
struct Noting<'a, W> {
    out: &'a mut W,
    failure: Option<io::Error>,
}

impl<W: Write> Noting<'_, W> {
    fn note<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| {
            let copy = error.raw_os_error().map_or_else(
                || io::Error::new(error.kind(), error.to_string()),
                io::Error::from_raw_os_error,
            );
            self.failure.get_or_insert(copy);
        })
    }
}

impl<W: Write> Write for Noting<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.out.write(bytes);
        self.note(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.out.flush();
        self.note(result)
    }
}

/// Removes what an interrupted run of this shard left: half-written files, and journals of windows that are
/// committed. To be called by the holder of the shard's lock.
///
/// # Errors
///
/// [`CheckpointError::Fs`].
pub fn clean_leftovers(folder: &OutputFolder, manifest: &Manifest) -> Result<(), CheckpointError> {
    for path in leftovers(folder, manifest) {
        fsio::remove_synced(&path)?;
    }
    Ok(())
}

/// As [`clean_leftovers`], for a shard on which nothing is left to do: where another process is at work, or the
/// folder cannot be written, they stay.
pub(crate) fn clean_finished(folder: &OutputFolder, manifest: &Manifest) {
    if leftovers(folder, manifest).is_empty() {
        return;
    }
    if let Ok(Some(_claim)) = lock::claim_quickly(folder, manifest.shard()) {
        let _ = clean_leftovers(folder, manifest);
    }
}

/// Removes what runs have left that were killed while they set the job up or mended it. A lock that is not held
/// yet is taken; where another process has it, or the folder cannot be written, they stay.
pub(crate) fn clean_job_leftovers(folder: &OutputFolder, held: Option<&JobLock>) {
    let leftovers = folder.job_leftovers();
    if leftovers.is_empty() {
        return;
    }
    let taken = match held {
        Some(_) => None,
        None => JobLock::try_acquire(folder).ok().flatten(),
    };
    if held.is_some() || taken.is_some() {
        for path in leftovers {
            let _ = fsio::remove_synced(&path);
        }
    }
}

fn leftovers(folder: &OutputFolder, manifest: &Manifest) -> Vec<PathBuf> {
    let committed = folder.journalled_windows().into_iter();
    let committed = committed.filter(|&window| manifest.contains(window));
    let mut leftovers = folder.temporary_files(manifest.shard(), manifest.shards());
    leftovers.extend(committed.map(|window| folder.journal(window)));
    leftovers
}

/// Refuses the journals of another job among those of a shard's open windows.
///
/// # Errors
///
/// [`CheckpointError::Stranger`] names the first; [`CheckpointError::Fs`].
pub(crate) fn check_journals(
    folder: &OutputFolder,
    job: &JobFingerprint,
    manifest: &Manifest,
) -> Result<(), CheckpointError> {
    for window in folder.journalled_windows() {
        let is_own = window.shard(manifest.shards()) == manifest.shard();
        if is_own && !manifest.contains(window) {
            journal::check_job(&folder.journal(window), job)?;
        }
    }
    Ok(())
}

/// Checks by stat that every committed file is there in its size, and counts them.
///
/// # Errors
///
/// [`CheckpointError::Changed`] names the first that is not.
pub fn check_sizes(folder: &OutputFolder, manifest: &Manifest) -> Result<u64, CheckpointError> {
    let mut files = 0;
    for window in manifest.windows().values() {
        for file in [Some(&window.part), window.failed.as_ref()]
            .into_iter()
            .flatten()
        {
            files += 1;
            let path = folder.entry(&file.name);
            let found = std::fs::metadata(&path).ok().filter(Metadata::is_file);
            let found = found.map(|metadata| metadata.len());
            if found != Some(file.digest.bytes) {
                return Err(CheckpointError::Changed {
                    path,
                    expected: file.digest.bytes,
                    found,
                });
            }
        }
    }
    Ok(files)
}
