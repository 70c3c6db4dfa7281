//! Signals to a request to stop, and the limit on the size of files to an error.
//!
//! The first signal asks the run to stop, the second ends the process: the journal is safe either way. A signal
//! that is ignored when the program starts stays ignored, as `nohup` wants it.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2, SIGXCPU, SIGXFSZ};
use signal_hook::iterator::Signals;
use signal_hook::{flag, low_level};

use crate::report::{erase_live, pause_live, say};
use crate::stop::{Deadline, StopFlag};

/// Signals by which people, schedulers, closed terminals and limits ask a program to end.
const STOPPING: [i32; 6] = [SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU];

/// Exit code of a run that a signal ended.
const INTERRUPTED: i32 = 75;

/// How long after the grace the run may take to write what is done. What takes longer, such as a template that
/// never ends, is left where it is.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// How long the end of the program waits for the words that a signal has, so that they come before its last line.
const LONGEST_WORDS: Duration = Duration::from_millis(500);

/// How long it sleeps between two looks.
const WORDS_LOOK: Duration = Duration::from_millis(1);

/// The signal that asked the program to end.
static ASKED: LazyLock<Asked> = LazyLock::new(Asked::default);

/// Whether a signal has come, and whether its words are on standard error.
#[derive(Default)]
struct Asked {
    came: Arc<AtomicBool>,
    is_said: AtomicBool,
}

/// How long a thread sleeps that waits for a deadline.
const CLOCK_LOOK: Duration = Duration::from_secs(1);

/// What the first signal ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ending {
    /// A run, whose rows in flight may go on for so long.
    Rows(Duration),
    /// A file that is being written, of which nothing is left then.
    File,
}

impl Ending {
    /// How long the work may go on.
    fn grace(self) -> Duration {
        match self {
            Self::Rows(grace) => grace,
            Self::File => Duration::ZERO,
        }
    }
}

/// Listens to signals from now on.
pub(super) fn stop_on_signals(stop: &StopFlag, ending: Ending) -> std::io::Result<()> {
    let heard: Vec<i32> = STOPPING.into_iter().filter(|&s| !is_ignored(s)).collect();
    let came = Arc::new(AtomicUsize::new(0));
    for &signal in &heard {
        if signal != SIGXCPU {
            exit_at_the_third(signal, &came)?;
        }
        flag::register(signal, Arc::clone(&ASKED.came))?;
        flag::register(signal, stop.shared())?;
    }
    let mut signals = Signals::new(&heard)?;
    // Without a terminal there is no line of progress that a stop could tear.
    if std::io::stderr().is_terminal() && !is_ignored(SIGTSTP) {
        signals.add_signal(SIGTSTP)?;
    }
    let listen = move || {
        let mut is_asked = false;
        for signal in &mut signals {
            if signal == SIGTSTP {
                stop_until_continued();
            } else if !is_asked {
                is_asked = true;
                say(&first_words(signal, ending));
                ASKED.is_said.store(true, Ordering::SeqCst);
                // Where no thread can be had, a second signal still ends the process.
                let _ = exit_after(ending.grace() + LAST_WORDS);
            } else if signal != SIGXCPU {
                erase_live();
                say("exit 75: stopped at once by a second signal: run the same command again");
                low_level::exit(INTERRUPTED);
            }
            // The limit on processor time comes again with every second of it, and no person sent it.
        }
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(listen)
        .map(drop)
}

/// Waits until the words of a signal that has come are written, for a moment at most: they come from another thread.
pub(super) fn wait_for_words() {
    let from = Instant::now();
    while ASKED.came.load(Ordering::SeqCst)
        && !ASKED.is_said.load(Ordering::SeqCst)
        && from.elapsed() < LONGEST_WORDS
    {
        thread::sleep(WORDS_LOOK);
    }
}

/// Stops the process, as Ctrl-Z asks, with the line of progress off the terminal meanwhile.
fn stop_until_continued() {
    pause_live(true);
    // Where the process cannot be stopped, it goes on.
    let _ = low_level::emulate_default_handler(SIGTSTP);
    pause_live(false);
}

/// Asks the run to stop at a deadline, for what goes on until then: reading, loading, or a row in flight.
pub(super) fn stop_at(deadline: &Deadline, stop: &StopFlag) -> std::io::Result<()> {
    let (deadline, stop) = (deadline.clone(), stop.clone());
    let wait = move || {
        while !deadline.left().is_zero() {
            // The clock may be set meanwhile.
            thread::sleep(deadline.left().min(CLOCK_LOOK));
        }
        stop.request();
        let _ = exit_after(LAST_WORDS);
    };
    let thread = thread::Builder::new().name("deadline".to_owned());
    thread.spawn(wait).map(drop)
}

/// Ends the process when the time is over, if nothing else did. That is as safe as a second signal.
fn exit_after(time: Duration) -> std::io::Result<()> {
    let wait = move || {
        thread::sleep(time);
        erase_live();
        say(
            "exit 75: stopped in the middle of work that took longer than the grace: run the same command again",
        );
        low_level::exit(INTERRUPTED);
    };
    let thread = thread::Builder::new().name("grace".to_owned());
    thread.spawn(wait).map(drop)
}

/// Ends the process at the third signal, which comes where the words of the others cannot be written.
#[expect(
    unsafe_code,
    reason = "no safe call counts signals and ends the process"
)]
fn exit_at_the_third(signal: i32, came: &Arc<AtomicUsize>) -> std::io::Result<()> {
    let came = Arc::clone(came);
    let count = move || {
        if came.fetch_add(1, Ordering::SeqCst) >= 2 {
            low_level::exit(INTERRUPTED);
        }
    };
    // SAFETY: the action only adds to an atomic number and ends the process by `_exit`, which a signal handler may.
    unsafe { low_level::register(signal, count) }.map(drop)
}

