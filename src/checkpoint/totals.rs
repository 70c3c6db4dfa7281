//! What a window, a shard or a job counts of its rows, and the rows that its summary shows.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::outcome::{LeftOutRows, Sums};

/// Counts of rows and tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Input rows, broken lines and rows that are left out included.
    pub rows: u64,
    /// Rows with a result.
    pub ok: u64,
    /// Rows that failed in generation.
    pub failed: u64,
    /// Rows that failed before it.
    pub bad: u64,
    /// Those of `bad` that are no records, such as broken lines: the parts have no line of them. Windows that an
    /// earlier version committed do not say it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub broken: u64,
    /// Rows that the job leaves out.
    #[serde(default, skip_serializing_if = "LeftOutRows::is_empty")]
    pub left_out: LeftOutRows,
    /// Rows whose prompt was cut to fit.
    pub truncated: u64,
    /// Rows whose prompt has more than one mask, of which the first is answered.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub several_masks: u64,
    /// Rows with two choices that are the same text.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub equal_choices: u64,
    /// Requests with keys that say nothing of the answer.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub passed_over: u64,
    /// Rows that lost examples, because their prompt would have been too long with all of them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub shots_dropped: u64,
    /// Tokens read.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub completion_tokens: u64,
    /// Rows with a reference.
    pub referenced: u64,
    /// Those of them whose first sample equals it.
    pub exact: u64,
    /// What the job's task adds up over the rows, in the order of the windows.
    #[serde(default, skip_serializing_if = "Sums::is_empty")]
    pub sums: Sums,
    /// By value of the column `report.by`, and by an empty text for rows without one: the counts of a group.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, GroupTotals>,
}

/// Groups that are told apart; the rows of further ones are counted together as [`OTHER_GROUPS`].
const MOST_GROUPS: usize = 1_000;

/// What the groups beyond [`MOST_GROUPS`] are counted as.
const OTHER_GROUPS: &str = "(others)";

/// Counts of the rows of one group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupTotals {
    /// Rows of the group.
    pub rows: u64,
    /// Those with a result.
    pub ok: u64,
    /// Rows with a reference.
    pub referenced: u64,
    /// Those of them whose first sample equals it.
    pub exact: u64,
    /// What the job's task and the metrics add up over the rows.
    #[serde(default, skip_serializing_if = "Sums::is_empty")]
    pub sums: Sums,
}

impl AddAssign<&GroupTotals> for GroupTotals {
    fn add_assign(&mut self, other: &GroupTotals) {
        self.rows += other.rows;
        self.ok += other.ok;
        self.referenced += other.referenced;
        self.exact += other.exact;
        self.sums += &other.sums;
    }
}

impl Totals {
    /// Rows that are not left out.
    pub(crate) fn taken(&self) -> u64 {
        self.rows.saturating_sub(self.left_out.total())
    }

    /// Counts rows that are in no window, because they come after the last one that the job takes.
    pub(crate) fn add_behind(&mut self, rows: u64) {
        self.rows += rows;
        self.left_out.limit += rows;
    }

    /// Counts some rows in a group.
    pub(crate) fn add_to_group(&mut self, group: &str, totals: &GroupTotals) {
        let is_known = self.groups.contains_key(group) || self.groups.len() < MOST_GROUPS;
        let group = if is_known { group } else { OTHER_GROUPS };
        *self.groups.entry(group.to_owned()).or_default() += totals;
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl AddAssign<&Totals> for Totals {
    fn add_assign(&mut self, other: &Totals) {
        self.rows += other.rows;
        self.ok += other.ok;
        self.failed += other.failed;
        self.bad += other.bad;
        self.broken += other.broken;
        self.left_out += other.left_out;
        self.truncated += other.truncated;
        self.several_masks += other.several_masks;
        self.equal_choices += other.equal_choices;
        self.passed_over += other.passed_over;
        self.shots_dropped += other.shots_dropped;
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.referenced += other.referenced;
        self.exact += other.exact;
        self.sums += &other.sums;
        for (group, totals) in &other.groups {
            self.add_to_group(group, totals);
        }
    }
}

/// A row shown beside its reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// Prompt.
    pub question: String,
    /// First sample.
    pub completion: String,
    /// Reference.
    pub reference: String,
    /// The worse one of a pair, whose better one is `completion`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<String>,
}
