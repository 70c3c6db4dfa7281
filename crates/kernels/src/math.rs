//! exp, erf and GELU in f32 and exp in f64, written so that the compiler vectorises them.
//!
//! Errors stay below 2.5e-7 relative (exp), 5e-7 absolute (erf) and 1e-14 relative (exp in f64); the tests
//! compare them with the standard library's f64.

use super::simd::multiversion;

/// Adding it rounds to the nearest integer and leaves that integer in the low mantissa bits.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts, the first exact in few bits, so that `x - n ln 2` loses nothing.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// The same three in f64.
const ROUND_F64: f64 = 6_755_399_441_055_744.0;
const LN2_HIGH_F64: f64 = 6.931_471_803_691_238e-1;
const LN2_LOW_F64: f64 = 1.908_214_929_270_587_7e-10;
/// 1/k! from k = 12 down to 0: the Taylor series, cut where it adds less than an f64 can tell.
const INVERSE_FACTORIALS: [f64; 13] = [
    1.0 / 479_001_600.0,
    1.0 / 39_916_800.0,
    1.0 / 3_628_800.0,
    1.0 / 362_880.0,
    1.0 / 40_320.0,
    1.0 / 5040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    0.5,
    1.0,
    1.0,
];
/// The smallest argument of the f64 exponential: e to it is a normal number.
const LEAST_EXPONENT: f64 = -700.0;
/// Beyond it erf rounds to 1.
const ERF_LIMIT: f32 = 3.93;
/// erf(x)/x = P(x^2)/Q(x^2), a least-squares fit over [0, 3.93] (relative error 6e-8).
const ERF_P: [f32; 7] = [
    std::f32::consts::FRAC_2_SQRT_PI,
    0.200_794_53,
    0.050_687_63,
    3.736_275_6e-3,
    1.424_808e-4,
    -1.955_314e-6,
    1.981_535_5e-8,
];
const ERF_Q: [f32; 5] = [1.0, 0.511_281_13, 0.115_356_93, 0.014_425_896, 9.637_806e-4];

/// e^x; arguments are clamped to what f32 can hold.
#[inline(always)]
#[expect(clippy::inline_always, reason = "part of multiversion bodies")]
pub(super) fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let power = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = 1.0 / 5040.0;
    for c in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        p = p * r + c;
    }
    p * f32::from_bits(((power + 127) << 23) as u32)
}

/// e^x for x up to 0; smaller arguments than [`LEAST_EXPONENT`], and NaN, count as that.
#[inline(always)]
#[expect(clippy::inline_always, reason = "part of multiversion bodies")]
fn exp_f64(x: f64) -> f64 {
    let x = if x > LEAST_EXPONENT {
        x
    } else {
        LEAST_EXPONENT
    };
    let shifted = x * std::f64::consts::LOG2_E + ROUND_F64;
    let n = shifted - ROUND_F64;
    let power = shifted.to_bits().wrapping_sub(ROUND_F64.to_bits());
    let r = (x - n * LN2_HIGH_F64) - n * LN2_LOW_F64;
    let mut p = 0.0;
    for c in INVERSE_FACTORIALS {
        p = p * r + c;
    }
    p * f64::from_bits(power.wrapping_add(1023) << 52)
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "body of a multiversion function")]
fn softmax_weights_body(logits: &[f32], least: f32, top: f32, scale: f64, weights: &mut [f64]) {
    let top = f64::from(top);
    // Negative infinity is barred, whatever the least one is.
    let least = if least > f32::MIN { least } else { f32::MIN };
    for (weight, &logit) in weights.iter_mut().zip(logits) {
        let value = exp_f64((f64::from(logit) - top) * scale);
        *weight = if logit >= least { value } else { 0.0 };
    }
}

multiversion! {
    /// The softmax without its denominator: e^(scale (logit - top)), and 0 below `least` and where a logit is
    /// negative infinity.
    ///
    /// `top` is the largest logit. A weight under e^-700 counts as that.
    pub fn softmax_weights(
        logits: &[f32],
        least: f32,
        top: f32,
        scale: f64,
        weights: &mut [f64],
    ) = softmax_weights_body
}

/// The error function.
#[inline(always)]
#[expect(clippy::inline_always, reason = "part of multiversion bodies")]
pub(super) fn erf(x: f32) -> f32 {
    let x = x.clamp(-ERF_LIMIT, ERF_LIMIT);
    let t = x * x;
    let mut p = ERF_P[6];
    for c in [ERF_P[5], ERF_P[4], ERF_P[3], ERF_P[2], ERF_P[1], ERF_P[0]] {
        p = p * t + c;
    }
    let mut q = ERF_Q[4];
    for c in [ERF_Q[3], ERF_Q[2], ERF_Q[1], ERF_Q[0]] {
        q = q * t + c;
    }
    x * p / q
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "body of a multiversion function")]
pub(super) fn gelu_body(values: &mut [f32]) {
    for value in values {
        let x = *value;
        *value = 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
    }
}

multiversion! {
    /// Replaces each value by its exact (erf) GELU.
    ///
    /// # Source
    ///
    /// `gelu` of `transformers.activations`, which `MLP` of `modeling_glm.py` calls.
    pub fn gelu(values: &mut [f32]) = gelu_body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> impl Iterator<Item = f32> {
        (-40_000..40_000).map(|i| i as f32 * 2.5e-4)
    }

    #[test]
    fn exp_agrees_with_f64() {
        for x in grid() {
            let want = f64::from(x).exp();
            assert!((f64::from(exp(x)) / want - 1.0).abs() < 2.5e-7, "{x}");
        }
        assert!(exp(-1e9) < 1e-37 && exp(0.0) == 1.0);
    }

    #[test]
    fn softmax_weights_agree_with_the_standard_library() {
        let logits: Vec<f32> = grid().map(|x| x * 60.0).collect();
        let mut weights = vec![0.0; logits.len()];
        let scale = 0.5;
        softmax_weights(&logits, f32::NEG_INFINITY, 600.0, scale, &mut weights);
        for (logit, weight) in logits.iter().zip(weights) {
            let want = ((f64::from(*logit) - 600.0) * scale).exp();
            assert!((weight / want - 1.0).abs() < 1e-14, "{logit}");
        }
    }

    #[test]
    fn softmax_weights_are_0_for_what_is_barred() {
        let logits = [2.0, f32::NEG_INFINITY, 1.0, -1e9, 2.0];
        let mut weights = [0.5; 5];
        softmax_weights(&logits, f32::NEG_INFINITY, 2.0, 1.0, &mut weights);
        assert_eq!((weights[0], weights[1], weights[4]), (1.0, 0.0, 1.0));
        assert!(weights[3] > 0.0 && weights[3] < 1e-303);
        softmax_weights(&logits, 2.0, 2.0, 1.0, &mut weights);
        assert_eq!(weights, [1.0, 0.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn erf_agrees_with_f64() {
        for x in grid() {
            let want = libm::erf(f64::from(x));
            assert!((f64::from(erf(x)) - want).abs() < 5e-7, "{x}");
        }
    }

    #[test]
    fn gelu_agrees_with_f64() {
        let mut values: Vec<f32> = grid().collect();
        gelu(&mut values);
        for (x, got) in grid().zip(values) {
            let x = f64::from(x);
            let want = 0.5 * x * (1.0 + libm::erf(x / std::f64::consts::SQRT_2));
            assert!(
                (f64::from(got) - want).abs() < 5e-7 * x.abs().max(1.0),
                "{x}"
            );
        }
    }
}
