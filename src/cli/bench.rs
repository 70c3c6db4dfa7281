//! `bench`: a model's speed beside the machine's limits, or a whole workload end to end.

use std::path::Path;
use std::time::Duration;

use super::args::BenchArgs;
use super::error::CliResult;
use super::exit::Exit;
use super::signals::{Ending, stop_on_signals};
use crate::bench::{self, BenchOptions, WorkloadOptions};
use crate::fsio;
use crate::report::{observer_for, on_one_line, print, print_json};
use crate::stop::StopFlag;

pub(super) fn bench(args: &BenchArgs) -> CliResult<Exit> {
    match &args.workload {
        Some(file) => workload(args, file),
        None => steps(args),
    }
}

fn steps(args: &BenchArgs) -> CliResult<Exit> {
    let options = BenchOptions {
        device: args.device.clone(),
        dtype: args.dtype,
        cache_dtype: args.cache_dtype,
        batches: args.batch.clone(),
        context: args.context,
        steps: args.steps,
    };
    let (report, kept) = bench::bench(&args.model, &options)?;
    if args.json {
        print_json(&report)?;
    } else {
        print(&report)?;
        if let Some(file) = kept {
            let file = file.display().to_string();
            print(&format!("\nkept for `plan` in {}\n", on_one_line(&file)))?;
        }
    }
    Ok(Exit::Done("measured"))
}

fn workload(args: &BenchArgs, file: &Path) -> CliResult<Exit> {
    if let Some(counts) = &args.counts {
        // A file that cannot be written is found before the work, not after it.
        fsio::check_writable(counts)?;
    }
    let options = WorkloadOptions {
        model: args.model.clone(),
        file: file.to_path_buf(),
        device: args.device.clone(),
        dtype: args.dtype,
        cache_dtype: args.cache_dtype,
    };
    let stop = StopFlag::default();
    // A workload is measured whole or not at all: nothing of it is worth a grace.
    stop_on_signals(&stop, Ending::Rows(Duration::ZERO))?;
    let report = bench::workload(&options, &stop, observer_for(false).as_mut())?;
    if let Some(counts) = &args.counts {
        bench::write_counts(counts, &report.answers)?;
    }
    if args.json {
        print_json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(if report.wrong.is_empty() {
        Exit::Done("measured")
    } else {
        Exit::WrongLengths
    })
}
