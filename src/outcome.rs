//! What became of a row: its answers, or the stage that refused it and the reason.
//!
//! Reading, generation, the results and the journal share these types, so this file imports nothing of ours but
//! the numbers of rows and windows. The journal's lines have the same JSON form as [`Outcome`].

use serde::{Deserialize, Serialize};

use crate::ids::{RowId, WindowId};

/// A row that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Window that the row was submitted with.
    pub window: WindowId,
    /// The row.
    pub row: RowId,
    /// Its answers, or why there are none.
    pub outcome: Outcome,
}

/// How one row ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum Outcome {
    /// The row has its answers.
    Ok(Completion),
    /// The row has none, and this is why.
    Failed(BadRow),
}

/// The answers of one row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// Tokens of the context, without the start token.
    pub prompt_tokens: u32,
    /// Tokens cut from the prompt's left to make it fit.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub truncated: u32,
    /// One entry a sample, in order.
    pub samples: Vec<Sample>,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Decoded text, without special tokens, cut before a stop string.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Every generated id, the ending token included.
    pub token_ids: Vec<u32>,
    /// Log-softmax of the model's raw f32 logits at each generated id; empty unless asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub token_logprobs: Vec<f32>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// An ending token.
    Stop,
    /// `max_new_tokens`, or the model's own limit.
    Length,
    /// A stop string.
    StopString,
}

impl FinishReason {
    /// The name as written in the results.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::StopString => "stop_string",
        }
    }
}

/// Why a row has no result. Data, not an error of the job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRow {
    /// Stage that refused the row.
    pub stage: Stage,
    /// Reason: one line, no full stop, with the cure where there is one.
    pub reason: String,
}

/// Stage of the pipeline at which a row failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Reading.
    Input,
    /// Filling the template.
    Template,
    /// Encoding.
    Tokenize,
    /// Generation.
    Generate,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Input => "input",
            Self::Template => "template",
            Self::Tokenize => "tokenize",
            Self::Generate => "generate",
        })
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(n: &u32) -> bool {
    *n == 0
}
