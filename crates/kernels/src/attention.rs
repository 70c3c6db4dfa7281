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

use super::cached::{Cached, cached_numbers};
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

/// Panels of keys, or groups of [`PANEL`] columns, whose sums run at once where registers hold them.
const AT_ONCE: usize = 4;

// The lanes of a sum over scores are those of a panel.
const _: () = assert!(PANEL == LANES);

/// A piece of what one head has cached.
///
/// # Shapes
///
/// Both are panels as [`cached`](super::cached) has them, for `tokens` or more.
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
pub fn attend<W: Cached>(
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
fn avx512<W: Cached>(
    proof: Avx512,
    block: &mut QueryBlock<'_>,
    seen: &[HeadCache<'_, W>],
    scores: &mut Vec<f32>,
) {
    #[target_feature(enable = "avx512f,fma,f16c")]
    fn version<W: Cached>(
        proof: Avx512,
        block: &mut QueryBlock<'_>,
        seen: &[HeadCache<'_, W>],
        scores: &mut Vec<f32>,
    ) {
        // Its 32 registers hold 16 sums, and what is multiplied.
        attend_body::<W, _, 2, 4>(proof, block, seen, scores);
    }
    // SAFETY: an `Avx512` exists only where AVX-512F, FMA and F16C were detected.
    unsafe { version(proof, block, seen, scores) }
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "calls the version whose features are there")]
fn avx2<W: Cached>(
    proof: Avx2,
    block: &mut QueryBlock<'_>,
    seen: &[HeadCache<'_, W>],
    scores: &mut Vec<f32>,
) {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn version<W: Cached>(
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
fn attend_body<W: Cached, R: Sums<W>, const EIGHT: usize, const FOUR: usize>(
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
fn attend_queries<W: Cached, R: Sums<W>, const COUNT: usize, const MOST: usize>(
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
    let (scores, _) = scores.as_chunks_mut::<PANEL>();
    score::<W, R, COUNT, MOST>(registers, block, seen, scores);
    let mut inverses = [0.0; COUNT];
    for (inverse, scores) in inverses.iter_mut().zip(scores.chunks_exact_mut(panels)) {
        *inverse = 1.0 / exponentials(scores, seen);
        if W::SCALES > 0 {
            scale_weights(scores, seen, block.size);
        }
    }
    let weights = scores.as_flattened();
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

impl<'a, W: Cached> HeadCache<'a, W> {
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

/// The scores of the block's queries, query by query and panel by panel; behind a piece's last key they mean nothing.
#[inline(always)]
fn score<W: Cached, R: Sums<W>, const COUNT: usize, const MOST: usize>(
    registers: R,
    block: &QueryBlock<'_>,
    seen: &[HeadCache<'_, W>],
    scores: &mut [[f32; PANEL]],
) {
    let mut panels = seen.iter().flat_map(|piece| piece.each_panel(block.size));
    let (mut first, count) = (0, scores.len() / COUNT);
    while first < count {
        first += match MOST.min(count - first) {
            4.. => score_panels::<W, R, COUNT, 4>(registers, block, &mut panels, first, scores),
            3 => score_panels::<W, R, COUNT, 3>(registers, block, &mut panels, first, scores),
            2 => score_panels::<W, R, COUNT, 2>(registers, block, &mut panels, first, scores),
            _ => score_panels::<W, R, COUNT, 1>(registers, block, &mut panels, first, scores),
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

/// Scores the next panels, whose scores begin with number `first` of each query, and says how many.
#[inline(always)]
fn score_panels<'a, W: Cached, R: Sums<W>, const COUNT: usize, const PANELS: usize>(
    registers: R,
    block: &QueryBlock<'_>,
    rest: &mut impl Iterator<Item = Panel<'a, W>>,
    first: usize,
    scores: &mut [[f32; PANEL]],
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
    let stride = scores.len() / COUNT;
    for (query, sums) in sums.iter().enumerate() {
        for (panel, sums) in sums.iter().enumerate() {
            let scores = &mut scores[query * stride + first + panel];
            *scores = registers.store(*sums);
            for score in &mut *scores {
                *score *= scale;
            }
            if W::SCALES > 0 {
                let of_keys = W::scales(&panels[panel].keys[PANEL * size..]);
                for (score, of_key) in scores.iter_mut().zip(of_keys) {
                    *score *= of_key;
                }
            }
        }
    }
    PANELS
}

/// One query's scores to what softmax divides by the returned sum; what is behind a piece's last key becomes zero.
#[inline(always)]
fn exponentials<W: Cached>(scores: &mut [[f32; PANEL]], seen: &[HeadCache<'_, W>]) -> f32 {
    let mut first = 0;
    for piece in seen {
        first += piece.panels();
        if !piece.tokens.is_multiple_of(PANEL) {
            scores[first - 1][piece.tokens % PANEL..].fill(f32::NEG_INFINITY);
        }
    }
    let mut highest = [f32::NEG_INFINITY; PANEL];
    for panel in &*scores {
        for (highest, score) in highest.iter_mut().zip(panel) {
            *highest = highest.max(*score);
        }
    }
    let mut top = f32::NEG_INFINITY;
    for highest in highest {
        top = top.max(highest);
    }
    let mut sums = [0.0; PANEL];
    for panel in scores {
        for (sum, score) in sums.iter_mut().zip(panel) {
            let weight = exp(*score - top);
            *score = if *score == f32::NEG_INFINITY {
                0.0
            } else {
                weight
            };
            *sum += *score;
        }
    }
    lane_sum(&sums)
}

/// Multiplies one query's weights by what the codes of their values are worth.
#[inline(always)]
fn scale_weights<W: Cached>(
    weights: &mut [[f32; PANEL]],
    seen: &[HeadCache<'_, W>],
    size: usize,
) {
    let mut first = 0;
    for piece in seen {
        let weights = &mut weights[first..first + piece.panels()];
        first += weights.len();
        for (panel, weights) in weights.iter_mut().enumerate() {
            let scales = piece.value_scales(panel, size);
            for (weight, scale) in weights.iter_mut().zip(scales) {
                *weight *= scale;
            }
        }
    }
}

/// Puts some groups of columns of what the block's queries gather, the first of them number `first`, to their place.
///
/// # Shapes
///
/// `weights` is (queries, panels of all pieces, [`PANEL`]).
#[inline(always)]
#[expect(
    clippy::needless_range_loop,
    reason = "sums stay in registers where they are indexed by two numbers"
)]
fn weigh<W: Cached, R: Sums<W>, const COUNT: usize, const GROUPS: usize>(
    registers: R,
    block: &mut QueryBlock<'_>,
    seen: &[HeadCache<'_, W>],
    weights: &[f32],
    inverses: &[f32; COUNT],
    first: usize,
) {
    let mut sums = [[registers.zero(); GROUPS]; COUNT];
    let mut gathered = Gathered::new(weights);
    for piece in seen {
        let of_query: [&[f32]; COUNT] = gathered.next(piece);
        for key in 0..piece.tokens {
            let start = value_at::<W>(key, block.size) + first * PANEL;
            let (value, _) = piece.values[start..][..GROUPS * PANEL].as_chunks::<PANEL>();
            if COUNT == 1 {
                ask_for(piece.next_values, start, GROUPS * PANEL);
            }
            for group in 0..GROUPS {
                let factors = registers.load(&value[group]);
                for query in 0..COUNT {
                    let sum = &mut sums[query][group];
                    *sum = registers.add(*sum, of_query[query][key], factors);
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
#[expect(
    clippy::needless_range_loop,
    reason = "sums stay in registers where they are indexed by two numbers"
)]
fn weigh_rest<W: Cached, R: Sums<W>, const COUNT: usize>(
    registers: R,
    block: &mut QueryBlock<'_>,
    seen: &[HeadCache<'_, W>],
    weights: &[f32],
    inverses: &[f32; COUNT],
) {
    let start = block.size / PANEL * PANEL;
    let mut sums = [registers.zero(); COUNT];
    let mut gathered = Gathered::new(weights);
    for piece in seen {
        let of_query: [&[f32]; COUNT] = gathered.next(piece);
        for key in 0..piece.tokens {
            // Columns that a value does not have are zeros.
            let mut value = [W::zeroed(); PANEL];
            let columns = &piece.values[value_at::<W>(key, block.size)..][start..block.size];
            value[..columns.len()].copy_from_slice(columns);
            let factors = registers.load(&value);
            for query in 0..COUNT {
                sums[query] = registers.add(sums[query], of_query[query][key], factors);
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

/// The weights of each piece's values, piece by piece.
struct Gathered<'a> {
    weights: &'a [f32],
    first: usize,
}

impl<'a> Gathered<'a> {
    #[inline(always)]
    fn new(weights: &'a [f32]) -> Self {
        Self { weights, first: 0 }
    }

    /// Those of the next piece, query by query.
    #[inline(always)]
    fn next<W: Cached, const COUNT: usize>(&mut self, piece: &HeadCache<'_, W>) -> [&'a [f32]; COUNT] {
        let stride = self.weights.len() / COUNT;
        let mut of_query = [&self.weights[..piece.tokens]; COUNT];
        for (number, of_query) in of_query.iter_mut().enumerate() {
            *of_query = &self.weights[number * stride + self.first..][..piece.tokens];
        }
        self.first += piece.panels() * PANEL;
        of_query
    }
}

/// Where a value lies among those of its head.
#[inline(always)]
const fn value_at<W: Cached>(token: usize, size: usize) -> usize {
    token * size + token / PANEL * W::SCALES
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
