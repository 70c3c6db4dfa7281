//! `[model]`: which weights, where they run, in which precision.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Section;
use crate::job::flaw::Checked;
use crate::job::paths;
use crate::job::values::DeviceSpec;

/// Which weights, where they run, in which precision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// A folder in Hugging Face layout.
    pub path: PathBuf,
    /// Where to run: `auto`, `cpu`, `cuda`, `cuda:1`, `cuda:0,cuda:1`, `cuda:all`, `metal`.
    #[serde(default)]
    pub device: DeviceSpec,
    /// Precision of the weights; `auto` is `f16` on a GPU and `f32` on the CPU, which gives the
    /// reference's answers exactly.
    #[serde(default)]
    pub dtype: DtypeSpec,
}

/// A precision as written in the job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DtypeSpec {
    /// `f16` on a GPU, `f32` on the CPU.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit floats; on the CPU rounded weights with 32-bit arithmetic.
    F16,
    /// bfloat16; on the CPU rounded weights and inputs of products, with 32-bit sums.
    Bf16,
    /// 8-bit whole numbers; on the CPU alone.
    Q8,
}

impl Section for ModelSpec {
    const NAME: &'static str = "model";

    fn check(&mut self, base: &Path) -> Checked<()> {
        self.path = paths::absolute("path", &self.path, base)?;
        Ok(())
    }
}
