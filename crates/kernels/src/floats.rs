//! The product of the CPU in floats: rows times packed weights.
//!
//! Every output is summed the same way whatever the number of rows: over k ascending in blocks of
//! [`BLOCK`], each block from zero with fused multiply-adds, the block sums added in order. The number of
//! rows chooses only how many outputs are computed side by side, so a row's bits never depend on its
//! neighbours; and all instruction sets give the same bits.

#![expect(
    clippy::inline_always,
    reason = "bodies must be compiled into the version of each instruction set"
)]

use super::registers::{Any, Float, Registers, prefetch};
#[cfg(target_arch = "x86_64")]
use super::registers::{Avx2, Avx512};
use super::simd::multiversion;
use super::tiles::{Tiling, interleave, tiles_of};

/// Values of k that are summed before their sum is added to the output.
pub(super) const BLOCK: usize = 256;

/// Outputs that one task computes; a multiple of every panel.
pub(super) const TASK_OUTPUTS: usize = 64;

/// What a task has computed of one row. Rows lie one behind the other, because those of a wide matrix would drive one
/// another out of the first cache.
pub(super) type RowSums = [f32; TASK_OUTPUTS];

/// How many weights ahead memory is asked for where panels are read side by side.
const NEAR: usize = 48;

/// How weights are laid out, and how many rows a tile takes: what the registers hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "other processors take the narrow one")
)]
pub(super) enum Layout {
    /// Panels of 16 outputs, one row at a time: for processors without fused multiply-adds.
    Plain,
    /// Panels of 16 outputs, tiles of 6 rows: 16 registers of 8 values, or 32 of 4.
    Narrow,
    /// Panels of 32 outputs, tiles of 8 rows: 32 registers of 16 values.
    Wide,
}

impl Layout {
    /// The layout that suits this machine.
    pub(super) fn of_machine() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if Avx512::of_machine().is_some() {
                return Self::Wide;
            }
            if Avx2::of_machine().is_none() {
                return Self::Plain;
            }
        }
        Self::Narrow
    }

    /// Outputs of a panel.
    pub(super) fn panel(self) -> usize {
        match self {
            Self::Plain | Self::Narrow => 16,
            Self::Wide => 32,
        }
    }

    /// Most rows of a tile.
    pub(super) fn tile(self) -> usize {
        match self {
            Self::Plain => 1,
            Self::Narrow => 6,
            Self::Wide => 8,
        }
    }
}

/// A product of so many rows and outputs, task by task: `multiply(first output, outputs, sums)`.
#[cfg(any(target_arch = "x86_64", test))]
pub(super) fn task_by_task(
    rows: usize,
    outputs: usize,
    mut multiply: impl FnMut(usize, usize, &mut [RowSums]),
) -> Vec<f32> {
    let mut out = vec![0.0; rows * outputs];
    // What a task does not write is found out.
    let mut sums = vec![[f32::NAN; TASK_OUTPUTS]; rows];
    for first in (0..outputs).step_by(TASK_OUTPUTS) {
        let width = TASK_OUTPUTS.min(outputs - first);
        multiply(first, width, &mut sums);
        for (out, sums) in out.chunks_exact_mut(outputs).zip(&mut sums) {
            out[first..first + width].copy_from_slice(&sums[..width]);
            sums.fill(f32::NAN);
        }
    }
    out
}

/// How rows of k values are laid out.
pub(super) fn tiling(layout: Layout, k: usize) -> Tiling {
    Tiling {
        k,
        rows: layout.tile(),
        words: k,
    }
}

#[inline(always)]
fn pack_tile_body(k: usize, x: &[f32], tile: &mut [f32]) {
    interleave(x, k, x.len() / k, tile);
}

multiversion! {
    /// Lays the rows of a tile out, the values of one k side by side.
    pub(super) fn pack_tile(k: usize, x: &[f32], tile: &mut [f32]) = pack_tile_body
}

