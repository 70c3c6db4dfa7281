//! What can stop a job from recording its progress.

use std::io;
use std::path::{Path, PathBuf};

use crate::fsio::FsError;
use crate::ids::{RowId, ShardId, WindowId};
use crate::sink::SinkError;

use super::owner::Owner;

/// A checkpoint that cannot be written, read or gone on from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The disk or the quota is full; what is committed and journalled stays valid.
    #[error("{0}")]
    DiskFull(FsError),
    /// A file operation failed.
    #[error("{0}")]
    Fs(FsError),
    /// The output folder cannot be written.
    #[error(
        "cannot write to the output folder `{}`: {cause}\nhint: check its permissions, or choose another `output.path`",
        .path.display()
    )]
    Unwritable {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The output folder cannot be moved aside.
    #[error("{error}\nhint: {cure}")]
    Unmovable {
        /// What was tried.
        error: FsError,
        /// What helps.
        cure: &'static str,
    },
    /// Files of the job are not as they were written.
    #[error("files in `{}` are not as they were written:\n  {problems}\nhint: {cure}", .folder.display())]
    Unsound {
        /// The folder.
        folder: PathBuf,
        /// What is wrong, one line each.
        problems: String,
        /// What helps.
        cure: String,
    },
    /// The folder holds no job.
    #[error(
        "`{}` is not the output folder of a job: it has no `job.json`\nhint: give the folder that `output.path` names; the first run makes it, and `run --limit` writes to one that ends in `.trial`",
        .path.display()
    )]
    NoJob {
        /// The folder.
        path: PathBuf,
    },
    /// What is in the place of the trial was not written by one.
    #[error(
        "`{}` is in the way: a trial is written there, and it is none\nhint: move it away, or choose another `output.path`",
        .path.display()
    )]
    NoTrial {
        /// The folder.
        path: PathBuf,
    },
    /// A part cannot be written.
    #[error("`{}`: {cause}", .path.display())]
    Part {
        /// The part.
        path: PathBuf,
        /// Why.
        cause: SinkError,
    },
    /// A file of the checkpoint does not hold what was written.
    #[error("`{}` is damaged: {reason}\nhint: {cure}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// What helps.
        cure: &'static str,
    },
    /// A file names another job than the one that `job.json` records.
    #[error(
        "`{}` belongs to another job than the one in `job.json`\nhint: begin anew with `glm-batch run --restart`; everything that is there is kept beside",
        .path.display()
    )]
    Stranger {
        /// The file.
        path: PathBuf,
    },
    /// The file where the record of a job would be is another program's.
    #[error(
        "`{}` is not a file of glm-batch, and the record of the job would have its name\nhint: choose another `output.path`",
        .path.display()
    )]
    OtherRecord {
        /// The file.
        path: PathBuf,
    },
    /// The folder holds work, and the record of the job that it belongs to is gone.
    #[error(
        "`{}` is there, and the `job.json` of the job that it belongs to is gone\nhint: put `job.json` back, or begin anew with `--restart`; everything that is there is kept beside",
        .path.display()
    )]
    NoRecord {
        /// The first file of that work.
        path: PathBuf,
    },
    /// A file was written by a version of the program that this one does not know.
    #[error(
        "`{}` was written by another version of glm-batch: it has version `{found}`, which this program does not know\nhint: run the version of glm-batch that wrote it, or a newer one",
        .path.display()
    )]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: String,
    },
    /// `job.json` is whole, and holds what this version of the program does not know.
    #[error(
        "`{}` was written by another version of glm-batch: {reason}\nhint: run the version of glm-batch that wrote it, or a newer one",
        .path.display()
    )]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// What is not known.
        reason: String,
    },
    /// Somebody else is writing.
    #[error(
        "{} is being written{}\nhint: wait until it has ended, then run the same command again",
        locked(.shard.as_ref()), by(.owner.as_ref())
    )]
    Locked {
        /// The shard; `None` where the job itself is being set up.
        shard: Option<ShardId>,
        /// Who writes it, where that is known.
        owner: Option<Owner>,
    },
    /// Somebody else has taken over the shard.
    #[error(
        "shard {shard} has been taken over{}\nhint: this process stops here, what it committed stays valid",
        by(.owner.as_ref())
    )]
    TakenOver {
        /// The shard.
        shard: ShardId,
        /// Who has it now.
        owner: Option<Owner>,
    },
    /// Another process has begun another job in the folder.
    #[error(
        "another process has begun anew in `{}` meanwhile\nhint: this process stops here; what it had committed was moved beside",
        .folder.display()
    )]
    Replaced {
        /// The folder.
        folder: PathBuf,
    },
    /// A signal came while a lock was waited for, or files were checked.
    #[error("interrupted before the work began\nhint: run the same command again")]
    Interrupted,
    /// A window does not belong to the shard.
    #[error("window {window} does not belong to shard {shard}")]
    Foreign {
        /// The window.
        window: WindowId,
        /// The shard.
        shard: ShardId,
    },
    /// A window's rows are committed already.
    #[error("window {window} overlaps window {other}, which is committed already")]
    Overlap {
        /// The window.
        window: WindowId,
        /// The committed one.
        other: WindowId,
    },
    /// A row came twice.
    #[error("row {row} is in the journal `{}` already", .path.display())]
    DoubledRow {
        /// The row.
        row: RowId,
        /// The journal.
        path: PathBuf,
    },
    /// A committed file that something was to be made of is not as it was written.
    #[error(
        "the committed file `{}` {reason}\nhint: `glm-batch verify {results} --repair` takes it out, then run the job again, which makes its rows again",
        .path.display()
    )]
    Altered {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// The output folder of the job, as a word of a command line.
        results: String,
    },
    /// A committed file is gone or has another size.
    #[error(
        "the committed file `{}` {}, it was written with {expected} bytes\nhint: `glm-batch verify --repair` takes it out, the next run makes it again",
        .path.display(), what_is_there(.found.as_ref())
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// Bytes that the manifest names.
        expected: u64,
        /// Bytes that are there; `None` where the file is gone.
        found: Option<u64>,
    },
}

impl From<FsError> for CheckpointError {
    fn from(error: FsError) -> Self {
        if error.is_full() {
            Self::DiskFull(error)
        } else {
            Self::Fs(error)
        }
    }
}

impl CheckpointError {
    pub(super) fn read(path: &Path, cause: io::Error) -> Self {
        FsError::new("read", path, cause).into()
    }

    /// Whether no input and no machine should ever lead to it.
    pub fn is_unexpected(&self) -> bool {
        matches!(
            self,
            Self::Foreign { .. } | Self::Overlap { .. } | Self::DoubledRow { .. }
        )
    }

    /// Whether the same command may succeed later: somebody else is at work, or a signal came.
    pub fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::Locked { .. }
                | Self::TakenOver { .. }
                | Self::Replaced { .. }
                | Self::Interrupted
        )
    }
}

fn locked(shard: Option<&ShardId>) -> String {
    shard.map_or_else(|| "the job".to_owned(), |shard| format!("shard {shard}"))
}

fn by(owner: Option<&Owner>) -> String {
    owner.map_or_else(String::new, |owner| format!(" by {owner}"))
}

fn what_is_there(bytes: Option<&u64>) -> String {
    bytes.map_or_else(
        || "is gone".to_owned(),
        |bytes| format!("has {bytes} bytes"),
    )
}
