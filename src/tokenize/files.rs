//! The JSON files beside a tokenizer model, and the fingerprint over all of its files.
//!
//! Every error names the file it came from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::TokenizeError;
use crate::download::{self, Unusable};

/// Bytes of the largest tokenizer file that is read: far above any vocabulary.
const MOST_BYTES: u64 = 1 << 30;

/// The files of a tokenizer as they are read, hashed on the way.
pub(super) struct TokenizerFiles<'a> {
    folder: &'a Path,
    hasher: blake3::Hasher,
}

/// The settings of `tokenizer_config.json` that encoding and decoding need.
#[derive(Debug, Default, Deserialize)]
pub(super) struct TokenizerConfig {
    bos_token: Option<TokenName>,
    eos_token: Option<TokenName>,
    unk_token: Option<TokenName>,
    sep_token: Option<TokenName>,
    pad_token: Option<TokenName>,
    cls_token: Option<TokenName>,
    mask_token: Option<TokenName>,
    #[serde(default)]
    additional_special_tokens: Option<Vec<TokenName>>,
}

/// A token by its content, or as an object that holds it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum TokenName {
    Content(String),
    Object { content: String },
}

impl<'a> TokenizerFiles<'a> {
    /// Begins with no file read.
    pub(super) fn new(folder: &'a Path) -> Self {
        Self {
            folder,
            hasher: blake3::Hasher::new(),
        }
    }

    /// Where the file of this name is.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Reads a file that must be there.
    ///
    /// # Errors
    /// [`TokenizeError::Missing`], [`TokenizeError::Unreadable`] or [`TokenizeError::Unusable`].
    pub(super) fn read(&mut self, name: &str) -> Result<Vec<u8>, TokenizeError> {
        let path = self.path(name);
        let bytes = download::read(&path, MOST_BYTES).map_err(|unusable| match unusable {
            Unusable::Missing => TokenizeError::Missing { path },
            Unusable::Io(source) => TokenizeError::Unreadable { path, source },
            Unusable::Other(reason) => TokenizeError::Unusable { path, reason },
        })?;
        self.hasher.update(name.as_bytes());
        self.hasher.update(&(bytes.len() as u64).to_le_bytes());
        self.hasher.update(&bytes);
        Ok(bytes)
    }

    /// Reads a JSON file that must be there.
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`TokenizeError::Damaged`].
    pub(super) fn read_json<T: DeserializeOwned>(
        &mut self,
        name: &str,
    ) -> Result<T, TokenizeError> {
        let bytes = self.read(name)?;
        // Some editors put a byte order mark in front.
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        serde_json::from_slice(text).map_err(|error| TokenizeError::Damaged {
            path: self.path(name),
            reason: error.to_string(),
        })
    }

    /// Reads a JSON file that may be absent.
    ///
    /// # Errors
    /// As [`read_json`](Self::read_json), but the file may be absent.
    pub(super) fn read_json_if_there<T: DeserializeOwned + Default>(
        &mut self,
        name: &str,
    ) -> Result<T, TokenizeError> {
        match self.read_json(name) {
            Err(TokenizeError::Missing { .. }) => Ok(T::default()),
            other => other,
        }
    }

    /// blake3 over names and contents of the files read so far.
    pub(super) fn fingerprint(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }
}

impl TokenizerConfig {
    /// The contents of all special tokens.
    pub(super) fn special_tokens(&self) -> impl Iterator<Item = &str> {
        let named = [
            &self.bos_token,
            &self.eos_token,
            &self.unk_token,
            &self.sep_token,
            &self.pad_token,
            &self.cls_token,
            &self.mask_token,
        ];
        let additional = self.additional_special_tokens.iter().flatten();
        named
            .into_iter()
            .flatten()
            .chain(additional)
            .map(|name| match name {
                TokenName::Content(content) | TokenName::Object { content } => content.as_str(),
            })
    }
}

/// `added_tokens.json`: content to id.
pub(super) type AddedTokens = BTreeMap<String, u32>;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn special_tokens_are_strings_or_objects() {
        let config: TokenizerConfig = serde_json::from_str(
            r#"{"eos_token": "<e>", "pad_token": {"content": "<p>", "lstrip": false}, "cls_token": null,
                "additional_special_tokens": ["<a>", {"content": "<b>"}], "use_fast": false}"#,
        )
        .unwrap();
        assert_eq!(
            config.special_tokens().collect::<Vec<_>>(),
            ["<e>", "<p>", "<a>", "<b>"]
        );
        assert_eq!(TokenizerConfig::default().special_tokens().count(), 0);
    }

    #[test]
    fn errors_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = TokenizerFiles::new(folder.path());
        let before = files.fingerprint();
        let missing = files.read("a.json").unwrap_err().to_string();
        assert!(missing.contains("a.json` is missing\nhint: "), "{missing}");
        fs::create_dir(folder.path().join("b.json")).unwrap();
        assert!(
            files
                .read("b.json")
                .unwrap_err()
                .to_string()
                .contains("b.json` is a folder, not a file\nhint: ")
        );
        assert_eq!(files.fingerprint(), before);
        fs::write(folder.path().join("c.json"), "\u{feff}{\"x\": 1}").unwrap();
        assert_eq!(files.read_json::<AddedTokens>("c.json").unwrap()["x"], 1);
        assert_ne!(files.fingerprint(), before);
        fs::write(folder.path().join("d.json"), "{\"x\":").unwrap();
        let broken = files
            .read_json::<AddedTokens>("d.json")
            .unwrap_err()
            .to_string();
        assert!(
            broken.contains("d.json` is damaged: EOF while parsing"),
            "{broken}"
        );
        assert!(
            files
                .read_json_if_there::<AddedTokens>("e.json")
                .unwrap()
                .is_empty()
        );
    }
}
