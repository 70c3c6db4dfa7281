//! Codes as a file holds them: one layout for all machines, and from it to that of this one.
//!
//! A file has panels of [`PANEL`] outputs, which is what the narrowest instructions take; wider ones take several of
//! them. It also has the sum of the codes of each block, so that nothing but copying is left to be done where it
//! is read.

use super::super::simd::multiversion;
use super::{BLOCK, Dot, GROUP, blocks, encode_weights, groups};

/// Outputs of a panel in a file.
pub(crate) const PANEL: usize = 16;

/// Codes of one group of k and of one panel.
const STEP: usize = PANEL * GROUP;

/// A weight of (out, in) values, for which a file has codes.
#[derive(Clone, Copy, Debug)]
pub struct StoredShape {
    /// Outputs.
    pub width_out: usize,
    /// Inputs, along which a block has one scale.
    pub width_in: usize,
}

impl StoredShape {
    /// Of the codes: (panels, groups of k, outputs of a panel, values of a group).
    pub fn codes(self) -> [usize; 4] {
        [self.panels(), groups(self.width_in), PANEL, GROUP]
    }

    /// Of the scales, and of the sums: (panels, blocks of k, outputs of a panel).
    pub fn scales(self) -> [usize; 3] {
        [self.panels(), blocks(self.width_in), PANEL]
    }

    fn panels(self) -> usize {
        self.width_out.div_ceil(PANEL)
    }

    /// Codes, and scales, of so many outputs in whole panels.
    pub(crate) fn sizes(self, outputs: usize) -> (usize, usize) {
        let outputs = outputs.next_multiple_of(PANEL);
        (
            outputs * groups(self.width_in) * GROUP,
            outputs * blocks(self.width_in),
        )
    }
}

/// Some panels of a weight as a file holds them.
#[derive(Debug, Default)]
pub struct StoredCodes {
    /// The codes, as [`StoredShape::codes`] orders them.
    pub codes: Vec<i8>,
    /// What a code of each block is worth.
    pub scales: Vec<f32>,
    /// Sums of the codes of each block.
    pub sums: Vec<i32>,
}

impl StoredCodes {
    /// Encodes weights of some whole panels, or of the last ones.
    ///
    /// # Shapes
    ///
    /// `weights` is (outputs, k), row-major.
    pub fn encode(k: usize, weights: &[f32]) -> Self {
        // Its panels are those of a file, and hold no shift.
        let dot = Dot::Portable;
        let (codes, scales) = dot.sizes(k, weights.len() / k);
        let (mut codes, mut with_starts) = (vec![0; codes], vec![0.0; scales]);
        encode_weights(dot, k, weights, &mut codes, &mut with_starts);
        let (with_starts, _) = with_starts.as_chunks::<PANEL>();
        let scales = with_starts.iter().step_by(2).flatten().copied().collect();
        let mut sums = vec![0; with_starts.len() / 2 * PANEL];
        sum_codes(k, &codes, &mut sums);
        Self {
            codes,
            scales,
            sums,
        }
    }
}

/// Sums of the codes of each block, all zeros at first.
///
/// # Shapes
///
/// `codes` and `sums` are whole panels, as in [`StoredShape`].
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "bodies must be compiled into the version of each instruction set"
)]
fn sum_codes_body(k: usize, codes: &[i8], sums: &mut [i32]) {
    let (codes, _) = codes.as_chunks::<STEP>();
    let (sums, _) = sums.as_chunks_mut::<PANEL>();
    let panels = codes.chunks_exact(groups(k));
    let of_blocks = panels.flat_map(|panel| panel.chunks(groups(BLOCK)));
    for (sums, codes) in sums.iter_mut().zip(of_blocks) {
        for codes in codes {
            let (fours, _) = codes.as_chunks::<GROUP>();
            for (sum, four) in sums.iter_mut().zip(fours) {
                *sum += four.iter().map(|&code| i32::from(code)).sum::<i32>();
            }
        }
    }
}

multiversion! {
    pub(crate) fn sum_codes(k: usize, codes: &[i8], sums: &mut [i32]) = sum_codes_body
}

impl Dot {
    /// Whether its codes lie in memory as they do in a file.
    pub(crate) fn takes_stored(self) -> bool {
        self.panel() == PANEL
    }

