//! CPU products, attention and activations, and the layers that pick them or candle's own.
//!
//! Everything that runs on the CPU here is row-invariant: the bits of a row depend on that row and on
//! the weights alone, not on how many rows stand beside it nor on the number of threads. Each
//! kernel therefore walks a row in one fixed order and threads share out rows, never sums.
//! `model` builds its network from [`Linear`], [`LayerNorm`] and [`Embedding`]; whether they hold
//! packed host weights or device tensors is decided once, where they are built.

mod attention;
mod embedding;
mod host;
mod linear;
mod math;
mod norm;
mod packed;
mod product;
mod simd;

pub use attention::{HeadCache, attend};
pub use embedding::{Embedding, HostTable};
pub use host::{from_host, with_host};
pub use linear::Linear;
pub use math::gelu;
pub use norm::{LayerNorm, layer_norm};
pub use packed::{Epilogue, PackedLinear, Storage};
