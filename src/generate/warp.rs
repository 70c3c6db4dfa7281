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

use crate::job::GenerationSpec;

/// Tokens that top-p sorts first, where rounding could decide what stays.
const FIRST_SORTED: usize = 256;

/// How far a logit may be below the likeliest one's to share its bucket, as the upper half of an f32's bits.
const FIRST_BUCKET: u32 = (127 - 14) << 7;

/// Buckets of top-p: 128 for each doubling of the distance to the likeliest logit, from 2^-14 to 2^18.
const BUCKETS: usize = 32 << 7;

/// Logits that are compared side by side.
const LANES: usize = 16;

/// Roundings that two sums of the same weights in two orders may differ by, each of half an epsilon of the
/// sum; four times what theory allows.
const ROUNDINGS: f64 = 4.0;

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
    shares: Vec<f64>,
}

/// Tokens that may be drawn.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    /// In id order.
    pub candidates: &'a [Candidate],
    /// Sum of their weights, in id order.
    pub total: f64,
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

    /// The tokens that may be drawn.
    ///
    /// `logits` must not hold NaN or positive infinity. The result is empty only where every logit
    /// is negative infinity.
    pub fn keep<'a>(&self, logits: &[f32], buffers: &'a mut Buffers) -> Kept<'a> {
        let least = match self.top_k {
            0 => f32::NEG_INFINITY,
            k => kth_largest(logits.iter().copied(), k, &mut buffers.values),
        };
        let top = likeliest(logits);
        let mut total = self.weigh(logits, least, top, &mut buffers.kept);
        if self.top_p < 1.0
            && let Some(last) = last_of_top_p(self.top_p * total, total, top, buffers)
        {
            total = retain(&mut buffers.kept, |candidate| {
                candidate.logit > last.logit
                    || (candidate.logit == last.logit && candidate.id <= last.id)
            });
        }
        if self.min_p > 0.0 {
            total = retain(&mut buffers.kept, |candidate| {
                candidate.weight >= self.min_p
            });
        }
        Kept {
            candidates: &buffers.kept,
            total,
        }
    }

    /// All tokens that are not barred and have at least this logit, each with its softmax without the
    /// denominator. Returns that: the sum, in id order.
    fn weigh(&self, logits: &[f32], least: f32, top: f32, kept: &mut Vec<Candidate>) -> f64 {
        let top = f64::from(top);
        let mut total = 0.0;
        kept.clear();
        for (id, &logit) in logits.iter().enumerate() {
            if logit >= least && logit != f32::NEG_INFINITY {
                let weight = ((f64::from(logit) - top) / self.temperature).exp();
                total += weight;
                kept.push(Candidate {
                    id: id as u32,
                    logit,
                    weight,
                });
            }
        }
        total
    }
}

/// The largest logit, in lanes that the compiler turns into vector instructions.
fn likeliest(logits: &[f32]) -> f32 {
    let mut tops = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = logits.as_chunks::<LANES>();
    for chunk in chunks {
        for (top, &logit) in tops.iter_mut().zip(chunk) {
            *top = if logit > *top { logit } else { *top };
        }
    }
    let all = tops.iter().chain(rest).copied();
    all.fold(f32::NEG_INFINITY, f32::max)
}

/// Keeps the candidates of which `stays` is true. Returns the sum of their weights, in id order.
///
/// Without branches: on a flat distribution no processor foretells which ones stay.
fn retain(kept: &mut Vec<Candidate>, stays: impl Fn(&Candidate) -> bool) -> f64 {
    let mut total = 0.0;
    let mut count = 0;
    for at in 0..kept.len() {
        let candidate = kept[at];
        kept[count] = candidate;
        let stays = stays(&candidate);
        count += usize::from(stays);
        // Adding nothing changes no bit of the sum.
        total += if stays { candidate.weight } else { 0.0 };
    }
    kept.truncate(count);
    total
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

/// The last token that top-p keeps; `None` where all stay.
///
/// `limit` is `top_p` of the `total`, `top` the largest logit.
///
/// A token stays while the likelier ones sum to less than `top_p`; the likeliest always stays. This is
/// transformers' rule (ascending, cumulative sum at most `1 - top_p` goes) seen from the other end: the
/// cumulative sum of a token is 1 less what is likelier. What decides is the sum in the order of likelihood,
/// rounded after each token. A sum in any other order tells on which side of the limit it is, unless it is so
/// near that rounding could decide; only then is there anything to sort.
fn last_of_top_p(limit: f64, total: f64, top: f32, buffers: &mut Buffers) -> Option<Candidate> {
    // What two orders of summing may differ by.
    let doubt = ROUNDINGS * buffers.kept.len() as f64 * f64::EPSILON * total;
    if let Some(last) = last_by_buckets(limit, doubt, top, buffers) {
        return Some(last);
    }
    let Buffers {
        kept,
        sorted,
        values,
        ..
    } = buffers;
    let mut head = FIRST_SORTED;
    loop {
        let least = kth_largest(kept.iter().map(|candidate| candidate.logit), head, values);
        sorted.clear();
        sorted.extend(kept.iter().filter(|candidate| candidate.logit >= least));
        sorted.sort_unstable_by(likeliest_first);
        if let Some(last) = last_within(limit, sorted) {
            return Some(last);
        }
        if sorted.len() == kept.len() {
            return None;
        }
        head *= 4;
    }
}

/// The token at which the weights, likeliest first, reach `limit`: the tokens are dealt to buckets by their
/// logit, and only the bucket in which the limit is reached is sorted. `None` where rounding could decide.
fn last_by_buckets(limit: f64, doubt: f64, top: f32, buffers: &mut Buffers) -> Option<Candidate> {
    let Buffers {
        kept,
        sorted,
        shares,
        ..
    } = buffers;
    deal(kept, top, shares);
    let mut sum = 0.0;
    let found = shares.iter().position(|share| {
        let reaches = sum + share >= limit - doubt;
        sum += if reaches { 0.0 } else { *share };
        reaches
    })?;
    sorted.clear();
    let in_bucket = |candidate: &&Candidate| bucket(top, candidate.logit) == found;
    sorted.extend(kept.iter().filter(in_bucket));
    sorted.sort_unstable_by(likeliest_first);
    for candidate in sorted.iter() {
        if sum >= limit - doubt {
            return None;
        }
        sum += candidate.weight;
        if sum >= limit + doubt {
            return Some(*candidate);
        }
    }
    None
}

/// What each bucket's tokens weigh together.
fn deal(kept: &[Candidate], top: f32, shares: &mut Vec<f64>) {
    shares.clear();
    shares.resize(BUCKETS, 0.0);
    for candidate in kept {
        shares[bucket(top, candidate.logit)] += candidate.weight;
    }
}

/// Which bucket a logit belongs to: a likelier one is never in a later bucket.
fn bucket(top: f32, logit: f32) -> usize {
    // -0.0 is level with 0.0, but the difference of the two may have a sign bit, which would be a huge distance.
    let distance = (top - logit).abs().to_bits() >> 16;
    (distance.saturating_sub(FIRST_BUCKET) as usize).min(BUCKETS - 1)
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
    let mut probabilities = vec![0.0; logits.len()];
    for candidate in kept.candidates {
        probabilities[candidate.id as usize] = (candidate.weight / kept.total) as f32;
    }
    probabilities
}

#[cfg(test)]
pub(super) mod tests;
