//! `[model]`: which weights, where they run, in which precision.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Section;
use crate::device::DeviceChoice;
use crate::job::flaw::Checked;
use crate::job::paths;
use crate::precision::{CacheChoice, PrecisionChoice};

/// Which weights, where they run, in which precision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// A folder in Hugging Face layout.
    pub path: PathBuf,
    /// `reward`: a file with the value head of a reward model, and all tensors that differ from those in the folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub overlay: Option<PathBuf>,
    /// Where to run: `auto`, `cpu`, `cuda`, `cuda:1`, `cuda:0,cuda:1`, `cuda:all`, `metal`.
    #[serde(default)]
    pub device: DeviceChoice,
    /// Precision of the weights; `auto` is `f16` on a GPU and `f32` on the CPU, which gives the
    /// reference's answers exactly, and `q8` for a folder of 8-bit codes.
    #[serde(default)]
    pub dtype: PrecisionChoice,
    /// What keys and values are cached as; `auto` is `f32` on the CPU, but `q8` beside 8-bit weights and `f16` beside bf16
    /// ones; the model's own floats on a GPU. 16 bits take half the memory, 8 bits about a quarter, and answers may differ.
    #[serde(default, skip_serializing_if = "is_auto")]
    #[schemars(!skip_serializing_if)]
    pub cache_dtype: CacheChoice,
}

/// Left out of `job.json` then, as by versions that did not know it.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_auto(choice: &CacheChoice) -> bool {
    *choice == CacheChoice::Auto
}

impl Section for ModelSpec {
    const NAME: &'static str = "model";

    fn check(&mut self, base: &Path) -> Checked<()> {
        self.path = paths::absolute("path", &self.path, base)?;
        if let Some(overlay) = &self.overlay {
            self.overlay = Some(paths::absolute("overlay", overlay, base)?);
        }
        Ok(())
    }
}
