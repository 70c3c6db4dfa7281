//! `bench`: a model's speed beside the machine's limits.

use std::io::Write;

use super::args::BenchArgs;
use super::exit::Exit;
use super::output::print_json;
use crate::model::DeviceChoice;
use crate::run::{self, BenchOptions};

pub(super) fn bench(args: &BenchArgs) -> anyhow::Result<Exit> {
    let options = BenchOptions {
        device: DeviceChoice::Auto,
        precision: args.dtype.into(),
        batches: args.batch.clone(),
        context: args.context,
        steps: args.steps,
    };
    let report = run::bench(&args.model, &options)?;
    if args.json {
        print_json(&report)?;
    } else {
        write!(std::io::stdout(), "{report}")?;
    }
    Ok(Exit::Done("measured"))
}
