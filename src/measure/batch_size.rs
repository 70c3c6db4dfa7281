//! How fast products are on this machine for a number of rows, how many rows are enough, and the most that
//! products can do.

use std::time::{Duration, Instant};

use crate::kernels::{Epilogue, PackedLinear, Storage};

/// Rows that are tried: a step computes one row for each answer that is in flight.
///
/// Fewer would do for the products of some processors, but a step has more to it than them: what it costs however many
/// rows there are is shared by as many as this.
const ROWS: [usize; 3] = [64, 128, 256];

/// Rows in flight where nothing could be timed.
pub(crate) const FEWEST_ROWS: usize = ROWS[0];

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
pub(crate) struct ProductCurve {
    rates: [f64; ROWS.len()],
}

impl ProductCurve {
    /// Times the products of a model of this width; `None` where memory is short.
    pub(crate) fn measure(hidden: usize, storage: Storage) -> Option<Self> {
        let rates = product_rates(hidden, storage, ROWS, TIME)?;
        Some(Self { rates })
    }

    /// The best rate.
    pub(crate) fn best(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    /// The fewest rows that are nearly as fast as any.
    pub(crate) fn batch_size(&self) -> usize {
        let rates = ROWS.into_iter().zip(self.rates);
        fewest(&rates.collect::<Vec<_>>()).unwrap_or(FEWEST_ROWS)
    }
}

/// The fewest rows that are nearly as fast as any; `None` where nothing was timed.
pub(super) fn fewest(rates: &[(usize, f64)]) -> Option<usize> {
    let best = rates.iter().map(|&(_, rate)| rate).fold(0.0, f64::max);
    let enough = rates.iter().filter(|&&(_, rate)| rate >= ENOUGH * best);
    enough.map(|&(rows, _)| rows).min()
}

/// Most operations a second that this machine reaches in products with such weights; `None` where memory is short.
///
/// The layer is the same for every model, so that it is the machine's limit and not the model's.
pub(crate) fn peak_rate(storage: Storage) -> Option<f64> {
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
    use super::*;

    #[test]
    fn the_batch_is_the_smallest_that_is_nearly_best() {
        let curve = |rates| ProductCurve { rates };
        assert_eq!(curve([38.5, 40.0, 39.9]).batch_size(), 64);
        assert_eq!(curve([30.0, 40.0, 41.0]).batch_size(), 128);
        assert_eq!(curve([30.0, 40.0, 50.0]).batch_size(), 256);
        assert!(curve([2.0, 5.0, 4.0]).best() == 5.0);
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
