//! Why an input cannot be read at all. A bad row is not an error: it is [`BadRow`](super::BadRow).
//!
//! Every message names the path or the column; the cure has its own `hint:` line.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::fsio::FsError;

/// The input, or the part of the job that names its columns, cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InputError {
    /// Files that cannot be opened or are cut short, all of them together.
    #[error("{}", broken_text(.problems))]
    Broken {
        /// One entry a file.
        problems: Vec<FileProblem>,
    },
    /// A signal came while the input was read.
    #[error("interrupted while reading the input")]
    Interrupted,
    /// A path of the job leads nowhere.
    #[error("input `{}` does not exist{}", .path.display(), hint(.cure))]
    Missing {
        /// The path as the job has it.
        path: PathBuf,
        /// What to do.
        cure: String,
    },
    /// A glob or folder without a file that could be read.
    #[error("no input files in `{}`{}", .path.display(), hint(.cure))]
    NoFiles {
        /// The glob or folder.
        path: PathBuf,
        /// What to do.
        cure: String,
    },
    /// A file that is neither JSON lines nor Parquet.
    #[error("input `{}` is {what}{}", .path.display(), hint(.cure))]
    OtherFormat {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: String,
        /// How to convert it.
        cure: String,
    },
    /// A named pipe, a device, standard input by its path.
    #[error("input `{}` is {what}, which cannot be read again on a resume{}", .path.display(), hint(.cure))]
    NoFile {
        /// The path as the job has it.
        path: PathBuf,
        /// What it is.
        what: &'static str,
        /// What to do.
        cure: String,
    },
    /// A folder whose own list says which of its files count.
    #[error("input `{}` is {kind}: its metadata says which files and rows count, and they are not read here{}", .path.display(), hint(.cure))]
    Table {
        /// The folder.
        path: PathBuf,
        /// What kind of table.
        kind: &'static str,
        /// What to do.
        cure: String,
    },
    /// A file whose name is not text.
    #[error(
        "the name of the input file {path:?} is not UTF-8\nhint: rename it: `job.json` and the results name their files as text"
    )]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// A column that the job reads texts from, and that holds values of another kind.
    #[error(
        "`{key}`: column `{column}` holds {kind}, and neither texts nor lists of them\nhint: name a column of texts, or write the values as texts"
    )]
    NeitherTextNorList {
        /// The key of the job.
        key: &'static str,
        /// The column.
        column: String,
        /// The type of its values.
        kind: String,
    },
    /// A column that the job reads lists from, and that holds none.
    #[error(
        "`{key}`: column `{column}` holds no lists\nhint: name a column of lists of texts, or a list of columns, each of texts: `[\"a\", \"b\"]`"
    )]
    NoLists {
        /// The key of the job.
        key: &'static str,
        /// The column.
        column: String,
    },
    /// A pattern that is not a glob.
    #[error(
        "input `{pattern}` is not a valid glob: {reason}\nhint: `*` stands for any text in a name, `?` for one sign, `[ab]` for one of these; where a name itself holds such a sign, write it in brackets, as in `[*]`"
    )]
    Glob {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Both formats in one input.
    #[error(
        "Parquet and JSON lines in one input: `{}` and `{}`\nhint: convert one of them, or run two jobs",
        .parquet.display(), .jsonl.display()
    )]
    MixedFormats {
        /// The first Parquet file.
        parquet: PathBuf,
        /// The first JSONL file.
        jsonl: PathBuf,
    },
    /// One column with types in two files that no common type holds.
    #[error(
        "column `{column}` is {first_type} in `{}` and {second_type} in `{}`\nhint: write the files with one type, or read them in two jobs",
        .first.display(), .second.display()
    )]
    SchemaClash {
        /// Name of the column.
        column: String,
        /// The file that had it first.
        first: PathBuf,
        /// Its type there.
        first_type: String,
        /// The file that clashes.
        second: PathBuf,
        /// Its type there.
        second_type: String,
    },
    /// An integer that the common type of its column would round.
    #[error(
        "column `{column}` is float64 in another file, which cannot hold {value} exactly: row group {row_group} of `{}`\nhint: write the column with one type in all files, or leave it out of `output.columns`", .path.display()
    )]
    OddInteger {
        /// Name of the column.
        column: String,
        /// The integer.
        value: String,
        /// The file that has it.
        path: PathBuf,
        /// Its row group.
        row_group: usize,
    },
    /// A column that the job names and no row has.
    #[error("no row has the column `{column}` that `{key}` names{}", hint(.cure))]
    UnknownColumn {
        /// Key of the job file.
        key: &'static str,
        /// The name.
        column: String,
        /// The nearest column that exists, or the list of them.
        cure: String,
    },
    /// A struct column with settings has a field that is not a setting.
    #[error("field `{field}` of column `{column}` is not a key of `[generation]` that a row may set{}", hint(.cure))]
    UnknownSetting {
        /// The column mapped to `generation`.
        column: String,
        /// Its unknown field.
        field: String,
        /// The nearest key.
        cure: String,
    },
    /// Neither a prompt column nor a template.
    #[error(
        "the job says neither which column holds the prompt nor how to make one\nhint: set `input.columns.prompt` or `prompt.template`"
    )]
    NoPrompt,
    /// A template that is filled once for each choice, and would be the same each time.
    #[error(
        "`prompt.template` has no `choice` in it, and `choose.method = \"whole-text\"` fills it once with each choice\nhint: write `{{{{ choice }}}}` where the choice stands in the text"
    )]
    NoChoice,
    /// The template does not parse.
    #[error(
        "`{key}` does not parse: {reason}\nhint: a column is written `{{{{ name }}}}`, a condition `{{% if name %}}...{{% endif %}}`"
    )]
    Template {
        /// The key of the job.
        key: &'static str,
        /// What is wrong and where.
        reason: String,
    },
    /// Results of a job that cannot be read as an input.
    #[error("the results in `{}` cannot be the input: {reason}{}", .folder.display(), hint(.cure))]
    Results {
        /// The folder.
        folder: PathBuf,
        /// Why, in one line.
        reason: String,
        /// What to do.
        cure: String,
    },
    /// Results of a job inside a folder of the input.
    #[error("`{}` holds the results of a job, and it lies inside a folder or glob of the input\nhint: name it itself in `input.path`, which reads its committed results, or move it away", .inner.display())]
    InnerResults {
        /// The folder of the results.
        inner: PathBuf,
    },
    /// The job's own output folder among its input.
    #[error("`{}` is the output folder of this job, and cannot be its input\nhint: give another `output.path`", .path.display())]
    OwnOutput {
        /// The path as the job has it.
        path: PathBuf,
    },
    /// A column that is a result in one place and a column of the rows in another.
    #[error(
        "column `{column}` is a result in `{}` and a column of the rows in `{}`\nhint: read them in two jobs, or give the column another name in one of them",
        .folder.display(), .other.display()
    )]
    ResultAndColumn {
        /// Name of the column.
        column: String,
        /// The folder of the results.
        folder: PathBuf,
        /// Where the rows have it.
        other: PathBuf,
    },
    /// The expression that chooses rows does not compile.
    #[error("`input.where` cannot be read: {reason}{}", hint(.cure))]
    Where {
        /// What is wrong, in one line.
        reason: String,
        /// What to do.
        cure: String,
    },
    /// The file of examples cannot be used.
    #[error("`prompt.few_shot.path`, `{}`: {source}", .path.display())]
    Examples {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<InputError>,
    },
    /// No file at the path of examples.
    #[error("it {what}\nhint: {cure}")]
    NoExampleFile {
        /// What is there.
        what: &'static str,
        /// What to do.
        cure: &'static str,
    },
    /// A file of examples without rows.
    #[error(
        "it has no rows, and each of them would be an example\nhint: name a file with solved rows, or take `prompt.few_shot` out"
    )]
    NoExamples,
    /// A row that cannot be an example.
    #[error(
        "{place}: {reason}\nhint: mend this row or take it out of the file: every row of it may go before a prompt"
    )]
    BadExample {
        /// The row.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The system has no thread for a template whose values may nest deep.
    #[error(
        "`prompt.template` needs a thread with a stack of 512 MiB, of which only the used part takes memory: {0}\nhint: raise `ulimit -v` or `ulimit -u`, or write the template without `set`, `macro`, `call`, `recursive` and `namespace` and with at most 4096 bytes inside its tags"
    )]
    NoThread(#[source] io::Error),
    /// A file is not what the first pass saw.
    #[error("`{}` changed since the first pass: {what}\nhint: put the file back as it was and run again (the same bytes are the same file), or begin anew with `--restart`", .path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// Reading failed.
    #[error("cannot read `{}`: {source}\nhint: see that the file is there, as it was, and may be read; then run the same command again", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// What an earlier phase of the job found cannot be read.
    #[error(
        "what the phase `{phase}` found cannot be read: `{}`: {reason}\nhint: `glm-batch verify` with `--repair` takes what is damaged out of the output folder; then run the same command again",
        .path.display()
    )]
    Phase {
        /// Name of the phase.
        phase: &'static str,
        /// The file, or the folder of the phase.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Standard input could not be copied.
    #[error(
        "cannot copy standard input: {0}\nhint: the copy lies in `output.path`, which needs room for all of it; or write the rows to a file and name it in `input.path`"
    )]
    Copy(FsError),
}

/// One file that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblem {
    /// The file.
    pub path: PathBuf,
    /// Why: one line.
    pub reason: String,
}

impl InputError {
    /// Results of a job that are not as they were written.
    pub(crate) fn damaged_results(folder: &Path, reason: &str) -> Self {
        let cure = format!(
            "`glm-batch verify {}` says what is wrong; with `--repair` that job's next run makes it again",
            folder.display()
        );
        Self::Results {
            folder: folder.to_owned(),
            reason: reason.to_owned(),
            cure,
        }
    }
}

fn broken_text(problems: &[FileProblem]) -> String {
    use std::fmt::Write as _;
    let mut text = match problems.len() {
        1 => "an input file cannot be read".to_owned(),
        count => format!("{count} input files cannot be read"),
    };
    for problem in problems {
        let _ = write!(text, "\n  `{}`: {}", problem.path.display(), problem.reason);
    }
    text.push_str("\nhint: fetch or write these files again, or take them out of `input.path`");
    text
}

fn hint(cure: &str) -> String {
    if cure.is_empty() {
        String::new()
    } else {
        format!("\nhint: {cure}")
    }
}

/// One line of an error message of another library.
pub(super) fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
