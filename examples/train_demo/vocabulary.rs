//! Builds the demo's vocabulary from the facts: one token a character, GLM's special tokens at the end.

use std::collections::BTreeSet;

use tokenizers::decoders::fuse::Fuse;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{AddedToken, Tokenizer};

use crate::Result;
use crate::facts::Fact;

/// What a character outside the vocabulary becomes; id 0, as in GLM's own vocabulary.
const UNKNOWN: &str = "<unk>";

/// Special tokens in the order of their ids.
const SPECIAL: [&str; 8] = [
    "<|endoftext|>",
    "[SEP]",
    "[CLS]",
    "[MASK]",
    "<|startofpiece|>",
    "<|endofpiece|>",
    "[sMASK]",
    "[gMASK]",
];

/// Ids of the tokens that frame a prompt and its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) eos: u32,
    pub(crate) sep: u32,
    pub(crate) cls: u32,
    pub(crate) mask: u32,
    pub(crate) sop: u32,
    pub(crate) eop: u32,
}

/// Builds the tokenizer: a BPE without merges, so every character, the space too, is its own token.
pub(crate) fn build(facts: &[Fact]) -> Result<Tokenizer> {
    // Printable ASCII is always known, so that a user's own questions keep their letters and digits.
    let mut characters: BTreeSet<char> = (' '..='~').collect();
    for fact in facts {
        characters.extend(
            [&fact.question, &fact.prefix, &fact.answer]
                .iter()
                .flat_map(|s| s.chars()),
        );
    }
    let pieces = std::iter::once(UNKNOWN.to_owned()).chain(characters.iter().map(char::to_string));
    let vocabulary = pieces.zip(0_u32..).collect::<Vocab>();
    let model = BPE::builder()
        .vocab_and_merges(vocabulary, Vec::new())
        .unk_token(UNKNOWN.to_owned())
        .build()
        .map_err(|error| format!("the vocabulary is refused: {error}"))?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_decoder(Some(Fuse::new()));
    tokenizer
        .add_special_tokens(SPECIAL.map(|token| AddedToken::from(token, true)))
        .map_err(|error| format!("the special tokens are refused: {error}"))?;
    Ok(tokenizer)
}

/// Looks the special tokens up.
pub(crate) fn frame(tokenizer: &Tokenizer) -> Result<Frame> {
    let id = |token: &str| {
        tokenizer
            .token_to_id(token)
            .ok_or_else(|| format!("no token `{token}`"))
    };
    Ok(Frame {
        eos: id("<|endoftext|>")?,
        sep: id("[SEP]")?,
        cls: id("[CLS]")?,
        mask: id("[MASK]")?,
        sop: id("<|startofpiece|>")?,
        eop: id("<|endofpiece|>")?,
    })
}
