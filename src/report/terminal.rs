//! The one place that prints: text of data becomes text that no terminal obeys.
//!
//! A value, a file name or a host name may hold escape sequences that move the cursor, clear the screen or
//! set its title, and marks that turn the order of letters around. Everything that people read goes through
//! [`say`] or [`print`], everything for programs through [`print_json`]; a value that must stay on its line
//! goes through [`on_one_line`] first.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::live::{ERASE, live_line};
use super::observer::Progress;
use super::wrap::wrapped;

/// Width of a terminal that does not tell its own.
const USUAL_WIDTH: usize = 80;

/// How lines that the program itself puts below a message begin. What follows any other line break is data.
const CONTINUATIONS: [&str; 2] = ["hint: ", "  "];

/// Prints a message on standard error. Where that is closed, the message is lost.
///
/// A message has one line, and below it hints and indented lists. A line break of another kind comes from a
/// name in the message and is escaped, so that a name cannot pretend to be the next message.
pub(crate) fn say(message: &str) {
    above_live(&as_message(message));
}

/// A message as [`say`] prints it, without the line break at its end.
pub(crate) fn as_message(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for (at, line) in message.split('\n').enumerate() {
        if at > 0 && CONTINUATIONS.iter().any(|start| line.starts_with(start)) {
            text.push('\n');
        } else if at > 0 {
            push_escape(&mut text, '\n');
        }
        text.push_str(&visible(line));
    }
    text
}

/// Text of several lines on standard error, such as the usage of a command.
pub(crate) fn say_lines(text: &str) {
    above_live(&visible(text.trim_end()));
}

/// The line that shows how far a run has come, kept last on the terminal.
#[derive(Default)]
struct Live {
    progress: Option<Progress>,
    /// Whether the line is on the terminal, with the cursor in its first cell.
    is_drawn: bool,
    /// Nothing is drawn: the process is about to stop.
    is_paused: bool,
}

static LIVE: Mutex<Live> = Mutex::new(Live {
    progress: None,
    is_drawn: false,
    is_paused: false,
});

impl Live {
    fn get() -> MutexGuard<'static, Self> {
        LIVE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What takes the line off the terminal.
    fn erase(&mut self) -> &'static str {
        if std::mem::take(&mut self.is_drawn) {
            ERASE
        } else {
            ""
        }
    }

    /// What draws the line, where there is one to draw and nothing else has the terminal.
    fn draw(&mut self) -> String {
        let Some(progress) = self.progress.filter(|_| !self.is_paused && has_terminal()) else {
            return String::new();
        };
        self.is_drawn = true;
        live_line(&progress, width_of(&io::stderr())) + "\r"
    }
}

/// Prints text on standard error, above the line that shows progress.
fn above_live(text: &str) {
    let text = fitted(text, &io::stderr());
    let mut live = Live::get();
    // In one piece, so that nothing comes in between.
    let all = format!("{}{text}\n{}", live.erase(), live.draw());
    let _ = io::stderr().write_all(all.as_bytes());
}

/// Draws the line that shows progress, or draws it anew.
pub(super) fn show_live(progress: &Progress) {
    let mut live = Live::get();
    live.progress = Some(*progress);
    let all = live.erase().to_owned() + &live.draw();
    let _ = io::stderr().write_all(all.as_bytes());
}

/// Takes the line that shows progress away for good.
pub(crate) fn erase_live() {
    let mut live = Live::get();
    live.progress = None;
    let erased = live.erase();
    let _ = io::stderr().write_all(erased.as_bytes());
}

/// Takes the line away while the process is stopped, or brings it back.
pub(crate) fn pause_live(is_paused: bool) {
    let mut live = Live::get();
    live.is_paused = is_paused;
    let all = live.erase().to_owned() + &live.draw();
    let _ = io::stderr().write_all(all.as_bytes());
}

/// What text is printed to.
#[cfg(unix)]
trait Stream: IsTerminal + std::os::fd::AsFd {}

#[cfg(unix)]
impl<T: IsTerminal + std::os::fd::AsFd> Stream for T {}

/// What text is printed to.
#[cfg(not(unix))]
trait Stream: IsTerminal {}

#[cfg(not(unix))]
impl<T: IsTerminal> Stream for T {}

/// Text as it is printed there: with lines that fit where that is a terminal, as it is elsewhere.
fn fitted<'a>(text: &'a str, place: &impl Stream) -> Cow<'a, str> {
    if place.is_terminal() {
        Cow::Owned(wrapped(text, width_of(place)))
    } else {
        Cow::Borrowed(text)
    }
}

/// Cells of a terminal's lines.
#[cfg(unix)]
fn width_of(terminal: &impl Stream) -> usize {
    match rustix::termios::tcgetwinsize(terminal) {
        Ok(size) if size.ws_col > 0 => size.ws_col.into(),
        _ => USUAL_WIDTH,
    }
}

/// Cells of a terminal's lines.
#[cfg(not(unix))]
fn width_of(_: &impl Stream) -> usize {
    USUAL_WIDTH
}

/// Whether the process may write to its terminal: a shell has it while a job is in the background.
#[cfg(unix)]
fn has_terminal() -> bool {
    rustix::termios::tcgetpgrp(io::stderr())
        .is_ok_and(|foreground| foreground == rustix::process::getpgrp())
}

/// Whether the process may write to its terminal.
#[cfg(not(unix))]
fn has_terminal() -> bool {
    true
}

