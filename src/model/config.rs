//! `config.json` of a model folder, checked key by key.

use std::path::Path;

use serde_json::{Map, Value};

use super::folder::check_folder;
use super::{Backend, ModelError, Precision};
use crate::download::{self, Unusable};

/// Bytes of the largest `config.json` that is read.
const MOST_BYTES: u64 = 16 << 20;

/// Largest sizes that are taken at their word: far above any model, and so small that no product of them
/// overflows.
const MOST_LAYERS: u64 = 10_000;
const MOST_HIDDEN: u64 = 1 << 20;
const MOST_WORDS: u64 = 1 << 24;
const MOST_POSITIONS: u64 = 1 << 24;

/// The cure for a model of another kind.
const KNOWN_MODELS: &str = "this program runs the blank-filling GLM, such as `glm-350M-chinese`, \
     `glm-large-chinese` and `glm-10b-chinese`; ChatGLM and GLM-4 are other models";

/// Sizes and flags of a GLM.
#[derive(Clone, Debug, PartialEq)]
pub struct GlmConfig {
    /// Number of blocks.
    pub num_layers: usize,
    /// Rows of the embedding and width of the logits.
    pub vocab_size: usize,
    /// Width of a hidden state.
    pub hidden_size: usize,
    /// Attention heads of a block.
    pub num_attention_heads: usize,
    /// Limit of context positions, and on its own of answer positions.
    pub max_sequence_length: usize,
    /// Whether positions have a second part, counted inside the answer.
    pub block_position_encoding: bool,
    /// What the model's maker wants its users to read, printed with every summary; our own key.
    pub notice: Option<String>,
    /// A factor that the reference divides out and multiplies back; it alters nothing but rounding.
    pub attention_scale: f64,
}

impl GlmConfig {
    /// Reads `config.json` of a model folder.
    ///
    /// # Errors
    ///
    /// [`ModelError::Io`] without the file, [`ModelError::Config`] naming the key that is missing or wrong.
    pub fn load(folder: &Path) -> Result<Self, ModelError> {
        check_folder(folder)?;
        let path = folder.join("config.json");
        Self::parse(&config_text(&path)?, &path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ModelError> {
        let keys = parse_keys(text, path)?;
        let keys = Keys { keys: &keys, path };
        keys.refuse_other_models()?;
        let config = Self {
            num_layers: keys.size("num_layers", MOST_LAYERS)?,
            vocab_size: keys.size("vocab_size", MOST_WORDS)?,
            hidden_size: keys.size("hidden_size", MOST_HIDDEN)?,
            num_attention_heads: keys.size("num_attention_heads", MOST_HIDDEN)?,
            max_sequence_length: keys.size("max_sequence_length", MOST_POSITIONS)?,
            block_position_encoding: keys.flag("block_position_encoding", true)?,
            notice: keys
                .keys
                .get("notice")
                .and_then(Value::as_str)
                .map(str::to_owned),
            attention_scale: keys.number("attention_scale", 1.0)?,
        };
        if !config
            .hidden_size
            .is_multiple_of(config.num_attention_heads)
        {
            let reason = format!(
                "{} heads do not divide `hidden_size` {}",
                config.num_attention_heads, config.hidden_size
            );
            return Err(keys.wrong("num_attention_heads", reason));
        }
        Ok(config)
    }

    /// Weights that take part in products for each token, logits included.
    pub fn matrix_weights(&self) -> usize {
        12 * self.num_layers * self.hidden_size * self.hidden_size
            + self.vocab_size * self.hidden_size
    }

    /// Bytes that one cached token takes: keys and values of all layers, and the scales of those in 8 bits.
    pub fn cached_bytes_per_token(&self, cached: Precision) -> usize {
        let bytes_per_head = match cached {
            Precision::Q8 => self.head_size() + size_of::<f32>(),
            floats => self.head_size() * floats.float().bytes(),
        };
        2 * self.num_layers * self.num_attention_heads * bytes_per_head
    }

    /// Refuses a model that can read but not answer yet.
    ///
    /// # Errors
    ///
    /// [`ModelError::Unsupported`], where `block_position_encoding` is false.
    pub fn check_generation(&self) -> Result<(), ModelError> {
        if self.block_position_encoding {
            return Ok(());
        }
        Err(ModelError::Unsupported(
            "generation with a model whose `block_position_encoding` is false is not available yet\n\
             hint: use a model with `\"block_position_encoding\": true` in its `config.json`"
                .to_owned(),
        ))
    }

    /// Width of an attention head.
    pub fn head_size(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// What queries are multiplied with in the weights of a backend; `None` where attention does it.
    ///
    /// A device has it in its weights where it is a power of two, which saves it a call a layer. In f32 and bf16 such a
    /// product is exact. So it is in f16, but for weights that are below 2^-14 after it: those lose at most 2^-25, no more than
    /// the rounding to f16 takes from a weight just above that.
    pub(super) fn folded_query_scale(&self, backend: Backend) -> Option<f32> {
        let size = self.head_size();
        let is_exact = size.is_power_of_two() && size.ilog2().is_multiple_of(2);
        (backend == Backend::Padded && is_exact).then(|| 1.0 / (size as f32).sqrt())
    }

    /// What attention multiplies its queries with; `None` where the weights of the backend hold it.
    pub(super) fn query_scale(&self, backend: Backend) -> Option<f64> {
        match self.folded_query_scale(backend) {
            Some(_) => None,
            None => Some(1.0 / (self.head_size() as f64).sqrt()),
        }
    }

    /// Rows of the position tables.
    pub fn position_rows(&self) -> usize {
        self.max_sequence_length + usize::from(self.block_position_encoding)
    }
}

/// The text of a `config.json`.
///
/// # Errors
///
/// [`ModelError::File`] or [`ModelError::Io`], where it is missing or something else.
pub(super) fn config_text(path: &Path) -> Result<String, ModelError> {
    let bytes = download::read(path, MOST_BYTES).map_err(|unusable| match unusable {
        Unusable::Missing => ModelError::file(
            path,
            "does not exist\nhint: give a model folder (`model.path` in a job file) in Hugging Face layout: \
             `config.json`, weights, tokenizer",
        ),
        other => ModelError::unusable(path)(other),
    })?;
    String::from_utf8(bytes).map_err(|_| ModelError::file(path, "is not UTF-8 text"))
}

/// The keys of a `config.json`.
///
/// # Errors
///
/// [`ModelError::File`], where the text is not a JSON object.
pub(super) fn parse_keys(text: &str, path: &Path) -> Result<Map<String, Value>, ModelError> {
    // Some editors put a byte order mark in front.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    serde_json::from_str(text)
        .map_err(|error| ModelError::file(path, format!("is not a JSON object: {error}")))
}

struct Keys<'a> {
    keys: &'a Map<String, Value>,
    path: &'a Path,
}

impl Keys<'_> {
    fn wrong(&self, key: &str, reason: impl Into<String>) -> ModelError {
        ModelError::Config {
            path: self.path.to_owned(),
            key: key.to_owned(),
            reason: reason.into(),
        }
    }

    fn size(&self, key: &str, most: u64) -> Result<usize, ModelError> {
        let value = self
            .keys
            .get(key)
            .ok_or_else(|| self.wrong(key, "is missing"))?;
        match value.as_u64() {
            Some(size) if (1..=most).contains(&size) => Ok(size as usize),
            Some(size) if size > most => Err(self.wrong(
                key,
                format!("is {size}, more than any model has (at most {most})\nhint: take `config.json` from where the model was published"),
            )),
            _ => Err(self.wrong(key, format!("must be a positive integer, not `{value}`"))),
        }
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        match self.keys.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => Err(self.wrong(key, format!("must be true or false, not `{value}`"))),
        }
    }

