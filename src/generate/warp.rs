//! Processed logits to the tokens that may be drawn: temperature, top-k, top-p, min-p, in this order.
//!
//! # Source
//!
//! The logits warpers of transformers (4.25 to 4.30; min-p from 4.41), at least one token kept.
//! Logits are f32 as there; the temperature, probabilities and their sums are f64 here, where
//! transformers rounds each to f32: a token whose cumulative probability is within that rounding of
//! `top_p` may fall on the other side. A temperature near 0 cannot overflow here.
//!
//! # Ties
//!
//! Top-k keeps every token that is level with the k-th, as transformers does. Top-p sorts, and for
//! level tokens `torch.sort` promises no order (it is called without `stable`): which of them stay is
//! not defined there. Here the lowest ids stay; how many stay is the same.

use std::cmp::Ordering;

use crate::spec::GenerationSpec;

/// Tokens that top-p sorts first; most distributions need no more.
const FIRST_SORTED: usize = 256;

/// Values that are gathered before the smallest are thrown away, when the k-th largest is looked for.
const GATHERED: usize = 2048;

/// How tokens are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Warp {
    /// Logits are divided by this.
    pub temperature: f64,
    /// Only this many likeliest tokens, and those level with the last; 0 is all.
    pub top_k: usize,
    /// Only the likeliest tokens until their probabilities sum to this.
    pub top_p: f64,
    /// Only tokens at least this share as likely as the likeliest.
    pub min_p: f64,
}

/// A token that may be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Its id.
    pub id: u32,
    /// Its logit; a temperature does not change the order.
    pub logit: f32,
    /// Probability relative to the likeliest candidate; sums are taken over these.
    pub weight: f64,
}

/// Buffers of one choice, reused by the next.
#[derive(Debug, Default)]
pub struct Buffers {
    kept: Vec<Candidate>,
    sorted: Vec<Candidate>,
    values: Vec<f32>,
}

impl Warp {
    /// The warp of these settings.
    pub fn new(settings: &GenerationSpec) -> Self {
        Self {
            temperature: settings.temperature,
            top_k: settings.top_k as usize,
            top_p: settings.top_p,
            min_p: settings.min_p,
        }
    }

    /// The tokens that may be drawn, in id order.
    ///
    /// `logits` must not hold NaN or positive infinity. The result is empty only where every logit
    /// is negative infinity.
    pub fn keep<'a>(&self, logits: &[f32], buffers: &'a mut Buffers) -> &'a [Candidate] {
        let Buffers {
            kept,
            sorted,
            values,
        } = buffers;
        let least = match self.top_k {
            0 => f32::NEG_INFINITY,
            k => kth_largest(logits.iter().copied(), k, values),
        };
        open(logits, least, kept);
        weigh(kept, self.temperature);
        if self.top_p < 1.0 {
            keep_top_p(self.top_p, kept, sorted, values);
        }
        if self.min_p > 0.0 {
            kept.retain(|candidate| candidate.weight >= self.min_p);
        }
        kept
    }
}

/// All tokens that are not barred and have at least this logit.
fn open(logits: &[f32], least: f32, kept: &mut Vec<Candidate>) {
    kept.clear();
    for (id, &logit) in logits.iter().enumerate() {
        if logit >= least && logit != f32::NEG_INFINITY {
            kept.push(Candidate {
                id: id as u32,
                logit,
                weight: 0.0,
            });
        }
    }
}

/// The k-th largest value; negative infinity where there are fewer.
///
/// One pass that keeps a few thousand values: what is not above the k-th so far cannot change it.
fn kth_largest(all: impl Iterator<Item = f32>, k: usize, values: &mut Vec<f32>) -> f32 {
    let most = GATHERED.max(2 * k);
    let mut least = f32::NEG_INFINITY;
    values.clear();
    for value in all {
        if value > least {
            values.push(value);
            if values.len() == most {
                least = select(k, values);
                values.truncate(k);
            }
        }
    }
    if values.len() < k {
        f32::NEG_INFINITY
    } else {
        select(k, values)
    }
}

