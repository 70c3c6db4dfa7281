//! What the plan, the summary and the card say of a job is true of its rows.

use std::path::Path;

use serde_json::Value;

use crate::support::{Job, both, demo_model, rows, some_questions, stderr};

fn read(job: &Job, name: &str) -> String {
    std::fs::read_to_string(job.path(name)).unwrap()
}

/// What `plan` prints.
fn plan(job: &Job) -> String {
    let output = job.command(&["plan", "job.toml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// A job over lines that are written here.
fn job_over(lines: &[&str], columns: &str, more: &str) -> Job {
    let job = Job::of_model(&demo_model(), Path::new("in.jsonl"), columns, more);
    std::fs::write(job.path("in.jsonl"), lines.join("\n") + "\n").unwrap();
    job
}

const QUESTION: &str = "columns = { prompt = \"question\" }";
const SHORT: &str = "[prompt]\nmax_length = 96\n[generation]\nmax_new_tokens = 8\n";

#[test]
fn tokens_of_shared_answers_are_written_for_each_row_and_computed_once() {
    let more = format!("format = \"jsonl\"\n{SHORT}");
    let job = Job::new(Path::new("questions.jsonl"), &more);
    some_questions(job.folder.path(), 20);
    let twenty = read(&job, "questions.jsonl");
    std::fs::write(job.path("questions.jsonl"), twenty.repeat(3)).unwrap();
    let output = job.run_ok(&["--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let of_rows = |rows: &[Value]| -> u64 {
        let tokens = rows.iter().map(|row| row["completion_tokens"].as_u64());
        tokens.map(Option::unwrap).sum()
    };
    let written = rows(&job.path("out"));
    assert_eq!(written.len(), 60);
    assert_eq!(report["tokens_written"], of_rows(&written));
    assert_eq!(report["totals"]["completion_tokens"], of_rows(&written));
    let computed = &report["engine"]["completion_tokens"];
    assert_eq!(computed, of_rows(&written[..20]));

    let output = job.run_ok(&["--restart", "--verbose"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let speed = text
        .lines()
        .find(|line| line.starts_with("  this run"))
        .unwrap();
    assert!(speed.contains(" tokens/s out, "), "{speed}");
    assert!(speed.contains(" computed; prefill "), "{speed}");
    let counts = format!(
        "of this run {} out, {computed} computed\n",
        of_rows(&written)
    );
    assert!(text.contains(&counts), "{counts}: {text}");

    let distinct = Job::new(Path::new("questions.jsonl"), &more);
    some_questions(distinct.folder.path(), 20);
    let output = distinct.run_ok(&[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(" tokens/s out\n"), "{text}");
}

#[test]
fn the_card_says_that_broken_lines_are_in_no_part() {
    let lines = [
        "{\"question\": \"3+5等于几？\"}",
        "{\"question\": 7}",
        "not json",
        "[1, 2]",
    ];
    let job = job_over(&lines, QUESTION, SHORT);
    job.run_ok(&[]);
    assert_eq!(job.rows().len(), 2, "one with a result, one with an error");
    let card = read(&job, "out/README.md");
    let said = "Without a result: 3 rows. There `error` says why, and `failed/` has the records. No record could be read of 2 of them, such as a broken line: these are in `failed/` alone, and the parts have no line of them.\n";
    assert!(card.contains(said), "{card}");
    assert!(card.contains("| rows that failed before generation | 3 |\n| of these without a line in the parts | 2 |\n"), "{card}");

    let job = job_over(&[lines[0], lines[2]], QUESTION, SHORT);
    job.run_ok(&[]);
    let card = read(&job, "out/README.md");
    assert!(
        card.contains("Without a result: 1 row. No record could be read there"),
        "{card}"
    );
    let job = job_over(&[lines[0], lines[1]], QUESTION, SHORT);
    job.run_ok(&[]);
    let card = read(&job, "out/README.md");
    assert!(card.contains("`failed/` has the records.\n"), "{card}");
    assert!(!card.contains("without a line"), "{card}");
    assert!(!read(&job, "out/manifest/shard-0.json").contains("broken"));
}

#[test]
fn texts_that_become_json_are_told_of_before_the_run_and_in_the_card() {
    let lines = [
        "{\"question\": \"3+5等于几？\", \"note\": \"a\", \"list\": [1], \"n\": 1}",
        "{\"question\": \"6×7等于几？\", \"note\": null, \"list\": [2], \"n\": 2.5}",
        "{\"question\": \"7+1等于几？\", \"note\": 3, \"list\": [], \"n\": 3}",
    ];
    let note = "the column `note` (of another kind in row 2) holds texts beside other values: in Parquet every value is its JSON text, a text with its quotes; `output.format = \"jsonl\"` keeps the values as they are";
    let job = job_over(&lines, QUESTION, SHORT);
    assert!(plan(&job).contains(&format!("  {note}\n")));
    let output = job.run_ok(&[]);
    assert!(
        stderr(&output).contains(&format!("note: {note}\n")),
        "{}",
        both(&output)
    );
    let notes: Vec<Value> = job.rows().iter().map(|row| row["note"].clone()).collect();
    assert_eq!(notes, ["\"a\"".into(), Value::Null, "3".into()]);
    assert!(read(&job, "out/README.md").contains(&format!("\nNote: {note}.\n")));

    let job = job_over(&lines, QUESTION, &format!("format = \"jsonl\"\n{SHORT}"));
    assert!(!plan(&job).contains("beside other values"));
    let output = job.run_ok(&[]);
    assert!(
        !stderr(&output).contains("beside other values"),
        "{}",
        both(&output)
    );
    let plain = job_over(&lines[..2], QUESTION, SHORT);
    plain.run_ok(&[]);
    assert!(!read(&plain, "out/job.json").contains("mixed_at"));
}

#[test]
fn equal_choices_are_counted_by_the_plan_and_the_summary() {
    let lines = [
        "{\"question\": \"3+5等于几？\", \"choices\": [\"8\", \"9\"]}",
        "{\"question\": \"3+5等于几？\", \"choices\": [\"8\", \"9\", \"8\"]}",
        "{\"question\": \"3+5等于几？\", \"choices\": [\"7\", \"7\"]}",
        "{\"question\": \"3+5等于几？\", \"choices\": [\"7\"]}",
    ];
    let columns = "columns = { prompt = \"question\", choices = \"choices\" }";
    let job = job_over(&lines, columns, "[prompt]\nmax_length = 96\n");
    let text = read(&job, "job.toml").replacen("name =", "task = \"choose\"\nname =", 1);
    std::fs::write(job.path("job.toml"), text).unwrap();
    let planned = plan(&job);
    assert!(
        planned.contains("\n  choices     2 rows with the same choice twice: "),
        "{planned}"
    );
    let output = job.run_ok(&[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(", 2 with the same choice twice"), "{text}");
    assert!(read(&job, "out/README.md").contains("| rows with the same choice twice | 2 |\n"));
}
