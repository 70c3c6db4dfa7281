//! What the products multiply with: weights as they are stored, and the registers that hold one panel.
//!
//! A value of [`Avx2`], [`Avx512`], [`Avx512Bf16`] or [`Avx512Vnni`] is the proof that the machine has those
//! instructions: only `of_machine` makes one. Code that holds it may use them.

#![expect(
    clippy::inline_always,
    reason = "bodies must be compiled into the version of each instruction set"
)]

#[cfg(target_arch = "x86_64")]
use std::arch::is_x86_feature_detected;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256, __m512, __m512bh, _MM_HINT_T0, _mm_prefetch, _mm_set_epi64x, _mm256_cvtepi8_epi32,
    _mm256_cvtepi32_ps, _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_fmadd_ps, _mm256_set1_ps,
    _mm256_slli_epi32, _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps, _mm512_cvtepu16_epi32,
    _mm512_cvtph_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_slli_epi32,
};

use bytemuck::Pod;
#[cfg(target_arch = "x86_64")]
use bytemuck::must_cast;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// A number as it is stored, to be multiplied in f32; every one of them is an f32 exactly.
pub trait Number: Pod + Send + Sync {
    /// The value.
    fn widen(self) -> f32;

    /// Eight values in a register.
    #[cfg(target_arch = "x86_64")]
    fn eight(avx2: Avx2, numbers: [Self; 8]) -> __m256;

    /// Sixteen values in a register.
    #[cfg(target_arch = "x86_64")]
    fn sixteen(avx512: Avx512, numbers: [Self; 16]) -> __m512;
}

/// A number that weights, keys and values can be rounded to.
pub trait Float: Number {
    /// Not a number.
    const NAN: Self;

    /// Whether it is neither infinite nor NaN.
    fn is_finite(self) -> bool;

    /// The nearest number to a value.
    fn narrow(value: f32) -> Self;

    /// The nearest number to each value.
    fn narrow_all(values: &[f32], out: &mut [Self]);
}

/// Bytes that a cache takes at once; where it is another number, nothing is lost but speed.
pub(super) const CACHE_LINE: usize = 64;

/// Two bf16 that are neighbours in k, the even one first.
pub(super) type Pair = [bf16; 2];

impl Number for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn eight(_: Avx2, numbers: [Self; 8]) -> __m256 {
        must_cast(numbers)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn sixteen(_: Avx512, numbers: [Self; 16]) -> __m512 {
        must_cast(numbers)
    }
}

impl Float for f32 {
    const NAN: Self = Self::NAN;

    #[inline(always)]
    fn is_finite(self) -> bool {
        self.is_finite()
    }

    fn narrow(value: f32) -> Self {
        value
    }

    fn narrow_all(values: &[f32], out: &mut [Self]) {
        out.copy_from_slice(values);
    }
}

impl Number for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    #[expect(unsafe_code, reason = "names an instruction")]
    fn eight(_: Avx2, numbers: [Self; 8]) -> __m256 {
        // SAFETY: an `Avx2` exists only where AVX2 was detected.
        unsafe {
            let bits = _mm256_cvtepu16_epi32(must_cast(numbers));
            must_cast(_mm256_slli_epi32::<16>(bits))
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    #[expect(unsafe_code, reason = "names an instruction")]
    fn sixteen(_: Avx512, numbers: [Self; 16]) -> __m512 {
        // SAFETY: an `Avx512` exists only where AVX-512F was detected.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(must_cast(numbers));
            must_cast(_mm512_slli_epi32::<16>(bits))
        }
    }
}

impl Float for bf16 {
    const NAN: Self = Self::NAN;

    #[inline(always)]
    fn is_finite(self) -> bool {
        self.is_finite()
    }

    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn narrow_all(values: &[f32], out: &mut [Self]) {
        out.convert_from_f32_slice(values);
    }
}

