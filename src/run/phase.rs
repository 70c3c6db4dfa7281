//! The phases of a job, one after the other: each is a job of its own in a folder of its own, run by the same pipeline.
//!
//! ```text
//! shards that are asked for -> samples -> those that have them -> rewards -> those that have them -> pairs
//!                              model                             reward model                      no model
//! ```
//!
//! The models take turns: each is loaded once a run, and let go of before the next.

use super::counts::Done;
use super::options::{RunEnd, RunOptions};
use super::prepare::Prepared;
use super::run_shards;
use super::shard::Worker;
use crate::error::Result;
use crate::ids::ShardId;
use crate::report::Observer;
use crate::stop::StopFlag;

/// What the phases left for the pairs.
pub(super) struct Phased {
    /// What all of them did.
    pub(super) done: Done,
    /// Shards whose every phase is finished.
    pub(super) shards: Vec<ShardId>,
    /// Why the run ends before the pairs, where it does.
    pub(super) end: Option<RunEnd>,
}

/// Runs the phases for those of the shards that still need them.
pub(super) fn run(
    prepared: &Prepared,
    options: &RunOptions,
    shards: &[ShardId],
    stop: &StopFlag,
    observer: &mut dyn Observer,
) -> Result<Phased> {
    let mut phased = Phased {
        done: Done::default(),
        shards: Vec::new(),
        end: None,
    };
    let phases = prepared.record.spec.phases();
    if phases.is_empty() {
        phased.shards = shards.to_vec();
        return Ok(phased);
    }
    let mut open = Vec::new();
    for &shard in shards {
        if prepared.is_committed(shard)? {
            phased.shards.push(shard);
        } else {
            open.push(shard);
        }
    }
    for phase in phases {
        if open.is_empty() {
            break;
        }
        let of_phase = prepared.of_phase(phase)?;
        let mut is_open = false;
        for &shard in &open {
            is_open |= !of_phase.is_committed(shard)?;
        }
        if is_open {
            observer.phase(phase.name());
        }
        let spec = of_phase.record.spec.clone();
        let mut worker = Worker::new(&of_phase, &spec, stop, options, observer);
        let end = run_shards(&of_phase, options, &mut worker, &open);
        worker.note_idle_rows();
        phased.done.add(&worker.counts, &worker.engine_statistics());
        drop(worker);
        match end? {
            RunEnd::Finished { .. } | RunEnd::AllFailed(_) => {}
            // The others go on, and this one may be finished by the time they are.
            end @ RunEnd::Locked(_) => phased.end = Some(end),
            end => {
                phased.end = Some(end);
                phased.shards.clear();
                return Ok(phased);
            }
        }
        let mut left = Vec::new();
        for shard in open {
            if of_phase.is_committed(shard)? {
                left.push(shard);
            }
        }
        open = left;
    }
    phased.shards.extend(open);
    phased.shards.sort_unstable();
    Ok(phased)
}
