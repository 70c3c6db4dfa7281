//! Memory and the job's `[batch]` to a [`Budget`], and a budget and a queue to the next prefill group.
//!
//! On a CPU the samples and beams of a row that start together share its context, which counts once; a GPU copies it
//! into every slot.
//!
//! Invariant: the slots in use never are more or cost more than the budget allows, unless one sample alone does; it
//! then runs with nothing beside it, so that every row gets its turn.

use crate::job::BatchSpec;

use super::order::{RowLength, padded};

/// Rows in flight on a GPU where the job does not say, until its steps have been timed.
pub(super) const DEVICE_BATCH_SIZE: usize = 256;

/// Padded tokens of one prefill call on a CPU, unless a single row is longer.
///
/// Prefill is compute-bound long before this, and activations grow with it (about 128 KiB a token at
/// the 350M size), so larger groups would cost memory and gain no time.
const PREFILL_TOKENS: u64 = 4096;

/// The same on a GPU with much memory: there a call costs thousands of launches however few tokens it has, and 4,096
/// tokens take it less time than these.
const DEVICE_PREFILL_TOKENS: u64 = 16_384;

/// A prefill call on a GPU takes no more than one part in this of the tokens that may be in flight, or as much as on a
/// CPU: a token that is being read takes about as much memory as one that is kept.
const PREFILL_PARTS: u64 = 4;

/// A GPU that is busy reads more rows once one part in this of its slots, and of its tokens, is free.
const DEVICE_FREE_PARTS: usize = 8;

/// The same on a CPU. Tokens do not count there: a CPU that is short of memory has few rows in flight anyway. A few
/// contexts together are read faster, for each token, than one alone; many are no faster than a few.
const CPU_FREE_PARTS: usize = 16;

/// Padded lengths are multiples of this on a CPU, where padding is not computed.
const CPU_BUCKET_TOKENS: u32 = 8;

/// Padded lengths are multiples of this on a GPU, where shapes are padded to the bucket.
const DEVICE_BUCKET_TOKENS: u32 = 32;

/// The cache may take one part in this of the memory that is left: the rest is for activations,
/// windows, and whatever else runs on the machine.
const MEMORY_PARTS: u64 = 2;

/// Tokens of a budget where a device does not tell its memory; running out halves it.
const UNKNOWN_MEMORY_TOKENS: u64 = 1 << 18;

/// How large a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotSizes {
    /// Padded context once for the samples that start together, and the reserve of each slot: a CPU shares contexts.
    Exact,
    /// For each slot context plus reserve in the next of 32, 64, 96, 128, 192, 256, 384, ... tokens: a GPU keeps rows of one
    /// size together, and few sizes make few calls. The rounding adds less than a half, or 32 tokens.
    Stepped,
}

/// The next size of a slot on a GPU.
fn step(tokens: u64) -> u64 {
    let least = u64::from(DEVICE_BUCKET_TOKENS);
    let power = tokens.max(least).next_power_of_two();
    let between = power / 4 * 3;
    if between.is_multiple_of(least) && tokens <= between {
        between
    } else {
        power
    }
}

/// What may be in flight at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Slots.
    pub max_batch_size: usize,
    /// Padded contexts and reserves of all slots, tokens.
    pub max_batch_tokens: u64,
    /// Padded lengths are multiples of this.
    pub bucket_tokens: u32,
    /// What a slot costs beyond that.
    pub slot_sizes: SlotSizes,
}

/// Memory of the machine, as measured by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_field_names, reason = "the unit is in the name")]
pub(crate) struct Memory {
    /// Bytes free on the machine or device.
    pub free_bytes: u64,
    /// Bytes left under the cgroup limit; `None` where there is none.
    pub cgroup_bytes: Option<u64>,
    /// Bytes that are not taken yet but will be: weights still to be loaded.
    pub claimed_bytes: u64,
}

/// What is in flight now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Slots in use.
    pub slots: usize,
    /// What they cost, tokens.
    pub tokens: u64,
}

impl Load {
    /// Takes slots that cost so many tokens together.
    pub fn add(&mut self, slots: usize, tokens: u64) {
        self.slots += slots;
        self.tokens += tokens;
    }

    /// Frees slots that cost so many tokens together.
    pub fn remove(&mut self, slots: usize, tokens: u64) {
        self.slots -= slots;
        self.tokens -= tokens;
    }
}

/// What the slots of a row cost, tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowCost {
    /// Once for all samples that start together.
    pub context: u64,
    /// For each slot.
    pub slot: u64,
    /// Slots of each sample.
    pub places: usize,
}