impl Number for f16 {
    /// Exponent and mantissa moved into place and scaled by 2^112, which is exact for every finite number, subnormal
    /// ones too. Written in whole numbers, because only so it is vectorised.
    #[inline(always)]
    fn widen(self) -> f32 {
        let spread = (i32::from(self.to_bits() as i16) << 13) as u32 & 0x8fff_ffff;
        let is_finite = spread & 0x0f80_0000 != 0x0f80_0000;
        let finite = f32::from_bits(spread) * f32::from_bits(0x7780_0000);
        if is_finite {
            finite
        } else {
            f32::from_bits(spread | 0x7f80_0000)
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    #[expect(unsafe_code, reason = "names an instruction")]
    fn eight(_: Avx2, numbers: [Self; 8]) -> __m256 {
        // SAFETY: an `Avx2` exists only where F16C was detected.
        unsafe { _mm256_cvtph_ps(must_cast(numbers)) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    #[expect(unsafe_code, reason = "names an instruction")]
    fn sixteen(_: Avx512, numbers: [Self; 16]) -> __m512 {
        // SAFETY: an `Avx512` exists only where AVX-512F was detected.
        unsafe { _mm512_cvtph_ps(must_cast(numbers)) }
    }
}

impl Float for f16 {
    const NAN: Self = Self::NAN;

    #[inline(always)]
    fn is_finite(self) -> bool {
        self.is_finite()
    }

    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn narrow_all(values: &[f32], out: &mut [Self]) {
        out.convert_from_f32_slice(values);
    }
}

/// A code, whose scale is kept elsewhere.
impl Number for i8 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from(self)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    #[expect(unsafe_code, reason = "names an instruction")]
    fn eight(_: Avx2, numbers: [Self; 8]) -> __m256 {
        // SAFETY: an `Avx2` exists only where AVX2 was detected.
        unsafe {
            let codes = _mm_set_epi64x(0, must_cast(numbers));
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes))
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    #[expect(unsafe_code, reason = "names an instruction")]
    fn sixteen(_: Avx512, numbers: [Self; 16]) -> __m512 {
        // SAFETY: an `Avx512` exists only where AVX-512F was detected.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(must_cast(numbers))) }
    }
}

/// The registers that hold the sums of one panel, and the instructions that add to them.
///
/// They are named, not left to the compiler, which at times fills them with rows instead of outputs.
pub(super) trait Registers<W, const PANEL: usize>: Copy {
    /// Values of k that one weight holds.
    const STEP: usize;

    /// What a row has for one weight.
    type Row: Pod;

    /// Weights, ready to be multiplied.
    type Factors: Copy;

    /// Sums of a panel.
    type Sums: Copy;

    /// Zeros.
    fn zero(self) -> Self::Sums;

    /// Weights as factors.
    fn load(self, weights: &[W; PANEL]) -> Self::Factors;

    /// Sums with the products of a row and the factors, one addition for each value of k.
    fn add(self, sums: Self::Sums, x: Self::Row, factors: Self::Factors) -> Self::Sums;

    /// Sums in memory.
    fn store(self, sums: Self::Sums) -> [f32; PANEL];
}

/// Asks for memory that is read soon; the result never depends on it.
#[inline(always)]
#[cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "names an instruction")
)]
pub(super) fn prefetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for byte in (0..size_of_val(values)).step_by(CACHE_LINE) {
        // SAFETY: a prefetch reads nothing into the program, so that any address will do.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(values.as_ptr().cast::<i8>().wrapping_add(byte));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}

/// Whatever the compiler takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Any;

impl<W: Number, const PANEL: usize> Registers<W, PANEL> for Any {
    const STEP: usize = 1;
    type Row = f32;
    type Factors = [f32; PANEL];
    type Sums = [f32; PANEL];

    #[inline(always)]
    fn zero(self) -> Self::Sums {
        [0.0; PANEL]
    }

    #[inline(always)]
    fn load(self, weights: &[W; PANEL]) -> Self::Factors {
        let mut factors = [0.0; PANEL];
        for (factor, weight) in factors.iter_mut().zip(weights) {
            *factor = weight.widen();
        }
        factors
    }

    #[inline(always)]
    fn add(self, mut sums: Self::Sums, x: f32, factors: Self::Factors) -> Self::Sums {
        for (sum, factor) in sums.iter_mut().zip(factors) {
            *sum = x.mul_add(factor, *sum);
        }
        sums
    }

    #[inline(always)]
    fn store(self, sums: Self::Sums) -> [f32; PANEL] {
        sums
    }
}

/// Pairs without their instruction: only tests have them there.
#[cfg(test)]
impl<const PANEL: usize> Registers<Pair, PANEL> for Any {
    const STEP: usize = 2;
    type Row = Pair;
    type Factors = [Pair; PANEL];
    type Sums = [f32; PANEL];

    #[inline(always)]
    fn zero(self) -> Self::Sums {
        [0.0; PANEL]
    }

    #[inline(always)]
    fn load(self, weights: &[Pair; PANEL]) -> Self::Factors {
        *weights
    }

    #[inline(always)]
    fn add(self, mut sums: Self::Sums, x: Pair, factors: Self::Factors) -> Self::Sums {
        for (sum, factor) in sums.iter_mut().zip(factors) {
            *sum = x[1].widen().mul_add(factor[1].widen(), *sum);
            *sum = x[0].widen().mul_add(factor[0].widen(), *sum);
        }
        sums
    }

    #[inline(always)]
    fn store(self, sums: Self::Sums) -> [f32; PANEL] {
        sums
    }
}

/// Two registers of eight.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

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
impl<W: Number> Registers<W, 16> for Avx2 {
    const STEP: usize = 1;
    type Row = f32;
    type Factors = [__m256; 2];
    type Sums = [__m256; 2];

    #[inline(always)]
    fn zero(self) -> Self::Sums {
        must_cast([0.0f32; 16])
    }

    #[inline(always)]
    fn load(self, weights: &[W; 16]) -> Self::Factors {
        let [low, high] = must_cast::<_, [[W; 8]; 2]>(*weights);
        [W::eight(self, low), W::eight(self, high)]
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "names an instruction")]
    fn add(self, [low, high]: Self::Sums, x: f32, factors: Self::Factors) -> Self::Sums {
        // SAFETY: an `Avx2` exists only where AVX2 and FMA were detected.
        unsafe {
            let x = _mm256_set1_ps(x);
            [
                _mm256_fmadd_ps(x, factors[0], low),
                _mm256_fmadd_ps(x, factors[1], high),
            ]
        }
    }

    #[inline(always)]
    fn store(self, sums: Self::Sums) -> [f32; 16] {
        must_cast(sums)
    }
}

/// Whether the machine has AVX-512 as all but its first processors have it. Without VL half of the 32 registers cannot be
/// read in halves, so that compilers keep sums out of them.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw")
}

