//! How far a shard's work is, for the observer and for `status`.

use std::time::{Duration, Instant};

use crate::checkpoint::Work;
use crate::engine::{self, EngineStatistics, Request};
use crate::outcome::{FinishReason, Outcome, RowResult};
use crate::report::{Moment, Progress, RowWork};

use super::ShardWork;

/// Time between two looks at how far the run has come.
const TELL_INTERVAL: Duration = Duration::from_millis(100);

/// What the run had done when its work on a shard began: the engine and the counts go on from shard to shard.
pub(super) struct Before {
    pub(super) began: Instant,
    pub(super) rows: u64,
    pub(super) tokens: u64,
}

impl ShardWork<'_, '_> {
    /// Tells how far the run has come, where that is some time ago.
    pub(super) fn tell_progress(&mut self) {
        let worker = &mut *self.worker;
        if worker
            .told
            .is_some_and(|told| told.elapsed() < TELL_INTERVAL)
        {
            return;
        }
        worker.told = Some(Instant::now());
        let statistics = self.devices.statistics();
        let tokens = tokens(&statistics);
        let seconds = worker
            .working_since
            .map_or(0.0, |since| since.elapsed().as_secs_f64());
        let committed = self.manifest.totals().rows + worker.elsewhere.committed;
        let left_out = self.open.values().map(|fed| fed.sifting.left_out.total());
        let left_out: u64 = left_out.sum();
        let left_out_before = self.manifest.totals().left_out.total() + worker.elsewhere.left_out;
        let open: usize = self.open.values().map(|fed| fed.window.rows.len()).sum();
        let done: usize = self.open.values().map(|fed| fed.ended.len()).sum();
        let running = self.devices.running();
        let model = worker.prepared.model.as_ref();
        let remaining = worker.time_left.remaining(&Moment {
            seconds,
            engine: &statistics,
            engines: model.map_or(1, |model| model.devices.len()),
            running,
            unopened_rows: self
                .rows_total
                .saturating_sub(committed + left_out + open as u64),
        });
        let progress = Progress {
            rows_done: committed - left_out_before + done as u64,
            rows_total: self.rows_total - left_out_before - left_out,
            rows_now: worker.counts.rows_now,
            tokens,
            tokens_per_second: if seconds > 0.0 {
                tokens as f64 / seconds
            } else {
                0.0
            },
            padding_share: statistics.padding_share(),
            slots_used: running,
            slots: if worker.spec.task.generates() {
                // More run on for a while where a trial of more has ended.
                self.devices.budget().max_batch_size.max(running)
            } else {
                0
            },
            failed: worker.counts.failed_now,
            remaining,
        };
        worker.observer.progress(&progress);
        self.lock.tell(Work {
            rows: progress.rows_now - self.before.rows,
            tokens: tokens - self.before.tokens,
            milliseconds: self.before.began.elapsed().as_millis() as u64,
        });
    }
}

/// Context and answer tokens that the engine computed.
pub(super) fn tokens(statistics: &EngineStatistics) -> u64 {
    statistics.prompt_tokens + statistics.completion_tokens
}

/// What a row asks of the engine, for the time that is left.
pub(super) fn row_work(request: &Request) -> RowWork {
    let length = request.work.length(0);
    RowWork {
        row: request.row,
        context: length.context,
        most: length.reserve,
        samples: match request.work {
            engine::Work::Generate(_) => length.samples.saturating_mul(length.places),
            engine::Work::Read(_) | engine::Work::ReadEach(_) => 0,
        },
    }
}

/// The tokens of each answer, and whether it was cut at its limit.
pub(super) fn answers(outcome: &Outcome) -> impl Iterator<Item = (u32, bool)> {
    let samples = match outcome {
        Outcome::Ok(RowResult::Generated(completion)) => completion.samples.as_slice(),
        Outcome::Ok(RowResult::Measured(_)) | Outcome::Failed(_) => &[],
    };
    samples.iter().map(|sample| {
        let is_cut = sample.finish_reason == FinishReason::Length;
        (sample.token_ids.len() as u32, is_cut)
    })
}
