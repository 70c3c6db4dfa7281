//! Products with weights that were packed once.
//!
//! Weights are stored in the narrowest type that holds them all exactly, and multiplied in f32: 16 bits
//! take half the memory and half the time to read, and give the same bits.

use std::cell::RefCell;

use half::{bf16, f16};
use rayon::prelude::*;

use super::math::gelu;
use super::product::{Layout, Weight, multiply, pack_rows, pack_weights};

/// Outputs that one task computes; a multiple of every panel.
const TASK_OUTPUTS: usize = 64;
/// Most rows that one task computes: their tiles of one block stay in the second cache.
const TASK_ROWS: usize = 96;

thread_local! {
    /// Rows laid out in tiles, kept between calls because fresh pages cost more than the pass itself.
    static TILES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
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

/// What packed weights are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// 32 bits.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
}

impl Storage {
    /// Bytes of a weight.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// A linear layer whose weight is packed for the CPU; it computes in f32.
pub struct PackedLinear {
    width_in: usize,
    width_out: usize,
    layout: Layout,
    weights: Weights,
    bias: Option<Vec<f32>>,
}

/// The weights of each task.
enum Weights {
    F32(Vec<Vec<f32>>),
    F16(Vec<Vec<f16>>),
    Bf16(Vec<Vec<bf16>>),
}

impl std::fmt::Debug for PackedLinear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackedLinear")
            .field("in", &self.width_in)
            .field("out", &self.width_out)
            .field("layout", &self.layout)
            .field("bias", &self.bias.is_some())
            .finish_non_exhaustive()
    }
}

impl PackedLinear {
    /// Packs a weight of (out, in) values, row-major; `fill(start, buffer)` writes the values from
    /// number `start` on into the buffer. Values that `storage` does not hold are rounded to it.
    pub fn pack(
        width_out: usize,
        width_in: usize,
        storage: Storage,
        bias: Option<Vec<f32>>,
        fill: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) -> Self {
        let layout = Layout::of_machine();
        let source = Source {
            width_out,
            width_in,
            layout,
            fill,
        };
        let weights = match storage {
            Storage::F32 => Weights::F32(source.pack()),
            Storage::F16 => Weights::F16(source.pack()),
            Storage::Bf16 => Weights::Bf16(source.pack()),
        };
        Self {
            width_in,
            width_out,
            layout,
            weights,
            bias,
        }
    }

    /// What the weights are stored as.
    pub fn storage(&self) -> Storage {
        match self.weights {
            Weights::F32(_) => Storage::F32,
            Weights::F16(_) => Storage::F16,
            Weights::Bf16(_) => Storage::Bf16,
        }
    }

    /// Width of an output row.
    pub fn width_out(&self) -> usize {
        self.width_out
    }

    /// Multiplies rows of `x` into rows of `out`.
    ///
    /// # Shapes
    ///
    /// `x` is (rows, in), `out` (rows, out), both row-major.
    pub fn forward(&self, x: &[f32], out: &mut [f32], epilogue: Epilogue<'_>) {
        let mut tiles = TILES.take();
        if tiles.len() < x.len() {
            tiles.resize(x.len(), 0.0);
        }
        let packed = &mut tiles[..x.len()];
        let groups = packed.chunks_mut(TASK_ROWS * self.width_in);
        for (x, tiles) in x.chunks(TASK_ROWS * self.width_in).zip(groups) {
            pack_rows(self.layout, self.width_in, x, tiles);
        }
        match &self.weights {
            Weights::F32(weights) => self.forward_tiles(weights, packed, out, epilogue),
            Weights::F16(weights) => self.forward_tiles(weights, packed, out, epilogue),
            Weights::Bf16(weights) => self.forward_tiles(weights, packed, out, epilogue),
        }
        TILES.set(tiles);
    }

