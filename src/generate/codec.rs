//! The seam between generation and the tokenizer: ids to text for answers, text to ids for bad words.

use std::sync::Arc;

use crate::tokenize::GlmTokenizer;

/// Text and ids of one vocabulary.
pub trait TextCodec: Send + Sync {
    /// Text of these ids, special tokens left out.
    ///
    /// # Errors
    ///
    /// Why the row has no text: the tokenizer fails on these ids.
    fn decode(&self, ids: &[u32]) -> Result<String, String>;

    /// Ids of a text, no token added.
    fn encode_plain(&self, text: &str) -> Vec<u32>;

    /// The sequences of ids that a bad word bars.
    fn encode_bad_word(&self, word: &str) -> Vec<Vec<u32>> {
        vec![self.encode_plain(word)]
    }

    /// Id that starts an answer.
    fn sop(&self) -> u32;

    /// Id that ends an answer.
    fn eop(&self) -> u32;

    /// Id that ends a text; it ends an answer too.
    fn eos(&self) -> u32;
}

impl TextCodec for GlmTokenizer {
    fn decode(&self, ids: &[u32]) -> Result<String, String> {
        self.try_decode(ids, true)
    }

    fn encode_plain(&self, text: &str) -> Vec<u32> {
        self.encode(text)
    }

    fn encode_bad_word(&self, word: &str) -> Vec<Vec<u32>> {
        self.encode_anywhere(word)
    }

    fn sop(&self) -> u32 {
        self.special().sop
    }

    fn eop(&self) -> u32 {
        self.special().eop
    }

    fn eos(&self) -> u32 {
        self.special().eos
    }
}

/// A tokenizer under the first rule of text: a bad word is barred only where it begins a text.
pub(crate) struct FirstTextRule(pub Arc<GlmTokenizer>);

impl TextCodec for FirstTextRule {
    fn decode(&self, ids: &[u32]) -> Result<String, String> {
        TextCodec::decode(&*self.0, ids)
    }

    fn encode_plain(&self, text: &str) -> Vec<u32> {
        self.0.encode_plain(text)
    }

    fn sop(&self) -> u32 {
        self.0.sop()
    }

    fn eop(&self) -> u32 {
        self.0.eop()
    }

    fn eos(&self) -> u32 {
        self.0.eos()
    }
}
