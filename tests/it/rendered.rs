//! `output.prompt`: what the model was given stands in the results, whatever stops the run in between.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Job, as_parquet, both, demo_model, some_questions, stderr};

/// A template, a prefix of the job and of some rows, rows that fail at every stage.
const COLUMNS: &str = "columns = { prompt = \"question\", prefix = \"prefix\" }";
const MORE: &str = "format = \"FORMAT\"\nprompt = true\n[prompt]\ntemplate = \"问：{{ question }}\"\nprefix = \"答\"\noverflow = \"fail\"\nmax_length = 64\n[generation]\nmax_new_tokens = 8\n[batch]\nwindow_rows = 4\n[checkpoint]\ninterval_seconds = 0\n";

/// Row 1 has no question, row 2 too long a one, row 3 a prefix of its own.
fn input(folder: &Path, format: &str) -> std::path::PathBuf {
    let mut rows =
        vec![json!({"question": "法国的首都是哪座城市？", "prefix": null}); 9];
    rows[1]["question"] = Value::Null;
    rows[2]["question"] = "很长".repeat(100).into();
    rows[3]["prefix"] = "首都是".into();
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    let path = folder.join("questions.jsonl");
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    if format == "jsonl" {
        return path;
    }
    let packed = folder.join("questions.parquet");
    as_parquet(&path, &packed);
    packed
}

fn job(input_format: &str, format: &str) -> Job {
    let name = format!("questions.{input_format}");
    let more = MORE.replace("FORMAT", format);
    let job = Job::of_model(&demo_model(), Path::new(&name), COLUMNS, &more);
    input(job.folder.path(), input_format);
    job
}

#[test]
fn the_prompt_and_the_prefix_of_every_row_are_written() {
    for (from, to) in [
        ("jsonl", "jsonl"),
        ("jsonl", "parquet"),
        ("parquet", "jsonl"),
        ("parquet", "parquet"),
    ] {
        let job = job(from, to);
        job.run_ok(&["--quiet"]);
        let rows = job.rows();
        assert_eq!(rows.len(), 9);
        for (number, row) in rows.iter().enumerate() {
            let question = "法国的首都是哪座城市？";
            let (prompt, prefix, status) = match number {
                1 => (Value::Null, Value::Null, "failed"),
                2 => (
                    format!("问：{}", "很长".repeat(100)).into(),
                    "答".into(),
                    "failed",
                ),
                3 => (format!("问：{question}").into(), "首都是".into(), "ok"),
                _ => (format!("问：{question}").into(), "答".into(), "ok"),
            };
            let seen = (
                &row["rendered_prompt"],
                &row["rendered_prefix"],
                &row["status"],
            );
            assert_eq!(seen, (&prompt, &prefix, &json!(status)), "{from}, {to}");
        }
        let card = std::fs::read_to_string(job.path("out/README.md")).unwrap();
        for name in ["rendered_prompt", "rendered_prefix"] {
            assert!(card.contains(&format!("  - name: \"{name}\"\n")), "{card}");
        }
    }
}

