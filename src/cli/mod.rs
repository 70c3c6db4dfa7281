//! The command line: one file a subcommand, one way to end.
//!
//! Results and machine-readable output go to standard output, everything else to standard error;
//! the last line there says how the command ended and what to do next.

mod args;
mod bench;
mod exit;
mod filter;
mod model;
mod output;
mod reference;
mod run;
mod show;

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

pub use args::command;
use args::{Cli, Command};
use exit::Exit;

/// Parses the arguments, runs the command, reports its end.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _scenario = stop_at_failpoints();
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let asked = matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            );
            // A closed terminal is nobody's loss.
            let _ = error.print();
            return if asked {
                ExitCode::SUCCESS
            } else {
                exit::report(Ok(Exit::Refused))
            };
        }
    };
    // The panic has said where it was; the exit code and the last line are as for any other end.
    match catch_unwind(AssertUnwindSafe(|| dispatch(cli.command))) {
        Ok(ended) => exit::report(ended),
        Err(_) => exit::report_panic(),
    }
}

/// Takes failpoints from the environment; one that panics ends the process as a kill would.
#[cfg(feature = "failpoints")]
fn stop_at_failpoints() -> fail::FailScenario<'static> {
    std::panic::set_hook(Box::new(|_| std::process::abort()));
    fail::FailScenario::setup()
}

fn dispatch(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Plan(args) => run::plan(&args),
        Command::Status(args) => output::status(&args),
        Command::Show(args) => show::show(&args),
        Command::Verify(args) => output::verify(&args),
        Command::Tokenize(args) => model::tokenize(&args),
        Command::Convert(args) => model::convert(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Schema => reference::schema(),
        Command::Completions { shell } => reference::completions(shell),
        Command::Man => reference::man(),
    }
}