/// Text for people on standard output. Line breaks and tabs are kept: they are the program's own, because
/// values went through [`on_one_line`].
///
/// # Errors
///
/// Those of standard output.
pub(crate) fn print(text: &impl Display) -> io::Result<()> {
    let text = text.to_string();
    let text = visible(&text);
    io::stdout().write_all(fitted(&text, &io::stdout()).as_bytes())
}

/// Text that is mostly data, as [`print()`], but with its lines as they are: a value keeps its own line breaks, and
/// gets no others.
///
/// # Errors
///
/// Those of standard output.
pub(crate) fn print_data(text: &str) -> io::Result<()> {
    io::stdout().write_all(visible(text).as_bytes())
}

/// A value as JSON on standard output, over several lines.
///
/// # Errors
///
/// Those of standard output.
pub(crate) fn print_json(value: &impl Serialize) -> io::Result<()> {
    print_line(&serde_json::to_string_pretty(value)?)
}

/// A value as one line of JSON on standard output.
///
/// # Errors
///
/// Those of standard output.
pub(crate) fn print_json_line(value: &impl Serialize) -> io::Result<()> {
    print_line(&serde_json::to_string(value)?)
}

/// Lines of JSON on standard output, many of them. As [`print_json_line`], it escapes what a terminal obeys, and JSON's
/// own escape means the same; so it takes whole lines of JSON only.
pub(crate) struct JsonLines(io::BufWriter<io::Stdout>);

impl JsonLines {
    /// Takes standard output.
    pub(crate) fn new() -> Self {
        Self(io::BufWriter::new(io::stdout()))
    }
}

impl Write for JsonLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(bytes) {
            Ok(text) => {
                let text = escaped(text, is_obeyed, push_json_escape);
                self.0.write_all(text.as_bytes())?;
            }
            Err(_) => self.0.write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// What a program of the system reads, such as a script, on standard output as it is.
///
/// # Errors
///
/// Those of standard output.
pub(crate) fn print_bytes(bytes: &[u8]) -> io::Result<()> {
    io::stdout().write_all(bytes)
}

/// A value that cannot leave its line: line breaks and tabs are escaped too.
pub(crate) fn on_one_line(text: &str) -> Cow<'_, str> {
    escaped(
        text,
        |c| is_obeyed(c) || c == '\n' || c == '\t',
        push_escape,
    )
}

/// Text with every character escaped that a terminal obeys.
fn visible(text: &str) -> Cow<'_, str> {
    escaped(text, is_obeyed, push_escape)
}

/// JSON leaves some of these characters as they are. They occur only within its strings, where JSON's own escape
/// means the same.
fn print_line(json: &str) -> io::Result<()> {
    let json = escaped(json, is_obeyed, push_json_escape);
    let mut out = io::stdout().lock();
    out.write_all(json.as_bytes())?;
    out.write_all(b"\n")
}

/// Control characters except line break and tab, and the marks that change the direction of text.
fn is_obeyed(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn push_escape(text: &mut String, c: char) {
    text.extend(c.escape_unicode());
}

fn push_json_escape(text: &mut String, c: char) {
    // All of these characters have 16 bits.
    let _ = fmt::Write::write_fmt(text, format_args!("\\u{:04x}", u32::from(c)));
}

fn escaped(
    text: &str,
    is_wanted: impl Fn(char) -> bool,
    push: impl Fn(&mut String, char),
) -> Cow<'_, str> {
    if !text.chars().any(&is_wanted) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_wanted(c) {
            push(&mut out, c);
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBEYED: &str = "a\u{1b}[2Jb\u{7}\r\u{7f}\u{85}\u{9b}\u{202e}\u{2066}\0c";
    const ESCAPED: &str = "a\\u{1b}[2Jb\\u{7}\\u{d}\\u{7f}\\u{85}\\u{9b}\\u{202e}\\u{2066}\\u{0}c";

    #[test]
    fn what_a_terminal_obeys_is_escaped_and_nothing_else() {
        assert_eq!(visible(OBEYED), ESCAPED);
        assert_eq!(on_one_line(OBEYED), ESCAPED);
        let plain = "红 é \u{301}\u{200b}\u{a0}`\\u{1b}`";
        assert_eq!(visible(plain), plain);
        assert_eq!(visible("a\n\tb"), "a\n\tb");
        assert_eq!(on_one_line("a\n\tb"), "a\\u{a}\\u{9}b");
    }

    #[test]
    fn a_message_keeps_its_own_lines_only() {
        for (message, printed) in [
            ("error: x\nhint: y", "error: x\nhint: y"),
            ("error: x:\n  y\n  z", "error: x:\n  y\n  z"),
            ("`a\nexit 0: done`", "`a\\u{a}exit 0: done`"),
            ("a\n", "a\\u{a}"),
            ("  a", "  a"),
            ("\u{1b}", "\\u{1b}"),
        ] {
            assert_eq!(as_message(message), printed, "{message:?}");
        }
    }

    #[test]
    fn json_says_the_same_after_it() {
        let json = serde_json::to_string(OBEYED).unwrap();
        let safe = escaped(&json, is_obeyed, push_json_escape);
        assert!(!safe.chars().any(is_obeyed), "{safe}");
        let read: String = serde_json::from_str(&safe).unwrap();
        assert_eq!(read, OBEYED);
    }
}
