//! GLM's tokenizer: a model folder to an encoder and decoder of text.
//!
//! Texts to ids and back; contexts are put together in `prompt`, a job's own texts brought to the form of
//! answers in `written`. Immutable once loaded, so all threads share one.

mod written;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::OnceLock;

use super::decode;
use super::error::TokenizeError;
use super::files::{AddedTokens, TokenizerConfig, TokenizerFiles};
use super::json::JsonTokenizer;
use super::sentencepiece::SentencePiece;
use super::special::{Fragment, SpecialSplit, SpecialToken};
use super::types::SpecialIds;
use crate::job::MaskToken;

const SENTENCEPIECE_FILE: &str = "cog-pretrain.model";
const ADDED_TOKENS_FILE: &str = "added_tokens.json";
const CONFIG_FILE: &str = "tokenizer_config.json";
const JSON_FILE: &str = "tokenizer.json";

/// A loaded tokenizer.
///
/// # Examples
/// ```no_run
/// let tokenizer = glm_batch::GlmTokenizer::load("models/glm-350M-chinese".as_ref())?;
/// let ids = tokenizer.encode_pair("中国的首都是哪里？", "回答：[MASK]");
/// assert_eq!(tokenizer.decode(&ids, true), "中国的首都是哪里? 回答:");
/// # Ok::<(), glm_batch::TokenizeError>(())
/// ```
pub struct GlmTokenizer {
    backend: Backend,
    split: SpecialSplit,
    /// Texts of the tokens that the model of the folder does not know.
    added: BTreeMap<u32, String>,
    /// What decoding leaves out on request.
    skipped: HashSet<u32>,
    special: SpecialIds,
    fingerprint: String,
    vocab_size: usize,
    /// What a word is put behind, encoded when it is first needed.
    neighbours: OnceLock<Vec<(&'static str, Vec<u32>)>>,
}

/// What turns text without special tokens into ids.
enum Backend {
    SentencePiece(Box<SentencePiece>),
    Json(Box<JsonTokenizer>),
}

/// Special tokens as a folder has them.
struct Specials {
    split: Vec<SpecialToken>,
    added: BTreeMap<u32, String>,
    skipped: HashSet<u32>,
}

impl GlmTokenizer {
    /// Loads the tokenizer of a model folder: `cog-pretrain.model` with `added_tokens.json` and
    /// `tokenizer_config.json`, or `tokenizer.json`.
    ///
    /// # Errors
    /// [`TokenizeError`] with the file at fault: none there, unreadable, damaged, of another kind,
    /// or without a special token that GLM needs.
    pub fn load(folder: &Path) -> Result<Self, TokenizeError> {
        let mut files = TokenizerFiles::new(folder);
        // A link without its target counts, so that it is named.
        let is_there = |name| files.path(name).symlink_metadata().is_ok();
        if is_there(SENTENCEPIECE_FILE) {
            return Self::load_sentencepiece(&mut files);
        }
        if is_there(JSON_FILE) {
            return Self::load_json(&mut files);
        }
        Err(TokenizeError::NoTokenizer {
            folder: folder.to_owned(),
        })
    }

    fn load_sentencepiece(files: &mut TokenizerFiles<'_>) -> Result<Self, TokenizeError> {
        let bytes = files.read(SENTENCEPIECE_FILE)?;
        let added: AddedTokens = files.read_json(ADDED_TOKENS_FILE)?;
        let config: TokenizerConfig = files.read_json(CONFIG_FILE)?;
        let model = SentencePiece::parse(&files.path(SENTENCEPIECE_FILE), &bytes)?;
        let specials = specials_of_sentencepiece(&model, &added, &config);
        Self::build(
            files,
            Backend::SentencePiece(Box::new(model)),
            specials,
            ADDED_TOKENS_FILE,
        )
    }

    fn load_json(files: &mut TokenizerFiles<'_>) -> Result<Self, TokenizeError> {
        let bytes = files.read(JSON_FILE)?;
        let config: TokenizerConfig = files.read_json_if_there(CONFIG_FILE)?;
        let model = JsonTokenizer::parse(&files.path(JSON_FILE), &bytes)?;
        let specials = specials_of_json(&model, &config);
        Self::build(files, Backend::Json(Box::new(model)), specials, JSON_FILE)
    }

