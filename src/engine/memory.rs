//! What an engine does where memory runs out: a lower budget, and rows back to where they wait.

use super::request::Finished;
use super::scheduler::{Engine, KEPT, Starting};

impl Engine {
    /// Halves the budget and puts rows back until what runs is under it; a row that was alone fails.
    ///
    /// `starting` is what could not start, of `attempted` tokens; none where decoding ran out.
    pub(super) fn out_of_memory(&mut self, starting: &[Starting], attempted: u64) -> Vec<Finished> {
        self.stop_trying_rows();
        let started: usize = starting.iter().map(|row| row.samples.len()).sum();
        if self.running.len() + started <= 1 {
            let running = self.running.values().next().map(|running| running.entry);
            let alone = starting.first().map(|row| row.entry).or(running);
            let alone = alone.expect("memory runs out for a row that starts or runs");
            return self.fail_or_restart(alone);
        }
        self.statistics.oom_retries += 1;
        self.budget = self.budget.halved(self.load.tokens + attempted);
        if starting.is_empty() {
            while self.running.len() > 1 && self.load.tokens > self.budget.max_batch_tokens {
                self.put_back_last();
            }
        }
        self.give_back();
        Vec::new()
    }

    /// As [`Self::out_of_memory`], where memory ran out for the copies that the beams of a running sample need. Its
    /// slots are not those that it goes on with, so it begins anew in any case.
    pub(super) fn out_of_memory_for_beams(&mut self, first_slot: usize) -> Vec<Finished> {
        self.stop_trying_rows();
        if self.running.len() > 1 {
            let attempted = self.load.tokens;
            self.put_back(first_slot);
            self.statistics.oom_retries += 1;
            self.budget = self.budget.halved(attempted);
            self.give_back();
            return Vec::new();
        }
        self.out_of_memory(&[], 0)
    }

    /// A row that ran out of memory alone begins anew once, because a model may give back what longer rows
    /// have left when it reads; then it fails.
    fn fail_or_restart(&mut self, id: u64) -> Vec<Finished> {
        let is_running = !self.running.is_empty();
        match self.taken.get_mut(&id) {
            Some(entry) if is_running && !entry.was_restarted => {
                entry.was_restarted = true;
                self.put_back_last();
                Vec::new()
            }
            _ => self.fail_alone(id),
        }
    }

    /// Gives entries that have not begun back to the queue, where another engine may have room for them.
    fn give_back(&mut self) {
        let mut state = self.queue.lock();
        while let Some(&id) = self.waiting.back() {
            if !self.entry(id).has_not_begun() {
                break;
            }
            self.waiting.pop_back();
            state
                .waiting
                .push_front(self.taken.remove(&id).expect(KEPT));
        }
        drop(state);
        self.queue.wake();
    }

    fn fail_alone(&mut self, id: u64) -> Vec<Finished> {
        let entry = self.entry(id);
        let tokens = entry.tokens();
        let beams = if entry.has_beams() {
            ", or fewer beams,"
        } else {
            ""
        };
        let reason = format!(
            "out of memory with this row alone ({tokens} tokens of context and answer); a smaller \
             `max_length` or `max_new_tokens`{beams} may fit"
        );
        self.fail(id, &reason)
    }

    /// The answer that was admitted last begins anew later.
    fn put_back_last(&mut self) {
        let last = self
            .running
            .iter()
            .max_by_key(|(_, running)| running.admission);
        let (&first_slot, _) = last.expect("an answer is put back only where one runs");
        self.put_back(first_slot);
    }

    /// A running answer begins anew later.
    fn put_back(&mut self, first_slot: usize) {
        let ended = self.free(first_slot);
        let entry = self.taken.get_mut(&ended.entry).expect(KEPT);
        entry.put_back(ended.sample);
        if !self.waiting.contains(&ended.entry) {
            self.waiting.push_front(ended.entry);
        }
    }
}
