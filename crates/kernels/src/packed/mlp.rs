//! The two products of an MLP, with nothing but codes between them where both multiply codes.
//!
//! What the first product gives is wide, and the second reads it once. So a task of the first computes a whole block of
//! the second's k and leaves its codes, a quarter of the bytes, where the second product wants them. The codes, and so the bits
//! of every row, are those of the two products one after the other.

use rayon::prelude::*;

use super::{Epilogue, Input, PackedLinear, Quantized, SCRATCH, SUMS, Weights};
use crate::columns::{Columns, written};
use crate::floats::{RowSums, TASK_OUTPUTS};
use crate::int8::{self, BLOCK, Dot, encode_block, groups};
use crate::math::gelu_body;
use crate::norm::Norm;
use crate::scratch::{Scratch, take};
use crate::simd::multiversion;
use crate::tiles::{MOST_ROWS, TASK_ROWS, Tiling, tiles_of};

/// Outputs of a task are a block, so there must be so many blocks a thread: with fewer the threads would end far apart.
const TASKS_A_THREAD: usize = 4;

impl PackedLinear {
    /// The MLP whose first product this is: `x` plus `down` of the exact GELU of this product of `x` after its LayerNorm.
    ///
    /// # Shapes
    ///
    /// (rows, in) to (rows, in), both row-major; `down` takes as many values as this layer gives, and gives as many as it takes.
    pub fn forward_mlp(&self, down: &Self, x: &[f32], norm: Norm<'_>) -> Vec<f32> {
        let tasks = self.width_out.div_ceil(BLOCK) * (x.len() / self.width_in).div_ceil(TASK_ROWS);
        match (&self.weights, &down.weights) {
            (Weights::Q8(of_up), Weights::Q8(of_down))
                if tasks >= TASKS_A_THREAD * rayon::current_num_threads() =>
            {
                self.coded_mlp(of_up, down, of_down, x, norm)
            }
            _ => {
                let inner = self.forward(x, Some(norm), Epilogue::Gelu);
                down.forward(&inner, None, Epilogue::Add(x))
            }
        }
    }

    #[expect(unsafe_code, reason = "zeros would be written and then overwritten")]
    fn coded_mlp(
        &self,
        of_up: &Quantized,
        down: &Self,
        of_down: &Quantized,
        x: &[f32],
        norm: Norm<'_>,
    ) -> Vec<f32> {
        let mut scratch = SCRATCH.take();
        let Scratch {
            words, next_words, ..
        } = &mut scratch;
        let rows = x.len() / self.width_in;
        let tiling = int8::tiling(of_down.dot, down.width_in);
        let inner = take(next_words, rows * tiling.words);
        let x_rows = Input {
            x,
            norm: Some(norm),
        };
        self.activated_codes(of_up, x_rows, words, of_down.dot, tiling, inner);
        let inner: Vec<&[u32]> = inner.chunks(TASK_ROWS * tiling.words).collect();
        let write = |out: &Columns<'_>| {
            down.tasks(out, Epilogue::Add(x), |task, group, outputs, sums| {
                of_down
                    .panels(down.width_in, task)
                    .multiply(inner[group], outputs, sums);
            });
        };
        // SAFETY: each row and output is of one of the tasks.
        let out = unsafe { written(rows, down.width_out, write) };
        SCRATCH.set(scratch);
        out
    }

    /// The exact GELU of the product, as the rows of a product with `dot` and `tiling`.
    fn activated_codes(
        &self,
        weights: &Quantized,
        rows: Input<'_>,
        words: &mut Vec<u32>,
        dot: Dot,
        tiling: Tiling,
        out: &mut [u32],
    ) {
        let count = rows.x.len() / self.width_in;
        let words = self.encoded(weights.dot, rows, words);
        let row_groups = words.len();
        let all = out.len();
        let out = Columns::of(out, all);
        let tasks = self.width_out.div_ceil(BLOCK) * row_groups;
        (0..tasks).into_par_iter().for_each(|number| {
            let (block, group) = (number / row_groups, number % row_groups);
            let count = TASK_ROWS.min(count - group * TASK_ROWS);
            let outputs = BLOCK.min(self.width_out - block * BLOCK);
            SUMS.with_borrow_mut(|sums| {
                let sums = take(sums, count * outputs.div_ceil(TASK_OUTPUTS));
                for (part, sums) in sums.chunks_exact_mut(count).enumerate() {
                    let task = block * (BLOCK / TASK_OUTPUTS) + part;
                    let outputs = TASK_OUTPUTS.min(outputs - part * TASK_OUTPUTS);
                    weights
                        .panels(self.width_in, task)
                        .multiply(words[group], outputs, sums);
                }
                let last = LastStep {
                    dot,
                    tiling,
                    count,
                    first: group * TASK_ROWS * tiling.words,
                    block,
                    outputs,
                    bias: self.bias.as_deref(),
                };
                finish(&last, sums, &out);
            });
        });
    }
}

