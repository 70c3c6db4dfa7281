//! How a command ends: its exit code, and the last line on standard error.

use std::process::ExitCode;

use crate::error::Error;
use crate::report::{counted, grouped, say};
use crate::run::RunEnd;

/// What to do about what a retry cannot help.
const UNCHANGED: &str = "running it again unchanged will not help";

/// What to do about an end that nobody thought of.
const UNEXPECTED: &str = "unexpected: please report it with the command and the lines above";

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// Nothing more to say: what was asked for was printed.
    Printed,
    /// What was asked for is done, in a few words.
    Done(&'static str),
    /// Answers of a workload do not have the length that they must have.
    WrongLengths,
    /// A run ended in one of the ways that are no error.
    Run(RunEnd),
    /// A retry cannot help.
    Refused,
    /// What was checked is sound, and more is to come.
    Unfinished,
    /// What was checked is damaged.
    Damaged,
    /// The record of the job itself is damaged.
    Lost,
    /// A job that was waited for is not finished, and nothing works on it.
    Stopped,
}

impl Exit {
    pub(super) fn code(self) -> ExitCode {
        ExitCode::from(self.number())
    }

    fn number(self) -> u8 {
        match self {
            Self::Printed | Self::Done(_) | Self::Run(RunEnd::Finished { .. }) => 0,
            Self::Refused | Self::Damaged | Self::Lost => 2,
            Self::WrongLengths | Self::Run(RunEnd::TooManyFailed { .. } | RunEnd::AllFailed(_)) => {
                3
            }
            Self::Unfinished
            | Self::Stopped
            | Self::Run(RunEnd::Interrupted | RunEnd::Locked(_)) => 75,
        }
    }

    fn last_line(self) -> Option<String> {
        Some(match self {
            Self::Printed => return None,
            Self::Done(words) => words.to_owned(),
            Self::WrongLengths => {
                "some answers do not have their `out_len` tokens: what was measured is not the workload"
                    .to_owned()
            }
            Self::Run(RunEnd::Finished { already: false }) => {
                "every row has a result or a recorded failure".to_owned()
            }
            Self::Run(RunEnd::Finished { already: true }) => {
                "finished already, nothing was left to do".to_owned()
            }
            Self::Run(RunEnd::Interrupted) => {
                "interrupted, the checkpoint is valid: run the same command again".to_owned()
            }
            Self::Run(RunEnd::Locked(shard)) => format!(
                "another process is working on shard {shard}: run the same command again when it has ended"
            ),
            Self::Run(RunEnd::TooManyFailed { failed, allowed }) => format!(
                "{} failed but `output.max_failed` allows {}: fix {}, or raise it and run the job again",
                counted(failed, "row"),
                grouped(allowed),
                if failed == 1 { "the row" } else { "them" }
            ),
            Self::Run(RunEnd::AllFailed(shard)) => format!(
                "every row of shard {shard} failed: look at `show OUT --failed`, then fix the job or its input"
            ),
            Self::Refused => UNCHANGED.to_owned(),
            Self::Unfinished => "sound so far, not finished: run the job again".to_owned(),
            Self::Stopped => {
                "nothing works on the job, which is not finished: run it again to go on".to_owned()
            }
            Self::Lost => {
                "`job.json` is damaged: only `run JOB --restart` helps, the results are kept beside"
                    .to_owned()
            }
            Self::Damaged => {
                "damaged: `verify OUT --repair` takes it out, then run the job again".to_owned()
            }
        })
    }
}

/// Prints how a command ended and gives its exit code.
pub(super) fn report(ended: anyhow::Result<Exit>) -> ExitCode {
    match ended {
        Ok(exit) => {
            if let Some(line) = exit.last_line() {
                say(&format!("exit {}: {line}", exit.number()));
            }
            exit.code()
        }
        Err(error) => {
            let (number, advice) = advice(&error);
            if is_closed_pipe(&error) {
                return ExitCode::SUCCESS;
            }
            say(&format!("error: {error}"));
            say(&format!("exit {number}: {advice}"));
            ExitCode::from(number)
        }
    }
}

fn advice(error: &anyhow::Error) -> (u8, &'static str) {
    match error.downcast_ref::<Error>() {
        Some(Error::Interrupted) => (75, "run the same command again"),
        Some(error) if error.is_temporary() => {
            (75, "the checkpoint is valid, run the same command again")
        }
        Some(error) if !error.is_unexpected() => (2, UNCHANGED),
        None if error.is::<std::io::Error>() => (2, UNCHANGED),
        _ => (1, UNEXPECTED),
    }
}

/// Says that the program panicked and gives its exit code.
pub(super) fn report_panic() -> ExitCode {
    say(&format!("exit 1: {UNEXPECTED}"));
    ExitCode::from(1)
}

/// Whether a reader such as `head` has had enough.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let kind = error
        .downcast_ref::<std::io::Error>()
        .map(std::io::Error::kind);
    kind == Some(std::io::ErrorKind::BrokenPipe)
}
