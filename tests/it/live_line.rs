//! The line that shows progress, in a terminal: it fits, it survives what happens to the terminal, and nothing of it
//! is left behind.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::screen::{Narrowing, Screen, Terminal};
use crate::support::{Job, some_questions};

const MORE: &str = "format = \"jsonl\"\n[prompt]\nmax_length = 96\n[generation]\ndo_sample = true\nmin_new_tokens = 20\nmax_new_tokens = 40\n[batch]\nmax_batch_size = 64\nwindow_rows = 20000\n[checkpoint]\ninterval_seconds = 0.05\n";

const CTRL_C: u8 = 3;
const CTRL_Z: u8 = 26;

/// A job that takes far longer than any of these tests.
fn long_job() -> Job {
    let job = Job::new(Path::new("questions.jsonl"), MORE);
    some_questions(job.folder.path(), 20_000);
    job
}

fn run(job: &Job, args: &[&str]) -> Command {
    let args = [&["run", "job.toml"], args].concat();
    let mut command = job.command(&args);
    command.env_remove("SLURM_JOB_END_TIME");
    command
}

/// The line of progress, where it is on the screen.
fn bar(screen: &Screen) -> Option<String> {
    let lines = screen.lines();
    lines
        .into_iter()
        .find(|line| line.contains("of 20,000 rows"))
}

/// Rows that the line says are done.
fn rows(screen: &Screen) -> Option<u64> {
    let line = bar(screen)?;
    let before = line.split(" of 20,000 rows").next()?;
    before.split(' ').next_back()?.replace(',', "").parse().ok()
}