impl RowCost {
    /// That of so many samples which start together.
    pub fn of(self, samples: usize) -> u64 {
        let slots = (self.slots(samples) as u64).saturating_mul(self.slot);
        self.context.saturating_add(slots)
    }

    /// Slots of so many samples.
    pub fn slots(self, samples: usize) -> usize {
        samples.saturating_mul(self.places)
    }
}

/// One row of a prefill group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupRow {
    /// Samples that start now; less than the row asks for where not all fit at once.
    pub samples: usize,
    /// What they cost.
    pub cost: RowCost,
}

/// The budget on a CPU: the job's numbers, and what memory and products allow where it says `auto`.
///
/// `cache_bytes_per_token` is what one cached token takes in all layers, `batch_size` the rows in flight
/// where the job leaves them open.
pub(crate) fn cpu_budget(
    batch: &BatchSpec,
    batch_size: usize,
    memory: &Memory,
    cache_bytes_per_token: usize,
) -> Budget {
    let tokens = tokens_in(memory, cache_bytes_per_token);
    resolve(
        batch,
        batch_size,
        tokens,
        (CPU_BUCKET_TOKENS, SlotSizes::Exact),
    )
}

/// The budget on a GPU; `memory` is `None` where the device does not tell.
pub(crate) fn device_budget(
    batch: &BatchSpec,
    memory: Option<&Memory>,
    cache_bytes_per_token: usize,
) -> Budget {
    let tokens = memory.map_or(UNKNOWN_MEMORY_TOKENS, |memory| {
        tokens_in(memory, cache_bytes_per_token)
    });
    resolve(
        batch,
        DEVICE_BATCH_SIZE,
        tokens,
        (DEVICE_BUCKET_TOKENS, SlotSizes::Stepped),
    )
}

fn tokens_in(memory: &Memory, cache_bytes_per_token: usize) -> u64 {
    let free = memory
        .cgroup_bytes
        .map_or(memory.free_bytes, |limit| limit.min(memory.free_bytes));
    let room = free.saturating_sub(memory.claimed_bytes) / MEMORY_PARTS;
    (room / (cache_bytes_per_token.max(1) as u64)).max(1)
}

fn resolve(
    batch: &BatchSpec,
    size: usize,
    tokens: u64,
    (bucket, slot_sizes): (u32, SlotSizes),
) -> Budget {
    Budget {
        max_batch_size: batch
            .max_batch_size
            .map_or(size, |rows| rows as usize)
            .max(1),
        max_batch_tokens: batch.max_batch_tokens.unwrap_or(tokens).max(1),
        bucket_tokens: batch.bucket_tokens.unwrap_or(bucket).max(1),
        slot_sizes,
    }
}

impl Budget {
    /// What the slots of this row cost.
    pub fn cost(&self, row: &RowLength) -> RowCost {
        let reserve = u64::from(row.reserve);
        let places = row.places.max(1) as usize;
        match self.slot_sizes {
            SlotSizes::Exact => RowCost {
                context: u64::from(padded(row.context, self.bucket_tokens)),
                slot: reserve,
                places,
            },
            SlotSizes::Stepped => RowCost {
                context: 0,
                slot: step(u64::from(row.context) + reserve),
                places,
            },
        }
    }

    /// The tokens that a slot of this row must hold: what it costs, less the padding of a context that is shared.
    pub fn capacity(&self, row: &RowLength) -> u64 {
        match self.slot_sizes {
            SlotSizes::Exact => u64::from(row.context) + u64::from(row.reserve),
            SlotSizes::Stepped => self.cost(row).slot,
        }
    }

    /// How many of `samples` samples of this cost can run at once with nothing else; at least 1.
    pub fn samples_at_once(&self, samples: u32, cost: RowCost) -> usize {
        let sample = cost.slot.saturating_mul(cost.places as u64);
        let by_tokens = self.max_batch_tokens.saturating_sub(cost.context) / sample.max(1);
        (samples as usize)
            .min(self.max_batch_size / cost.places.max(1))
            .min(usize::try_from(by_tokens).unwrap_or(usize::MAX))
            .max(1)
    }

    /// Whether so many samples of this cost fit beside what is in flight.
    ///
    /// One always fits where nothing is in flight.
    pub fn admits(&self, load: Load, samples: usize, cost: RowCost) -> bool {
        let tokens = load.tokens.saturating_add(cost.of(samples));
        let slots = load.slots.saturating_add(cost.slots(samples));
        let fits = slots <= self.max_batch_size && tokens <= self.max_batch_tokens;
        fits || (load.slots == 0 && samples == 1)
    }

