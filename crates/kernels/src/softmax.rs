//! A row of logits to log-probabilities and its likeliest token.
//!
//! Invariant: a log-probability has the bits that a sum of f64 exponentials in id order gives. A vectorised sum, whose
//! error is known, decides where that error cannot matter, which is nearly always.

use super::math::softmax_weights;

/// Relative error of a weight: the exponential's, and that of an exponent of up to 700, rounded three times.
pub const WEIGHT_ERROR: f64 = 1e-12;

/// Weights whose sum is known before each of them is looked at.
pub const WEIGHTS_AT_ONCE: usize = 256;

/// Roundings that two sums of the same weights in two orders may differ by, each of half an epsilon of the
/// sum; four times what theory allows.
const ROUNDINGS: f64 = 4.0;

/// Numbers that are compared or added up side by side.
const LANES: usize = 16;

/// Why a row of logits says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// One is NaN.
    NotNumbers,
    /// One is positive infinity.
    Infinite,
}

/// A row of logits of which several tokens' log-probabilities may be asked.
#[derive(Clone, Copy, Debug)]
pub struct LogSoftmax<'a> {
    logits: &'a [f32],
    /// The largest logit; NaN where the row is broken.
    top: f32,
    /// The logarithm of the sum of e^(logit - top): the least and the greatest that it may be.
    log_sum: [f64; 2],
}

impl<'a> LogSoftmax<'a> {
    /// Looks at all logits once.
    pub fn new(logits: &'a [f32]) -> Self {
        let top = largest(logits).unwrap_or(f32::NAN);
        Self {
            logits,
            top,
            log_sum: log_sum(logits, top),
        }
    }

    /// The log-probability of a token, rounded to f32; NaN where the logits are broken, and where all of them are
    /// negative infinity.
    pub fn at(&self, id: u32) -> f32 {
        let logit = self.logits.get(id as usize).copied();
        let top = f64::from(self.top);
        let below_top = f64::from(logit.unwrap_or(f32::NEG_INFINITY)) - top;
        let [least, most] = self.log_sum.map(|log_sum| (below_top - log_sum) as f32);
        if least == most {
            return least;
        }
        // As f32 the two differ: the sum in id order decides.
        (below_top - self.log_sum_in_order()) as f32
    }

    /// The logarithm of the sum of e^(logit - the largest), rounded to f32.
    pub fn log_sum(&self) -> f32 {
        let [least, most] = self.log_sum.map(|log_sum| log_sum as f32);
        if least == most {
            return least;
        }
        self.log_sum_in_order() as f32
    }

    fn log_sum_in_order(&self) -> f64 {
        let top = f64::from(self.top);
        let logits = self.logits.iter();
        let weights = logits.map(|&logit| (f64::from(logit) - top).exp());
        weights.sum::<f64>().ln()
    }

    /// The lowest id of the largest logit; `None` where the logits are broken or all negative infinity.
    pub fn likeliest(&self) -> Option<u32> {
        first_of(self.logits, self.top)
    }
}

/// The lowest id of the largest logit, `top`; `None` where that is negative infinity or NaN.
pub fn first_of(logits: &[f32], top: f32) -> Option<u32> {
    let is_top = |&logit: &f32| logit == top && logit != f32::NEG_INFINITY;
    logits.iter().position(is_top).map(|id| id as u32)
}

/// The largest logit, in lanes that the compiler turns into vector instructions.
///
/// # Errors
///
/// How the logits are broken.
pub fn largest(logits: &[f32]) -> Result<f32, Broken> {
    let mut tops = [f32::NEG_INFINITY; LANES];
    let mut broken = [0_u32; LANES];
    let (chunks, rest) = logits.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            tops[lane] = if chunk[lane] > tops[lane] {
                chunk[lane]
            } else {
                tops[lane]
            };
            broken[lane] |= u32::from(chunk[lane].is_nan());
        }
    }
    if broken.iter().any(|&lane| lane != 0) || rest.iter().any(|logit| logit.is_nan()) {
        return Err(Broken::NotNumbers);
    }
    let all = tops.iter().chain(rest).copied();
    match all.fold(f32::NEG_INFINITY, f32::max) {
        f32::INFINITY => Err(Broken::Infinite),
        top => Ok(top),
    }
}

/// The logarithm of the sum of e^(logit - `top`): the least and the greatest that it may be.
fn log_sum(logits: &[f32], top: f32) -> [f64; 2] {
    let mut weights = [0.0; WEIGHTS_AT_ONCE];
    let mut total = 0.0;
    for logits in logits.chunks(WEIGHTS_AT_ONCE) {
        let weights = &mut weights[..logits.len()];
        softmax_weights(logits, f32::NEG_INFINITY, top, 1.0, weights);
        total += sum_of_weights(weights);
    }
    let doubt = relative_doubt(logits.len());
    [(total * (1.0 - doubt)).ln(), (total * (1.0 + doubt)).ln()]
}

/// What two sums of this many weights may differ by, one of [`softmax_weights`] in any order and one of exact
/// exponentials in id order, as a share of them.
pub fn relative_doubt(count: usize) -> f64 {
    2.0 * WEIGHT_ERROR + ROUNDINGS * count as f64 * f64::EPSILON
}

/// The sum of weights, in lanes.
pub fn sum_of_weights(weights: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = weights.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, weight) in lanes.iter_mut().zip(chunk) {
            *lane += weight;
        }
    }
    lanes.iter().chain(rest).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise;

    #[test]
    fn broken_logits_give_nan_and_no_likeliest_token() {
        for broken in [f32::NAN, f32::INFINITY] {
            for at in [0, 20, 39] {
                let mut logits = noise(40, 1);
                logits[at] = broken;
                let row = LogSoftmax::new(&logits);
                assert!(row.at(3).is_nan() && row.at(at as u32).is_nan());
                assert_eq!(row.likeliest(), None);
            }
        }
        assert!(LogSoftmax::new(&[f32::NEG_INFINITY; 3]).at(1).is_nan());
        let barred = [0.0, f32::NEG_INFINITY, 0.0];
        let row = LogSoftmax::new(&barred);
        assert_eq!(
            (row.at(0), row.at(1)),
            (-std::f32::consts::LN_2, f32::NEG_INFINITY)
        );
        assert_eq!(row.likeliest(), Some(0));
    }
}
