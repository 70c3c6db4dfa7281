//! The command line: one file a subcommand, one way to end.
//!
//! Results and machine-readable output go to standard output, everything else to standard error;
//! the last line there says how the command ended and what to do next.

mod args;
mod bench;
mod deadline;
mod error;
mod exit;
mod export;
mod job;
mod model;
mod reference;
mod report;
mod run;
mod show;
#[cfg_attr(not(unix), path = "no_signals.rs")]
mod signals;
mod status;
mod usage;
mod verify;

#[cfg(not(feature = "failpoints"))]
use std::backtrace::{Backtrace, BacktraceStatus};
use std::ffi::OsString;
#[cfg(not(feature = "failpoints"))]
use std::panic::PanicHookInfo;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

pub use args::command;
use args::{Cli, Command};
use error::CliResult;
use exit::Exit;

use crate::report::{on_one_line, say_lines};

/// Parses the arguments, runs the command, reports its end.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _scenario = stop_at_failpoints();
    signals::report_size_limits();
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => {
            let asked = matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            );
            if asked {
                // The terminal may be closed, and then this cannot be said anywhere.
                let _ = error.print();
                return ExitCode::SUCCESS;
            }
            // It repeats the arguments: so it is made again from harmless ones, and goes without colours.
            let harmless = args
                .iter()
                .map(|arg| on_one_line(&arg.to_string_lossy()).into_owned());
            let error = Cli::try_parse_from(harmless).err().unwrap_or(error);
            say_lines(&usage::explained(error));
            return exit::report(Ok(Exit::Refused));
        }
    };
    #[cfg(not(feature = "failpoints"))]
    std::panic::set_hook(Box::new(say_panic));
    // The panic has said where it was; the exit code and the last line are as for any other end.
    match catch_unwind(AssertUnwindSafe(|| dispatch(cli.command))) {
        Ok(ended) => exit::report(ended),
        Err(_) => exit::report_panic(),
    }
}

/// Says where a panic was, and the way there where the environment asks for it.
#[cfg(not(feature = "failpoints"))]
fn say_panic(panic: &PanicHookInfo<'_>) {
    let way = Backtrace::capture();
    match way.status() {
        BacktraceStatus::Captured => say_lines(&format!("{panic}\n{way}")),
        _ => say_lines(&panic.to_string()),
    }
}

/// Takes failpoints from the environment; one that panics ends the process as a kill would.
#[cfg(feature = "failpoints")]
fn stop_at_failpoints() -> fail::FailScenario<'static> {
    std::panic::set_hook(Box::new(|_| std::process::abort()));
    fail::FailScenario::setup()
}

fn dispatch(command: Command) -> CliResult<Exit> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Plan(args) => run::plan(&args),
        Command::Status(args) => status::status(&args),
        Command::Show(args) => show::show(&args),
        Command::Report(args) => report::report(&args),
        Command::Export(args) => export::export(&args),
        Command::Verify(args) => verify::verify(&args),
        Command::Tokenize(args) => model::tokenize(&args),
        Command::Convert(args) => model::convert(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Schema => reference::schema(),
        Command::Completions { shell } => reference::completions(shell),
        Command::Man => reference::man(),
    }
}
