//! `run` and `plan`.

use std::time::Duration;

use super::args::{JobArgs, PlanArgs, RunArgs};
use super::deadline;
use super::exit::Exit;
use super::signals::{stop_at, stop_on_signals};
use crate::error::Error;
use crate::input::Selection;
use crate::job::{self, JobSpec};
use crate::report::{observer_for, print, print_json, say};
use crate::run::{RunEnd, RunOptions};
use crate::stop::StopFlag;

pub(super) fn run(args: &RunArgs) -> anyhow::Result<Exit> {
    let spec = load(&args.job)?;
    let options = RunOptions {
        shard: args.shard,
        restart: args.restart,
        break_lock: args.break_lock,
        trial: trial(args, &spec),
        grace: Duration::from_secs_f64(args.grace),
        deadline: deadline::deadline(args.deadline)?,
        verify: args.verify,
    };
    let stop = StopFlag::default();
    stop_on_signals(&stop, options.grace)?;
    if let Some(deadline) = &options.deadline {
        stop_at(deadline, &stop)?;
    }
    let mut observer = observer_for(args.quiet);
    let (report, end) = crate::run::run(&spec, &options, &stop, observer.as_mut())
        .map_err(|error| placed(error, &args.job))?;
    let says_so = matches!(
        end,
        RunEnd::Finished { .. } | RunEnd::TooManyFailed { .. } | RunEnd::AllFailed(_)
    );
    let printed = if args.json {
        print_json(&report)
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
    Ok(Exit::Run(end))
}

pub(super) fn plan(args: &PlanArgs) -> anyhow::Result<Exit> {
    let plan = crate::run::plan(&load(&args.job)?).map_err(|error| placed(error, &args.job))?;
    if args.json {
        print_json(&plan)?;
    } else {
        print(&plan)?;
    }
    Ok(Exit::Done(
        "nothing was run; use `glm-batch run` to run the job",
    ))
}

fn load(args: &JobArgs) -> Result<JobSpec, Error> {
    Ok(job::load(&args.job, &args.overrides)?)
}

/// The error, with the line of the job file that it is about.
fn placed(error: Error, args: &JobArgs) -> Error {
    let place = error
        .key()
        .and_then(|key| job::place_of(&args.job, &args.overrides, key));
    match place {
        Some(place) => Error::Placed {
            place,
            source: Box::new(error),
        },
        None => error,
    }
}

fn trial(args: &RunArgs, spec: &JobSpec) -> Option<Selection> {
    let seed = spec.generation.seed;
    let sample = args.sample.map(|rows| Selection::Sample { rows, seed });
    args.limit.map(Selection::First).or(sample)
}
