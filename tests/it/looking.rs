//! Looking at a job while it runs: `status` and `show` beside a writer that lives, or is dead.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use glm_batch::internals::checkpoint::{
    Journal, LockOptions, LockTiming, OutputFolder, ShardLock, StoredJob, Work,
};
use glm_batch::internals::ids::{RowId, ShardId, WindowId};
use glm_batch::internals::job::Rules;
use glm_batch::internals::outcome::{
    BadRow, Completion, FinishReason, Outcome, RowResult, Sample, Stage,
};
use serde_json::Value;

use crate::input;
use crate::support::{Job, both, some_questions, stderr};

const MORE: &str = "format = \"jsonl\"\n[prompt]\nmax_length = 96\n[generation]\nmax_new_tokens = 4\n[batch]\nmax_batch_size = 8\nwindow_rows = 5\n[checkpoint]\ninterval_seconds = 0\n";

/// A job of so many rows and shards.
fn job_of(rows: usize, shards: u32) -> Job {
    let job = Job::new(Path::new("questions.jsonl"), MORE);
    some_questions(job.folder.path(), rows);
    let text = std::fs::read_to_string(job.path("job.toml")).unwrap();
    let text = text.replace("name =", &format!("shards = {shards}\nname ="));
    std::fs::write(job.path("job.toml"), text).unwrap();
    job
}

/// A job of three shards, of which the first has been finished.
fn half_done() -> Job {
    let job = job_of(45, 3);
    job.run_ok(&["--quiet", "--shard", "0/3"]);
    job
}

fn folder(job: &Job) -> OutputFolder {
    OutputFolder::at(&job.path("out"))
}

