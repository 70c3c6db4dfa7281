//! What the products multiply with: weights as they are stored, and the registers that hold one panel.
//!
//! A value of [`Avx2`] or [`Avx512`] is the proof that the machine has those instructions: only
//! `of_machine` makes one. Whoever holds it may use them.

#![expect(
    clippy::inline_always,
    reason = "bodies must be compiled into the version of each instruction set"
)]

#[cfg(target_arch = "x86_64")]
use std::arch::is_x86_feature_detected;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256, __m512, _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_fmadd_ps, _mm256_set1_ps,
    _mm256_slli_epi32, _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_fmadd_ps, _mm512_set1_ps,
    _mm512_slli_epi32,
};

use bytemuck::Pod;
#[cfg(target_arch = "x86_64")]
use bytemuck::must_cast;
use half::{bf16, f16};

/// A number that weights are stored as; every one of them is an f32 exactly.
pub(super) trait Weight: Pod + Send + Sync {
    /// Whether widening is work.
    const IS_NARROW: bool;

    /// The value.
    fn widen(self) -> f32;

    /// The nearest number to a value.
    fn narrow(value: f32) -> Self;

    /// Eight values in a register.
    #[cfg(target_arch = "x86_64")]
    fn eight(avx2: Avx2, weights: [Self; 8]) -> __m256;

    /// Sixteen values in a register.
    #[cfg(target_arch = "x86_64")]
    fn sixteen(avx512: Avx512, weights: [Self; 16]) -> __m512;
}

