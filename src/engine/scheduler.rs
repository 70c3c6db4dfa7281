//! The scheduler: queued rows into slots, one prefill group or one decode step at a time.
//!
//! Several engines may take from one queue, each what it starts at once; what cannot start for want of memory
//! goes back, so that none is left with rows while another has nothing to do.
//!
//! Invariant: every submitted row is returned exactly once, or dropped by [`Engine::drop_waiting`];
//! a slot belongs to one sample, which has one for each of its beams, and what the slots cost is what [`crate::plan`] admitted. Memory that
//! runs out lowers the budget for good and puts rows back in the queue, never out of it, unless a row
//! alone does not fit. Rows that begin anew choose the same tokens, since nothing but the row keys them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::generate::{TextCodec, Writing};
use crate::ids::WindowId;
use crate::model::{ModelError, PrefillRow, Scores, TextModel};
use crate::plan::{Budget, GroupRow, Load, RowCost};

use super::error::EngineError;
use super::queue::{Phase, Queue};
use super::queued::Queued;
use super::request::{Finished, Request};
use super::statistics::EngineStatistics;
use super::tuning::Tuning;

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
    /// Running samples by their first slot.
    pub(super) running: BTreeMap<usize, Running>,
    /// Slots below `fresh` that belong to no sample.
    free: BTreeSet<usize>,
    /// The first slot that was never used.
    fresh: usize,
    pub(super) load: Load,
    next_entry: u64,
    next_admission: u64,
    pub(super) statistics: EngineStatistics,
    /// The search for the rows that are enough; none where the job has said how many.
    pub(super) tuning: Option<Tuning>,
}

/// A sample that is being written.
///
/// ```text
/// queue ---> taken: entry ---> running: one a sample ---> entry finished ---> its rows
///            waiting: entries with samples that have no slot yet
/// ```
pub(super) struct Running {
    /// The entry that it belongs to.
    pub(super) entry: u64,
    /// Its number in that entry.
    pub(super) sample: u32,
    /// What the row costs, held by the samples that started together: its context is free with the last of them.
    cost: Arc<RowCost>,
    /// Larger for what was admitted later.
    pub(super) admission: u64,
    /// The slot of each of its places.
    pub(super) slots: Vec<usize>,
    pub(super) writing: Writing,
}

/// A running sample and its rows of scores.
#[derive(Clone, Copy)]
pub(super) struct Scored {
    pub(super) first_slot: usize,
    pub(super) first_row: usize,
    pub(super) rows: usize,
}

/// Samples of one entry that are about to start.
pub(super) struct Starting {
    pub(super) entry: u64,
    cost: RowCost,
    pub(super) samples: Vec<u32>,
    /// As many for each sample as it has places, one sample after another.
    slots: Vec<usize>,
}

impl Starting {
    /// The slots of each sample.
    fn slots_by_sample(&self) -> impl Iterator<Item = &[usize]> {
        self.slots.chunks(self.cost.places)
    }
}

