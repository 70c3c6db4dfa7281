//! `status`: how far a job has come and how fast it goes; printed once, until it is finished, or when it has ended.

use std::fmt::Write;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::args::StatusArgs;
use super::error::CliResult;
use super::exit::Exit;
use super::job::output_of;
use crate::checkpoint::{
    self, JobState, LockTiming, OutputFolder, OwnerState, Pace, ShardStatus, Status,
};
use crate::error::Error;
use crate::report::{about, counted, grouped, on_one_line, print, print_json, say};

/// Time between two looks at a job that is watched or waited for.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Time between two lines of `status --wait`.
const WAIT_LINES: Duration = Duration::from_secs(30);

/// Shards that have a line of their own.
const SHOWN_SHARDS: usize = 20;

pub(super) fn status(args: &StatusArgs) -> CliResult<Exit> {
    let folder = OutputFolder::existing(&output_of(&args.output)?)?;
    if args.wait {
        return wait(args, &folder);
    }
    loop {
        let status = look(&folder)?;
        print_as_asked(args, &status)?;
        if !args.watch || status.is_finished || status.state == JobState::Damaged {
            return Ok(Exit::Done(last_words(&status)));
        }
        thread::sleep(LOOK_INTERVAL);
    }
}

fn look(folder: &OutputFolder) -> Result<Status, Error> {
    Ok(checkpoint::status(folder)?)
}

fn print_as_asked(args: &StatusArgs, status: &Status) -> io::Result<()> {
    if args.json {
        print_json(status)
    } else {
        print(&text(status))
    }
}

fn last_words(status: &Status) -> &'static str {
    match status.state {
        JobState::Finished => "the job is finished",
        JobState::Running => {
            "the job is running: `glm-batch status` with `--wait` waits until it has ended"
        }
        JobState::Stopped => "the job is not finished: run it again to go on",
        JobState::Damaged => {
            "the job is damaged: `glm-batch verify` with `--repair` takes out what has to be made again, then run the job again"
        }
    }
}

/// Waits until a job has ended, one way or the other.
fn wait(args: &StatusArgs, folder: &OutputFolder) -> CliResult<Exit> {
    let mut stillness = Stillness::default();
    let mut said: Option<Instant> = None;
    loop {
        let status = look(folder)?;
        let exit = if status.state == JobState::Damaged {
            Some(Exit::Damaged(folder.root().display().to_string()))
        } else if status.is_finished {
            Some(Exit::Done(last_words(&status)))
        } else {
            stillness.is_over(&status).then_some(Exit::Stopped)
        };
        if let Some(exit) = exit {
            print_as_asked(args, &status)?;
            return Ok(exit);
        }
        if said.is_none_or(|said| said.elapsed() >= WAIT_LINES) {
            said = Some(Instant::now());
            say(&waiting_line(&status));
        }
        thread::sleep(LOOK_INTERVAL);
    }
}

/// For how long no writer of a job has been seen to live.
///
/// One look is not enough: a run has no owner file between two shards, and the clock of another host may be wrong, so
/// that a writer counts as dead only once its heartbeat is seen not to move.
#[derive(Default)]
struct Stillness {
    since: Option<Instant>,
    looks: u32,
    beats: Vec<Option<u64>>,
}

impl Stillness {
    /// Takes one more look; whether nothing works on the job.
    fn is_over(&mut self, status: &Status) -> bool {
        let all = || std::iter::once(status).chain(&status.phases);
        let shards = || all().flat_map(|status| &status.shards);
        let owners = || shards().map(|shard| shard.owner.as_ref());
        let beats = owners()
            .map(|owner| owner.map(|owner| owner.beats))
            .collect();
        let has_moved = self.beats != beats;
        self.beats = beats;
        let is_silent = owners()
            .flatten()
            .any(|owner| owner.state == OwnerState::Silent);
        if status.state == JobState::Running || (is_silent && has_moved) {
            (self.since, self.looks) = (None, 0);
            return false;
        }
        self.looks += 1;
        let since = *self.since.get_or_insert_with(Instant::now);
        let stale_after = LockTiming::default().stale_after;
        self.looks > 1 && (!is_silent || since.elapsed() >= stale_after)
    }
}

fn text(status: &Status) -> String {
    let mut text = format!("{}\n", job_line(status));
    if status.state == JobState::Running {
        let mut running = status.phases.iter();
        let running = running.rfind(|phase| phase.state == JobState::Running);
        match running {
            Some(phase) => {
                let _ = writeln!(text, "  phase {}: {}", phase.name, pace_text(phase.pace));
            }
            None => {
                let _ = writeln!(text, "  {}", pace_text(status.pace));
            }
        }
    }
    for phase in &status.phases {
        let _ = writeln!(text, "  phase {}", job_line(phase));
        for damage in &phase.damage {
            let _ = writeln!(text, "    damaged: {}", on_one_line(damage));
        }
        if !phase.is_finished {
            shard_lines(phase, "    ", &mut text);
        }
    }
    if !status.phases.iter().all(|phase| phase.is_finished) {
        // Nothing can be made of what the phases have not found.
        return text;
    }
    if status.shards.len() > 1 || !status.is_finished {
        shard_lines(status, "  ", &mut text);
    }
    text
}