/// What `status` says is done.
fn rows_of_status(job: &Job) -> String {
    let output = job.command(&["status", "out"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let rows = text.split("test: not finished, ").nth(1).unwrap();
    rows.split(" (").next().unwrap().to_owned()
}

/// Waits until a line shows rows that it did not show before.
fn wait_for_rows(terminal: &mut Terminal) {
    let before = rows(&terminal.screen).unwrap_or(0);
    terminal.wait_until("more rows", |screen| {
        rows(screen).is_some_and(|rows| rows > before)
    });
}

#[test]
fn nothing_is_left_of_the_line_whatever_happens_to_the_width() {
    for narrowing in [Narrowing::Wraps, Narrowing::Cuts] {
        let job = long_job();
        let mut terminal = Terminal::start(run(&job, &["--grace", "0"]), 80, narrowing);
        wait_for_rows(&mut terminal);
        let line = bar(&terminal.screen).unwrap();
        assert!(line.chars().count() < 80, "{line}");
        assert!(line.contains(" tokens/s"), "{line}");
        for width in [30, 79, 41, 200, 60, 80] {
            terminal.resize(width);
            wait_for_rows(&mut terminal);
            let line = bar(&terminal.screen).unwrap();
            assert!(line.chars().count() < width, "{width}: {line}");
            assert_eq!(terminal.screen.lines(), [line], "{narrowing:?}");
        }
        terminal.press(CTRL_C);
        let (status, lines) = terminal.end();
        assert_eq!(status.code(), Some(75), "{lines:#?}");
        let kept = rows_of_status(&job);
        assert!(lines.iter().all(|line| line.len() <= 80), "{lines:#?}");
        // Where the last line is broken depends on the number in it.
        let lines = lines.join(" ");
        let words: Vec<&str> = lines.split_whitespace().collect();
        assert_eq!(
            words.join(" "),
            format!(
                "SIGINT: ending when the rows in flight are done, in 10 s at the latest press Ctrl-C again to stop at once exit 75: interrupted with {kept} done, the checkpoint is valid: run the same command again"
            )
        );
    }
}

#[test]
fn a_run_of_several_shards_is_told_of_as_one() {
    let job = long_job();
    let settings = job.path("job.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, text.replacen("name =", "shards = 4\nname =", 1)).unwrap();
    let mut terminal = Terminal::start(run(&job, &["--grace", "0"]), 80, Narrowing::Wraps);
    // Of all shards: the first of them has fewer.
    wait_for_rows(&mut terminal);
    terminal.press(CTRL_C);
    let (status, lines) = terminal.end();
    assert_eq!(status.code(), Some(75), "{lines:#?}");
}

#[test]
fn long_lines_fit_a_terminal_and_are_one_line_elsewhere() {
    let job = Job::new(Path::new("questions.jsonl"), MORE);
    let path = some_questions(job.folder.path(), 20);
    let questions = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, questions + "{\"question\": 7}\n").unwrap();
    let piped = job.command(&["plan", "job.toml"]).output().unwrap();
    let piped = String::from_utf8(piped.stdout).unwrap();
    let is_long = |line: &&str| line.chars().count() > 80;
    let long = piped.lines().find(is_long).unwrap();
    let plan = Terminal::start(job.command(&["plan", "job.toml"]), 80, Narrowing::Wraps);
    let (status, lines) = plan.end();
    assert!(status.success(), "{lines:#?}");
    let is_pasted = |line: &&String| line.contains("glm-batch ") || line.contains("import ");
    for line in lines.iter().filter(|line| !is_pasted(line)) {
        assert!(line.chars().count() <= 80, "{line}");
    }
    let words = |text: &str| {
        text.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let all = words(&lines.join(" ")).join(" ");
    assert!(all.contains(&words(long).join(" ")), "{long}\n{all}");

    let summary = Terminal::start(run(&job, &["--verbose"]), 80, Narrowing::Wraps);
    let (status, lines) = summary.end();
    assert!(status.success(), "{lines:#?}");
    for line in lines.iter().filter(|line| !is_pasted(line)) {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn the_line_is_away_while_the_process_is_stopped() {
    let job = long_job();
    let mut terminal = Terminal::start(run(&job, &["--grace", "0"]), 80, Narrowing::Wraps);
    for _ in 0..2 {
        wait_for_rows(&mut terminal);
        terminal.press(CTRL_Z);
        let pid = Pid::from_child(&terminal.child);
        let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped(), "{status:?}");
        terminal.wait_until("no line", |screen| screen.lines().is_empty());
        kill_process(pid, Signal::CONT).unwrap();
    }
    wait_for_rows(&mut terminal);
    terminal.press(CTRL_C);
    terminal.wait_until("the first words", |screen| {
        screen.lines().len() > 2 && bar(screen).is_some()
    });
    let (status, lines) = terminal.end();
    assert_eq!(status.code(), Some(75), "{lines:#?}");
    assert!(!lines.join(" ").contains('%'), "{lines:#?}");
}

#[test]
fn notes_and_the_deadline_come_above_the_line() {
    let job = long_job();
    let mut terminal = Terminal::start(
        run(&job, &["--grace", "60", "--deadline", "4s"]),
        80,
        Narrowing::Wraps,
    );
    let note = "the deadline is near";
    terminal.wait_until(note, |screen| {
        screen.lines().iter().any(|line| line.starts_with(note))
    });
    let (status, lines) = terminal.end();
    assert_eq!(status.code(), Some(75), "{lines:#?}");
    let text = lines.join(" ");
    assert!(!text.contains('%'), "{lines:#?}");
    let kept = format!(", with {} done, ", rows_of_status(&job));
    assert!(text.contains(&kept), "{kept}: {lines:#?}");
}

#[test]
fn an_error_in_the_middle_is_the_last_thing_on_the_screen() {
    let job = long_job();
    let settings = job.path("job.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, text.replace("20000", "200")).unwrap();
    let mut terminal = Terminal::start(run(&job, &[]), 80, Narrowing::Wraps);
    wait_for_rows(&mut terminal);
    some_questions(job.folder.path(), 20);
    let (status, lines) = terminal.end();
    assert_eq!(status.code(), Some(2), "{lines:#?}");
    assert!(!lines.join(" ").contains('%'), "{lines:#?}");
    assert!(lines[0].starts_with("error: "), "{lines:#?}");
    assert!(lines.last().unwrap().starts_with("exit 2: "), "{lines:#?}");
}
