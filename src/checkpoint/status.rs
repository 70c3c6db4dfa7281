//! An output folder to the progress of its job, from the files alone.

use std::time::Duration;

use serde::Serialize;

use crate::ids::ShardId;
use crate::numbers::counted;

use super::lock::{self, LockTiming};
use super::manifest::Manifest;
use super::owner::{self, Owner, Work};
use super::steps::{self, Step};
use super::totals::Totals;
use super::{CheckpointError, OutputFolder, StoredJob, journal};

/// The time left is known once a writer has finished this share of what it had to do: before that, the rows in
/// flight are too many beside the finished ones.
const KNOWN_SHARE: u64 = 10;

/// So many rows are enough to know the time left, however many there are: more than are in flight at once.
const KNOWN_ROWS: u64 = 4096;

/// Progress of a job.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// Name of the job.
    pub name: String,
    /// Input rows.
    pub rows: u64,
    /// Windows of the job.
    pub windows: u64,
    /// Whether all windows are committed.
    pub is_finished: bool,
    /// Whether somebody works on it.
    pub state: JobState,
    /// Speed of all writers together, and when they will be done.
    #[serde(flatten)]
    pub pace: Pace,
    /// Counts of the committed windows of all shards.
    pub totals: Totals,
    /// Rows in the journals of open windows of all shards.
    pub journalled_rows: u64,
    /// Of a phase: windows that a later step has committed and the phase has lost.
    #[serde(skip_serializing_if = "is_zero")]
    pub lost_windows: u64,
    /// Of a phase: what is wrong with it, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub damage: Vec<String>,
    /// Each shard.
    pub shards: Vec<ShardStatus>,
    /// Each phase of the job, by its name, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<Status>,
}

/// Whether somebody works on a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// All windows are committed.
    Finished,
    /// A writer of a shard lives.
    Running,
    /// Windows are left, and no writer is known to live.
    Stopped,
    /// A phase has lost what later results were made of, or its record.
    Damaged,
}

/// How fast rows are finished, from the heartbeats of the writers; `None` while that is not known, and where no
/// writer is at work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Pace {
    /// Rows finished a second.
    pub rows_per_second: Option<f64>,
    /// Context and answer tokens computed a second.
    pub tokens_per_second: Option<f64>,
    /// Time until the last row ends.
    pub seconds_left: Option<f64>,
}

/// Progress of a shard.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShardStatus {
    /// Its number.
    pub shard: ShardId,
    /// Its input rows.
    pub rows: u64,
    /// Its windows.
    pub windows: u64,
    /// Windows that are committed.
    pub windows_done: u64,
    /// Counts of the committed windows.
    pub totals: Totals,
    /// Rows in the journals of its open windows.
    pub journalled_rows: u64,
    /// Who writes it.
    pub owner: Option<OwnerStatus>,
    /// Speed of its writer.
    #[serde(flatten)]
    pub pace: Pace,
}

/// The writer of a shard.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OwnerStatus {
    /// Name of its machine.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// When it took the shard, milliseconds since the epoch.
    pub started_ms: u64,
    /// Time since its last heartbeat.
    pub heartbeat_age_seconds: f64,
    /// Number of heartbeats.
    pub beats: u64,
    /// Whether it lives.
    pub state: OwnerState,
}

/// Whether the writer of a shard lives, as far as can be seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OwnerState {
    /// It holds the lock, or its heartbeat is young.
    Alive,
    /// Its heartbeat is old, and its lock cannot be seen from here: it may be dead, or clocks disagree.
    Silent,
    /// Its lock is free: it ended without giving the shard back.
    Dead,
}

impl Status {
    /// Rows that have an outcome, in parts or in journals.
    pub fn rows_done(&self) -> u64 {
        self.totals.taken() + self.journalled_rows
    }

    /// Input rows but those that are known to be left out. Which ones `input.where` leaves out of an open window is not
    /// known yet.
    pub fn rows_taken(&self) -> u64 {
        self.rows.saturating_sub(self.totals.left_out.total())
    }
}

impl ShardStatus {
    /// Whether all its windows are committed.
    pub fn is_finished(&self) -> bool {
        self.windows_done == self.windows
    }

    /// Its rows that have an outcome, in parts or in journals.
    pub fn rows_done(&self) -> u64 {
        self.totals.taken() + self.journalled_rows
    }

    /// Its rows but those that are known to be left out.
    pub fn rows_taken(&self) -> u64 {
        self.rows.saturating_sub(self.totals.left_out.total())
    }

