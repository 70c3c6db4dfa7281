//! The two products of an MLP in one go.
//!
//! What the first product gives is wide, and nothing but the second reads it. Where the second rounds it to fewer bytes, a task
//! of the first rounds its values and lays them out at once, instead of writing them to memory from where they would be
//! read, rounded and written again. The bits of every row are those of the two products one after the other. Floats
//! take the two products: their tiles are as large as the rows, and with them contexts were read 3 to 7% more slowly.

use rayon::prelude::*;

use super::operands::{Bfloats, Operands, Quantized};
use super::{Epilogue, PackedLinear, SCRATCH, SUMS, Weights};
use crate::columns::{Columns, written};
use crate::floats::{RowSums, TASK_OUTPUTS};
use crate::int8::{BLOCK, blocks};
use crate::math::gelu_body;
use crate::norm::Norm;
use crate::scratch::{Scratch, take};
use crate::simd::multiversion;
use crate::tiles::{MOST_ROWS, TASK_ROWS, tiles_of};

/// Most values of a row that a task computes.
const MOST_VALUES: usize = 256;

/// With fewer tasks a thread, which are larger than those of a product alone, some threads would wait long for others.
const TASKS_A_THREAD: usize = 4;

/// Operands that round a row to few words: its values' words in their order, and behind them its scales in theirs.
trait Narrow: Operands<Word = u32> {
    /// Values whose words follow from no others.
    const INDEPENDENT: usize;

    /// Scales of a row of k values.
    fn scales(_k: usize) -> usize {
        0
    }

    /// Words of a row of k values: of the values, and of their scales.
    fn words(&self, k: usize) -> (usize, usize) {
        let scales = Self::scales(k);
        (self.tiling(k).words - scales, scales)
    }
}

impl Narrow for Bfloats {
    const INDEPENDENT: usize = TASK_OUTPUTS;
}

impl Narrow for Quantized {
    const INDEPENDENT: usize = BLOCK;

    fn scales(k: usize) -> usize {
        blocks(k)
    }
}

impl PackedLinear {
    /// The MLP whose first product this is: `x` plus `down` of the exact GELU of this product of `x` after its LayerNorm.
    ///
    /// # Shapes
    ///
    /// (rows, in) to (rows, in), both row-major; `down` takes as many values as this layer gives, and gives as many as it takes.
    pub fn forward_mlp(&self, down: &Self, x: &[f32], norm: Norm<'_>) -> Vec<f32> {
        let in_one_go = match (&self.weights, &down.weights) {
            (Weights::Bf16Operands(up), Weights::Bf16Operands(of_down)) => {
                self.mlp_in_one_go(up, down, of_down, x, norm)
            }
            (Weights::Q8(up), Weights::Q8(of_down)) => {
                self.mlp_in_one_go(up, down, of_down, x, norm)
            }
            _ => None,
        };
        in_one_go.unwrap_or_else(|| {
            let inner = self.forward(x, Some(norm), Epilogue::Gelu);
            down.forward(&inner, None, Epilogue::Add(x))
        })
    }

    /// [`Self::forward_mlp`] without floats between the products; `None` where a row's words are many or the tasks few.
    #[expect(unsafe_code, reason = "zeros would be written and then overwritten")]
    fn mlp_in_one_go<O: Narrow>(
        &self,
        weights: &O,
        down: &Self,
        of_down: &O,
        x: &[f32],
        norm: Norm<'_>,
    ) -> Option<Vec<f32>> {
        let (k, rows) = (self.width_out, x.len() / self.width_in);
        let tiling = of_down.tiling(k);
        let tasks = k.div_ceil(O::INDEPENDENT) * rows.div_ceil(TASK_ROWS);
        if tasks < TASKS_A_THREAD * rayon::current_num_threads()
            || 2 * tiling.words > k.next_multiple_of(2)
        {
            return None;
        }
        let mut scratch = SCRATCH.take();
        let Scratch {
            words, next_words, ..
        } = &mut scratch;
        let inner = take(next_words, rows * tiling.words);
        let x_rows = self.rows(x, Some(norm)).lay_out(weights, words);
        self.activate(weights, &x_rows, rows, of_down, inner);
        let inner: Vec<_> = inner.chunks(TASK_ROWS * tiling.words).collect();
        let write = |out: &Columns<'_>| down.tasks(of_down, &inner, out, Epilogue::Add(x));
        // SAFETY: each row and output is of one of the tasks.
        let out = unsafe { written(rows, down.width_out, write) };
        SCRATCH.set(scratch);
        Some(out)
    }