fn status(job: &Job, more: &[&str]) -> Output {
    job.command(&[&["status", "out"], more].concat())
        .output()
        .unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Takes a shard as a run does, and notes so much work.
fn writer(job: &Job, shard: u32, work: Work) -> ShardLock {
    let options = LockOptions {
        timing: LockTiming {
            heartbeat: Duration::from_millis(20),
            ..LockTiming::default()
        },
        ..LockOptions::default()
    };
    let lock = ShardLock::acquire(&folder(job), ShardId(shard), &options).unwrap();
    lock.tell(work);
    let owner = folder(job).owner(ShardId(shard));
    while !std::fs::read_to_string(&owner).is_ok_and(|text| text.contains("work")) {
        std::thread::yield_now();
    }
    lock
}

#[test]
fn a_writer_that_lives_has_rates_and_a_time_left() {
    let job = half_done();
    let work = Work {
        rows: 60,
        tokens: 1_200,
        milliseconds: 4_000,
    };
    let _writer = writer(&job, 1, work);
    let output = status(&job, &[]);
    let text = stdout(&output);
    assert!(text.starts_with("test: running, "), "{text}");
    assert!(text.contains("\n  15 rows/s, 300 tokens/s, "), "{text}");
    assert!(text.contains(" s left\n"), "{text}");
    let written = format!(
        "15 rows/s, 300 tokens/s; written by process {}",
        std::process::id()
    );
    assert!(text.contains(&written), "{text}");
    assert!(
        !stderr(&output).contains("run it again"),
        "{}",
        both(&output)
    );
    let found = json(&status(&job, &["--json"]));
    assert_eq!(found["state"], "running");
    assert_eq!(found["rows_per_second"], 15.0);
    assert_eq!(found["is_finished"], false);
    assert_eq!(found["shards"][1]["owner"]["state"], "alive");
    assert_eq!(found["shards"][0]["owner"], Value::Null);
    // What of both shards is left, at the speed of the one writer.
    let left = found["shards"].as_array().unwrap()[1..].iter();
    let left: u64 = left.map(|shard| shard["rows"].as_u64().unwrap()).sum();
    assert_eq!(found["seconds_left"], left as f64 / 15.0);
}

#[test]
fn rates_that_no_heartbeat_has_told_are_not_known_yet() {
    let job = half_done();
    let options = LockOptions::default();
    let _writer = ShardLock::acquire(&folder(&job), ShardId(1), &options).unwrap();
    let text = stdout(&status(&job, &[]));
    assert!(
        text.contains("rows/s, tokens/s and time left are not known yet"),
        "{text}"
    );
    let found = json(&status(&job, &["--json"]));
    assert_eq!(
        (&found["state"], &found["seconds_left"]),
        (&"running".into(), &Value::Null)
    );
}

#[test]
fn a_writer_without_its_lock_is_dead() {
    let job = half_done();
    let lock = writer(&job, 1, Work::default());
    let path = folder(&job).owner(ShardId(1));
    let owner = std::fs::read(&path).unwrap();
    drop(lock);
    // As a killed process leaves it.
    std::fs::write(&path, owner).unwrap();
    let output = status(&job, &[]);
    let dead = format!("its writer is dead: process {}", std::process::id());
    assert!(stdout(&output).contains(&dead), "{}", both(&output));
    assert!(
        stdout(&output).starts_with("test: not finished"),
        "{}",
        both(&output)
    );
    assert!(
        stderr(&output).contains("run it again"),
        "{}",
        both(&output)
    );
    let found = json(&status(&job, &["--json"]));
    assert_eq!(found["state"], "stopped");
    assert_eq!(found["shards"][1]["owner"]["state"], "dead");
    let waited = status(&job, &["--wait"]);
    assert_eq!(waited.status.code(), Some(75), "{}", both(&waited));
    assert!(
        stderr(&waited).contains("nothing works on the job"),
        "{}",
        both(&waited)
    );
}

#[test]
fn owner_files_of_other_hosts_and_of_earlier_versions_are_read() {
    let job = half_done();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    for (beat, state) in [(now, "alive"), (1, "silent")] {
        let owner = format!(
            r#"{{"host":"elsewhere","pid":3,"started_ms":1,"heartbeat_ms":{beat},"beats":0}}"#
        );
        std::fs::write(folder(&job).owner(ShardId(1)), owner).unwrap();
        let found = json(&status(&job, &["--json"]));
        let shard = &found["shards"][1];
        assert_eq!(shard["owner"]["state"], state);
        assert_eq!(shard["rows_per_second"], Value::Null);
    }
    let text = stdout(&status(&job, &[]));
    assert!(
        text.contains("no heartbeat of process 3 on elsewhere for "),
        "{text}"
    );
}

#[test]
fn waiting_ends_when_the_job_is_finished() {
    let job = half_done();
    let mut run = job
        .command(&["run", "job.toml", "--quiet"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while !(folder(&job).owner(ShardId(1)).exists() || folder(&job).owner(ShardId(2)).exists()) {
        assert!(
            run.try_wait().unwrap().is_none(),
            "it ended before it was looked at"
        );
    }
    let waited = status(&job, &["--wait", "--json"]);
    assert_eq!(waited.status.code(), Some(0), "{}", both(&waited));
    assert_eq!(json(&waited)["state"], "finished");
    assert!(run.wait().unwrap().success());
}

#[test]
fn many_shards_are_summed_up() {
    let job = job_of(150, 30);
    job.run_ok(&["--quiet", "--shard", "29/30"]);
    let _writer = writer(&job, 28, Work::default());
    let text = stdout(&status(&job, &[]));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 23, "{text}");
    assert!(
        lines[2].starts_with("  10 shards beside those below: 1 finished, "),
        "{text}"
    );
    assert!(lines[22].starts_with("  shard 28: "), "{text}");
}

/// A job that was stopped in its first window: some rows are in the journal, in the order in which they ended.
fn stopped_in_a_window(format: &str) -> Job {
    let job = Job::new(Path::new("questions.jsonl"), &MORE.replace("jsonl", format));
    some_questions(job.folder.path(), 10);
    job.run_ok(&["--quiet"]);
    job
}

/// Takes the second window back to what it was before it was committed: rows of it in its journal.
fn reopen(job: &Job, rows: &[(u64, Outcome)]) {
    let folder = folder(job);
    let stored = StoredJob::existing(&folder).unwrap();
    for file in [
        folder.manifest(ShardId(0)),
        folder.part(WindowId(1), "jsonl"),
    ] {
        let _ = std::fs::remove_file(file);
    }
    let span = &stored.record.input.windows[1];
    let (mut journal, ..) = Journal::open(&folder, &stored.fingerprint, span).unwrap();
    for (row, outcome) in rows {
        journal.append(RowId(*row), outcome).unwrap();
    }
    journal.sync().unwrap();
}

fn answered(text: &str) -> Outcome {
    Outcome::Ok(RowResult::Generated(Completion {
        prompt_tokens: 9,
        truncated: 0,
        samples: vec![Sample {
            text: text.to_owned(),
            finish_reason: FinishReason::Stop,
            token_ids: vec![7, 2],
            token_logprobs: Vec::new(),
            score: None,
            spans: Vec::new(),
        }],
    }))
}

fn failed(reason: &str) -> Outcome {
    Outcome::Failed(BadRow {
        stage: Stage::Generate,
        reason: reason.to_owned(),
    })
}

fn shown(job: &Job, more: &[&str]) -> Output {
    let output = job.command(&[&["show", "out"], more].concat()).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    output
}

fn lines(output: &Output) -> Vec<Value> {
    let text = stdout(output);
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn rows_of_open_windows_are_shown_with_their_columns() {
    for format in ["jsonl", "parquet"] {
        let job = stopped_in_a_window(format);
        let before = lines(&shown(&job, &["--json"]));
        reopen(&job, &[(8, answered("北京")), (6, failed("no room"))]);
        let found = lines(&shown(&job, &["--json"]));
        assert_eq!(found.len(), 2, "{found:?}");
        for (row, whole) in found.iter().zip([&before[6], &before[8]]) {
            let names =
                |row: &Value| -> Vec<String> { row.as_object().unwrap().keys().cloned().collect() };
            assert_eq!(names(row), names(whole));
            for column in ["row", "id", "question", "answer"] {
                assert_eq!(row[column], whole[column], "{format}");
            }
        }
        assert_eq!(found[1]["completion"], "北京");
        assert_eq!(found[0]["error"], "generate: no room");
        let output = shown(&job, &["--where", "completion == '北京'"]);
        let text = stdout(&output);
        let heading = text.lines().next().unwrap();
        assert!(heading.starts_with("--- row 8, "), "{text}");
        assert!(heading.ends_with(", not committed yet"), "{text}");
        assert!(stderr(&output).contains("1 row of these is not committed yet"));
        let failures = lines(&shown(&job, &["--failed", "--json"]));
        assert_eq!(failures.len(), 1);
        assert_eq!(failures[0]["reason"], "no room");
        assert_eq!(failures[0]["line"], 7);
    }
}

#[test]
fn rows_of_open_windows_are_shown_without_the_input() {
    let job = stopped_in_a_window("jsonl");
    reopen(&job, &[(8, answered("北京")), (6, failed("no room"))]);
    std::fs::remove_file(job.path("questions.jsonl")).unwrap();
    let output = shown(&job, &["--json"]);
    let found = lines(&output);
    assert_eq!(
        (&found[0]["row"], &found[0]["id"]),
        (&6.into(), &Value::Null)
    );
    assert_eq!(found[1]["completion"], "北京");
    assert_eq!(found[1].get("question"), Some(&Value::Null));
    assert!(stderr(&output).contains("without id"), "{}", both(&output));
    let failures = lines(&shown(&job, &["--failed", "--json"]));
    assert_eq!(
        (failures.len(), &failures[0]["reason"]),
        (1, &"no room".into())
    );
}

#[test]
fn windows_of_new_jobs_grow_and_those_of_begun_jobs_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let jsonl = input::file(&folder, "q.jsonl", input::lines(0..2_000));
    let parquet = folder.path().join("q.parquet");
    input::write_parquet(&parquet, &input::questions(0..2_000), input::groups(300));
    for path in [jsonl, parquet] {
        let rows = |rules: Rules| -> Vec<u64> {
            let mut job = input::Job::new(&[&path]).window_rows(1_000);
            job.rules = rules;
            job.index().windows.iter().map(|span| span.rows).collect()
        };
        assert_eq!(rows(Rules::CURRENT), [256, 512, 1_000, 232]);
        let begun = Rules {
            rows: 2,
            ..Rules::CURRENT
        };
        assert_eq!(rows(begun), [1_000, 1_000]);
    }
}
