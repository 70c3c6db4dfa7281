//! What can be wrong with a job file, as the user reads it.
//!
//! Every message names the place, the key and what was found; the cure follows on a line of its
//! own. Built by the other files of this stage, printed by the command line.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

/// Where a value of the job comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The job file as a whole.
    File {
        /// Name of the job file.
        source: Arc<str>,
    },
    /// A line of the job file.
    Line {
        /// Name of the job file.
        source: Arc<str>,
        /// Line, from 1.
        line: usize,
    },
    /// A `--set` argument.
    Set {
        /// The argument as given.
        argument: Arc<str>,
    },
}

impl Place {
    /// For values that come neither from a file nor from an argument.
    pub(super) fn unknown() -> Self {
        Self::File {
            source: "job".into(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { source } => f.write_str(source),
            Self::Line { source, line } => write!(f, "{source}:{line}"),
            Self::Set { argument } => write!(f, "`--set {argument}`"),
        }
    }
}

/// The cure, where there is one; shown as a `hint: ` line of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hint(pub Option<Box<str>>);

impl Hint {
    pub(super) fn some(text: impl Into<Box<str>>) -> Self {
        Self(Some(text.into()))
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .as_ref()
            .map_or(Ok(()), |text| write!(f, "\nhint: {text}"))
    }
}

/// A job that cannot be run as it is written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The job file cannot be opened or read.
    #[error("cannot read job file `{}`: {source}\nhint: give the path of a TOML file; `jobs/demo.toml` of the repository is one", path.display())]
    Read {
        /// The job file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The text is not TOML, or an argument not `key=value`.
    #[error("{place}: {message}{hint}")]
    Syntax {
        /// Where.
        place: Place,
        /// What the parser says.
        message: String,
        /// The cure.
        hint: Hint,
    },
    /// No key of a job.
    #[error("{place}: unknown key `{key}`{hint}")]
    UnknownKey {
        /// Where.
        place: Place,
        /// The whole key, dotted.
        key: String,
        /// The nearest known key.
        hint: Hint,
    },
    /// A value of the wrong type, or a word that is none of those allowed.
    #[error("{place}: `{key}`: expected {expected}, found {found}{hint}")]
    WrongType {
        /// Where.
        place: Place,
        /// The whole key, dotted.
        key: String,
        /// What the key takes.
        expected: String,
        /// What was found there.
        found: String,
        /// The cure.
        hint: Hint,
    },
    /// A key that must be there and is not.
    #[error("{place}: `{key}` is missing{hint}")]
    Missing {
        /// Where.
        place: Place,
        /// The whole key, dotted.
        key: String,
        /// The cure.
        hint: Hint,
    },
    /// A value out of range, or one that another key forbids.
    #[error("{place}: `{key}` {reason}{hint}")]
    Invalid {
        /// Where.
        place: Place,
        /// The whole key, dotted.
        key: String,
        /// What is wrong, read after the key.
        reason: String,
        /// The cure.
        hint: Hint,
    },
    /// Something that a later version will have.
    #[error("{place}: `{key}`: {what} not available in this version yet{hint}")]
    NotYet {
        /// Where.
        place: Place,
        /// The whole key, dotted.
        key: String,
        /// What, with its verb.
        what: String,
        /// What to do instead.
        hint: Hint,
    },
    /// Lengths that leave no room, known only with the model.
    #[error(
        "`generation.max_new_tokens` ({max_new_tokens}) leaves no room for the prompt in \
         `prompt.max_length` ({max_length}, {origin})\n\
         hint: {cure}"
    )]
    Lengths {
        /// Most answer tokens.
        max_new_tokens: u32,
        /// Context plus answer.
        max_length: u32,
        /// Where `max_length` comes from.
        origin: String,
        /// What helps.
        cure: String,
    },
}
