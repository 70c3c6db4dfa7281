//! The layers of the network: each picks a kernel of this program on the CPU, and candle's elsewhere.
//!
//! Whether a layer holds packed host weights or device tensors is decided once, where it is built; whatever
//! calls it need not know.

mod embedding;
mod host;
mod linear;
mod norm;

pub(super) use embedding::{Embedding, HostTable};
pub(super) use host::{from_host, with_host};
pub(super) use linear::Linear;
pub(super) use norm::LayerNorm;
