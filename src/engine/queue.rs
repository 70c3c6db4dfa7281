//! Rows that no engine has taken yet, in their order; engines that share a queue share the work.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::generate::{BadWordLists, TextCodec};
use crate::ids::WindowId;
use crate::plan::{Budget, Load, RowLength};

use super::queued::{Queued, queued};
use super::reading::{self, QueuedReading};
use super::request::{Request, Work};

/// What engines are to do with their rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Take more as room allows.
    #[default]
    Open,
    /// Finish what runs, forget what has not started.
    Draining,
    /// Stop where they are.
    Closed,
}

/// Puts entries behind those that wait, which are few. The queue takes the place of `entries`: it would grow to twice as
/// many places.
fn append<T>(waiting: &mut VecDeque<T>, mut entries: Vec<T>) {
    if entries.is_empty() {
        return;
    }
    entries.reserve_exact(waiting.len());
    let mut entries = VecDeque::from(entries);
    while let Some(last) = waiting.pop_back() {
        entries.push_front(last);
    }
    *waiting = entries;
}

/// Rows that wait: windows first in, first out, the rows of one in the order of [`crate::plan::order`].
pub(super) struct Queue {
    pub(super) codec: Arc<dyn TextCodec>,
    bad_words: BadWordLists,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) waiting: VecDeque<Queued>,
    /// Rows that need no slot.
    pub(super) readings: VecDeque<QueuedReading>,
    phase: Phase,
}

impl State {
    fn rows(&self) -> usize {
        let waiting: usize = self.waiting.iter().map(Queued::rows).sum();
        waiting + self.readings.len()
    }
}

impl Queue {
    pub(super) fn new(codec: Arc<dyn TextCodec>) -> Self {
        Self {
            codec,
            bad_words: BadWordLists::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// The state, locked. A thread that panicked while it held the lock cannot have left half an entry, because entries are
    /// only pushed and popped.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a window's rows behind what waits. Returns how many take the answer of another.
    pub(super) fn submit(
        &self,
        window: WindowId,
        requests: Vec<Request>,
        bucket_tokens: u32,
    ) -> usize {
        let (mut generations, mut readings) = (Vec::new(), Vec::new());
        if let Some(Work::Generate(_)) = requests.first().map(|request| &request.work) {
            generations.reserve_exact(requests.len());
        }
        for Request { row, work } in requests {
            match work {
                Work::Generate(generation) => generations.push((row, generation)),
                Work::Read(reading) => readings.push((row, vec![reading])),
                Work::ReadEach(each) => readings.push((row, each)),
            }
        }
        let rows = generations.len();
        let codec = self.codec.as_ref();
        let queued = queued(window, generations, codec, &self.bad_words, bucket_tokens);
        let shared = rows - queued.len();
        let readings = reading::in_order(window, readings, bucket_tokens);
        let mut state = self.lock();
        append(&mut state.waiting, queued);
        append(&mut state.readings, readings);
        drop(state);
        self.wake();
        shared
    }

    /// Wakes the engines that wait for rows.
    pub(super) fn wake(&self) {
        self.changed.notify_all();
    }

    /// Rows that wait.
    pub(super) fn rows(&self) -> usize {
        self.lock().rows()
    }

    /// Entries that wait.
    pub(super) fn entries(&self) -> usize {
        let state = self.lock();
        state.waiting.len() + state.readings.len()
    }

    /// Forgets all rows; how many that is.
    pub(super) fn clear(&self) -> usize {
        let mut state = self.lock();
        let rows = state.rows();
        state.waiting.clear();
        state.readings.clear();
        rows
    }

    /// Tells the engines what to do from now on.
    pub(super) fn turn(&self, phase: Phase) {
        self.lock().phase = phase;
        self.wake();
    }

    /// What to do now; an engine that has nothing waits for rows, or for the end.
    pub(super) fn phase(&self, is_busy: bool) -> Phase {
        let has_nothing =
            |state: &mut State| !is_busy && state.rows() == 0 && state.phase != Phase::Closed;
        let state = self.changed.wait_while(self.lock(), has_nothing);
        state.unwrap_or_else(PoisonError::into_inner).phase
    }

    /// Whether rows that wait could not fill the budget: `first` ones and then those of the queue.
    pub(super) fn wants_more(
        &self,
        budget: &Budget,
        first: impl Iterator<Item = RowLength>,
    ) -> bool {
        let mut load = Load::default();
        let state = self.lock();
        let waiting = state.waiting.iter().map(|entry| entry.length(0));
        let readings = state.readings.iter().map(|row| row.length(0));
        for length in first.chain(waiting).chain(readings) {
            let samples = length.samples as usize;
            let cost = budget.cost(&length);
            load.add(cost.slots(samples), cost.of(samples));
            if load.slots >= budget.max_batch_size || load.tokens >= budget.max_batch_tokens {
                return false;
            }
        }
        true
    }
}
