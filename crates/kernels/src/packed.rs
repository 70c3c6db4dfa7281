//! Products with weights that were packed once.
//!
//! Floats are stored in the narrowest type that holds them all exactly, and multiplied in f32: 16 bits
//! take half the memory and half the time to read, and give the same bits. Only where it is asked for are
//! the rows rounded too, to bf16 or to whole numbers.

use std::cell::RefCell;
use std::io;

use half::{bf16, f16};
use rayon::prelude::*;

use super::bfloat16::{self, Form};
use super::columns::{Columns, written};
use super::floats::{Layout, RowSums, TASK_OUTPUTS, pack_weights};
use super::int8::{Dot, encode_weights};
use super::math::gelu_body;
use super::norm::Norm;
use super::pages::Pages;
use super::registers::Float;
use super::scratch::{Scratch, take};
use super::simd::multiversion;
use super::storage::Storage;
use super::tiles::{TASK_ROWS, lay_out};

use self::operands::{Bfloats, Floats, Operands, Quantized};

pub(super) mod coded;
mod mlp;
mod operands;

thread_local! {
    /// Rows as the products want them, kept between calls because fresh pages cost more than the pass
    /// itself.
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };

    /// The sums of a task.
    static SUMS: RefCell<Vec<RowSums>> = const { RefCell::new(Vec::new()) };
}

/// What happens to a product before it is stored.
#[derive(Clone, Copy, Debug)]
pub enum Epilogue<'a> {
    /// Only the bias is added.
    None,
    /// The exact GELU of product plus bias.
    Gelu,
    /// Product plus bias plus these (rows, out) values.
    Add(&'a [f32]),
}

/// A linear layer whose weight is packed for the CPU; it takes and gives f32.
pub struct PackedLinear {
    width_in: usize,
    width_out: usize,
    weights: Weights,
    bias: Option<Vec<f32>>,
}

/// The weights of each task.
enum Weights {
    F32(Floats<f32>),
    F16(Floats<f16>),
    Bf16(Floats<bf16>),
    Bf16Operands(Bfloats),
    Q8(Quantized),
}

impl std::fmt::Debug for PackedLinear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackedLinear")
            .field("in", &self.width_in)
            .field("out", &self.width_out)
            .field("storage", &self.storage())
            .field("bias", &self.bias.is_some())
            .finish_non_exhaustive()
    }
}

impl PackedLinear {
    /// Packs a weight of (out, in) values, row-major; `fill(start, buffer)` writes the values from
    /// number `start` on into the buffer. Values that `storage` does not hold are rounded to it.
    ///
    /// # Errors
    ///
    /// Where the system has no memory left.
    pub fn pack(
        width_out: usize,
        width_in: usize,
        storage: Storage,
        bias: Option<Vec<f32>>,
        fill: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) -> io::Result<Self> {
        let source = Source {
            width_out,
            width_in,
            fill,
        };
        let weights = match storage {
            Storage::F32 => Weights::F32(source.floats()?),
            Storage::F16 => Weights::F16(source.floats()?),
            Storage::Bf16 => Weights::Bf16(source.floats()?),
            Storage::Bf16Operands => Weights::Bf16Operands(source.bfloats()?),
            Storage::Q8 => Weights::Q8(source.codes()?),
        };
        Ok(Self {
            width_in,
            width_out,
            weights,
            bias,
        })
    }

    /// Bytes that a weight of (out, in) values takes once it is packed on this machine. Panels are whole, so
    /// that it may be more than [`Storage::bytes`].
    pub fn bytes_of(width_out: usize, width_in: usize, storage: Storage) -> usize {
        let floats = || width_out.next_multiple_of(Layout::of_machine().panel()) * width_in;
        match storage {
            Storage::F32 => floats() * size_of::<f32>(),
            Storage::F16 => floats() * size_of::<f16>(),
            Storage::Bf16 => floats() * size_of::<bf16>(),
            Storage::Bf16Operands => {
                Form::of_machine().size(width_in, width_out) * size_of::<bf16>()
            }
            Storage::Q8 => {
                let (codes, scales) = Dot::of_machine().sizes(width_in, width_out);
                codes + scales * size_of::<f32>()
            }
        }
    }

