//! How many rows in flight are enough, and the most that products can do on this machine.

use std::time::{Duration, Instant};

use glm_batch_kernels::{PackedLinear, Storage};

/// Rows in flight on a CPU that a job begins with where it leaves them open and nothing is known of the machine.
pub(crate) const FIRST_ROWS: usize = 64;

/// Most rows in flight on a CPU where the job leaves them open: more would take memory and gain nothing, because products
/// of so many are bound by arithmetic.
pub(crate) const MOST_ROWS: usize = 256;

/// Rows that are read in one call on a CPU where the job leaves them open and nothing is generated. The tokens of a call are
/// bounded too, so that only short rows are so many.
pub(crate) const READING_ROWS: usize = 128;

/// How often the product of the machine's peak is tried at least.
const TRIES: usize = 3;

/// Hidden size of the layer that gives the machine's peak: that of the 350M size, and wide enough for any
/// larger one to gain nothing.
const PEAK_HIDDEN: usize = 1024;

/// Rows of the machine's peak: reading the weights takes no time beside computing so many.
const PEAK_ROWS: usize = 512;

/// How long the machine's peak is timed, for each storage.
const PEAK_TIME: Duration = Duration::from_millis(100);

/// The share of the best rate that is enough: more rows would take memory and gain little. Two runs that time a little
/// differently may choose differently, and then differ in speed by this share and the error of the timing.
const ENOUGH: f64 = 0.97;

/// The fewest rows that are nearly as fast as any; `None` where nothing was timed.
pub(crate) fn fewest(rates: &[(usize, f64)]) -> Option<usize> {
    let best = rates.iter().map(|&(_, rate)| rate).fold(0.0, f64::max);
    let enough = rates.iter().filter(|&&(_, rate)| rate >= ENOUGH * best);
    enough.map(|&(rows, _)| rows).min()
}

/// Most operations a second that this machine reaches in products with such weights; `None` where memory is short.
///
/// The product is that of a hidden state with the widest matrix of a layer, the same for every model, so that the rate is
/// the machine's limit and not the model's. The fastest of some tries counts, because other work on the machine only
/// slows them.
pub(crate) fn peak_rate(storage: Storage) -> Option<f64> {
    let (rows, hidden) = (PEAK_ROWS, PEAK_HIDDEN);
    let width = 4 * hidden;
    let fill = |_, values: &mut [f32]| values.fill(0.5);
    let layer = PackedLinear::pack(width, hidden, storage, None, &fill).ok()?;
    let x = vec![0.5; rows * hidden];
    let mut out = vec![0.0; rows * width];
    let operations = (2 * rows * hidden * width) as f64;
    let mut rate = 0.0_f64;
    // The first call fetches the memory that the others use again.
    layer.forward_into(&x, &mut out);
    let started = Instant::now();
    let mut tries = 0;
    while tries < TRIES || started.elapsed() < PEAK_TIME {
        tries += 1;
        let one = Instant::now();
        layer.forward_into(&x, &mut out);
        rate = rate.max(operations / one.elapsed().as_secs_f64().max(1e-9));
    }
    Some(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_batch_is_the_smallest_that_is_nearly_best() {
        let of =
            |rates: [f64; 3]| fewest(&[64, 128, 256].into_iter().zip(rates).collect::<Vec<_>>());
        assert_eq!(of([39.0, 40.0, 39.9]), Some(64));
        assert_eq!(of([30.0, 40.0, 41.0]), Some(128));
        assert_eq!(of([30.0, 40.0, 50.0]), Some(256));
        assert_eq!(fewest(&[]), None);
        let rates = [
            (64, 10.0),
            (128, 20.0),
            (256, 39.0),
            (512, 40.0),
            (1024, 30.0),
        ];
        assert_eq!(fewest(&rates), Some(256));
    }
}