fn select(k: usize, values: &mut [f32]) -> f32 {
    *values
        .select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a))
        .1
}

/// Likeliest first, ties by the lowest id: a total order.
fn likeliest_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit
        .partial_cmp(&a.logit)
        .unwrap_or(Ordering::Equal)
        .then(a.id.cmp(&b.id))
}

/// Softmax without its denominator.
fn weigh(kept: &mut [Candidate], temperature: f64) {
    let top = kept
        .iter()
        .fold(f32::NEG_INFINITY, |top, candidate| top.max(candidate.logit));
    for candidate in kept {
        let below = f64::from(candidate.logit) - f64::from(top);
        candidate.weight = (below / temperature).exp();
    }
}

/// A token stays while the likelier ones sum to less than `top_p`; the likeliest always stays.
///
/// This is transformers' rule (ascending, cumulative sum at most `1 - top_p` goes) seen from the
/// other end: the cumulative sum of a token is 1 less what is likelier. Only the head is sorted, and
/// a longer one where that does not reach `top_p`.
fn keep_top_p(
    top_p: f64,
    kept: &mut Vec<Candidate>,
    sorted: &mut Vec<Candidate>,
    values: &mut Vec<f32>,
) {
    let total: f64 = kept.iter().map(|candidate| candidate.weight).sum();
    let mut head = FIRST_SORTED;
    loop {
        let least = kth_largest(kept.iter().map(|candidate| candidate.logit), head, values);
        sorted.clear();
        sorted.extend(kept.iter().filter(|candidate| candidate.logit >= least));
        sorted.sort_unstable_by(likeliest_first);
        if let Some(last) = last_within(top_p * total, sorted) {
            kept.retain(|candidate| likeliest_first(candidate, &last) != Ordering::Greater);
            return;
        }
        if sorted.len() == kept.len() {
            return;
        }
        head *= 4;
    }
}

/// The last token before which the weights sum to less than `limit`; `None` where that may be further
/// down.
fn last_within(limit: f64, sorted: &[Candidate]) -> Option<Candidate> {
    let mut likelier = 0.0;
    sorted.iter().copied().find(|candidate| {
        likelier += candidate.weight;
        likelier >= limit
    })
}

