//! One process that sets the job up.

use std::fs::File;

use super::{FileLock, LockOptions, TRIES, try_lock};
use crate::checkpoint::{CheckpointError, OutputFolder};

/// The right to set the job up: first pass and `job.json`. Given back when dropped. Where the file system knows
/// no locks every process has it: `job.json` is made once all the same.
#[derive(Debug)]
pub(crate) struct JobLock {
    file: Option<File>,
}

impl JobLock {
    /// Waits for the lock.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Interrupted`]; [`CheckpointError::Fs`].
    pub(crate) fn acquire(
        folder: &OutputFolder,
        options: &LockOptions,
    ) -> Result<Self, CheckpointError> {
        loop {
            if let Some(lock) = Self::try_acquire(folder)? {
                return Ok(lock);
            }
            options.wait()?;
        }
    }

    /// As [`JobLock::acquire`], for a run that may be the first in its folder. A run that is refused there at the same
    /// time takes back the folders that it has made, so they are made again under the lock.
    ///
    /// # Errors
    ///
    /// As [`JobLock::acquire`]; those of [`OutputFolder::open`].
    pub(crate) fn acquire_first(
        folder: &OutputFolder,
        options: &LockOptions,
    ) -> Result<Self, CheckpointError> {
        for _ in 0..TRIES {
            match Self::acquire(folder, options) {
                Ok(lock) => {
                    OutputFolder::open(folder.root())?;
                    return Ok(lock);
                }
                // The folder of the locks was taken away before the lock was there.
                Err(CheckpointError::Locked { shard: None, .. }) => {
                    OutputFolder::open(folder.root())?;
                }
                Err(error) => return Err(error),
            }
        }
        Self::acquire(folder, options)
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Fs`].
    pub(crate) fn try_acquire(folder: &OutputFolder) -> Result<Option<Self>, CheckpointError> {
        Ok(match try_lock(&folder.job_lock())? {
            FileLock::Taken(file) => Some(Self { file: Some(file) }),
            FileLock::Unknown(_) => Some(Self { file: None }),
            FileLock::Held => None,
        })
    }

    /// Whether the lock keeps others away: not where the file system has no locks.
    pub(in crate::checkpoint) fn is_held(&self) -> bool {
        self.file.is_some()
    }
}
