//! `run` and `plan`.

use std::time::Duration;

use super::args::{JobArgs, PlanArgs, RunArgs};
use super::deadline;
use super::error::CliResult;
use super::exit::{Exit, Kept};
use super::job::AskedJob;
use super::signals::{Ending, stop_at, stop_on_signals};
use crate::checkpoint::{self, OutputFolder};
use crate::input::Selection;
use crate::job::JobSpec;
use crate::report::{counted, grouped, observer_for, print, print_json, say};
use crate::run::{RunEnd, RunOptions};
use crate::stop::StopFlag;

pub(super) fn run(args: &RunArgs) -> CliResult<Exit> {
    if args.dry_run {
        return print_plan(&args.job, args.json, args.quiet);
    }
    let job = AskedJob::load(&args.job, args.quiet)?;
    let options = RunOptions {
        shard: args.shard,
        restart: args.restart,
        break_lock: args.break_lock,
        trial: trial(args, &job.spec),
        grace: Duration::from_secs_f64(args.grace),
        deadline: deadline::deadline(args.deadline)?,
        verify: args.verify,
        job_file: job.kept.clone(),
    };
    let stop = StopFlag::default();
    stop_on_signals(&stop, Ending::Rows(options.grace))?;
    if let Some(deadline) = &options.deadline {
        stop_at(deadline, &stop)?;
    }
    let mut observer = observer_for(args.quiet);
    let (report, end) = crate::run::run(&job.spec, &options, &stop, observer.as_mut())
        .map_err(|error| job.placed(error))?;
    let says_so = matches!(
        end,
        RunEnd::Finished { .. } | RunEnd::TooManyFailed { .. } | RunEnd::AllFailed(_)
    );
    let printed = if args.json {
        print_json(&report)
    } else if says_so && args.verbose {
        print(&format_args!("{report:#}"))
    } else if says_so {
        print(&report)
    } else {
        Ok(())
    };
    // How the run ended matters more than whether somebody reads the summary.
    if let Err(error) = printed {
        say(&format!(
            "warning: the summary could not be printed: {error}"
        ));
    }
    let rows = match end {
        RunEnd::Interrupted | RunEnd::OutOfTime { .. } => rows_kept(&report.folder),
        _ => String::new(),
    };
    let folder = report.folder;
    Ok(Exit::Run(end, Kept { folder, rows }))
}

/// How much of a job is done, journals included: the report of a run knows those of its own windows alone.
fn rows_kept(folder: &str) -> String {
    let folder = OutputFolder::at(folder.as_ref());
    let Ok(status) = checkpoint::status(&folder) else {
        return String::new();
    };
    let phase = status.phases.iter().find(|phase| !phase.is_finished);
    let (of_phase, status) = match phase {
        Some(phase) => (format!(" of the phase `{}`", phase.name), phase),
        None => (String::new(), &status),
    };
    format!(
        "{} of {}{of_phase}",
        grouped(status.rows_done()),
        counted(status.rows_taken(), "row")
    )
}

pub(super) fn plan(args: &PlanArgs) -> CliResult<Exit> {
    print_plan(&args.job, args.json, false)
}

fn print_plan(args: &JobArgs, json: bool, quiet: bool) -> CliResult<Exit> {
    let job = AskedJob::load(args, quiet)?;
    let plan = crate::run::plan(&job.spec).map_err(|error| job.placed(error))?;
    if json {
        print_json(&plan)?;
    } else {
        print(&plan)?;
    }
    Ok(Exit::Done(
        "nothing was run; use `glm-batch run` to run the job",
    ))
}

fn trial(args: &RunArgs, spec: &JobSpec) -> Option<Selection> {
    let seed = spec.generation.seed;
    let sample = args.sample.map(|rows| Selection::Sample { rows, seed });
    args.limit.map(Selection::First).or(sample)
}
