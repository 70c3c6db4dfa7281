//! The error of a command: one of the library's, or one of the standard streams.

use std::io;

use crate::error::Error;

/// Why a command could not do what it was asked for.
///
/// The library knows nothing of the terminal, so that its [`Error`] has no place for what happens there.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// Of the job, its files or the model; boxed, since it is much larger than what a command gives.
    #[error(transparent)]
    Library(Box<Error>),
    /// Of standard input, standard output or the signals.
    #[error(transparent)]
    Terminal(#[from] io::Error),
}

/// Takes the errors of single stages too, so that `?` is enough for them.
impl<E: Into<Error>> From<E> for CliError {
    fn from(error: E) -> Self {
        Self::Library(Box::new(error.into()))
    }
}

pub(super) type CliResult<T> = Result<T, CliError>;