    /// The exact GELU of the product, laid out as rows of the product with `next`.
    #[expect(unsafe_code, reason = "tasks write different words of the same rows")]
    fn activate<O: Narrow>(
        &self,
        weights: &O,
        x_rows: &[&[u32]],
        rows: usize,
        next: &O,
        out: &mut [u32],
    ) {
        const {
            assert!(O::INDEPENDENT <= MOST_VALUES);
            assert!(O::INDEPENDENT.is_multiple_of(TASK_OUTPUTS));
        }
        let k = self.width_out;
        let tiling = next.tiling(k);
        let (of_values, _) = next.words(k);
        let all = out.len();
        let out = Columns::of(out, all);
        let tasks = k.div_ceil(O::INDEPENDENT) * x_rows.len();
        (0..tasks).into_par_iter().for_each(|number| {
            let (range, group) = (number / x_rows.len(), number % x_rows.len());
            let (first_row, first) = (group * TASK_ROWS, range * O::INDEPENDENT);
            let count = TASK_ROWS.min(rows - first_row);
            let width = O::INDEPENDENT.min(k - first);
            SUMS.with_borrow_mut(|sums| {
                let sums = take(sums, count * width.div_ceil(TASK_OUTPUTS));
                for (part, sums) in sums.chunks_exact_mut(count).enumerate() {
                    let done = part * TASK_OUTPUTS;
                    let outputs = TASK_OUTPUTS.min(width - done);
                    let task = (first + done) / TASK_OUTPUTS;
                    weights.multiply(self.width_in, task, x_rows[group], outputs, sums);
                }
                let bias = self.bias.as_ref().map(|bias| &bias[first..][..width]);
                let (words, scales) = next.words(width);
                let (words_before, scales_before) = next.words(first);
                let mut values = [0.0; MOST_VALUES * MOST_ROWS];
                let mut laid_out = [0; (MOST_VALUES + 1) * MOST_ROWS];
                for tile in tiles_of(count, tiling.rows) {
                    let tile_rows = tile.len();
                    let values = &mut values[..tile_rows * width];
                    finish(&sums[tile.start..], count, width, bias, values);
                    let laid_out = &mut laid_out[..(words + scales) * tile_rows];
                    next.encode_tile(width, values, laid_out);
                    let (laid_out, laid_out_scales) = laid_out.split_at(words * tile_rows);
                    let start = (first_row + tile.start) * tiling.words;
                    // SAFETY: each range of each row is of one task.
                    unsafe {
                        out.put(0, start + words_before * tile_rows, laid_out);
                        out.put(
                            0,
                            start + (of_values + scales_before) * tile_rows,
                            laid_out_scales,
                        );
                    }
                }
            });
        });
    }
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "body of a multiversion function")]
fn finish_body(
    sums: &[RowSums],
    stride: usize,
    width: usize,
    bias: Option<&[f32]>,
    values: &mut [f32],
) {
    for (row, values) in values.chunks_exact_mut(width).enumerate() {
        let parts = sums[row..].iter().step_by(stride);
        for (values, sums) in values.chunks_mut(TASK_OUTPUTS).zip(parts) {
            values.copy_from_slice(&sums[..values.len()]);
        }
        for (value, bias) in values.iter_mut().zip(bias.unwrap_or(&[])) {
            *value += bias;
        }
        gelu_body(values);
    }
}

multiversion! {
    /// The exact GELU of the sums of a tile's rows and the bias.
    ///
    /// # Shapes
    ///
    /// The sums of a row follow one another at each `stride`; `values` is (rows, width), row-major.
    fn finish(sums: &[RowSums], stride: usize, width: usize, bias: Option<&[f32]>, values: &mut [f32]) = finish_body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise;
    use crate::storage::Storage;

    fn layer(storage: Storage, width_out: usize, width_in: usize, seed: u32) -> PackedLinear {
        let weight = noise(width_out * width_in, seed);
        let fill = |start: usize, out: &mut [f32]| {
            out.copy_from_slice(&weight[start..start + out.len()]);
        };
        let bias = Some(noise(width_out, seed + 1));
        PackedLinear::pack(width_out, width_in, storage, bias, &fill).unwrap()
    }

    #[test]
    fn in_one_go_the_products_have_the_bits_of_the_two() {
        let one_thread = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .unwrap();
        // All widths give enough tasks for one thread, some of them with a narrow one at the end.
        for (width, inner) in [(64, 1024), (48, 1000), (300, 1100)] {
            let (scale, shift) = (noise(width, 6), noise(width, 7));
            let norm = Norm {
                scale: &scale,
                shift: &shift,
                epsilon: 1e-5,
            };
            for storage in Storage::ALL {
                let up = layer(storage, inner, width, 1);
                let down = layer(storage, width, inner, 3);
                let all = noise(200 * width, 5);
                for rows in [1, 2, 7, 8, 9, 95, 96, 97, 130, 200] {
                    let x = &all[..rows * width];
                    let two = up.forward(x, Some(norm), Epilogue::Gelu);
                    let two = down.forward(&two, None, Epilogue::Add(x));
                    let one = one_thread.install(|| up.forward_mlp(&down, x, norm));
                    let same = one
                        .iter()
                        .zip(&two)
                        .all(|(one, two)| one.to_bits() == two.to_bits());
                    assert!(
                        same && one.len() == two.len(),
                        "{storage:?}, {width}, {inner}, {rows} rows"
                    );
                }
            }
        }
    }

    #[test]
    fn many_threads_and_layers_of_two_types_take_the_two_products() {
        let many = rayon::ThreadPoolBuilder::new()
            .num_threads(5)
            .build()
            .unwrap();
        let (width, inner) = (64, 256);
        let (scale, shift) = (noise(width, 6), noise(width, 7));
        let norm = Norm {
            scale: &scale,
            shift: &shift,
            epsilon: 1e-5,
        };
        let x = noise(9 * width, 5);
        for (first, second) in [(Storage::Q8, Storage::Q8), (Storage::F16, Storage::F32)] {
            let (up, down) = (
                layer(first, inner, width, 1),
                layer(second, width, inner, 3),
            );
            let two = up.forward(&x, Some(norm), Epilogue::Gelu);
            let two = down.forward(&two, None, Epilogue::Add(&x));
            assert_eq!(many.install(|| up.forward_mlp(&down, &x, norm)), two);
        }
    }
}
