//! A folder with damage to one without: what is wrong moves to `damaged/`, its windows leave the
//! manifest, and the next run makes them again.
//!
//! A window leaves the manifest before its file moves: stopped between, the file is a leftover that the
//! next run replaces.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::fsio;
use crate::ids::{ShardId, WindowId};
use crate::stop::StopFlag;

use super::lock::{JobLock, LockOptions, claim};
use super::verify::verify_folder;
use super::{
    CheckpointError, Manifest, OutputFolder, Problem, ProblemKind, StoredJob, VerifyReport,
};

/// What was mended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// What was found, and mended.
    pub found: VerifyReport,
    /// Files that were moved or cut, and where their damaged content is now.
    pub moved: Vec<(PathBuf, PathBuf)>,
    /// Windows that the next run makes again.
    pub windows: Vec<WindowId>,
}

/// Looks for damage while nothing else writes, and moves it out of the way. A window that a phase loses is lost to the
/// later phases and to the results too, because they are made of it.
///
/// # Errors
///
/// [`CheckpointError::Locked`], while any shard is written; [`CheckpointError::Damaged`], where `job.json` itself
/// is, which only `glm-batch run --restart` cures; [`CheckpointError::Fs`].
pub fn repair(
    folder: &OutputFolder,
    options: &LockOptions,
) -> Result<RepairReport, CheckpointError> {
    let phases = StoredJob::existing(folder)?.record.spec.phases();
    let mut before = RepairReport::default();
    for phase in phases {
        let of_phase = folder.phase(phase);
        if of_phase.job_file().is_file() {
            let repaired = repair_folder(&of_phase, options, &before.windows)?;
            before.moved.extend(repaired.moved);
            before.windows.extend(repaired.windows);
        }
    }
    let mut repaired = repair_folder(folder, options, &before.windows)?;
    repaired.moved.splice(0..0, before.moved);
    repaired.windows.extend(before.windows);
    repaired.windows.sort_unstable();
    repaired.windows.dedup();
    Ok(repaired)
}

/// Mends one folder, and takes out the windows that were lost before.
fn repair_folder(
    folder: &OutputFolder,
    options: &LockOptions,
    lost: &[WindowId],
) -> Result<RepairReport, CheckpointError> {
    StoredJob::existing(folder)?;
    // A copy may lack the folders that were empty.
    OutputFolder::open(folder.root())?;
    let _job = JobLock::acquire(folder, options)?;
    let StoredJob {
        record,
        fingerprint,
    } = StoredJob::existing(folder)?;
    let shards = record.spec.shards;
    let _claims = (0..shards)
        .map(|shard| claim(folder, ShardId(shard), options))
        .collect::<Result<Vec<_>, _>>()?;
    let mut repaired = RepairReport {
        found: verify_folder(folder, None, &StopFlag::default())?,
        ..RepairReport::default()
    };
    let problems = std::mem::take(&mut repaired.found.problems);
    for problem in &problems {
        if let ProblemKind::Manifest(shard) = problem.kind {
            repaired.move_away(folder, &problem.path)?;
            let lost = record.input.windows.iter().map(|span| span.id);
            repaired
                .windows
                .extend(lost.filter(|window| window.shard(shards) == shard));
        }
    }
    for shard in (0..shards).map(ShardId) {
        let mut windows = committed(&problems, shard, shards);
        let manifest = Manifest::load_or_new(folder, &fingerprint, shard, shards)?;
        windows.extend(lost.iter().filter(|&&window| manifest.contains(window)));
        windows.sort_unstable();
        windows.dedup();
        repaired.take_out(folder, manifest, windows)?;
    }
    for problem in &problems {
        match problem.kind {
            ProblemKind::Committed(_) | ProblemKind::Stray => {
                repaired.move_away(folder, &problem.path)?;
            }
            ProblemKind::Journal { sound_bytes } => {
                repaired.cut_journal(folder, &problem.path, sound_bytes)?;
            }
            ProblemKind::Job | ProblemKind::Manifest(_) => {}
        }
    }
    repaired.found.problems = problems;
    Ok(repaired)
}

/// Windows of a shard that have a damaged file.
fn committed(problems: &[Problem], shard: ShardId, shards: u32) -> Vec<WindowId> {
    let mut windows: Vec<WindowId> = problems
        .iter()
        .filter_map(|problem| match problem.kind {
            ProblemKind::Committed(window) if window.shard(shards) == shard => Some(window),
            _ => None,
        })
        .collect();
    windows.dedup();
    windows
}

impl RepairReport {
    fn take_out(
        &mut self,
        folder: &OutputFolder,
        mut manifest: Manifest,
        windows: Vec<WindowId>,
    ) -> Result<(), CheckpointError> {
        if !windows.is_empty() {
            manifest.take_out(folder, &windows)?;
            self.windows.extend(windows);
        }
        Ok(())
    }

    fn move_away(&mut self, folder: &OutputFolder, path: &Path) -> Result<(), CheckpointError> {
        if path.symlink_metadata().is_ok() {
            let to = free_name(folder, path)?;
            fsio::rename_synced(path, &to)?;
            self.moved.push((path.to_path_buf(), to));
        }
        Ok(())
    }

    /// Keeps the whole journal in `damaged/` and its sound lines in their place.
    fn cut_journal(
        &mut self,
        folder: &OutputFolder,
        path: &Path,
        sound_bytes: u64,
    ) -> Result<(), CheckpointError> {
        let content = std::fs::read(path).map_err(|cause| CheckpointError::read(path, cause))?;
        let to = free_name(folder, path)?;
        fsio::write_atomic(&to, |out| out.write_all(&content))?;
        let mut file = fsio::open_append(path)?;
        fsio::truncate_synced(&mut file, path, sound_bytes)?;
        self.moved.push((path.to_path_buf(), to));
        Ok(())
    }
}

/// A name in `damaged/` that is not taken: the file's folder and name, then a number.
fn free_name(folder: &OutputFolder, path: &Path) -> Result<PathBuf, CheckpointError> {
    let damaged = folder.damaged();
    fsio::create_dir_all(&damaged)
        .map_err(|cause| fsio::FsError::new("create", &damaged, cause))?;
    let name = folder.name_of(path).replace('/', "-");
    Ok(fsio::free_path(|number| {
        damaged.join(format!("{name}.{number}"))
    }))
}
