//! The pairs of a shard: window by window from what the phases have committed, without a model.

use std::time::Instant;

use crate::checkpoint::{self, Commit, Manifest, ShardLock, Work};
use crate::error::{Error, Result};
use crate::ids::ShardId;
use crate::input::WindowSpan;
use crate::job::Phase;
use crate::outcome::Outcome;
use crate::report::Progress;

use super::super::options::RunEnd;
use super::super::pairs::{PairMaker, PairedWindow};
use super::{ShardEnd, Worker};

impl Worker<'_> {
    /// Makes what is left of a shard's pairs.
    pub(super) fn make_pairs(
        &mut self,
        lock: &ShardLock,
        mut manifest: Manifest,
        shard: ShardId,
    ) -> Result<ShardEnd> {
        let sampled = self.prepared.record.spec.of_phase(Phase::Samples);
        let maker = PairMaker::new(self.prepared, &sampled)?.ok_or(Error::Reopened)?;
        let end = self.pair_windows(&maker, lock, &mut manifest);
        self.report(lock, shard, end)
    }

    fn pair_windows(
        &mut self,
        maker: &PairMaker<'_>,
        lock: &ShardLock,
        manifest: &mut Manifest,
    ) -> Result<ShardEnd> {
        let prepared = self.prepared;
        let (began, before) = (Instant::now(), self.counts.rows_now);
        let left: Vec<WindowSpan> = manifest
            .remaining(&prepared.index.windows)
            .cloned()
            .collect();
        let total = prepared.shard_rows(manifest.shard()) + self.elsewhere.rows;
        for span in &left {
            let started = Instant::now();
            let paired = maker.window(span);
            // Reading ends early then, and its rows are not those of the window.
            if self.stop.is_requested() {
                let rows = self.counts.rows_now;
                return Ok(ShardEnd::Stopped(self.ending.end(rows)));
            }
            let paired = paired?;
            self.counts.read_seconds += started.elapsed().as_secs_f64();
            let started = Instant::now();
            prepared.source.check_unchanged(span)?;
            let commit = Commit {
                window: &paired.window,
                first_row: span.first_row,
                rows: span.rows,
                outcomes: &paired.outcomes,
                sink: prepared.sink.as_ref(),
                files: &prepared.index.files,
                totals: &paired.totals,
                examples: &paired.examples,
            };
            checkpoint::commit_window(&prepared.folder, lock, manifest, &commit)?;
            self.counts.write_seconds += started.elapsed().as_secs_f64();
            self.count_pairs(&paired);
            let left_out = manifest.totals().left_out.total() + self.elsewhere.left_out;
            self.observer.progress(&Progress {
                rows_done: manifest.totals().rows + self.elsewhere.committed - left_out,
                rows_total: total - left_out,
                rows_now: self.counts.rows_now,
                failed: self.counts.failed_now,
                ..Progress::default()
            });
            lock.tell(Work {
                rows: self.counts.rows_now - before,
                tokens: 0,
                milliseconds: began.elapsed().as_millis() as u64,
            });
        }
        Ok(match self.too_many_failed(manifest) {
            Some(end) => ShardEnd::Stopped(end),
            None => ShardEnd::Finished,
        })
    }

    fn count_pairs(&mut self, paired: &PairedWindow) {
        let is_failed = |outcome: &&Outcome| outcome.failure().is_some();
        let failed = paired.outcomes.values().filter(is_failed).count();
        self.counts.rows_now += paired.outcomes.len() as u64;
        self.counts.failed_now += failed as u64;
        for row in paired.window.rows.iter().filter(|row| row.is_record) {
            self.counts.duplicates.observe(&row.id);
        }
    }

    fn too_many_failed(&self, manifest: &Manifest) -> Option<RunEnd> {
        let allowed = self.max_failed()?;
        let totals = manifest.totals();
        let failed = totals.failed + totals.bad;
        (failed > allowed).then_some(RunEnd::TooManyFailed { failed, allowed })
    }
}
