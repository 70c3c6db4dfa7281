//! `verify`: whether a job's files are what its checkpoint says, and `--repair` of those that are not.

use std::fmt::Write;

use super::args::VerifyArgs;
use super::error::CliResult;
use super::exit::Exit;
use super::job::output_of;
use crate::checkpoint::{self, LockOptions, OutputFolder, ProblemKind, Soundness, VerifyReport};
use crate::report::{as_message, counted, grouped, print, say};

pub(super) fn verify(args: &VerifyArgs) -> CliResult<Exit> {
    let folder = OutputFolder::existing(&output_of(&args.output)?)?;
    let report = checkpoint::verify(&folder)?;
    // What was found decides the exit code, whether somebody reads it or not.
    if let Err(error) = print_report(&report) {
        say(&format!(
            "warning: the report could not be printed: {error}"
        ));
    }
    let soundness = report.soundness();
    if report
        .problems
        .iter()
        .any(|problem| problem.kind == ProblemKind::Job)
    {
        return Ok(Exit::Lost);
    }
    if soundness == Soundness::Damaged && args.repair {
        let options = LockOptions::default();
        let repaired = checkpoint::repair(&folder, &options)?;
        for (from, to) in &repaired.moved {
            say(&format!("moved `{}` to `{}`", from.display(), to.display()));
        }
        for path in &repaired.written {
            say(&format!("wrote `{}` again", path.display()));
        }
        if repaired.windows.is_empty() && repaired.found.sound_windows == repaired.found.windows {
            return Ok(Exit::Done("sound and finished"));
        }
        if !repaired.windows.is_empty() {
            let windows = counted(repaired.windows.len() as u64, "window");
            say(&format!("{windows} will be made again"));
        }
        return Ok(Exit::Unfinished);
    }
    Ok(match soundness {
        Soundness::Finished => Exit::Done("sound and finished"),
        Soundness::SoFar => Exit::Unfinished,
        Soundness::Damaged => Exit::Damaged(args.output.display().to_string()),
    })
}

fn print_report(report: &VerifyReport) -> std::io::Result<()> {
    let mut text = String::new();
    for problem in &report.problems {
        let _ = writeln!(text, "wrong: {}", as_message(&problem.to_string()));
    }
    for note in &report.notes {
        let _ = writeln!(text, "note: {}", as_message(note));
    }
    for (phase, found) in &report.phases {
        let _ = writeln!(text, "phase {phase}: {}", counts(found));
    }
    let _ = writeln!(text, "{}", counts(report));
    print(&text)
}

fn counts(report: &VerifyReport) -> String {
    let left_out = if report.left_out.is_empty() {
        String::new()
    } else {
        format!(", left out {}", report.left_out)
    };
    format!(
        "{} of {} sound, {}{left_out}; {} in open windows",
        grouped(report.sound_windows),
        counted(report.windows, "window"),
        counted(report.rows, "row"),
        counted(report.journalled_rows, "row"),
    )
}