    /// Whether its writer lives.
    pub fn is_alive(&self) -> bool {
        self.owner
            .as_ref()
            .is_some_and(|owner| owner.state == OwnerState::Alive)
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Reads the progress of a job.
///
/// # Errors
///
/// [`CheckpointError::NoJob`], [`CheckpointError::Stranger`], [`CheckpointError::Damaged`],
/// [`CheckpointError::UnknownVersion`], [`CheckpointError::Fs`].
pub fn status(folder: &OutputFolder) -> Result<Status, CheckpointError> {
    let job = StoredJob::existing(folder)?;
    let mut status = of_folder(folder, &job)?;
    let steps = steps::of_job(folder, job)?;
    // The results are the last step.
    let of_phases = steps.iter().enumerate().take(steps.len() - 1);
    let phases = of_phases.map(|(at, step)| phase_status(&steps, at, step));
    let phases = phases.collect::<Result<Vec<_>, _>>()?;
    let is_any = |state| phases.iter().any(|phase| phase.state == state);
    if is_any(JobState::Damaged) {
        status.state = JobState::Damaged;
    } else if !status.is_finished && is_any(JobState::Running) {
        status.state = JobState::Running;
    }
    status.phases = phases;
    Ok(status)
}

/// The progress of the phase at a place among the steps of a job, and what is wrong with it.
fn phase_status(steps: &[Step], at: usize, step: &Step) -> Result<Status, CheckpointError> {
    let mut status = of_folder(&step.folder, &step.job)?;
    step.name.clone_into(&mut status.name);
    let lost = steps::lost(steps, at, None)?;
    status.lost_windows = lost.iter().map(|lost| lost.windows.len() as u64).sum();
    let problem = step.problem();
    status
        .damage
        .extend(problem.map(|problem| problem.to_string()));
    if status.lost_windows > 0 {
        let lost = counted(status.lost_windows, "window");
        let lost = format!("it has lost {lost} that later results were made of");
        status.damage.push(lost);
    }
    if !status.damage.is_empty() {
        status.state = JobState::Damaged;
    }
    Ok(status)
}

/// The progress in one folder, by the record of its job.
fn of_folder(folder: &OutputFolder, job: &StoredJob) -> Result<Status, CheckpointError> {
    let record = &job.record;
    let shards = (0..record.spec.shards)
        .map(|shard| shard_status(folder, job, ShardId(shard)))
        .collect::<Result<Vec<_>, _>>()?;
    let mut totals = Totals::default();
    for shard in &shards {
        totals += &shard.totals;
    }
    let is_finished = shards.iter().all(ShardStatus::is_finished);
    // Until then they would count as done from the first moment.
    let behind = record.input.rows_behind();
    let rows = if is_finished {
        totals.add_behind(behind);
        record.input.rows
    } else {
        record.input.rows - behind
    };
    let state = if is_finished {
        JobState::Finished
    } else if shards.iter().any(ShardStatus::is_alive) {
        JobState::Running
    } else {
        JobState::Stopped
    };
    Ok(Status {
        name: record.spec.name.clone(),
        rows,
        windows: record.input.windows.len() as u64,
        is_finished,
        state,
        pace: overall_pace(&shards),
        totals,
        journalled_rows: shards.iter().map(|shard| shard.journalled_rows).sum(),
        lost_windows: 0,
        damage: Vec::new(),
        shards,
        phases: Vec::new(),
    })
}

fn shard_status(
    folder: &OutputFolder,
    job: &StoredJob,
    shard: ShardId,
) -> Result<ShardStatus, CheckpointError> {
    let StoredJob {
        record,
        fingerprint,
    } = job;
    let manifest = Manifest::load_or_new(folder, fingerprint, shard, record.spec.shards)?;
    let spans = record.input.windows.iter();
    let own: Vec<_> = spans
        .filter(|span| span.id.shard(record.spec.shards) == shard)
        .collect();
    let mut journalled_rows = 0;
    for span in manifest.remaining(&record.input.windows) {
        journalled_rows += journal::count_rows(&folder.journal(span.id), fingerprint, u64::MAX)?;
    }
    let rows: u64 = own.iter().map(|span| span.rows).sum();
    let totals = manifest.totals();
    let owner = owner_of(folder, shard);
    let work = owner
        .as_ref()
        .filter(|(_, state)| *state == OwnerState::Alive)
        .and_then(|(owner, _)| owner.work);
    let left = rows.saturating_sub(totals.rows + journalled_rows);
    Ok(ShardStatus {
        shard,
        rows,
        windows: own.len() as u64,
        windows_done: manifest.windows().len() as u64,
        totals: totals.clone(),
        journalled_rows,
        owner: owner.map(|(owner, state)| OwnerStatus::new(owner, state)),
        pace: work.map(|work| pace(work, left)).unwrap_or_default(),
    })
}

/// Who writes a shard, and whether it lives.
fn owner_of(folder: &OutputFolder, shard: ShardId) -> Option<(Owner, OwnerState)> {
    let read = || Owner::read(&folder.owner(shard)).ok().flatten();
    let owner = read()?;
    let is_held = owner
        .is_on_this_host()
        .then(|| lock::is_held(folder, shard))
        .flatten();
    match is_held {
        Some(true) => Some((owner, OwnerState::Alive)),
        // It may have given the shard back between the two looks, or another process may have it by now.
        Some(false) => {
            let is_same = read().is_some_and(|now| now.is_same(&owner));
            is_same.then_some((owner, OwnerState::Dead))
        }
        None => {
            let is_young = age(&owner) < LockTiming::default().stale_after;
            let state = if is_young {
                OwnerState::Alive
            } else {
                OwnerState::Silent
            };
            Some((owner, state))
        }
    }
}

/// Time since the last heartbeat, by the clock of this host.
fn age(owner: &Owner) -> Duration {
    Duration::from_millis(owner::now_ms().saturating_sub(owner.heartbeat_ms))
}

/// Speed of one writer that has so many rows left.
fn pace(work: Work, left: u64) -> Pace {
    if work.rows == 0 || work.milliseconds == 0 {
        return Pace::default();
    }
    let seconds = work.milliseconds as f64 / 1000.0;
    let rows_per_second = work.rows as f64 / seconds;
    let is_known = work.rows >= KNOWN_ROWS || work.rows >= (work.rows + left) / KNOWN_SHARE;
    Pace {
        rows_per_second: Some(rows_per_second),
        tokens_per_second: Some(work.tokens as f64 / seconds),
        seconds_left: is_known.then(|| left as f64 / rows_per_second),
    }
}

/// Speed of all writers together. The job takes as long as its slowest writer, and as long as all of them need for
/// all rows: a shard without a writer is left to one of those at work now.
fn overall_pace(shards: &[ShardStatus]) -> Pace {
    let paces = || shards.iter().filter(|s| s.is_alive()).map(|s| s.pace);
    let sum = |rate: fn(Pace) -> Option<f64>| {
        let known: Vec<f64> = paces().filter_map(rate).collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>())
    };
    let rows_per_second = sum(|pace| pace.rows_per_second);
    let left = shards
        .iter()
        .map(|shard| shard.rows_taken().saturating_sub(shard.rows_done()))
        .sum::<u64>();
    let slowest = paces()
        .map(|pace| pace.seconds_left)
        .collect::<Option<Vec<_>>>()
        .map(|all| all.into_iter().fold(0.0, f64::max));
    Pace {
        rows_per_second,
        tokens_per_second: sum(|pace| pace.tokens_per_second),
        seconds_left: slowest
            .zip(rows_per_second)
            .map(|(slowest, rate)| slowest.max(left as f64 / rate)),
    }
}

impl OwnerStatus {
    fn new(owner: Owner, state: OwnerState) -> Self {
        let heartbeat_age_seconds = age(&owner).as_millis() as f64 / 1000.0;
        Self {
            host: owner.host,
            pid: owner.pid,
            started_ms: owner.started_ms,
            heartbeat_age_seconds,
            beats: owner.beats,
            state,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(rows: u64, done: u64, work: Option<Work>) -> ShardStatus {
        let owner = Owner {
            work,
            ..Owner::this_process()
        };
        let totals = Totals {
            rows: done,
            ..Totals::default()
        };
        ShardStatus {
            shard: ShardId(0),
            rows,
            windows: 2,
            windows_done: 1,
            totals,
            journalled_rows: 0,
            owner: work.map(|_| OwnerStatus::new(owner, OwnerState::Alive)),
            pace: work.map(|work| pace(work, rows - done)).unwrap_or_default(),
        }
    }

    fn work(rows: u64) -> Work {
        Work {
            rows,
            tokens: rows * 10,
            milliseconds: 4_000,
        }
    }

    #[test]
    fn the_time_left_is_that_of_all_rows_and_of_the_slowest_writer() {
        let rates = |shards: &[ShardStatus]| {
            let pace = overall_pace(shards);
            (
                pace.rows_per_second,
                pace.tokens_per_second,
                pace.seconds_left,
            )
        };
        // One process that will write the other shard later.
        let alone = [shard(100, 40, Some(work(40))), shard(100, 0, None)];
        assert_eq!(rates(&alone), (Some(10.0), Some(100.0), Some(16.0)));
        // Two at once, one of them slower.
        let both = [
            shard(100, 60, Some(work(60))),
            shard(100, 20, Some(work(20))),
        ];
        assert_eq!(rates(&both), (Some(20.0), Some(200.0), Some(16.0)));
    }

    #[test]
    fn what_is_not_known_yet_is_not_guessed() {
        assert_eq!(overall_pace(&[shard(9, 0, None)]), Pace::default());
        assert_eq!(overall_pace(&[shard(9, 0, Some(work(0)))]), Pace::default());
        let early = overall_pace(&[shard(1_000, 8, Some(work(8)))]);
        assert_eq!(
            (early.rows_per_second, early.seconds_left),
            (Some(2.0), None)
        );
        let one_is_early = [
            shard(100, 60, Some(work(60))),
            shard(1_000, 8, Some(work(8))),
        ];
        assert_eq!(overall_pace(&one_is_early).seconds_left, None);
    }
}
