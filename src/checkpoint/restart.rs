//! An output folder moved away, or removed where it was a trial, so that the job can begin anew.
//!
//! Nothing moves while another process writes: the job's lock and all shards' locks are held meanwhile.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::fsio::{self, FsError};

use super::lock::{Claim, JobLock, LockOptions, claim};
use super::{CheckpointError, JobRecord, OutputFolder, record};

/// Moves a job's folder to the first free `OUT.old-N` and says where; `None` where no job has begun there. Where
/// `OUT` is a symbolic link, that happens to the folder behind it, and the link leads to an empty one then.
///
/// # Errors
///
/// [`CheckpointError::Locked`], while any lock is held; [`CheckpointError::Unmovable`], where the folder cannot be
/// renamed; [`CheckpointError::Fs`].
pub fn restart(root: &Path, options: &LockOptions) -> Result<Option<PathBuf>, CheckpointError> {
    let link = root;
    let root = &behind_links(link);
    let folder = OutputFolder::at(root);
    let Some(_locks) = lock_all(&folder, options)? else {
        return Ok(None);
    };
    let to = fsio::free_path(|number| beside(root, &format!(".old-{number}")));
    fsio::rename_synced(root, &to).map_err(unmovable)?;
    if root != link {
        fsio::create_dir_all(root).map_err(|cause| FsError::new("create", root, cause))?;
    }
    for moved in OutputFolder::at(&to).with_phases() {
        for shard in moved.locked_shards() {
            fsio::remove_synced(&moved.owner(shard))?;
        }
    }
    Ok(Some(to))
}

fn unmovable(error: FsError) -> CheckpointError {
    let cure = match error.cause.kind() {
        ErrorKind::ResourceBusy => {
            "it is a mount point: let `output.path` name a folder below it, or move what it holds away by hand"
        }
        ErrorKind::CrossesDevices => {
            "it lies on another file system than the folder that holds it: let `output.path` name a folder below it, or move what it holds away by hand"
        }
        _ => "choose another `output.path`, or move the folder away by hand",
    };
    CheckpointError::Unmovable { error, cure }
}

/// The folder itself, where its path is a symbolic link.
fn behind_links(root: &Path) -> PathBuf {
    if root.is_symlink() {
        root.canonicalize().unwrap_or_else(|_| root.to_path_buf())
    } else {
        root.to_path_buf()
    }
}

/// Removes the folder of a trial, if there is one; of a symbolic link, the folder behind it.
///
/// # Errors
///
/// [`CheckpointError::NoTrial`], where the folder holds anything else; [`CheckpointError::Locked`], while any lock is
/// held; [`CheckpointError::Fs`].
pub fn discard(root: &Path, options: &LockOptions) -> Result<(), CheckpointError> {
    let folder = OutputFolder::at(root);
    if fsio::is_empty_or_absent(root) {
        return Ok(());
    }
    let Some(_locks) = lock_all(&folder, options)? else {
        return Err(CheckpointError::NoTrial {
            path: root.to_path_buf(),
        });
    };
    let is_trial = match JobRecord::load(&folder) {
        Ok(Some(record)) => record.trial.is_some(),
        // A trial that ended before it had read the input.
        Ok(None) => folder.is_untouched(),
        Err(_) => false,
    };
    if !is_trial {
        return Err(CheckpointError::NoTrial {
            path: root.to_path_buf(),
        });
    }
    Ok(fsio::remove_folder(&behind_links(root))?)
}

/// Takes every lock of a folder; `None` where it is not the folder of a job.
fn lock_all(
    folder: &OutputFolder,
    options: &LockOptions,
) -> Result<Option<(JobLock, Vec<Claim>)>, CheckpointError> {
    // Somebody's other folder must never be moved.
    if !record::is_of_a_job(folder)? {
        return Ok(None);
    }
    // A copy may lack the folders that were empty.
    OutputFolder::open(folder.root())?;
    let Some(job) = JobLock::try_acquire(folder)? else {
        return Err(CheckpointError::Locked {
            shard: None,
            owner: None,
        });
    };
    let mut claims = Vec::new();
    for folder in folder.with_phases() {
        for shard in folder.locked_shards() {
            claims.push(claim(&folder, shard, options)?);
        }
    }
    Ok(Some((job, claims)))
}

/// `OUT` with an ending after its whole name.
fn beside(root: &Path, ending: &str) -> PathBuf {
    let mut name = root.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    root.with_file_name(name)
}
