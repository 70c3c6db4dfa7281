//! No control character of the data reaches the terminal, and no value looks like a line of the program.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

use crate::support::{Job, demo_model, stderr};

/// Escape sequences, a bell, a C1 control, a carriage return, a delete and an override of the direction.
const HOSTILE: &str =
    "a\u{1b}[2J\u{7}\u{9b}31m\r\u{7f}\u{85}\u{202e}b\n--- row 9, id x, status ok\nexit 0: done";
const COLUMNS: &str = "columns = { prompt = \"question\" }";
const MORE: &str =
    "format = \"jsonl\"\n[prompt]\nmax_length = 96\n[generation]\nmax_new_tokens = 4\n";

fn write_rows(folder: &Path) -> PathBuf {
    let path = folder.join("rows.jsonl");
    let rows = [
        json!({ "id": HOSTILE, "question": format!("法国的首都是哪里？{HOSTILE}"), HOSTILE: HOSTILE }),
        json!({ "id": "bad", "question": null, HOSTILE: [HOSTILE] }),
    ];
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    path
}

/// What a terminal would obey in what was printed.
fn obeyed(output: &Output) -> Vec<char> {
    let printed = [&*output.stdout, &*output.stderr].concat();
    let printed = String::from_utf8(printed).unwrap();
    let is_obeyed = |c: &char| {
        (c.is_control() && !matches!(c, '\n' | '\t'))
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    printed.chars().filter(is_obeyed).collect()
}

#[track_caller]
fn assert_harmless(output: &Output) -> String {
    assert_eq!(obeyed(output), [], "{output:?}");
    let text = stderr(output);
    let ends = text
        .lines()
        .filter(|line| line.starts_with("exit "))
        .count();
    assert!(ends <= 1, "{text}");
    String::from_utf8(output.stdout.clone()).unwrap() + &text
}

#[test]
fn values_of_rows_are_escaped() {
    let folder = tempfile::tempdir().unwrap();
    let job = Job::of_model(&demo_model(), &write_rows(folder.path()), COLUMNS, MORE);
    assert_harmless(&job.command(&["plan", "job.toml"]).output().unwrap());
    assert_harmless(&job.run_ok(&[]));
    for args in [
        &["show", "out"][..],
        &["show", "out", "--failed"],
        &["show", "out", "--json"],
        &["status", "out"],
        &["status", "out", "--json"],
        &["verify", "out"],
    ] {
        assert_harmless(&job.command(args).output().unwrap());
    }
    let shown = assert_harmless(&job.command(&["show", "out"]).output().unwrap());
    let headings: Vec<&str> = shown
        .lines()
        .filter(|line| line.starts_with("---"))
        .collect();
    assert_eq!(headings.len(), 2, "{shown}");
    assert!(
        headings[0].starts_with("--- row 0, id a\\u{1b}[2J\\u{7}\\u{9b}31m"),
        "{shown}"
    );
    assert!(
        shown.contains("\n    --- row 9, id x, status ok\n"),
        "set in: {shown}"
    );
    let json = job
        .command(&["show", "out", "--json", "-n", "1"])
        .output()
        .unwrap();
    let row: Value =
        serde_json::from_slice(json.stdout.split(|&b| b == b'\n').next().unwrap()).unwrap();
    assert_eq!(row[HOSTILE], HOSTILE, "JSON says the same");
}

#[test]
fn what_a_model_says_of_itself_is_escaped() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    std::fs::create_dir(&model).unwrap();
    for entry in std::fs::read_dir(demo_model()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
    }
    let config = model.join("config.json");
    let mut keys: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    keys["notice"] = json!(HOSTILE);
    std::fs::write(&config, keys.to_string()).unwrap();
    let job = Job::of_model(&model, &write_rows(folder.path()), COLUMNS, MORE);
    let text = assert_harmless(&job.run_ok(&[]));
    assert!(text.contains("note         a\\u{1b}[2J\\u{7}"), "{text}");
}

#[test]
fn names_and_arguments_are_escaped() {
    let folder = tempfile::tempdir().unwrap();
    let job = Job::of_model(&demo_model(), &write_rows(folder.path()), COLUMNS, MORE);
    let input = format!("input.path={HOSTILE}.jsonl");
    let list = format!("--set=input.path=[\"{}\"]", "x\\u001b[2J\\n.jsonl");
    for args in [
        &["run", HOSTILE][..],
        &["run", "job.toml", "--set", &input],
        &["run", "job.toml", "--set", HOSTILE],
        &["run", "job.toml", &list],
        &["run", "job.toml", HOSTILE],
        &["run", "job.toml", "--shard", HOSTILE],
        &[
            "plan",
            "job.toml",
            "--set",
            &format!("generation.{HOSTILE}=1"),
        ],
        &["show", HOSTILE],
        &["show", "out", "--where", HOSTILE],
        &[HOSTILE],
    ] {
        let output = job.command(args).output().unwrap();
        let text = assert_harmless(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert!(text.contains("\nexit 2: "), "{text}");
    }
}

/// A second place that prints would be a second place to forget.
#[test]
fn one_file_prints() {
    fn look(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                look(&path, found);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let writes = |line: &str| {
                (line.contains("stdout()") || line.contains("stderr()"))
                    && !line.contains("is_terminal()")
                    && !line.contains("ProgressDrawTarget::stderr()")
            };
            if text
                .lines()
                .any(|line| !line.trim_start().starts_with("//") && writes(line))
            {
                found.push(path);
            }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    look(&src, &mut found);
    assert_eq!(found, [src.join("report/terminal.rs")]);
}
