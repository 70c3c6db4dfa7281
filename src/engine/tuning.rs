//! How many rows are in flight where the job leaves that open: more of them as the job's own decode steps show that
//! more are faster.
//!
//! ```text
//! settled --(slots full, enough rows wait)--> twice as many tried --(pairs timed)--> settled, or back to as many as before
//! ```
//!
//! While twice as many rows are tried, steps alternate between one call of all rows and two calls of half of them
//! each. A step of each kind makes a pair. Both compute the same rows, so that neither longer contexts nor other
//! programs on the machine decide, and the median of the pairs is taken. Rows do not depend on their batch, so no
//! answer changes.
//!
//! [`Search`] has neither clock nor model: the scheduler tells it the seconds of each step.

use std::mem;

use crate::measure::batch_size::{MOST_ROWS, fewest};

/// Pairs of steps whose median decides.
const PAIRS: usize = 8;

/// A trial ends without a decision after so many steps whose samples have no two halves.
const MOST_UNEVEN: usize = 2 * PAIRS;

/// A step counts as one of all rows where at most one part in this of the slots is empty: slots come free, and the next
/// contexts are read a few at a time.
const EMPTY_PARTS: usize = 8;

/// What is done with a number that was found.
pub(crate) type Keep = Box<dyn FnMut(&Learned) + Send>;

/// What a job's steps have shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Learned {
    /// Rows in flight that are faster than fewer.
    pub rows: usize,
    /// Whether more are no faster; else they are still to be tried.
    pub is_enough: bool,
    /// Answer tokens a second by rows in flight, for all numbers that were tried, fewest rows first.
    pub decode: Vec<(usize, f64)>,
    /// Context tokens a second so far.
    pub prefill: f64,
}

/// The rows in flight of one engine.
pub struct Tuning {
    pub(super) search: Search,
    pub(super) keep: Keep,
}

impl Tuning {
    /// Begins with so many rows; `keep` is called for each number that is found, until one is enough.
    pub fn new(rows: usize, keep: impl FnMut(&Learned) + Send + 'static) -> Self {
        Self {
            search: Search::new(rows),
            keep: Box::new(keep),
        }
    }
}

/// What a trial has shown.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    /// See [`Learned::rows`].
    pub(super) rows: usize,
    /// See [`Learned::is_enough`].
    pub(super) is_enough: bool,
    /// See [`Learned::decode`].
    pub(super) decode: Vec<(usize, f64)>,
}

/// A decode step as the search sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimedStep {
    /// Slots in use when it began, with those that are too few for one more sample.
    pub(super) slots: usize,
    /// Rows that were computed.
    pub(super) rows: usize,
    /// Whether it was two calls.
    pub(super) is_split: bool,
    /// How long it took, with choosing the tokens.
    pub(super) seconds: f64,
}

/// The search for the rows that are enough.
#[derive(Debug)]
pub(super) struct Search {
    /// Rows that are settled on so far.
    rows: usize,
    stage: Stage,
    /// Answer tokens a second by rows, of those that were tried.
    decode: Vec<(usize, f64)>,
}

#[derive(Debug)]
enum Stage {
    /// More are tried as soon as enough rows wait.
    Settled,
    /// Twice as many are in flight, and steps are timed.
    Trying(Trial),
    /// Nothing is tried any more.
    Ended,
}

/// Seconds a row of the steps that are compared.
#[derive(Debug, Default)]
struct Trial {
    /// What the first step of the pair took that is under way.
    first: Option<f64>,
    pairs: Vec<Pair>,
    /// Steps that could not be made of two calls.
    uneven: usize,
}

#[derive(Clone, Copy, Debug)]
struct Pair {
    whole: f64,
    split: f64,
}

impl Search {
    fn new(rows: usize) -> Self {
        Self {
            rows: rows.max(1),
            stage: Stage::Settled,
            decode: Vec::new(),
        }
    }

