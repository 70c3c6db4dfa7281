//! Logits to a drawn token by weights that are nearly right: the vectorised exponential, sums in any order.
//!
//! The draw compares sums of weights. Two sums that differ by more than their errors compare as the exact sums would, so
//! the token is the one that the rule gives, in a fraction of the time. Where the errors could decide, which happens in
//! one draw of thousands of millions, the result is `None` and the rule itself draws.

use glm_batch_kernels::{
    WEIGHT_ERROR, WEIGHTS_AT_ONCE, relative_doubt, softmax_weights, sum_of_weights,
};

use super::{Candidate, Warp, likeliest_first};

/// The estimate tells smaller weights from nothing, but not from each other.
const LEAST_WEIGHT: f64 = 1e-300;

/// How far a logit may be below the likeliest one's to share its bucket, as the upper half of an f32's bits.
const FIRST_BUCKET: u32 = (127 - 14) << 7;

/// Buckets of top-p: 128 for each doubling of the distance to the likeliest logit, from 2^-14 to 2^18.
const BUCKETS: usize = 32 << 7;

/// Buffers of one draw, reused by the next.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    weights: Vec<f64>,
    shares: Vec<f64>,
    sorted: Vec<Candidate>,
}

/// The token at `uniform`, of the logits from `least` up; `None` where the rule itself must be asked.
pub(super) fn draw(
    warp: &Warp,
    logits: &[f32],
    least: f32,
    top: f32,
    uniform: f64,
    buffers: &mut Buffers,
) -> Option<u32> {
    let weights = &mut buffers.weights;
    weights.resize(logits.len(), 0.0);
    // An infinite scale would make NaN of the likeliest token's 0.
    let scale = warp.temperature.recip().min(f64::MAX);
    softmax_weights(logits, least, top, scale, weights);
    let doubt = relative_doubt(logits.len());
    if warp.top_p < 1.0 {
        let total = weights
            .chunks(WEIGHTS_AT_ONCE)
            .map(sum_of_weights)
            .sum::<f64>();
        let (limit, doubt) = (warp.top_p * total, doubt * total);
        let last = last_of_top_p(limit, doubt, top, logits, buffers)?;
        drop_after(last, logits, &mut buffers.weights);
    }
    if warp.min_p > 0.0 {
        drop_unlikely(warp, logits, top, &mut buffers.weights)?;
    }
    at(uniform, doubt, &buffers.weights)
}

/// The token at which the weights, likeliest first, reach `limit`: they are dealt to buckets by their logit,
/// and only the bucket in which the limit is reached is sorted.
fn last_of_top_p(
    limit: f64,
    doubt: f64,
    top: f32,
    logits: &[f32],
    buffers: &mut Buffers,
) -> Option<Candidate> {
    let Buffers {
        weights,
        shares,
        sorted,
    } = buffers;
    shares.clear();
    shares.resize(BUCKETS, 0.0);
    for (&logit, weight) in logits.iter().zip(&*weights) {
        shares[bucket(top, logit)] += weight;
    }
    let mut sum = 0.0;
    let found = shares.iter().position(|share| {
        let reaches = sum + share >= limit - doubt;
        sum += if reaches { 0.0 } else { *share };
        reaches
    })?;
    sorted.clear();
    let all = (0..).zip(logits.iter().zip(&*weights));
    let in_bucket = all.filter(|(_, (logit, _))| bucket(top, **logit) == found);
    sorted.extend(in_bucket.map(|(id, (&logit, &weight))| Candidate { id, logit, weight }));
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

/// Which bucket a logit belongs to: a likelier one is never in a later bucket.
fn bucket(top: f32, logit: f32) -> usize {
    // -0.0 is level with 0.0, but the difference of the two may have a sign bit, which would be a huge distance.
    let distance = (top - logit).abs().to_bits() >> 16;
    (distance.saturating_sub(FIRST_BUCKET) as usize).min(BUCKETS - 1)
}

/// Takes the weight of every token that is less likely than `last`, or level with it and of a higher id.
fn drop_after(last: Candidate, logits: &[f32], weights: &mut [f64]) {
    let level_ids = last.id as usize + 1;
    let (upto, after) = weights.split_at_mut(level_ids);
    for (weight, &logit) in upto.iter_mut().zip(logits) {
        *weight = if logit >= last.logit { *weight } else { 0.0 };
    }
    for (weight, &logit) in after.iter_mut().zip(&logits[level_ids..]) {
        *weight = if logit > last.logit { *weight } else { 0.0 };
    }
}

/// Takes the weight of every token that min-p drops; `None` where the estimate is too small to tell.
fn drop_unlikely(warp: &Warp, logits: &[f32], top: f32, weights: &mut [f64]) -> Option<()> {
    let (low, high) = (
        warp.min_p * (1.0 - WEIGHT_ERROR),
        warp.min_p * (1.0 + WEIGHT_ERROR),
    );
    if low <= LEAST_WEIGHT {
        return None;
    }
    let is_doubtful = |weight: f64| low <= weight && weight <= high;
    let mut doubtful = 0;
    for weight in &mut *weights {
        doubtful += u32::from(is_doubtful(*weight));
        *weight = if *weight >= low { *weight } else { 0.0 };
    }
    if doubtful > 0 {
        for (weight, &logit) in weights.iter_mut().zip(logits) {
            if is_doubtful(*weight) && warp.weight(logit, top) < warp.min_p {
                *weight = 0.0;
            }
        }
    }
    Some(())
}

/// The token at `uniform` of the cumulative distribution, in id order.
fn at(uniform: f64, doubt: f64, weights: &[f64]) -> Option<u32> {
    let total = weights
        .chunks(WEIGHTS_AT_ONCE)
        .map(sum_of_weights)
        .sum::<f64>();
    let (target, doubt) = (uniform * total, doubt * total);
    let mut before = 0.0;
    let mut first = 0;
    for block in weights.chunks(WEIGHTS_AT_ONCE) {
        let after = before + sum_of_weights(block);
        if after > target - doubt {
            break;
        }
        before = after;
        first += block.len();
    }
    for (id, weight) in (first as u32..).zip(&weights[first..]) {
        before += weight;
        if before > target - doubt {
            return (before > target + doubt).then_some(id);
        }
    }
    None
}
