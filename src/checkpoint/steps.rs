//! The steps of a job, its phases and then its results, to what the earlier ones have lost of what the later ones were
//! made of.
//!
//! A window of a later step is made of the same window of the step before, which is committed first and taken out last.
//! So a window that only a later step has was lost by the earlier one: its folder or its manifest is gone, or was put
//! back from an older copy.
//!
//! The record of a phase follows from the record of the job, so a phase that has lost it has lost nothing, as long as the
//! same version of the program wrote both.

use std::collections::BTreeMap;

use crate::ids::{ShardId, WindowId};
use crate::job::Phase;

use super::commit::check_sizes;
use super::manifest::Manifest;
use super::verify::{Problem, ProblemKind};
use super::{CheckpointError, JobRecord, OutputFolder, StoredJob, record_version};

/// How often a record is looked for where there is work of its job.
const LOADS: usize = 3;

/// A step of a job.
pub(super) struct Step {
    /// Name of the phase; empty for the results.
    pub(super) name: &'static str,
    pub(super) folder: OutputFolder,
    /// The job of the step; of a phase without a record, the one that follows from the record of the whole job.
    pub(super) job: StoredJob,
    /// What is wrong with the record of a phase, in words.
    pub(super) wrong: Option<String>,
}

impl JobRecord {
    /// The record of a phase of the job: the same rows, windows and shards.
    pub(crate) fn of_phase(&self, phase: Phase) -> Self {
        let spec = self.spec.of_phase(phase);
        let resolved = match phase {
            Phase::Samples => None,
            Phase::Rewards => self.reward.as_ref(),
        };
        Self {
            version: record_version(spec.task, &self.input).to_owned(),
            resolved: resolved.unwrap_or(&self.resolved).clone(),
            reward: None,
            spec,
            ..self.clone()
        }
    }
}

impl Step {
    /// The results of a job.
    fn results(folder: &OutputFolder, job: StoredJob) -> Self {
        Self {
            name: "",
            folder: folder.clone(),
            job,
            wrong: None,
        }
    }

    /// A phase of a job, begun or not.
    ///
    /// # Errors
    ///
    /// Those of [`StoredJob::load`], but [`CheckpointError::Damaged`] and [`CheckpointError::OtherRecord`].
    pub(super) fn phase(
        folder: &OutputFolder,
        job: &StoredJob,
        phase: Phase,
    ) -> Result<Self, CheckpointError> {
        let folder = folder.phase(phase);
        // Work is looked for first: where a run begins the phase meanwhile, the record is there before it.
        let work = folder.first_work()?;
        let (stored, wrong) = match StoredJob::load(&folder) {
            Ok(Some(stored)) => (Some(stored), None),
            Ok(None) if work.is_some() => {
                let stored = load_again(&folder)?;
                let wrong = stored.is_none().then(|| "is gone".to_owned());
                (stored, wrong)
            }
            Ok(None) => (None, None),
            Err(CheckpointError::Damaged { reason, .. }) => (None, Some(reason)),
            Err(CheckpointError::OtherRecord { .. }) => {
                (None, Some("is not a file of glm-batch".to_owned()))
            }
            Err(error) => return Err(error),
        };
        let job = match stored {
            Some(stored) => stored,
            None => StoredJob::of(job.record.of_phase(phase), &folder)?,
        };
        Ok(Self {
            name: phase.name(),
            folder,
            job,
            wrong,
        })
    }

    /// What is wrong with the record.
    pub(super) fn problem(&self) -> Option<Problem> {
        let reason = self.wrong.as_ref()?;
        Some(Problem {
            path: self.folder.job_file(),
            kind: ProblemKind::PhaseJob,
            reason: format!("{reason}, and can be written again from `job.json` of the whole job"),
        })
    }

    fn manifest(&self, shard: ShardId) -> Result<Manifest, CheckpointError> {
        let shards = self.job.record.spec.shards;
        Manifest::load_or_new(&self.folder, &self.job.fingerprint, shard, shards)
    }

    /// As [`Step::manifest`]; `None` where it cannot be read, which is damage of its own and tells nothing here.
    fn readable(&self, shard: ShardId) -> Result<Option<Manifest>, CheckpointError> {
        match self.manifest(shard) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(error @ (CheckpointError::Fs(_) | CheckpointError::DiskFull(_))) => Err(error),
            Err(_) => Ok(None),
        }
    }

    fn shards(&self, only: Option<ShardId>) -> impl Iterator<Item = ShardId> + use<> {
        let shards = (0..self.job.record.spec.shards).map(ShardId);
        shards.filter(move |shard| only.is_none_or(|only| only == *shard))
    }
}