pub(super) fn is_out_of_memory(error: &ModelError) -> bool {
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
            running: BTreeMap::new(),
            free: BTreeSet::new(),
            fresh: 0,
            load: Load::default(),
            next_entry: 0,
            next_admission: 0,
            statistics: EngineStatistics::default(),
            tuning: None,
        }
    }

    /// The same engine, which begins with the rows of a search and lets its steps find out how many are enough. The device
    /// must give the same bits for a row whatever runs beside it.
    #[doc(hidden)]
    #[must_use]
    pub fn tuned_by(mut self, tuning: Tuning) -> Self {
        self.budget.max_batch_size = tuning.search.limit();
        self.tuning = Some(tuning);
        self
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

    /// Reads the next rows into free slots where that is worth a call, else decodes one token in every slot; where no slot is in
    /// use, reads a group of rows that need none.
    ///
    /// # Errors
    ///
    /// [`EngineError::Model`] where the model fails otherwise than for want of memory.
    pub fn step(&mut self) -> Result<Vec<Finished>, EngineError> {
        self.try_more_rows();
        let group = self.next_group();
        let finished = if !group.is_empty() {
            self.prefill(&group)?
        } else if self.running.is_empty() {
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
    pub(super) fn waiting_entries(&self) -> impl Iterator<Item = &Queued> + Clone {
        self.waiting.iter().map(|&id| self.entry(id))
    }

    pub(super) fn entry(&self, id: u64) -> &Queued {
        self.taken.get(&id).expect(KEPT)
    }

    /// Slots in use.
    pub fn running(&self) -> usize {
        self.load.slots
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

    /// The budget now: lower than at the start where memory ran out, with more rows where more were found to be faster.
    pub fn budget(&self) -> Budget {
        self.budget
    }

    /// What the user should know of the model's calls so far, one line; each is told once. Worth a look after every step: a GPU
    /// whose kernels were given up says so here, and answers as before.
    pub fn take_note(&mut self) -> Option<String> {
        self.model.take_note()
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
            .map(|row| row.cost.of(row.samples.len()))
            .sum();
        let begun = Instant::now();
        let scores = self.read(&starting);
        let forked = scores.and_then(|scores| self.copy(&starting).map(|()| scores));
        self.statistics.prefill_seconds += begun.elapsed().as_secs_f64();
        match forked {
            Ok(scores) => {
                let scored = self.occupy(starting);
                self.advance(&scores, &scored)
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
            samples: self.entry(id).pending().take(row.samples).collect(),
            slots: free.by_ref().take(row.cost.slots(row.samples)).collect(),
        });
        rows.collect()
    }

    fn read(&mut self, starting: &[Starting]) -> Result<Scores, ModelError> {
        let sop = self.queue.codec.sop();
        let is_greedy = starting
            .iter()
            .all(|row| self.entry(row.entry).takes_likeliest());
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
        if is_greedy {
            self.model.prefill_likeliest(&rows)
        } else {
            self.model.prefill(&rows).map(Scores::Logits)
        }
    }

    /// Copies the cache of each row's first sample to its others. The slots of further beams are filled as the
    /// search goes on.
    fn copy(&mut self, starting: &[Starting]) -> Result<(), ModelError> {
        for row in starting {
            for slots in row.slots_by_sample().skip(1) {
                if let Err(error) = self.model.fork(row.slots[0], slots[0]) {
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

    /// Takes the started samples out of the queue. Returns them with their rows of logits.
    fn occupy(&mut self, starting: Vec<Starting>) -> Vec<Scored> {
        let bucket = self.budget.bucket_tokens;
        let sop = self.queue.codec.sop();
        let mut scored = Vec::new();
        for (index, row) in starting.into_iter().enumerate() {
            let entry = self.taken.get_mut(&row.entry).expect(KEPT);
            entry.begin(row.samples.len());
            if entry.pending_samples() == 0 {
                self.waiting.pop_front();
            }
            let context = entry.encoded().ids.len() as u32;
            self.statistics.prompt_tokens += u64::from(context);
            self.statistics.padded_tokens +=
                u64::from(crate::plan::padded(context, bucket) - context);
            let samples = row.samples.len();
            self.load.add(row.cost.slots(samples), row.cost.of(samples));
            let cost = Arc::new(row.cost);
            for (slots, &sample) in row.slots_by_sample().zip(&row.samples) {
                let running = Running {
                    entry: row.entry,
                    sample,
                    cost: Arc::clone(&cost),
                    admission: self.next_admission,
                    slots: slots.to_vec(),
                    writing: entry.writing(sample, sop),
                };
                self.next_admission += 1;
                for slot in slots {
                    self.free.remove(slot);
                    self.fresh = self.fresh.max(slot + 1);
                }
                self.running.insert(slots[0], running);
                scored.push(Scored {
                    first_slot: slots[0],
                    first_row: index,
                    rows: 1,
                });
            }
        }
        self.statistics.prefill_batches += 1;
        self.statistics.peak_slots = self.statistics.peak_slots.max(self.load.slots);
        self.statistics.peak_tokens = self.statistics.peak_tokens.max(self.load.tokens);
        scored
    }

    /// Empties the slots of a running sample.
    pub(super) fn free(&mut self, first_slot: usize) -> Running {
        let running = self.running.remove(&first_slot);
        let running = running.expect("only a sample that runs is ended");
        for &slot in &running.slots {
            self.model.release(slot);
            self.free.insert(slot);
        }
        let context = match Arc::strong_count(&running.cost) {
            1 => running.cost.context,
            _ => 0,
        };
        let slots = running.slots.len();
        self.load
            .remove(slots, slots as u64 * running.cost.slot + context);
        running
    }

    pub(super) fn remove(&mut self, id: u64) -> Queued {
        self.taken.remove(&id).expect(KEPT)
    }

    /// Ends all samples of an entry without an answer.
    pub(super) fn fail(&mut self, id: u64, reason: &str) -> Vec<Finished> {
        self.release_all(id);
        self.waiting.retain(|&waiting| waiting != id);
        self.remove(id).fail(reason)
    }

    fn release_all(&mut self, id: u64) {
        let of_entry = |(&slot, running): (&usize, &Running)| (running.entry == id).then_some(slot);
        let first_slots: Vec<usize> = self.running.iter().filter_map(of_entry).collect();
        for first_slot in first_slots {
            self.free(first_slot);
        }
    }
}
