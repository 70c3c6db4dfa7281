//! `[prompt]`: how a row becomes a context.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Section;
use super::few_shot::FewShotSpec;
use crate::job::flaw::{Checked, Flaw, not_empty};

/// How a row becomes a context.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PromptSpec {
    /// minijinja template over the row's columns; wins over `input.columns.prompt`.
    pub template: Option<String>,
    /// minijinja template over `messages`, the conversation in `input.columns.messages`; default: one for GLM.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub turns: Option<String>,
    /// Solved examples that go before each prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub few_shot: Option<FewShotSpec>,
    /// Text before the mask, which the answer continues; a prefix of the row wins.
    pub prefix: Option<String>,
    /// Mask token that the answer fills.
    pub mask: MaskToken,
    /// Context plus answer, tokens; default: 512, or what the model has if that is less.
    #[schemars(range(min = 2))]
    pub max_length: Option<u32>,
    /// What happens to a prompt that is too long.
    pub overflow: Overflow,
    /// Whether room for `max_new_tokens` is kept free behind the prompt, which is cut where that takes it;
    /// `false`: the prompt comes first, and the answer gets what it leaves of `max_length`.
    #[serde(skip_serializing_if = "is_kept")]
    #[schemars(!skip_serializing_if)]
    pub reserve: bool,
}

impl Default for PromptSpec {
    fn default() -> Self {
        Self {
            template: None,
            turns: None,
            few_shot: None,
            prefix: None,
            mask: MaskToken::default(),
            max_length: None,
            overflow: Overflow::default(),
            reserve: true,
        }
    }
}

/// The template of conversations that name none: what a model is told first as it is, then questions and answers.
pub(crate) const DEFAULT_TURNS: &str = "\
{% for message in messages %}\
{% if message.role == 'user' %}问：{% elif message.role == 'assistant' %}答：{% endif %}\
{{ message.content }}\n\
{% endfor %}答：";

/// `job.json` leaves the default out, so that jobs of earlier versions have the bytes that they had.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_kept(reserve: &bool) -> bool {
    *reserve
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
    /// The token as a text spells it.
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

    fn check(&mut self, base: &Path) -> Checked<()> {
        not_empty("template", self.template.as_deref())?;
        not_empty("turns", self.turns.as_deref())?;
        if let Some(few_shot) = &mut self.few_shot {
            few_shot
                .check(base)
                .map_err(|flaw| flaw.under("few_shot"))?;
        }
        match self.max_length {
            Some(length) if length < 2 => Err(Flaw::new(
                "max_length",
                format!("must be at least 2, and is {length}"),
            )),
            _ => Ok(()),
        }
    }
}
