//! How a command ends: its exit code, and the last line on standard error.

use std::io::ErrorKind;
use std::process::ExitCode;

use super::error::{CliError, CliResult};
use super::signals::wait_for_words;
use crate::error::Error;
use crate::report::{counted, erase_live, grouped, say, shell_word};
use crate::run::RunEnd;

/// What to do about what a retry cannot help.
const UNCHANGED: &str = "running it again unchanged will not help";

/// What to do about an end that should not happen.
const UNEXPECTED: &str = "unexpected: please report it with the command and the lines above";

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// Nothing more to say: what was asked for was printed.
    Printed,
    /// What was asked for is done, in a few words.
    Done(&'static str),
    /// Answers of a workload do not have the length that they must have.
    WrongLengths,
    /// A run ended in one of the ways that are not errors.
    Run(RunEnd, Kept),
    /// A retry cannot help.
    Refused,
    /// What was checked is sound, and more is to come.
    Unfinished,
    /// What was checked, the folder of this path, is damaged.
    Damaged(String),
    /// The record of the job itself is damaged.
    Lost,
    /// A file was interrupted before it was whole, and is not there.
    Unwritten,
    /// A job that was waited for is not finished, and nothing works on it.
    Stopped,
}

/// What a run leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// The output folder.
    pub(super) folder: String,
    /// How much of the job is done, as in `84 of 399 rows`; empty where that is not known.
    pub(super) rows: String,
}

impl Kept {
    /// How much is done, behind this word.
    fn rows(&self, word: &str) -> String {
        match self.rows.as_str() {
            "" => String::new(),
            rows => format!("{word} {rows} done"),
        }
    }
}

impl Exit {
    pub(super) fn code(&self) -> ExitCode {
        ExitCode::from(self.number())
    }

    fn number(&self) -> u8 {
        match self {
            Self::Printed | Self::Done(_) | Self::Run(RunEnd::Finished { .. }, _) => 0,
            Self::Refused | Self::Damaged(_) | Self::Lost => 2,
            Self::WrongLengths
            | Self::Run(RunEnd::TooManyFailed { .. } | RunEnd::AllFailed(_), _) => 3,
            Self::Unfinished
            | Self::Stopped
            | Self::Unwritten
            | Self::Run(RunEnd::Interrupted | RunEnd::OutOfTime { .. } | RunEnd::Locked(_), _) => {
                75
            }
        }
    }

    fn last_line(&self) -> Option<String> {
        Some(match self {
            Self::Printed => return None,
            Self::Done(words) => (*words).to_owned(),
            Self::WrongLengths => {
                "some answers do not have their `out_len` tokens: what was measured is not the workload"
                    .to_owned()
            }
            Self::Run(RunEnd::Finished { already: false }, _) => {
                "every row has a result or a recorded failure".to_owned()
            }
            Self::Run(RunEnd::Finished { already: true }, _) => {
                "finished already, nothing was left to do".to_owned()
            }
            Self::Run(RunEnd::Interrupted, kept) => format!(
                "interrupted{}, the checkpoint is valid: run the same command again",
                kept.rows(" with")
            ),
            Self::Run(RunEnd::OutOfTime { rows: 0 }, kept) => format!(
                "the deadline came before this run finished a row{}, the checkpoint is valid: run the same command again with more time",
                kept.rows(",")
            ),
            Self::Run(RunEnd::OutOfTime { rows }, kept) => format!(
                "the deadline came after {}{}, the checkpoint is valid: run the same command again",
                counted(*rows, "row"),
                kept.rows(", with")
            ),
            Self::Run(RunEnd::Locked(shard), _) => format!(
                "another process is working on shard {shard}: run the same command again when it has ended"
            ),
            Self::Run(RunEnd::TooManyFailed { failed, allowed }, _) => format!(
                "{} failed but `output.max_failed` allows {}: fix {}, or raise it and run the job again",
                counted(*failed, "row"),
                grouped(*allowed),
                if *failed == 1 { "the row" } else { "them" }
            ),
            Self::Run(RunEnd::AllFailed(shard), kept) => format!(
                "every row of shard {shard} failed: `glm-batch show {} --failed` shows them; fix the job or its input",
                shell_word(&kept.folder)
            ),
            Self::Refused => UNCHANGED.to_owned(),
            Self::Unfinished => "sound so far, not finished: run the job again".to_owned(),
            Self::Stopped => {
                "nothing works on the job, which is not finished: run it again to go on".to_owned()
            }
            Self::Unwritten => {
                "interrupted: no file was written, and the same command writes all of it".to_owned()
            }
            Self::Lost => {
                "`job.json` is damaged: only `glm-batch run` with `--restart` helps, the results are kept beside"
                    .to_owned()
            }
            Self::Damaged(folder) => format!(
                "damaged: `glm-batch verify {} --repair` takes it out, then run the job again",
                shell_word(folder)
            ),
        })
    }
}

/// Prints how a command ended and gives its exit code.
pub(super) fn report(ended: CliResult<Exit>) -> ExitCode {
    wait_for_words();
    // An error may have ended the run in the middle of its work.
    erase_live();
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

fn advice(error: &CliError) -> (u8, &'static str) {
    match error {
        CliError::Terminal(_) => (2, UNCHANGED),
        CliError::Library(error) => match &**error {
            Error::Interrupted => (75, "run the same command again"),
            Error::BeingWritten { .. } => (
                75,
                "run the same command again when the other export has ended",
            ),
            error if error.is_temporary() => {
                (75, "the checkpoint is valid, run the same command again")
            }
            error if error.is_unexpected() => (1, UNEXPECTED),
            _ => (2, UNCHANGED),
        },
    }
}

/// Says that the program panicked and gives its exit code.
pub(super) fn report_panic() -> ExitCode {
    say(&format!("exit 1: {UNEXPECTED}"));
    ExitCode::from(1)
}

/// Whether a reader such as `head` has had enough.
fn is_closed_pipe(error: &CliError) -> bool {
    matches!(error, CliError::Terminal(error) if error.kind() == ErrorKind::BrokenPipe)
}
