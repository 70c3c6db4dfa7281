//! `status`: how far a job has come, printed once or until it is finished.

use std::fmt::Write;
use std::time::Duration;

use super::args::StatusArgs;
use super::exit::Exit;
use super::job::output_of;
use crate::checkpoint::{self, OutputFolder, ShardStatus, Status};
use crate::error::Error;
use crate::report::{counted, grouped, on_one_line, print, print_json};

/// Time between two looks of `status --watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Seconds without a heartbeat after which a writer may be dead; another host would take its shard over.
const SILENT_SECONDS: f64 = 60.0;

pub(super) fn status(args: &StatusArgs) -> anyhow::Result<Exit> {
    let folder = OutputFolder::existing(&output_of(&args.output)?).map_err(Error::from)?;
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
            } else if status.shards.iter().any(is_running) {
                "the job is running"
            } else {
                "the job is not finished: run it again to go on"
            }));
        }
        std::thread::sleep(WATCH_INTERVAL);
    }
}

/// Whether the writer of a shard has been heard of lately.
fn is_running(shard: &ShardStatus) -> bool {
    let owner = shard.owner.as_ref();
    owner.is_some_and(|owner| owner.heartbeat_age_seconds < SILENT_SECONDS)
}

fn print_status(status: &Status) -> std::io::Result<()> {
    let state = if status.is_finished {
        "finished"
    } else if status.shards.iter().any(is_running) {
        "running"
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
