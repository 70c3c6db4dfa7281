//! Attention of one query, or of a block of them, over one head's cached keys and values.
//!
//! Keys may lie in several pieces, one behind the other: a context that several answers share, then an answer's own.
//! A piece has its keys in panels, so that the products of a query with [`PANEL`] keys are [`PANEL`] sums side by side;
//! [`cached`](super::cached) says how they lie.
//!
//! Invariant: a query has the same bits alone and in a block, whatever the instructions: each sum runs in one order, and
//! multiplies and adds with one rounding. A piece begins with a new panel, so that the bits depend on where pieces end; a
//! caller cuts the same keys always at the same places.
//!
//! Numbers may be cached in 16 bits, or as codes of 8. They are rounded once, when they are stored; sums are f32. The sum of
//! a key's codes is multiplied by its scale, and the weight of a value by that of the value.
//!
//! A query alone asks for numbers a head before it needs them: for the next head's keys beside the scores, for its values
//! beside the values.
//!
//! # Source
//!
//! `SelfAttention.forward` of `modeling_glm.py`: softmax of the scores over the square root of the head's width. The
//! reference multiplies scores by a 0/1 mask and adds -65504 to the masked ones, which leaves them nothing; here the
//! caller gives only the keys that a query sees. `attention_scale` divides and multiplies by the same number, moves
//! nothing but roundings, and is left out.

#![expect(
    clippy::inline_always,
    reason = "bodies must be compiled into the version of each instruction set"
)]

use super::cached::{CachedNumber, cached_numbers};
use super::math::exp;
use super::registers::{Any, CACHE_LINE, Registers, prefetch};
#[cfg(target_arch = "x86_64")]
use super::registers::{Avx2, Avx512};
use super::simd::{LANES, lane_sum};

/// Keys of a panel.
pub const PANEL: usize = 16;

/// Queries that are given together where as many see the same keys: enough that each head's keys and values are read
/// once for all of them, and few enough that there is work for each thread.
pub const QUERIES: usize = 16;

/// Groups of [`PANEL`] columns that a query alone sums at once. No more panels of keys are scored at once either.
const AT_ONCE: usize = 4;

// The lanes of a sum over scores are those of a panel.
const _: () = assert!(PANEL == LANES);

/// A piece of what one head has cached.
///
/// # Shapes
///
/// Both are panels of [`PANEL`] tokens, for `tokens` or more: keys (head size, 16), values (16, head size), and behind codes
/// their 16 scales.
#[derive(Clone, Copy, Debug)]
pub struct HeadCache<'a, W> {
    /// Keys.
    pub keys: &'a [W],
    /// Values.
    pub values: &'a [W],
    /// What the query may see of the piece.
    pub tokens: usize,
    /// The keys of the head that is read next, as many; empty where there are none.
    pub next_keys: &'a [W],
    /// The values of that head.
    pub next_values: &'a [W],
}

/// Queries, one a token, and where their results go.
///
/// # Shapes
///
/// Query q is `queries[q * query_stride..][..size]`, its result `out[q * out_stride..][..size]`.
#[derive(Debug)]
pub struct QueryBlock<'a> {
    /// How many.
    pub count: usize,
    /// The queries.
    pub queries: &'a [f32],
    /// From one query to the next.
    pub query_stride: usize,
    /// The results.
    pub out: &'a mut [f32],
    /// From one result to the next.
    pub out_stride: usize,
    /// Size of the head.
    pub size: usize,
}