/// Registers of sixteen: two for the products, one for attention.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

#[cfg(target_arch = "x86_64")]
impl Avx512 {
    /// Where the machine has AVX-512 with VL, DQ and BW, and all that [`Avx2`] promises.
    #[inline(always)]
    pub(super) fn of_machine() -> Option<Self> {
        let is_there = Avx2::of_machine().is_some() && has_avx512();
        is_there.then_some(Self(()))
    }
}

#[cfg(target_arch = "x86_64")]
impl<W: Number> Registers<W, 16> for Avx512 {
    const STEP: usize = 1;
    type Row = f32;
    type Factors = __m512;
    type Sums = __m512;

    #[inline(always)]
    fn zero(self) -> Self::Sums {
        must_cast([0.0f32; 16])
    }

    #[inline(always)]
    fn load(self, weights: &[W; 16]) -> Self::Factors {
        W::sixteen(self, *weights)
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "names an instruction")]
    fn add(self, sums: Self::Sums, x: f32, factors: Self::Factors) -> Self::Sums {
        // SAFETY: an `Avx512` exists only where AVX-512F was detected.
        unsafe { _mm512_fmadd_ps(_mm512_set1_ps(x), factors, sums) }
    }

    #[inline(always)]
    fn store(self, sums: Self::Sums) -> [f32; 16] {
        must_cast(sums)
    }
}

