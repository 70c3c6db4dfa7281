//! Contexts: a prompt and its prefix to the ids that the model answers.
//!
//! `[CLS] prompt [SEP] prefix [MASK] <|endoftext|>`, or `[CLS] prompt [MASK] <|endoftext|>` without
//! a prefix. A context that is too long loses tokens at the left of the prompt alone: the question is mostly at its end,
//! and the prefix is the beginning of the answer.
//!
//! # Source
//!
//! `GLMChineseTokenizer.build_inputs_with_special_tokens` of `tokenization_glm.py`, with its `truncation_side` of left
//! and the strategy `only_first`; the first mask of any kind is the one that is answered, as in
//! `GLMTokenizerMixin.build_inputs_for_generation`. The reference's callers write the mask themselves; here it is
//! added where a prompt has none, and a context that is still too long, or has lost its mask, is a bad row.

use super::glm::GlmTokenizer;
use super::types::{Encoded, SpecialIds};
use crate::job::{MaskToken, Overflow};

/// A context before it is cut and put together.
struct Context {
    first: Vec<u32>,
    second: Option<Vec<u32>>,
}

impl Context {
    fn len(&self) -> usize {
        // `[CLS]` and `<|endoftext|>`, and `[SEP]` before a second text.
        self.first.len() + 2 + self.second.as_ref().map_or(0, |second| second.len() + 1)
    }

    /// Cuts the first text's left so that the context has `limit` tokens, and says how many went.
    /// As in the reference, nothing is cut from a first text of no more tokens than have to go.
    fn truncate(&mut self, limit: usize) -> usize {
        let excess = self.len().saturating_sub(limit);
        if self.first.len() <= excess {
            return 0;
        }
        self.first.drain(..excess);
        excess
    }

    fn into_ids(self, special: &SpecialIds) -> Vec<u32> {
        let mut ids = Vec::with_capacity(self.len());
        ids.push(special.cls);
        ids.extend(self.first);
        if let Some(second) = self.second {
            ids.push(special.sep);
            ids.extend(second);
        }
        ids.push(special.eos);
        ids
    }
}

impl GlmTokenizer {
    /// `[CLS] text <|endoftext|>`
    pub fn encode_single(&self, text: &str) -> Vec<u32> {
        context(self.encode(text), None).into_ids(self.special())
    }

    /// `[CLS] text [SEP] pair <|endoftext|>`
    pub fn encode_pair(&self, text: &str, pair: &str) -> Vec<u32> {
        context(self.encode(text), Some(self.encode(pair))).into_ids(self.special())
    }

    /// [`encode_pair`](Self::encode_pair) with the reference's `only_first` truncation: cut from
    /// the left of `text`, or not at all where `text` has no more tokens than would have to go.
    pub fn encode_pair_within(&self, text: &str, pair: &str, limit: u32) -> Vec<u32> {
        let mut context = context(self.encode(text), Some(self.encode(pair)));
        context.truncate(limit as usize);
        context.into_ids(self.special())
    }

    /// Builds the context of a prompt. `mask` goes behind the prefix, or behind the prompt where
    /// there is no prefix, unless the prompt or the prefix holds a mask of its own.
    ///
    /// # Errors
    /// The reason why there is no context: the tokenizer fails on the text, the vocabulary has no such mask, the context is longer
    /// than `limit` tokens (with [`Overflow::Truncate`]: and no cut of the prompt helps), or
    /// the only mask was cut away.
    pub fn encode_prompt(
        &self,
        text: &str,
        prefix: Option<&str>,
        mask: MaskToken,
        limit: u32,
        overflow: Overflow,
    ) -> Result<Encoded, String> {
        let own_mask =
            self.holds_mask(text) || prefix.is_some_and(|prefix| self.holds_mask(prefix));
        let mask = if own_mask { "" } else { self.known_mask(mask)? };
        // The mask is part of the text that is encoded: it trims the white space before it.
        let mut context = match prefix {
            Some(prefix) => {
                let second = self.try_encode(&format!("{prefix}{mask}"))?;
                context(self.try_encode(text)?, Some(second))
            }
            None => context(self.try_encode(&format!("{text}{mask}"))?, None),
        };
        let truncated = fit(&mut context, limit as usize, overflow)?;
        let ids = context.into_ids(self.special());
        let position = ids.iter().position(|&id| self.is_mask(id)).ok_or(
            "the prompt had to be cut, and its only mask token was in the part that was cut",
        )?;
        Ok(Encoded {
            mask_position: position as u32,
            truncated: truncated as u32,
            ids,
        })
    }

