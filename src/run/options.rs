//! What a run is asked for beside its job, and how it ended.

use std::time::Duration;

use crate::ids::ShardId;
use crate::input::Selection;
use crate::stop::Deadline;

/// How a job is run, apart from what it says itself.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Only this shard, of so many.
    pub shard: Option<(u32, u32)>,
    /// Move the output folder away and begin anew.
    pub restart: bool,
    /// Take over another host's lock without waiting for its heartbeat to stop.
    pub break_lock: bool,
    /// A trial of some rows, written to `OUT.trial`.
    pub trial: Option<Selection>,
    /// How long rows in flight may go on after the first signal.
    pub grace: Duration,
    /// When the run must have ended: no row starts that would not end by then, and rows in flight are left then.
    pub deadline: Option<Deadline>,
    /// Compare the content of all files with their checksums first, not only names and sizes.
    pub verify: bool,
    /// The job file that the output folder keeps, where the job was given by flags. A trial keeps none.
    pub job_file: Option<String>,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            shard: None,
            restart: false,
            break_lock: false,
            trial: None,
            grace: Duration::from_secs(20),
            deadline: None,
            verify: false,
            job_file: None,
        }
    }
}

/// How a run ended when nothing was wrong with the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// Every row of the shards that were asked for has a result or a recorded failure.
    Finished {
        /// Whether there was nothing left to do.
        already: bool,
    },
    /// A signal; the checkpoint is valid.
    Interrupted,
    /// The deadline is near; the checkpoint is valid.
    OutOfTime {
        /// Rows that this run finished.
        rows: u64,
    },
    /// Another process holds a shard that is not finished.
    Locked(ShardId),
    /// More rows failed than the job allows.
    TooManyFailed {
        /// Rows that failed, over all runs of the shard.
        failed: u64,
        /// Rows that may.
        allowed: u64,
    },
    /// Every row of a shard failed.
    AllFailed(ShardId),
}
