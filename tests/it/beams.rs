//! Beams through the whole program: the reference's answers and scores, the same bytes however the work is cut.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};

use crate::nano::shared;
use crate::score::kill_after;
use crate::support::{Job, both, demo_model, demo_questions, stderr};

/// Largest difference of a score.
const TOLERANCE: f64 = 1e-4;

/// The id that ends an answer of the trained model.
const END: u64 = 50007;

fn read(path: PathBuf) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A job of the trained model over rows that are written here; each has its own settings.
fn over(model: &Path, rows: &[Value]) -> Job {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.keep().join("in.jsonl");
    let lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
    std::fs::write(&input, lines.join("\n")).unwrap();
    let columns =
        "columns = { prompt = \"prompt\", prefix = \"prefix\", generation = \"settings\" }";
    let more = "format = \"jsonl\"\nsamples = \"nested\"\ncolumns = \"none\"\ntoken_ids = true\n[prompt]\nmax_length = 256\n[generation]\nnum_beams = 4\nmax_new_tokens = 24\n";
    Job::of_model(model, &input, columns, more)
}

/// The answer in a sequence that padding follows.
fn without_padding(answer: &Value) -> Value {
    let ids = answer.as_array().unwrap();
    let end = ids.iter().position(|id| *id == END);
    json!(ids[..end.map_or(ids.len(), |end| end + 1)])
}

/// A row of a golden: its answers and scores, best first.
fn check(name: &str, row: &Value, answers: &[Value], scores: &Value) {
    assert_eq!(row["status"], "ok", "{name}: {row}");
    assert_eq!(row["token_ids"], json!(answers), "{name}");
    let found = row["score"].as_array().unwrap();
    let expected = scores.as_array().unwrap();
    assert_eq!(found.len(), expected.len(), "{name}");
    for (found, expected) in found.iter().zip(expected) {
        let difference = found.as_f64().unwrap() - expected.as_f64().unwrap();
        assert!(difference.abs() <= TOLERANCE, "{name}: {found} {expected}");
    }
}

#[test]
fn answers_and_scores_are_those_of_the_reference() {
    let Some(model) = shared("glm-tiny-zh") else {
        return;
    };
    let questions = std::fs::read_to_string(model.join("qa.jsonl")).unwrap();
    let questions: Vec<Value> = questions
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (mut rows, mut expected) = (Vec::new(), Vec::new());
    let batch = read(model.join("reference_batch_beam.json"));
    for golden in batch["beam"].as_array().unwrap() {
        let question = questions.iter().find(|row| row["id"] == golden["id"]);
        let question = question.unwrap();
        rows.push(json!({
            "prompt": question["prompt"],
            "prefix": question["prefix"],
            "settings": golden["kwargs"],
        }));
        let sequences = golden["sequences"].as_array().unwrap();
        let first = sequences[0].as_array().unwrap();
        let start = first.iter().position(|id| *id == 50006).unwrap() + 1;
        let answers = sequences.iter().map(|all| {
            let ids = all.as_array().unwrap();
            without_padding(&json!(ids[start..]))
        });
        expected.push((
            answers.collect::<Vec<_>>(),
            golden["sequences_scores"].clone(),
        ));
    }
    assert_eq!(rows.len(), 30);
    for (over, count) in [("full", 30), ("generated", 14)] {
        let goldens = read(model.join(format!("tasks/beam_{over}.json")));
        let goldens = goldens["cases"].as_array().unwrap();
        assert_eq!(goldens.len(), count);
        for golden in goldens {
            let mut settings = golden["kwargs"].clone();
            let context = golden["input_ids"].as_array().unwrap().len() as u64;
            // `min_length` counts the context and the start token.
            if let Some(least) = settings.as_object_mut().unwrap().remove("min_length") {
                let least = least.as_u64().unwrap().saturating_sub(context);
                settings["min_new_tokens"] = least.into();
            }
            settings["max_new_tokens"] = golden["max_gen_length"].clone();
            if over == "generated" {
                settings["length_penalty_over"] = "generated".into();
            }
            rows.push(json!({
                "prompt": golden["prompt"],
                "prefix": golden["prefix"],
                "settings": settings,
            }));
            let answers = golden["answers"].as_array().unwrap().iter();
            expected.push((
                answers.map(without_padding).collect(),
                golden["scores"].clone(),
            ));
        }
    }
    let job = over(&model, &rows);
    job.run_ok(&["--quiet"]);
    let found = job.rows();
    assert_eq!(found.len(), expected.len());
    for (number, (row, (answers, scores))) in found.iter().zip(&expected).enumerate() {
        check(&format!("row {number}"), row, answers, scores);
    }
}