/// The probability of every id under this warp: what a draw follows.
///
/// For tests and reports; generation draws from the candidates and never fills such a vector.
pub fn probabilities(warp: &Warp, logits: &[f32]) -> Vec<f32> {
    let mut buffers = Buffers::default();
    let kept = warp.keep(logits, &mut buffers);
    let total: f64 = kept.iter().map(|candidate| candidate.weight).sum();
    let mut probabilities = vec![0.0; logits.len()];
    for candidate in kept {
        probabilities[candidate.id as usize] = (candidate.weight / total) as f32;
    }
    probabilities
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Greedy, nothing on.
    pub(crate) const SETTINGS: GenerationSpec = GenerationSpec {
        do_sample: false,
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        no_repeat_ngram_size: 0,
        min_new_tokens: 0,
        max_new_tokens: None,
        num_return_sequences: 1,
        bad_words: Vec::new(),
        stop: Vec::new(),
        seed: 42,
        logprobs: false,
    };

    const OPEN: Warp = Warp {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
    };

    fn kept(warp: Warp, logits: &[f32]) -> Vec<u32> {
        warp.keep(logits, &mut Buffers::default())
            .iter()
            .map(|candidate| candidate.id)
            .collect()
    }

    /// Logits whose softmax is these probabilities.
    fn logits(probabilities: &[f64]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln() as f32).collect()
    }

    #[test]
    fn top_k_keeps_what_is_level_with_the_last() {
        let warp = Warp { top_k: 2, ..OPEN };
        assert_eq!(kept(warp, &[1.0, 3.0, 2.0, 2.0, 0.0]), [1, 2, 3]);
        assert_eq!(kept(Warp { top_k: 9, ..OPEN }, &[1.0, 3.0]), [0, 1]);
        assert_eq!(
            kept(warp, &[f32::NEG_INFINITY, 3.0, f32::NEG_INFINITY]),
            [1]
        );
    }

    #[test]
    fn top_p_keeps_the_token_that_passes_it() {
        let logits = logits(&[0.1, 0.4, 0.2, 0.3]);
        assert_eq!(kept(Warp { top_p: 0.6, ..OPEN }, &logits), [1, 3]);
        assert_eq!(
            kept(
                Warp {
                    top_p: 0.75,
                    ..OPEN
                },
                &logits
            ),
            [1, 2, 3]
        );
        assert_eq!(
            kept(
                Warp {
                    top_p: 1e-12,
                    ..OPEN
                },
                &logits
            ),
            [1],
            "at least one"
        );
        assert_eq!(
            kept(
                Warp {
                    top_p: 0.999_999,
                    ..OPEN
                },
                &logits
            ),
            [0, 1, 2, 3]
        );
    }

    #[test]
    fn level_tokens_stay_by_lowest_id() {
        assert_eq!(kept(Warp { top_p: 0.5, ..OPEN }, &[1.0; 4]), [0, 1]);
        assert_eq!(
            kept(
                Warp {
                    top_p: 0.51,
                    ..OPEN
                },
                &[1.0; 4]
            ),
            [0, 1, 2]
        );
    }

    #[test]
    fn min_p_is_relative_to_the_likeliest() {
        let logits = logits(&[0.1, 0.4, 0.2, 0.3]);
        assert_eq!(kept(Warp { min_p: 0.4, ..OPEN }, &logits), [1, 2, 3]);
        assert_eq!(kept(Warp { min_p: 1.0, ..OPEN }, &logits), [1]);
    }

    #[test]
    fn top_p_sees_what_top_k_left() {
        let logits = logits(&[0.1, 0.4, 0.2, 0.3]);
        // Of 0.4 and 0.3 the first has 0.57: alone it reaches 0.5, where of all four it does not.
        assert_eq!(
            kept(
                Warp {
                    top_k: 2,
                    top_p: 0.5,
                    ..OPEN
                },
                &logits
            ),
            [1]
        );
        assert_eq!(kept(Warp { top_p: 0.5, ..OPEN }, &logits), [1, 3]);
    }

    #[test]
    fn a_tiny_temperature_is_the_likeliest_token() {
        let warp = Warp {
            temperature: 1e-300,
            ..OPEN
        };
        assert_eq!(probabilities(&warp, &[1.0, 30.0, 29.0]), [0.0, 1.0, 0.0]);
    }

    #[test]
    fn the_kth_largest_is_that_of_a_sort() {
        let all: Vec<f32> = (0..9000_u32).map(|i| (i * 7919 % 1013) as f32).collect();
        let mut sorted = all.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        for k in [1, 7, 1000, 3000, 9000] {
            let found = kth_largest(all.iter().copied(), k, &mut Vec::new());
            assert_eq!(found, sorted[k - 1], "{k}");
        }
        assert_eq!(
            kth_largest(all.iter().copied(), 9001, &mut Vec::new()),
            f32::NEG_INFINITY
        );
    }

    #[test]
    fn partial_sorts_agree_with_a_full_one() {
        // Many levels, so that ties cross the borders of the partial sorts.
        let logits: Vec<f32> = (0..3000_u32)
            .map(|i| (i * 7919 % 97) as f32 / 200.0)
            .collect();
        for top_p in [0.05, 0.3, 0.77, 0.9, 0.9999] {
            let mut all: Vec<usize> = (0..logits.len()).collect();
            all.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
            let weight = |id: usize| (f64::from(logits[id]) - f64::from(logits[all[0]])).exp();
            let limit = top_p * (0..logits.len()).map(weight).sum::<f64>();
            let mut sum = 0.0;
            let mut expected = Vec::new();
            for &id in all.iter().take_while(|&&id| {
                let stays = sum < limit;
                sum += weight(id);
                stays
            }) {
                expected.push(id as u32);
            }
            expected.sort_unstable();
            assert_eq!(
                kept(Warp { top_p, ..OPEN }, &logits),
                expected,
                "top_p {top_p}"
            );
        }
    }
}