    /// What the weights are stored as.
    pub fn storage(&self) -> Storage {
        match self.weights {
            Weights::F32(_) => Storage::F32,
            Weights::F16(_) => Storage::F16,
            Weights::Bf16(_) => Storage::Bf16,
            Weights::Bf16Operands(_) => Storage::Bf16Operands,
            Weights::Q8(_) => Storage::Q8,
        }
    }

    /// Width of an input row.
    pub fn width_in(&self) -> usize {
        self.width_in
    }

    /// Width of an output row.
    pub fn width_out(&self) -> usize {
        self.width_out
    }

    /// Multiplies rows of `x`, after their LayerNorm where one is given.
    ///
    /// # Shapes
    ///
    /// `x` is (rows, in) and the product (rows, out), both row-major.
    #[expect(unsafe_code, reason = "zeros would be written and then overwritten")]
    pub fn forward(&self, x: &[f32], norm: Option<Norm<'_>>, epilogue: Epilogue<'_>) -> Vec<f32> {
        let rows = self.rows(x, norm);
        let write = |out: &Columns<'_>| self.multiply(rows, out, epilogue);
        // SAFETY: each row and output is of one of the tasks.
        unsafe { written(x.len() / self.width_in, self.width_out, write) }
    }

    /// The product alone, into memory that is there already.
    pub fn forward_into(&self, x: &[f32], out: &mut [f32]) {
        let rows = self.rows(x, None);
        self.multiply(rows, &Columns::of(out, self.width_out), Epilogue::None);
    }

    fn rows<'a>(&self, x: &'a [f32], norm: Option<Norm<'a>>) -> Input<'a> {
        let k = self.width_in;
        Input { x, k, norm }
    }

    fn multiply(&self, rows: Input<'_>, out: &Columns<'_>, epilogue: Epilogue<'_>) {
        match &self.weights {
            Weights::F32(weights) => self.product(weights, rows, out, epilogue),
            Weights::F16(weights) => self.product(weights, rows, out, epilogue),
            Weights::Bf16(weights) => self.product(weights, rows, out, epilogue),
            Weights::Bf16Operands(weights) => self.product(weights, rows, out, epilogue),
            Weights::Q8(weights) => self.product(weights, rows, out, epilogue),
        }
    }

    fn product<O: Operands>(
        &self,
        weights: &O,
        rows: Input<'_>,
        out: &Columns<'_>,
        epilogue: Epilogue<'_>,
    ) {
        let mut scratch = SCRATCH.take();
        let rows = rows.lay_out(weights, O::buffer(&mut scratch));
        self.tasks(weights, &rows, out, epilogue);
        SCRATCH.set(scratch);
    }

    /// Multiplies groups of [`TASK_ROWS`] rows that are laid out, task by task.
    fn tasks<O: Operands>(
        &self,
        weights: &O,
        rows: &[&[O::Word]],
        out: &Columns<'_>,
        epilogue: Epilogue<'_>,
    ) {
        let groups = rows.len();
        // Tasks of the same weights follow one another, so that memory is read once.
        let tasks = self.width_out.div_ceil(TASK_OUTPUTS) * groups;
        (0..tasks).into_par_iter().for_each(|number| {
            let (task, group) = (number / groups, number % groups);
            let (first_row, first_output) = (group * TASK_ROWS, task * TASK_OUTPUTS);
            let outputs = TASK_OUTPUTS.min(self.width_out - first_output);
            SUMS.with_borrow_mut(|sums| {
                let sums = take(sums, TASK_ROWS.min(out.rows() - first_row));
                weights.multiply(self.width_in, task, rows[group], outputs, sums);
                let last = LastStep {
                    first_row,
                    first_output,
                    outputs,
                    bias: self.bias.as_deref(),
                    epilogue,
                };
                finish(&last, sums, out);
            });
        });
    }
}

/// Rows that are to be multiplied.
#[derive(Clone, Copy)]
struct Input<'a> {
    /// (rows, k), row-major.
    x: &'a [f32],
    k: usize,
    norm: Option<Norm<'a>>,
}