    fn build(
        files: &TokenizerFiles<'_>,
        backend: Backend,
        specials: Specials,
        named_in: &str,
    ) -> Result<Self, TokenizeError> {
        let special =
            special_ids(&specials.added).map_err(|names| TokenizeError::MissingSpecials {
                path: files.path(named_in),
                names,
            })?;
        let highest = specials.added.keys().max().map_or(0, |id| *id as usize + 1);
        Ok(Self {
            vocab_size: highest.max(backend.len()),
            backend,
            split: SpecialSplit::new(specials.split),
            added: specials.added,
            skipped: specials.skipped,
            special,
            fingerprint: files.fingerprint(),
            neighbours: OnceLock::new(),
        })
    }

    /// Ids that GLM gives a meaning to.
    pub fn special(&self) -> &SpecialIds {
        &self.special
    }

    /// blake3 over the files that the tokenizer was loaded from.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// One more than the highest id. The model may have more rows than that.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Encodes a text; special tokens in it are taken as such, none are added. A text that the tokenizer fails
    /// on gives nothing; [`try_encode`](Self::try_encode) tells such a one from an empty text.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.try_encode(text).unwrap_or_default()
    }

    /// [`encode`](Self::encode), and why there are no ids.
    ///
    /// # Errors
    /// Where the rules of a `tokenizer.json` fail on this text.
    pub fn try_encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 8);
        let mut failure = None;
        self.split.split(text, |fragment| match fragment {
            Fragment::Token(id) => ids.push(id),
            Fragment::Text(text) => {
                if let Err(reason) = self.backend.encode_fragment(text, &mut ids) {
                    failure.get_or_insert(reason);
                }
            }
        });
        failure.map_or(Ok(ids), Err)
    }

    /// Decodes ids as the reference does: added tokens set apart by spaces, then spaces before
    /// punctuation removed. `skip_special` leaves special tokens out. Ids without a token
    /// give nothing; nor do those that the tokenizer fails on, which [`try_decode`](Self::try_decode) tells.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        self.try_decode(ids, skip_special).unwrap_or_default()
    }

    /// [`decode`](Self::decode), and why there is no text.
    ///
    /// # Errors
    /// Where the decoder of a `tokenizer.json` fails on these ids.
    pub fn try_decode(&self, ids: &[u32], skip_special: bool) -> Result<String, String> {
        Ok(decode::clean_up(self.join(ids, skip_special)?))
    }

    /// [`decode`](Self::decode) without the clean-up of spaces.
    pub fn decode_raw(&self, ids: &[u32], skip_special: bool) -> String {
        self.join(ids, skip_special).unwrap_or_default()
    }

    fn join(&self, ids: &[u32], skip_special: bool) -> Result<String, String> {
        let kept: Vec<u32> = ids
            .iter()
            .copied()
            .filter(|id| !(skip_special && self.skipped.contains(id)))
            .filter(|id| (*id as usize) < self.vocab_size)
            .collect();
        decode::join(
            &kept,
            |id| self.added.get(&id).map(String::as_str),
            |run, out| self.backend.decode_run(run, out),
        )
    }

    /// The token of an id as the vocabulary writes it, such as `▁中国` or `[MASK]`.
    pub fn token(&self, id: u32) -> Option<String> {
        self.added
            .get(&id)
            .cloned()
            .or_else(|| self.backend.piece(id))
    }

    /// The tokens of ids, with an empty one for an id that has none.
    pub fn tokens(&self, ids: &[u32]) -> Vec<String> {
        ids.iter()
            .map(|&id| self.token(id).unwrap_or_default())
            .collect()
    }

    /// Whether a text holds a mask token of any kind.
    pub(super) fn holds_mask(&self, text: &str) -> bool {
        self.masks(text) > 0
    }

    /// The mask tokens of the vocabulary, as a text spells them.
    pub fn mask_names(&self) -> Vec<&'static str> {
        let kinds = [
            (Some(self.special.mask), MaskToken::Mask),
            (self.special.smask, MaskToken::Sentence),
            (self.special.gmask, MaskToken::Generation),
        ];
        let known = kinds.into_iter().filter(|(id, _)| id.is_some());
        known.map(|(_, kind)| kind.as_str()).collect()
    }

    /// Ids of the mask tokens of the vocabulary.
    pub fn mask_ids(&self) -> Vec<u32> {
        let SpecialIds {
            mask, smask, gmask, ..
        } = self.special;
        [Some(mask), smask, gmask].into_iter().flatten().collect()
    }

    /// Mask tokens of any kind in a text.
    pub fn masks(&self, text: &str) -> usize {
        let mut found = 0;
        self.split.split(text, |fragment| {
            found += usize::from(matches!(fragment, Fragment::Token(id) if self.is_mask(id)));
        });
        found
    }

    /// The tokens of a text that decoding leaves out, in their order.
    fn skipped_tokens(&self, text: &str) -> Vec<u32> {
        let mut found = Vec::new();
        self.split.split(text, |fragment| {
            if let Fragment::Token(id) = fragment
                && self.skipped.contains(&id)
            {
                found.push(id);
            }
        });
        found
    }

    /// Whether an id is a mask token of any kind.
    pub(super) fn is_mask(&self, id: u32) -> bool {
        id == self.special.mask || Some(id) == self.special.smask || Some(id) == self.special.gmask
    }
}

