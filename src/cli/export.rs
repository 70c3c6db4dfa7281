//! `export`: the committed rows of a job in the form that another program loads.

use super::args::ExportArgs;
use super::error::{CliError, CliResult};
use super::exit::Exit;
use super::job::output_of;
use super::show::{columns, row_test};
use super::signals::{Ending, stop_on_signals};
use crate::checkpoint::{JobRecord, OutputFolder, StoredJob};
use crate::error::Error;
use crate::export::{ExportError, ExportOptions, ExportReport, Filters, Test, export as write};
use crate::report::{JsonLines, counted, say};
use crate::stop::StopFlag;

/// The flag that asks about single answers.
const LABEL: &str = "--label";

impl From<ExportError> for CliError {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Library(error) => Self::Library(error),
            ExportError::Output(error) => Self::Terminal(error),
        }
    }
}

pub(super) fn export(args: &ExportArgs) -> CliResult<Exit> {
    let folder = OutputFolder::existing(&output_of(&args.results)?)?;
    let record = StoredJob::existing(&folder)?.record;
    let stop = StopFlag::default();
    let options = ExportOptions {
        format: args.format,
        conversational: args.conversational,
        margin: args.margin,
        prompt_template: args.prompt_template.clone(),
        keep: test("--where", args.filter.as_deref(), &record)?,
        label: test(LABEL, args.label.as_deref(), &record)?,
        filters: Filters {
            min_logprob: args.min_logprob,
            max_completion_tokens: args.max_completion_tokens,
            finish: args.finish.clone(),
            dedup: args.dedup,
        },
        output: args.output.clone(),
        stop: stop.clone(),
    };
    if args.output.is_some() {
        // A file that is not complete leaves nothing behind; lines on standard output end where they are.
        stop_on_signals(&stop, Ending::File)?;
    }
    let has_file = args.output.is_some();
    let report = write(&folder, &record, options, &mut JsonLines::new());
    let report = match report {
        Err(ExportError::Library(error)) if has_file && matches!(*error, Error::Interrupted) => {
            return Ok(Exit::Unwritten);
        }
        report => report?,
    };
    tell(&report);
    Ok(Exit::Printed)
}

/// An expression over the columns of the results: the one place that knows how it is made.
fn test<'a>(
    flag: &'static str,
    text: Option<&'a str>,
    record: &JobRecord,
) -> Result<Option<Test<'a>>, Error> {
    let Some(text) = text else {
        return Ok(None);
    };
    let mut columns = columns(record, false)?;
    if flag == LABEL && !columns.iter().any(|name| name == "sample") {
        // A label is asked for each answer, and nested results become flat for it.
        columns.push("sample".to_owned());
    }
    let matches = row_test(flag, text, &columns)?;
    Ok(Some(Test {
        text,
        matches: Box::new(matches),
    }))
}

fn tell(report: &ExportReport) {
    let lines = counted(report.lines, "line");
    match &report.file {
        Some(file) => say(&format!("{lines} written to `{}`", file.display())),
        None => say(&format!("{lines} written")),
    }
    for reason in &report.left_out {
        say(&format!("left out: {reason}"));
    }
    for note in &report.notes {
        say(note);
    }
}
