//! What can be wrong with the tokenizer files of a model folder.
//!
//! Texts never fail to encode; a context that cannot be built is a reason for its row, not an error.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// A tokenizer that cannot be loaded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TokenizeError {
    /// The folder holds no tokenizer that is known here.
    #[error(
        "no tokenizer in `{}`\nhint: a GLM folder holds `cog-pretrain.model` with `added_tokens.json` and `tokenizer_config.json`, or `tokenizer.json`",
        folder.display()
    )]
    NoTokenizer {
        /// The model folder.
        folder: PathBuf,
    },
    /// A file that belongs to the tokenizer is not there.
    #[error(
        "`{}` is missing\nhint: copy it from where the model was published into the model folder",
        path.display()
    )]
    Missing {
        /// The file that should be there.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path leads to something else than a file, or to a text that was left in the file's place.
    #[error("`{}` {reason}", path.display())]
    Unusable {
        /// The path.
        path: PathBuf,
        /// What it is, with what helps on a line of its own.
        reason: String,
    },
    /// A file is not what its name says: cut short, overwritten, not downloaded whole.
    #[error(
        "`{}` is damaged: {reason}\nhint: the file may be cut short or a download placeholder; copy it again",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A sound file of a kind that GLM does not use.
    #[error(
        "`{}` holds {found}, which is not supported\nhint: GLM's tokenizer is a SentencePiece BPE model; convert another kind to `tokenizer.json`",
        path.display()
    )]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: String,
    },
    /// The vocabulary lacks tokens that GLM needs.
    #[error(
        "`{}` lacks the special tokens {}\nhint: take the file that was published with the model, or add them to it",
        path.display(),
        names.join(", ")
    )]
    MissingSpecials {
        /// The file that should name them.
        path: PathBuf,
        /// The tokens, in backticks.
        names: Vec<String>,
    },
}
