//! Progress to standard error: a line that is drawn over on a terminal, a plain line every half minute elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use super::live::plain_line;
use super::say;
use super::terminal::{erase_live, show_live};

/// Time between two plain lines.
const PLAIN_INTERVAL: Duration = Duration::from_secs(30);

/// Time between two redraws of the bar.
const BAR_INTERVAL: Duration = Duration::from_millis(200);

/// How far a run has come.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Rows of this run's shards that have a result, earlier runs included.
    pub rows_done: u64,
    /// Rows of this run's shards.
    pub rows_total: u64,
    /// Rows that this run finished.
    pub rows_now: u64,
    /// Context and answer tokens that this run computed, those of answers under way too.
    pub tokens: u64,
    /// Tokens computed a second, over this run.
    pub tokens_per_second: f64,
    /// Share of the buckets' tokens that are padding, 0 to 1; a CPU reserves it and does not compute it.
    pub padding_share: f64,
    /// Rows in flight.
    pub slots_used: usize,
    /// Rows that may be in flight; 0 for a task whose rows need no slots.
    pub slots: usize,
    /// Rows that failed in this run.
    pub failed: u64,
    /// Time left, once a tenth of this run's work tells; see [`TimeLeft`](super::TimeLeft).
    pub remaining: Option<Duration>,
}

/// Is told what happens while a job runs.
pub trait Observer {
    /// Something that the user should know, one line.
    fn note(&mut self, message: &str);
    /// How far the run has come; called often.
    fn progress(&mut self, progress: &Progress);
    /// A phase of the job begins: what follows is about it.
    fn phase(&mut self, name: &str) {
        let _ = name;
    }
    /// The run is over; nothing follows.
    fn finish(&mut self);
}

/// Says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn note(&mut self, _message: &str) {}
    fn progress(&mut self, _progress: &Progress) {}
    fn finish(&mut self) {}
}

/// The observer that suits standard error: a bar on a terminal, plain lines elsewhere; notes alone where
/// it is to be quiet, because a warning is not progress.
pub fn observer_for(quiet: bool) -> Box<dyn Observer> {
    if quiet {
        Box::new(Notes)
    } else if std::io::stderr().is_terminal() {
        Box::new(Bar { last: None })
    } else {
        Box::new(Plain {
            last: Instant::now(),
        })
    }
}

/// Says what the user should know, and nothing of how far the run has come.
struct Notes;

impl Observer for Notes {
    fn note(&mut self, message: &str) {
        say(message);
    }

    fn progress(&mut self, _progress: &Progress) {}
    fn finish(&mut self) {}
}

/// The last line of the terminal; [`say`] prints above it.
struct Bar {
    last: Option<Instant>,
}

impl Observer for Bar {
    fn note(&mut self, message: &str) {
        say(message);
    }

    fn phase(&mut self, name: &str) {
        // The line is about the phase before, until this one has something to tell.
        erase_live();
        say(&format!("phase: {name}"));
    }

    fn progress(&mut self, progress: &Progress) {
        if self.last.is_none_or(|last| last.elapsed() >= BAR_INTERVAL) {
            self.last = Some(Instant::now());
            show_live(progress);
        }
    }

    fn finish(&mut self) {
        erase_live();
    }
}

struct Plain {
    last: Instant,
}

impl Observer for Plain {
    fn note(&mut self, message: &str) {
        say(message);
    }

    fn phase(&mut self, name: &str) {
        say(&format!("phase: {name}"));
    }

    fn progress(&mut self, progress: &Progress) {
        if self.last.elapsed() < PLAIN_INTERVAL {
            return;
        }
        self.last = Instant::now();
        say(&plain_line(progress));
    }

    fn finish(&mut self) {}
}
