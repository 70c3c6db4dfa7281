//! What a GPU can do: the memory that it has left, and the rows whose steps are nearly as fast as any.

use std::time::{Duration, Instant};

use candle_core::Device;

use crate::model::{self, DecodeRow, ModelError, PrefillRow, TextModel};
use crate::plan::Memory;

use super::batch_size::fewest;

/// Rows that are tried on a GPU, where a step is short enough to be timed whole.
const DEVICE_ROWS: [usize; 5] = [64, 128, 256, 512, 1024];

/// Steps that are timed for each number of rows; one more comes before them.
const DEVICE_STEPS: u32 = 8;

/// Tokens of each context while steps are timed.
const DEVICE_CONTEXT: usize = 32;

/// Tokens of each slot while steps are timed: a size of `plan` that holds context, start token and steps.
const DEVICE_CAPACITY: usize = 64;

/// What this process may still take on a GPU; `None` where it does not tell.
pub(crate) fn memory(device: &Device, claimed_bytes: u64) -> Option<Memory> {
    Some(Memory {
        free_bytes: model::free_bytes(device)?,
        cgroup_bytes: None,
        claimed_bytes,
    })
}

/// The fewest rows whose steps are nearly as fast as any on a GPU, of those that `most_tokens` in flight
/// allow; `None` where they allow none, or memory is short for all.
///
/// # Errors
///
/// [`ModelError`] for whatever else a step may end with.
pub(crate) fn batch_size(
    model: &mut dyn TextModel,
    most_tokens: u64,
) -> Result<Option<usize>, ModelError> {
    let started = Instant::now();
    batch_size_by(model, most_tokens, &|| started.elapsed())
}

fn batch_size_by(
    model: &mut dyn TextModel,
    most_tokens: u64,
    clock: &dyn Fn() -> Duration,
) -> Result<Option<usize>, ModelError> {
    let most_rows = most_tokens / DEVICE_CAPACITY as u64;
    let mut rates = Vec::new();
    for rows in DEVICE_ROWS
        .into_iter()
        .filter(|&rows| rows as u64 <= most_rows)
    {
        let rate = step_rate(model, rows, clock);
        for slot in 0..rows {
            model.release(slot);
        }
        match rate {
            Ok(rate) => rates.push((rows, rate)),
            Err(ModelError::OutOfMemory) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(fewest(&rates))
}

/// Tokens a second of the fastest of some steps.
fn step_rate(
    model: &mut dyn TextModel,
    rows: usize,
    clock: &dyn Fn() -> Duration,
) -> Result<f64, ModelError> {
    let ids = [0; DEVICE_CONTEXT];
    let mask_position = ids.len() as u32 - 1;
    model.prefill(&[PrefillRow {
        slot: 0,
        ids: &ids,
        start: 0,
        mask_position,
        capacity: DEVICE_CAPACITY,
    }])?;
    for slot in 1..rows {
        model.fork(0, slot)?;
    }
    let mut seconds = f64::INFINITY;
    for step in 0..=DEVICE_STEPS {
        let row = |slot| DecodeRow {
            slot,
            id: 0,
            mask_position,
            block_position: step + 2,
        };
        let rows: Vec<DecodeRow> = (0..rows).map(row).collect();
        let started = clock();
        model.decode_likeliest(&rows)?;
        // The first step of a shape fetches its memory.
        if step > 0 {
            seconds = seconds.min(clock().saturating_sub(started).as_secs_f64().max(1e-9));
        }
    }
    Ok(rows as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::Logits;

    /// A model with a clock of its own: a step costs the same up to 256 rows, and as much more as there are rows more.
    struct Timed<'a> {
        most_rows: usize,
        /// Tokens held by each slot, and how many it can hold.
        slots: BTreeMap<usize, (usize, usize)>,
        clock: &'a Cell<Duration>,
    }

    impl TextModel for Timed<'_> {
        fn vocab_size(&self) -> usize {
            1
        }
        fn prefill(&mut self, rows: &[PrefillRow<'_>]) -> Result<Logits, ModelError> {
            for row in rows {
                let length = row.ids.len() + 1;
                self.slots.insert(row.slot, (length, row.capacity));
            }
            Ok(logits(rows.len()))
        }
        fn fork(&mut self, from: usize, to: usize) -> Result<(), ModelError> {
            self.slots.insert(to, self.slots[&from]);
            match self.slots.len() {
                slots if slots > self.most_rows => Err(ModelError::OutOfMemory),
                _ => Ok(()),
            }
        }
        fn decode(&mut self, rows: &[DecodeRow]) -> Result<Logits, ModelError> {
            for row in rows {
                let (length, capacity) = self.slots.get_mut(&row.slot).unwrap();
                assert!(*length < *capacity, "slot {} is full", row.slot);
                *length += 1;
            }
            let cost = Duration::from_micros(rows.len().max(256) as u64);
            self.clock.set(self.clock.get() + cost);
            Ok(logits(rows.len()))
        }
        fn release(&mut self, slot: usize) {
            self.slots.remove(&slot);
        }
    }

    fn logits(rows: usize) -> Logits {
        Logits {
            vocab_size: 1,
            values: vec![0.0; rows],
        }
    }

    #[test]
    fn rows_of_a_gpu_are_those_of_its_fastest_steps_that_memory_allows() {
        for (most_rows, most_tokens, expected) in [
            (2048, u64::MAX, Some(256)),
            (128, u64::MAX, Some(128)),
            (2048, 64 * 100, Some(64)),
            (2048, 64 * 63, None),
            (32, u64::MAX, None),
        ] {
            let clock = Cell::new(Duration::ZERO);
            let mut model = Timed {
                most_rows,
                slots: BTreeMap::new(),
                clock: &clock,
            };
            let rows = batch_size_by(&mut model, most_tokens, &|| clock.get()).unwrap();
            assert_eq!(rows, expected);
            assert!(model.slots.is_empty(), "every slot is released");
        }
    }
}