impl Weight for f32 {
    const IS_NARROW: bool = false;

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    fn narrow(value: f32) -> Self {
        value
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn eight(_: Avx2, weights: [Self; 8]) -> __m256 {
        must_cast(weights)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn sixteen(_: Avx512, weights: [Self; 16]) -> __m512 {
        must_cast(weights)
    }
}

impl Weight for bf16 {
    const IS_NARROW: bool = true;

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    #[expect(unsafe_code, reason = "names an instruction")]
    fn eight(_: Avx2, weights: [Self; 8]) -> __m256 {
        // SAFETY: an `Avx2` exists only where AVX2 was detected.
        unsafe {
            let bits = _mm256_cvtepu16_epi32(must_cast(weights));
            must_cast(_mm256_slli_epi32::<16>(bits))
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    #[expect(unsafe_code, reason = "names an instruction")]
    fn sixteen(_: Avx512, weights: [Self; 16]) -> __m512 {
        // SAFETY: an `Avx512` exists only where AVX-512F was detected.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(must_cast(weights));
            must_cast(_mm512_slli_epi32::<16>(bits))
        }
    }
}

impl Weight for f16 {
    const IS_NARROW: bool = true;

    /// Exponent and mantissa moved into place and scaled by 2^112, which is exact for every finite
    /// number, subnormal ones too. Written in whole numbers, because only so it is vectorised.
    #[inline(always)]
    fn widen(self) -> f32 {
        let spread = i32::from(self.to_bits() as i16) << 13;
        f32::from_bits(spread as u32 & 0x8fff_ffff) * f32::from_bits(0x7780_0000)
    }

    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    #[expect(unsafe_code, reason = "names an instruction")]
    fn eight(_: Avx2, weights: [Self; 8]) -> __m256 {
        // SAFETY: an `Avx2` exists only where F16C was detected.
        unsafe { _mm256_cvtph_ps(must_cast(weights)) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    #[expect(unsafe_code, reason = "names an instruction")]
    fn sixteen(_: Avx512, weights: [Self; 16]) -> __m512 {
        // SAFETY: an `Avx512` exists only where AVX-512F was detected.
        unsafe { _mm512_cvtph_ps(must_cast(weights)) }
    }
}

/// The registers that hold the values of one panel.
///
/// They are named, not left to the compiler, which at times fills them with rows instead of outputs.
pub(super) trait Registers<const PANEL: usize>: Copy {
    /// A panel's values.
    type Values: Copy;

    /// Zeros.
    fn zero(self) -> Self::Values;

    /// Weights as values.
    fn load<W: Weight>(self, weights: &[W; PANEL]) -> Self::Values;

    /// `sum + x * values`, rounded once.
    fn add(self, sum: Self::Values, x: f32, values: Self::Values) -> Self::Values;

    /// Values in memory.
    fn store(self, values: Self::Values) -> [f32; PANEL];
}

/// Whatever the compiler takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Any;

impl<const PANEL: usize> Registers<PANEL> for Any {
    type Values = [f32; PANEL];

    #[inline(always)]
    fn zero(self) -> Self::Values {
        [0.0; PANEL]
    }

    #[inline(always)]
    fn load<W: Weight>(self, weights: &[W; PANEL]) -> Self::Values {
        weights.map(W::widen)
    }

    #[inline(always)]
    fn add(self, mut sum: Self::Values, x: f32, values: Self::Values) -> Self::Values {
        for (sum, value) in sum.iter_mut().zip(values) {
            *sum = x.mul_add(value, *sum);
        }
        sum
    }

    #[inline(always)]
    fn store(self, values: Self::Values) -> [f32; PANEL] {
        values
    }
}

/// Two registers of eight.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx2(());

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    /// Where the machine has AVX2, FMA and F16C.
    #[inline(always)]
    pub(super) fn of_machine() -> Option<Self> {
        let is_there = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        is_there.then_some(Self(()))
    }
}

#[cfg(target_arch = "x86_64")]
impl Registers<16> for Avx2 {
    type Values = [__m256; 2];

    #[inline(always)]
    fn zero(self) -> Self::Values {
        must_cast([0.0f32; 16])
    }

    #[inline(always)]
    fn load<W: Weight>(self, weights: &[W; 16]) -> Self::Values {
        must_cast::<_, [[W; 8]; 2]>(*weights).map(|weights| W::eight(self, weights))
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "names an instruction")]
    fn add(self, [low, high]: Self::Values, x: f32, values: Self::Values) -> Self::Values {
        // SAFETY: an `Avx2` exists only where AVX2 and FMA were detected.
        unsafe {
            let x = _mm256_set1_ps(x);
            [
                _mm256_fmadd_ps(x, values[0], low),
                _mm256_fmadd_ps(x, values[1], high),
            ]
        }
    }

    #[inline(always)]
    fn store(self, values: Self::Values) -> [f32; 16] {
        must_cast(values)
    }
}

/// Two registers of sixteen.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512(());

#[cfg(target_arch = "x86_64")]
impl Avx512 {
    /// Where the machine has AVX-512F, and what [`Avx2`] stands for.
    #[inline(always)]
    pub(super) fn of_machine() -> Option<Self> {
        let is_there = Avx2::of_machine().is_some() && is_x86_feature_detected!("avx512f");
        is_there.then_some(Self(()))
    }
}

#[cfg(target_arch = "x86_64")]
impl Registers<32> for Avx512 {
    type Values = [__m512; 2];

    #[inline(always)]
    fn zero(self) -> Self::Values {
        must_cast([0.0f32; 32])
    }

    #[inline(always)]
    fn load<W: Weight>(self, weights: &[W; 32]) -> Self::Values {
        must_cast::<_, [[W; 16]; 2]>(*weights).map(|weights| W::sixteen(self, weights))
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "names an instruction")]
    fn add(self, [low, high]: Self::Values, x: f32, values: Self::Values) -> Self::Values {
        // SAFETY: an `Avx512` exists only where AVX-512F was detected.
        unsafe {
            let x = _mm512_set1_ps(x);
            [
                _mm512_fmadd_ps(x, values[0], low),
                _mm512_fmadd_ps(x, values[1], high),
            ]
        }
    }

    #[inline(always)]
    fn store(self, values: Self::Values) -> [f32; 32] {
        must_cast(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_widen_exactly() {
        for bits in 0..=u16::MAX {
            let half = f16::from_bits(bits);
            if half.is_finite() {
                assert_eq!(Weight::widen(half).to_bits(), half.to_f32().to_bits());
            }
            let half = bf16::from_bits(bits);
            if half.is_finite() {
                assert_eq!(Weight::widen(half).to_bits(), half.to_f32().to_bits());
            }
        }
    }
}
