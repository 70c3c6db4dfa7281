//! Signals where the system has only two: the first asks the run to stop, the second ends the process.

use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::stop::{Deadline, StopFlag};

/// Exit code of a run that a signal ended.
const INTERRUPTED: i32 = 75;

/// What the first signal ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ending {
    /// A run.
    Rows(Duration),
    /// A file that is being written.
    File,
}

/// Listens to signals from now on.
pub(super) fn stop_on_signals(stop: &StopFlag, _: Ending) -> std::io::Result<()> {
    for signal in [SIGTERM, SIGINT] {
        // Registered in this order: the second signal finds the flag already set.
        flag::register_conditional_shutdown(signal, INTERRUPTED, stop.shared())?;
        flag::register(signal, stop.shared())?;
    }
    Ok(())
}

/// Asks the run to stop at a deadline.
pub(super) fn stop_at(deadline: &Deadline, stop: &StopFlag) -> std::io::Result<()> {
    let (deadline, stop) = (deadline.clone(), stop.clone());
    let wait = move || {
        while !deadline.left().is_zero() {
            std::thread::sleep(deadline.left().min(Duration::from_secs(1)));
        }
        stop.request();
    };
    std::thread::Builder::new().spawn(wait).map(drop)
}

/// No such system has a limit that ends a process.
pub(super) fn report_size_limits() {}
