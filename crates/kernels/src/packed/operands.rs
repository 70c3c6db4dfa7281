//! What products have in common, whatever they multiply: rows laid out in words, and packed weights to multiply them with.

use bytemuck::Zeroable;
use half::bf16;

use crate::bfloat16::{self, Form};
use crate::floats::{self, Layout, RowSums, TASK_OUTPUTS};
use crate::int8::{self, Dot, Panels};
use crate::pages::Pages;
use crate::registers::Float;
use crate::scratch::Scratch;
use crate::tiles::Tiling;

/// Weights of (outputs, k) in the order that products read them, and how rows are laid out for them.
pub(super) trait Operands: Sync {
    type Word: Copy + Zeroable + Send + Sync;

    /// The buffer for rows.
    fn buffer(scratch: &mut Scratch) -> &mut Vec<Self::Word>;

    /// How rows of k values are laid out.
    fn tiling(&self, k: usize) -> Tiling;

    /// Lays the rows of a tile out.
    ///
    /// # Shapes
    ///
    /// `x` is (rows, k), row-major; `words` has those of each row.
    fn encode_tile(&self, k: usize, x: &[f32], words: &mut [Self::Word]);

    /// Multiplies a group of rows with the first `outputs` of a task.
    fn multiply(
        &self,
        k: usize,
        task: usize,
        rows: &[Self::Word],
        outputs: usize,
        sums: &mut [RowSums],
    );
}

/// Panels of floats, task after task.
pub(super) struct Floats<W> {
    pub(super) layout: Layout,
    pub(super) values: Pages<W>,
}

/// Panels of factors, task after task.
pub(super) struct Bfloats {
    pub(super) form: Form,
    pub(super) values: Pages<bf16>,
}

/// Panels of codes and their scales, task after task.
pub(super) struct Quantized {
    pub(super) dot: Dot,
    pub(super) codes: Pages<i8>,
    pub(super) scales: Pages<f32>,
}

impl<W: Float> Operands for Floats<W> {
    type Word = f32;

    fn buffer(scratch: &mut Scratch) -> &mut Vec<f32> {
        &mut scratch.floats
    }

    fn tiling(&self, k: usize) -> Tiling {
        floats::tiling(self.layout, k)
    }

    fn encode_tile(&self, k: usize, x: &[f32], words: &mut [f32]) {
        floats::pack_tile(k, x, words);
    }

    fn multiply(&self, k: usize, task: usize, rows: &[f32], outputs: usize, sums: &mut [RowSums]) {
        // To their end, not to that of the task, which asks for the first weights of the next one.
        let weights = &self.values[task * TASK_OUTPUTS * k..];
        floats::multiply(self.layout, k, weights, rows, outputs, sums);
    }
}

impl Operands for Bfloats {
    type Word = u32;

    fn buffer(scratch: &mut Scratch) -> &mut Vec<u32> {
        &mut scratch.words
    }

    fn tiling(&self, k: usize) -> Tiling {
        bfloat16::tiling(self.form, k)
    }

    fn encode_tile(&self, k: usize, x: &[f32], words: &mut [u32]) {
        bfloat16::encode_tile(self.form, k, x, words);
    }

    fn multiply(&self, k: usize, task: usize, rows: &[u32], outputs: usize, sums: &mut [RowSums]) {
        let weights = &self.values[self.form.size(k, TASK_OUTPUTS) * task..];
        bfloat16::multiply(self.form, k, weights, rows, outputs, sums);
    }
}

impl Operands for Quantized {
    type Word = u32;

    fn buffer(scratch: &mut Scratch) -> &mut Vec<u32> {
        &mut scratch.words
    }

    fn tiling(&self, k: usize) -> Tiling {
        int8::tiling(self.dot, k)
    }

    fn encode_tile(&self, k: usize, x: &[f32], words: &mut [u32]) {
        int8::encode_tile(self.dot, k, x, words);
    }

    fn multiply(&self, k: usize, task: usize, rows: &[u32], outputs: usize, sums: &mut [RowSums]) {
        let (codes, scales) = self.dot.sizes(k, TASK_OUTPUTS);
        let panels = Panels {
            dot: self.dot,
            k,
            codes: &self.codes[codes * task..],
            scales: &self.scales[scales * task..],
        };
        panels.multiply(rows, outputs, sums);
    }
}
