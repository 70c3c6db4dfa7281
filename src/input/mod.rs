//! Input files to [`Prompt`]s, one window at a time.
//!
//! [`resolve_files`] lists the files, [`scan`] is the first pass that fixes rows, windows and columns
//! in an [`InputIndex`], [`open`] gives a [`PromptSource`] that reads any window of it. Only the job's
//! settings come in; rows go on to the tokenizer. Whatever a row holds, it never stops the job here: it
//! becomes a [`BadRow`](crate::outcome::BadRow).
//!
//! # What becomes of odd JSON lines
//!
//! | line | treatment |
//! | --- | --- |
//! | longer than `input.max_row_bytes` | bad row, no record; its beginning is kept |
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
//! | whole number that float64 would round, in a column with others | accepted; its column is carried as JSON text |
//! | any depth in a carried field | accepted; a template that names the field fails over 127 levels |
//! | id null, missing or empty | the row number |
//! | id number | its own digits |
//! | id of any other type | bad row under its row number |
//! | id equal to an earlier one, long, or like a path | kept as it is; [`DuplicateIds`] counts |
//! | text that looks like special tokens | kept; the tokenizer decides |
//! | prompt of any length | kept; `prompt.overflow` decides |
//! | prompt missing, null, empty, white space, no text | bad row |
//! | messages null, missing, empty, no list of objects with the texts `role` and `content`; the last not of the user | bad row |
//! | prefix or reference null or missing | none; the job's prefix |
//! | prefix or reference neither text nor null | bad row |
//! | reference a list | its first text, or the `answer` of its first object; none if it is empty |
//! | target or answer null, missing, empty, no text; an empty list | bad row |
//! | target or answer a list | its texts, or the `answer` of its objects |
//! | choices | as targets; one column must hold lists |
//! | label null or missing | no label |
//! | label neither text nor number | bad row |
//! | `generation` null, or a null field in it | the job's value |
//! | `generation` neither object nor a string with one | bad row |
//!
//! A record of a CSV or TSV file is read as the JSON line of its fields. Where it has more or fewer fields than the
//! first line, or goes on behind a closing quote, it is a bad row and no record.
//!
//! A bad row that is not a record has no line in the results. Parquet rows go by the same rules; the rows
//! of a row group with a damaged page are bad and no records.

mod built;
mod cell;
mod choose;
mod conversation;
mod digits;
mod duplicates;
mod error;
mod examples;
mod fields;
mod files;
mod filter;
mod folders;
mod following;
mod formats;
mod found;
mod identity;
mod json_rows;
mod jsonl;
mod jsonl_source;
mod left_out;
mod lines;
mod nested;
mod one_line;
mod packed;
mod parquet;
mod partition;
mod patterns;
mod printed_names;
mod prompt;
mod requests;
mod roomy;
mod rows_taken;
mod scan;
mod sniff;
mod stdin;
mod suggested_template;
mod surrogates;
mod table;
mod tags;
mod template;
mod trial;
mod types;
mod windows;

use std::sync::Arc;

use arrow_schema::SchemaRef;

pub(crate) use choose::{HeadColumns, NoChoice, PROMPT_NAMES, head_columns};
pub(crate) use digits::keep_digits;
pub(crate) use duplicates::DuplicateIds;
pub use error::{FileProblem, InputError};
pub(crate) use examples::{ExampleFile, ExampleOptions, SolvedRow, read_examples};
pub use files::resolve_files;
pub(crate) use files::{InputFiles, resolve_with};
pub(crate) use filter::{Filter, WrongFilter};
pub(crate) use found::ResultFolders;
pub use found::{FoundFile, PartOf};
pub(crate) use identity::{confirm, inode};
pub use json_rows::{JsonFields, JsonRows};
pub(crate) use one_line::LineReader;
pub use parquet::json_lines;
pub(crate) use parquet::{
    JsonColumn, Logical, is_first_rule, json_options, marked_batches, stored_batches,
};
pub(crate) use parquet::{list_item, with_children};
pub use prompt::id_column;
pub(crate) use requests::in_its_words;
pub use scan::{MAX_WINDOW_BYTES, Scan, ScanOptions, scan};
pub use stdin::InputStream;
pub use trial::{Selection, select};
pub use types::*;

use self::identity::Checked;
use self::prompt::{PromptBuilder, Wanted};
use crate::ids::RowId;
use crate::job::{CarriedColumns, InputSpec, PromptSpec, Rules};
use crate::stop::StopFlag;

