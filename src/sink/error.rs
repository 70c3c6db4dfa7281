//! What can go wrong between a window's outcomes and its part.

use std::io;
use std::path::PathBuf;

use arrow_schema::ArrowError;
use parquet::errors::ParquetError;

use crate::ids::RowId;

/// A part that cannot be written, or could never be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The job names a column that the input does not have.
    #[error("`{key}` names the column `{column}`, which the input does not have{}", did_you_mean(.nearest.as_deref(), .known))]
    UnknownColumn {
        /// Key of the job file.
        key: &'static str,
        /// The name.
        column: String,
        /// The input's column that is named most like it.
        nearest: Option<String>,
        /// All columns of the input.
        known: Vec<String>,
    },
    /// The job renames a column that is not carried through.
    #[error(
        "`output.rename` names the column `{column}`, which is not carried through\nhint: add it to `output.columns`"
    )]
    NotCarried {
        /// The name.
        column: String,
    },
    /// The job renames the column that is written as `id`.
    #[error(
        "`output.rename` names the column `{column}`, which is written as `id`\nhint: take it out of `output.rename`, or map another column to `id` with `input.columns.id`"
    )]
    IdRenamed {
        /// The name.
        column: String,
    },
    /// A carried column is named like one that this program writes.
    #[error(
        "the carried column `{column}` has the name of a result column\nhint: give it another name, for example `output.rename = {{ {source_column} = \"input_{column}\" }}`, or leave it out of `output.columns`{}", without_key(.key.as_deref())
    )]
    Clash {
        /// The name in the results.
        column: String,
        /// The input's column.
        source_column: String,
        /// The key without which the result column would not be there; `None` where it always is.
        key: Option<&'static str>,
    },
    /// Two carried columns would have one name.
    #[error(
        "the columns `{first}` and `{second}` would both be written as `{column}`\nhint: give them different names in `output.rename`"
    )]
    TwoOfOneName {
        /// The name in the results.
        column: String,
        /// One of the input's columns.
        first: String,
        /// The other.
        second: String,
    },
    /// A column's type has no form in Parquet; JSON lines take every type.
    #[error(
        "the column `{column}` of type `{kind}` cannot be written as Parquet: {reason}\nhint: leave it out of `output.columns`"
    )]
    Unsupported {
        /// The input's column.
        column: String,
        /// Its type.
        kind: String,
        /// What the writer said.
        reason: String,
    },
    /// A row has neither a result nor a reason.
    #[error("row {row} has no outcome")]
    MissingOutcome {
        /// The row.
        row: RowId,
    },
    /// A value is not of the type that the first pass found.
    #[error(
        "row {row}: column `{column}` is not the {kind} that it was when the input was first read\nhint: the input changed while the job was running; start anew with `--restart`"
    )]
    Value {
        /// The row.
        row: RowId,
        /// The input's column.
        column: String,
        /// The type that the column had.
        kind: &'static str,
    },
    /// Arrow refused the columns.
    #[error("cannot build the result columns: {0}")]
    Arrow(ArrowError),
    /// The Parquet writer failed.
    #[error("cannot write the part: {0}")]
    Parquet(ParquetError),
    /// A part that was written cannot be read back.
    #[error("cannot read `{}`: {reason}\nhint: `glm-batch verify` says what is wrong, and with `--repair` takes it out", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file could not be written.
    #[error("cannot write the part: {0}")]
    Io(io::Error),
}

impl From<ArrowError> for SinkError {
    fn from(error: ArrowError) -> Self {
        Self::Arrow(error)
    }
}

impl From<ParquetError> for SinkError {
    fn from(error: ParquetError) -> Self {
        Self::Parquet(error)
    }
}

impl From<io::Error> for SinkError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn without_key(key: Option<&str>) -> String {
    key.map_or_else(String::new, |key| format!(", or set `{key} = false`"))
}

fn did_you_mean(nearest: Option<&str>, known: &[String]) -> String {
    match nearest {
        Some(name) => format!("\nhint: did you mean `{name}`?"),
        None if known.is_empty() => "\nhint: the input has no columns".to_owned(),
        None => format!("\nhint: the input has `{}`", known.join("`, `")),
    }
}