/// Lays weights out panel by panel, each with the values of one k side by side; zeros fill the last panel.
///
/// # Shapes
///
/// `weights` is (outputs, k), row-major; `packed` is (panels, k, outputs of a panel), all zeros at first.
pub(super) fn pack_weights<W: Float>(layout: Layout, k: usize, weights: &[f32], packed: &mut [W]) {
    let mut narrowed = vec![W::zeroed(); weights.len()];
    W::narrow_all(weights, &mut narrowed);
    fill_panels(layout.panel(), k, &narrowed, packed);
}

/// Lays the words of outputs out panel by panel, written in the order in which they lie there.
///
/// # Shapes
///
/// (outputs, width) to (panels, width, outputs of a panel).
pub(super) fn fill_panels<T: Copy>(panel: usize, width: usize, words: &[T], packed: &mut [T]) {
    let panels = packed.chunks_exact_mut(panel * width);
    for (words, packed) in words.chunks(panel * width).zip(panels) {
        let outputs = words.len() / width;
        for (at, places) in packed.chunks_exact_mut(panel).enumerate() {
            for (output, place) in places[..outputs].iter_mut().enumerate() {
                *place = words[output * width + at];
            }
        }
    }
}

/// Multiplies rows with some panels of weights.
///
/// # Shapes
///
/// `weights` comes from [`pack_weights`] and begins with the task's first panel; what follows the panels of so many
/// `outputs` is only asked for, as the memory that is read next. `tiles` comes from [`pack_tile`]; `sums` are the rows'.
pub(super) fn multiply<W: Float>(
    layout: Layout,
    k: usize,
    weights: &[W],
    tiles: &[f32],
    outputs: usize,
    sums: &mut [RowSums],
) {
    match layout {
        Layout::Plain => panels::<W, _, 1, 16>(Any, k, weights, tiles, outputs, sums),
        Layout::Narrow => narrow(k, weights, tiles, outputs, sums),
        Layout::Wide => wide(k, weights, tiles, outputs, sums),
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "calls the version whose features are there")]
fn narrow<W: Float>(k: usize, weights: &[W], tiles: &[f32], outputs: usize, sums: &mut [RowSums]) {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn version<W: Float>(
        avx2: Avx2,
        k: usize,
        weights: &[W],
        tiles: &[f32],
        outputs: usize,
        sums: &mut [RowSums],
    ) {
        panels::<W, _, 6, 16>(avx2, k, weights, tiles, outputs, sums);
    }
    let avx2 = Avx2::of_machine().expect("the layout is for AVX2");
    // SAFETY: an `Avx2` exists only where the features of `version` were detected.
    unsafe { version(avx2, k, weights, tiles, outputs, sums) }
}

