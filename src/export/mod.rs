//! A results folder to one file that other programs load: the committed rows in order, through a format.
//!
//! ```text
//! parts -> rows (one row's lines at a time) -> items: answers or pairs -> filters -> lines -> writer
//!                                   prompts: kept, or made again from the input
//! ```
//!
//! `format` says what there is and which task can give it, `job` what a job can give, `own` which columns it has made,
//! `target` where it goes, `items` what a row has to offer, `filters` which of it is left out, `counts` how much of it, `lines` the lines of each format,
//! `schema` their types, `writer` the files, `card` and `exports` what is said
//! of them. Memory holds one window of prompts and a few
//! rows at a time, and with `--dedup` 16 bytes for each answer.

mod card;
mod counts;
mod exports;
mod filters;
mod format;
mod items;
mod job;
mod lines;
mod own;
mod pipeline;
mod prompts;
mod schema;
mod target;
mod writer;

use std::io;
use std::path::PathBuf;

use crate::error::Error;
use crate::sink::ResultRow;
use crate::stop::StopFlag;

pub(crate) use filters::Filters;
pub(crate) use format::Format;
pub(crate) use pipeline::export;

/// What is to be exported, and how.
pub(crate) struct ExportOptions<'a> {
    /// Form of the lines.
    pub format: Format,
    /// Whether texts are lists of messages.
    pub conversational: bool,
    /// Whether pairs have their margin.
    pub margin: bool,
    /// Makes the text of the prompt of `prompt`, `prefix` and the columns.
    pub prompt_template: Option<String>,
    /// Which lines are wanted.
    pub keep: Option<Test<'a>>,
    /// Which answers are good ones.
    pub label: Option<Test<'a>>,
    /// Which answers are left out.
    pub filters: Filters,
    /// A file or a folder; `None` is standard output.
    pub output: Option<PathBuf>,
    /// Ends the export with nothing written.
    pub stop: StopFlag,
}

/// Whether something holds for a result row.
type RowQuestion<'a> = dyn Fn(&ResultRow) -> crate::error::Result<bool> + 'a;

/// An expression about a result row.
pub(crate) struct Test<'a> {
    /// The expression as it was given.
    pub text: &'a str,
    /// Whether it is true for a row.
    pub matches: Box<RowQuestion<'a>>,
}

/// What an export did.
#[derive(Debug, Default)]
pub(crate) struct ExportReport {
    /// Lines written.
    pub lines: u64,
    /// The file, where there is one.
    pub file: Option<PathBuf>,
    /// What was left out, an entry a reason.
    pub left_out: Vec<String>,
    /// What should be known.
    pub notes: Vec<String>,
}

/// Why an export ended early.
#[derive(Debug)]
pub(crate) enum ExportError {
    /// Of the job, its files or the command.
    Library(Box<Error>),
    /// Of what the lines are written to.
    Output(io::Error),
}

impl<E: Into<Error>> From<E> for ExportError {
    fn from(error: E) -> Self {
        Self::Library(Box::new(error.into()))
    }
}

type Result<T> = std::result::Result<T, ExportError>;

/// A command that asks for what cannot be had.
fn refused(message: String) -> ExportError {
    Error::Usage(message).into()
}
