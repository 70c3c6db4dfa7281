//! The product in 8 bits: whole numbers times whole numbers, scaled once a block.
//!
//! Rows and weights are cut into blocks of [`BLOCK`] values of k; each block has a scale of its own, so
//! that one large value spoils only its neighbours. Within a block the sum is exact, whatever the
//! instructions; the blocks are added in order. A row's bits therefore depend on that row and the
//! weights alone, and every machine gives the same.

#![expect(
    clippy::inline_always,
    reason = "bodies must be compiled into the version of each instruction set"
)]

use bytemuck::{cast_slice, must_cast};

use super::floats::RowSums;
use super::int8_dot::{self, AT_ONCE, GROUP, Place, Tile};
use super::registers::prefetch;
#[cfg(target_arch = "x86_64")]
use super::registers::{Avx2, Avx512Vnni};
use super::simd::multiversion;
use super::tiles::{MOST_ROWS, Tiling, interleave, tiles_of};

pub(super) mod stored;

/// Version of the codes that a weight comes to: of their values, their scales and their blocks. A model's folder names
/// the one that it was written with, and a program that would write other codes refuses it.
pub const CODES_VERSION: u32 = 1;

/// Values of k that share a scale. Their sum of products stays below 2^23, so it is an f32 exactly.
pub(super) const BLOCK: usize = 256;

/// The largest code; -128 is left out, so that codes are symmetric.
const LARGEST: f32 = 127.0;

/// A block whose largest value is below this counts as zeros, because the inverse of its scale would be infinite.
const SMALLEST: f32 = 1e-36;

/// Adding it rounds to the nearest whole number, ties to even, and leaves that in the low bits.
const ROUND: f32 = 12_582_912.0;

/// Which instructions multiply, and with them how codes are laid out.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dot {
    /// What any processor has.
    Portable,
    /// Products in 16 bits, sums in 32.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// Four products and their sum at once.
    #[cfg(target_arch = "x86_64")]
    Vnni(Avx512Vnni),
    /// The layout of VNNI without its instructions.
    #[cfg(test)]
    Shifted,
}

impl Dot {
    /// The fastest of this machine.
    pub(super) fn of_machine() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(vnni) = Avx512Vnni::of_machine() {
                return Self::Vnni(vnni);
            }
            if let Some(avx2) = Avx2::of_machine() {
                return Self::Avx2(avx2);
            }
        }
        Self::Portable
    }

    /// Whether the codes of rows are shifted by 128 and unsigned: VNNI multiplies unsigned codes with signed ones.
    fn is_shifted(self) -> bool {
        match self {
            Self::Portable => false,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => false,
            #[cfg(target_arch = "x86_64")]
            Self::Vnni(_) => true,
            #[cfg(test)]
            Self::Shifted => true,
        }
    }

    /// Outputs that are computed side by side.
    fn panel(self) -> usize {
        if self.is_shifted() { 32 } else { 16 }
    }

    /// Where the sum of a block begins whose codes have this sum, so that the shift of a row's codes goes out again.
    fn start(self, sum: i32) -> f32 {
        if self.is_shifted() {
            (-128 * sum) as f32
        } else {
            0.0
        }
    }

    /// Most rows of a tile.
    fn tile(self) -> usize {
        if self.is_shifted() { 8 } else { 4 }
    }

    /// Codes of so many outputs of k values, and their scales.
    pub(super) fn sizes(self, k: usize, outputs: usize) -> (usize, usize) {
        let outputs = outputs.next_multiple_of(self.panel());
        let codes = outputs * groups(k) * GROUP;
        (codes, outputs * blocks(k) * 2)
    }
}

/// Groups of k values, and words of a row of them.
pub(super) const fn groups(k: usize) -> usize {
    k.div_ceil(GROUP)
}

/// Scales of a row of k values.
pub(super) fn blocks(k: usize) -> usize {
    k.div_ceil(BLOCK)
}

/// Some panels of weights as codes: those of a task, and behind them those that are read next.
///
/// # Shapes
///
/// `codes` is (panels, groups of k, outputs of a panel, values of a group). `scales` is (panels, blocks, 2, outputs
/// of a panel): what a block's codes are worth, and where its sum begins, which takes the shift of a
/// row's codes out again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panels<'a> {
    pub(super) dot: Dot,
    pub(super) k: usize,
    pub(super) codes: &'a [i8],
    pub(super) scales: &'a [f32],
}

/// What makes codes of values, and values of codes.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// What one code is worth; NaN where a value is NaN or infinite, so that it is not lost.
    pub(super) worth: f32,
    /// What a value is multiplied by before it is rounded.
    pub(super) inverse: f32,
}

