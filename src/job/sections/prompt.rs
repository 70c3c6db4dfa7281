//! `[prompt]`: how a row becomes a context.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Section;
use crate::job::flaw::{Checked, Flaw, not_empty};

/// How a row becomes a context.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PromptSpec {
    /// minijinja template over the row's columns; wins over `input.columns.prompt`.
    pub template: Option<String>,
    /// Text before the mask, which the answer continues; a prefix of the row wins.
    pub prefix: Option<String>,
    /// Mask token that the answer fills.
    pub mask: MaskToken,
    /// Context plus answer, tokens; default: 512, or what the model has if that is less.
    #[schemars(range(min = 2))]
    pub max_length: Option<u32>,
    /// What happens to a prompt that is too long.
    pub overflow: Overflow,
}

/// One of GLM's three mask tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MaskToken {
    /// `[MASK]`, a short span.
    #[default]
    #[serde(rename = "[MASK]")]
    Mask,
    /// `[sMASK]`, a sentence.
    #[serde(rename = "[sMASK]")]
    Sentence,
    /// `[gMASK]`, the rest of the text.
    #[serde(rename = "[gMASK]")]
    Generation,
}

impl MaskToken {
    /// The token as it stands in a text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mask => "[MASK]",
            Self::Sentence => "[sMASK]",
            Self::Generation => "[gMASK]",
        }
    }
}

/// What happens to a prompt that is too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Overflow {
    /// Tokens are cut from the prompt's left.
    #[default]
    Truncate,
    /// The row fails.
    Fail,
}

impl Section for PromptSpec {
    const NAME: &'static str = "prompt";

    fn check(&mut self, _: &Path) -> Checked<()> {
        not_empty("template", self.template.as_deref())?;
        match self.max_length {
            Some(length) if length < 2 => Err(Flaw::new(
                "max_length",
                format!("must be at least 2, and is {length}"),
            )),
            _ => Ok(()),
        }
    }
}