/// What is left to do with a task's sums.
struct LastStep<'a> {
    /// What the next product multiplies with, and how it wants its rows.
    dot: Dot,
    tiling: Tiling,
    /// Rows of the task.
    count: usize,
    /// The first word of the first row.
    first: usize,
    /// The block of the next product's k.
    block: usize,
    /// Values of it.
    outputs: usize,
    bias: Option<&'a [f32]>,
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "body of a multiversion function")]
#[expect(unsafe_code, reason = "tasks write different blocks of the same rows")]
fn finish_body(last: &LastStep<'_>, sums: &[RowSums], out: &Columns<'_, u32>) {
    let Tiling { k, words, .. } = last.tiling;
    let bias = last
        .bias
        .map(|bias| &bias[last.block * BLOCK..][..last.outputs]);
    let mut values = [[0.0; BLOCK]; MOST_ROWS];
    for tile in tiles_of(last.count, last.dot.tile()) {
        let rows = tile.len();
        for (row, values) in tile.clone().zip(&mut values) {
            let parts = sums.iter().skip(row).step_by(last.count);
            for (values, sums) in values.chunks_exact_mut(TASK_OUTPUTS).zip(parts) {
                values.copy_from_slice(sums);
            }
            let values = &mut values[..last.outputs];
            if let Some(bias) = bias {
                for (value, bias) in values.iter_mut().zip(bias) {
                    *value += bias;
                }
            }
            gelu_body(values);
        }
        let blocks = values[..rows].iter().map(|values| &values[..last.outputs]);
        let mut codes = [0; groups(BLOCK) * MOST_ROWS];
        let mut scales = [0; MOST_ROWS];
        let (codes, scales) = (
            &mut codes[..groups(last.outputs) * rows],
            &mut scales[..rows],
        );
        encode_block(last.dot, blocks, codes, scales);
        let first = last.first + tile.start * words;
        // SAFETY: each block of each row is of one task.
        unsafe {
            out.put(0, first + last.block * groups(BLOCK) * rows, codes);
            out.put(0, first + (groups(k) + last.block) * rows, scales);
        }
    }
}

multiversion! {
    /// Adds the bias to a task's sums, and leaves the codes of their exact GELU where the next product reads them.
    fn finish(last: &LastStep<'_>, sums: &[RowSums], out: &Columns<'_, u32>) = finish_body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise;
    use crate::storage::Storage;

    fn layer(width_out: usize, width_in: usize, seed: u32) -> PackedLinear {
        let weight = noise(width_out * width_in, seed);
        let fill = |start: usize, out: &mut [f32]| {
            out.copy_from_slice(&weight[start..start + out.len()]);
        };
        let bias = Some(noise(width_out, seed + 1));
        PackedLinear::pack(width_out, width_in, Storage::Q8, bias, &fill).unwrap()
    }

    #[test]
    fn codes_between_the_products_give_the_bits_of_the_two() {
        for (width, inner) in [(64, 256), (48, 200), (300, 1100), (40, 1)] {
            let (up, down) = (layer(inner, width, 1), layer(width, inner, 3));
            let x = noise(200 * width, 5);
            let (scale, shift) = (noise(width, 6), noise(width, 7));
            let norm = Norm {
                scale: &scale,
                shift: &shift,
                epsilon: 1e-5,
            };
            let (Weights::Q8(of_up), Weights::Q8(of_down)) = (&up.weights, &down.weights) else {
                unreachable!("they are packed as codes")
            };
            for rows in [1, 2, 7, 8, 9, 95, 96, 97, 130, 200] {
                let x = &x[..rows * width];
                let two = up.forward(x, Some(norm), Epilogue::Gelu);
                let two = down.forward(&two, None, Epilogue::Add(x));
                let one = up.coded_mlp(of_up, &down, of_down, x, norm);
                let bits =
                    |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
                assert_eq!(bits(one), bits(two), "{width}, {inner}, {rows} rows");
            }
        }
    }
}
