//! Row sizes to windows: consecutive rows under a limit of rows and of bytes, at least one row each.
//!
//! The first windows of each shard may be smaller, so that a part comes soon, and each is twice as large as the one
//! before:
//!
//! ```text
//! window   0    1    2    3    4     5     ...        of two shards
//! rows     256  256  512  512  1024  1024  ... up to window_rows
//! ```

use super::types::WindowSpan;
use crate::ids::{RowId, WindowId};

/// The place of the first of some rows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Start {
    pub(super) file: u32,
    pub(super) offset: u64,
    pub(super) line: u64,
    pub(super) row_group: u32,
}

/// Rows of the first window of a shard, where windows grow.
const FIRST_ROWS: u64 = 256;

/// Cuts the rows of an input into windows as they come.
pub(super) struct Windows {
    spans: Vec<WindowSpan>,
    window_rows: u64,
    max_bytes: u64,
    /// Shards of the job, where their first windows are smaller.
    growing: Option<u32>,
    /// Bytes in the last window.
    used: u64,
    rows: u64,
}

impl Windows {
    pub(super) fn new(window_rows: u32, max_bytes: u64) -> Self {
        Self {
            spans: Vec::new(),
            window_rows: u64::from(window_rows.max(1)),
            max_bytes,
            growing: None,
            used: 0,
            rows: 0,
        }
    }

    /// As these, but the windows of each of so many shards grow from [`FIRST_ROWS`].
    pub(super) fn growing(self, shards: u32) -> Self {
        Self {
            growing: Some(shards.max(1)),
            ..self
        }
    }

    /// Rows that a window may have.
    fn most_rows(&self, window: WindowId) -> u64 {
        let Some(shards) = self.growing else {
            return self.window_rows;
        };
        // Shards take windows in turn.
        let turn = window.0 / shards;
        let grown = match turn {
            0..32 => FIRST_ROWS << turn,
            _ => u64::MAX,
        };
        grown.min(self.window_rows)
    }

    /// Rows so far.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Takes `count` rows of `bytes_each`, the first at `start` (first of its row group).
    pub(super) fn push(&mut self, start: Start, count: u64, bytes_each: u64) {
        let mut done = 0;
        while done < count {
            let mut room = self.room(bytes_each);
            if room == 0 {
                self.open(start, done);
                room = self.room(bytes_each).max(1);
            }
            let taken = room.min(count - done);
            if let Some(span) = self.spans.last_mut() {
                span.rows += taken;
            }
            self.used = self.used.saturating_add(taken.saturating_mul(bytes_each));
            self.rows += taken;
            done += taken;
        }
    }

    /// Rows that still fit in the last window.
    fn room(&self, bytes_each: u64) -> u64 {
        let Some(span) = self.spans.last() else {
            return 0;
        };
        let by_rows = self.most_rows(span.id) - span.rows;
        by_rows.min(self.max_bytes.saturating_sub(self.used) / bytes_each.max(1))
    }

    fn open(&mut self, start: Start, done: u64) {
        self.used = 0;
        self.spans.push(WindowSpan {
            id: WindowId(self.spans.len() as u32),
            first_row: RowId(self.rows),
            rows: 0,
            file: start.file,
            offset: start.offset,
            line: start.line,
            row_group: start.row_group,
            row_in_group: done,
        });
    }

    /// The windows; one empty one where there was no row.
    pub(super) fn finish(mut self) -> Vec<WindowSpan> {
        if self.spans.is_empty() {
            self.open(Start::default(), 0);
        }
        self.spans
    }
}

#[cfg(test)]
mod tests {
    use super::{Start, Windows};

    #[test]
    fn rows_of_groups_are_cut_by_rows_and_by_bytes() {
        let mut windows = Windows::new(100, 1000);
        let group = |row_group| Start {
            row_group,
            ..Start::default()
        };
        windows.push(group(0), 150, 1);
        windows.push(group(1), 3, 5000);
        windows.push(group(2), 20, 60);
        windows.push(group(3), 0, 0);
        let spans = windows.finish();
        let cuts: Vec<_> = spans
            .iter()
            .map(|s| (s.first_row.0, s.rows, s.row_group, s.row_in_group))
            .collect();
        assert_eq!(
            cuts,
            [
                (0, 100, 0, 0),
                (100, 50, 0, 100),
                (150, 1, 1, 0),
                (151, 1, 1, 1),
                (152, 1, 1, 2),
                (153, 16, 2, 0),
                (169, 4, 2, 16),
            ]
        );
    }

    #[test]
    fn the_first_windows_of_each_shard_grow() {
        let rows = |window_rows, shards: Option<u32>| -> Vec<u64> {
            let windows = Windows::new(window_rows, u64::MAX);
            let mut windows = match shards {
                Some(shards) => windows.growing(shards),
                None => windows,
            };
            windows.push(Start::default(), 4000, 1);
            windows.finish().iter().map(|span| span.rows).collect()
        };
        assert_eq!(rows(1000, None), [1000, 1000, 1000, 1000]);
        assert_eq!(rows(1000, Some(1)), [256, 512, 1000, 1000, 1000, 232]);
        assert_eq!(rows(1000, Some(2)), [256, 256, 512, 512, 1000, 1000, 464]);
        assert_eq!(rows(200, Some(1)), rows(200, None));
    }

    #[test]
    fn no_rows_give_one_empty_window() {
        let spans = Windows::new(8, 8).finish();
        assert_eq!((spans.len(), spans[0].rows), (1, 0));
    }
}
