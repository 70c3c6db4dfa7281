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
    __m256i, __m512, __m512i, _mm256_abs_epi8, _mm256_add_epi32, _mm256_madd_epi16,
    _mm256_maddubs_epi16, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_setzero_si256,
    _mm256_sign_epi8, _mm512_cvtepi32_ps, _mm512_cvttps_epi32, _mm512_dpbusd_epi32, _mm512_mul_ps,
    _mm512_set1_epi32, _mm512_set1_ps,
};

#[cfg(target_arch = "x86_64")]
use bytemuck::must_cast;

use super::floats::{RowSums, put};
#[cfg(target_arch = "x86_64")]
use super::registers::prefetch;

/// Values of k whose codes share one word of a row.
pub(super) const GROUP: usize = 4;

/// Groups that VNNI adds up in one pass of its loop; the codes that come next are asked for so many at a time.
pub(super) const AT_ONCE: usize = 4;

/// One block of some rows and of one panel.
pub(super) struct Tile<'a, const PANEL: usize, const STEP: usize> {
    /// (groups of k, rows).
    pub(super) words: &'a [u32],
    /// What a code of the block is worth, for each row.
    pub(super) row_scales: &'a [f32],
    /// (groups of k, outputs, values of a group).
    pub(super) codes: &'a [[i8; STEP]],
    /// What a code of the block is worth for each output, and the whole number where its sum begins.
    pub(super) scales: &'a [[f32; PANEL]; 2],
    /// Codes that are read next; they come from memory meanwhile.
    pub(super) ahead: &'a [[i8; STEP]],
}

/// Where the products of a tile go.
pub(super) struct Place<'a> {
    /// The rows of the tile.
    pub(super) rows: &'a mut [RowSums],
    /// The number of the panel.
    pub(super) panel: usize,
    /// Whether this is the first block of k; the products of later ones are added.
    pub(super) is_first: bool,
}

impl Place<'_> {
    /// The panel's outputs of one row.
    #[inline(always)]
    fn row<const PANEL: usize>(&mut self, row: usize) -> &mut [f32; PANEL] {
        &mut self.rows[row].as_chunks_mut().0[self.panel]
    }

    /// Stores what the sums of one row are worth.
    #[inline(always)]
    fn put<const PANEL: usize>(
        &mut self,
        row: usize,
        sums: &[i32; PANEL],
        row_scale: f32,
        scales: &[f32; PANEL],
    ) {
        let mut values = [0.0; PANEL];
        for ((value, &sum), scale) in values.iter_mut().zip(sums).zip(scales) {
            *value = sum as f32 * (row_scale * scale);
        }
        let is_first = self.is_first;
        put(self.row(row), values, is_first);
    }
}

/// Sums in plain Rust.
#[inline(always)]
pub(super) fn portable<const PANEL: usize, const STEP: usize>(
    tile: &Tile<'_, PANEL, STEP>,
    place: &mut Place<'_>,
) {
    plain(tile, place, |byte| i32::from(byte as i8));
}

/// As [`portable`], for the codes that VNNI takes.
#[cfg(test)]
pub(super) fn shifted<const PANEL: usize, const STEP: usize>(
    tile: &Tile<'_, PANEL, STEP>,
    place: &mut Place<'_>,
) {
    plain(tile, place, i32::from);
}

#[inline(always)]
fn plain<const PANEL: usize, const STEP: usize>(
    tile: &Tile<'_, PANEL, STEP>,
    place: &mut Place<'_>,
    value: impl Fn(u8) -> i32,
) {
    let rows = tile.row_scales.len();
    for (row, &row_scale) in tile.row_scales.iter().enumerate() {
        let mut sums = [0; PANEL];
        for (sum, &start) in sums.iter_mut().zip(&tile.scales[1]) {
            *sum = start as i32;
        }
        for (codes, words) in tile.codes.iter().zip(tile.words.chunks_exact(rows)) {
            let (codes, _) = codes.as_chunks::<GROUP>();
            let bytes = words[row].to_ne_bytes();
            for (sum, codes) in sums.iter_mut().zip(codes) {
                for (&byte, &code) in bytes.iter().zip(codes) {
                    *sum += value(byte) * i32::from(code);
                }
            }
        }
        place.put(row, &sums, row_scale, &tile.scales[0]);
    }
}