    fn number(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        match self.keys.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_f64()
                .ok_or_else(|| self.wrong(key, format!("must be a number, not `{value}`"))),
        }
    }

    fn refuse_other_models(&self) -> Result<(), ModelError> {
        match self.keys.get("model_type") {
            None | Some(Value::Null) => {}
            Some(Value::String(kind)) if kind == "glm" => {}
            Some(kind) => {
                let reason = format!("is {kind}, not \"glm\"\nhint: {KNOWN_MODELS}");
                return Err(self.wrong("model_type", reason));
            }
        }
        if self.flag("relative_encoding", false)? {
            let reason = format!("true is not supported\nhint: {KNOWN_MODELS}");
            return Err(self.wrong("relative_encoding", reason));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"model_type": "glm", "num_layers": 2, "vocab_size": 512, "hidden_size": 64,
        "num_attention_heads": 4, "max_sequence_length": 128}"#;

    fn parse(text: &str) -> Result<GlmConfig, String> {
        GlmConfig::parse(text, Path::new("m/config.json")).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_and_sizes() {
        let config = parse(GOOD).unwrap();
        assert!(config.block_position_encoding);
        assert_eq!((config.head_size(), config.position_rows()), (16, 129));
    }

    #[test]
    fn errors_name_the_key() {
        let cases = [
            (
                GOOD.replace("\"num_layers\": 2,", ""),
                "`m/config.json`: `num_layers`: is missing",
            ),
            (
                GOOD.replace("512", "\"many\""),
                "`m/config.json`: `vocab_size`: must be a positive integer, not `\"many\"`",
            ),
            (
                GOOD.replace("heads\": 4", "heads\": 5"),
                "`m/config.json`: `num_attention_heads`: 5 heads do not divide `hidden_size` 64",
            ),
            (
                GOOD.replace("\"glm\"", "\"bert\""),
                "`m/config.json`: `model_type`: is \"bert\", not \"glm\"\nhint: this program runs the blank-filling GLM",
            ),
        ];
        for (text, want) in cases {
            let error = parse(&text).unwrap_err();
            assert!(error.starts_with(want), "{error}");
        }
    }
}
