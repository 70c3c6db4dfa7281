//! CPU products, attention, norms and activations over plain slices; no tensors.
//!
//! Everything that runs on the CPU here is row-invariant: the bits of a row depend on that row and on
//! the weights alone, not on how many rows are computed with it nor on the number of threads. Each
//! kernel therefore walks a row in one fixed order and threads share out rows, never sums.
//! `model/layers` picks them where the network runs on a CPU.

mod attention;
mod bfloat16;
mod floats;
mod int8;
mod int8_dot;
mod math;
mod norm;
mod packed;
mod pages;
pub(crate) mod peaks;
mod registers;
mod scratch;
mod simd;
mod softmax;
mod storage;

pub use attention::{HeadCache, QUERIES, QueryBlock, attend};
pub(crate) use attention::{PANEL, round, write_key};
pub use int8::CODES_VERSION;
pub(crate) use int8::stored::{StoredCodes, StoredShape};
pub use math::gelu;
pub(crate) use math::softmax_weights;
pub use norm::layer_norm;
pub(crate) use norm::row_products;
pub(crate) use packed::coded::{CodesError, CodesSource};
pub use packed::{Epilogue, PackedLinear};
pub(crate) use pages::Pages;
pub(crate) use registers::Float;
pub(crate) use softmax::{
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