    /// Lays out codes of some panels of a file.
    ///
    /// # Shapes
    ///
    /// `stored` is as in [`StoredShape`], `codes` as in [`Panels`](super::Panels); where the last panel is wider than
    /// what is stored, its other codes stay as they are.
    pub(crate) fn lay_out(self, k: usize, stored: &[i8], codes: &mut [i8]) {
        let side_by_side = self.panel() / PANEL;
        let width = groups(k) * STEP;
        for (number, stored) in stored.chunks_exact(width).enumerate() {
            let (panel, part) = (number / side_by_side, number % side_by_side);
            let codes = &mut codes[panel * side_by_side * width..];
            let places = codes[part * STEP..].chunks_mut(side_by_side * STEP);
            for (place, step) in places.zip(stored.chunks_exact(STEP)) {
                place[..STEP].copy_from_slice(step);
            }
        }
    }

    /// Lays out scales of some panels of a file, with where the sums of their blocks begin.
    ///
    /// # Shapes
    ///
    /// `stored` and `sums` are as in [`StoredShape`], `scales` as in [`Panels`](super::Panels).
    pub(crate) fn lay_out_scales(self, k: usize, stored: &[f32], sums: &[i32], scales: &mut [f32]) {
        let wide = self.panel();
        let side_by_side = wide / PANEL;
        let of_blocks = stored.chunks_exact(PANEL).zip(sums.chunks_exact(PANEL));
        for (number, (stored, sums)) in of_blocks.enumerate() {
            let (panel, block) = (number / blocks(k), number % blocks(k));
            let (panel, part) = (panel / side_by_side, panel % side_by_side);
            let at = (panel * blocks(k) + block) * 2 * wide + part * PANEL;
            scales[at..at + PANEL].copy_from_slice(stored);
            for (start, &sum) in scales[at + wide..].iter_mut().zip(sums) {
                *start = self.start(sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CODES_VERSION, noise};

    #[test]
    fn a_file_has_the_layout_of_the_narrowest_instructions() {
        assert!(Dot::Portable.takes_stored());
    }

    /// A folder of codes must hold what this program would make of the floats: where this fails, raise
    /// [`CODES_VERSION`](crate::CODES_VERSION) and take the new hash.
    #[test]
    fn codes_of_one_version_are_the_same() {
        let mut weights = noise(100 * 700, 3);
        weights[..256].fill(1e-38);
        weights[256..512]
            .iter_mut()
            .for_each(|weight| *weight *= 1e30);
        let stored = StoredCodes::encode(700, &weights);
        let mut hasher = blake3::Hasher::new();
        hasher.update(bytemuck::cast_slice(&stored.codes));
        for scale in &stored.scales {
            hasher.update(&scale.to_le_bytes());
        }
        for sum in &stored.sums {
            hasher.update(&sum.to_le_bytes());
        }
        let hash = hasher.finalize().to_hex();
        assert_eq!((CODES_VERSION, &hash[..16]), (1, "385ff55a08e6fe13"));
    }

    #[test]
    fn what_is_laid_out_is_what_encoding_gives() {
        for (k, outputs) in [(64, 64), (700, 100), (5, 7), (256, 33), (257, 48)] {
            let weights = noise(outputs * k, 3);
            let stored = StoredCodes::encode(k, &weights);
            let shape = StoredShape {
                width_out: outputs,
                width_in: k,
            };
            assert_eq!(stored.codes.len(), shape.codes().iter().product::<usize>());
            assert_eq!(
                stored.scales.len(),
                shape.scales().iter().product::<usize>()
            );
            assert_eq!(stored.sums.len(), stored.scales.len());
            for dot in [Dot::Portable, Dot::Shifted, Dot::of_machine()] {
                let (codes, scales) = dot.sizes(k, outputs);
                let (mut want, mut want_scales) = (vec![0; codes], vec![0.0; scales]);
                encode_weights(dot, k, &weights, &mut want, &mut want_scales);
                let (mut got, mut got_scales) = (vec![0; codes], vec![0.0; scales]);
                dot.lay_out(k, &stored.codes, &mut got);
                dot.lay_out_scales(k, &stored.scales, &stored.sums, &mut got_scales);
                assert!(got == want, "{dot:?}, {k}, {outputs}");
                assert!(got_scales == want_scales, "{dot:?}, {k}, {outputs}");
            }
        }
    }

    #[test]
    fn nan_makes_the_scale_nan() {
        let mut weights = noise(512, 1);
        weights[300] = f32::NAN;
        let stored = StoredCodes::encode(512, &weights);
        assert!(stored.scales[0].is_finite() && stored.scales[PANEL].is_nan());
    }
}
