//! The GLM network: configuration, weights, forward pass, KV cache.
//!
//! A Hugging Face folder becomes a [`Glm`], which answers through [`TextModel`] (prefill, decode,
//! slots) or computes the reference's forward pass ([`Glm::forward`]). A block does not know where
//! it runs: products, norms and embeddings come from `layers`, and attention with its cache is one
//! type a backend behind `attend::Attend` and `cache::Cache`. Nothing here knows of jobs.
//!
//! ```text
//! config, device, text_model                 sizes, where to run, the calls
//! footprint                                  what each tensor becomes, and what that weighs
//! weights/ -> network (block, layers/), value_head -> cache/ -> glm, reading, reference
//!             attend: what a block asks of its cache
//! ```

mod attend;
mod block;
mod cache;
mod config;
mod device;
mod driver;
mod error;
mod folder;
mod footprint;
pub(crate) mod fused;
mod glm;
mod layers;
mod likeliest;
mod network;
mod reading;
mod reference;
mod text_model;
mod value_head;
mod weights;

pub use crate::precision::{FloatType, Precision};
pub use config::GlmConfig;
pub use device::Backend;
pub(crate) use device::find_devices;
pub(crate) use driver::free_bytes;
pub use error::ModelError;
pub(crate) use folder::check_folder;
pub use footprint::Footprint;
pub use glm::{Glm, step_counts, with_ops};
pub use reading::ReadingSize;
pub use reference::{AttentionMask, ForwardInput, ForwardOutput, Positions};
pub use text_model::*;
pub use weights::{
    Fingerprinted, FurtherLayers, Head, ModelSource, convert, convert_source, inspect_source,
    source_fingerprint, weights_fingerprint,
};
pub(crate) use weights::{Inspection, inspect};
