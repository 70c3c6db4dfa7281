//! Processed logits to a drawn token: temperature, top-k, top-p, min-p, in this order, then the draw.
//!
//! [`Warp::keep`] and [`Kept::at`] are the rule as it reads. [`Warp::draw`] gives the same token in less time:
//! [`estimate`] knows each weight nearly, and asks the rule only where that may not decide. Of few tokens the rule
//! itself takes less.
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

mod estimate;

use std::cmp::Ordering;

use crate::job::GenerationSpec;

/// Tokens that top-p sorts first.
const FIRST_SORTED: usize = 256;

/// So few tokens are weighed exactly in less time than all of them nearly.
const FEW: usize = 1024;

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
    estimate: estimate::Buffers,
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

    /// The token at `uniform` of the cumulative distribution of what may be drawn, in id order.
    ///
    /// `logits` must not hold NaN or positive infinity; `top` is the largest. `None`: every logit is negative
    /// infinity.
    pub fn draw(
        &self,
        logits: &[f32],
        top: f32,
        uniform: f64,
        buffers: &mut Buffers,
    ) -> Option<u32> {
        if (1..=FEW).contains(&self.top_k) {
            return self.keep(logits, top, buffers).at(uniform);
        }
        let least = self.least(logits, &mut buffers.values);
        estimate::draw(self, logits, least, top, uniform, &mut buffers.estimate)
            .or_else(|| self.keep(logits, top, buffers).at(uniform))
    }

    /// The tokens that may be drawn.
    ///
    /// Takes what [`Self::draw`] takes; the result is empty only where that gives `None`.
    pub fn keep<'a>(&self, logits: &[f32], top: f32, buffers: &'a mut Buffers) -> Kept<'a> {
        let least = self.least(logits, &mut buffers.values);
        let mut total = self.weigh(logits, least, top, &mut buffers.kept);
        if self.top_p < 1.0
            && let Some(last) = last_of_top_p(self.top_p * total, buffers)
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

    /// The lowest logit that top-k lets pass.
    fn least(&self, logits: &[f32], values: &mut Vec<f32>) -> f32 {
        match self.top_k {
            0 => f32::NEG_INFINITY,
            k => kth_largest(logits.iter().copied(), k, values),
        }
    }

    /// The softmax without its denominator, of one logit.
    fn weight(&self, logit: f32, top: f32) -> f64 {
        ((f64::from(logit) - f64::from(top)) / self.temperature).exp()
    }

    /// All tokens that are not barred and have at least this logit, each with its softmax without the
    /// denominator. Returns that: the sum, in id order.
    fn weigh(&self, logits: &[f32], least: f32, top: f32, kept: &mut Vec<Candidate>) -> f64 {
        let mut total = 0.0;
        kept.clear();
        for (id, &logit) in logits.iter().enumerate() {
            if logit >= least && logit != f32::NEG_INFINITY {
                let weight = self.weight(logit, top);
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

impl Kept<'_> {
    /// The token at `uniform` of the cumulative distribution, in id order.
    pub fn at(&self, uniform: f64) -> Option<u32> {
        let target = uniform * self.total;
        let mut sum = 0.0;
        for candidate in self.candidates {
            sum += candidate.weight;
            if target < sum {
                return Some(candidate.id);
            }
        }
        // `uniform` is below 1, so only rounding can lead here.
        let mut weighing = self.candidates.iter().rev();
        let last = weighing.find(|candidate| candidate.weight > 0.0);
        last.map(|candidate| candidate.id)
    }
}

/// Keeps the candidates of which `stays` is true. Returns the sum of their weights, in id order.
fn retain(kept: &mut Vec<Candidate>, stays: impl Fn(&Candidate) -> bool) -> f64 {
    kept.retain(stays);
    let mut total = 0.0;
    for candidate in kept {
        total += candidate.weight;
    }
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
/// A token stays while the likelier ones sum to less than `limit`, `top_p` of the total; the likeliest always
/// stays. This is transformers' rule (ascending, cumulative sum at most `1 - top_p` goes) seen from the other
/// end: the cumulative sum of a token is 1 less what is likelier. The sum is rounded after each token.
fn last_of_top_p(limit: f64, buffers: &mut Buffers) -> Option<Candidate> {
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
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let kept = warp.keep(logits, top, &mut buffers);
    let mut probabilities = vec![0.0; logits.len()];
    for candidate in kept.candidates {
        probabilities[candidate.id as usize] = (candidate.weight / kept.total) as f32;
    }
    probabilities
}

#[cfg(test)]
pub(super) mod tests;
