//! Scores to the next tokens of the samples that run: caches copied as their beams go on, rows ended.

use std::collections::BTreeMap;
use std::time::Instant;

use rayon::prelude::*;

use crate::generate::{Answered, Fork, Written};
use crate::model::Scores;

use super::error::EngineError;
use super::request::Finished;
use super::scheduler::{Engine, KEPT, Scored, is_out_of_memory};

impl Engine {
    /// Chooses the next tokens of the given samples; frees what has ended.
    pub(super) fn advance(
        &mut self,
        scores: &Scores,
        scored: &[Scored],
    ) -> Result<Vec<Finished>, EngineError> {
        let begun = Instant::now();
        let codec = self.queue.codec.as_ref();
        let scored_of: BTreeMap<usize, Scored> =
            scored.iter().map(|one| (one.first_slot, *one)).collect();
        let running: Vec<_> = self
            .running
            .iter_mut()
            .filter_map(|(slot, running)| Some((*scored_of.get(slot)?, &mut running.writing)))
            .collect();
        let written: Vec<(Scored, Written)> = running
            .into_par_iter()
            .map(|(one, writing)| {
                let written = match scores {
                    Scores::Logits(logits) => {
                        let rows = one.first_row..one.first_row + one.rows;
                        let rows: Vec<&[f32]> = rows.map(|row| logits.row(row)).collect();
                        writing.advance(&rows, codec)
                    }
                    Scores::Likeliest(tokens) => writing.take(tokens[one.first_row], codec),
                };
                (one, written)
            })
            .collect();
        self.statistics.sampling_seconds += begun.elapsed().as_secs_f64();
        let mut finished = Vec::new();
        for (one, written) in written {
            finished.extend(self.settle(one, written)?);
        }
        Ok(finished)
    }

    fn settle(&mut self, scored: Scored, written: Written) -> Result<Vec<Finished>, EngineError> {
        if !matches!(written, Written::Failed(_)) {
            self.statistics.completion_tokens += scored.rows as u64;
        }
        let first_slot = scored.first_slot;
        let Some(id) = self.running.get(&first_slot).map(|running| running.entry) else {
            // Another sample has failed the same row in this very step, or memory ran out for another's beams.
            return Ok(Vec::new());
        };
        match written {
            Written::Running(forks) => self.fork(first_slot, &forks),
            Written::Failed(reason) => Ok(self.fail(id, &reason)),
            Written::Ended(answered) => Ok(self.ended(first_slot, answered)),
        }
    }

    /// Copies the caches that the beams of a sample go on from.
    fn fork(&mut self, first_slot: usize, forks: &[Fork]) -> Result<Vec<Finished>, EngineError> {
        let begun = Instant::now();
        let mut copied = Ok(());
        if let Some(running) = self.running.get(&first_slot) {
            let slots = &running.slots;
            copied = forks
                .iter()
                .try_for_each(|fork| self.model.fork(slots[fork.from], slots[fork.to]));
        }
        if !forks.is_empty() {
            self.statistics.decode_seconds += begun.elapsed().as_secs_f64();
        }
        match copied {
            Ok(()) => Ok(Vec::new()),
            Err(error) if is_out_of_memory(&error) => Ok(self.out_of_memory_for_beams(first_slot)),
            Err(source) => Err(EngineError::Model {
                doing: "copying beams",
                source,
            }),
        }
    }

    fn ended(&mut self, first_slot: usize, answered: Vec<Answered>) -> Vec<Finished> {
        let ended = self.free(first_slot);
        let entry = self.taken.get_mut(&ended.entry).expect(KEPT);
        if !entry.keep(ended.sample, answered) {
            return Vec::new();
        }
        self.remove(ended.entry).finish()
    }
}