    /// Padded tokens of one prefill call, unless a single row is longer.
    pub fn prefill_tokens(&self) -> u64 {
        match self.slot_sizes {
            SlotSizes::Exact => PREFILL_TOKENS,
            SlotSizes::Stepped => {
                (self.max_batch_tokens / PREFILL_PARTS).clamp(PREFILL_TOKENS, DEVICE_PREFILL_TOKENS)
            }
        }
    }

    /// The rows at the head of the queue that are read together now.
    ///
    /// They fit beside `load` and stay under [`Self::prefill_tokens`] (a single row may exceed it); on a GPU, which computes the
    /// padding, they have one bucket. No row overtakes another: where the head of the queue does not fit, the group is
    /// empty, because a long row would otherwise wait for ever behind short ones. A row whose samples start only in part ends the group.
    ///
    /// Where something runs, rows wait until they make a call worth its time, unless all that wait have room: on a GPU, where a
    /// call costs as much for one row as for many, until an eighth of the slots and of the tokens is free, on a CPU until a
    /// sixteenth of the slots is.
    pub fn next_group(
        &self,
        load: Load,
        waiting: impl IntoIterator<Item = RowLength, IntoIter: Clone>,
    ) -> Vec<GroupRow> {
        let waiting = waiting.into_iter();
        if self.is_worth_a_call(load) || self.admits_all(load, waiting.clone()) {
            self.fitting(load, waiting)
        } else {
            Vec::new()
        }
    }

    /// Whether enough slots and tokens are free for a prefill call to be worth its time.
    fn is_worth_a_call(&self, load: Load) -> bool {
        let (parts, has_tokens) = match self.slot_sizes {
            SlotSizes::Exact => (CPU_FREE_PARTS, true),
            SlotSizes::Stepped => {
                let tokens = self.max_batch_tokens.saturating_sub(load.tokens);
                let enough = self.max_batch_tokens.div_ceil(DEVICE_FREE_PARTS as u64);
                (DEVICE_FREE_PARTS, tokens >= enough)
            }
        };
        let slots = self.max_batch_size.saturating_sub(load.slots);
        load.slots == 0 || (slots >= self.max_batch_size.div_ceil(parts) && has_tokens)
    }

    /// Whether all samples of these rows fit beside what is in flight.
    fn admits_all(&self, mut load: Load, mut waiting: impl Iterator<Item = RowLength>) -> bool {
        waiting.all(|row| {
            let (samples, cost) = (row.samples.max(1) as usize, self.cost(&row));
            let fits = self.admits(load, samples, cost);
            load.add(cost.slots(samples), cost.of(samples));
            fits
        })
    }

    /// The longest run of rows at the head of the queue that may be read together.
    fn fitting(&self, mut load: Load, waiting: impl Iterator<Item = RowLength>) -> Vec<GroupRow> {
        let mut group = Vec::new();
        let mut bucket = None;
        let mut prefill_tokens = 0;
        for row in waiting {
            let width = padded(row.context, self.bucket_tokens);
            prefill_tokens += u64::from(width);
            let is_padded = self.slot_sizes == SlotSizes::Stepped;
            let is_other = is_padded && bucket.is_some_and(|first| first != width);
            if is_other || (bucket.is_some() && prefill_tokens > self.prefill_tokens()) {
                break;
            }
            let cost = self.cost(&row);
            let samples = self.samples_at_once(row.samples.max(1), cost);
            if !self.admits(load, samples, cost) {
                break;
            }
            load.add(cost.slots(samples), cost.of(samples));
            bucket = Some(width);
            group.push(GroupRow { samples, cost });
            if samples < row.samples as usize {
                break;
            }
        }
        group
    }

    /// How many rows at the head of the queue are read together now, each in one pass without a slot.
    ///
    /// Their texts, padded to the widest, which is the first row's, stay under 4,096 tokens and under the budget; a single row may pass
    /// both.
    pub fn next_readings(&self, waiting: impl IntoIterator<Item = RowLength>) -> usize {
        let most = self.max_batch_tokens.min(PREFILL_TOKENS);
        let mut widest = 0;
        let mut texts = 0;
        let mut rows = 0;
        for row in waiting.into_iter().take(self.max_batch_size) {
            widest = widest.max(u64::from(padded(row.longest, self.bucket_tokens)));
            texts += u64::from(row.texts.max(1));
            if rows > 0 && widest * texts > most {
                break;
            }
            rows += 1;
        }
        rows
    }

    /// The budget after `attempted` tokens at once turned out to be too many: half of them.
    #[must_use]
    pub(crate) fn halved(&self, attempted: u64) -> Self {
        let limit = self.max_batch_tokens.min(attempted) / 2;
        Self {
            max_batch_tokens: limit.max(1),
            ..*self
        }
    }
}

#[cfg(test)]
mod tests;
