//! A folder with damage to one without: what is wrong moves to `damaged/`, its windows leave the
//! manifest, and the next run makes them again.
//!
//! Invariants: nothing changes before all folders of the job, those of its phases too, are locked. The record of a phase
//! that has none comes first, because it tells which files are the phase's. A window leaves the results before it leaves the phases that they are made of, and a manifest before its file moves:
//! stopped between, nothing is committed that was made of what is gone, and what is damaged is still found.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::fsio;
use crate::ids::{ShardId, WindowId};
use crate::stop::StopFlag;

use super::lock::{Claim, JobLock, LockOptions, claim};
use super::steps::{self, Step};
use super::verify::verify_step;
use super::{
    CheckpointError, Manifest, OutputFolder, Problem, ProblemKind, StoredJob, VerifyReport,
};

/// What was mended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// What was found in the folder of the results, and mended.
    pub found: VerifyReport,
    /// Files that were moved or cut, and where their damaged content is now.
    pub moved: Vec<(PathBuf, PathBuf)>,
    /// Records of phases that were written again.
    pub written: Vec<PathBuf>,
    /// Windows that the next run makes again.
    pub windows: Vec<WindowId>,
}

/// Looks for damage while nothing else writes, and moves it out of the way. A window that a phase loses is lost to the
/// later phases and to the results too, because they are made of it.
///
/// # Errors
///
/// [`CheckpointError::Locked`], while any shard of the job or of a phase is written, and nothing is changed then;
/// [`CheckpointError::Damaged`], where `job.json` itself is, which only `glm-batch run --restart` cures;
/// [`CheckpointError::Fs`].
pub fn repair(
    folder: &OutputFolder,
    options: &LockOptions,
) -> Result<RepairReport, CheckpointError> {
    let held = HeldJob::new(folder, options)?;
    let mut repaired = RepairReport::default();
    for step in held.steps()? {
        if step.wrong.is_some() {
            repaired.write_record(&step)?;
        }
    }
    let steps = held.steps()?;
    let mut found = Vec::new();
    let mut lost = Vec::new();
    for (step, of_step) in steps.iter().zip(steps::problems(&steps, None)?) {
        let mut report = verify_step(step, None, &StopFlag::default())?;
        report.problems.extend(of_step);
        lost.extend(lost_windows(step, &report.problems));
        found.push((report, lost.clone()));
    }
    for (step, (report, lost)) in steps.iter().zip(&found).rev() {
        repaired.mend(step, &report.problems, lost)?;
    }
    repaired.windows.extend(lost);
    repaired.windows.sort_unstable();
    repaired.windows.dedup();
    if let Some((results, _)) = found.pop() {
        repaired.found = results;
    }
    Ok(repaired)
}

/// The folders of a job and of its phases, to none of which anything else writes.
struct HeldJob {
    folder: OutputFolder,
    _locks: Vec<(JobLock, Vec<Claim>)>,
}

impl HeldJob {
    fn new(folder: &OutputFolder, options: &LockOptions) -> Result<Self, CheckpointError> {
        let record = StoredJob::existing(folder)?.record;
        let phases = record.spec.phases().into_iter();
        let phases = phases.map(|phase| folder.phase(phase));
        let mut locks = Vec::new();
        for folder in std::iter::once(folder.clone()).chain(phases) {
            // A copy may lack the folders that were empty.
            OutputFolder::open(folder.root())?;
            let job_lock = JobLock::acquire(&folder, options)?;
            let claims = (0..record.spec.shards)
                .map(|shard| claim(&folder, ShardId(shard), options))
                .collect::<Result<_, _>>()?;
            locks.push((job_lock, claims));
        }
        Ok(Self {
            folder: folder.clone(),
            _locks: locks,
        })
    }

    fn steps(&self) -> Result<Vec<Step>, CheckpointError> {
        steps::of_job(&self.folder, StoredJob::existing(&self.folder)?)
    }
}

/// Windows that have to be made again because of damage in the folder of a step.
fn lost_windows(step: &Step, problems: &[Problem]) -> Vec<WindowId> {
    let record = &step.job.record;
    let mut lost = Vec::new();
    for problem in problems {
        match problem.kind {
            ProblemKind::Committed(window) => lost.push(window),
            // What it named is not known.
            ProblemKind::Manifest(shard) => {
                let windows = record.input.windows.iter().map(|span| span.id);
                lost.extend(windows.filter(|id| id.shard(record.spec.shards) == shard));
            }
            ProblemKind::Job
            | ProblemKind::PhaseJob
            | ProblemKind::Journal { .. }
            | ProblemKind::Stray => {}
        }
    }
    lost
}

impl RepairReport {
    /// Writes the record of a phase again, from that of the job.
    fn write_record(&mut self, step: &Step) -> Result<(), CheckpointError> {
        let path = step.folder.job_file();
        self.move_away(&step.folder, &path)?;
        step.job.record.create(&step.folder)?;
        self.written.push(path);
        Ok(())
    }

    /// Takes the lost windows out of a folder, then moves its damaged files away.
    fn mend(
        &mut self,
        step: &Step,
        problems: &[Problem],
        lost: &[WindowId],
    ) -> Result<(), CheckpointError> {
        let folder = &step.folder;
        for problem in problems {
            if let ProblemKind::Manifest(_) = problem.kind {
                self.move_away(folder, &problem.path)?;
            }
        }
        let (job, shards) = (&step.job.fingerprint, step.job.record.spec.shards);
        for shard in (0..shards).map(ShardId) {
            let mut manifest = Manifest::load_or_new(folder, job, shard, shards)?;
            if lost.iter().any(|&window| manifest.contains(window)) {
                manifest.take_out(folder, lost)?;
            }
        }
        for problem in problems {
            match problem.kind {
                ProblemKind::Committed(_) | ProblemKind::Stray => {
                    self.move_away(folder, &problem.path)?;
                }
                ProblemKind::Journal { sound_bytes } => {
                    self.cut_journal(folder, &problem.path, sound_bytes)?;
                }
                ProblemKind::Job | ProblemKind::PhaseJob | ProblemKind::Manifest(_) => {}
            }
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
