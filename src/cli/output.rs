//! `status` and `verify`, and how all commands print.

use std::fmt::Write;
use std::time::Duration;

use super::args::{StatusArgs, VerifyArgs};
use super::exit::Exit;
use crate::checkpoint::{
    self, LockOptions, OutputFolder, ProblemKind, ShardStatus, Soundness, Status, VerifyReport,
};
use crate::error::Error;
use crate::report::{as_message, counted, grouped, on_one_line, print, print_json, say};

/// Time between two looks of `status --watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

pub(super) fn status(args: &StatusArgs) -> anyhow::Result<Exit> {
    let folder = OutputFolder::existing(&args.output).map_err(Error::from)?;
    loop {
        let status = checkpoint::status(&folder).map_err(Error::from)?;
        if args.json {
            print_json(&status)?;
        } else {
            print_status(&status)?;
        }
        if !args.watch || status.is_finished {
            return Ok(Exit::Done(if status.is_finished {
                "the job is finished"
            } else {
                "the job is not finished: run it again to go on"
            }));
        }
        std::thread::sleep(WATCH_INTERVAL);
    }
}

fn print_status(status: &Status) -> std::io::Result<()> {
    let state = if status.is_finished {
        "finished"
    } else {
        "not finished"
    };
    let done = status.totals.rows + status.journalled_rows;
    let mut text = format!(
        "{}: {state}, {} of {} ({} in open windows), {} failed\n",
        on_one_line(&status.name),
        grouped(done),
        counted(status.rows, "row"),
        grouped(status.journalled_rows),
        grouped(status.totals.failed + status.totals.bad),
    );
    if status.shards.len() > 1 || !status.is_finished {
        for shard in &status.shards {
            let _ = writeln!(text, "  {}", on_one_line(&shard_line(shard)));
        }
    }
    print(&text)
}

fn shard_line(shard: &ShardStatus) -> String {
    let owner = match &shard.owner {
        Some(owner) => format!(
            "written by process {} on {}, heartbeat {:.0} s ago",
            owner.pid, owner.host, owner.heartbeat_age_seconds
        ),
        None => "no writer".to_owned(),
    };
    format!(
        "shard {}: {} of {}, {} of {}; {owner}",
        shard.shard,
        grouped(shard.windows_done),
        counted(shard.windows, "window"),
        grouped(shard.totals.rows + shard.journalled_rows),
        counted(shard.rows, "row"),
    )
}

pub(super) fn verify(args: &VerifyArgs) -> anyhow::Result<Exit> {
    let folder = OutputFolder::existing(&args.output).map_err(Error::from)?;
    let report = checkpoint::verify(&folder).map_err(Error::from)?;
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
        let repaired = checkpoint::repair(&folder, &options).map_err(Error::from)?;
        for (from, to) in &repaired.moved {
            say(&format!("moved `{}` to `{}`", from.display(), to.display()));
        }
        if repaired.windows.is_empty() && repaired.found.sound_windows == repaired.found.windows {
            return Ok(Exit::Done("sound and finished"));
        }
        say(&format!(
            "{} will be made again",
            counted(repaired.windows.len() as u64, "window")
        ));
        return Ok(Exit::Unfinished);
    }
    Ok(match soundness {
        Soundness::Finished => Exit::Done("sound and finished"),
        Soundness::SoFar => Exit::Unfinished,
        Soundness::Damaged => Exit::Damaged,
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
    let _ = writeln!(
        text,
        "{} of {} sound, {}; {} in open windows",
        grouped(report.sound_windows),
        counted(report.windows, "window"),
        counted(report.rows, "row"),
        counted(report.journalled_rows, "row"),
    );
    print(&text)
}
