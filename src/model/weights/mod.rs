//! The files of a model folder to its tensors, and back to a folder of another type.
//!
//! ```text
//! files: which files -> tensors: their headers (pickle reads those of PyTorch) -> store: all tensors by name, their
//! values as f32
//! source: the folder, and whether a value head belongs to it; parts: what a configuration needs; inspect, convert: what is done with a store but load it
//! ```

mod convert;
mod files;
mod inspect;
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
