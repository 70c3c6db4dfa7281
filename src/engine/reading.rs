//! Rows that are read in one forward pass: groups of them through the model, no slot kept.
//!
//! ```text
//! queue.readings: longest first ---> a group under the limits of plan ---> chances or values ---> rows
//!                      ^------------- memory runs out: back, and half the budget
//! ```
//!
//! Invariant: a row comes back once, and what is found for it depends on the row alone, whatever group it is in.

use std::mem::Discriminant;
use std::time::Instant;

use crate::ids::{RowId, WindowId};
use crate::model::{ModelError, ReadRow, TokenChance};
use crate::outcome::{BadRow, Stage};
use crate::plan::{RowLength, order};

use super::error::EngineError;
use super::request::{Finished, Found, Reading, Want};
use super::scheduler::Engine;

/// A row that waits to be read.
#[derive(Debug)]
pub(super) struct QueuedReading {
    window: WindowId,
    row: RowId,
    readings: Vec<Reading>,
}

/// The readings of one window in the order in which they are taken: longest first.
pub(super) fn in_order(
    window: WindowId,
    readings: Vec<(RowId, Vec<Reading>)>,
    bucket_tokens: u32,
) -> Vec<QueuedReading> {
    let lengths: Vec<_> = readings
        .iter()
        .enumerate()
        .map(|(index, (_, readings))| Reading::length(readings, index))
        .collect();
    let mut readings: Vec<_> = readings.into_iter().map(Some).collect();
    let order = order(&lengths, bucket_tokens).into_iter();
    let queued = order.map(|position| {
        let taken = readings[position].take();
        let (row, readings) = taken.expect("an order names a row once");
        QueuedReading {
            window,
            row,
            readings,
        }
    });
    queued.collect()
}

impl QueuedReading {
    /// What planning knows of it.
    pub(super) fn length(&self, index: usize) -> RowLength {
        Reading::length(&self.readings, index)
    }

    fn tokens(&self) -> usize {
        self.readings.iter().map(Reading::tokens).sum()
    }

    /// What all its readings want.
    fn want(&self) -> Option<Discriminant<Want>> {
        self.readings
            .first()
            .map(|reading| std::mem::discriminant(&reading.want))
    }

    fn finish(self, found: Result<Found, String>) -> Finished {
        Finished {
            window: self.window,
            row: self.row,
            found: found.map_err(|reason| BadRow {
                stage: Stage::Read,
                reason,
            }),
        }
    }
}

impl Engine {
    /// Reads the next group of rows that need one pass each; none where no such row waits.
    pub(super) fn read_group(&mut self) -> Result<Vec<Finished>, EngineError> {
        let group = self.next_readings();
        if group.is_empty() {
            return Ok(Vec::new());
        }
        let begun = Instant::now();
        let found = self.compute(&group);
        self.statistics.prefill_seconds += begun.elapsed().as_secs_f64();
        match found {
            Ok(found) => {
                self.count(&group);
                let rows = group.into_iter().zip(found);
                Ok(rows.map(|(row, found)| row.finish(found)).collect())
            }
            Err(ModelError::OutOfMemory) => Ok(self.no_room_for(group)),
            Err(source) => Err(EngineError::Model {
                doing: "reading texts",
                source,
            }),
        }
    }

    /// Takes the rows at the head of the queue that are read together now. All want the same.
    fn next_readings(&mut self) -> Vec<QueuedReading> {
        let mut state = self.queue.lock();
        let Some(first) = state.readings.front() else {
            return Vec::new();
        };
        let want = first.want();
        let alike = state.readings.iter().take_while(|row| row.want() == want);
        let rows = self.budget.next_readings(alike.map(|row| row.length(0)));
        state.readings.drain(..rows).collect()
    }

    /// What the model finds for each row of a group.
    fn compute(
        &mut self,
        group: &[QueuedReading],
    ) -> Result<Vec<Result<Found, String>>, ModelError> {
        let readings: Vec<&Reading> = group.iter().flat_map(|row| &row.readings).collect();
        let branches: Vec<Vec<&[u32]>> = readings
            .iter()
            .map(|reading| reading.branches.iter().map(Vec::as_slice).collect())
            .collect();
        let rows: Vec<ReadRow<'_>> = readings
            .iter()
            .zip(&branches)
            .map(|(reading, branches)| ReadRow {
                context: &reading.encoded.ids,
                sight: reading.sight,
                mask_position: reading.encoded.mask_position,
                branches,
                asked: match &reading.want {
                    Want::Chances(asked) => asked,
                    Want::Values => &[],
                },
            })
            .collect();
        match readings.first().map(|reading| &reading.want) {
            None => Ok(Vec::new()),
            Some(Want::Chances(_)) => {
                let found = of_each(group, self.model.chances(&rows)?).into_iter();
                Ok(found.map(finite_chances).collect())
            }
            Some(Want::Values) => {
                let found = of_each(group, self.model.values(&rows)?).into_iter();
                Ok(found.map(finite_values).collect())
            }
        }
    }

    fn count(&mut self, group: &[QueuedReading]) {
        let bucket = self.budget.bucket_tokens;
        let mut all = 0;
        for row in group {
            let tokens = row.tokens() as u64;
            let width = row.length(0).padded_texts(bucket);
            self.statistics.prompt_tokens += tokens;
            self.statistics.padded_tokens += width - tokens;
            all += width;
        }
        self.statistics.prefill_batches += 1;
        self.statistics.peak_slots = self.statistics.peak_slots.max(group.len());
        self.statistics.peak_tokens = self.statistics.peak_tokens.max(all);
    }

    /// Halves the budget and puts a group back that memory has no room for; a row that was alone fails.
    fn no_room_for(&mut self, mut group: Vec<QueuedReading>) -> Vec<Finished> {
        let tokens: usize = group.iter().map(QueuedReading::tokens).sum();
        if group.len() == 1 {
            let reason = format!(
                "out of memory with this row alone ({tokens} tokens of context and what follows it); a smaller \
                 `max_length` may fit"
            );
            let alone = group.pop().expect("a group of one row has a row");
            return vec![alone.finish(Err(reason))];
        }
        self.statistics.oom_retries += 1;
        self.budget = self.budget.halved(tokens as u64);
        let mut state = self.queue.lock();
        for row in group.into_iter().rev() {
            state.readings.push_front(row);
        }
        drop(state);
        self.queue.wake();
        Vec::new()
    }
}

/// What was found for each row: the lists of its readings, one behind the other.
fn of_each<T>(group: &[QueuedReading], found: Vec<Vec<T>>) -> Vec<Vec<T>> {
    let mut found = found.into_iter();
    let of_row = |row: &QueuedReading| {
        let lists = found.by_ref().take(row.readings.len());
        lists.flatten().collect()
    };
    group.iter().map(of_row).collect()
}

fn finite_chances(chances: Vec<TokenChance>) -> Result<Found, String> {
    if chances.iter().all(|chance| chance.logprob.is_finite()) {
        Ok(Found::Chances(chances))
    } else {
        Err("the model's logits are not finite".to_owned())
    }
}

fn finite_values(values: Vec<f32>) -> Result<Found, String> {
    if values.iter().all(|value| value.is_finite()) {
        Ok(Found::Values(values))
    } else {
        Err("the value head's number is not finite".to_owned())
    }
}
