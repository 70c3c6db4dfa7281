//! exp, erf and GELU in f32, written so that the compiler vectorises them.
//!
//! Errors stay below 2.5e-7 relative (exp) and 5e-7 absolute (erf); the tests hold them against f64.

use super::simd::multiversion;

/// Adding it rounds to the nearest integer and leaves that integer in the low mantissa bits.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts, the first exact in few bits, so that `x - n ln 2` loses nothing.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
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
fn gelu_body(values: &mut [f32]) {
    for value in values {
        let x = *value;
        *value = 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
    }
}

multiversion! {
    /// Replaces each value by its exact (erf) GELU.
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
    fn erf_agrees_with_f64() {
        for x in grid() {
            let want = candle_core::cpu::erf::erf_f64(f64::from(x));
            assert!((f64::from(erf(x)) - want).abs() < 5e-7, "{x}");
        }
    }

    #[test]
    fn gelu_agrees_with_f64() {
        let mut values: Vec<f32> = grid().collect();
        gelu(&mut values);
        for (x, got) in grid().zip(values) {
            let x = f64::from(x);
            let want =
                0.5 * x * (1.0 + candle_core::cpu::erf::erf_f64(x / std::f64::consts::SQRT_2));
            assert!(
                (f64::from(got) - want).abs() < 5e-7 * x.abs().max(1.0),
                "{x}"
            );
        }
    }
}
