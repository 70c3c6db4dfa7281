//! The errors of all stages in one, and what each means for who started the job.

use std::path::PathBuf;

use crate::checkpoint::CheckpointError;
use crate::engine::EngineError;
use crate::fsio::FsError;
use crate::input::InputError;
use crate::job::{Place, SpecError};
use crate::model::ModelError;
use crate::sink::SinkError;
use crate::tasks::TaskError;
use crate::tokenize::TokenizeError;

/// Anything that ends a run early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The job file.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A value of the job file that only a later stage could find wrong.
    #[error("{place}: {source}")]
    Placed {
        /// Where the value is written.
        place: Place,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// The input.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The tokenizer's files.
    #[error(transparent)]
    Tokenize(#[from] TokenizeError),
    /// The model's files or its device.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The result columns.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The output folder.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A file outside the checkpoint.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The output folder holds another job.
    #[error("`{folder}` belongs to a job that differs from this one:\n{differences}\nhint: {cure}")]
    Refused {
        /// The output folder.
        folder: String,
        /// One line a difference.
        differences: String,
        /// What helps.
        cure: &'static str,
    },
    /// A model that is refused now, of a job that began under a version which may have read it.
    #[error("{}", begun_earlier(.0))]
    BegunEarlier(ModelError),
    /// A stop string of the job that no answer can hold.
    #[error("`generation.stop` holds `{stop}`, which no answer can hold: {reason}\nhint: {cure}")]
    Stop {
        /// The stop string.
        stop: String,
        /// What is in the way.
        reason: String,
        /// What helps.
        cure: String,
    },
    /// A key whose value does not fit the model or another key, by the job's task.
    #[error("`{key}` {reason}\nhint: {cure}")]
    Key {
        /// The whole key, dotted.
        key: &'static str,
        /// What is wrong.
        reason: String,
        /// What helps.
        cure: String,
    },
    /// A bad row, where the job stops at the first.
    #[error(
        "{place}: bad row, refused at {stage}: {reason}\nhint: fix the row, or set `input.on_bad_row = \"record\"` to go on without it"
    )]
    BadRow {
        /// File and line, or file, row group and row; the number of the row where it is known.
        place: String,
        /// Stage that refused it.
        stage: crate::outcome::Stage,
        /// Reason.
        reason: String,
    },
    /// A line of a workload that cannot be run.
    #[error("{}:{line}: {reason}\nhint: {cure}", .path.display())]
    WorkloadLine {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong, with the name of the field.
        reason: String,
        /// What helps.
        cure: String,
    },
    /// The command asks for what the job does not have.
    #[error("{0}")]
    Usage(String),
    /// The thread that reads and encodes rows ended before its time.
    #[error("the reading thread ended early")]
    ReaderEnded,
    /// Another process is writing the same file.
    #[error(
        "`{}` is being written by another export\nhint: wait until that has ended, or give another `--output`",
        .path.display()
    )]
    BeingWritten {
        /// The file.
        path: PathBuf,
    },
    /// Committed windows were taken out while this run found nothing left to do.
    #[error("windows were taken out of the checkpoint meanwhile")]
    Reopened,
    /// A signal came before there was anything to keep.
    #[error("interrupted")]
    Interrupted,
}

/// What is wrong with the model, and in the hint who can finish the job.
fn begun_earlier(error: &ModelError) -> String {
    let text = error.to_string();
    let link = if text.contains("\nhint: ") {
        ";"
    } else {
        "\nhint:"
    };
    format!(
        "{text}{link} an earlier version began this job: finish it with that version, or begin anew with `--restart` (the old results are kept beside)"
    )
}

/// Result of anything above the stages.
pub type Result<T> = std::result::Result<T, Error>;

impl From<TaskError> for Error {
    fn from(error: TaskError) -> Self {
        match error {
            TaskError::Stop { stop, error } => Self::Stop {
                stop,
                reason: error.reason,
                cure: error.cure,
            },
            TaskError::Key { key, reason, cure } => Self::Key { key, reason, cure },
        }
    }
}

impl Error {
    /// The key of the job file whose value it is about, where the message does not say where that is.
    pub fn key(&self) -> Option<&'static str> {
        match self {
            Self::Input(
                InputError::UnknownColumn { key, .. }
                | InputError::NeitherTextNorList { key, .. }
                | InputError::NoLists { key, .. }
                | InputError::Template { key, .. },
            )
            | Self::Sink(SinkError::UnknownColumn { key, .. })
            | Self::Key { key, .. } => Some(key),
            Self::Input(InputError::Where { .. }) => Some("input.where"),
            Self::Input(InputError::Examples { .. }) => Some("prompt.few_shot"),
            Self::Stop { .. } => Some("generation.stop"),
            Self::Sink(SinkError::NotCarried { .. } | SinkError::IdRenamed { .. }) => {
                Some("output.rename")
            }
            _ => None,
        }
    }

    /// Whether the same command may succeed later, unchanged.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Checkpoint(error) => error.is_temporary(),
            Self::Interrupted
            | Self::BeingWritten { .. }
            | Self::Input(InputError::Interrupted)
            | Self::Model(ModelError::Interrupted)
            | Self::Reopened => true,
            _ => false,
        }
    }

    /// Whether no input and no machine should ever lead to it.
    pub fn is_unexpected(&self) -> bool {
        match self {
            Self::Checkpoint(error) => error.is_unexpected(),
            Self::Engine(_) | Self::ReaderEnded => true,
            _ => false,
        }
    }
}
