//! Prompt text to GLM context ids, and ids back to text.
//!
//! A [`GlmTokenizer`] is loaded from a model folder, either from SentencePiece files
//! (`cog-pretrain.model`) or from a `tokenizer.json`. Both kinds run through the same stages:
//!
//! ```text
//! text -> special split -> model of the folder -> ids -> context (truncation, mask) -> Encoded
//! ids  -> runs and added tokens -> joined with spaces -> clean-up -> text
//! ```
//!
//! Invariant: the ids and the text are those of the reference's Python tokenizer, bit for bit.
//! The prompts come from `input`; `generate` reads the contexts and decodes the answers.

mod borders;
mod charsmap;
mod decode;
mod error;
mod files;
mod glm;
mod json;
mod normalize;
mod prompt;
mod proto;
mod sentencepiece;
mod special;
mod types;

pub use error::TokenizeError;
pub use glm::GlmTokenizer;
pub use types::*;
