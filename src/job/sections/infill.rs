//! `[infill]`: how the task `infill` fills the masks of a prompt.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Section;
use crate::job::flaw::{Checked, at_least_one};

/// How masks are filled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InfillSpec {
    /// Most tokens of each mask's text, the ending token included. The context gets what they leave of
    /// `prompt.max_length`, once for each mask.
    #[schemars(range(min = 1))]
    pub max_new_tokens: u32,
}

impl Default for InfillSpec {
    fn default() -> Self {
        Self { max_new_tokens: 64 }
    }
}

impl Section for InfillSpec {
    const NAME: &'static str = "infill";

    fn check(&mut self, _: &Path) -> Checked<()> {
        at_least_one("max_new_tokens", self.max_new_tokens)
    }
}
