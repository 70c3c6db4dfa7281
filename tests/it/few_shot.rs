//! `prompt.few_shot`: which examples go before a prompt, what fits, what is refused, and that a job keeps them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{Job, as_parquet, both, demo_model, stderr};

const COLUMNS: &str = "columns = { prompt = \"q\", reference = \"a\" }";

/// A job over rows that are written here, with the files `in.jsonl` and `dev.jsonl`; `more` begins inside `[output]`.
fn job(task: &str, rows: &[Value], dev: &[Value], columns: &str, more: &str) -> Job {
    let job = Job::of_model(&demo_model(), "in.jsonl".as_ref(), columns, more);
    let path = job.path("job.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let named = format!("task = \"{task}\"\nname =");
    std::fs::write(&path, text.replacen("name =", &named, 1)).unwrap();
    write(&job, "in.jsonl", rows);
    write(&job, "dev.jsonl", dev);
    job
}

fn write(job: &Job, name: &str, rows: &[Value]) {
    let lines: Vec<String> = rows.iter().map(|row| format!("{row}\n")).collect();
    std::fs::write(job.path(name), lines.concat()).unwrap();
}

/// A job that generates two tokens, with these keys of `few_shot`.
fn generating(rows: &[Value], dev: &[Value], few_shot: &str) -> Job {
    let more = format!(
        "format = \"jsonl\"\nprompt = true\n[prompt]\nmax_length = 100\nfew_shot = {{ path = \"dev.jsonl\"{few_shot} }}\n[generation]\nmax_new_tokens = 2\n"
    );
    job("generate", rows, dev, COLUMNS, &more)
}

fn asked(count: usize) -> Vec<Value> {
    let row = |at| json!({"q": format!("问{at}？"), "a": format!("答{at}"), "s": at % 2});
    (0..count).map(row).collect()
}

fn solved(names: &str) -> Vec<Value> {
    let row = |name: char| json!({"q": format!("{name}？"), "a": format!("{name}。"), "s": 0});
    names.chars().map(row).collect()
}

fn prompts(job: &Job) -> Vec<String> {
    job.run_ok(&["--quiet"]);
    let rows = job.rows();
    let prompt = |row: &Value| row["rendered_prompt"].as_str().unwrap_or("null").to_owned();
    rows.iter().map(prompt).collect()
}

#[test]
fn the_first_examples_go_before_each_prompt() {
    let job = generating(&asked(2), &solved("甲乙丙"), ", n = 2");
    let with = |prompt: &str| format!("甲？甲。\n\n乙？乙。\n\n{prompt}");
    assert_eq!(prompts(&job), [with("问0？"), with("问1？")]);
    for (few_shot, expected) in [
        (", n = 0, intro = \"x\"", "问0？"),
        (", n = 1, separator = \"|\"", "甲？甲。|问0？"),
        (
            ", n = 1, intro = \"第{{ s }}门\"",
            "第0门\n\n甲？甲。\n\n问0？",
        ),
        (", n = 1, template = \"例：{{ a }}\"", "例：甲。\n\n问0？"),
        ("", "甲？甲。\n\n乙？乙。\n\n丙？丙。\n\n问0？"),
    ] {
        let job = generating(&asked(1), &solved("甲乙丙"), few_shot);
        assert_eq!(prompts(&job), [expected], "{few_shot}");
    }
}
