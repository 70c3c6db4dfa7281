//! Signals where the system has only two: the first asks the run to stop, the second ends the process.

use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::stop::StopFlag;

/// Exit code of a run that a signal ended.
const INTERRUPTED: i32 = 75;

/// Listens to signals from now on.
pub(super) fn stop_on_signals(stop: &StopFlag, _grace: Duration) -> std::io::Result<()> {
    for signal in [SIGTERM, SIGINT] {
        // Registered in this order: the second signal finds the flag already set.
        flag::register_conditional_shutdown(signal, INTERRUPTED, stop.shared())?;
        flag::register(signal, stop.shared())?;
    }
    Ok(())
}

/// No such system has a limit that ends a process.
pub(super) fn report_size_limits() {}
