//! A `tokenizer.json`: a fragment of text to ids, and a run of ids to text, by the `tokenizers`
//! crate.
//!
//! Only normalizer, pre-tokenizer, model and decoder of the file are used. Special tokens, the
//! template and truncation are GLM's own and happen in the neighbours of this file.

use std::path::Path;

use tokenizers::{ModelWrapper, Tokenizer};

use super::error::TokenizeError;
use super::special::SpecialToken;

/// A character that no vocabulary holds: the last of the private use planes.
const UNKNOWN_CHARACTER: &str = "\u{10fffd}";

/// Words whose ids a thread remembers for a BPE model: the first ones that it meets. A text without spaces is one word, and
/// comes once.
const CACHED_WORDS: usize = 2048;

/// A tokenizer of the `tokenizers` crate.
#[derive(Debug)]
pub(super) struct JsonTokenizer {
    tokenizer: Tokenizer,
}

/// An added token of the file.
#[derive(Debug)]
pub(super) struct AddedToken {
    /// Content, id and trimming.
    pub(super) token: SpecialToken,
    /// Whether decoding may skip it.
    pub(super) special: bool,
}

impl JsonTokenizer {
    /// Builds the tokenizer from the bytes of its file.
    ///
    /// # Errors
    /// [`TokenizeError::Damaged`] where it is not such a file, [`TokenizeError::Unsupported`] where
    /// its model cannot take every character.
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, TokenizeError> {
        let damaged = |reason: String| TokenizeError::Damaged {
            path: path.to_owned(),
            reason,
        };
        let mut tokenizer =
            Tokenizer::from_bytes(bytes).map_err(|error| damaged(error.to_string()))?;
        if let Some(reason) = ambiguity(&tokenizer) {
            return Err(TokenizeError::Unusable {
                path: path.to_owned(),
                reason,
            });
        }
        if let ModelWrapper::BPE(model) = tokenizer.get_model() {
            let mut model = model.clone();
            model.resize_cache(CACHED_WORDS);
            tokenizer.with_model(model);
        }
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|error| damaged(error.to_string()))?;
        // Most that can fail later is an unknown character; better here than in many rows.
        if tokenizer.encode_fast(UNKNOWN_CHARACTER, false).is_err() {
            let found = "a model without a token for unknown text".to_owned();
            return Err(TokenizeError::Unsupported {
                path: path.to_owned(),
                found,
            });
        }
        Ok(Self { tokenizer })
    }

    /// The file's added tokens, in the order of their ids.
    pub(super) fn added_tokens(&self) -> Vec<AddedToken> {
        let mut added: Vec<AddedToken> = self
            .tokenizer
            .get_added_tokens_decoder()
            .into_iter()
            .map(|(id, token)| AddedToken {
                special: token.special,
                token: SpecialToken {
                    content: token.content,
                    id,
                    trim_left: token.lstrip,
                    trim_right: token.rstrip,
                },
            })
            .collect();
        added.sort_by_key(|added| added.token.id);
        added
    }

    /// Appends the ids of one fragment.
    ///
    /// # Errors
    /// What the file's rules make of this text alone: an expression that gives up, or a character that neither
    /// the vocabulary nor an unknown token takes.
    pub(super) fn encode_fragment(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        let encoding = self.tokenizer.encode_fast(text, false);
        let encoding = encoding.map_err(|error| format!("the tokenizer fails on it: {error}"))?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }

    /// Appends the text of a run of ids; ids without a token give nothing.
    ///
    /// # Errors
    /// What the file's decoder cannot put together.
    pub(super) fn decode_run(&self, run: &[u32], out: &mut String) -> Result<(), String> {
        let text = self.tokenizer.decode(run, false);
        let text =
            text.map_err(|error| format!("the tokenizer cannot decode the answer: {error}"))?;
        out.push_str(&text);
        Ok(())
    }

    /// The token of an id.
    pub(super) fn piece(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// The id of a token.
    pub(super) fn piece_id(&self, piece: &str) -> Option<u32> {
        self.tokenizer.token_to_id(piece)
    }

    /// One more than the highest id.
    pub(super) fn len(&self) -> usize {
        let ids = self.tokenizer.get_vocab(true).into_values();
        ids.max().map_or(0, |id| id as usize + 1)
    }
}

/// Why one text could become other ids, or one id another text, from process to process.
fn ambiguity(tokenizer: &Tokenizer) -> Option<String> {
    if let ModelWrapper::BPE(model) = tokenizer.get_model()
        && model.dropout.is_some_and(|share| share > 0.0)
    {
        return Some(
            "has `dropout`, which splits a text at random\nhint: set `model.dropout` to null in it"
                .to_owned(),
        );
    }
    let vocabulary = tokenizer.get_vocab(false).into_iter();
    let mut tokens: Vec<(u32, String)> = vocabulary.map(|(token, id)| (id, token)).collect();
    tokens.sort_unstable();
    let shared = tokens.windows(2).find(|pair| pair[0].0 == pair[1].0)?;
    Some(format!(
        "gives the id {} to both `{}` and `{}`\nhint: take the file that was published with the model",
        shared[0].0, shared[0].1, shared[1].1
    ))
}
