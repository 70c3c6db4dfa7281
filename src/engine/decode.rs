//! One decode step: a call with every running sample, or two calls with half of them each where rows in flight are
//! being compared, and what the steps have shown.

use std::time::Instant;

use crate::model::{DecodeRow, ModelError, Scores};

use super::error::EngineError;
use super::queued::Queued;
use super::request::Finished;
use super::scheduler::{Engine, Scored, is_out_of_memory};
use super::tuning::{Learned, Search, TimedStep};

/// Two calls compare with one where they differ by at most one part in this of the slots: a sample has all of its beams
/// in one call.
const UNEVEN_PARTS: usize = 4;

impl Engine {
    /// Allows more rows in flight where enough wait to try them.
    pub(super) fn try_more_rows(&mut self) {
        let search = self.tuning.as_ref().map(|tuning| &tuning.search);
        let Some(wanted) = search.and_then(|search| search.wanted(self.slots_taken())) else {
            return;
        };
        let has_tokens = self.load.tokens.saturating_mul(2) <= self.budget.max_batch_tokens;
        if has_tokens && self.do_slots_wait(wanted) {
            self.search(Search::try_more);
        }
    }

    /// Slots in use, and those that are too few for one more sample with as many beams as the widest that runs.
    fn slots_taken(&self) -> usize {
        let widths = self.running.values().map(|running| running.slots.len());
        let free = self.budget.max_batch_size.saturating_sub(self.load.slots);
        match widths.max() {
            Some(widest) if free < widest => self.load.slots + free,
            _ => self.load.slots,
        }
    }

    /// Whether the samples that wait want at least so many slots.
    fn do_slots_wait(&self, wanted: usize) -> bool {
        let queue = self.queue.lock();
        let entries = self.waiting_entries().chain(queue.waiting.iter());
        let mut missing = wanted;
        entries.map(Queued::pending_slots).any(|slots| {
            missing = missing.saturating_sub(slots);
            missing == 0
        })
    }

    /// Memory has run out: no more rows are tried, and a trial ends with as many as before.
    pub(super) fn stop_trying_rows(&mut self) {
        self.search(Search::ran_out);
    }

    /// Lets the search for the rows that are enough go on, and takes over its limit.
    fn search<T>(&mut self, go_on: impl FnOnce(&mut Search) -> T) -> Option<T> {
        let search = &mut self.tuning.as_mut()?.search;
        let found = go_on(search);
        self.budget.max_batch_size = search.limit();
        Some(found)
    }

    /// One token for every running sample.
    pub(super) fn decode(&mut self) -> Result<Vec<Finished>, EngineError> {
        let mut running = self.running.values();
        let is_greedy = running.all(|running| running.writing.takes_likeliest());
        let (slots, taken) = (self.load.slots, self.slots_taken());
        let calls = self.calls();
        let (mut finished, mut rows) = (Vec::new(), 0);
        let begun = Instant::now();
        for call in &calls {
            // The samples of a later call may have ended with those of an earlier one, whose tokens are taken before it
            // so that memory may run out in between.
            let (fed, scored) = self.fed(call);
            if fed.is_empty() {
                continue;
            }
            rows += fed.len();
            match self.decode_rows(&fed, is_greedy) {
                Ok(scores) => finished.extend(self.advance(&scores, &scored)?),
                Err(error) if is_out_of_memory(&error) => {
                    finished.extend(self.out_of_memory(&[], 0));
                    return Ok(finished);
                }
                Err(source) => {
                    return Err(EngineError::Model {
                        doing: "decoding",
                        source,
                    });
                }
            }
        }
        self.count_step(slots, rows);
        self.learn(TimedStep {
            slots: taken,
            rows,
            is_split: calls.len() > 1,
            seconds: begun.elapsed().as_secs_f64(),
        });
        Ok(finished)
    }

    /// The first slots of the samples of each call.
    fn calls(&mut self) -> Vec<Vec<usize>> {
        let mut first: Vec<usize> = self.running.keys().copied().collect();
        let search = self.tuning.as_ref().map(|tuning| &tuning.search);
        if !search.is_some_and(|search| search.is_split(self.slots_taken())) {
            return vec![first];
        }
        let Some(middle) = self.middle() else {
            self.search(Search::found_uneven);
            return vec![first];
        };
        let second = first.split_off(middle);
        vec![first, second]
    }

    /// How many samples have half of the slots; `None` where the halves would be uneven.
    fn middle(&self) -> Option<usize> {
        let all = self.load.slots;
        let mut first = 0;
        let mut samples = 0;
        for running in self.running.values() {
            if 2 * first >= all {
                break;
            }
            first += running.slots.len();
            samples += 1;
        }
        let is_even = (2 * first - all) * UNEVEN_PARTS <= all;
        (is_even && samples < self.running.len()).then_some(samples)
    }

    /// What the samples with these first slots feed to the model, of those that still run.
    fn fed(&self, first_slots: &[usize]) -> (Vec<DecodeRow>, Vec<Scored>) {
        let mut fed: Vec<DecodeRow> = Vec::with_capacity(self.load.slots);
        let mut scored = Vec::with_capacity(first_slots.len());
        for &first_slot in first_slots {
            let Some(running) = self.running.get(&first_slot) else {
                continue;
            };
            let first_row = fed.len();
            fed.extend(running.writing.decode_rows(&running.slots));
            scored.push(Scored {
                first_slot,
                first_row,
                rows: fed.len() - first_row,
            });
        }
        (fed, scored)
    }

    fn decode_rows(&mut self, rows: &[DecodeRow], is_greedy: bool) -> Result<Scores, ModelError> {
        let begun = Instant::now();
        let scores = if is_greedy {
            self.model.decode_likeliest(rows)
        } else {
            self.model.decode(rows).map(Scores::Logits)
        };
        self.statistics.decode_seconds += begun.elapsed().as_secs_f64();
        scores
    }

    fn count_step(&mut self, slots: usize, rows: usize) {
        // After a trial that more rows have lost, fewer slots can be in use than were.
        let could_be = self.statistics.peak_slots.min(self.budget.max_batch_size);
        let could_be = could_be.max(slots);
        self.statistics.decode_steps += 1;
        self.statistics.slot_steps += could_be as u64;
        self.statistics.idle_slot_steps += (could_be - rows) as u64;
    }

    fn learn(&mut self, step: TimedStep) {
        let Some(found) = self.search(|search| search.timed(step)).flatten() else {
            return;
        };
        let learned = Learned {
            rows: found.rows,
            is_enough: found.is_enough,
            decode: found.decode,
            prefill: self.statistics.prompt_tokens as f64 / self.statistics.prefill_seconds,
        };
        if let Some(tuning) = &mut self.tuning {
            (tuning.keep)(&learned);
        }
    }
}
