//! Logits to one token: the likeliest, or a draw; and its log-probability.
//!
//! Invariant: the token depends on the arguments alone. Ties go to the lowest id; a draw walks the
//! kept tokens in id order, so it does not depend on how they were sorted.

use std::cell::RefCell;

use super::philox::Draw;
use super::rules::{Rules, process};
use super::warp::{Buffers, Kept};

/// Logits that are compared side by side.
const LANES: usize = 16;

/// Buffers of one choice, reused by the next.
#[derive(Debug, Default)]
pub struct Scratch {
    logits: Vec<f32>,
    warp: Buffers,
}

thread_local! {
    /// A vocabulary's worth of candidates is a megabyte: too much to be asked of the system for every step.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Scratch {
    /// Lends the buffers that the calling thread keeps; `choose` must not lead back here.
    pub(super) fn of_thread<T>(choose: impl FnOnce(&mut Self) -> T) -> T {
        SCRATCH.with_borrow_mut(choose)
    }
}

/// The next token of an answer.
///
/// `history` is context, start token and `answered` answer tokens; `logits` are the model's own.
///
/// # Errors
///
/// The reason why there is none: logits that are not numbers, or no token that the rules allow.
pub fn choose(
    rules: &Rules,
    history: &[u32],
    answered: usize,
    logits: &[f32],
    draw: Draw,
    scratch: &mut Scratch,
) -> Result<u32, String> {
    let raw = likeliest(logits)?;
    if !rules.changes_logits(answered) && rules.warp.is_none() {
        return raw.ok_or_else(nothing_allowed);
    }
    scratch.logits.clear();
    scratch.logits.extend_from_slice(logits);
    process(rules, history, answered, &mut scratch.logits);
    let Some(warp) = &rules.warp else {
        return likeliest(&scratch.logits)?.ok_or_else(nothing_allowed);
    };
    let kept = warp.keep(&scratch.logits, &mut scratch.warp);
    take(kept, draw.uniform()).ok_or_else(nothing_allowed)
}

fn nothing_allowed() -> String {
    "no token is left to choose: `bad_words`, `no_repeat_ngram_size` and `min_new_tokens` bar them all"
        .to_owned()
}

/// The lowest id of the largest logit; `None` where all are negative infinity.
fn likeliest(logits: &[f32]) -> Result<Option<u32>, String> {
    let top = largest(logits)?;
    if top == f32::INFINITY {
        return Err(
            "the model's logits are infinite: its weights or the arithmetic in this dtype \
                    are broken"
                .to_owned(),
        );
    }
    let id = logits
        .iter()
        .position(|&logit| logit == top && logit != f32::NEG_INFINITY);
    Ok(id.map(|id| id as u32))
}

/// The largest logit, in lanes that the compiler turns into vector instructions.
fn largest(logits: &[f32]) -> Result<f32, String> {
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
        return Err(
            "the model's logits are not numbers (NaN): its weights or the arithmetic in \
                    this dtype are broken"
                .to_owned(),
        );
    }
    Ok(tops
        .iter()
        .chain(rest)
        .copied()
        .fold(f32::NEG_INFINITY, f32::max))
}

/// The token at `uniform` of the cumulative distribution, in id order.
fn take(kept: Kept<'_>, uniform: f64) -> Option<u32> {
    let target = uniform * kept.total;
    let mut sum = 0.0;
    for candidate in kept.candidates {
        sum += candidate.weight;
        if target < sum {
            return Some(candidate.id);
        }
    }
    // `uniform` is below 1, so only rounding can lead here.
    kept.candidates
        .iter()
        .rev()
        .find(|candidate| candidate.weight > 0.0)
        .map(|candidate| candidate.id)
}

