//! The files of a model folder to its tensors, and back to a folder of another type.
//!
//! ```text
//! files: which files -> tensors: their headers (pickle reads those of PyTorch) -> store: all tensors by name
//! parts: what a configuration needs of them; inspect, convert: what is done with a store but load it
//! ```

mod convert;
mod files;
mod inspect;
mod parts;
mod pickle;
mod store;
mod tensors;

pub use convert::convert;
pub(super) use files::WeightFiles;
pub use files::{Fingerprinted, weights_fingerprint};
pub use inspect::{FurtherLayers, Inspection, inspect};
pub(super) use parts::{Part, Role, parts};
pub(super) use store::WeightStore;