#[cfg(not(target_arch = "x86_64"))]
fn narrow<W: Float>(k: usize, weights: &[W], tiles: &[f32], outputs: usize, sums: &mut [RowSums]) {
    panels::<W, _, 6, 16>(Any, k, weights, tiles, outputs, sums);
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "calls the version whose features are there")]
fn wide<W: Float>(k: usize, weights: &[W], tiles: &[f32], outputs: usize, sums: &mut [RowSums]) {
    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c")]
    fn version<W: Float>(
        avx512: Avx512,
        k: usize,
        weights: &[W],
        tiles: &[f32],
        outputs: usize,
        sums: &mut [RowSums],
    ) {
        panels::<W, _, 8, 32>(avx512, k, weights, tiles, outputs, sums);
    }
    match Avx512::of_machine() {
        // SAFETY: an `Avx512` exists only where the features of `version` were detected.
        Some(avx512) => unsafe { version(avx512, k, weights, tiles, outputs, sums) },
        None => wide_elsewhere(k, weights, tiles, outputs, sums),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn wide<W: Float>(k: usize, weights: &[W], tiles: &[f32], outputs: usize, sums: &mut [RowSums]) {
    wide_elsewhere(k, weights, tiles, outputs, sums);
}

/// The wide layout where registers do not suit it: only tests have it there.
#[cfg(test)]
fn wide_elsewhere<W: Float>(
    k: usize,
    weights: &[W],
    tiles: &[f32],
    outputs: usize,
    sums: &mut [RowSums],
) {
    panels::<W, _, 8, 32>(Any, k, weights, tiles, outputs, sums);
}

#[cfg(not(test))]
fn wide_elsewhere<W: Float>(_: usize, _: &[W], _: &[f32], _: usize, _: &mut [RowSums]) {
    unreachable!("the wide layout is chosen for AVX-512 alone");
}

/// The body of [`multiply`]: `TILE` rows and `PANEL` outputs at a time.
#[inline(always)]
fn panels<W: Float, R: Registers<W, PANEL, Row = f32>, const TILE: usize, const PANEL: usize>(
    registers: R,
    k: usize,
    weights: &[W],
    tiles: &[f32],
    outputs: usize,
    sums: &mut [RowSums],
) {
    let (weights, _) = weights.as_chunks::<PANEL>();
    panel_by_panel::<W, R, TILE, PANEL>(registers, k, weights, tiles, outputs, sums);
}

/// One block of a panel, and the weights that are read after it.
struct Block<'a, W, const PANEL: usize> {
    weights: &'a [[W; PANEL]],
    /// Not computed with, only asked for, so that they are in the caches by then.
    ahead: &'a [[W; PANEL]],
}

impl<'a, W, const PANEL: usize> Block<'a, W, PANEL> {
    /// The block at `start` of all panels, with what is at `next` after it.
    #[inline(always)]
    fn new(weights: &'a [[W; PANEL]], start: usize, count: usize, next: usize) -> Self {
        let end = weights.len();
        Self {
            weights: &weights[start..start + count],
            ahead: &weights[next.min(end)..(next + count).min(end)],
        }
    }
}

/// Reads the weights from end to end: memory gives them fastest so, and the rows are in the caches.
#[inline(always)]
pub(super) fn panel_by_panel<W, R: Registers<W, PANEL>, const TILE: usize, const PANEL: usize>(
    registers: R,
    steps: usize,
    weights: &[[W; PANEL]],
    tiles: &[R::Row],
    outputs: usize,
    sums: &mut [RowSums],
) {
    let count = outputs.div_ceil(PANEL);
    let rows = sums.len();
    let mut panel = 0;
    while panel < count {
        let side_by_side = match rows {
            1 if 4 * PANEL <= TASK_OUTPUTS && count - panel >= 4 => 4,
            2 | 3 if TILE > 1 && count - panel >= 2 => 2,
            _ => 1,
        };
        for from in (0..steps).step_by(BLOCK / R::STEP) {
            let to = steps.min(from + BLOCK / R::STEP);
            // Panels that are read side by side need no more than the next weights of each: whole blocks of several
            // would drive one another out of the first cache.
            let distance = if side_by_side == 1 { to - from } else { NEAR };
            let at = |number: usize| {
                let start = (panel + number) * steps + from;
                Block::new(weights, start, to - from, start + distance)
            };
            if 4 * PANEL <= TASK_OUTPUTS && side_by_side == 4 {
                let four = [at(0), at(1), at(2), at(3)];
                sum::<W, R, 1, 4, PANEL>(registers, &tiles[from..to], four, sums, panel, from);
            } else if TILE > 1 && side_by_side == 2 {
                let (two, tile) = ([at(0), at(1)], &tiles[rows * from..rows * to]);
                if rows == 2 {
                    sum::<W, R, 2, 2, PANEL>(registers, tile, two, sums, panel, from);
                } else {
                    sum::<W, R, 3, 2, PANEL>(registers, tile, two, sums, panel, from);
                }
            } else {
                rows_of_tiles::<W, R, TILE, PANEL>(
                    registers,
                    steps,
                    tiles,
                    &at(0),
                    sums,
                    panel,
                    from,
                );
            }
        }
        panel += side_by_side;
    }
}

/// All rows with one block of one panel. Each tile asks for its share of the next block.
#[inline(always)]
fn rows_of_tiles<W, R: Registers<W, PANEL>, const TILE: usize, const PANEL: usize>(
    registers: R,
    steps: usize,
    tiles: &[R::Row],
    block: &Block<'_, W, PANEL>,
    sums: &mut [RowSums],
    panel: usize,
    from: usize,
) {
    let (weights, mut ahead) = (block.weights, block.ahead);
    let to = from + weights.len();
    let share = ahead.len().div_ceil(sums.len().div_ceil(TILE).max(1));
    for tile in tiles_of(sums.len(), TILE) {
        let rows = tile.len();
        let start = tile.start * steps;
        let sums = &mut sums[tile];
        let tile = &tiles[start + rows * from..start + rows * to];
        let (asked, later) = ahead.split_at(share.min(ahead.len()));
        ahead = later;
        let block = Block {
            weights,
            ahead: asked,
        };
        if rows == TILE {
            sum::<W, R, TILE, 1, PANEL>(registers, tile, [block], sums, panel, from);
            continue;
        }
        // The constant halves of the conditions keep tiles that cannot be from being compiled.
        if rows == 1 {
            sum::<W, R, 1, 1, PANEL>(registers, tile, [block], sums, panel, from);
        } else if TILE > 2 && rows == 2 {
            sum::<W, R, 2, 1, PANEL>(registers, tile, [block], sums, panel, from);
        } else if TILE > 3 && rows == 3 {
            sum::<W, R, 3, 1, PANEL>(registers, tile, [block], sums, panel, from);
        } else if TILE > 4 && rows == 4 {
            sum::<W, R, 4, 1, PANEL>(registers, tile, [block], sums, panel, from);
        } else if TILE > 5 && rows == 5 {
            sum::<W, R, 5, 1, PANEL>(registers, tile, [block], sums, panel, from);
        } else if TILE > 6 && rows == 6 {
            sum::<W, R, 6, 1, PANEL>(registers, tile, [block], sums, panel, from);
        } else if TILE > 7 && rows == 7 {
            sum::<W, R, 7, 1, PANEL>(registers, tile, [block], sums, panel, from);
        }
    }
}

/// One block of k for `ROWS` rows and `PANELS` panels, of which `first` is the first: the sums start at zero in
/// registers, and are the row's first or are added to it. Meanwhile the weights of `ahead` come from memory.
///
/// Loops have fixed bounds and take no closures: only so the sums stay in registers, and only so they are compiled for
/// the instruction set where a crate is cut into many units.
#[inline(always)]
fn sum<W, R: Registers<W, PANEL>, const ROWS: usize, const PANELS: usize, const PANEL: usize>(
    registers: R,
    tile: &[R::Row],
    mut blocks: [Block<'_, W, PANEL>; PANELS],
    sums: &mut [RowSums],
    first: usize,
    from: usize,
) {
    let (tile, _) = tile.as_chunks::<ROWS>();
    for block in &mut blocks {
        block.weights = &block.weights[..tile.len()];
    }
    let mut of_block = [[registers.zero(); PANELS]; ROWS];
    for (at, x) in tile.iter().enumerate() {
        for panel in 0..PANELS {
            if let Some(ahead) = blocks[panel].ahead.get(at) {
                prefetch(ahead);
            }
            let factors = registers.load(&blocks[panel].weights[at]);
            for row in 0..ROWS {
                of_block[row][panel] = registers.add(of_block[row][panel], x[row], factors);
            }
        }
    }
    for row in 0..ROWS {
        let (all, _) = sums[row].as_chunks_mut::<PANEL>();
        for panel in 0..PANELS {
            put(
                &mut all[first + panel],
                registers.store(of_block[row][panel]),
                from == 0,
            );
        }
    }
}

/// Makes the sums of a block those of all blocks, or adds them.
#[inline(always)]
pub(super) fn put<const PANEL: usize>(
    all: &mut [f32; PANEL],
    of_block: [f32; PANEL],
    is_first: bool,
) {
    if is_first {
        *all = of_block;
    } else {
        for (all, of_block) in all.iter_mut().zip(of_block) {
            *all += of_block;
        }
    }
}

#[cfg(test)]
mod tests;