impl Scale {
    /// That of numbers which are no codes.
    pub(super) const ONE: Self = Self {
        worth: 1.0,
        inverse: 1.0,
    };
}

#[inline(always)]
fn scale_body(values: &[f32], scale: &mut Scale) {
    // Without their sign floats are ordered as their bits are, and NaN is above all.
    let magnitude = |value: &f32| value.to_bits() & 0x7fff_ffff;
    let largest = f32::from_bits(values.iter().map(magnitude).fold(0, u32::max));
    scale.inverse = if largest < SMALLEST {
        0.0
    } else {
        LARGEST / largest
    };
    scale.worth = if largest.is_finite() {
        largest / LARGEST
    } else {
        f32::NAN
    };
}

#[inline(always)]
fn round_body(values: &[f32], inverse: f32, codes: &mut [i8]) {
    for (code, value) in codes.iter_mut().zip(values) {
        *code = (value * inverse + ROUND).to_bits() as i8;
    }
}

/// Codes of up to [`BLOCK`] values, and what one code is worth.
#[inline(always)]
fn encode_body(values: &[f32], codes: &mut [i8], worth: &mut f32) {
    let mut scale = Scale::ONE;
    scale_body(values, &mut scale);
    round_body(values, scale.inverse, codes);
    *worth = scale.worth;
}

multiversion! {
    /// The scale of values that have one together.
    pub(super) fn find_scale(values: &[f32], scale: &mut Scale) = scale_body
}

multiversion! {
    /// The codes of values, each times `inverse`.
    pub(super) fn round(values: &[f32], inverse: f32, codes: &mut [i8]) = round_body
}

multiversion! {
    fn encode(values: &[f32], codes: &mut [i8], worth: &mut f32) = encode_body
}

/// How rows of k values are laid out: their words, and behind them their scales.
pub(super) fn tiling(dot: Dot, k: usize) -> Tiling {
    Tiling {
        k,
        rows: dot.tile(),
        words: groups(k) + blocks(k),
    }
}

#[inline(always)]
fn encode_tile_body(dot: Dot, k: usize, x: &[f32], words: &mut [u32]) {
    let shift = if dot.is_shifted() { 0x8080_8080 } else { 0 };
    let count = x.len() / k;
    let (words, scales) = words.split_at_mut(groups(k) * count);
    let scales = scales.chunks_exact_mut(count);
    for (words, (block, scales)) in words
        .chunks_mut(groups(BLOCK) * count)
        .zip(scales.enumerate())
    {
        let mut rows = [[0; groups(BLOCK)]; MOST_ROWS];
        for ((row, scale), x) in rows.iter_mut().zip(scales).zip(x.chunks_exact(k)) {
            let mut codes = [0; BLOCK];
            let mut worth = 0.0;
            let end = k.min((block + 1) * BLOCK);
            encode_body(&x[block * BLOCK..end], &mut codes, &mut worth);
            *row = must_cast(codes);
            for word in row {
                *word ^= shift;
            }
            *scale = worth.to_bits();
        }
        interleave(rows.as_flattened(), groups(BLOCK), count, words);
    }
}

multiversion! {
    /// Encodes the rows of a tile.
    ///
    /// # Shapes
    ///
    /// `x` is (rows, k), row-major; `words` are the codes, ([`groups`], rows), and behind them the bits of their scales, ([`blocks`], rows).
    pub(super) fn encode_tile(dot: Dot, k: usize, x: &[f32], words: &mut [u32]) = encode_tile_body
}

/// Encodes weights of some panels.
///
/// # Shapes
///
/// `weights` is (outputs, k), row-major; `codes` and `scales` are as in [`Panels`], all zeros at first, which
/// fill the last panel and the last group.
pub(super) fn encode_weights(
    dot: Dot,
    k: usize,
    weights: &[f32],
    codes: &mut [i8],
    scales: &mut [f32],
) {
    let panel = dot.panel();
    for (output, weights) in weights.chunks_exact(k).enumerate() {
        let (number, lane) = (output / panel, output % panel);
        for (block, values) in weights.chunks(BLOCK).enumerate() {
            let at = (number * blocks(k) + block) * 2 * panel + lane;
            let mut encoded = [0; BLOCK];
            encode(values, &mut encoded, &mut scales[at]);
            let first = number * groups(k) + block * groups(BLOCK);
            for (step, encoded) in encoded[..values.len()].chunks(GROUP).enumerate() {
                let start = ((first + step) * panel + lane) * GROUP;
                codes[start..start + encoded.len()].copy_from_slice(encoded);
            }
            scales[at + panel] = dot.start(encoded.iter().map(|&code| i32::from(code)).sum());
        }
    }
}

