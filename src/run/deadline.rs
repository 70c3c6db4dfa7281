//! When a run with a deadline stops, from the lengths of its answers so far.
//!
//! The clock decides only which rows are left to the next run, never what an answer is.
//!
//! ```text
//! ... rows start ... | rows in flight end            | deadline
//!                    | grace, or a median row's time |
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use crate::outcome::{Outcome, RowResult};
use crate::stop::Deadline;

use super::options::{RunEnd, RunOptions};

/// How a run ends that is asked to, or has no more time.
pub(super) struct Ending {
    grace: Duration,
    deadline: Option<Deadline>,
    /// Whether the run stops because the deadline is near; the stop flag alone does not tell why it was set.
    pub(super) is_declared: bool,
    /// Rows of this run by the tokens of their longest answer.
    lengths: BTreeMap<usize, u64>,
    rows: u64,
}

impl Ending {
    pub(super) fn new(options: &RunOptions) -> Self {
        Self {
            grace: options.grace,
            deadline: options.deadline.clone(),
            is_declared: false,
            lengths: BTreeMap::new(),
            rows: 0,
        }
    }

    pub(super) fn has_deadline(&self) -> bool {
        self.deadline.is_some()
    }

    /// Takes the length of a finished row's answers, which run side by side.
    pub(super) fn observe(&mut self, outcome: &Outcome) {
        let steps = match outcome.result() {
            Ok(RowResult::Generated(completion)) => {
                let samples = completion.samples.iter();
                samples.map(|sample| sample.token_ids.len()).max()
            }
            // One pass reads all of it.
            Ok(RowResult::Measured(_)) => Some(1),
            Err(_) => return,
        };
        *self.lengths.entry(steps.unwrap_or(0)).or_default() += 1;
        self.rows += 1;
    }

    /// Whether a row of the median length, or the grace, would go past the deadline from now on.
    pub(super) fn is_near(&self, seconds_per_token: f64) -> bool {
        let Some(deadline) = &self.deadline else {
            return false;
        };
        let seconds = self.median() as f64 * seconds_per_token;
        let row = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        deadline.left() <= self.grace.max(row)
    }

    /// How long rows in flight may go on: after a signal the grace, and never past the deadline.
    pub(super) fn time_left(&self, is_asked: bool) -> Duration {
        match &self.deadline {
            Some(deadline) if is_asked => self.grace.min(deadline.left()),
            Some(deadline) => deadline.left(),
            None => self.grace,
        }
    }

    /// How a run ended that stopped early after so many rows.
    pub(super) fn end(&self, rows: u64) -> RunEnd {
        let is_over = |deadline: &Deadline| deadline.left().is_zero();
        if self.is_declared || self.deadline.as_ref().is_some_and(is_over) {
            RunEnd::OutOfTime { rows }
        } else {
            RunEnd::Interrupted
        }
    }

    /// The median of the lengths so far, tokens; zero before the first row.
    fn median(&self) -> usize {
        let mut seen = 0;
        let middle = self.lengths.iter().find(|(_, rows)| {
            seen += **rows;
            2 * seen >= self.rows
        });
        middle.map_or(0, |(&tokens, _)| tokens)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::outcome::{Completion, FinishReason, Sample};

    /// A clock that a test drives, in seconds.
    fn driven(left: u64) -> (Arc<AtomicU64>, Ending) {
        let clock = Arc::new(AtomicU64::new(left));
        let told = Arc::clone(&clock);
        let ending = Ending::new(&RunOptions {
            grace: Duration::from_secs(20),
            deadline: Some(Deadline::told_by(move || {
                Duration::from_secs(told.load(Ordering::SeqCst))
            })),
            ..RunOptions::default()
        });
        (clock, ending)
    }

    fn answer(tokens: usize) -> Outcome {
        Outcome::Ok(RowResult::Generated(Completion {
            prompt_tokens: 1,
            truncated: 0,
            samples: vec![Sample {
                text: String::new(),
                finish_reason: FinishReason::Length,
                token_ids: vec![0; tokens],
                token_logprobs: Vec::new(),
                score: None,
                spans: Vec::new(),
            }],
        }))
    }

    #[test]
    fn rows_start_until_the_grace_or_a_median_row_is_left() {
        let (clock, mut ending) = driven(21);
        assert!(!ending.is_near(1.0));
        clock.store(20, Ordering::SeqCst);
        assert!(ending.is_near(1.0));
        clock.store(100, Ordering::SeqCst);
        for tokens in [5, 100, 1000] {
            ending.observe(&answer(tokens));
        }
        assert_eq!(ending.median(), 100);
        assert!(!ending.is_near(0.5), "a median row takes 50 s of 100 left");
        assert!(ending.is_near(1.0));
        clock.store(51, Ordering::SeqCst);
        assert!(!ending.is_near(0.5));
        clock.store(50, Ordering::SeqCst);
        assert!(ending.is_near(0.5));
    }

    #[test]
    fn the_deadline_bounds_what_is_in_flight() {
        let (clock, mut ending) = driven(50);
        assert_eq!(ending.time_left(false), Duration::from_secs(50));
        assert_eq!(ending.time_left(true), Duration::from_secs(20));
        assert_eq!(ending.end(3), RunEnd::Interrupted);
        ending.is_declared = true;
        assert_eq!(ending.end(3), RunEnd::OutOfTime { rows: 3 });
        ending.is_declared = false;
        clock.store(0, Ordering::SeqCst);
        assert_eq!(ending.time_left(true), Duration::ZERO);
        assert_eq!(ending.end(0), RunEnd::OutOfTime { rows: 0 });
        let without = Ending::new(&RunOptions::default());
        assert!(!without.is_near(1e9));
        assert_eq!(without.end(0), RunEnd::Interrupted);
    }
}
