//! LayerNorm: rows of activations to rows of mean 0 and variance 1, scaled and shifted; and rows to one number each.

use rayon::prelude::*;

use super::simd::{dot, multiversion, sum_by};

/// Rows below this many values are not worth a thread.
const PARALLEL_VALUES: usize = 1 << 15;

/// A LayerNorm of rows as wide as `scale` and `shift`.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// What each value is multiplied with.
    pub scale: &'a [f32],
    /// What is added to each.
    pub shift: &'a [f32],
    /// Added to the variance.
    pub epsilon: f32,
}

impl Norm<'_> {
    /// Normalises rows one after the other.
    pub(super) fn rows(self, x: &[f32], out: &mut [f32]) {
        let width = self.scale.len();
        for (row, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            norm_row(row, self.scale, self.shift, self.epsilon, out);
        }
    }
}

/// Normalises rows from `x` into `out`.
pub fn layer_norm(x: &[f32], norm: Norm<'_>, out: &mut [f32]) {
    let width = norm.scale.len();
    let least = PARALLEL_VALUES.div_ceil(width);
    out.par_chunks_mut(least * width)
        .zip(x.par_chunks(least * width))
        .for_each(|(out, x)| norm.rows(x, out));
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "body of a multiversion function")]
fn norm_row_body(x: &[f32], scale: &[f32], shift: &[f32], epsilon: f32, out: &mut [f32]) {
    let count = x.len() as f32;
    let mean = sum_by(x, |v| v) / count;
    let variance = sum_by(x, |v| (v - mean) * (v - mean)) / count;
    let inverse = 1.0 / (variance + epsilon).sqrt();
    for (((out, &v), &scale), &shift) in out.iter_mut().zip(x).zip(scale).zip(shift) {
        *out = (v - mean) * inverse * scale + shift;
    }
}

multiversion! {
    fn norm_row(x: &[f32], scale: &[f32], shift: &[f32], epsilon: f32, out: &mut [f32]) = norm_row_body
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "body of a multiversion function")]
fn row_products_body(x: &[f32], weight: &[f32], out: &mut [f32]) {
    for (out, row) in out.iter_mut().zip(x.chunks_exact(weight.len())) {
        *out = dot(row, weight);
    }
}

multiversion! {
    /// The scalar product of each row of `weight.len()` values with `weight`.
    pub fn row_products(x: &[f32], weight: &[f32], out: &mut [f32]) = row_products_body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiny_values_are_held_down_by_epsilon() {
        let x: Vec<f32> = (0..50).map(|i| ((i * 7) % 11) as f32 * 1e-3).collect();
        let (scale, shift) = (vec![2.0; 50], vec![0.5; 50]);
        let mut out = vec![0.0; 50];
        let norm = Norm {
            scale: &scale,
            shift: &shift,
            epsilon: 1e-5,
        };
        layer_norm(&x, norm, &mut out);
        let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / 50.0;
        let variance = x
            .iter()
            .map(|&v| (f64::from(v) - mean).powi(2))
            .sum::<f64>()
            / 50.0;
        for (&v, &got) in x.iter().zip(&out) {
            let want = (f64::from(v) - mean) / (variance + 1e-5).sqrt() * 2.0 + 0.5;
            assert!((f64::from(got) - want).abs() < 1e-5);
        }
    }
}