/// Reads a record that another host may have written just now: a network file system remembers for a while that a
/// file was not there, until its folder is listed.
///
/// # Errors
///
/// Those of [`StoredJob::load`].
pub(crate) fn load_again(folder: &OutputFolder) -> Result<Option<StoredJob>, CheckpointError> {
    for _ in 0..LOADS {
        let _ = std::fs::read_dir(folder.root()).map(Iterator::count);
        if let Some(stored) = StoredJob::load(folder)? {
            return Ok(Some(stored));
        }
    }
    Ok(None)
}

/// The steps of a job in the order in which they are made; the results are the last one.
///
/// # Errors
///
/// As [`Step::phase`].
pub(super) fn of_job(folder: &OutputFolder, job: StoredJob) -> Result<Vec<Step>, CheckpointError> {
    let phases = job.record.spec.phases().into_iter();
    let phases = phases.map(|phase| Step::phase(folder, &job, phase));
    let mut steps = phases.collect::<Result<Vec<_>, _>>()?;
    steps.push(Step::results(folder, job));
    Ok(steps)
}

/// Windows that a step has lost, of one shard.
pub(super) struct Lost {
    shard: ShardId,
    /// Each with the first later step that has it.
    pub(super) windows: BTreeMap<WindowId, usize>,
    /// Whether the shard's manifest is gone.
    has_no_manifest: bool,
}

/// The windows that a later step has committed and the step at this place has not, by shard.
///
/// # Errors
///
/// [`CheckpointError::Fs`].
pub(super) fn lost(
    steps: &[Step],
    at: usize,
    only: Option<ShardId>,
) -> Result<Vec<Lost>, CheckpointError> {
    let mut all = Vec::new();
    let earlier = &steps[at];
    for shard in earlier.shards(only) {
        // Later steps are looked at first: what a run commits meanwhile is in the earlier one before.
        let mut windows = BTreeMap::new();
        for (place, later) in steps.iter().enumerate().skip(at + 1).rev() {
            let made = later.readable(shard)?;
            let made = made.iter().flat_map(|made| made.windows().keys());
            windows.extend(made.map(|&window| (window, place)));
        }
        let Some(there) = earlier.readable(shard)? else {
            continue;
        };
        windows.retain(|&window, _| !there.contains(window));
        if !windows.is_empty() {
            all.push(Lost {
                shard,
                windows,
                has_no_manifest: !earlier.folder.manifest(shard).exists(),
            });
        }
    }
    Ok(all)
}

/// The same as problems of the later steps, whose windows have to be made again: a list for each step.
///
/// # Errors
///
/// As [`lost`].
pub(super) fn problems(
    steps: &[Step],
    only: Option<ShardId>,
) -> Result<Vec<Vec<Problem>>, CheckpointError> {
    let mut problems: Vec<Vec<Problem>> = steps.iter().map(|_| Vec::new()).collect();
    for (at, earlier) in steps.iter().enumerate() {
        for lost in lost(steps, at, only)? {
            if lost.has_no_manifest {
                let first = lost.windows.values().min();
                problems[*first.unwrap_or(&at)].push(Problem {
                    path: earlier.folder.manifest(lost.shard),
                    kind: ProblemKind::Manifest(lost.shard),
                    reason: "is gone, and results were made of what it named".to_owned(),
                });
                continue;
            }
            for (&window, &place) in &lost.windows {
                let later = &steps[place];
                let made = later.readable(lost.shard)?;
                let made = made.as_ref().and_then(|made| made.windows().get(&window));
                problems[place].extend(made.map(|made| Problem {
                    path: later.folder.entry(&made.part.name),
                    kind: ProblemKind::Committed(window),
                    reason: format!(
                        "was made of a window that the phase `{}` has lost",
                        earlier.name
                    ),
                }));
            }
        }
    }
    Ok(problems)
}

/// What a look finds wrong with the phases of a job, before anything is made of them: their records, what they have
/// lost, and the sizes of their files. No content is read.
///
/// # Errors
///
/// [`CheckpointError::Damaged`], [`CheckpointError::Stranger`], where a manifest of a phase is not as it was written;
/// [`CheckpointError::Changed`], where a committed file is not; those of [`StoredJob::load`].
pub(crate) fn check_phases(
    folder: &OutputFolder,
    only: Option<ShardId>,
) -> Result<Vec<Problem>, CheckpointError> {
    let Some(job) = StoredJob::load(folder)? else {
        return Ok(Vec::new());
    };
    let steps = of_job(folder, job)?;
    let (_, phases) = steps.split_last().expect("the results are always a step");
    let mut found: Vec<Problem> = phases.iter().filter_map(Step::problem).collect();
    found.extend(problems(&steps, only)?.into_iter().flatten());
    if found.is_empty() {
        for phase in phases {
            for shard in phase.shards(only) {
                check_sizes(&phase.folder, &phase.manifest(shard)?)?;
            }
        }
    }
    Ok(found)
}
