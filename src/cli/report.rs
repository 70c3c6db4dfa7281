//! `report`: a page about the results of a job, or how well its answers fit their references.

use super::args::ReportArgs;
use super::error::CliResult;
use super::exit::Exit;
use super::job::output_of;
use crate::checkpoint::{JobRecord, OutputFolder, StoredJob};
use crate::error::Error;
use crate::job::Task;
use crate::page;
use crate::report::{MetricsReport, print, print_json, say};
use crate::run::{self, Columns};

pub(super) fn report(args: &ReportArgs) -> CliResult<Exit> {
    let folder = OutputFolder::existing(&output_of(&args.output)?)?;
    let record = StoredJob::existing(&folder)?.record;
    if args.metrics {
        return metrics(args, &folder, &record);
    }
    let path = args.file.clone().unwrap_or_else(|| folder.page());
    page::write(&folder, &record, columns(args), &path)?;
    say(&format!("wrote `{}`", path.display()));
    Ok(Exit::Printed)
}

fn columns(args: &ReportArgs) -> Columns<'_> {
    Columns {
        by: args.by.as_deref(),
        reference: args.reference.as_deref(),
    }
}

fn metrics(args: &ReportArgs, folder: &OutputFolder, record: &JobRecord) -> CliResult<Exit> {
    let columns = columns(args);
    let record = columns.of(record)?;
    let totals = run::measured(folder, &record, columns)?;
    if let Some(note) = columns.note(&totals)? {
        say(&format!("note: {note}"));
    }
    let by = columns.by.or(record.spec.report.by.as_deref());
    let metrics = MetricsReport::new(record.spec.task, by.map(str::to_owned), &totals);
    if metrics.is_empty() {
        let cure = match record.spec.task {
            Task::Generate => "`--reference COLUMN` names the column of the input that holds it",
            _ => "name its column in `input.columns.reference`",
        };
        return Err(Error::Usage(format!(
            "no committed row has anything to measure\nhint: metrics need a reference: {cure}"
        ))
        .into());
    }
    if args.json {
        print_json(&metrics)?;
    } else {
        print(&metrics.to_string())?;
    }
    Ok(Exit::Printed)
}
