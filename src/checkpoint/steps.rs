//! The steps of a job to what the later ones have committed and the earlier ones have lost.
//!
//! A window of a later step is made of the same window of the step before, which is committed first and taken out last.
//! So a window that only the later step has was lost by the earlier one: its manifest is gone, or was put back from an
//! older copy.

use crate::ids::{ShardId, WindowId};

use super::manifest::Manifest;
use super::verify::{Problem, ProblemKind};
use super::{CheckpointError, OutputFolder, StoredJob};

/// Windows that a step has lost, of one shard.
pub(super) struct Lost {
    shard: ShardId,
    pub(super) windows: Vec<WindowId>,
    /// Whether the shard's manifest is gone.
    has_no_manifest: bool,
}

/// The windows that `later` has committed and the step before it has not, by shard. A manifest that cannot be read tells
/// nothing here, because it is damage of its own.
///
/// # Errors
///
/// [`CheckpointError::Fs`].
pub(super) fn lost(
    earlier: &OutputFolder,
    later: &OutputFolder,
    only: Option<ShardId>,
) -> Result<Vec<Lost>, CheckpointError> {
    let mut all = Vec::new();
    let (Some(before), Some(after)) = (stored(earlier)?, stored(later)?) else {
        return Ok(all);
    };
    let shards = after.record.spec.shards;
    let asked = (0..shards).map(ShardId);
    for shard in asked.filter(|shard| only.is_none_or(|only| only == *shard)) {
        // The later step is looked at first: what a run commits meanwhile is in the earlier one before.
        let Some(made) = manifest(later, &after, shard)? else {
            continue;
        };
        let Some(there) = manifest(earlier, &before, shard)? else {
            continue;
        };
        let windows = made.windows().keys().copied();
        let windows: Vec<WindowId> = windows.filter(|&id| !there.contains(id)).collect();
        if !windows.is_empty() {
            all.push(Lost {
                shard,
                windows,
                has_no_manifest: !earlier.manifest(shard).exists(),
            });
        }
    }
    Ok(all)
}

/// The same as problems of the later step, whose windows have to be made again; `name` is that of the earlier one.
///
/// # Errors
///
/// As [`lost`].
pub(super) fn problems(
    name: &str,
    earlier: &OutputFolder,
    later: &OutputFolder,
    only: Option<ShardId>,
) -> Result<Vec<Problem>, CheckpointError> {
    let mut problems = Vec::new();
    for lost in lost(earlier, later, only)? {
        if lost.has_no_manifest {
            problems.push(Problem {
                path: earlier.manifest(lost.shard),
                kind: ProblemKind::Manifest(lost.shard),
                reason: "is gone, and results were made of what it named".to_owned(),
            });
            continue;
        }
        let manifest = manifest_of(later, lost.shard)?;
        let parts = manifest.iter().flat_map(Manifest::windows);
        let parts = parts.filter(|(id, _)| lost.windows.contains(id));
        problems.extend(parts.map(|(&id, window)| Problem {
            path: later.entry(&window.part.name),
            kind: ProblemKind::Committed(id),
            reason: format!("was made of a window that the phase `{name}` has lost"),
        }));
    }
    Ok(problems)
}

fn manifest_of(folder: &OutputFolder, shard: ShardId) -> Result<Option<Manifest>, CheckpointError> {
    match stored(folder)? {
        Some(job) => manifest(folder, &job, shard),
        None => Ok(None),
    }
}

/// The record of a step's job; `None` where it cannot be read.
fn stored(folder: &OutputFolder) -> Result<Option<StoredJob>, CheckpointError> {
    readable(StoredJob::load(folder)).map(Option::flatten)
}

fn manifest(
    folder: &OutputFolder,
    job: &StoredJob,
    shard: ShardId,
) -> Result<Option<Manifest>, CheckpointError> {
    let shards = job.record.spec.shards;
    readable(Manifest::load_or_new(
        folder,
        &job.fingerprint,
        shard,
        shards,
    ))
}

fn readable<T>(read: Result<T, CheckpointError>) -> Result<Option<T>, CheckpointError> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error @ (CheckpointError::Fs(_) | CheckpointError::DiskFull(_))) => Err(error),
        Err(_) => Ok(None),
    }
}
