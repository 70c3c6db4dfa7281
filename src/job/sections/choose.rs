//! `[choose]`: which choices the task `choose` has, and how it picks one.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Section;
use crate::job::flaw::{Checked, Flaw};

/// Which choices there are, and how one is picked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ChooseSpec {
    /// The choices of every row, where no column gives them.
    pub choices: Vec<String>,
    /// What is compared.
    pub method: ChooseMethod,
    /// What the log-probability of a choice is divided by before the choices are compared.
    pub normalize: Normalize,
    /// What the label column holds, in all its rows.
    pub label: LabelForm,
}

/// What is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ChooseMethod {
    /// How likely each choice is behind the prompt.
    #[default]
    Target,
    /// How likely each choice, one token, is after the last token of the prompt, which has no mask.
    NextToken,
    /// The perplexity of the template filled with each choice.
    WholeText,
}

/// What the log-probability of a choice is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Normalize {
    /// Nothing, as in the reference.
    #[default]
    None,
    /// Its tokens.
    Tokens,
    /// Its characters.
    Characters,
}

/// What the label column holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LabelForm {
    /// A number is an index; a text is that of a choice, or else a letter.
    #[default]
    Auto,
    /// The number of the right choice, from 0.
    Index,
    /// The letter of the right choice, from A.
    Letter,
    /// The text of the right choice.
    Text,
}

impl ChooseMethod {
    /// The word in a job file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Target => "target",
            Self::NextToken => "next-token",
            Self::WholeText => "whole-text",
        }
    }
}

impl Section for ChooseSpec {
    const NAME: &'static str = "choose";

    fn check(&mut self, _: &Path) -> Checked<()> {
        if self.choices.iter().any(String::is_empty) {
            return Err(Flaw::new("choices", "holds an empty text"));
        }
        if self.choices.len() == 1 {
            let flaw = Flaw::new("choices", "holds one choice");
            return Err(flaw.hint("name at least two"));
        }
        if self.normalize != Normalize::None && self.method != ChooseMethod::Target {
            let reason = format!(
                "does nothing with `choose.method = \"{}\"`",
                self.method.name()
            );
            return Err(Flaw::new("normalize", reason)
                .hint("take it out, or write `choose.method = \"target\"`"));
        }
        Ok(())
    }
}