/// The weight's magnitude times the row's code with the weight's sign: two such products stay below 2^15.
///
/// Sums begin at zero: nothing is shifted.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub(super) fn avx2<const ROWS: usize>(tile: &Tile<'_, 16, 64>, place: &mut Place<'_>) {
    let ones = _mm256_set1_epi16(1);
    let mut all = [[_mm256_setzero_si256(); 2]; ROWS];
    let (words, _) = tile.words.as_chunks::<ROWS>();
    for (at, (codes, words)) in tile.codes.iter().zip(words).enumerate() {
        if let Some(ahead) = tile.ahead.get(at) {
            prefetch(ahead);
        }
        let codes: [__m256i; 2] = must_cast(*codes);
        let magnitudes = [_mm256_abs_epi8(codes[0]), _mm256_abs_epi8(codes[1])];
        for row in 0..ROWS {
            let values = _mm256_set1_epi32(words[row] as i32);
            for half in 0..2 {
                let signed = _mm256_sign_epi8(values, codes[half]);
                let pairs = _mm256_maddubs_epi16(magnitudes[half], signed);
                let sums = _mm256_madd_epi16(pairs, ones);
                all[row][half] = _mm256_add_epi32(all[row][half], sums);
            }
        }
    }
    for (row, sums) in all.iter().enumerate() {
        place.put::<16>(
            row,
            &must_cast(*sums),
            tile.row_scales[row],
            &tile.scales[0],
        );
    }
}

/// Four products and their sum at once: the codes of rows are shifted by 128, and sums begin where that is
/// taken out again.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512vnni")]
#[expect(
    clippy::needless_range_loop,
    reason = "values stay in registers where loops have fixed bounds"
)]
pub(super) fn vnni<const ROWS: usize>(tile: &Tile<'_, 32, 128>, place: &mut Place<'_>) {
    let starts: [__m512; 2] = must_cast(tile.scales[1]);
    let starts = [
        _mm512_cvttps_epi32(starts[0]),
        _mm512_cvttps_epi32(starts[1]),
    ];
    let mut all = [starts; ROWS];
    let (words, _) = tile.words.as_chunks::<ROWS>();
    let (words, last_words) = words.as_chunks::<AT_ONCE>();
    let (codes, last_codes) = tile.codes.as_chunks::<AT_ONCE>();
    let (ahead, _) = tile.ahead.as_chunks::<AT_ONCE>();
    for (at, (codes, words)) in codes.iter().zip(words).enumerate() {
        if let Some(ahead) = ahead.get(at) {
            prefetch(ahead);
        }
        for (codes, words) in codes.iter().zip(words) {
            vnni_step(&mut all, codes, words);
        }
    }
    for (codes, words) in last_codes.iter().zip(last_words) {
        vnni_step(&mut all, codes, words);
    }
    let scales: [__m512; 2] = must_cast(tile.scales[0]);
    let mut values = [scales; ROWS];
    for row in 0..ROWS {
        let row_scale = _mm512_set1_ps(tile.row_scales[row]);
        for half in 0..2 {
            let sums = _mm512_cvtepi32_ps(all[row][half]);
            values[row][half] = _mm512_mul_ps(sums, _mm512_mul_ps(row_scale, scales[half]));
        }
    }
    let is_first = place.is_first;
    for row in 0..ROWS {
        put(place.row::<32>(row), must_cast(values[row]), is_first);
    }
}

/// Adds the products of one group of k.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512vnni")]
#[inline]
fn vnni_step<const ROWS: usize>(
    sums: &mut [[__m512i; 2]; ROWS],
    codes: &[i8; 128],
    words: &[u32; ROWS],
) {
    let codes: [__m512i; 2] = must_cast(*codes);
    for row in 0..ROWS {
        let values = _mm512_set1_epi32(words[row] as i32);
        for half in 0..2 {
            sums[row][half] = _mm512_dpbusd_epi32(sums[row][half], values, codes[half]);
        }
    }
}