#[test]
fn a_killed_run_ends_with_the_same_prompts() {
    for format in ["jsonl", "parquet"] {
        let more = format!(
            "format = \"{format}\"\nprompt = true\n[prompt]\ntemplate = \"{{{{ question }}}}\"\nmax_length = 96\n[generation]\nmax_new_tokens = 12\n[batch]\nmax_batch_size = 4\nwindow_rows = 8\n[checkpoint]\ninterval_seconds = 0.02\n"
        );
        let new = || {
            let job = Job::new(Path::new("questions.jsonl"), &more);
            some_questions(job.folder.path(), 24);
            job
        };
        let (unbroken, broken) = (new(), new());
        let started = Instant::now();
        unbroken.run_ok(&["--quiet"]);
        let took = started.elapsed();
        for part in 1..=4 {
            let mut child = broken
                .command(&["run", "job.toml", "--quiet"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(took * part / 6 + Duration::from_millis(5));
            let _ = child.kill();
            child.wait().unwrap();
        }
        broken.run_ok(&["--quiet"]);
        assert!(broken.files("parts") == unbroken.files("parts"), "{format}");
        let row = &broken.rows()[0];
        assert_eq!(row["rendered_prompt"], row["question"]);
    }
}

#[test]
fn a_carried_column_of_the_name_is_refused_with_the_cure() {
    for name in ["rendered_prompt", "rendered_prefix"] {
        let job = job("jsonl", "jsonl");
        let line = json!({"question": "问", name: "x"}).to_string();
        std::fs::write(job.path("questions.jsonl"), line).unwrap();
        let columns = "input.columns={prompt=\"question\"}";
        for command in ["run", "plan"] {
            let args = [command, "job.toml", "--set", columns];
            let output = job.command(&args).output().unwrap();
            assert_eq!(output.status.code(), Some(2), "{}", both(&output));
            let text = stderr(&output);
            assert!(text.contains(&format!("`{name}`")), "{text}");
            assert!(text.contains("output.rename"), "{text}");
            assert!(text.contains("`output.prompt = false`"), "{text}");
            assert!(!job.path("out/job.json").exists());
        }
        job.run_ok(&["--quiet", "--set", columns, "--set", "output.prompt=false"]);
        assert_eq!(job.rows()[0][name], "x");
    }
}

#[test]
fn jobs_that_do_not_write_prompts_do_not_name_the_key() {
    let job = Job::new(Path::new("questions.jsonl"), "format = \"jsonl\"\n");
    some_questions(job.folder.path(), 2);
    job.run_ok(&["--quiet"]);
    let record: Value =
        serde_json::from_slice(&std::fs::read(job.path("out/job.json")).unwrap()).unwrap();
    assert!(record["spec"]["output"].get("token_ids").is_some());
    assert!(record["spec"]["output"].get("prompt").is_none());
}

/// What `tokenize --job` prints for some rows, a value a line, with its exit code and its notes.
fn tokenized(job: &Job, rows: &[Value]) -> (Option<i32>, Vec<Value>, String) {
    let mut child = job
        .command(&["tokenize", "--job", "job.toml"])
        .args(["--set", "prompt.overflow=truncate"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(lines.join("\n").as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let values = printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    (output.status.code(), values.collect(), stderr(&output))
}

#[test]
fn tokenize_encodes_as_a_job_would() {
    let job = job("jsonl", "jsonl");
    let short = json!({"question": "法国的首都是哪座城市？"});
    let long = json!({"question": "很长".repeat(100), "prefix": "是"});
    let (code, lines, notes) = tokenized(&job, &[short.clone(), long]);
    assert_eq!(code, Some(0), "{notes}");
    job.run_ok(&["--quiet"]);
    let row = &job.rows()[0];
    assert_eq!(lines[0]["prompt"], row["rendered_prompt"]);
    assert_eq!(lines[0]["prefix"], row["rendered_prefix"]);
    assert_eq!(
        lines[0]["ids"].as_array().unwrap().len() as u64,
        row["prompt_tokens"].as_u64().unwrap()
    );
    assert_eq!(lines[0]["truncated"], 0);
    assert!(lines[0].get("cut").is_none());
    // 64 tokens less 8 for the answer.
    assert_eq!(lines[1]["ids"].as_array().unwrap().len(), 56);
    assert_eq!(lines[1]["prefix"], "是");
    assert!(lines[1]["truncated"].as_u64().unwrap() > 0);
    let cut = lines[1]["cut"].as_str().unwrap();
    // The demonstration model does not know the other character.
    assert!(cut.contains("长"), "{cut}");
    assert!(notes.contains("1 prompt of 2 cut to fit"), "{notes}");

    let (code, lines, notes) = tokenized(&job, &[json!({"question": null}), short]);
    assert_eq!(code, Some(2), "{notes}");
    assert_eq!(lines[0]["line"], 1);
    let error = lines[0]["error"].as_str().unwrap();
    assert!(error.starts_with("template: "), "{error}");
    assert!(lines[1].get("ids").is_some());
}

#[test]
fn show_makes_prompts_again_that_a_job_did_not_keep() {
    for from in ["jsonl", "parquet"] {
        let job = job(from, "jsonl");
        let shown = |args: &[&str]| {
            let output = job.command(&[&["show", "out", "--json"], args].concat());
            let output = { output }.output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{}", both(&output));
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let rows = text.lines().map(|line| serde_json::from_str(line).unwrap());
            rows.collect::<Vec<Value>>()
        };
        job.run_ok(&["--quiet"]);
        let kept = shown(&["--prompt"]);
        assert_eq!(kept, job.rows());
        std::fs::remove_dir_all(job.path("out")).unwrap();
        job.run_ok(&["--quiet", "--set", "output.prompt=false"]);
        assert!(shown(&[])[0].get("rendered_prompt").is_none());
        for (again, kept) in shown(&["--prompt"]).iter().zip(&kept) {
            for name in ["row", "rendered_prompt", "rendered_prefix"] {
                assert_eq!(again[name], kept[name], "{from}");
            }
        }
        let failed = shown(&["--prompt", "--failed"]);
        assert_eq!(failed.len(), 2);
        assert_eq!(failed[0]["rendered_prompt"], Value::Null);
        assert_eq!(failed[1]["rendered_prefix"], "答");
        std::fs::write(job.path(&format!("questions.{from}")), "x").unwrap();
        let output = job.command(&["show", "out", "--prompt"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        assert!(stderr(&output).contains("changed"), "{}", both(&output));
    }
}

#[test]
fn a_trial_names_the_key_that_keeps_its_prompts() {
    let job = job("jsonl", "jsonl");
    let trial = ["--quiet", "--limit", "2", "--set", "output.prompt=false"];
    job.run(&trial);
    let output = job.command(&["show", "out.trial", "--prompt"]).output();
    let text = both(&output.unwrap());
    assert!(text.contains("`--set output.prompt=true`"), "{text}");
}
