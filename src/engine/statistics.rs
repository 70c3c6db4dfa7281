//! What the engine counts while it runs.

use serde::{Deserialize, Serialize};

/// Counts and times of an engine since it was made, or of several side by side.
///
/// Of several, counts and peaks are summed, and times are those of an engine on average.
///
/// # Units
///
/// Times are wall-clock seconds. Slot steps are slots times decode steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EngineStatistics {
    /// Rows that have an answer.
    pub rows: u64,
    /// Rows that failed here.
    pub failed_rows: u64,
    /// Rows that took the answer of an identical one.
    pub shared_rows: u64,
    /// Context tokens that the model read, without padding and start tokens. A context that is read
    /// again counts again; one that is shared counts once.
    pub prompt_tokens: u64,
    /// Tokens chosen, ending tokens included.
    pub completion_tokens: u64,
    /// Padding up to the bucket beside the context tokens, tokens.
    pub padded_tokens: u64,
    /// Prefill calls.
    pub prefill_batches: u64,
    /// Decode steps.
    pub decode_steps: u64,
    /// Time in the model's prefill and in copies of its cache.
    pub prefill_seconds: f64,
    /// Time in the model's decode.
    pub decode_seconds: f64,
    /// Time in choosing tokens and looking for stop strings.
    pub sampling_seconds: f64,
    /// The most slots used so far, or as many as may be in use where a trial of more has ended, summed over decode steps: all
    /// slots that could have been in use.
    pub slot_steps: u64,
    /// Those of them that were empty.
    pub idle_slot_steps: u64,
    /// Most slots in use at once.
    pub peak_slots: usize,
    /// Most tokens reserved at once: padded contexts and answers.
    pub peak_tokens: u64,
    /// Times the device ran out of memory and fewer rows were tried.
    pub oom_retries: u64,
    /// The budget's tokens now: fewer than at the start where memory ran out.
    pub token_limit: u64,
}

impl EngineStatistics {
    /// Those of engines that ran side by side: counts and peaks are summed, times averaged over the engines
    /// that had work.
    pub(super) fn together<'a>(engines: impl Iterator<Item = &'a Self>) -> Self {
        let mut all = Self::default();
        let mut busy = 0_u32;
        for one in engines {
            busy += u32::from(one.prefill_batches > 0);
            all.rows += one.rows;
            all.failed_rows += one.failed_rows;
            all.shared_rows += one.shared_rows;
            all.prompt_tokens += one.prompt_tokens;
            all.completion_tokens += one.completion_tokens;
            all.padded_tokens += one.padded_tokens;
            all.prefill_batches += one.prefill_batches;
            all.decode_steps += one.decode_steps;
            all.prefill_seconds += one.prefill_seconds;
            all.decode_seconds += one.decode_seconds;
            all.sampling_seconds += one.sampling_seconds;
            all.slot_steps += one.slot_steps;
            all.idle_slot_steps += one.idle_slot_steps;
            all.peak_slots += one.peak_slots;
            all.peak_tokens += one.peak_tokens;
            all.oom_retries += one.oom_retries;
            all.token_limit = all.token_limit.saturating_add(one.token_limit);
        }
        let busy = f64::from(busy.max(1));
        all.prefill_seconds /= busy;
        all.decode_seconds /= busy;
        all.sampling_seconds /= busy;
        all
    }

    /// Adds those of an engine that ran after this one: counts and times are summed, peaks are the higher ones.
    pub fn follow(&mut self, later: &Self) {
        self.rows += later.rows;
        self.failed_rows += later.failed_rows;
        self.shared_rows += later.shared_rows;
        self.prompt_tokens += later.prompt_tokens;
        self.completion_tokens += later.completion_tokens;
        self.padded_tokens += later.padded_tokens;
        self.prefill_batches += later.prefill_batches;
        self.decode_steps += later.decode_steps;
        self.prefill_seconds += later.prefill_seconds;
        self.decode_seconds += later.decode_seconds;
        self.sampling_seconds += later.sampling_seconds;
        self.slot_steps += later.slot_steps;
        self.idle_slot_steps += later.idle_slot_steps;
        self.peak_slots = self.peak_slots.max(later.peak_slots);
        self.peak_tokens = self.peak_tokens.max(later.peak_tokens);
        self.oom_retries += later.oom_retries;
        self.token_limit = self.token_limit.max(later.token_limit);
    }

    /// Padding as a share of all prefilled tokens.
    pub fn padding_share(&self) -> f64 {
        share(self.padded_tokens, self.padded_tokens + self.prompt_tokens)
    }

    /// Slots in use at a decode step of one engine, on average.
    pub fn slots_in_use(&self) -> f64 {
        share(self.slot_steps - self.idle_slot_steps, self.decode_steps)
    }

    /// Empty slots as a share of all slots, over all decode steps.
    pub fn idle_share(&self) -> f64 {
        share(self.idle_slot_steps, self.slot_steps)
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_nothing_are_zero() {
        let none = EngineStatistics::default();
        assert_eq!((none.padding_share(), none.idle_share()), (0.0, 0.0));
        let some = EngineStatistics {
            padded_tokens: 1,
            prompt_tokens: 3,
            slot_steps: 8,
            idle_slot_steps: 2,
            ..none
        };
        assert_eq!((some.padding_share(), some.idle_share()), (0.25, 0.25));
    }
}
