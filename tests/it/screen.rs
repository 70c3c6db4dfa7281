//! A terminal for tests: a pty of a given width, the program in it, and what is to be seen on its screen.
#![cfg(target_os = "linux")]
#![expect(
    unsafe_code,
    reason = "no safe call of the crates at hand opens a pty or gives a child one to control it"
)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Longer than any of these tests may wait for something to be seen.
const PATIENCE: Duration = Duration::from_mins(2);

/// What a terminal does with a line that is longer than the terminal has become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Narrowing {
    /// Wraps it, as most do.
    Wraps,
    /// Cuts it, as xterm and the console do.
    Cuts,
}

/// The cells of a terminal, as far as the program draws: text, line ends, and "erase what follows".
pub struct Screen {
    width: usize,
    narrowing: Narrowing,
    /// Lines as they were written; one that is longer than the terminal takes several rows.
    lines: Vec<Vec<char>>,
    line: usize,
    /// Place of the cursor in its line.
    cell: usize,
    /// The beginning of an escape sequence.
    escape: String,
}

impl Screen {
    pub fn new(width: usize, narrowing: Narrowing) -> Self {
        Self {
            width,
            narrowing,
            lines: vec![Vec::new()],
            line: 0,
            cell: 0,
            escape: String::new(),
        }
    }

    fn resize(&mut self, width: usize) {
        if self.narrowing == Narrowing::Cuts {
            // Rows that were one line are lines of their own then.
            let row = self.cell / self.width;
            let rows: Vec<Vec<char>> = self.lines[self.line]
                .chunks(self.width)
                .map(<[char]>::to_vec)
                .collect();
            if !rows.is_empty() {
                self.lines.splice(self.line..=self.line, rows);
            }
            self.line += row;
            self.cell = (self.cell % self.width).min(width - 1);
            for line in &mut self.lines {
                line.truncate(width);
            }
        }
        self.width = width;
    }

    pub fn write(&mut self, text: &str) {
        for c in text.chars() {
            if !self.escape.is_empty() || c == '\u{1b}' {
                self.escape.push(c);
                if c.is_ascii_alphabetic() {
                    assert_eq!(self.escape, "\u{1b}[J", "an escape that is not known");
                    self.escape.clear();
                    self.lines[self.line].truncate(self.cell);
                    self.lines.truncate(self.line + 1);
                }
                continue;
            }
            match c {
                '\r' => self.cell = self.cell / self.width * self.width,
                '\n' => {
                    let below = (self.cell / self.width + 1) * self.width;
                    if below < self.lines[self.line].len() {
                        self.cell = below + self.cell % self.width;
                    } else {
                        self.line += 1;
                        self.cell %= self.width;
                    }
                    if self.line == self.lines.len() {
                        self.lines.push(Vec::new());
                    }
                }
                c => {
                    let line = &mut self.lines[self.line];
                    let cells = line.len().max(self.cell + 1);
                    line.resize(cells, ' ');
                    line[self.cell] = c;
                    self.cell += 1;
                }
            }
        }
    }

    /// The lines that hold anything.
    pub fn lines(&self) -> Vec<String> {
        let lines = self.lines.iter();
        let lines = lines.map(|line| line.iter().collect::<String>().trim_end().to_owned());
        lines.filter(|line| !line.is_empty()).collect()
    }
}

/// A program in a terminal.
pub struct Terminal {
    pub screen: Screen,
    pub child: Child,
    keyboard: File,
    written: Receiver<Vec<u8>>,
    /// Bytes of a character that has not come as a whole.
    rest: Vec<u8>,
}

impl Terminal {
    /// Starts a program in a terminal so many cells wide.
    pub fn start(mut command: Command, width: usize, narrowing: Narrowing) -> Self {
        let (ours, its) = pty(width);
        let (out, errors) = (its.try_clone().unwrap(), its.try_clone().unwrap());
        command.stdin(its).stdout(out).stderr(errors);
        let control = || {
            // SAFETY: both are system calls that may be made between `fork` and `exec`.
            let done = unsafe { libc::setsid() >= 0 && libc::ioctl(0, libc::TIOCSCTTY, 0) == 0 };
            if done {
                Ok(())
            } else {
                Err(std::io::Error::last_os_error())
            }
        };
        // SAFETY: the closure makes two system calls and allocates nothing.
        unsafe { command.pre_exec(control) };
        let child = command.spawn().unwrap();
        // The ends that the child has are closed here, so that reading ends with it.
        drop(command);
        let keyboard = File::from(ours);
        let mut reader = keyboard.try_clone().unwrap();
        let (sender, written) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The end of a terminal is an error on some systems.
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            screen: Screen::new(width, narrowing),
            child,
            keyboard,
            written,
            rest: Vec::new(),
        }
    }

    pub fn resize(&mut self, width: usize) {
        // What was written before is drawn for the width before.
        while let Ok(bytes) = self.written.try_recv() {
            self.show(&bytes);
        }
        set_width(&self.keyboard, width);
        self.screen.resize(width);
    }

    pub fn press(&mut self, key: u8) {
        self.keyboard.write_all(&[key]).unwrap();
    }

    /// Waits until the screen is as it is to be.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, is_so: impl Fn(&Screen) -> bool) {
        let began = Instant::now();
        while !is_so(&self.screen) {
            let left = PATIENCE.saturating_sub(began.elapsed());
            match self.written.recv_timeout(left) {
                Ok(bytes) => self.show(&bytes),
                Err(end) => {
                    let lines = self.screen.lines().join("\n");
                    panic!("never seen ({end}): {what}\n{lines}")
                }
            }
        }
    }

    /// Waits until the program has ended.
    pub fn end(mut self) -> (ExitStatus, Vec<String>) {
        while let Ok(bytes) = self.written.recv_timeout(PATIENCE) {
            self.show(&bytes);
        }
        (self.child.wait().unwrap(), self.screen.lines())
    }

    fn show(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.rest) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let text: Vec<u8> = self.rest.drain(..whole).collect();
        self.screen.write(std::str::from_utf8(&text).unwrap());
    }
}

/// Both ends of a new terminal: ours and that of the program.
fn pty(width: usize) -> (OwnedFd, OwnedFd) {
    let (mut ours, mut its) = (-1, -1);
    // SAFETY: the two numbers are written to where the pointers point; name, settings and size may be null.
    let opened = unsafe {
        libc::openpty(
            &raw mut ours,
            &raw mut its,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: both are open, and nothing else owns them.
    let (ours, its) = unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(its)) };
    // SAFETY: it only sets a flag of an open file: no other program of these tests gets our end.
    unsafe { libc::fcntl(ours.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
    // SAFETY: as above; the child gets copies.
    unsafe { libc::fcntl(its.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
    set_width(&ours, width);
    (ours, its)
}

fn set_width(terminal: &impl AsRawFd, width: usize) {
    let size = libc::winsize {
        ws_row: 24,
        ws_col: width.try_into().unwrap(),
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the call reads a `winsize` from where the pointer points.
    let set = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}
