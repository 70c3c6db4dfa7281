//! `bench`: a model's speed beside the machine's limits.

use std::io::Write;

use super::args::BenchArgs;
use super::exit::Exit;
use super::output::print_json;
use crate::run::{self, BenchOptions};

pub(super) fn bench(args: &BenchArgs) -> anyhow::Result<Exit> {
    let options = BenchOptions {
        device: args.device.clone(),
        dtype: args.dtype,
        batches: args.batch.clone(),
        context: args.context,
        steps: args.steps,
    };
    let (report, kept) = run::bench(&args.model, &options)?;
    if args.json {
        print_json(&report)?;
    } else {
        let mut out = std::io::stdout();
        write!(out, "{report}")?;
        if let Some(file) = kept {
            writeln!(out, "\nkept for `plan` in {}", file.display())?;
        }
    }
    Ok(Exit::Done("measured"))
}
