//! Progress to the terminal: bars where there is one, a plain line every half minute elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{grouped, say};

/// Seconds between two plain lines.
const PLAIN_INTERVAL: Duration = Duration::from_secs(30);

/// Seconds between two redraws of the bar's text.
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
    /// Context and answer tokens that this run computed.
    pub tokens: u64,
    /// Tokens computed a second, over this run.
    pub tokens_per_second: f64,
    /// Share of the buckets' tokens that are padding, 0 to 1; a CPU reserves it and does not compute it.
    pub padding_share: f64,
    /// Rows in flight.
    pub slots_used: usize,
    /// Rows that may be in flight.
    pub slots: usize,
    /// Rows that failed in this run.
    pub failed: u64,
}

impl Progress {
    /// Time left, from the tokens that the rows so far took; `None` before there is any.
    pub fn remaining(&self) -> Option<Duration> {
        if self.rows_now == 0 || self.tokens_per_second <= 0.0 {
            return None;
        }
        let tokens_a_row = self.tokens as f64 / self.rows_now as f64;
        let rows = self.rows_total.saturating_sub(self.rows_done) as f64;
        Duration::try_from_secs_f64(rows * tokens_a_row / self.tokens_per_second).ok()
    }
}

/// Is told what happens while a job runs.
pub trait Observer {
    /// Something that the user should know, one line.
    fn note(&mut self, message: &str);
    /// How far the run has come; called often.
    fn progress(&mut self, progress: &Progress);
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
/// it is to be quiet, because a warning is no progress.
pub fn observer_for(quiet: bool) -> Box<dyn Observer> {
    if quiet {
        Box::new(Notes)
    } else if std::io::stderr().is_terminal() {
        Box::new(Bar::new())
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

struct Bar {
    bar: ProgressBar,
    last: Option<Instant>,
}

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} rows  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, last: None }
    }
}

impl Observer for Bar {
    fn note(&mut self, message: &str) {
        self.bar.suspend(|| say(message));
    }

    fn progress(&mut self, progress: &Progress) {
        if self.last.is_some_and(|last| last.elapsed() < BAR_INTERVAL) {
            return;
        }
        self.last = Some(Instant::now());
        self.bar.set_length(progress.rows_total);
        self.bar.set_position(progress.rows_done);
        self.bar.set_message(rates(progress));
    }

    fn finish(&mut self) {
        self.bar.finish_and_clear();
    }
}

struct Plain {
    last: Instant,
}

impl Observer for Plain {
    fn note(&mut self, message: &str) {
        say(message);
    }

    fn progress(&mut self, progress: &Progress) {
        if self.last.elapsed() < PLAIN_INTERVAL {
            return;
        }
        self.last = Instant::now();
        say(&format!(
            "{} of {} rows, {}",
            grouped(progress.rows_done),
            grouped(progress.rows_total),
            rates(progress)
        ));
    }

    fn finish(&mut self) {}
}

fn rates(progress: &Progress) -> String {
    let left = match progress.remaining() {
        Some(left) => format!("{} left", duration(left)),
        None => "time left not known yet".to_owned(),
    };
    let failed = match progress.failed {
        0 => String::new(),
        n => format!(", {} failed", grouped(n)),
    };
    format!(
        "{:.0} tokens/s, {left}, padding {:.1}%, {}/{} slots{failed}",
        progress.tokens_per_second,
        progress.padding_share * 100.0,
        progress.slots_used,
        progress.slots,
    )
}

/// A time in its two largest units.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remaining_counts_tokens_not_rows() {
        let progress = Progress {
            rows_done: 60,
            rows_total: 100,
            rows_now: 20,
            tokens: 2_000,
            tokens_per_second: 50.0,
            ..Progress::default()
        };
        assert_eq!(progress.remaining(), Some(Duration::from_secs(80)));
        assert_eq!(Progress::default().remaining(), None);
    }

    #[test]
    fn rates_reads_as_a_sentence() {
        let progress = Progress {
            rows_done: 5,
            rows_total: 10,
            rows_now: 5,
            tokens: 500,
            tokens_per_second: 5.0,
            padding_share: 0.031,
            slots_used: 3,
            slots: 8,
            failed: 1,
        };
        assert_eq!(
            rates(&progress),
            "5 tokens/s, 1 min 40 s left, padding 3.1%, 3/8 slots, 1 failed"
        );
    }
}
