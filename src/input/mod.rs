//! Input files to [`Prompt`]s, one window at a time.
//!
//! [`resolve_files`] lists the files, [`scan`] is the first pass that fixes rows, windows and columns
//! in an [`InputIndex`], [`open`] gives a [`PromptSource`] that reads any window of it. Only the job's
//! settings come in; rows go on to the tokenizer. Whatever a row holds, it never stops the job here: it
//! becomes a [`BadRow`].
//!
//! # What becomes of odd JSON lines
//!
//! | line | treatment |
//! | --- | --- |
//! | blank: nothing but spaces, tabs, CR | skipped; counts as a line, takes no row number |
//! | ends in CR LF | the CR belongs to the line end |
//! | byte order mark at the file's start | dropped |
//! | byte order mark before any other line | bad row, no record |
//! | not UTF-8, no JSON, no object, two values, a comment, `NaN` | bad row, no record |
//! | U+2028, U+2029, U+0085 in a text | kept: only LF ends a line |
//! | equal keys | the last value counts, at the first one's position |
//! | lone surrogate escape in a top-level text or key | bad row, no record; inside nested values it becomes U+FFFD |
//! | `\u0000` in a text | kept |
//! | number that no float64 holds | accepted; its column is carried as JSON text |
//! | any depth in a carried field | accepted; a template that names the field fails over 127 levels |
//! | id null, missing or empty | the row number |
//! | id number | its own digits |
//! | id of any other type | bad row under its row number |
//! | id equal to an earlier one, long, or like a path | kept as it is; [`DuplicateIds`] counts |
//! | text that looks like special tokens | kept; the tokenizer decides |
//! | prompt of any length | kept; `prompt.overflow` decides |
//! | prompt missing, null, empty, white space, no text | bad row |
//! | prefix or reference null or missing | none; the job's prefix |
//! | prefix or reference neither text nor null | bad row |
//! | `generation` null, or a null field in it | the job's value |
//! | `generation` neither object nor a string with one | bad row |
//!
//! A bad row that is no record has no line in the results. Parquet rows go by the same rules; the rows
//! of a row group with a damaged page are bad and no records.

mod build;
mod duplicates;
mod error;
mod files;
mod jsonl;
mod lines;
mod parquet;
mod printed;
mod record;
mod scan;
mod select;
mod stdin;
mod surrogates;
mod template;
mod types;
mod windows;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;

pub use build::id_column;
pub use duplicates::DuplicateIds;
pub use error::{FileProblem, InputError};
pub use files::{STDIN_COPY, resolve_files};
pub use parquet::{JsonColumn, Logical, json_lines, json_options, marked_batches};
pub use scan::{MAX_WINDOW_BYTES, Scan, ScanOptions, scan};
pub use select::{Selection, select};
pub use stdin::copy_stdin;
pub use types::*;

use crate::spec::{InputSpec, PromptSpec, Rules};

/// Reads windows of an input. Windows may be read in any order and by several threads; in ascending
/// order it costs least.
pub trait PromptSource: Send + Sync {
    /// Reads one window.
    ///
    /// # Errors
    /// A file that cannot be read any more or is not what the first pass saw.
    fn read_window(&self, window: &WindowSpan) -> Result<InputWindow, InputError>;

    /// Parquet: the schema that all windows' batches have.
    fn arrow_schema(&self) -> Option<SchemaRef>;
}

/// Opens an input that was scanned under the same rules.
///
/// # Errors
/// A named column that no row has, a template that does not parse, a struct of settings with an
/// unknown field; for Parquet what its footers get wrong.
pub fn open(
    input: &InputSpec,
    prompt: &PromptSpec,
    index: Arc<InputIndex>,
    rules: Rules,
) -> Result<Box<dyn PromptSource>, InputError> {
    let builder = build::PromptBuilder::new(&input.columns, prompt)?;
    builder.check_columns(&index)?;
    Ok(match index.format {
        InputFormat::Jsonl => Box::new(jsonl::JsonlSource::new(index, builder, rules)),
        InputFormat::Parquet => {
            let generation = input.columns.generation.as_deref();
            Box::new(parquet::ParquetSource::new(
                index, builder, generation, rules,
            )?)
        }
    })
}