impl fmt::Debug for GlmTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GlmTokenizer")
            .field("vocab_size", &self.vocab_size)
            .field("special", &self.special)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

impl Backend {
    fn encode_fragment(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        match self {
            Self::SentencePiece(model) => model.encode_fragment(text, ids),
            Self::Json(model) => return model.encode_fragment(text, ids),
        }
        Ok(())
    }

    fn decode_run(&self, run: &[u32], out: &mut String) -> Result<(), String> {
        match self {
            Self::SentencePiece(model) => model.decode_run(run, out),
            Self::Json(model) => return model.decode_run(run, out),
        }
        Ok(())
    }

    fn piece(&self, id: u32) -> Option<String> {
        match self {
            Self::SentencePiece(model) => model.piece(id).map(str::to_owned),
            Self::Json(model) => model.piece(id),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::SentencePiece(model) => model.len(),
            Self::Json(model) => model.len(),
        }
    }
}

/// Added tokens and the special tokens of the settings. A special token that is neither added nor
/// a piece (`[UNK]`) becomes the unknown id, and all trim on both sides: the reference's tokenizer
/// treats them so.
fn specials_of_sentencepiece(
    model: &SentencePiece,
    added: &AddedTokens,
    config: &TokenizerConfig,
) -> Specials {
    let id_of = |content: &str| {
        added
            .get(content)
            .copied()
            .or_else(|| model.piece_id(content))
    };
    let contents = added
        .keys()
        .map(String::as_str)
        .chain(config.special_tokens());
    let split = contents.filter_map(|content| {
        Some(SpecialToken {
            content: content.to_owned(),
            id: id_of(content)?,
            trim_left: true,
            trim_right: true,
        })
    });
    Specials {
        split: split.collect(),
        added: added
            .iter()
            .map(|(content, &id)| (id, content.clone()))
            .collect(),
        skipped: config.special_tokens().filter_map(id_of).collect(),
    }
}

/// The added tokens of the file, trimming as it says; special are those that it marks so and those
/// of the settings.
fn specials_of_json(model: &JsonTokenizer, config: &TokenizerConfig) -> Specials {
    let added = model.added_tokens();
    let marked = added
        .iter()
        .filter(|added| added.special)
        .map(|added| added.token.id);
    let named = config
        .special_tokens()
        .filter_map(|content| model.piece_id(content));
    Specials {
        skipped: marked.chain(named).collect(),
        added: added
            .iter()
            .map(|added| (added.token.id, added.token.content.clone()))
            .collect(),
        split: added.into_iter().map(|added| added.token).collect(),
    }
}

/// Finds GLM's tokens among the added ones by their content; of two ids with one content the lower is meant, as
/// where a text is split.
///
/// # Errors
/// The names of those that are missing, in backticks. Only `[MASK]` of the masks is needed.
fn special_ids(added: &BTreeMap<u32, String>) -> Result<SpecialIds, Vec<String>> {
    let find = |content: &str| {
        added
            .iter()
            .find(|(_, known)| *known == content)
            .map(|(id, _)| *id)
    };
    let mut missing = Vec::new();
    let mut need = |content: &str| {
        find(content).unwrap_or_else(|| {
            missing.push(format!("`{content}`"));
            0
        })
    };
    let ids = SpecialIds {
        cls: need("[CLS]"),
        sep: need("[SEP]"),
        mask: need("[MASK]"),
        smask: find("[sMASK]"),
        gmask: find("[gMASK]"),
        sop: need("<|startofpiece|>"),
        eop: need("<|endofpiece|>"),
        eos: need("<|endoftext|>"),
    };
    if missing.is_empty() {
        Ok(ids)
    } else {
        Err(missing)
    }
}

#[cfg(test)]
pub(super) mod tests;
