//! When the next window is read: late, because a window that waits takes memory, and early enough that no slot waits
//! for it.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

/// How many times as long as the last window the next one may take to be read: it may have twice its rows, and
/// slower ones.
const SLOWER: u32 = 4;

/// Asks the feeder for windows, one at a time.
pub(super) struct Ahead {
    feeder: Sender<()>,
    /// Whether a window was asked for and has not come.
    is_asked: bool,
    last: Option<Opened>,
}

/// The window that was opened last.
struct Opened {
    at: Instant,
    /// Work that waited then.
    waiting: usize,
    /// How long the window took to be read.
    read: Duration,
}

impl Ahead {
    /// What asks, and what the feeder is asked by; the feeder ends where nothing asks any more.
    pub(super) fn new() -> (Self, Receiver<()>) {
        let (feeder, asked) = bounded(1);
        let ahead = Self {
            feeder,
            is_asked: false,
            last: None,
        };
        (ahead, asked)
    }

    /// Asks for the next window now, where that was not done.
    pub(super) fn ask(&mut self) {
        // A feeder that has ended hangs up the windows' channel too, where that is noticed.
        self.is_asked = self.is_asked || self.feeder.send(()).is_ok();
    }

    /// Asks for the next window once half of the work has begun, or where the other half would be over before the window is read.
    pub(super) fn ask_in_time(&mut self, waiting: usize) {
        if self.last.as_ref().is_some_and(|last| last.is_near(waiting)) {
            self.ask();
        }
    }

    /// The window that was asked for has come, and its work was added to what waits.
    pub(super) fn opened(&mut self, waiting: usize, read_seconds: f64) {
        self.is_asked = false;
        self.last = Some(Opened {
            at: Instant::now(),
            waiting,
            read: Duration::try_from_secs_f64(read_seconds).unwrap_or_default(),
        });
    }
}

impl Opened {
    fn is_near(&self, waiting: usize) -> bool {
        let begun = self.waiting.saturating_sub(waiting);
        if begun >= waiting {
            return true;
        }
        let left = self.at.elapsed().as_secs_f64() * waiting as f64 / begun as f64;
        left < (self.read * SLOWER).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(ago: u64, read: u64) -> Opened {
        Opened {
            at: Instant::now()
                .checked_sub(Duration::from_secs(ago))
                .unwrap(),
            waiting: 100,
            read: Duration::from_secs(read),
        }
    }

    #[test]
    fn half_of_the_work_is_near_enough() {
        assert!(!opened(0, 0).is_near(100));
        assert!(!opened(100, 0).is_near(51));
        assert!(opened(100, 0).is_near(50));
        assert!(opened(0, 0).is_near(0));
    }

    #[test]
    fn slow_reading_begins_earlier() {
        // 10 begun in 10 seconds: 90 are left.
        assert!(!opened(10, 22).is_near(90));
        assert!(opened(10, 23).is_near(90));
        assert!(!opened(10, 23).is_near(100), "nothing has begun");
    }
}
