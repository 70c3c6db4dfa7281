//! `[score]`: what the task `score` reads, and what counts.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::Section;
use crate::job::flaw::Checked;
use crate::job::values::{AutoWord, NumberOr, up_to};

/// What is scored, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreSpec {
    /// What is scored: the `target` of a row behind its prompt, or the prompt itself (`whole-text`), each token seen
    /// from all others.
    pub method: ScoreMethod,
    /// Whether the ending token counts as the target's last token.
    pub ending: bool,
    /// Most tokens of a target, the ending token included; `auto` is half of `prompt.max_length`. The context gets what
    /// they leave.
    #[serde(deserialize_with = "tokens")]
    #[schemars(with = "NumberOr<AutoWord>")]
    pub max_target_tokens: Option<u32>,
    /// What happens to a target that is too long.
    pub target_overflow: TargetOverflow,
    /// Also write the log-probability of each token.
    pub token_logprobs: bool,
}

impl Default for ScoreSpec {
    fn default() -> Self {
        Self {
            method: ScoreMethod::default(),
            ending: true,
            max_target_tokens: None,
            target_overflow: TargetOverflow::default(),
            token_logprobs: false,
        }
    }
}

impl ScoreSpec {
    /// Keys that are of no use where the prompt itself is scored.
    pub(crate) const TARGET_KEYS: [&str; 3] = [
        "score.ending",
        "score.max_target_tokens",
        "score.target_overflow",
    ];
}

/// What is scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ScoreMethod {
    /// The target, token by token.
    #[default]
    Target,
    /// Every token of the prompt from all others.
    WholeText,
}

/// What happens to a target that is too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TargetOverflow {
    /// The row fails.
    #[default]
    Fail,
    /// Its end is cut; the ending token stays.
    Cut,
}

fn tokens<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<u32>, D::Error> {
    up_to(u32::MAX.into(), reader)
}

impl Section for ScoreSpec {
    const NAME: &'static str = "score";

    fn check(&mut self, _: &Path) -> Checked<()> {
        Ok(())
    }
}
