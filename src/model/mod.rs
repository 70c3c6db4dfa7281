//! The GLM network: configuration, weights, forward pass, KV cache.
//!
//! A Hugging Face folder becomes a [`Glm`], which answers through [`TextModel`] (prefill, decode,
//! slots) or computes the reference's forward pass ([`Glm::forward`]). A block does not know where
//! it runs: products, norms and embeddings come from `kernels`, and attention with its cache is one
//! type a backend behind `cache::Attend` and `cache::Cache`. Nothing here knows of jobs.

mod block;
mod cache;
mod config;
mod convert;
mod device;
mod driver;
mod error;
mod files;
mod folder;
mod glm;
mod inspect;
mod likeliest;
mod network;
mod padded;
mod pickle;
mod ragged;
mod reference;
mod tensors;
mod text_model;
mod weights;

pub use crate::precision::Precision;
pub use config::GlmConfig;
pub use convert::convert;
pub use device::{Backend, FloatType, find_devices};
pub use driver::free_bytes;
pub use error::ModelError;
pub use files::{Fingerprinted, ShardIndex, WeightFiles, weights_fingerprint};
pub use folder::check_folder;
pub use glm::Glm;
pub use inspect::{FurtherLayers, Inspection, inspect};
pub use reference::{AttentionMask, ForwardInput, ForwardOutput, Positions};
pub use text_model::*;