/// Softmax of the scaled scores of each query against the keys of all pieces, times the values.
///
/// `scores` is scratch space.
pub(super) fn attend<W: CachedNumber>(
    block: &mut QueryBlock<'_>,
    seen: &[HeadCache<'_, W>],
    scores: &mut Vec<f32>,
) {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(proof) = Avx512::of_machine() {
            return avx512(proof, block, seen, scores);
        }
        if let Some(proof) = Avx2::of_machine() {
            return avx2(proof, block, seen, scores);
        }
    }
    attend_body::<W, _, 0, 1>(Any, block, seen, scores);
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "calls the version whose features are there")]
fn avx512<W: CachedNumber>(
    proof: Avx512,
    block: &mut QueryBlock<'_>,
    seen: &[HeadCache<'_, W>],
    scores: &mut Vec<f32>,
) {
    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,fma,f16c")]
    fn version<W: CachedNumber>(
        proof: Avx512,
        block: &mut QueryBlock<'_>,
        seen: &[HeadCache<'_, W>],
        scores: &mut Vec<f32>,
    ) {
        // Its 32 registers hold 16 sums, and what is multiplied.
        attend_body::<W, _, 2, 4>(proof, block, seen, scores);
    }
    // SAFETY: an `Avx512` exists only where the features of `version` were detected.
    unsafe { version(proof, block, seen, scores) }
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "calls the version whose features are there")]
fn avx2<W: CachedNumber>(
    proof: Avx2,
    block: &mut QueryBlock<'_>,
    seen: &[HeadCache<'_, W>],
    scores: &mut Vec<f32>,
) {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn version<W: CachedNumber>(
        proof: Avx2,
        block: &mut QueryBlock<'_>,
        seen: &[HeadCache<'_, W>],
        scores: &mut Vec<f32>,
    ) {
        // Its 16 registers hold 4 sums of two registers, and what is multiplied.
        attend_body::<W, _, 0, 1>(proof, block, seen, scores);
    }
    // SAFETY: an `Avx2` exists only where AVX2, FMA and F16C were detected.
    unsafe { version(proof, block, seen, scores) }
}

/// What the sums of a panel of keys, or of a group of columns, run in.
trait Sums<W>: Registers<W, PANEL, Row = f32> {}
impl<W, R: Registers<W, PANEL, Row = f32>> Sums<W> for R {}

/// `EIGHT` and `FOUR` are how many panels or groups of columns run at once for eight and for four queries; 0 where
/// registers do not hold the sums of eight.
#[inline(always)]
fn attend_body<W: CachedNumber, R: Sums<W>, const EIGHT: usize, const FOUR: usize>(
    registers: R,
    block: &mut QueryBlock<'_>,
    seen: &[HeadCache<'_, W>],
    scores: &mut Vec<f32>,
) {
    let mut done = 0;
    while done < block.count {
        let mut rest = block.from(done);
        done += match rest.count {
            8.. if EIGHT > 0 => {
                attend_queries::<W, R, 8, EIGHT>(registers, &mut rest, seen, scores)
            }
            4.. => attend_queries::<W, R, 4, FOUR>(registers, &mut rest, seen, scores),
            2.. => attend_queries::<W, R, 2, FOUR>(registers, &mut rest, seen, scores),
            _ => attend_queries::<W, R, 1, AT_ONCE>(registers, &mut rest, seen, scores),
        };
    }
}

impl QueryBlock<'_> {
    /// The queries from number `first` on.
    #[inline(always)]
    fn from(&mut self, first: usize) -> QueryBlock<'_> {
        QueryBlock {
            count: self.count - first,
            queries: &self.queries[first * self.query_stride..],
            out: &mut self.out[first * self.out_stride..],
            ..*self
        }
    }
}

/// Does the first `COUNT` queries, and says how many they are; `MOST` panels or groups of columns run at once.
#[inline(always)]
fn attend_queries<W: CachedNumber, R: Sums<W>, const COUNT: usize, const MOST: usize>(
    registers: R,
    block: &mut QueryBlock<'_>,
    seen: &[HeadCache<'_, W>],
    scores: &mut Vec<f32>,
) -> usize {
    let mut panels = 0;
    for piece in seen {
        panels += piece.panels();
    }
    scores.resize(COUNT * panels * PANEL, 0.0);
    let scores = scores.as_chunks_mut::<PANEL>().0.as_chunks_mut::<COUNT>().0;
    score::<W, R, COUNT, MOST>(registers, block, seen, scores);
    let inverses = exponentials(scores, seen, block.size).map(|sum| 1.0 / sum);
    let weights = &*scores;
    let (whole, mut group) = (block.size / PANEL, 0);
    while group < whole {
        if group + MOST <= whole {
            weigh::<W, R, COUNT, MOST>(registers, block, seen, weights, &inverses, group);
            group += MOST;
        } else {
            weigh::<W, R, COUNT, 1>(registers, block, seen, weights, &inverses, group);
            group += 1;
        }
    }
    if whole * PANEL < block.size {
        weigh_rest::<W, R, COUNT>(registers, block, seen, weights, &inverses);
    }
    COUNT
}

impl<'a, W: CachedNumber> HeadCache<'a, W> {
    /// Panels of the keys that are seen.
    #[inline(always)]
    fn panels(&self) -> usize {
        self.tokens.div_ceil(PANEL)
    }

    /// The panels of keys, of heads of this size.
    #[inline(always)]
    fn each_panel(&self, size: usize) -> impl Iterator<Item = Panel<'a, W>> {
        let numbers = cached_numbers::<W>(PANEL, size);
        let (keys, next) = (self.keys, self.next_keys);
        (0..self.panels()).map(move |panel| Panel {
            keys: &keys[panel * numbers..][..numbers],
            next: next.get(panel * numbers..).unwrap_or(&[]),
        })
    }

    /// What the codes of each value of a panel are worth.
    #[inline(always)]
    fn value_scales(&self, panel: usize, size: usize) -> [f32; PANEL] {
        W::scales(&self.values[cached_numbers::<W>(PANEL, size) * panel + PANEL * size..])
    }
}

/// The scores of the block's queries, panel by panel and query by query; behind a piece's last key they mean nothing.
#[inline(always)]
fn score<W: CachedNumber, R: Sums<W>, const COUNT: usize, const MOST: usize>(
    registers: R,
    block: &QueryBlock<'_>,
    seen: &[HeadCache<'_, W>],
    scores: &mut [[[f32; PANEL]; COUNT]],
) {
    let mut panels = seen.iter().flat_map(|piece| piece.each_panel(block.size));
    let most = if COUNT == 1 { W::PANELS } else { MOST };
    let mut first = 0;
    while first < scores.len() {
        let scores = &mut scores[first..];
        first += match most.min(scores.len()) {
            4.. => score_panels::<W, R, COUNT, 4>(registers, block, &mut panels, scores),
            3 => score_panels::<W, R, COUNT, 3>(registers, block, &mut panels, scores),
            2 => score_panels::<W, R, COUNT, 2>(registers, block, &mut panels, scores),
            _ => score_panels::<W, R, COUNT, 1>(registers, block, &mut panels, scores),
        };
    }
}

/// A panel of keys with its scales, and that of the head that is read next.
#[derive(Clone, Copy)]
struct Panel<'a, W> {
    keys: &'a [W],
    /// Empty where there is none.
    next: &'a [W],
}

/// Scores the next panels, whose scores are the first of these, and says how many.
#[inline(always)]
fn score_panels<'a, W: CachedNumber, R: Sums<W>, const COUNT: usize, const PANELS: usize>(
    registers: R,
    block: &QueryBlock<'_>,
    rest: &mut impl Iterator<Item = Panel<'a, W>>,
    scores: &mut [[[f32; PANEL]; COUNT]],
) -> usize {
    let size = block.size;
    let mut queries = [&block.queries[..size]; COUNT];
    for (number, query) in queries.iter_mut().enumerate() {
        *query = &block.queries[number * block.query_stride..][..size];
    }
    let mut panels = [Panel {
        keys: &[],
        next: &[],
    }; PANELS];
    for (panel, next) in panels.iter_mut().zip(rest) {
        *panel = next;
    }
    let mut keys: [&[[W; PANEL]]; PANELS] = [&[]; PANELS];
    for (keys, panel) in keys.iter_mut().zip(&panels) {
        *keys = &panel.keys.as_chunks().0[..size];
    }
    let mut sums = [[registers.zero(); PANELS]; COUNT];
    for at in 0..size {
        if COUNT == 1 && at % per_line::<W>() == 0 {
            for panel in &panels {
                ask_for(panel.next, at * PANEL, per_line::<W>() * PANEL);
            }
        }
        for panel in 0..PANELS {
            let factors = registers.load(&keys[panel][at]);
            for query in 0..COUNT {
                let sum = &mut sums[query][panel];
                *sum = registers.add(*sum, queries[query][at], factors);
            }
        }
    }
    let scale = 1.0 / (size as f32).sqrt();
    for (panel, scores) in scores[..PANELS].iter_mut().enumerate() {
        let of_keys = W::scales(&panels[panel].keys[PANEL * size..]);
        for (query, scores) in scores.iter_mut().enumerate() {
            *scores = registers.store(sums[query][panel]);
            for score in &mut *scores {
                *score *= scale;
            }
            if W::SCALES > 0 {
                *scores = products(*scores, of_keys);
            }
        }
    }
    PANELS
}

/// Makes weights of the scores: e^(score - the highest), times the scale of the value. Returns each query's sum without those
/// scales, by which the caller divides. Scores behind a piece's last key mean nothing.
#[inline(always)]
fn exponentials<W: CachedNumber, const COUNT: usize>(
    scores: &mut [[[f32; PANEL]; COUNT]],
    seen: &[HeadCache<'_, W>],
    size: usize,
) -> [f32; COUNT] {
    let mut first = 0;
    for piece in seen {
        first += piece.panels();
        if !piece.tokens.is_multiple_of(PANEL) {
            for scores in &mut scores[first - 1] {
                scores[piece.tokens % PANEL..].fill(f32::NEG_INFINITY);
            }
        }
    }
    let mut totals = [0.0; COUNT];
    for (query, total) in totals.iter_mut().enumerate() {
        let mut highest = [f32::NEG_INFINITY; PANEL];
        for panel in &*scores {
            for (highest, score) in highest.iter_mut().zip(&panel[query]) {
                *highest = highest.max(*score);
            }
        }
        let mut top = f32::NEG_INFINITY;
        for highest in highest {
            top = top.max(highest);
        }
        let mut sums = [0.0; PANEL];
        let mut rest = scores.iter_mut();
        for piece in seen {
            for (panel, scores) in (0..piece.panels()).zip(&mut rest) {
                let (of_panel, mut weights) = (scores[query], [0.0; PANEL]);
                for lane in 0..PANEL {
                    let exponential = exp(of_panel[lane] - top);
                    weights[lane] = if of_panel[lane] == f32::NEG_INFINITY {
                        0.0
                    } else {
                        exponential
                    };
                    sums[lane] += weights[lane];
                }
                if W::SCALES > 0 {
                    weights = products(weights, piece.value_scales(panel, size));
                }
                scores[query] = weights;
            }
        }
        *total = lane_sum(&sums);
    }
    totals
}

/// Numbers times factors, lane by lane.
#[inline(always)]
fn products(mut numbers: [f32; PANEL], factors: [f32; PANEL]) -> [f32; PANEL] {
    for (number, factor) in numbers.iter_mut().zip(factors) {
        *number *= factor;
    }
    numbers
}

/// Puts some groups of columns of what the block's queries gather, the first of them number `first`, to their place.
///
/// # Shapes
///
/// `weights` is (panels of all pieces, queries, [`PANEL`]).
#[inline(always)]
#[expect(
    clippy::needless_range_loop,
    reason = "sums stay in registers where they are indexed by two numbers"
)]
fn weigh<W: CachedNumber, R: Sums<W>, const COUNT: usize, const GROUPS: usize>(
    registers: R,
    block: &mut QueryBlock<'_>,
    seen: &[HeadCache<'_, W>],
    weights: &[[[f32; PANEL]; COUNT]],
    inverses: &[f32; COUNT],
    first: usize,
) {
    let mut sums = [[registers.zero(); GROUPS]; COUNT];
    let mut rest = weights.iter();
    for piece in seen {
        for (panel, weights) in (0..piece.panels()).zip(&mut rest) {
            let start = cached_numbers::<W>(PANEL, block.size) * panel + first * PANEL;
            let keys = PANEL.min(piece.tokens - panel * PANEL);
            for key in 0..keys {
                let start = start + key * block.size;
                let (value, _) = piece.values[start..][..GROUPS * PANEL].as_chunks::<PANEL>();
                if COUNT == 1 {
                    ask_for(piece.next_values, start, GROUPS * PANEL);
                }
                for group in 0..GROUPS {
                    let factors = registers.load(&value[group]);
                    for query in 0..COUNT {
                        let sum = &mut sums[query][group];
                        *sum = registers.add(*sum, weights[query][key], factors);
                    }
                }
            }
        }
    }
    for query in 0..COUNT {
        let out = &mut block.out[query * block.out_stride + first * PANEL..];
        let (out, _) = out.as_chunks_mut::<PANEL>();
        for group in 0..GROUPS {
            let mut sums = registers.store(sums[query][group]);
            for sum in &mut sums {
                *sum *= inverses[query];
            }
            out[group] = sums;
        }
    }
}

/// As [`weigh`], for the columns behind the last whole group.
#[inline(always)]
fn weigh_rest<W: CachedNumber, R: Sums<W>, const COUNT: usize>(
    registers: R,
    block: &mut QueryBlock<'_>,
    seen: &[HeadCache<'_, W>],
    weights: &[[[f32; PANEL]; COUNT]],
    inverses: &[f32; COUNT],
) {
    let start = block.size / PANEL * PANEL;
    let mut sums = [registers.zero(); COUNT];
    let mut rest = weights.iter();
    for piece in seen {
        for (panel, weights) in (0..piece.panels()).zip(&mut rest) {
            let values = &piece.values[cached_numbers::<W>(PANEL, block.size) * panel..];
            let keys = PANEL.min(piece.tokens - panel * PANEL);
            for (key, columns) in values.chunks_exact(block.size).take(keys).enumerate() {
                // Columns that a value does not have are zeros.
                let mut value = [W::zeroed(); PANEL];
                value[..block.size - start].copy_from_slice(&columns[start..]);
                let factors = registers.load(&value);
                for query in 0..COUNT {
                    sums[query] = registers.add(sums[query], weights[query][key], factors);
                }
            }
        }
    }
    for (query, sums) in sums.into_iter().enumerate() {
        let out = &mut block.out[query * block.out_stride..][start..block.size];
        for (out, sum) in out.iter_mut().zip(registers.store(sums)) {
            *out = sum * inverses[query];
        }
    }
}

/// Steps of a panel of keys that lie in one line of a cache.
#[inline(always)]
const fn per_line<W>() -> usize {
    CACHE_LINE / (PANEL * size_of::<W>())
}

/// Asks for so many numbers, where they are.
#[inline(always)]
fn ask_for<W>(numbers: &[W], first: usize, count: usize) {
    if let Some(numbers) = numbers.get(first..first + count) {
        prefetch(numbers);
    }
}

#[cfg(test)]
mod tests;