    /// Rows that may be in flight now.
    pub(super) fn limit(&self) -> usize {
        match self.stage {
            Stage::Trying(_) => 2 * self.rows,
            Stage::Settled | Stage::Ended => self.rows,
        }
    }

    /// How many slots the waiting rows must want before more are tried, with `slots` in use: as many as would fill all
    /// slots of the trial, so that it does not end for want of rows. `None` where nothing is to be tried now.
    pub(super) fn wanted(&self, slots: usize) -> Option<usize> {
        let may_grow = matches!(self.stage, Stage::Settled) && self.rows < MOST_ROWS;
        let is_open = may_grow && is_full(slots, self.rows);
        is_open.then_some(2 * self.rows)
    }

    /// Allows twice as many rows from now on, and asks for steps in pairs.
    pub(super) fn try_more(&mut self) {
        self.stage = Stage::Trying(Trial::default());
    }

    /// Whether the next step, with so many slots in use, is to be made of two calls.
    pub(super) fn is_split(&self, slots: usize) -> bool {
        match &self.stage {
            Stage::Trying(trial) => is_full(slots, self.limit()) && trial.next_is_split(),
            Stage::Settled | Stage::Ended => false,
        }
    }

    /// Takes a step. Returns what the trial has shown, if this was its last one.
    pub(super) fn timed(&mut self, step: TimedStep) -> Option<Finding> {
        let limit = self.limit();
        let Stage::Trying(trial) = &mut self.stage else {
            return None;
        };
        if !is_full(step.slots, limit) || step.is_split != trial.next_is_split() || step.rows == 0 {
            // The steps of a pair follow each other.
            trial.first = None;
            return None;
        }
        trial.add(step.seconds / step.rows as f64);
        if trial.pairs.len() < PAIRS {
            return None;
        }
        let trial = mem::take(trial);
        self.decide(&trial);
        Some(Finding {
            rows: self.rows,
            is_enough: matches!(self.stage, Stage::Ended),
            decode: self.decode.clone(),
        })
    }

    fn decide(&mut self, trial: &Trial) {
        let more = 2 * self.rows;
        let gain = median(trial.pairs.iter().map(|pair| pair.split / pair.whole));
        let seconds = median(trial.pairs.iter().map(|pair| pair.split));
        let (_, rate) = *self.decode.last().unwrap_or(&(self.rows, 1.0 / seconds));
        if self.decode.is_empty() {
            self.decode.push((self.rows, rate));
        }
        self.decode.push((more, rate * gain));
        let is_faster = fewest(&[(self.rows, 1.0), (more, gain)]) == Some(more);
        if is_faster {
            self.rows = more;
        }
        self.stage = if is_faster && self.rows < MOST_ROWS {
            Stage::Settled
        } else {
            Stage::Ended
        };
    }

    /// The samples of a step that was to be made of two calls have no two halves: few of them have many beams.
    pub(super) fn found_uneven(&mut self) {
        if let Stage::Trying(trial) = &mut self.stage {
            trial.uneven += 1;
            if trial.uneven > MOST_UNEVEN {
                self.stage = Stage::Ended;
            }
        }
    }

    /// Memory has run out: the machine has no room to try more rows.
    pub(super) fn ran_out(&mut self) {
        self.stage = Stage::Ended;
    }
}

impl Trial {
    /// Which kind of step comes next. Each kind is first in every second pair, because contexts grow from step to step.
    fn next_is_split(&self) -> bool {
        let begins_split = !self.pairs.len().is_multiple_of(2);
        begins_split == self.first.is_none()
    }

    fn add(&mut self, seconds: f64) {
        // A clock too coarse for the step gives zero.
        let seconds = seconds.max(1e-12);
        let begins_split = !self.pairs.len().is_multiple_of(2);
        match self.first.take() {
            None => self.first = Some(seconds),
            Some(first) if begins_split => self.pairs.push(Pair {
                whole: seconds,
                split: first,
            }),
            Some(first) => self.pairs.push(Pair {
                whole: first,
                split: seconds,
            }),
        }
    }
}

