//! What goes into generation and what comes out.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::RowId;
use crate::input::BadRow;
use crate::job::GenerationSpec;
use crate::tokenize::Encoded;

/// A row ready to be answered.
#[derive(Clone, Debug)]
pub struct Request {
    /// The row; with the seed and the sample it keys the draw.
    pub row: RowId,
    /// Its context.
    pub encoded: Encoded,
    /// The job's settings with the row's own on top.
    pub settings: Arc<GenerationSpec>,
    /// `max_new_tokens` resolved for this row: the most answer tokens, ending token included.
    pub max_new_tokens: u32,
}

/// How one row ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum Outcome {
    /// The row has its answers.
    Ok(Completion),
    /// The row has none, and why.
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

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(n: &u32) -> bool {
    *n == 0
}