impl Panels<'_> {
    /// Multiplies rows with those of these panels that have so many `outputs`.
    pub(super) fn multiply(&self, rows: &[u32], outputs: usize, sums: &mut [RowSums]) {
        match self.dot {
            Dot::Portable => self.tiles(rows, outputs, sums, &int8_dot::portable::<16, 64>),
            #[cfg(target_arch = "x86_64")]
            Dot::Avx2(proof) => self.avx2(proof, rows, outputs, sums),
            #[cfg(target_arch = "x86_64")]
            Dot::Vnni(proof) => self.vnni(proof, rows, outputs, sums),
            #[cfg(test)]
            Dot::Shifted => self.tiles(rows, outputs, sums, &int8_dot::shifted::<32, 128>),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "calls the version whose features are there")]
    fn avx2(&self, _: Avx2, rows: &[u32], outputs: usize, sums: &mut [RowSums]) {
        #[target_feature(enable = "avx2")]
        fn version(panels: Panels<'_>, rows: &[u32], outputs: usize, sums: &mut [RowSums]) {
            panels.tiles(rows, outputs, sums, &|tile, place| match place.rows.len() {
                1 => int8_dot::avx2::<1>(tile, place),
                2 => int8_dot::avx2::<2>(tile, place),
                3 => int8_dot::avx2::<3>(tile, place),
                _ => int8_dot::avx2::<4>(tile, place),
            });
        }
        // SAFETY: an `Avx2` exists only where AVX2 was detected.
        unsafe { version(*self, rows, outputs, sums) }
    }

    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "calls the version whose features are there")]
    fn vnni(&self, _: Avx512Vnni, rows: &[u32], outputs: usize, sums: &mut [RowSums]) {
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512vnni")]
        fn version(panels: Panels<'_>, rows: &[u32], outputs: usize, sums: &mut [RowSums]) {
            panels.tiles(rows, outputs, sums, &|tile, place| match place.rows.len() {
                1 => int8_dot::vnni::<1>(tile, place),
                2 => int8_dot::vnni::<2>(tile, place),
                3 => int8_dot::vnni::<3>(tile, place),
                4 => int8_dot::vnni::<4>(tile, place),
                5 => int8_dot::vnni::<5>(tile, place),
                6 => int8_dot::vnni::<6>(tile, place),
                7 => int8_dot::vnni::<7>(tile, place),
                _ => int8_dot::vnni::<8>(tile, place),
            });
        }
        // SAFETY: an `Avx512Vnni` exists only where the features of `version` were detected.
        unsafe { version(*self, rows, outputs, sums) }
    }

    /// The body of [`Panels::multiply`]: `dot` multiplies one block of a tile with `PANEL` outputs, of which one
    /// step holds `STEP` codes.
    ///
    /// Weights are read from end to end: memory gives them fastest so, and the rows are in the caches.
    #[inline(always)]
    fn tiles<const PANEL: usize, const STEP: usize>(
        &self,
        rows: &[u32],
        outputs: usize,
        sums: &mut [RowSums],
        dot: &impl Fn(&Tile<'_, PANEL, STEP>, &mut Place<'_>),
    ) {
        let (width, blocks) = (groups(self.k), blocks(self.k));
        let (codes, _) = self.codes.as_chunks::<STEP>();
        let (scales, _) = self.scales.as_chunks::<PANEL>();
        let (scales, _) = scales.as_chunks::<2>();
        let (count, most) = (sums.len(), self.dot.tile());
        let codes_of = |step: usize| {
            let (panel, first) = (step / blocks, step % blocks * groups(BLOCK));
            let start = (panel * width + first).min(codes.len());
            let end = start + groups(BLOCK).min(width - first);
            &codes[start..end.min(codes.len())]
        };
        for step in 0..outputs.div_ceil(PANEL) * blocks {
            let (panel, block) = (step / blocks, step % blocks);
            let first = block * groups(BLOCK);
            let codes = codes_of(step);
            if let Some(next) = scales.get(step + 1) {
                prefetch(next);
            }
            let ahead = codes_of(step + 1);
            let share = ahead.len().div_ceil(count.div_ceil(most)).max(1);
            let mut ahead = ahead.chunks(share.next_multiple_of(AT_ONCE));
            for tile in tiles_of(count, most) {
                let of_tile = &rows[tile.start * (width + blocks)..tile.end * (width + blocks)];
                let (words, row_scales) = of_tile.split_at(width * tile.len());
                let part = Tile {
                    words: &words[first * tile.len()..][..codes.len() * tile.len()],
                    row_scales: cast_slice(&row_scales[block * tile.len()..][..tile.len()]),
                    codes,
                    scales: &scales[step],
                    ahead: ahead.next().unwrap_or(&[]),
                };
                let mut place = Place {
                    rows: &mut sums[tile],
                    panel,
                    is_first: block == 0,
                };
                dot(&part, &mut place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::floats::task_by_task;
    use super::*;
    use crate::noise;
    use crate::tiles::in_tiles;

    /// Codes and scale of one block, computed in the plainest way.
    fn block(values: &[f32]) -> (Vec<i32>, f32) {
        let largest = values
            .iter()
            .fold(0.0, |largest: f32, value| largest.max(value.abs()));
        let inverse = if largest == 0.0 {
            0.0
        } else {
            LARGEST / largest
        };
        let code = |value: &f32| (value * inverse).round_ties_even() as i32;
        (values.iter().map(code).collect(), largest / LARGEST)
    }

    /// The order of the module's documentation, one output at a time.
    fn output(x: &[f32], weights: &[f32]) -> f32 {
        let blocks = x.chunks(BLOCK).zip(weights.chunks(BLOCK));
        let values = blocks.map(|(x, weights)| {
            let ((x, x_scale), (weights, scale)) = (block(x), block(weights));
            let sum: i32 = x.iter().zip(&weights).map(|(x, weight)| x * weight).sum();
            sum as f32 * (x_scale * scale)
        });
        values.reduce(|all, value| all + value).unwrap()
    }

    /// Those that this machine can run; the layout of VNNI runs anywhere.
    fn dots() -> Vec<Dot> {
        let mut dots = vec![Dot::Portable, Dot::Shifted];
        #[cfg(target_arch = "x86_64")]
        {
            dots.extend(Avx2::of_machine().map(Dot::Avx2));
            dots.extend(Avx512Vnni::of_machine().map(Dot::Vnni));
        }
        dots
    }

    fn product(dot: Dot, k: usize, weights: &[f32], x: &[f32]) -> Vec<f32> {
        let (rows, outputs) = (x.len() / k, weights.len() / k);
        let (codes, scales) = dot.sizes(k, outputs);
        let (mut codes, mut weight_scales) = (vec![0; codes], vec![0.0; scales]);
        encode_weights(dot, k, weights, &mut codes, &mut weight_scales);
        let words = in_tiles(tiling(dot, k), x, |x, tile| encode_tile(dot, k, x, tile));
        task_by_task(rows, outputs, |first, outputs, sums| {
            let (codes_before, scales_before) = dot.sizes(k, first);
            let panels = Panels {
                dot,
                k,
                codes: &codes[codes_before..],
                scales: &weight_scales[scales_before..],
            };
            panels.multiply(&words, outputs, sums);
        })
    }

    #[test]
    fn every_number_of_rows_gives_the_documented_sum() {
        for (k, outputs) in [(1, 1), (40, 16), (256, 33), (300, 100), (701, 70)] {
            let weights = noise(outputs * k, 3);
            let x = noise(130 * k, 5);
            let want: Vec<u32> = x
                .chunks_exact(k)
                .flat_map(|x| weights.chunks_exact(k).map(|weights| output(x, weights)))
                .map(f32::to_bits)
                .collect();
            for dot in dots() {
                for rows in 1..=130 {
                    let x = &x[(130 - rows) * k..];
                    let out = product(dot, k, &weights, x);
                    let bits: Vec<u32> = out.iter().map(|value| value.to_bits()).collect();
                    let want = &want[(130 - rows) * outputs..];
                    assert!(
                        bits == want,
                        "{dot:?}, k {k}, {outputs} outputs, {rows} rows"
                    );
                }
            }
        }
    }

    #[test]
    fn the_largest_codes_do_not_overflow() {
        for dot in dots() {
            let product = product(dot, BLOCK, &[-1.0; BLOCK], &[2.0; BLOCK]);
            assert_eq!(product, [-512.0]);
        }
    }

    #[test]
    fn what_is_no_number_is_not_lost() {
        for dot in dots() {
            let weights = noise(300, 1);
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = noise(600, 2);
                x[290] = bad;
                let out = product(dot, 300, &weights, &x);
                assert!(out[0].is_nan() && out[1].is_finite());
            }
            for small in [1e-40, 1e-37, 1e-35] {
                let out = product(dot, 300, &weights, &[small; 300]);
                assert!(out[0].abs() < 1e-32, "{small}: {out:?}");
            }
        }
    }
}
