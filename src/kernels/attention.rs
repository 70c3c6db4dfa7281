//! Attention of one query, or of a block of them, over one head's cached keys and values.
//!
//! Keys may lie in several pieces, one behind the other: a context that several answers share, then an answer's own.
//!
//! Invariant: a query has the same bits alone and in a block, and over one piece and over several. A block reads each
//! key and value once for all its queries.
//!
//! # Source
//!
//! `SelfAttention.forward` of `modeling_glm.py`: softmax of the scores over the square root of the head's width. The
//! reference multiplies scores by a 0/1 mask and adds -65504 to the masked ones, which leaves them nothing; here the
//! caller gives only the keys that a query sees. `attention_scale` divides and multiplies by the same number, moves
//! nothing but roundings, and is left out.

use super::math::exp;
use super::simd::{LANES, dot, lane_sum, multiversion, sum_by};

/// A piece of what one head has cached.
///
/// # Shapes
///
/// Both slices are (length, head size), row-major; the length is what the query may see of the piece.
#[derive(Clone, Copy, Debug)]
pub struct HeadCache<'a> {
    /// Keys.
    pub keys: &'a [f32],
    /// Values.
    pub values: &'a [f32],
}

/// Queries of a block.
pub const QUERIES: usize = 4;

/// The queries of a block, one a token, and where their results go.
///
/// # Shapes
///
/// Query q is `queries[q * query_stride..][..size]`, its result `out[q * out_stride..][..size]`.
#[derive(Debug)]
pub struct QueryBlock<'a> {
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

/// Keys whose values are added to the output at once; the order of the sum is that of the keys.
const KEYS_AT_ONCE: usize = 4;

#[inline(always)]
#[expect(clippy::inline_always, reason = "body of a multiversion function")]
fn attend_body(query: &[f32], seen: &[HeadCache<'_>], scores: &mut Vec<f32>, out: &mut [f32]) {
    let size = query.len();
    let scale = 1.0 / (size as f32).sqrt();
    scores.resize(count_of(seen, size), 0.0);
    let mut first = 0;
    for cache in seen {
        // No iterator fills them: its function would be compiled without the wide instructions.
        for (score, key) in scores[first..]
            .iter_mut()
            .zip(cache.keys.chunks_exact(size))
        {
            *score = dot(query, key) * scale;
        }
        first += cache.keys.len() / size;
    }
    let total = exponentials(scores);

    out.fill(0.0);
    let mut first = 0;
    for cache in seen {
        let count = cache.values.len() / size;
        add_weighted(&scores[first..first + count], cache.values, out);
        first += count;
    }
    let inverse = 1.0 / total;
    for out in out {
        *out *= inverse;
    }
}

/// Keys of all pieces.
#[inline(always)]
#[expect(clippy::inline_always, reason = "part of multiversion bodies")]
fn count_of(seen: &[HeadCache<'_>], size: usize) -> usize {
    let mut count = 0;
    for cache in seen {
        count += cache.keys.len() / size;
    }
    count
}

/// Adds the values of a piece to `out`, each with its weight, one after the other.
#[inline(always)]
#[expect(clippy::inline_always, reason = "part of multiversion bodies")]
fn add_weighted(weights: &[f32], values: &[f32], out: &mut [f32]) {
    let size = out.len();
    let mut weights = weights.chunks_exact(KEYS_AT_ONCE);
    let mut values = values.chunks_exact(KEYS_AT_ONCE * size);
    for (p, v) in (&mut weights).zip(&mut values) {
        let (v0, rest) = v.split_at(size);
        let (v1, rest) = rest.split_at(size);
        let (v2, v3) = rest.split_at(size);
        for (i, out) in out.iter_mut().enumerate() {
            *out = *out + p[0] * v0[i] + p[1] * v1[i] + p[2] * v2[i] + p[3] * v3[i];
        }
    }
    let tail = weights
        .remainder()
        .iter()
        .zip(values.remainder().chunks_exact(size));
    for (&p, value) in tail {
        for (out, &v) in out.iter_mut().zip(value) {
            *out += p * v;
        }
    }
}

/// Scores to what softmax divides by the returned sum.
#[inline(always)]
#[expect(clippy::inline_always, reason = "part of multiversion bodies")]
fn exponentials(scores: &mut [f32]) -> f32 {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for score in scores.iter_mut() {
        *score = exp(*score - highest);
    }
    sum_by(scores, |v| v)
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "body of a multiversion function")]
fn attend_block_body(block: &mut QueryBlock<'_>, seen: &[HeadCache<'_>], scores: &mut Vec<f32>) {
    let size = block.size;
    let scale = 1.0 / (size as f32).sqrt();
    let count = count_of(seen, size);
    scores.resize(QUERIES * count, 0.0);
    let (first, second) = scores.split_at_mut(2 * count);
    let (s0, s1) = first.split_at_mut(count);
    let (s2, s3) = second.split_at_mut(count);
    let mut first = 0;
    for cache in seen {
        for (number, key) in cache.keys.chunks_exact(size).enumerate() {
            let at = first + number;
            let [p0, p1, p2, p3] = dots(block, key);
            s0[at] = p0 * scale;
            s1[at] = p1 * scale;
            s2[at] = p2 * scale;
            s3[at] = p3 * scale;
        }
        first += cache.keys.len() / size;
    }
    let totals = [
        exponentials(s0),
        exponentials(s1),
        exponentials(s2),
        exponentials(s3),
    ];
    // A few columns at a time, so that the sums of all queries stay in registers.
    for start in (0..size).step_by(LANES) {
        let width = LANES.min(size - start);
        let mut sums = [[0.0; LANES]; QUERIES];
        let mut first = 0;
        for cache in seen {
            let piece = Piece {
                weights: scores,
                first,
                values: cache.values,
                size,
            };
            sums = if width == LANES {
                weighted(sums, piece, start)
            } else {
                weighted_part(sums, piece, start)
            };
            first += cache.values.len() / size;
        }
        for (query, (sums, total)) in sums.iter().zip(totals).enumerate() {
            let out = &mut block.out[query * block.out_stride + start..][..width];
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum * (1.0 / total);
            }
        }
    }
}

