//! Signals and limits that end a run, and those that must not.
#![cfg(unix)]

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::support::{Job, both, some_questions, stderr};

const MORE: &str = "format = \"jsonl\"\n[prompt]\nmax_length = 96\n[generation]\ndo_sample = true\nmin_new_tokens = 20\nmax_new_tokens = 40\n[batch]\nmax_batch_size = 64\nwindow_rows = 20000\n[checkpoint]\ninterval_seconds = 0.05\n";

/// A job that takes far longer than any of these tests.
fn long_job() -> Job {
    let job = Job::new(Path::new("questions.jsonl"), MORE);
    some_questions(job.folder.path(), 20_000);
    job
}

/// `run job.toml` behind a line of shell, which ends in `"$@"`.
fn start(job: &Job, shell: &str, args: &[&str], input: Stdio) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", shell, "sh"]);
    if knows_default_signals() {
        // What started the tests may ignore signals, as `nohup` does; that is handed down.
        command.args(["env", "--default-signal=HUP,INT,TERM,USR1,USR2,XCPU"]);
    }
    command
        .args([
            env!("CARGO_BIN_EXE_glm-batch"),
            "run",
            "job.toml",
            "--quiet",
        ])
        .args(args)
        .current_dir(job.folder.path())
        .env("XDG_CACHE_HOME", job.path("cache"))
        .stdin(input)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn knows_default_signals() -> bool {
    let asked = Command::new("env")
        .args(["--default-signal=HUP", "true"])
        .stderr(Stdio::null())
        .status();
    asked.is_ok_and(|status| status.success())
}

