//! The GLM network: configuration, weights, forward pass, KV cache.

mod text_model;

pub use text_model::*;

/// What can go wrong with a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The device has no room for this call.
    #[error("out of device memory")]
    OutOfMemory,
}