const MORE: &str = "format = \"FORMAT\"\n[prompt]\nmax_length = 96\n[generation]\nmax_new_tokens = 12\nnum_beams = 3\nnum_return_sequences = 2\nlogprobs = true\n[batch]\nmax_batch_size = SIZE\nwindow_rows = 50\n[checkpoint]\ninterval_seconds = 0.05\n";

fn demo(format: &str, size: &str) -> Job {
    let more = MORE.replace("FORMAT", format).replace("SIZE", size);
    Job::new(&demo_questions(), &more)
}

#[test]
fn the_bytes_depend_neither_on_the_batch_nor_on_shards_nor_on_kills() {
    for format in ["jsonl", "parquet"] {
        let unbroken = demo(format, "7");
        let started = Instant::now();
        unbroken.run_ok(&["--quiet"]);
        let took = started.elapsed();
        let parts = unbroken.files("parts");
        assert!(parts.len() > 1);
        for size in ["1", "64"] {
            let other = demo(format, size);
            other.run_ok(&["--quiet"]);
            assert!(other.files("parts") == parts, "{format}, batches of {size}");
        }
        let sharded = demo(format, "64");
        for shard in ["0/3", "1/3", "2/3"] {
            sharded.run_ok(&["--quiet", "--set", "shards=3", "--shard", shard]);
        }
        assert!(sharded.files("parts") == parts, "{format}: shards");
        let killed = demo(format, "7");
        for tenth in 1..=10 {
            kill_after(&killed, took * tenth / 11);
        }
        killed.run_ok(&["--quiet"]);
        assert!(killed.files("parts") == parts, "{format}: killed");
        let rows = unbroken.rows();
        for pair in rows.chunks(2) {
            assert_eq!(pair[0]["row"], pair[1]["row"]);
            let [first, second] = [0, 1].map(|at| pair[at]["score"].as_f64().unwrap());
            assert!(first >= second, "{}", pair[0]);
            let each = pair[0]["token_logprobs"].as_array().unwrap();
            assert_eq!(pair[0]["completion_tokens"], each.len());
        }
        let right = rows.iter().step_by(2);
        let right = right.filter(|row| row["completion"] == row["answer"]);
        assert!(right.count() * 4 > rows.len(), "half of the best are right");
    }
}

#[test]
fn settings_that_beams_cannot_have_are_refused_or_fail_their_row() {
    let mut texts = Vec::new();
    for set in [
        &["generation.num_beams=3", "generation.do_sample=true"][..],
        &[
            "generation.num_beams=3",
            "generation.num_return_sequences=4",
        ],
        &["generation.num_beams=0"],
        &["generation.num_beams=3", "generation.early_stopping=often"],
    ] {
        let job = Job::new(&demo_questions(), "format = \"jsonl\"\n");
        let args: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
        let output = job.run(&args);
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        texts.push(stderr(&output));
    }
    let rows = [
        json!({"q": "法国的首都是哪座城市？", "s": {"num_beams": 2, "num_return_sequences": 2}}),
        json!({"q": "法国的首都是哪座城市？", "s": {"num_beams": 2, "do_sample": true}}),
        json!({"q": "法国的首都是哪座城市？", "s": {"num_return_sequences": 4}}),
        json!({"q": "法国的首都是哪座城市？", "s": {"num_beams": 1}}),
    ];
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.jsonl");
    let lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
    std::fs::write(&input, lines.join("\n")).unwrap();
    let job = Job::of_model(
        &demo_model(),
        &input,
        "columns = { prompt = \"q\", generation = \"s\" }",
        "format = \"parquet\"\ncolumns = \"none\"\n[prompt]\nmax_length = 64\n[generation]\nnum_beams = 3\nmax_new_tokens = 8\n",
    );
    job.run_ok(&["--quiet"]);
    let found = job.rows();
    let lines = found.iter().map(|row| {
        let score = if row["score"].is_null() {
            "none"
        } else {
            "some"
        };
        format!("row {}: {}, score {score}", row["row"], row["error"])
    });
    texts.push(lines.collect::<Vec<_>>().join("\n"));
    insta::assert_snapshot!(texts.join("---\n"));
}

#[test]
fn keys_of_beams_without_beams_are_told_of() {
    let job = Job::new(&demo_questions(), "format = \"jsonl\"\n");
    let set = ["--limit", "1", "--set", "generation.length_penalty=2.0"];
    let output = job.run_ok(&set);
    let text = both(&output);
    assert!(
        text.contains("`length_penalty` does nothing while `num_beams = 1`"),
        "{text}"
    );
}