#[cfg(target_arch = "x86_64")]
impl<W: Number> Registers<W, 32> for Avx512 {
    const STEP: usize = 1;
    type Row = f32;
    type Factors = [__m512; 2];
    type Sums = [__m512; 2];

    #[inline(always)]
    fn zero(self) -> Self::Sums {
        must_cast([0.0f32; 32])
    }

    #[inline(always)]
    fn load(self, weights: &[W; 32]) -> Self::Factors {
        let [low, high] = must_cast::<_, [[W; 16]; 2]>(*weights);
        [W::sixteen(self, low), W::sixteen(self, high)]
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "names an instruction")]
    fn add(self, [low, high]: Self::Sums, x: f32, factors: Self::Factors) -> Self::Sums {
        // SAFETY: an `Avx512` exists only where AVX-512F was detected.
        unsafe {
            let x = _mm512_set1_ps(x);
            [
                _mm512_fmadd_ps(x, factors[0], low),
                _mm512_fmadd_ps(x, factors[1], high),
            ]
        }
    }

    #[inline(always)]
    fn store(self, sums: Self::Sums) -> [f32; 32] {
        must_cast(sums)
    }
}

/// Two registers of sixteen, for factors in bf16.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512Bf16(());

#[cfg(target_arch = "x86_64")]
impl Avx512Bf16 {
    /// Where the machine has AVX-512 with VL, DQ and BW, and `AVX512_BF16`.
    #[inline(always)]
    pub(super) fn of_machine() -> Option<Self> {
        let is_there = has_avx512() && is_x86_feature_detected!("avx512bf16");
        is_there.then_some(Self(()))
    }
}

#[cfg(target_arch = "x86_64")]
impl Registers<Pair, 32> for Avx512Bf16 {
    const STEP: usize = 2;
    type Row = Pair;
    type Factors = [__m512bh; 2];
    type Sums = [__m512; 2];

    #[inline(always)]
    fn zero(self) -> Self::Sums {
        must_cast([0.0f32; 32])
    }

    #[inline(always)]
    fn load(self, weights: &[Pair; 32]) -> Self::Factors {
        must_cast(*weights)
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "names an instruction")]
    fn add(self, [low, high]: Self::Sums, x: Pair, factors: Self::Factors) -> Self::Sums {
        // SAFETY: an `Avx512Bf16` exists only where AVX-512F and AVX512_BF16 were detected.
        unsafe {
            let x = must_cast(_mm512_set1_epi32(must_cast(x)));
            [
                _mm512_dpbf16_ps(low, x, factors[0]),
                _mm512_dpbf16_ps(high, x, factors[1]),
            ]
        }
    }

    #[inline(always)]
    fn store(self, sums: Self::Sums) -> [f32; 32] {
        must_cast(sums)
    }
}

/// Sums of four products of 8 bits, for `int8`.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512Vnni(());

#[cfg(target_arch = "x86_64")]
impl Avx512Vnni {
    /// Where the machine has AVX-512 with VL, DQ and BW, and `AVX512_VNNI`.
    #[inline(always)]
    pub(super) fn of_machine() -> Option<Self> {
        let is_there = has_avx512() && is_x86_feature_detected!("avx512vnni");
        is_there.then_some(Self(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_widen_exactly() {
        let is_same = |found: f32, want: f32| {
            found.to_bits() == want.to_bits() || found.is_nan() && want.is_nan()
        };
        for bits in 0..=u16::MAX {
            let half = f16::from_bits(bits);
            assert!(is_same(half.widen(), half.to_f32()), "{half:?}");
            let half = bf16::from_bits(bits);
            assert!(is_same(half.widen(), half.to_f32()), "{half:?}");
        }
    }
}