/// Log-softmax of raw logits at one id, summed in f64.
pub fn log_probability(logits: &[f32], id: u32) -> f32 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|&logit| (f64::from(logit) - f64::from(top)).exp())
        .sum();
    let logit = logits
        .get(id as usize)
        .copied()
        .unwrap_or(f32::NEG_INFINITY);
    (f64::from(logit) - f64::from(top) - sum.ln()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::rules::tests::rules_of;
    use crate::generate::warp::Candidate;
    use crate::generate::warp::tests::SETTINGS;
    use crate::job::GenerationSpec;

    fn pick(settings: &GenerationSpec, logits: &[f32], step: u32) -> Result<u32, String> {
        let draw = Draw {
            seed: settings.seed,
            row: 3,
            sample: 0,
            step,
        };
        choose(
            &rules_of(settings),
            &[30],
            0,
            logits,
            draw,
            &mut Scratch::default(),
        )
    }

    #[test]
    fn greedy_takes_the_lowest_id_of_a_tie() {
        assert_eq!(pick(&SETTINGS, &[0.0, 2.0, 1.0, 2.0], 0), Ok(1));
        assert_eq!(pick(&SETTINGS, &[-3.0, f32::NEG_INFINITY], 0), Ok(0));
        for top in 0..70 {
            let mut logits = [-1.0; 70];
            logits[top..].fill(2.0);
            assert_eq!(pick(&SETTINGS, &logits, 0), Ok(top as u32));
            logits[top] = f32::NAN;
            assert!(pick(&SETTINGS, &logits, 0).is_err());
        }
    }

    #[test]
    fn broken_logits_give_a_reason() {
        let nan = pick(&SETTINGS, &[0.0, f32::NAN, 1.0], 0);
        assert!(nan.is_err_and(|reason| reason.contains("NaN")));
        let infinite = pick(&SETTINGS, &[0.0, f32::INFINITY], 0);
        assert!(infinite.is_err_and(|reason| reason.contains("infinite")));
        let settings = GenerationSpec {
            bad_words: vec!["a".into(), "b".into()],
            ..SETTINGS
        };
        let barred = pick(&settings, &[0.0, 1.0], 0);
        assert!(barred.is_err_and(|reason| reason.contains("bad_words")));
        let drawn = pick(
            &GenerationSpec {
                do_sample: true,
                ..settings
            },
            &[0.0, 1.0],
            0,
        );
        assert!(drawn.is_err_and(|reason| reason.contains("bad_words")));
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let settings = GenerationSpec {
            do_sample: true,
            ..SETTINGS
        };
        let logits = [0.5_f32, 0.2, 0.3].map(f32::ln);
        let mut counts = [0_u32; 3];
        for step in 0..10_000 {
            counts[pick(&settings, &logits, step).unwrap() as usize] += 1;
        }
        for (count, expected) in counts.into_iter().zip([5000, 2000, 3000]) {
            assert!(count.abs_diff(expected) < 200, "{counts:?}");
        }
    }

    #[test]
    fn the_inverse_of_the_distribution_is_in_id_order() {
        let candidates = [(4, 0.25), (7, 1.0), (9, 0.75)].map(|(id, weight)| Candidate {
            id,
            logit: 0.0,
            weight,
        });
        let kept = Kept {
            candidates: &candidates,
            total: 2.0,
        };
        let taken = [0.0, 0.124, 0.126, 0.624, 0.626, 0.999].map(|uniform| take(kept, uniform));
        assert_eq!(taken, [4, 4, 7, 7, 9, 9].map(Some));
        let nothing = Kept {
            candidates: &[],
            total: 0.0,
        };
        assert_eq!(take(nothing, 0.5), None);
    }

    #[test]
    fn log_probabilities_sum_to_one() {
        let logits = [1.0, -2.0, 30.0, 29.5];
        let sum: f64 = (0..4)
            .map(|id| f64::from(log_probability(&logits, id)).exp())
            .sum();
        assert!((sum - 1.0).abs() < 1e-6);
        assert!((log_probability(&logits, 2) - -0.474_077).abs() < 1e-6);
    }
}