fn send(child: &Child, signal: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{signal}"), &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// Waits until the run has journalled rows.
fn wait_for_rows(job: &Job, child: &mut Child) {
    let journal = job.path("out/journal/window-000000.jsonl");
    while std::fs::metadata(&journal).map_or(0, |found| found.len()) == 0 {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::yield_now();
    }
}

fn ended(child: Child) -> Output {
    child.wait_with_output().unwrap()
}

/// What the last line says is done, as in `84 of 399 rows`.
fn rows_of_the_last_line(text: &str) -> &str {
    let last = text.lines().last().unwrap();
    let rows = last.strip_prefix("exit 75: interrupted with ").unwrap();
    rows.split(" done").next().unwrap()
}

/// The same by `status`.
fn rows_of_status(job: &Job) -> String {
    let output = job.command(&["status", "out"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let rows = text.lines().next().unwrap();
    let rows = rows.strip_prefix("test: not finished, ").unwrap();
    rows.split(" (").next().unwrap().to_owned()
}

#[test]
fn every_signal_that_asks_a_program_to_end_does() {
    for signal in ["TERM", "INT", "HUP", "USR1", "USR2", "XCPU"] {
        let job = long_job();
        let mut child = start(&job, "exec \"$@\"", &["--grace", "0.5"], Stdio::null());
        wait_for_rows(&job, &mut child);
        send(&child, signal);
        let output = ended(child);
        assert_eq!(
            output.status.code(),
            Some(75),
            "{signal}: {}",
            both(&output)
        );
        let text = stderr(&output);
        let first = format!("SIG{signal}: ending when the rows in flight are done, in 10.5 s");
        assert!(text.starts_with(&first), "{text}");
        let last = ", the checkpoint is valid: run the same command again\n";
        assert!(text.ends_with(last), "{text}");
        assert_eq!(rows_of_the_last_line(&text), rows_of_status(&job), "{text}");
        let verified = job.command(&["verify", "out"]).output().unwrap();
        assert_eq!(verified.status.code(), Some(75), "{}", both(&verified));
    }
}

#[test]
fn a_signal_that_is_ignored_at_the_start_stays_ignored() {
    let job = long_job();
    // As `nohup` starts a program; `env` must not undo it.
    let shell = "trap '' HUP USR1; [ \"$1\" = env ] && shift 2; exec \"$@\"";
    let mut child = start(&job, shell, &["--grace", "0"], Stdio::null());
    wait_for_rows(&job, &mut child);
    send(&child, "HUP");
    send(&child, "USR1");
    send(&child, "USR2");
    let output = ended(child);
    assert_eq!(output.status.code(), Some(75), "{}", both(&output));
    assert!(
        stderr(&output).starts_with("SIGUSR2: "),
        "{}",
        both(&output)
    );
}

#[test]
fn a_second_signal_ends_the_run_at_once_and_says_so() {
    let job = long_job();
    let mut child = start(&job, "exec \"$@\"", &["--grace", "600"], Stdio::null());
    wait_for_rows(&job, &mut child);
    // Stopped meanwhile, so that both are there when it goes on.
    for signal in ["STOP", "INT", "TERM", "CONT"] {
        send(&child, signal);
    }
    let output = ended(child);
    assert_eq!(output.status.code(), Some(75), "{}", both(&output));
    let text = stderr(&output);
    assert!(
        text.contains("to stop at once") || text.contains("stops at once"),
        "{text}"
    );
    let last = "exit 75: stopped at once by a second signal: run the same command again\n";
    assert!(text.ends_with(last), "{text}");
    let verified = job.command(&["verify", "out"]).output().unwrap();
    assert_eq!(verified.status.code(), Some(75), "{}", both(&verified));
}

#[test]
fn one_signal_ends_a_run_that_waits_for_silent_input() {
    for first_line in ["", "{\"question\": \"3+5\"}\n"] {
        let job = Job::new(Path::new("-"), MORE);
        let mut child = start(&job, "exec \"$@\"", &[], Stdio::piped());
        let mut input = child.stdin.take().unwrap();
        input.write_all(first_line.as_bytes()).unwrap();
        let folder = if first_line.is_empty() {
            "locks"
        } else {
            "input"
        };
        while std::fs::read_dir(job.path("out").join(folder)).map_or(0, Iterator::count) == 0 {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            std::thread::yield_now();
        }
        send(&child, "INT");
        let output = ended(child);
        drop(input);
        assert_eq!(output.status.code(), Some(75), "{}", both(&output));
        let last = "exit 75: the checkpoint is valid, run the same command again\n";
        assert!(stderr(&output).ends_with(last), "{}", both(&output));
        assert_eq!(job.files("input"), []);
    }
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_with_the_file_and_the_limit() {
    let job = long_job();
    let child = start(&job, "ulimit -f 8; exec \"$@\"", &[], Stdio::null());
    let output = ended(child);
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    let text = stderr(&output);
    assert!(
        text.contains("out/") && text.contains("ulimit -f"),
        "{text}"
    );
    assert!(text.contains("bytes at most"), "{text}");
    let verified = job.command(&["status", "out"]).output().unwrap();
    assert!(
        matches!(verified.status.code(), Some(0 | 2)),
        "{}",
        both(&verified)
    );
}

/// Processor time that a process has had, in the system's ticks.
#[cfg(target_os = "linux")]
fn ticks(child: &Child) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    // The name before may hold spaces; user and system time are the 12th and 13th field behind it.
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn a_run_that_cannot_end_is_ended_after_the_grace() {
    let job = Job::new(Path::new("questions.jsonl"), MORE);
    some_questions(job.folder.path(), 1);
    // A list that doubles is a chain of itself, which no count of steps sees; its length takes for ever.
    let template = "prompt.template={% set ns = namespace(l=[1]) %}{% for i in range(40) %}\
                    {% set ns.l = ns.l + ns.l %}{% endfor %}{{ ns.l | length }}";
    let args = ["--grace", "0", "--set", template];
    let mut child = start(&job, "exec \"$@\"", &args, Stdio::null());
    let journal = job.path("out/journal/window-000000.jsonl");
    let mut begun = None;
    // Once the window is open, there is nothing left to do but to fill the template.
    while begun.is_none_or(|begun| ticks(&child) < begun + 300) {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        if begun.is_none() && journal.exists() {
            begun = Some(ticks(&child));
        }
        std::thread::yield_now();
    }
    send(&child, "TERM");
    let output = ended(child);
    assert_eq!(output.status.code(), Some(75), "{}", both(&output));
    let text = stderr(&output);
    assert!(text.contains("longer than the grace"), "{text}");
}