/// What the first signal does, and what a second one would.
fn first_words(signal: i32, ending: Ending) -> String {
    let name = low_level::signal_name(signal).unwrap_or("signal");
    let second = if signal == SIGINT {
        "press Ctrl-C again to stop at once"
    } else {
        "a second signal stops at once"
    };
    // No line is longer than a terminal is wide.
    let first = match ending {
        Ending::Rows(grace) => format!(
            "ending when the rows in flight are done, in {} s at the latest",
            (grace + LAST_WORDS).as_secs_f64()
        ),
        Ending::File => "ending without the file, of which nothing is kept".to_owned(),
    };
    format!("{name}: {first}\n  {second}")
}

/// A file that may not grow any more is an error with the file's name, not the end of the process.
pub(super) fn report_size_limits() {
    // Where that cannot be had, the signal ends the process as it always did.
    let _ = flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
}

/// Whether the program was started with a signal ignored.
#[expect(unsafe_code, reason = "no safe call tells what a signal does")]
fn is_ignored(signal: i32) -> bool {
    let mut found = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action, `sigaction` only writes the present one to where `found` points, and it is
    // looked at only after a call that did so.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), found.as_mut_ptr()) == 0
            && found.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_words_say_what_happens() {
        assert_eq!(
            first_words(SIGINT, Ending::Rows(Duration::from_secs(20))),
            "SIGINT: ending when the rows in flight are done, in 30 s at the latest\n  press Ctrl-C again to stop at once"
        );
        let text = first_words(SIGUSR1, Ending::Rows(Duration::from_millis(500)));
        assert!(text.starts_with("SIGUSR1: "), "{text}");
        assert!(text.contains("in 10.5 s at the latest"), "{text}");
        assert!(text.lines().all(|line| line.len() < 80), "{text}");
        let text = first_words(SIGTERM, Ending::File);
        assert!(
            text.starts_with("SIGTERM: ending without the file"),
            "{text}"
        );
        assert!(!text.contains("rows"), "{text}");
    }
}
