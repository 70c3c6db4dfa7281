//! CPU products, attention, norms and activations over plain slices; no tensors.
//!
//! Everything that runs on the CPU here is row-invariant: the bits of a row depend on that row and on
//! the weights alone, not on how many rows are computed with it nor on the number of threads. Each
//! kernel therefore walks a row in one fixed order and threads share out rows, never sums.
//!
//! `glm-batch` picks them where a network runs on a CPU (`src/model/layers`). It promises nothing to other programs: any
//! of this may change with any version.

mod attention;
mod bfloat16;
mod cached;
mod columns;
mod compiled;
mod floats;
mod int8;
mod int8_dot;
mod math;
mod norm;
mod packed;
mod pages;
pub mod peaks;
mod registers;
mod scratch;
mod simd;
mod softmax;
mod storage;
mod tiles;

pub use attention::{HeadCache, PANEL, QUERIES, QueryBlock};
pub use cached::{CachedNumber, NewTokens, ask_for_panel, cached_numbers};
pub use compiled::Cached;
pub use int8::CODES_VERSION;
pub use int8::stored::{StoredCodes, StoredShape};
pub use math::{gelu, softmax_weights};
pub use norm::{Norm, layer_norm, row_products};
pub use packed::coded::{CodesError, CodesSource};
pub use packed::{Epilogue, PackedLinear};
pub use pages::Pages;
pub use registers::{Float, Number};
pub use softmax::{
    Broken, LogSoftmax, WEIGHT_ERROR, WEIGHTS_AT_ONCE, first_of, largest, relative_doubt,
    sum_of_weights,
};
pub use storage::Storage;

/// Version of the order in which the arithmetic is done: another one means that an answer's bits may differ. A
/// resume with another one is refused; `tests/it/arithmetic.rs` says when to raise it.
pub const ARITHMETIC: &str = "4";

/// Values between -1 and 1, the same for the same seed.
#[cfg(test)]
fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