    /// A text without a mask, which is read without changes: `[CLS] text <|endoftext|>`, or with a prefix behind it as a second
    /// text. The mask position is 0: nothing is answered.
    ///
    /// # Errors
    /// The tokenizer fails on the text, or it is longer than `limit` tokens (with [`Overflow::Truncate`]: and no cut of
    /// it helps).
    pub fn encode_text(
        &self,
        text: &str,
        prefix: Option<&str>,
        limit: u32,
        overflow: Overflow,
    ) -> Result<Encoded, String> {
        let second = prefix.map(|prefix| self.try_encode(prefix)).transpose()?;
        let mut context = context(self.try_encode(text)?, second);
        let truncated = fit(&mut context, limit as usize, overflow)?;
        Ok(Encoded {
            ids: context.into_ids(self.special()),
            mask_position: 0,
            truncated: truncated as u32,
        })
    }

    fn known_mask(&self, mask: MaskToken) -> Result<&'static str, String> {
        let special = self.special();
        let id = match mask {
            MaskToken::Mask => Some(special.mask),
            MaskToken::Sentence => special.smask,
            MaskToken::Generation => special.gmask,
        };
        let name = mask.as_str();
        id.map(|_| name)
            .ok_or_else(|| format!("the model's vocabulary has no `{name}`"))
    }
}

fn context(first: Vec<u32>, second: Option<Vec<u32>>) -> Context {
    Context { first, second }
}

/// Brings a context under its limit, and says how many tokens went.
fn fit(context: &mut Context, limit: usize, overflow: Overflow) -> Result<usize, String> {
    let length = context.len();
    if length <= limit {
        return Ok(0);
    }
    if overflow == Overflow::Fail {
        return Err(format!(
            "the context has {length} tokens, over the limit of {limit}"
        ));
    }
    match context.truncate(limit) {
        0 => Err(format!(
            "the context has {length} tokens, over the limit of {limit}, and cutting the prompt cannot shorten it enough"
        )),
        cut => Ok(cut),
    }
}

#[cfg(test)]
mod tests {
    use super::super::glm::tests::{sentencepiece, sentencepiece_with};
    use super::*;

    // Pieces: 4 `▁`, 5 `a`, 6 `b`, 7 `▁a`; `[CLS]` 102, `[SEP]` 101, `[MASK]` 103, end 100.

    fn prompt(
        text: &str,
        prefix: Option<&str>,
        limit: u32,
        overflow: Overflow,
    ) -> Result<Encoded, String> {
        sentencepiece().encode_prompt(text, prefix, MaskToken::Mask, limit, overflow)
    }

