//! Logits to one token: the likeliest, or a draw; and its log-probability.
//!
//! Invariant: the token depends on the arguments alone. Ties go to the lowest id; a draw walks the
//! kept tokens in id order, so it does not depend on how they were sorted.

use std::cell::RefCell;

use glm_batch_kernels::{Broken, LogSoftmax, first_of};

use super::philox::Draw;
use super::rules::{Rules, process};
use super::warp::Buffers;

/// Buffers of one choice, reused by the next.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(super) logits: Vec<f32>,
    warp: Buffers,
}

thread_local! {
    /// A vocabulary's worth of candidates is a megabyte: too much to be asked of the system for every step.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Scratch {
    /// Lends the buffers that the calling thread keeps; `choose` must not lead back here.
    pub(crate) fn of_thread<T>(choose: impl FnOnce(&mut Self) -> T) -> T {
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
    let mut top = largest(logits)?;
    let mut logits = logits;
    if rules.changes_logits(answered) {
        scratch.logits.clear();
        scratch.logits.extend_from_slice(logits);
        process(rules, history, answered, &mut scratch.logits);
        logits = &scratch.logits;
        top = largest(logits)?;
    }
    let id = match &rules.warp {
        Some(warp) => warp.draw(logits, top, draw.uniform(), &mut scratch.warp),
        None => first_of(logits, top),
    };
    id.ok_or_else(|| nothing_allowed(rules))
}

/// Why there is no token: the rules bar them all.
pub(super) fn nothing_allowed(rules: &Rules) -> String {
    let choices = if rules.choices.is_some() {
        "`choices`, "
    } else {
        ""
    };
    format!(
        "no token is left to choose: {choices}`bad_words`, `no_repeat_ngram_size` and `min_new_tokens` bar them all"
    )
}

/// The largest logit.
fn largest(logits: &[f32]) -> Result<f32, String> {
    glm_batch_kernels::largest(logits).map_err(|broken| {
        broken_logits(match broken {
            Broken::NotNumbers => "not numbers (NaN)",
            Broken::Infinite => "infinite",
        })
    })
}

fn broken_logits(how: &str) -> String {
    format!(
        "the model's logits are {how}: its weights are broken, or `model.dtype` or `model.cache_dtype` cannot hold its numbers, as `f32` can"
    )
}

/// Log-softmax of raw logits at one id, summed in f64; NaN where [`choose`] refuses the logits.
pub fn log_probability(logits: &[f32], id: u32) -> f32 {
    LogSoftmax::new(logits).at(id)
}

/// Log-softmax of raw logits at every id, each difference rounded to f32, as in torch.
///
/// # Errors
///
/// The reason where the logits are not numbers.
///
/// # Source
///
/// `vec_log_softmax_lastdim` of torch: the logit less the largest, less the logarithm of the sum. The sum is
/// taken in f64 here, so that it does not depend on the width of the processor's registers.
pub(super) fn log_softmax(logits: &[f32], result: &mut Vec<f32>) -> Result<(), String> {
    let top = largest(logits)?;
    result.clear();
    if top == f32::NEG_INFINITY {
        result.resize(logits.len(), f32::NEG_INFINITY);
        return Ok(());
    }
    let log_sum = LogSoftmax::new(logits).log_sum();
    result.extend(logits.iter().map(|&logit| logit - top - log_sum));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::rules::tests::rules_of;
    use crate::generate::warp::tests::scattered;
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
        let greedy = GenerationSpec::default();
        assert_eq!(pick(&greedy, &[0.0, 2.0, 1.0, 2.0], 0), Ok(1));
        assert_eq!(pick(&greedy, &[-3.0, f32::NEG_INFINITY], 0), Ok(0));
        for top in 0..70 {
            let mut logits = [-1.0; 70];
            logits[top..].fill(2.0);
            assert_eq!(pick(&greedy, &logits, 0), Ok(top as u32));
            logits[top] = f32::NAN;
            assert!(pick(&greedy, &logits, 0).is_err());
        }
    }

    #[test]
    fn broken_logits_give_a_reason() {
        let greedy = GenerationSpec::default();
        let nan = pick(&greedy, &[0.0, f32::NAN, 1.0], 0);
        assert!(nan.is_err_and(|reason| reason.contains("NaN")));
        let infinite = pick(&greedy, &[0.0, f32::INFINITY], 0);
        assert!(infinite.is_err_and(|reason| reason.contains("infinite")));
        let settings = GenerationSpec {
            bad_words: vec!["a".into(), "b".into()],
            ..GenerationSpec::default()
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
            ..GenerationSpec::default()
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
    fn log_probabilities_sum_to_one() {
        let logits = [1.0, -2.0, 30.0, 29.5];
        let sum: f64 = (0..4)
            .map(|id| f64::from(log_probability(&logits, id)).exp())
            .sum();
        assert!((sum - 1.0).abs() < 1e-6);
        assert!((log_probability(&logits, 2) - -0.474_077).abs() < 1e-6);
        assert!(log_probability(&[0.0, f32::NAN], 0).is_nan());
    }

    #[test]
    fn the_log_softmax_of_all_ids_is_that_of_each() {
        for seed in 0..20 {
            let logits: Vec<f32> = scattered(5000, seed)
                .map(|uniform| uniform * 20.0 - 5.0)
                .collect();
            let mut all = Vec::new();
            log_softmax(&logits, &mut all).unwrap();
            for (id, found) in all.iter().enumerate() {
                let expected = log_probability(&logits, id as u32);
                assert!((found - expected).abs() <= 4e-6, "{found} {expected}");
            }
        }
        let mut all = Vec::new();
        assert!(log_softmax(&[0.0, f32::NAN], &mut all).is_err());
        log_softmax(&[f32::NEG_INFINITY; 2], &mut all).unwrap();
        assert_eq!(all, [f32::NEG_INFINITY; 2]);
    }

    #[test]
    fn log_probabilities_are_those_of_a_sum_in_id_order() {
        for seed in 0..40 {
            let spread = [0.0, 1e-3, 2.0, 300.0][seed as usize % 4];
            let logits: Vec<f32> = scattered(50_048, seed)
                .map(|uniform| uniform * spread - 5.0)
                .collect();
            let top = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let weights = logits.iter().map(|&logit| (f64::from(logit) - top).exp());
            let log_sum = weights.sum::<f64>().ln();
            for id in 0..50 {
                let expected = (f64::from(logits[id]) - top - log_sum) as f32;
                let found = log_probability(&logits, id as u32);
                assert_eq!(found.to_bits(), expected.to_bits(), "{seed} {id}");
            }
        }
    }
}
