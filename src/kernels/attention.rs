//! Attention of one query over one head's cached keys and values.

use super::math::exp;
use super::simd::{dot, multiversion, sum_by};

/// What one head of one slot has cached.
///
/// # Shapes
///
/// Both slices are (length, head size), row-major; the length is what the query may see.
#[derive(Clone, Copy, Debug)]
pub struct HeadCache<'a> {
    /// Keys.
    pub keys: &'a [f32],
    /// Values.
    pub values: &'a [f32],
}

/// Keys whose values are added to the output at once; the order of the sum is that of the keys.
const KEYS_AT_ONCE: usize = 4;

#[inline(always)]
#[expect(clippy::inline_always, reason = "body of a multiversion function")]
fn attend_body(query: &[f32], cache: HeadCache<'_>, scores: &mut Vec<f32>, out: &mut [f32]) {
    let size = query.len();
    let scale = 1.0 / (size as f32).sqrt();
    scores.resize(cache.keys.len() / size, 0.0);
    // No iterator fills them: its function would be compiled without the wide instructions.
    for (score, key) in scores.iter_mut().zip(cache.keys.chunks_exact(size)) {
        *score = dot(query, key) * scale;
    }
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for score in scores.iter_mut() {
        *score = exp(*score - highest);
    }
    let total = sum_by(scores, |v| v);

    out.fill(0.0);
    let mut weights = scores.chunks_exact(KEYS_AT_ONCE);
    let mut values = cache.values.chunks_exact(KEYS_AT_ONCE * size);
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
    let inverse = 1.0 / total;
    for out in out {
        *out *= inverse;
    }
}

multiversion! {
    /// Softmax of the scaled scores of `query` against the keys, times the values, into `out`.
    ///
    /// `scores` is scratch space. The sums run over the keys in their order, so the bits depend on
    /// the number of keys and their content alone.
    pub fn attend(query: &[f32], cache: HeadCache<'_>, scores: &mut Vec<f32>, out: &mut [f32]) =
        attend_body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::noise;

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
            attend(&query, cache, &mut Vec::new(), &mut out);

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
