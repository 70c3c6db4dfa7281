//! How fast products or whole steps are on this machine for a number of rows, how many rows are enough, and
//! the most that it can do.

use std::time::{Duration, Instant};

use crate::kernels::{Epilogue, PackedLinear, Storage};
use crate::model::{DecodeRow, ModelError, PrefillRow, TextModel};

/// Rows that are tried: a step computes one row for each answer that is in flight.
const ROWS: [usize; 5] = [16, 32, 64, 128, 256];

/// Rows in flight where nothing could be timed.
pub(super) const FEWEST_ROWS: usize = ROWS[0];

/// Rows that are tried on a GPU, where a step is short enough to be timed whole.
const DEVICE_ROWS: [usize; 5] = [64, 128, 256, 512, 1024];

/// Steps that are timed for each number of rows; one more comes before them.
const DEVICE_STEPS: u32 = 8;

/// Tokens of each context while steps are timed.
const DEVICE_CONTEXT: usize = 32;

/// Tokens of each slot while steps are timed: a size of `plan` that holds context, start token and steps.
const DEVICE_CAPACITY: usize = 64;

/// How often each number of rows is tried at least.
const TRIES: usize = 3;

/// How long the products are timed, for all numbers of rows together.
const TIME: Duration = Duration::from_millis(150);

/// Hidden size of the layer that gives the machine's peak: that of the 350M size, and wide enough for any
/// larger one to gain nothing.
const PEAK_HIDDEN: usize = 1024;

/// Rows of the machine's peak: reading the weights takes no time beside computing so many.
const PEAK_ROWS: usize = 512;

/// How long the machine's peak is timed, for each storage.
const PEAK_TIME: Duration = Duration::from_millis(100);

/// The share of the best rate that is enough: more rows would take memory and gain little.
const ENOUGH: f64 = 0.95;

/// Operations a second by rows, for one product as a model has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProductCurve {
    rates: [f64; ROWS.len()],
}

impl ProductCurve {
    /// Times the products of a model of this width; `None` where memory is short.
    pub(super) fn measure(hidden: usize, storage: Storage) -> Option<Self> {
        let rates = product_rates(hidden, storage, ROWS, TIME)?;
        Some(Self { rates })
    }

    /// The best rate.
    pub(super) fn best(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    /// The fewest rows that are nearly as fast as any.
    pub(super) fn batch_size(&self) -> usize {
        let rates = ROWS.into_iter().zip(self.rates);
        fewest(&rates.collect::<Vec<_>>()).unwrap_or(FEWEST_ROWS)
    }
}

/// The fewest rows that are nearly as fast as any; `None` where nothing was timed.
fn fewest(rates: &[(usize, f64)]) -> Option<usize> {
    let best = rates.iter().map(|&(_, rate)| rate).fold(0.0, f64::max);
    let enough = rates.iter().filter(|&&(_, rate)| rate >= ENOUGH * best);
    enough.map(|&(rows, _)| rows).min()
}

/// The fewest rows whose steps are nearly as fast as any on a GPU, of those that `most_tokens` in flight
/// allow; `None` where they allow none, or memory is short for all.
///
/// # Errors
///
/// [`ModelError`] for whatever else a step may end with.
pub(super) fn device_batch_size(
    model: &mut dyn TextModel,
    most_tokens: u64,
) -> Result<Option<usize>, ModelError> {
    let started = Instant::now();
    device_batch_size_by(model, most_tokens, &|| started.elapsed())
}

fn device_batch_size_by(
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

/// Operations a second that this machine reaches at best in products with such weights; `None` where
/// memory is short.
///
/// The layer is the same for every model, so that it is the machine's limit and not the model's.
pub(super) fn peak_rate(storage: Storage) -> Option<f64> {
    let [rate] = product_rates(PEAK_HIDDEN, storage, [PEAK_ROWS], PEAK_TIME)?;
    Some(rate)
}

/// Operations a second of the product of a hidden state with the widest matrix of a layer, for each
/// number of rows; `None` where memory is short.
///
/// The fastest of some tries counts, because other work on the machine only slows them.
fn product_rates<const N: usize>(
    hidden: usize,
    storage: Storage,
    rows: [usize; N],
    time: Duration,
) -> Option<[f64; N]> {
    let width = 4 * hidden;
    let fill = |_, values: &mut [f32]| values.fill(0.5);
    let layer = PackedLinear::pack(width, hidden, storage, None, &fill).ok()?;
    let most = rows.iter().copied().max()?;
    let x = vec![0.5; most * hidden];
    let mut out = vec![0.0; most * width];
    let mut rates = [0.0_f64; N];
    // The first call fetches the memory that the others use again.
    layer.forward(&x, &mut out, Epilogue::None);
    let started = Instant::now();
    let mut tries = 0;
    while tries < TRIES || started.elapsed() < time {
        tries += 1;
        for (rate, rows) in rates.iter_mut().zip(rows) {
            let operations = (2 * rows * hidden * width) as f64;
            let one = Instant::now();
            layer.forward(
                &x[..rows * hidden],
                &mut out[..rows * width],
                Epilogue::None,
            );
            *rate = rate.max(operations / one.elapsed().as_secs_f64().max(1e-9));
        }
    }
    Some(rates)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::Logits;

    #[test]
    fn the_batch_is_the_smallest_that_is_nearly_best() {
        let curve = |rates| ProductCurve { rates };
        assert_eq!(curve([10.0, 30.0, 39.0, 40.0, 39.9]).batch_size(), 64);
        assert_eq!(curve([10.0, 20.0, 30.0, 40.0, 50.0]).batch_size(), 256);
        assert_eq!(curve([50.0, 20.0, 30.0, 40.0, 50.0]).batch_size(), 16);
        assert!(curve([1.0, 2.0, 5.0, 4.0, 3.0]).best() == 5.0);
    }

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
            let rows = device_batch_size_by(&mut model, most_tokens, &|| clock.get()).unwrap();
            assert_eq!(rows, expected);
            assert!(model.slots.is_empty(), "every slot is released");
        }
        let rates = [
            (64, 10.0),
            (128, 20.0),
            (256, 39.0),
            (512, 40.0),
            (1024, 30.0),
        ];
        assert_eq!(fewest(&rates), Some(256));
    }

    #[test]
    fn a_measured_curve_has_a_rate_for_all_rows() {
        let curve = ProductCurve::measure(32, Storage::Q8).unwrap();
        assert!(curve.rates.iter().all(|&rate| rate > 0.0));
    }
}
