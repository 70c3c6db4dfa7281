//! Sums of one block of codes in whole numbers, with the instructions of each machine.
//!
//! All give the same sums: they are exact, so the order does not matter. The x86 versions take
//! instructions by name, because the compiler does not find them by itself.

#![expect(
    clippy::inline_always,
    reason = "bodies must be compiled into the version of each instruction set"
)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256i, __m512i, _mm256_abs_epi8, _mm256_add_epi32, _mm256_madd_epi16, _mm256_maddubs_epi16,
    _mm256_set1_epi16, _mm256_set1_epi32, _mm256_setzero_si256, _mm256_sign_epi8,
    _mm512_dpbusd_epi32, _mm512_set1_epi32,
};

#[cfg(target_arch = "x86_64")]
use bytemuck::must_cast;

/// Values of k whose codes share one word of a row.
pub(super) const GROUP: usize = 4;

/// One block of some rows and of one panel.
pub(super) struct Tile<'a, const PANEL: usize, const STEP: usize> {
    /// (groups of k, rows).
    pub(super) words: &'a [u32],
    /// (groups of k, outputs, values of a group).
    pub(super) codes: &'a [[i8; STEP]],
    /// Where the sum of each output begins.
    pub(super) starts: &'a [i32; PANEL],
}

/// Sums in plain Rust.
#[inline(always)]
pub(super) fn portable<const PANEL: usize, const STEP: usize>(
    tile: &Tile<'_, PANEL, STEP>,
    sums: &mut [[i32; PANEL]],
) {
    plain(tile, sums, |byte| i32::from(byte as i8));
}

/// As [`portable`], for the codes that VNNI takes.
#[cfg(test)]
pub(super) fn shifted<const PANEL: usize, const STEP: usize>(
    tile: &Tile<'_, PANEL, STEP>,
    sums: &mut [[i32; PANEL]],
) {
    plain(tile, sums, i32::from);
}

#[inline(always)]
fn plain<const PANEL: usize, const STEP: usize>(
    tile: &Tile<'_, PANEL, STEP>,
    sums: &mut [[i32; PANEL]],
    value: impl Fn(u8) -> i32,
) {
    sums.fill(*tile.starts);
    for (codes, words) in tile.codes.iter().zip(tile.words.chunks(sums.len())) {
        let (codes, _) = codes.as_chunks::<GROUP>();
        for (sums, word) in sums.iter_mut().zip(words) {
            let values = word.to_ne_bytes().map(&value);
            for (sum, codes) in sums.iter_mut().zip(codes) {
                for (value, &code) in values.iter().zip(codes) {
                    *sum += value * i32::from(code);
                }
            }
        }
    }
}

/// The magnitude of a row's code times the weight's with its sign: two such products stay below 2^15.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub(super) fn avx2<const ROWS: usize>(tile: &Tile<'_, 16, 64>, sums: &mut [[i32; 16]]) {
    let ones = _mm256_set1_epi16(1);
    let mut all = [[_mm256_setzero_si256(); 2]; ROWS];
    let (words, _) = tile.words.as_chunks::<ROWS>();
    for (codes, words) in tile.codes.iter().zip(words) {
        let codes: [__m256i; 2] = must_cast(*codes);
        for (sums, &word) in all.iter_mut().zip(words) {
            let values = _mm256_set1_epi32(word as i32);
            let magnitudes = _mm256_abs_epi8(values);
            for (sum, &codes) in sums.iter_mut().zip(&codes) {
                let pairs = _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(codes, values));
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
            }
        }
    }
    for (sums, all) in sums.iter_mut().zip(all) {
        *sums = must_cast::<[__m256i; 2], _>(all);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) fn vnni<const ROWS: usize>(tile: &Tile<'_, 32, 128>, sums: &mut [[i32; 32]]) {
    let mut all = [must_cast::<[i32; 32], [__m512i; 2]>(*tile.starts); ROWS];
    let (words, _) = tile.words.as_chunks::<ROWS>();
    for (codes, words) in tile.codes.iter().zip(words) {
        let codes: [__m512i; 2] = must_cast(*codes);
        for (sums, &word) in all.iter_mut().zip(words) {
            let values = _mm512_set1_epi32(word as i32);
            for (sum, &codes) in sums.iter_mut().zip(&codes) {
                *sum = _mm512_dpbusd_epi32(*sum, values, codes);
            }
        }
    }
    for (sums, all) in sums.iter_mut().zip(all) {
        *sums = must_cast::<[__m512i; 2], _>(all);
    }
}