impl Input<'_> {
    /// The rows as a product reads them, the words of each group of [`TASK_ROWS`].
    fn lay_out<'w, O: Operands>(
        self,
        weights: &O,
        words: &'w mut Vec<O::Word>,
    ) -> Vec<&'w [O::Word]> {
        let tiling = weights.tiling(self.k);
        let words = take(words, self.x.len() / tiling.k * tiling.words);
        lay_out(tiling, self.x, self.norm, words, |x, words| {
            weights.encode_tile(tiling.k, x, words);
        });
        words.chunks(TASK_ROWS * tiling.words).collect()
    }
}

/// What is left to do with a task's sums.
struct LastStep<'a> {
    first_row: usize,
    first_output: usize,
    outputs: usize,
    bias: Option<&'a [f32]>,
    epilogue: Epilogue<'a>,
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "body of a multiversion function")]
#[expect(unsafe_code, reason = "tasks write different parts of the same rows")]
fn finish_body(last: &LastStep<'_>, sums: &mut [RowSums], out: &Columns<'_>) {
    let outputs = last.first_output..last.first_output + last.outputs;
    for (row, sums) in (last.first_row..).zip(sums) {
        let sums = &mut sums[..last.outputs];
        if let Some(bias) = last.bias {
            for (sum, bias) in sums.iter_mut().zip(&bias[outputs.clone()]) {
                *sum += bias;
            }
        }
        match last.epilogue {
            Epilogue::None => {}
            Epilogue::Gelu => gelu_body(sums),
            Epilogue::Add(residual) => {
                let residual = &residual[row * out.width()..][outputs.clone()];
                for (sum, residual) in sums.iter_mut().zip(residual) {
                    *sum += residual;
                }
            }
        }
        // SAFETY: each row and output is of one task.
        unsafe { out.put(row, last.first_output, sums) }
    }
}

multiversion! {
    /// Adds the bias to a task's sums, does what the epilogue says, and puts them to their place.
    fn finish(last: &LastStep<'_>, sums: &mut [RowSums], out: &Columns<'_>) = finish_body
}

/// A weight matrix to be packed.
struct Source<'a> {
    width_out: usize,
    width_in: usize,
    fill: &'a (dyn Fn(usize, &mut [f32]) + Sync),
}

