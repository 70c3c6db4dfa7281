//! Rows of activations as the products read them: in tiles of few rows, which have their values of one k side by side.

#![expect(
    clippy::inline_always,
    reason = "bodies must be compiled into the version of each instruction set"
)]

use std::cell::RefCell;
use std::ops::Range;

use bytemuck::Zeroable;
use rayon::prelude::*;

use super::norm::Norm;
use super::scratch::take;

/// Most rows that one task computes: rows of 1,024 values stay in the second cache, and wider ones in the third.
pub(super) const TASK_ROWS: usize = 96;

/// Most rows of any tile.
pub(super) const MOST_ROWS: usize = 8;

/// Laying out fewer values than this is not worth a second thread.
const PARALLEL_VALUES: usize = 1 << 14;

thread_local! {
    /// The rows of a tile after their LayerNorm.
    static NORMED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// How a product wants its rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiling {
    /// Values of a row.
    pub(super) k: usize,
    /// Most rows of a tile.
    pub(super) rows: usize,
    /// Words that a row takes.
    pub(super) words: usize,
}

/// Lays rows out, the groups of [`TASK_ROWS`] of them each in tiles of its own.
///
/// # Shapes
///
/// `x` is (rows, k), row-major; `words` has [`Tiling::words`] for each row. `encode` is given the rows of a tile and
/// its words.
pub(super) fn lay_out<T: Send>(
    tiling: Tiling,
    x: &[f32],
    norm: Option<Norm<'_>>,
    words: &mut [T],
    encode: impl Fn(&[f32], &mut [T]) + Sync + Send,
) {
    let Tiling {
        k,
        rows,
        words: width,
    } = tiling;
    let mut tiles = Vec::with_capacity(x.len() / k / rows + 1);
    let mut rest = words;
    for x in x.chunks(TASK_ROWS * k) {
        for tile in tiles_of(x.len() / k, rows) {
            let (words, behind) = rest.split_at_mut(tile.len() * width);
            tiles.push((&x[tile.start * k..tile.end * k], words));
            rest = behind;
        }
    }
    tiles
        .into_par_iter()
        .with_min_len(PARALLEL_VALUES.div_ceil(rows * k))
        .for_each(|(x, words)| match norm {
            None => encode(x, words),
            Some(norm) => NORMED.with_borrow_mut(|normed| {
                let normed = take(normed, x.len());
                norm.rows(x, normed);
                encode(normed, words);
            }),
        });
}

/// One group of rows, laid out one tile after the other.
#[cfg(any(target_arch = "x86_64", test))]
pub(super) fn in_tiles<T: Copy + Zeroable>(
    tiling: Tiling,
    x: &[f32],
    encode: impl Fn(&[f32], &mut [T]),
) -> Vec<T> {
    let Tiling { k, rows, words } = tiling;
    let count = x.len() / k;
    let mut all = vec![T::zeroed(); count * words];
    for tile in tiles_of(count, rows) {
        let x = &x[tile.start * k..tile.end * k];
        encode(x, &mut all[tile.start * words..tile.end * words]);
    }
    all
}

/// The rows of each tile: as few tiles as there can be, as even as they can be.
#[inline(always)]
pub(super) fn tiles_of(rows: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let count = rows.div_ceil(most);
    let least = rows.checked_div(count).unwrap_or(0);
    let larger = rows - least * count;
    // No division for each tile: there are many of them.
    let mut end = 0;
    (0..count).map(move |tile| {
        let start = end;
        end += least + usize::from(tile < larger);
        start..end
    })
}

/// Puts the values of up to [`MOST_ROWS`] rows side by side.
///
/// # Shapes
///
/// `rows` has a row at each multiple of `stride`, (rows, width) to (width, rows).
#[inline(always)]
pub(super) fn interleave<T: Copy>(rows: &[T], stride: usize, count: usize, out: &mut [T]) {
    debug_assert!(count <= MOST_ROWS, "no tile has more rows");
    match count {
        1 => out.copy_from_slice(&rows[..out.len()]),
        2 => interleave_rows::<T, 2>(rows, stride, out),
        3 => interleave_rows::<T, 3>(rows, stride, out),
        4 => interleave_rows::<T, 4>(rows, stride, out),
        5 => interleave_rows::<T, 5>(rows, stride, out),
        6 => interleave_rows::<T, 6>(rows, stride, out),
        7 => interleave_rows::<T, 7>(rows, stride, out),
        _ => interleave_rows::<T, MOST_ROWS>(rows, stride, out),
    }
}

#[inline(always)]
fn interleave_rows<T: Copy, const ROWS: usize>(rows: &[T], stride: usize, out: &mut [T]) {
    let (out, _) = out.as_chunks_mut::<ROWS>();
    let mut values = [&rows[..out.len()]; ROWS];
    for (row, values) in values.iter_mut().enumerate() {
        *values = &rows[row * stride..][..out.len()];
    }
    for (k, out) in out.iter_mut().enumerate() {
        for (out, values) in out.iter_mut().zip(&values) {
            *out = values[k];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise;

    #[test]
    fn every_value_goes_where_its_tile_has_it() {
        let (k, most) = (5, MOST_ROWS);
        for rows in [
            1,
            2,
            7,
            8,
            9,
            20,
            TASK_ROWS,
            TASK_ROWS + 3,
            2 * TASK_ROWS + 90,
        ] {
            let x = noise(rows * k, 3);
            let tiling = Tiling {
                k,
                rows: most,
                words: k,
            };
            let mut words = vec![f32::NAN; x.len()];
            lay_out(tiling, &x, None, &mut words, |x, words| {
                interleave(x, k, x.len() / k, words);
            });
            for first in (0..rows).step_by(TASK_ROWS) {
                for tile in tiles_of(TASK_ROWS.min(rows - first), most) {
                    let words = &words[(first + tile.start) * k..(first + tile.end) * k];
                    for (row, number) in tile.clone().enumerate() {
                        for at in 0..k {
                            let value = x[(first + number) * k + at];
                            assert_eq!(words[at * tile.len() + row], value, "{rows} rows");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn rows_are_normalised_as_alone() {
        let (rows, k) = (300, 96);
        let (x, scale, shift) = (noise(rows * k, 1), noise(k, 2), noise(k, 4));
        let norm = Norm {
            scale: &scale,
            shift: &shift,
            epsilon: 1e-5,
        };
        let mut want = vec![0.0; x.len()];
        super::super::norm::layer_norm(&x, norm, &mut want);
        let tiling = Tiling {
            k,
            rows: 1,
            words: k,
        };
        let mut words = vec![0.0; x.len()];
        lay_out(tiling, &x, Some(norm), &mut words, |x, words| {
            words.copy_from_slice(x);
        });
        assert_eq!(words, want);
    }
}
