//! `[reward]`: the reward model by which the task `preference` ranks answers.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Section;
use crate::job::flaw::Checked;
use crate::job::paths;

/// The reward model by which answers are ranked; it runs where the other one does, in the same precision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RewardSpec {
    /// A folder in Hugging Face layout: that of the reward model, or that of the GLM below `reward.overlay`.
    pub model: PathBuf,
    /// A file with the value head of the reward model, and all tensors that differ from those in the folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub overlay: Option<PathBuf>,
}

impl Section for RewardSpec {
    const NAME: &'static str = "reward";

    fn check(&mut self, base: &Path) -> Checked<()> {
        self.model = paths::absolute("model", &self.model, base)?;
        if let Some(overlay) = &self.overlay {
            self.overlay = Some(paths::absolute("overlay", overlay, base)?);
        }
        Ok(())
    }
}
