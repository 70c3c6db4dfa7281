//! `report`: how well the answers of a job fit their references.

use super::args::ReportArgs;
use super::error::CliResult;
use super::exit::Exit;
use super::job::output_of;
use crate::checkpoint::{CheckpointError, JobRecord, OutputFolder};
use crate::error::Error;
use crate::report::{MetricsReport, print, print_json};
use crate::run;

pub(super) fn report(args: &ReportArgs) -> CliResult<Exit> {
    let folder = OutputFolder::existing(&output_of(&args.output)?)?;
    let record = JobRecord::load(&folder)?;
    let record = record.ok_or_else(|| {
        Error::from(CheckpointError::NoJob {
            path: args.output.clone(),
        })
    })?;
    let by = args.by.as_deref();
    let totals = run::measured(&folder, &record, by)?;
    let by = by.or(record.spec.report.by.as_deref());
    let metrics = MetricsReport::new(record.spec.task, by.map(str::to_owned), &totals);
    if metrics.is_empty() {
        return Err(Error::Usage(
            "no committed row has anything to measure\nhint: metrics need a reference: name its column in `input.columns.reference`".to_owned(),
        )
        .into());
    }
    if args.json {
        print_json(&metrics)?;
    } else {
        print(&metrics.to_string())?;
    }
    Ok(Exit::Printed)
}