/// The products of a block's queries with one key, each as [`dot`] gives it.
///
/// The sums are four variables, because an array of them would not stay in registers.
#[inline(always)]
#[expect(clippy::inline_always, reason = "part of multiversion bodies")]
fn dots(block: &QueryBlock<'_>, key: &[f32]) -> [f32; QUERIES] {
    let query = |number: usize| &block.queries[number * block.query_stride..][..block.size];
    let queries = [query(0), query(1), query(2), query(3)];
    let [mut l0, mut l1, mut l2, mut l3] = [[0.0_f32; LANES]; QUERIES];
    let chunks = |number: usize| queries[number].chunks_exact(LANES);
    let pairs = chunks(0).zip(chunks(1)).zip(chunks(2).zip(chunks(3)));
    for (key, ((q0, q1), (q2, q3))) in key.chunks_exact(LANES).zip(pairs) {
        for lane in 0..LANES {
            l0[lane] += q0[lane] * key[lane];
        }
        for lane in 0..LANES {
            l1[lane] += q1[lane] * key[lane];
        }
        for lane in 0..LANES {
            l2[lane] += q2[lane] * key[lane];
        }
        for lane in 0..LANES {
            l3[lane] += q3[lane] * key[lane];
        }
    }
    let whole = block.size / LANES * LANES;
    for (lanes, query) in [&mut l0, &mut l1, &mut l2, &mut l3]
        .into_iter()
        .zip(queries)
    {
        for ((lane, q), k) in lanes.iter_mut().zip(&query[whole..]).zip(&key[whole..]) {
            *lane += q * k;
        }
    }
    [lane_sum(&l0), lane_sum(&l1), lane_sum(&l2), lane_sum(&l3)]
}

/// The values of a piece, and where their weights are.
#[derive(Clone, Copy)]
struct Piece<'a> {
    /// Of all pieces, query by query.
    weights: &'a [f32],
    /// Number of the piece's first weight in each query's.
    first: usize,
    values: &'a [f32],
    size: usize,
}

impl<'a> Piece<'a> {
    /// The weights of one query from the piece's first on.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "part of multiversion bodies")]
    fn weights_of(self, query: usize) -> &'a [f32] {
        let count = self.weights.len() / QUERIES;
        &self.weights[query * count + self.first..(query + 1) * count]
    }
}

/// The sums of [`LANES`] columns from `start` on, with the values of a piece added, weighted for each query.
#[inline(always)]
#[expect(clippy::inline_always, reason = "part of multiversion bodies")]
fn weighted(
    sums: [[f32; LANES]; QUERIES],
    piece: Piece<'_>,
    start: usize,
) -> [[f32; LANES]; QUERIES] {
    let [mut l0, mut l1, mut l2, mut l3] = sums;
    let weights = |query: usize| piece.weights_of(query).iter();
    let pairs = weights(0).zip(weights(1)).zip(weights(2).zip(weights(3)));
    for (value, ((p0, p1), (p2, p3))) in piece.values.chunks_exact(piece.size).zip(pairs) {
        let value = &value[start..start + LANES];
        for lane in 0..LANES {
            l0[lane] += p0 * value[lane];
        }
        for lane in 0..LANES {
            l1[lane] += p1 * value[lane];
        }
        for lane in 0..LANES {
            l2[lane] += p2 * value[lane];
        }
        for lane in 0..LANES {
            l3[lane] += p3 * value[lane];
        }
    }
    [l0, l1, l2, l3]
}

