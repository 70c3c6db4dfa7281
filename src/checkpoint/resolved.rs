//! What the choices of a job came to in its first run: precision, device, model.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::device::DeviceKind;
use crate::precision::{CacheChoice, Precision};

/// What `auto` and the model folder came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// Precision.
    pub dtype: Precision,
    /// What keys and values are cached as; `None` where it is what `auto` first came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_dtype: Option<Precision>,
    /// Kind of device.
    pub device: DeviceKind,
    /// Kind of CPU: instruction set and cache sizes.
    pub cpu: String,
    /// Context plus answer, tokens.
    pub max_length: u32,
    /// Fingerprint of the tokenizer.
    pub tokenizer: String,
    /// Fingerprint of the weights.
    pub weights: String,
    /// Files of the model; while they agree, the fingerprints are not computed again.
    pub model_files: Vec<ModelFile>,
}

impl Resolved {
    /// What keys and values are cached as.
    pub(super) fn cache_dtype(&self) -> Precision {
        let is_cpu = self.device == DeviceKind::Cpu;
        let auto = CacheChoice::Auto.resolve_first(is_cpu, self.dtype);
        self.cache_dtype.unwrap_or(auto)
    }
}

/// A file of the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFile {
    /// Absolute path.
    pub path: PathBuf,
    /// Size in bytes.
    pub bytes: u64,
    /// Modification time, nanoseconds since the epoch.
    pub modified_ns: u64,
    /// Number of the file in its file system; a `job.json` of an earlier version has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
}

impl ModelFile {
    /// Whether it is the same file, untouched, as far as a look tells.
    #[must_use]
    pub fn is(&self, known: &Self) -> bool {
        let place = |file: &Self| (file.path.clone(), file.bytes, file.modified_ns);
        let is_other = |(now, first)| now != first;
        place(self) == place(known) && !self.inode.zip(known.inode).is_some_and(is_other)
    }
}