    fn forward_tiles<W: Weight>(
        &self,
        weights: &[Vec<W>],
        tiles: &[f32],
        out: &mut [f32],
        epilogue: Epilogue<'_>,
    ) {
        let rows = out.len() / self.width_out;
        let groups = rows.div_ceil(TASK_ROWS);
        // Tasks of the same weights follow one another, so that memory is read once.
        let mut tasks = Vec::with_capacity(weights.len() * groups);
        for (output, weights) in weights.iter().enumerate() {
            for (group, tiles) in tiles.chunks(TASK_ROWS * self.width_in).enumerate() {
                tasks.push(Task {
                    first_row: group * TASK_ROWS,
                    first_output: output * TASK_OUTPUTS,
                    weights: weights.as_slice(),
                    tiles,
                    out: Vec::with_capacity(tiles.len() / self.width_in),
                });
            }
        }
        for (row, out) in out.chunks_exact_mut(self.width_out).enumerate() {
            for (output, part) in out.chunks_mut(TASK_OUTPUTS).enumerate() {
                tasks[output * groups + row / TASK_ROWS].out.push(part);
            }
        }
        let work = |mut task: Task<'_, W>| {
            let Task {
                weights,
                tiles,
                out,
                ..
            } = &mut task;
            multiply(self.layout, self.width_in, weights, tiles, out);
            self.finish(task, epilogue);
        };
        if rayon::current_num_threads() == 1 {
            tasks.into_iter().for_each(work);
        } else {
            tasks.into_par_iter().for_each(work);
        }
    }

    /// Adds the bias to a task's outputs, and does what the epilogue says.
    fn finish<W>(&self, task: Task<'_, W>, epilogue: Epilogue<'_>) {
        let first = task.first_output;
        for (row, out) in (task.first_row..).zip(task.out) {
            if let Some(bias) = &self.bias {
                for (out, bias) in out.iter_mut().zip(&bias[first..]) {
                    *out += bias;
                }
            }
            match epilogue {
                Epilogue::None => {}
                Epilogue::Gelu => gelu(out),
                Epilogue::Add(residual) => {
                    let start = row * self.width_out + first;
                    for (out, residual) in out.iter_mut().zip(&residual[start..]) {
                        *out += residual;
                    }
                }
            }
        }
    }
}

/// Some outputs of some rows.
struct Task<'a, W> {
    first_row: usize,
    first_output: usize,
    weights: &'a [W],
    tiles: &'a [f32],
    out: Vec<&'a mut [f32]>,
}

/// A weight matrix to be packed.
struct Source<'a> {
    width_out: usize,
    width_in: usize,
    layout: Layout,
    fill: &'a (dyn Fn(usize, &mut [f32]) + Sync),
}

impl Source<'_> {
    /// Each task's weights, packed one by one so that little memory is needed beside the result.
    fn pack<W: Weight>(&self) -> Vec<Vec<W>> {
        let starts: Vec<usize> = (0..self.width_out).step_by(TASK_OUTPUTS).collect();
        let pack = |start: usize| {
            let outputs = TASK_OUTPUTS.min(self.width_out - start);
            let mut values = vec![0.0; outputs * self.width_in];
            (self.fill)(start * self.width_in, &mut values);
            pack_weights(self.layout, self.width_in, &values)
        };
        starts.into_par_iter().map(pack).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::noise;

    fn layer(width_out: usize, width_in: usize) -> (PackedLinear, Vec<f32>, Vec<f32>) {
        let weight = noise(width_out * width_in, 7);
        let bias = noise(width_out, 8);
        let fill = |start: usize, out: &mut [f32]| {
            out.copy_from_slice(&weight[start..start + out.len()]);
        };
        let packed =
            PackedLinear::pack(width_out, width_in, Storage::F32, Some(bias.clone()), &fill);
        (packed, weight, bias)
    }

    #[test]
    fn agrees_with_the_formula() {
        for (rows, width_in, width_out) in [(1, 48, 100), (5, 64, 33), (40, 24, 64), (600, 8, 40)] {
            let (packed, weight, bias) = layer(width_out, width_in);
            let x = noise(rows * width_in, 9);
            let residual = noise(rows * width_out, 10);
            let mut out = vec![7.0; rows * width_out];
            packed.forward(&x, &mut out, Epilogue::Add(&residual));
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
            let (packed, _, _) = layer(width_out, width_in);
            let x = noise(130 * width_in, 11);
            let mut all = vec![0.0; 130 * width_out];
            packed.forward(&x, &mut all, Epilogue::Gelu);
            for rows in 1..=130 {
                for pool in &pools {
                    let mut some = vec![0.0; rows * width_out];
                    let start = (130 - rows) * width_in;
                    pool.install(|| packed.forward(&x[start..], &mut some, Epilogue::Gelu));
                    let want = &all[(130 - rows) * width_out..];
                    let same = some
                        .iter()
                        .zip(want)
                        .all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{width_in} {width_out}: {rows} rows");
                }
            }
        }
    }
}
