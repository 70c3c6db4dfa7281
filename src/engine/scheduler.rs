//! The scheduler: queued rows into slots, one prefill group or one decode step at a time.
//!
//! Several engines may take from one queue, each what it starts at once; what cannot start for want of memory
//! goes back, so that none is left with rows while another has nothing to do.
//!
//! Invariant: every submitted row is returned exactly once, or dropped by [`Engine::drop_waiting`];
//! a slot belongs to one answer, and what the slots cost is what [`crate::plan`] admitted. Memory that
//! runs out lowers the budget for good and puts rows back in the queue, never out of it, unless a row
//! alone does not fit. Rows that begin anew choose the same tokens, since nothing but the row keys them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;

use crate::generate::{Answer, Progress, Scratch, TextCodec};
use crate::ids::WindowId;
use crate::model::{DecodeRow, Logits, ModelError, PrefillRow, Scores, TextModel};
use crate::plan::{Budget, GroupRow, Load, RowCost};

use super::error::EngineError;
use super::queue::{Phase, Queue};
use super::queued::Queued;
use super::request::{Finished, Request};
use super::statistics::EngineStatistics;

/// Why the entry that a slot or `waiting` names is there.
pub(super) const KEPT: &str = "an entry is kept until its rows have ended";

/// Answers rows with one model, as many at once as the budget allows.
pub struct Engine {
    pub(super) model: Box<dyn TextModel>,
    pub(super) queue: Arc<Queue>,
    pub(super) budget: Budget,
    /// Entries taken from the queue, by the engine's own number.
    pub(super) taken: BTreeMap<u64, Queued>,
    /// Those of them with samples that have no slot yet, in order; they come before the queue.
    pub(super) waiting: VecDeque<u64>,
    /// Running answers by slot.
    pub(super) slots: BTreeMap<usize, Running>,
    /// Slots below `fresh` that are empty.
    free: BTreeSet<usize>,
    /// The first slot that was never used.
    fresh: usize,
    pub(super) load: Load,
    next_entry: u64,
    next_admission: u64,
    pub(super) statistics: EngineStatistics,
}

/// A slot in use.
///
/// ```text
/// queue ---> taken: entry ---> slots: one a sample ---> entry finished ---> its rows
///            waiting: entries with samples that have no slot yet
/// ```
pub(super) struct Running {
    /// The entry that its answer belongs to.
    pub(super) entry: u64,
    /// What the row costs, held by the samples that started together: its context is free with the last of them.
    cost: Arc<RowCost>,
    /// Larger for what was admitted later.
    pub(super) admission: u64,
    pub(super) answer: Answer,
}

/// Samples of one entry that are about to start, and a slot for each.
pub(super) struct Starting {
    pub(super) entry: u64,
    cost: RowCost,
    samples: Vec<u32>,
    pub(super) slots: Vec<usize>,
}

fn is_out_of_memory(error: &ModelError) -> bool {
    matches!(error, ModelError::OutOfMemory)
}

impl Engine {
    /// An engine with nothing to do.
    pub fn new(model: Box<dyn TextModel>, codec: Arc<dyn TextCodec>, budget: Budget) -> Self {
        Self::of_queue(model, Arc::new(Queue::new(codec)), budget)
    }

    /// An engine that takes from a queue.
    pub(super) fn of_queue(model: Box<dyn TextModel>, queue: Arc<Queue>, budget: Budget) -> Self {
        Self {
            model,
            queue,
            budget,
            taken: BTreeMap::new(),
            waiting: VecDeque::new(),
            slots: BTreeMap::new(),
            free: BTreeSet::new(),
            fresh: 0,
            load: Load::default(),
            next_entry: 0,
            next_admission: 0,
            statistics: EngineStatistics::default(),
        }
    }

    /// Queues a window's rows behind what waits, in the order of [`crate::plan::order`].
    ///
    /// Greedy rows of the window with equal ids, settings and `max_new_tokens` are computed once.
    pub fn submit(&mut self, window: WindowId, requests: Vec<Request>) {
        let shared = self
            .queue
            .submit(window, requests, self.budget.bucket_tokens);
        self.statistics.shared_rows += shared as u64;
    }

