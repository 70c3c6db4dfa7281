//! Keys and values of running answers in slots: one implementation a backend, above the network.
//!
//! A cache runs the network over the tokens of a call, and attends for it: [`Attend`](super::attend::Attend)
//! lies below the network, the slots lie above.
//!
//! ```text
//! Glm -> cache: slots -> Network -> Block -> Attend  <- implemented by the cache's calls
//! ```

use candle_core::DType;

use super::{Backend, GlmConfig};

mod host_attention;
mod host_read;
mod padded;
mod pool;
mod ragged;
mod segments;
mod slots;

pub(super) use padded::PaddedCache;
pub(super) use ragged::RaggedCache;
pub(super) use slots::{Cache, Reading};

/// Bytes that reading texts takes beside the weights.
#[derive(Clone, Copy, Debug)]
pub(super) struct BytesOfReading {
    /// While the texts run through the layers.
    pub(super) layers: u64,
    /// What is left of that once the hidden states of the wanted tokens are there, these included.
    pub(super) left: u64,
}

/// What reading texts takes that are handed over together: `tokens` are those of all, and `longest` those of the longest
/// one. Padding counts where texts are padded.
pub(super) fn bytes_of_reading(
    config: &GlmConfig,
    backend: Backend,
    dtype: DType,
    tokens: usize,
    longest: usize,
) -> BytesOfReading {
    match backend {
        Backend::Packed => {
            host_read::bytes_of(config, tokens.min(ragged::PART_TOKENS).max(longest))
        }
        Backend::Padded => padded::bytes_of_reading(config, dtype, tokens, longest),
    }
}
