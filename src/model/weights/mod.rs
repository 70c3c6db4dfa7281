//! The files of a model folder to its tensors, and back to a folder of another type.
//!
//! ```text
//! files: which files -> tensors: their headers (pickle reads those of PyTorch), mapped: their bytes -> store: all tensors
//! by name, their values as f32 -> codes: matrices that are there in 8 bits
//! source: the folder, and whether a value head belongs to it; parts: what a configuration needs; inspect, convert (and encode, to
//! 8 bits): what is done with a store but load it
//! ```

mod codes;
mod convert;
mod encode;
mod files;
mod inspect;
mod mapped;
mod parts;
mod pickle;
mod source;
mod store;
mod tensors;
mod values;

pub use convert::{convert, convert_source};
pub use files::{Fingerprinted, source_fingerprint, weights_fingerprint};
pub use inspect::{FurtherLayers, inspect_source};
pub(crate) use inspect::{Inspection, inspect};
pub(super) use parts::{Part, Role, VALUE_HEAD};
pub use source::{Head, ModelSource};
pub(super) use store::WeightStore;