    /// Reads the next rows into free slots where any fit, else decodes one token in every slot; where no slot is in
    /// use, reads a group of rows that need none.
    ///
    /// # Errors
    ///
    /// [`EngineError::Model`] where the model fails otherwise than for want of memory.
    pub fn step(&mut self) -> Result<Vec<Finished>, EngineError> {
        let group = self.next_group();
        let finished = if !group.is_empty() {
            self.prefill(&group)?
        } else if self.slots.is_empty() {
            self.read_group()?
        } else {
            self.decode()?
        };
        for row in &finished {
            match row.found {
                Ok(_) => self.statistics.rows += 1,
                Err(_) => self.statistics.failed_rows += 1,
            }
        }
        Ok(finished)
    }

    /// Whether no row is left.
    pub fn is_idle(&self) -> bool {
        self.taken.is_empty() && self.queue.rows() == 0
    }

    /// Rows that have not started, or not with all their samples.
    pub fn waiting(&self) -> usize {
        let taken: usize = self.waiting_entries().map(Queued::rows).sum();
        taken + self.queue.rows()
    }

    /// What to do now; waits while there is nothing.
    pub(super) fn phase(&self) -> Phase {
        self.queue.phase(!self.taken.is_empty())
    }

    /// Entries that were taken and wait.
    fn waiting_entries(&self) -> impl Iterator<Item = &Queued> {
        self.waiting.iter().map(|&id| self.entry(id))
    }

    pub(super) fn entry(&self, id: u64) -> &Queued {
        self.taken.get(&id).expect(KEPT)
    }

    /// Slots in use.
    pub fn running(&self) -> usize {
        self.slots.len()
    }

    /// Whether the rows that wait could not fill every slot if all fell free now: time for the next
    /// window, while the running rows still give time to prepare it.
    pub fn wants_more(&self) -> bool {
        let taken = self.waiting_entries().map(|entry| entry.length(0));
        self.queue.wants_more(&self.budget, taken)
    }

    /// Forgets the rows that wait; what runs goes on. A row with samples that have not started is
    /// forgotten whole. Returns how many rows that is.
    pub fn drop_waiting(&mut self) -> usize {
        let rows = self.queue.clear() + self.waiting_entries().map(Queued::rows).sum::<usize>();
        for id in std::mem::take(&mut self.waiting) {
            self.release_all(id);
            self.taken.remove(&id);
        }
        rows
    }

    /// The budget now: lower than at the start where memory ran out.
    pub fn budget(&self) -> Budget {
        self.budget
    }

    /// Counts and times since the engine was made.
    pub fn statistics(&self) -> EngineStatistics {
        let token_limit = self.budget.max_batch_tokens;
        EngineStatistics {
            token_limit,
            ..self.statistics.clone()
        }
    }

    /// The rows that start now; those that are still in the queue are taken from it.
    fn next_group(&mut self) -> Vec<GroupRow> {
        let queue = Arc::clone(&self.queue);
        let mut queue = queue.lock();
        let waiting = self
            .waiting_entries()
            .chain(queue.waiting.iter())
            .map(|entry| entry.length(0));
        let group = self.budget.next_group(self.load, waiting);
        let from_queue = group.len().saturating_sub(self.waiting.len());
        for entry in queue.waiting.drain(..from_queue) {
            self.waiting.push_back(self.next_entry);
            self.taken.insert(self.next_entry, entry);
            self.next_entry += 1;
        }
        group
    }

    fn prefill(&mut self, group: &[GroupRow]) -> Result<Vec<Finished>, EngineError> {
        let starting = self.starting(group);
        let attempted: u64 = starting
            .iter()
            .map(|row| row.cost.of(row.slots.len()))
            .sum();
        let begun = Instant::now();
        let logits = self.read(&starting);
        let forked = logits.and_then(|logits| self.copy(&starting).map(|()| logits));
        self.statistics.prefill_seconds += begun.elapsed().as_secs_f64();
        match forked {
            Ok(logits) => {
                let slots = self.occupy(starting);
                Ok(self.advance(&Scores::Logits(logits), &slots))
            }
            Err(error) if is_out_of_memory(&error) => Ok(self.out_of_memory(&starting, attempted)),
            Err(source) => Err(EngineError::Model {
                doing: "reading prompts",
                source,
            }),
        }
    }