    #[expect(
        clippy::unnecessary_wraps,
        reason = "compared with what encoding gives"
    )]
    fn encoded(ids: &[u32], mask_position: u32, truncated: u32) -> Result<Encoded, String> {
        Ok(Encoded {
            ids: ids.to_vec(),
            mask_position,
            truncated,
        })
    }

    #[test]
    fn the_mask_goes_behind_prefix_or_prompt() {
        let cut = Overflow::Truncate;
        assert_eq!(
            prompt("ab", None, 99, cut),
            encoded(&[102, 7, 6, 103, 100], 3, 0)
        );
        assert_eq!(
            prompt("ab", Some("b"), 99, cut),
            encoded(&[102, 7, 6, 101, 4, 6, 103, 100], 6, 0)
        );
        assert_eq!(
            prompt("ab", Some(""), 99, cut),
            encoded(&[102, 7, 6, 101, 103, 100], 4, 0)
        );
        assert_eq!(prompt("", None, 99, cut), encoded(&[102, 103, 100], 1, 0));
    }

    #[test]
    fn a_mask_of_its_own_is_answered() {
        let cut = Overflow::Truncate;
        assert_eq!(
            prompt("a[gMASK]b", None, 99, cut),
            encoded(&[102, 7, 109, 4, 6, 100], 2, 0)
        );
        assert_eq!(
            prompt("a[sMASK] [MASK]", Some("b"), 99, cut),
            encoded(&[102, 7, 108, 103, 101, 4, 6, 100], 2, 0)
        );
        assert_eq!(
            prompt("a", Some("[gMASK]"), 99, cut),
            encoded(&[102, 7, 101, 109, 100], 3, 0),
            "a mask in the prefix needs no second one"
        );
    }

    #[test]
    fn the_left_of_the_prompt_is_cut() {
        let cut = Overflow::Truncate;
        assert_eq!(
            prompt("abb", Some("b"), 7, cut),
            encoded(&[102, 6, 101, 4, 6, 103, 100], 5, 2)
        );
        assert_eq!(
            prompt("abb", None, 4, cut),
            encoded(&[102, 6, 103, 100], 2, 2)
        );
        assert_eq!(prompt("abb", None, 3, cut), encoded(&[102, 103, 100], 1, 3));
        let error = prompt("abb", Some("b"), 6, cut).unwrap_err();
        assert!(
            error.starts_with("the context has 9 tokens, over the limit of 6, and"),
            "{error}"
        );
        assert!(prompt("abb", None, 2, cut).is_err());
    }

    #[test]
    fn overflow_can_fail_the_row() {
        assert!(prompt("abb", None, 6, Overflow::Fail).is_ok());
        let error = prompt("abb", None, 5, Overflow::Fail).unwrap_err();
        assert_eq!(error, "the context has 6 tokens, over the limit of 5");
    }

    #[test]
    fn cutting_the_only_mask_fails_the_row() {
        let error = prompt("[MASK] abab", None, 5, Overflow::Truncate).unwrap_err();
        assert!(error.contains("only mask token"), "{error}");
        let kept = prompt("[MASK] a [gMASK] a", None, 5, Overflow::Truncate);
        assert_eq!(kept, encoded(&[102, 7, 109, 7, 100], 2, 1));
    }

    #[test]
    fn a_mask_that_the_vocabulary_lacks_fails_the_row() {
        let tokenizer = sentencepiece_with(&["[sMASK]", "[gMASK]"]);
        let encode =
            |text: &str, mask| tokenizer.encode_prompt(text, None, mask, 99, Overflow::Truncate);
        let error = encode("a", MaskToken::Generation).unwrap_err();
        assert_eq!(error, "the model's vocabulary has no `[gMASK]`");
        assert!(encode("a", MaskToken::Sentence).is_err());
        assert!(
            encode("a[MASK]", MaskToken::Generation).is_ok(),
            "its own mask is enough"
        );
        assert!(encode("a", MaskToken::Mask).is_ok());
    }

    #[test]
    fn pairs_truncate_as_the_reference_does() {
        let tokenizer = sentencepiece();
        assert_eq!(tokenizer.encode_single("a"), [102, 7, 100]);
        assert_eq!(tokenizer.encode_pair("a", "b"), [102, 7, 101, 4, 6, 100]);
        assert_eq!(
            tokenizer.encode_pair_within("abb", "b", 7),
            [102, 6, 6, 101, 4, 6, 100]
        );
        assert_eq!(
            tokenizer.encode_pair_within("abb", "b", 5),
            tokenizer.encode_pair("abb", "b"),
            "nothing is cut where all would have to go"
        );
    }
}