/// Most rows that a search which begins with `rows` can come to, where all rows of the job want so many slots.
pub(crate) fn most_rows(rows: usize, slots: u64) -> usize {
    let mut most = rows;
    // As many as run, and as many as must wait beside them.
    while most < MOST_ROWS && slots >= 3 * most as u64 {
        most *= 2;
    }
    most
}

fn is_full(slots: usize, limit: usize) -> bool {
    slots + limit / EMPTY_PARTS >= limit
}

/// The median, or the mean of the two in the middle; of no values it is not a number.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = |at: usize| values.get(at).copied().unwrap_or(f64::NAN);
    let half = values.len() / 2;
    if values.len().is_multiple_of(2) {
        f64::midpoint(middle(half.wrapping_sub(1)), middle(half))
    } else {
        middle(half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a search comes to where `wait` slots are always wanted by rows that wait, and a call takes as long as `call` says
    /// of its rows and the number of the step, and whether it is enough; `None` where nothing is found after many steps.
    fn found(
        first: usize,
        wait: usize,
        call: impl Fn(usize, usize) -> f64,
    ) -> Option<(usize, bool)> {
        let mut search = Search::new(first);
        let mut last = None;
        for step in 0..1000 {
            let slots = search.limit();
            if search.wanted(slots).is_some_and(|wanted| wanted <= wait) {
                search.try_more();
                continue;
            }
            let is_split = search.is_split(slots);
            let seconds = if is_split {
                call(slots / 2, step) + call(slots - slots / 2, step)
            } else {
                call(slots, step)
            };
            let timed = search.timed(TimedStep {
                slots,
                rows: slots,
                is_split,
                seconds,
            });
            if let Some(found) = timed {
                let (rows, decode) = (found.rows, &found.decode);
                assert_eq!(rows, search.limit());
                assert!(decode.is_sorted_by(|a, b| a.0 < b.0), "{decode:?}");
                assert!(decode.iter().any(|&(tried, _)| tried == rows));
                last = Some((rows, found.is_enough));
            }
        }
        last
    }

    /// A call that has a cost of its own beside that of its rows.
    fn fixed(cost: f64) -> impl Fn(usize, usize) -> f64 {
        move |rows, _| (cost + rows as f64) * 1e-3
    }

    #[test]
    fn the_fewest_rows_that_are_nearly_as_fast_as_any_are_found() {
        // Twice the rows win over 3% where the cost is over a sixteenth of the rows.
        for (cost, rows) in [(0.0, 32), (1.8, 32), (3.0, 64), (6.0, 128), (12.0, 256)] {
            assert_eq!(
                found(32, usize::MAX, fixed(cost)),
                Some((rows, true)),
                "{cost}"
            );
        }
        let slower_together = |rows: usize, _| (rows * rows) as f64;
        assert_eq!(found(32, usize::MAX, slower_together), Some((32, true)));
    }

    #[test]
    fn single_steps_that_other_programs_slow_do_not_decide() {
        for (cost, rows) in [(0.0, 32), (3.0, 64), (6.0, 128)] {
            for slow in 0..7 {
                let noisy = |rows: usize, step: usize| {
                    let times = if step % 7 == slow { 5.0 } else { 1.0 };
                    times * fixed(cost)(rows, step)
                };
                assert_eq!(
                    found(32, usize::MAX, noisy),
                    Some((rows, true)),
                    "{cost}, {slow}"
                );
            }
        }
    }

    #[test]
    fn contexts_that_grow_from_step_to_step_do_not_decide() {
        for (cost, rows) in [(0.0, 32), (3.0, 64), (6.0, 128)] {
            let growing =
                |rows: usize, step: usize| (1.0 + step as f64 / 20.0) * fixed(cost)(rows, step);
            assert_eq!(found(32, usize::MAX, growing), Some((rows, true)), "{cost}");
        }
    }

    #[test]
    fn the_speeds_that_are_told_are_those_of_the_steps() {
        let mut search = Search::new(32);
        search.try_more();
        let step = |is_split| TimedStep {
            slots: 64,
            rows: 64,
            is_split,
            seconds: if is_split { 0.64 } else { 0.63 },
        };
        let found = (0..2 * PAIRS).find_map(|_| search.timed(step(search.is_split(64))));
        let Finding {
            rows,
            is_enough,
            decode,
        } = found.unwrap();
        assert_eq!((rows, is_enough, decode.len()), (32, true, 2));
        for ((rows, rate), (expected, by_steps)) in decode.into_iter().zip([(32, 0.64), (64, 0.63)])
        {
            assert_eq!(rows, expected);
            assert!((rate - 64.0 / by_steps).abs() < 1e-6, "{rate}");
        }
    }

    #[test]
    fn a_short_queue_triggers_no_trial() {
        let search = Search::new(32);
        assert_eq!(search.wanted(32), Some(64));
        assert_eq!(search.wanted(28), Some(64), "an eighth may be empty");
        assert_eq!(search.wanted(27), None, "slots are empty");
        assert_eq!(found(32, 63, fixed(100.0)), None);
        // 64 rows win, and too few wait to try 128.
        assert_eq!(found(32, 127, fixed(100.0)), Some((64, false)));
        assert_eq!(found(64, 127, fixed(100.0)), None, "64 are not tried again");
        assert_eq!(found(64, 255, fixed(100.0)), Some((128, false)));
        assert_eq!(found(32, 512, fixed(100.0)), Some((256, true)));
        assert_eq!(
            found(256, usize::MAX, fixed(1e6)),
            None,
            "more are not tried"
        );
    }

    #[test]
    fn only_full_steps_in_pairs_count() {
        let mut search = Search::new(32);
        search.try_more();
        assert_eq!(search.limit(), 64);
        let mut timed = |slots, is_split| {
            let step = TimedStep {
                slots,
                rows: slots,
                is_split,
                seconds: 1.0,
            };
            let asked = search.is_split(slots);
            (asked, search.timed(step).is_some())
        };
        for _ in 0..100 {
            assert_eq!(timed(64, false), (false, false));
            // Too few slots are in use, and the pair is given up.
            assert_eq!(timed(55, false), (false, false));
            assert_eq!(timed(64, false), (false, false));
            // A step in one call does not end a pair that waits for one in two.
            assert_eq!(timed(64, false), (true, false));
        }
        for pair in 0..PAIRS {
            let begins_split = pair % 2 == 1;
            assert_eq!(timed(64, begins_split), (begins_split, false));
            let is_last = pair + 1 == PAIRS;
            assert_eq!(timed(64, !begins_split), (!begins_split, is_last), "{pair}");
        }
        assert_eq!(timed(64, false), (false, false));
    }

    #[test]
    fn memory_that_runs_out_ends_the_search_without_a_result() {
        let mut search = Search::new(32);
        search.try_more();
        search.ran_out();
        assert_eq!(search.limit(), 32);
        assert_eq!(search.wanted(32), None);
        let step = TimedStep {
            slots: 64,
            rows: 64,
            is_split: false,
            seconds: 1.0,
        };
        assert!((0..100).all(|_| search.timed(step).is_none()));
        let mut before = Search::new(32);
        before.ran_out();
        assert_eq!((before.limit(), before.wanted(32)), (32, None));
    }

    #[test]
    fn a_search_comes_only_to_what_the_rows_of_a_job_can_fill() {
        let most = |slots| most_rows(32, slots);
        assert_eq!(
            [0, 95, 96, 191, 192, 384].map(most),
            [32, 32, 64, 64, 128, 256]
        );
        assert_eq!(most(u64::MAX), 256);
    }
}
