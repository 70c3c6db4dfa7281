//! `prompt.few_shot`: a job keeps its examples, and what cannot be one is refused.

use std::time::Instant;

use serde_json::{Value, json};

use crate::few_shot::{asked, generating, job, more, solved, write};
use crate::score::kill_after;
use crate::support::{Job, both, stderr};

/// The prompts are in no result here: `show` and `tokenize` make them again.
#[test]
fn prompts_are_shown_with_the_examples_that_fitted() {
    let mut rows = asked(2);
    rows[1]["q"] = "很长的问题？".into();
    let job = generating(&rows, &solved("甲乙丙丁"), ", n = 3, separator = \"\"");
    let path = job.path("job.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text
        .replace("prompt = true\n", "")
        .replace("max_length = 100", "max_length = 17");
    std::fs::write(&path, text).unwrap();
    job.run_ok(&["--quiet"]);
    let expected = ["甲？甲。乙？乙。问0？", "甲？甲。很长的问题？"];
    let shown = |name: &str, args: &[&str], input: &str| {
        use std::io::Write as _;
        let mut command = job.command(args);
        command
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", both(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines
            .map(|line| line[name].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        shown(
            "rendered_prompt",
            &["show", "out", "--prompt", "--json"],
            ""
        ),
        expected
    );
    let lines = std::fs::read_to_string(job.path("in.jsonl")).unwrap();
    assert_eq!(
        shown("prompt", &["tokenize", "--job", "job.toml"], &lines),
        expected
    );
    write(&job, "dev.jsonl", &solved("甲"));
    let output = job.command(&["show", "out", "--prompt"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    assert!(
        stderr(&output).contains("is not the file of examples that the job has read"),
        "{}",
        both(&output)
    );
}

#[test]
fn a_job_keeps_its_examples() {
    let (rows, dev) = (asked(9), solved("甲乙丙"));
    let job = generating(&rows, &dev, ", n = 2");
    job.run_ok(&["--quiet"]);
    let parts = job.files("parts");
    // The same bytes elsewhere are the same file.
    std::fs::create_dir(job.path("moved")).unwrap();
    std::fs::rename(job.path("dev.jsonl"), job.path("moved/dev.jsonl")).unwrap();
    let moved = ["--quiet", "--set", "prompt.few_shot.path=moved/dev.jsonl"];
    job.run_ok(&moved);
    assert!(job.files("parts") == parts);
    for set in [
        "prompt.few_shot.n=1",
        "prompt.few_shot.order=random",
        "prompt.few_shot.seed=3",
    ] {
        let output = job.run(&[&moved[..], &["--set", set]].concat());
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        let key = set.split('=').next().unwrap();
        assert!(
            stderr(&output).contains(&format!("`{key}` was")),
            "{}",
            both(&output)
        );
    }
    write(&job, "dev.jsonl", &solved("甲乙"));
    let output = job.run(&["--quiet"]);
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    let text = stderr(&output);
    assert!(
        text.contains("`file of examples ") && text.contains("dev.jsonl` was `"),
        "{text}"
    );
    assert!(text.contains("bytes, fingerprint "), "{text}");
}

#[test]
fn the_bytes_are_those_of_an_unbroken_run() {
    let few_shot = ", n = 2, order = \"random\", by = \"s\"";
    let (rows, dev) = (asked(40), solved("甲乙丙丁戊"));
    let slow = [
        "--quiet",
        "--set",
        "batch.window_rows=9",
        "--set",
        "checkpoint.interval_seconds=0.05",
    ];
    let whole = generating(&rows, &dev, few_shot);
    let started = Instant::now();
    whole.run_ok(&slow);
    let took = started.elapsed();
    let killed = generating(&rows, &dev, few_shot);
    let path = killed.path("job.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        format!("{text}[batch]\nwindow_rows = 9\n[checkpoint]\ninterval_seconds = 0.05\n"),
    )
    .unwrap();
    for fifth in 1..=4 {
        kill_after(&killed, took * fifth / 5);
    }
    killed.run_ok(&["--quiet"]);
    assert!(killed.files("parts") == whole.files("parts"));
    let totals = |job: &Job| {
        let text = std::fs::read_to_string(job.path("out/manifest/shard-0.json")).unwrap();
        let manifest: Value = serde_json::from_str(&text).unwrap();
        let windows = manifest["windows"].clone();
        windows.to_string().matches("shots_dropped").count()
    };
    assert_eq!(totals(&killed), totals(&whole));
}

#[test]
fn what_cannot_be_an_example_is_refused_before_the_run() {
    let mut texts = Vec::new();
    let mut refuse = |job: &Job, set: &[&str]| {
        let args: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
        let output = job.run(&args);
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        assert!(job.files("parts").is_empty());
        let folder = job.folder.path().canonicalize().unwrap();
        let text = stderr(&output).replace(&*folder.to_string_lossy(), "FOLDER");
        texts.push(text.replace(&*job.folder.path().to_string_lossy(), "FOLDER"));
    };
    let rows = asked(2);
    let with = |dev: &[Value]| generating(&rows, dev, "");
    let usual = with(&solved("甲乙"));
    refuse(&with(&[]), &[]);
    refuse(&usual, &["prompt.few_shot.path=div.jsonl"]);
    refuse(&usual, &["prompt.few_shot.path=."]);
    refuse(&usual, &["prompt.few_shot.path=s3://bucket/dev.jsonl"]);
    refuse(&usual, &["prompt.few_shot.path=out/dev.jsonl"]);
    refuse(&usual, &["prompt.few_shot.by=subject"]);
    refuse(&usual, &["prompt.few_shot.template={{ q }}{{ answer }}"]);
    refuse(&usual, &["prompt.few_shot.template={{ q"]);
    refuse(&usual, &["prompt.few_shot.intro={{ subject }}"]);
    refuse(&usual, &["prompt.few_shot.intro={{ subject"]);
    refuse(&usual, &["prompt.few_shot.order=last"]);
    refuse(&usual, &["prompt.few_shot.count=3"]);
    refuse(&usual, &["prompt.few_shot.n=-1"]);
    refuse(&usual, &["prompt.few_shot.by="]);
    refuse(&with(&[json!({"q": "一？", "answer": "一"})]), &[]);
    refuse(
        &with(&[
            json!({"q": "一？", "a": "一"}),
            json!({"q": null, "a": "二"}),
        ]),
        &[],
    );
    refuse(
        &with(&[
            json!({"q": "一？", "a": "一"}),
            json!({"q": "二？", "a": null}),
        ]),
        &[],
    );
    refuse(&with(&[json!({"q": "一？", "a": ""})]), &[]);
    refuse(&with(&[json!({"q": "一？", "a": "是[gMASK]"})]), &[]);
    refuse(&with(&[json!({"q": "[MASK][MASK]？", "a": "是"})]), &[]);
    let broken = with(&[]);
    std::fs::write(
        broken.path("dev.jsonl"),
        "{\"q\": \"一？\", \"a\": \"一\"}\n{broken\n",
    )
    .unwrap();
    refuse(&broken, &[]);
    let without = job(
        "generate",
        &rows,
        &solved("甲"),
        "columns = { prompt = \"q\" }",
        &more(""),
    );
    refuse(&without, &[]);
    let choose = |dev: &[Value], columns: &str| {
        let text = "format = \"jsonl\"\n[prompt]\nfew_shot = { path = \"dev.jsonl\" }\n[choose]\nchoices = [\"A\", \"B\"]\n";
        job("choose", &rows, dev, columns, text)
    };
    refuse(&choose(&solved("甲"), "columns = { prompt = \"q\" }"), &[]);
    let labelled = "columns = { prompt = \"q\", label = \"s\" }";
    refuse(&choose(&[json!({"q": "一？", "s": null})], labelled), &[]);
    refuse(&choose(&[json!({"q": "一？", "s": "C"})], labelled), &[]);
    insta::assert_snapshot!(texts.join("---\n"));
}