/// As [`weighted`] for the last columns of a head whose size is not a multiple of [`LANES`].
#[inline(always)]
#[expect(clippy::inline_always, reason = "part of multiversion bodies")]
fn weighted_part(
    mut sums: [[f32; LANES]; QUERIES],
    piece: Piece<'_>,
    start: usize,
) -> [[f32; LANES]; QUERIES] {
    for (query, sums) in sums.iter_mut().enumerate() {
        let values = piece.values.chunks_exact(piece.size);
        for (weight, value) in piece.weights_of(query).iter().zip(values) {
            for (sum, value) in sums.iter_mut().zip(&value[start..]) {
                *sum += weight * value;
            }
        }
    }
    sums
}

multiversion! {
    /// Softmax of the scaled scores of `query` against the keys of all pieces, times the values, into `out`.
    ///
    /// `scores` is scratch space. The sums run over the keys in their order, so the bits depend on the number of keys
    /// and their content alone, not on how they lie in pieces.
    pub fn attend(query: &[f32], seen: &[HeadCache<'_>], scores: &mut Vec<f32>, out: &mut [f32]) =
        attend_body
}

multiversion! {
    /// [`attend`] for each query of a block, with the same bits.
    pub fn attend_block(block: &mut QueryBlock<'_>, seen: &[HeadCache<'_>], scores: &mut Vec<f32>) =
        attend_block_body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::noise;

    #[test]
    fn a_query_has_the_same_bits_alone_and_in_a_block() {
        for (length, size) in [(1, 16), (5, 64), (7, 24), (33, 64), (130, 5), (200, 128)] {
            let (query_stride, out_stride) = (3 * size + 7, 2 * size + 3);
            let queries = noise(QUERIES * query_stride, 1);
            let (keys, values) = (noise(length * size, 2), noise(length * size, 3));
            let cache = HeadCache {
                keys: &keys,
                values: &values,
            };
            let mut out = vec![9.0; QUERIES * out_stride];
            let mut block = QueryBlock {
                queries: &queries,
                query_stride,
                out: &mut out,
                out_stride,
                size,
            };
            attend_block(&mut block, &[cache], &mut vec![5.0; 3]);
            for query in 0..QUERIES {
                let mut alone = vec![0.0; size];
                let one = &queries[query * query_stride..][..size];
                attend(one, &[cache], &mut Vec::new(), &mut alone);
                let together = &out[query * out_stride..][..size];
                let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(together), bits(&alone), "{length} {size} {query}");
                assert_eq!(out[query * out_stride + size], 9.0, "nothing beside it");
            }
        }
    }

    #[test]
    fn pieces_have_the_bits_of_the_whole() {
        for (length, size) in [(1, 16), (9, 64), (37, 24), (130, 5)] {
            let queries = noise(QUERIES * size, 1);
            let (keys, values) = (noise(length * size, 2), noise(length * size, 3));
            let piece = |from: usize, to: usize| HeadCache {
                keys: &keys[from * size..to * size],
                values: &values[from * size..to * size],
            };
            let outputs = |seen: &[HeadCache<'_>]| {
                let mut alone = vec![0.0; size];
                attend(&queries[..size], seen, &mut Vec::new(), &mut alone);
                let mut out = vec![9.0; QUERIES * size];
                let mut block = QueryBlock {
                    queries: &queries,
                    query_stride: size,
                    out: &mut out,
                    out_stride: size,
                    size,
                };
                attend_block(&mut block, seen, &mut Vec::new());
                let all = alone.iter().chain(&out);
                all.map(|value| value.to_bits()).collect::<Vec<_>>()
            };
            let whole = outputs(&[piece(0, length)]);
            for cut in 0..=length {
                let pieces = [piece(0, cut), piece(cut, length)];
                assert_eq!(outputs(&pieces), whole, "{length} {size} {cut}");
            }
        }
    }

    #[test]
    fn agrees_with_the_formula_in_f64() {
        for (length, size) in [(1, 16), (2, 16), (7, 24), (33, 64), (130, 5)] {
            let query = noise(size, 1);
            let keys = noise(length * size, 2);
            let values = noise(length * size, 3);
            let mut out = vec![9.0; size];
            let cache = HeadCache {
                keys: &keys,
                values: &values,
            };
            attend(&query, &[cache], &mut Vec::new(), &mut out);

            let scores: Vec<f64> = keys
                .chunks_exact(size)
                .map(|key| {
                    let product: f64 = key
                        .iter()
                        .zip(&query)
                        .map(|(&k, &q)| f64::from(k) * f64::from(q))
                        .sum();
                    (product / (size as f64).sqrt()).exp()
                })
                .collect();
            let total: f64 = scores.iter().sum();
            for (i, &got) in out.iter().enumerate() {
                let want: f64 = scores
                    .iter()
                    .enumerate()
                    .map(|(j, p)| p / total * f64::from(values[j * size + i]))
                    .sum();
                assert!((f64::from(got) - want).abs() < 1e-6, "{length} {size} {i}");
            }
        }
    }
}
