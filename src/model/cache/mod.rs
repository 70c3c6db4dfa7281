//! Keys and values of running answers in slots: one implementation a backend, above the network.
//!
//! A cache runs the network over the tokens of a call, and attends for it: [`Attend`](super::attend::Attend)
//! lies below the network, the slots lie above.
//!
//! ```text
//! Glm -> cache: slots -> Network -> Block -> Attend  <- implemented by the cache's calls
//! ```

mod host_attention;
mod host_read;
mod padded;
mod pool;
mod ragged;
mod slots;

pub(super) use padded::PaddedCache;
pub(super) use ragged::RaggedCache;
pub(super) use slots::{Cache, Reading};
