//! Rows that a job leaves out: why, and how many.

use std::fmt;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::numbers::grouped;

/// Why a row is left out: it has neither a result nor a line, and has not failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// It is among the first rows, which `input.skip` passes over.
    Skip,
    /// It comes after the last row that `input.limit` takes.
    Limit,
    /// It is a line of an earlier job's results that has no result.
    Failed,
    /// `input.where` is not true for it.
    Where,
}

/// Rows that are left out, by the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeftOutRows {
    /// By `input.skip`.
    pub skip: u64,
    /// By `input.limit`.
    pub limit: u64,
    /// Lines of an earlier job that failed there.
    pub failed: u64,
    /// By `input.where`.
    #[serde(rename = "where")]
    pub filter: u64,
}

impl LeftOutRows {
    /// Adds a row.
    pub fn add(&mut self, why: LeftOut) {
        *match why {
            LeftOut::Skip => &mut self.skip,
            LeftOut::Limit => &mut self.limit,
            LeftOut::Failed => &mut self.failed,
            LeftOut::Where => &mut self.filter,
        } += 1;
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.named().iter().map(|(rows, _)| rows).sum()
    }

    /// Whether no row is left out.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Each number with what is said of such rows, after "left out".
    pub fn named(&self) -> [(u64, &'static str); 4] {
        [
            (self.skip, "by `input.skip`"),
            (self.limit, "by `input.limit`"),
            (self.failed, "that failed in the earlier job"),
            (self.filter, "by `input.where`"),
        ]
    }
}

impl fmt::Display for LeftOutRows {
    /// The reasons that there are, as in "left out: 3 by `input.where`".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = self.named();
        let named = named.iter().filter(|(rows, _)| *rows > 0);
        let parts: Vec<String> = named
            .map(|(rows, why)| format!("{} {why}", grouped(*rows)))
            .collect();
        f.write_str(&parts.join(", "))
    }
}

impl AddAssign for LeftOutRows {
    fn add_assign(&mut self, other: Self) {
        self.skip += other.skip;
        self.limit += other.limit;
        self.failed += other.failed;
        self.filter += other.filter;
    }
}
