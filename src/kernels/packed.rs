//! Products with weights that were packed once.
//!
//! `gemmkit` sums each output over k ascending, in blocks whose borders depend on the weight's shape
//! alone. It writes its output column by column; the pass that turns it into rows adds bias and
//! residual on the way.

use std::cell::RefCell;
use std::ops::Range;

use gemmkit::{MatMut, MatRef, PackedRhs, Parallelism, gemm_packed_b, prepack_rhs};
use rayon::prelude::*;

use super::math::gelu;

/// Weights are unpacked and packed in pieces of this many values (16 MiB), so that loading needs
/// little memory beside the result and large matrices are packed by several threads.
const PIECE_VALUES: usize = 1 << 22;
/// Columns of a piece are a multiple of this, so that no piece ends inside a register tile.
const PIECE_COLUMNS: usize = 64;
/// Rows that are multiplied at once; bounds the scratch space of long prefills.
const ROWS_AT_ONCE: usize = 512;
/// Values of a block below this number are stored by one thread.
const PARALLEL_VALUES: usize = 1 << 14;
/// Side of the square tiles in which columns are turned into rows.
const TILE: usize = 16;

thread_local! {
    /// Column-major output, kept between calls because fresh pages cost more than the pass itself.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
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

/// A linear layer in f32 whose weight is packed for the CPU.
pub struct PackedLinear {
    width_in: usize,
    width_out: usize,
    pieces: Vec<Piece>,
    bias: Option<Vec<f32>>,
}

struct Piece {
    columns: Range<usize>,
    weight: PackedRhs<f32>,
}

impl std::fmt::Debug for PackedLinear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackedLinear")
            .field("in", &self.width_in)
            .field("out", &self.width_out)
            .field("bias", &self.bias.is_some())
            .finish_non_exhaustive()
    }
}

impl PackedLinear {
    /// Packs a weight of (out, in) values, row-major; `fill(start, buffer)` writes the values from
    /// number `start` on into the buffer.
    pub fn pack(
        width_out: usize,
        width_in: usize,
        bias: Option<Vec<f32>>,
        fill: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) -> Self {
        let columns = (PIECE_VALUES / width_in.max(1)).next_multiple_of(PIECE_COLUMNS);
        let starts: Vec<usize> = (0..width_out).step_by(columns.max(PIECE_COLUMNS)).collect();
        let pieces = starts
            .into_par_iter()
            .map(|start| {
                let columns = start..width_out.min(start + columns);
                let mut values = vec![0.0; columns.len() * width_in];
                fill(start * width_in, &mut values);
                let view = MatRef::from_col_major(&values, width_in, columns.len());
                Piece {
                    columns,
                    weight: prepack_rhs(view),
                }
            })
            .collect();
        Self {
            width_in,
            width_out,
            pieces,
            bias,
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
        let inputs = x.chunks(ROWS_AT_ONCE * self.width_in);
        let outputs = out.chunks_mut(ROWS_AT_ONCE * self.width_out);
        for (number, (x, out)) in inputs.zip(outputs).enumerate() {
            let start = number * ROWS_AT_ONCE * self.width_out;
            let epilogue = match epilogue {
                Epilogue::Add(rows) => Epilogue::Add(&rows[start..start + out.len()]),
                other => other,
            };
            self.forward_block(x, out, epilogue);
        }
    }

    fn forward_block(&self, x: &[f32], out: &mut [f32], epilogue: Epilogue<'_>) {
        let rows = x.len() / self.width_in;
        let mut scratch = SCRATCH.take();
        for piece in &self.pieces {
            let count = piece.columns.len();
            if scratch.len() < rows * count {
                scratch.resize(rows * count, 0.0);
            }
            let product = &mut scratch[..rows * count];
            gemm_packed_b(
                1.0,
                MatRef::from_row_major(x, rows, self.width_in),
                &piece.weight,
                0.0,
                MatMut::from_col_major(product, rows, count),
                threads(),
            );
            self.store(piece.columns.clone(), product, rows, out, epilogue);
        }
        SCRATCH.set(scratch);
        if matches!(epilogue, Epilogue::Gelu) {
            if out.len() < PARALLEL_VALUES {
                gelu(out);
            } else {
                let chunk = out.len().div_ceil(rayon::current_num_threads());
                out.par_chunks_mut(chunk).for_each(gelu);
            }
        }
    }

    /// Turns the columns of a product into parts of rows, adding bias and residual.
    fn store(
        &self,
        columns: Range<usize>,
        product: &[f32],
        rows: usize,
        out: &mut [f32],
        epilogue: Epilogue<'_>,
    ) {
        let residual = match epilogue {
            Epilogue::Add(rows) => Some(rows),
            _ => None,
        };
        let bias = self.bias.as_ref().map(|bias| &bias[columns.clone()]);
        let width = self.width_out;
        let store_rows = |first: usize, out: &mut [f32]| {
            for (row, out) in out.chunks_exact_mut(width).enumerate() {
                let out = &mut out[columns.clone()];
                // The residual goes in first as a plain copy.
                if let Some(residual) = residual {
                    let start = (first + row) * width + columns.start;
                    out.copy_from_slice(&residual[start..start + out.len()]);
                } else {
                    out.fill(0.0);
                }
            }
            Block {
                product,
                rows,
                first,
                bias,
            }
            .add_to(out, columns.start, width);
        };
        if product.len() < PARALLEL_VALUES {
            store_rows(0, out);
            return;
        }
        let group = rows.div_ceil(rayon::current_num_threads()).clamp(1, TILE);
        out.par_chunks_mut(group * width)
            .enumerate()
            .for_each(|(number, out)| store_rows(number * group, out));
    }
}

/// Some rows of a column-major product.
struct Block<'a> {
    product: &'a [f32],
    rows: usize,
    first: usize,
    bias: Option<&'a [f32]>,
}

impl Block<'_> {
    fn add_to(&self, out: &mut [f32], first_column: usize, width: usize) {
        let columns = self.product.len() / self.rows;
        let count = out.len() / width;
        for tile in (0..columns).step_by(TILE) {
            let end = columns.min(tile + TILE);
            for row in 0..count {
                let start = row * width + first_column;
                let out = &mut out[start + tile..start + end];
                for (out, column) in out.iter_mut().zip(tile..end) {
                    let value = self.product[column * self.rows + self.first + row];
                    *out += value + self.bias.map_or(0.0, |bias| bias[column]);
                }
            }
        }
    }
}

/// The current pool's threads, so that a caller's pool is respected.
fn threads() -> Parallelism {
    match rayon::current_num_threads() {
        1 => Parallelism::Serial,
        count => Parallelism::Rayon(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    fn layer(width_out: usize, width_in: usize) -> (PackedLinear, Vec<f32>, Vec<f32>) {
        let weight = noise(width_out * width_in, 7);
        let bias = noise(width_out, 8);
        let fill = |start: usize, out: &mut [f32]| {
            out.copy_from_slice(&weight[start..start + out.len()]);
        };
        let packed = PackedLinear::pack(width_out, width_in, Some(bias.clone()), &fill);
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