    /// Pairs the group with the head of the queue and the lowest free slots; nothing is taken yet.
    fn starting(&self, group: &[GroupRow]) -> Vec<Starting> {
        let mut free = self.free.iter().copied().chain(self.fresh..);
        let rows = group.iter().zip(&self.waiting).map(|(row, &id)| Starting {
            entry: id,
            cost: row.cost,
            samples: self
                .entry(id)
                .pending
                .iter()
                .copied()
                .take(row.samples)
                .collect(),
            slots: free.by_ref().take(row.samples).collect(),
        });
        rows.collect()
    }

    fn read(&mut self, starting: &[Starting]) -> Result<Logits, ModelError> {
        let sop = self.queue.codec.sop();
        let rows: Vec<PrefillRow<'_>> = starting
            .iter()
            .map(|row| {
                let entry = &self.taken[&row.entry];
                let capacity = self.budget.capacity(&entry.length(0));
                let capacity = usize::try_from(capacity).unwrap_or(usize::MAX);
                PrefillRow {
                    slot: row.slots[0],
                    ids: &entry.encoded().ids,
                    start: sop,
                    mask_position: entry.encoded().mask_position,
                    capacity,
                }
            })
            .collect();
        self.model.prefill(&rows)
    }

    /// Copies the cache of each row's first slot into its others.
    fn copy(&mut self, starting: &[Starting]) -> Result<(), ModelError> {
        for row in starting {
            for &to in &row.slots[1..] {
                if let Err(error) = self.model.fork(row.slots[0], to) {
                    self.release_slots(starting);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn release_slots(&mut self, starting: &[Starting]) {
        for &slot in starting.iter().flat_map(|row| &row.slots) {
            self.model.release(slot);
        }
    }

    /// Takes the started samples out of the queue. Returns their slots, each with its row of logits.
    fn occupy(&mut self, starting: Vec<Starting>) -> Vec<(usize, usize)> {
        let bucket = self.budget.bucket_tokens;
        let sop = self.queue.codec.sop();
        let mut slots = Vec::new();
        for (index, row) in starting.into_iter().enumerate() {
            let entry = self.taken.get_mut(&row.entry).expect(KEPT);
            entry.pending.drain(..row.samples.len());
            if entry.pending.is_empty() {
                self.waiting.pop_front();
            }
            let context = entry.encoded().ids.len() as u32;
            self.statistics.prompt_tokens += u64::from(context);
            self.statistics.padded_tokens +=
                u64::from(crate::plan::padded(context, bucket) - context);
            self.load.add(row.slots.len(), row.cost.of(row.slots.len()));
            let cost = Arc::new(row.cost);
            for (slot, sample) in row.slots.into_iter().zip(row.samples) {
                let start = entry.start(sample, sop);
                let running = Running {
                    entry: row.entry,
                    cost: Arc::clone(&cost),
                    admission: self.next_admission,
                    answer: Answer::new(start),
                };
                self.next_admission += 1;
                self.free.remove(&slot);
                self.fresh = self.fresh.max(slot + 1);
                self.slots.insert(slot, running);
                slots.push((slot, index));
            }
        }
        self.statistics.prefill_batches += 1;
        self.statistics.peak_slots = self.statistics.peak_slots.max(self.load.slots);
        self.statistics.peak_tokens = self.statistics.peak_tokens.max(self.load.tokens);
        slots
    }

    fn decode(&mut self) -> Result<Vec<Finished>, EngineError> {
        let rows: Vec<DecodeRow> = self
            .slots
            .iter()
            .map(|(&slot, running)| running.answer.decode_row(slot))
            .collect();
        let mut running = self.slots.values();
        let is_greedy = running.all(|running| running.answer.takes_likeliest());
        let begun = Instant::now();
        let scores = if is_greedy {
            self.model.decode_likeliest(&rows)
        } else {
            self.model.decode(&rows).map(Scores::Logits)
        };
        self.statistics.decode_seconds += begun.elapsed().as_secs_f64();
        match scores {
            Ok(scores) => {
                self.statistics.decode_steps += 1;
                self.statistics.slot_steps += self.statistics.peak_slots as u64;
                self.statistics.idle_slot_steps += (self.statistics.peak_slots - rows.len()) as u64;
                let slots: Vec<_> = rows
                    .iter()
                    .enumerate()
                    .map(|(index, row)| (row.slot, index))
                    .collect();
                Ok(self.advance(&scores, &slots))
            }
            Err(error) if is_out_of_memory(&error) => Ok(self.out_of_memory(&[], 0)),
            Err(source) => Err(EngineError::Model {
                doing: "decoding",
                source,
            }),
        }
    }

    /// Chooses a token for each of the given slots (with its row of scores); frees what has ended.
    fn advance(&mut self, scores: &Scores, slots: &[(usize, usize)]) -> Vec<Finished> {
        let begun = Instant::now();
        let codec = self.queue.codec.as_ref();
        let row_of: BTreeMap<usize, usize> = slots.iter().copied().collect();
        let running: Vec<_> = self
            .slots
            .iter_mut()
            .filter_map(|(slot, running)| Some((*slot, *row_of.get(slot)?, &mut running.answer)))
            .collect();
        let progress: Vec<(usize, Progress)> = running
            .into_par_iter()
            .map(|(slot, row, answer)| {
                let progress = match scores {
                    Scores::Logits(logits) => Scratch::of_thread(|scratch| {
                        answer.advance(logits.row(row), codec, scratch)
                    }),
                    Scores::Likeliest(tokens) => answer.take(tokens[row], codec),
                };
                (slot, progress)
            })
            .collect();
        self.statistics.sampling_seconds += begun.elapsed().as_secs_f64();
        let mut finished = Vec::new();
        for (slot, progress) in progress {
            finished.extend(self.settle(slot, progress));
        }
        finished
    }

    fn settle(&mut self, slot: usize, progress: Progress) -> Vec<Finished> {
        if !matches!(progress, Progress::Failed(_)) {
            self.statistics.completion_tokens += 1;
        }
        let Some(id) = self.slots.get(&slot).map(|running| running.entry) else {
            // Another sample of the same row has failed it in this very step.
            return Vec::new();
        };
        match progress {
            Progress::Running => Vec::new(),
            Progress::Failed(reason) => self.fail(id, &reason),
            Progress::Ended(sample) => {
                let answer = self.free_slot(slot).answer;
                let entry = self.taken.get_mut(&id).expect(KEPT);
                if !entry.keep(answer.sample(), sample) {
                    return Vec::new();
                }
                self.remove(id).finish()
            }
        }
    }

    /// Empties a slot that is in use.
    pub(super) fn free_slot(&mut self, slot: usize) -> Running {
        let running = self.slots.remove(&slot);
        let running = running.expect("only a slot that is in use is emptied");
        self.model.release(slot);
        self.free.insert(slot);
        let context = match Arc::strong_count(&running.cost) {
            1 => running.cost.context,
            _ => 0,
        };
        self.load.remove(1, running.cost.slot + context);
        running
    }

    fn remove(&mut self, id: u64) -> Queued {
        self.taken.remove(&id).expect(KEPT)
    }

    /// Ends all samples of an entry without an answer.
    pub(super) fn fail(&mut self, id: u64, reason: &str) -> Vec<Finished> {
        self.release_all(id);
        self.waiting.retain(|&waiting| waiting != id);
        self.remove(id).fail(reason)
    }

    fn release_all(&mut self, id: u64) {
        let in_use = |(&slot, running): (&usize, &Running)| (running.entry == id).then_some(slot);
        let slots: Vec<usize> = self.slots.iter().filter_map(in_use).collect();
        for slot in slots {
            self.free_slot(slot);
        }
    }
}