fn shard_lines(status: &Status, indent: &str, text: &mut String) {
    let (shown, others) = shown_shards(&status.shards);
    if !others.is_empty() {
        let _ = writeln!(text, "{indent}{}", sum_line(&others));
    }
    for shard in shown {
        let _ = writeln!(text, "{indent}{}", on_one_line(&shard_line(shard)));
    }
}

fn job_line(status: &Status) -> String {
    let state = match status.state {
        JobState::Damaged => "damaged",
        JobState::Finished => "finished",
        JobState::Running => "running",
        JobState::Stopped => "not finished",
    };
    let left_out = &status.totals.left_out;
    let left_out = if left_out.is_empty() {
        String::new()
    } else {
        format!(", left out {left_out}")
    };
    format!(
        "{}: {state}, {} of {} ({} in open windows), {} failed{left_out}",
        on_one_line(&status.name),
        grouped(status.rows_done()),
        counted(status.rows_taken(), "row"),
        grouped(status.journalled_rows),
        grouped(status.totals.failed + status.totals.bad),
    )
}

fn waiting_line(status: &Status) -> String {
    match status.state {
        JobState::Running => format!("{}; {}", job_line(status), pace_text(status.pace)),
        JobState::Finished | JobState::Stopped | JobState::Damaged => job_line(status),
    }
}

fn pace_text(pace: Pace) -> String {
    let left = pace
        .seconds_left
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let left = match left {
        Some(left) => format!("{} left", about(left)),
        None => "time left not known yet".to_owned(),
    };
    match rates(pace) {
        Some(rates) => format!("{rates}, {left}"),
        None => "rows/s, tokens/s and time left are not known yet".to_owned(),
    }
}

fn rates(pace: Pace) -> Option<String> {
    let (rows, tokens) = (pace.rows_per_second?, pace.tokens_per_second?);
    let rows = if rows < 10.0 {
        format!("{rows:.1}")
    } else {
        grouped(rows.round() as u64)
    };
    Some(format!(
        "{rows} rows/s, {} tokens/s",
        grouped(tokens.round() as u64)
    ))
}

/// The shards that have a line of their own, those with a writer first and then those with work left, and the others.
fn shown_shards(shards: &[ShardStatus]) -> (Vec<&ShardStatus>, Vec<&ShardStatus>) {
    let mut all: Vec<_> = shards.iter().collect();
    all.sort_by_key(|shard| (shard.owner.is_none(), shard.is_finished(), shard.shard));
    let others = all.split_off(all.len().min(SHOWN_SHARDS));
    all.sort_by_key(|shard| shard.shard);
    (all, others)
}

fn sum_line(shards: &[&ShardStatus]) -> String {
    let sum = |count: fn(&ShardStatus) -> u64| shards.iter().map(|shard| count(shard)).sum();
    let finished = shards.iter().filter(|shard| shard.is_finished()).count();
    format!(
        "{} beside those below: {} finished, {} of {}, {} of {}",
        counted(shards.len() as u64, "shard"),
        grouped(finished as u64),
        grouped(sum(|shard| shard.windows_done)),
        counted(sum(|shard| shard.windows), "window"),
        grouped(sum(ShardStatus::rows_done)),
        counted(sum(ShardStatus::rows_taken), "row"),
    )
}

fn shard_line(shard: &ShardStatus) -> String {
    let owner = match &shard.owner {
        Some(owner) => {
            let (pid, host, age) = (owner.pid, &owner.host, owner.heartbeat_age_seconds);
            match owner.state {
                OwnerState::Alive => {
                    format!("written by process {pid} on {host}, heartbeat {age:.0} s ago")
                }
                OwnerState::Silent => {
                    format!("no heartbeat of process {pid} on {host} for {age:.0} s")
                }
                OwnerState::Dead => format!("its writer is dead: process {pid} on {host}"),
            }
        }
        None => "no writer".to_owned(),
    };
    let rates = rates(shard.pace).map_or_else(String::new, |rates| format!(", {rates}"));
    format!(
        "shard {}: {} of {}, {} of {}{rates}; {owner}",
        shard.shard,
        grouped(shard.windows_done),
        counted(shard.windows, "window"),
        grouped(shard.rows_done()),
        counted(shard.rows_taken(), "row"),
    )
}
