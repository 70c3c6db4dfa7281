//! How the rows of an open window ended: results are in its journal, and read from there when the window is written.
//!
//! Thousands of results would otherwise be in memory for as long as their window is open.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;

use crate::checkpoint::{CheckpointError, Journal};
use crate::ids::RowId;
use crate::outcome::{BadRow, Outcome, Outcomes};

/// The rows of a window that have ended.
pub(super) struct Ended {
    journal: Journal,
    /// Rows without a result, of which some are in no journal.
    failed: BTreeMap<RowId, BadRow>,
    /// Rows that were refused when the window was read, and that no journal has.
    refused: usize,
}

impl Ended {
    /// Those of a journal that was just opened.
    pub(super) fn new(journal: Journal, outcomes: BTreeMap<RowId, Outcome>) -> Self {
        let failed = outcomes
            .into_iter()
            .filter_map(|(row, outcome)| match outcome {
                Outcome::Ok(_) => None,
                Outcome::Failed(bad) => Some((row, bad)),
            });
        Self {
            journal,
            failed: failed.collect(),
            refused: 0,
        }
    }

    /// Rows.
    pub(super) fn len(&self) -> usize {
        self.journal.rows() + self.refused
    }

    /// Rows that failed.
    pub(super) fn failed(&self) -> usize {
        self.failed.len()
    }

    /// Takes a row that never became work.
    pub(super) fn refuse(&mut self, row: RowId, bad: BadRow) {
        self.failed.insert(row, bad);
        self.refused += 1;
    }

    /// Adds a row to the journal.
    ///
    /// # Errors
    ///
    /// As [`Journal::append`].
    pub(super) fn add(&mut self, row: RowId, outcome: &Outcome) -> Result<(), CheckpointError> {
        self.journal.append(row, outcome)?;
        if let Some(bad) = outcome.failure() {
            self.failed.insert(row, bad.clone());
        }
        Ok(())
    }

    /// The journal, to be synced.
    pub(super) fn journal(&mut self) -> &mut Journal {
        &mut self.journal
    }

    /// Whether so many rows are not durable yet that they should not wait.
    pub(super) fn is_full(&self) -> bool {
        self.journal.is_full()
    }

    /// Whether rows are not durable yet.
    pub(super) fn is_dirty(&self) -> bool {
        self.journal.is_dirty()
    }
}

impl Outcomes for Ended {
    fn has(&self, row: RowId) -> bool {
        self.journal.has(row) || self.failed.contains_key(&row)
    }

    fn failure(&self, row: RowId) -> Option<&BadRow> {
        self.failed.get(&row)
    }

    fn outcome(&self, row: RowId) -> io::Result<Option<Cow<'_, Outcome>>> {
        match self.failed.get(&row) {
            Some(bad) => Ok(Some(Cow::Owned(Outcome::Failed(bad.clone())))),
            None => Ok(self.journal.outcome(row)?.map(Cow::Owned)),
        }
    }
}
