//! Failed rows of a shard: where they end the run, and how they are named.

use super::super::options::RunEnd;
use super::super::read::place_text;
use super::ShardWork;
use crate::error::Error;
use crate::ids::WindowId;
use crate::outcome::Outcomes;

/// Failed rows that are named where a run stops at too many.
const NAMED_ROWS: usize = 5;

impl ShardWork<'_, '_> {
    /// The error of a run that stops at its first bad row.
    pub(super) fn bad_row(&self, window: WindowId, position: usize) -> Error {
        let fed = &self.open[&window];
        let row = &fed.window.rows[position];
        let bad = fed.ended.failure(row.row);
        let bad = bad.expect("the feeder stops at a row only after it has recorded why");
        let (stage, reason) = (bad.stage, bad.reason.clone());
        let place = place_text(&row.place, &self.worker.prepared.index.files);
        let place = format!("{place} (row {})", row.row);
        Error::BadRow {
            place,
            stage,
            reason,
        }
    }

    fn failed(&self) -> u64 {
        let open = self.open.values().map(|fed| fed.ended.failed());
        let committed = self.manifest.totals();
        committed.failed + committed.bad + open.sum::<usize>() as u64
    }

    /// How the run ends, where more rows failed than the job allows.
    pub(super) fn over_the_limit(&mut self) -> Option<RunEnd> {
        let allowed = self.worker.spec.output.max_failed?;
        let failed = self.failed();
        if failed <= allowed {
            return None;
        }
        self.name_failed_rows();
        Some(RunEnd::TooManyFailed { failed, allowed })
    }

    /// Names the first failed rows of the open windows, which no file names yet.
    fn name_failed_rows(&mut self) {
        let files = &self.worker.prepared.index.files;
        let rows = self
            .open
            .values()
            .flat_map(|fed| fed.window.rows.iter().map(move |row| (fed, row)));
        let failed = rows.filter_map(|(fed, row)| Some((row, fed.ended.failure(row.row)?)));
        for (row, bad) in failed.take(NAMED_ROWS) {
            let place = place_text(&row.place, files);
            let (number, stage, reason) = (row.row, bad.stage, &bad.reason);
            self.worker.observer.note(&format!(
                "failed: {place} (row {number}): {stage}: {reason}"
            ));
        }
    }
}