impl Source<'_> {
    fn floats<W: Float>(&self) -> io::Result<Floats<W>> {
        let (layout, k) = (Layout::of_machine(), self.width_in);
        let outputs = self.width_out.next_multiple_of(layout.panel());
        let mut values = Pages::zeroed(outputs * k)?;
        let tasks = values.par_chunks_mut(TASK_OUTPUTS * k);
        tasks.enumerate().for_each(|(task, values)| {
            pack_weights(layout, k, &self.values(task), values);
        });
        Ok(Floats { layout, values })
    }

    fn bfloats(&self) -> io::Result<Bfloats> {
        let (form, k) = (Form::of_machine(), self.width_in);
        let mut values = Pages::zeroed(form.size(k, self.width_out))?;
        let tasks = values.par_chunks_mut(form.size(k, TASK_OUTPUTS));
        tasks.enumerate().for_each(|(task, values)| {
            bfloat16::encode_weights(form, k, &self.values(task), values);
        });
        Ok(Bfloats { form, values })
    }

    fn codes(&self) -> io::Result<Quantized> {
        let (dot, k) = (Dot::of_machine(), self.width_in);
        let (count, scales) = dot.sizes(k, self.width_out);
        let mut codes = Pages::zeroed(count)?;
        let mut scales = Pages::zeroed(scales)?;
        let (codes_at_once, scales_at_once) = dot.sizes(k, TASK_OUTPUTS);
        codes
            .par_chunks_mut(codes_at_once)
            .zip(scales.par_chunks_mut(scales_at_once))
            .enumerate()
            .for_each(|(task, (codes, scales))| {
                encode_weights(dot, k, &self.values(task), codes, scales);
            });
        Ok(Quantized { dot, codes, scales })
    }

    /// One task's weights, row-major; only so many at a time lie beside the packed ones.
    fn values(&self, task: usize) -> Vec<f32> {
        let first = task * TASK_OUTPUTS;
        let outputs = TASK_OUTPUTS.min(self.width_out - first);
        let mut values = vec![0.0; outputs * self.width_in];
        (self.fill)(first * self.width_in, &mut values);
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise;

    fn layer(
        storage: Storage,
        width_out: usize,
        width_in: usize,
    ) -> (PackedLinear, Vec<f32>, Vec<f32>) {
        let weight = noise(width_out * width_in, 7);
        let bias = noise(width_out, 8);
        let fill = |start: usize, out: &mut [f32]| {
            out.copy_from_slice(&weight[start..start + out.len()]);
        };
        let packed =
            PackedLinear::pack(width_out, width_in, storage, Some(bias.clone()), &fill).unwrap();
        (packed, weight, bias)
    }

    #[test]
    fn agrees_with_the_formula() {
        for (rows, width_in, width_out) in [(1, 48, 100), (5, 64, 33), (40, 24, 64), (600, 8, 40)] {
            let (packed, weight, bias) = layer(Storage::F32, width_out, width_in);
            let x = noise(rows * width_in, 9);
            let residual = noise(rows * width_out, 10);
            let out = packed.forward(&x, None, Epilogue::Add(&residual));
            for row in 0..rows {
                for column in 0..width_out {
                    let product: f64 = (0..width_in)
                        .map(|k| {
                            f64::from(x[row * width_in + k])
                                * f64::from(weight[column * width_in + k])
                        })
                        .sum();
                    let at = row * width_out + column;
                    let want = product + f64::from(bias[column]) + f64::from(residual[at]);
                    assert!(
                        (f64::from(out[at]) - want).abs() < 2e-5,
                        "{rows} {row} {column}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_bytes_of_a_weight_are_known_before_it_is_packed() {
        for (width_in, width_out) in [(64, 192), (48, 33), (700, 301), (5, 7)] {
            for storage in Storage::ALL {
                let (packed, _, _) = layer(storage, width_out, width_in);
                let bytes = match &packed.weights {
                    Weights::F32(weights) => size_of_val(&weights.values[..]),
                    Weights::F16(weights) => size_of_val(&weights.values[..]),
                    Weights::Bf16(weights) => size_of_val(&weights.values[..]),
                    Weights::Bf16Operands(weights) => size_of_val(&weights.values[..]),
                    Weights::Q8(weights) => {
                        size_of_val(&weights.codes[..]) + size_of_val(&weights.scales[..])
                    }
                };
                let told = PackedLinear::bytes_of(width_out, width_in, storage);
                assert_eq!(told, bytes, "{storage:?}, {width_in} {width_out}");
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_beside_any_others_and_on_any_threads() {
        let pools: Vec<_> = [1, 2, 3]
            .map(|n| {
                rayon::ThreadPoolBuilder::new()
                    .num_threads(n)
                    .build()
                    .unwrap()
            })
            .into();
        for (width_in, width_out) in [
            (64, 192),
            (64, 256),
            (256, 64),
            (48, 48),
            (64, 512),
            (700, 300),
        ] {
            for storage in [Storage::F32, Storage::Bf16Operands, Storage::Q8] {
                let (packed, _, _) = layer(storage, width_out, width_in);
                let x = noise(130 * width_in, 11);
                let (scale, shift) = (noise(width_in, 12), noise(width_in, 13));
                let norm = Norm {
                    scale: &scale,
                    shift: &shift,
                    epsilon: 1e-5,
                };
                let product = |x: &[f32]| packed.forward(x, Some(norm), Epilogue::Gelu);
                let all = product(&x);
                for rows in 1..=130 {
                    for pool in &pools {
                        let start = (130 - rows) * width_in;
                        let some = pool.install(|| product(&x[start..]));
                        let want = &all[(130 - rows) * width_out..];
                        let mut pairs = some.iter().zip(want);
                        let same = pairs.all(|(some, want)| some.to_bits() == want.to_bits());
                        assert!(same, "{storage:?}, {width_in} {width_out}: {rows} rows");
                    }
                }
            }
        }
    }
}