/// What is done with a row, given its place in the window, as soon as its prompt is made.
pub(crate) type EachRow<'a> = &'a (dyn Fn(usize, &mut InputRow) + Sync);

/// What takes the prompts of rows.
pub(crate) type TakePrompt<'a> = &'a mut dyn FnMut(RowId, Prompt);

/// Reads windows of an input. Windows may be read in any order and by several threads; in ascending
/// order it costs least.
pub trait PromptSource: Send + Sync {
    /// Reads one window and shows every row to `each`, in no order and by several threads.
    ///
    /// A text that many rows repeat is held once, but the prompts made of it are not: `each` may
    /// [release](InputRow::release) them, so that no more than a few are in memory.
    ///
    /// # Errors
    /// A file that cannot be read any more or is not what the first pass saw.
    fn read_rows(&self, window: &WindowSpan, each: EachRow<'_>) -> Result<InputWindow, InputError>;

    /// Reads one window with all its prompts.
    ///
    /// # Errors
    /// As [`read_rows`](Self::read_rows).
    fn read_window(&self, window: &WindowSpan) -> Result<InputWindow, InputError> {
        self.read_rows(window, &|_, _| ())
    }

    /// Reads the prompts of one window alone, in the order of the rows; rows without a prompt are passed over.
    ///
    /// # Errors
    /// As [`read_rows`](Self::read_rows); what was shown before is of no use then.
    fn read_prompts(&self, window: &WindowSpan, take: TakePrompt<'_>) -> Result<(), InputError> {
        for row in self.read_window(window)?.rows {
            if let Ok(prompt) = row.outcome {
                take(row.row, prompt.into_inner());
            }
        }
        Ok(())
    }

    /// Keeps the messages of a conversation beside the prompt that is made of them. Only what writes conversations needs
    /// them, and a window of long ones would be held twice.
    fn keep_turns(&mut self) {}

    /// Leaves rows unread once `stop` is set, as a long template may take minutes for a window: the window that
    /// is being read is of no use then.
    fn stop_with(&mut self, _stop: &StopFlag) {}

    /// Looks whether the files of a window are still what the first pass saw; rows that come from no file
    /// cannot change.
    ///
    /// # Errors
    /// [`InputError::Changed`]; a file that is gone.
    fn check_unchanged(&self, window: &WindowSpan) -> Result<(), InputError> {
        let _ = window;
        Ok(())
    }

    /// Parquet: the schema that all windows' batches have.
    fn arrow_schema(&self) -> Option<SchemaRef>;
}

/// What reading needs to know of a job.
pub struct OpenOptions<'a> {
    /// `[input]`
    pub input: &'a InputSpec,
    /// `[prompt]`
    pub prompt: &'a PromptSpec,
    /// `report.by`: the column that splits the metrics into groups.
    pub group: Option<&'a str>,
    /// [`JobSpec::template_choices`](crate::job::JobSpec::template_choices)
    pub choices: Option<&'a [String]>,
    /// Columns that go into the results.
    pub carried: &'a CarriedColumns,
    /// The rules that the job goes by.
    pub rules: Rules,
}

/// Opens an input that was scanned under the same rules.
///
/// # Errors
/// A named column that no row has, a template that does not parse, a struct of settings with an
/// unknown field; for Parquet what its footers get wrong, and a carried integer that float64, the common
/// type of its column, does not hold.
pub fn open(
    options: &OpenOptions<'_>,
    index: Arc<InputIndex>,
) -> Result<Box<dyn PromptSource>, InputError> {
    open_with("prompt.template", options, index)
}

/// [`open`], where the template is that of `template_key`.
fn open_with(
    template_key: &'static str,
    options: &OpenOptions<'_>,
    index: Arc<InputIndex>,
) -> Result<Box<dyn PromptSource>, InputError> {
    let mut builder = PromptBuilder::new(&Wanted {
        template_key,
        input: options.input,
        prompt: options.prompt,
        group: options.group,
        choices: options.choices,
        rules: options.rules,
    })?;
    builder.resolve(&index)?;
    Ok(match index.format {
        InputFormat::Jsonl => {
            let most = options.input.max_row_bytes;
            let source =
                jsonl_source::JsonlSource::new(Arc::clone(&index), builder, most, options.rules);
            Box::new(Checked { index, source })
        }
        InputFormat::Parquet => {
            let source = parquet::ParquetSource::new(Arc::clone(&index), builder, options)?;
            Box::new(Checked { index, source })
        }
    })
}
