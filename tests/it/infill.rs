//! `task = "infill"`: whole jobs, the reference's texts, bad rows, what is refused.

use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use crate::nano::shared;
use crate::score::kill_after;
use crate::support::{Job, both, demo_model, stderr};

/// A job that fills the masks of rows that are written here; `more` begins inside `[output]`.
fn over(model: &Path, rows: &[Value], columns: &str, more: &str) -> Job {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.keep().join("in.jsonl");
    let lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
    std::fs::write(&input, lines.join("\n")).unwrap();
    let job = Job::of_model(model, &input, columns, more);
    let path = job.path("job.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replacen("name =", "task = \"infill\"\nname =", 1);
    std::fs::write(&path, text).unwrap();
    job
}

/// The text with its masks replaced, in the plainest way.
fn replaced(prompt: &str, spans: &Value) -> String {
    let mut text = prompt
        .replace("[sMASK]", "[MASK]")
        .replace("[gMASK]", "[MASK]");
    for span in spans.as_array().unwrap() {
        text = text.replacen("[MASK]", span.as_str().unwrap(), 1);
    }
    text
}

const TRAINED: &str = "format = \"FORMAT\"\n[prompt]\nmax_length = 256\n[infill]\nmax_new_tokens = 12\n[batch]\nmax_batch_size = SIZE\nwindow_rows = 8\n";

#[test]
fn masks_are_filled_as_by_the_reference() {
    let Some(model) = shared("glm-tiny-zh") else {
        return;
    };
    let text = std::fs::read_to_string(model.join("tasks/infill.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 30);
    let rows: Vec<Value> = cases
        .iter()
        .map(|case| json!({"prompt": case["prompt"], "filled": replaced(case["prompt"].as_str().unwrap(), &case["span_texts"])}))
        .collect();
    let columns = "columns = { prompt = \"prompt\", reference = \"filled\" }";
    for format in ["jsonl", "parquet"] {
        let job = |size: &str| {
            let more = TRAINED.replace("FORMAT", format).replace("SIZE", size);
            over(&model, &rows, columns, &more)
        };
        let whole = job("7");
        let output = whole.run_ok(&[]);
        assert!(both(&output).contains("30 of 30"), "{}", both(&output));
        for (row, case) in whole.rows().iter().zip(cases) {
            assert_eq!(row["spans"], case["span_texts"], "{row}");
            assert_eq!(row["completion"], row["filled"], "{row}");
            let context = case["context_ids"].as_array().unwrap().len();
            assert_eq!(row["prompt_tokens"], context);
            let reasons = row["finish_reasons"].as_array().unwrap();
            assert_eq!(reasons.len(), case["span_texts"].as_array().unwrap().len());
        }
        for size in ["1", "64"] {
            let other = job(size);
            other.run_ok(&["--quiet"]);
            assert!(
                other.files("parts") == whole.files("parts"),
                "{format}, {size}"
            );
        }
    }
}

/// Rows with one to four masks: greedy, drawn, several samples, beams, with and without a prefix.
fn mixed() -> Vec<Value> {
    let prompts = [
        "法国的首都是[MASK]，德国的首都是[MASK]。",
        "[sMASK]是英国的首都。",
        "猫[MASK]狗[MASK]马[MASK]羊[gMASK]",
    ];
    let settings = [
        json!(null),
        json!({"do_sample": true, "num_return_sequences": 2, "temperature": 1.5}),
        json!({"num_beams": 3}),
        json!({"stop": ["京"], "no_repeat_ngram_size": 1}),
    ];
    let row = |number: usize| {
        json!({
            "q": prompts[number % 3],
            "p": if number.is_multiple_of(5) { json!("答案：[MASK]") } else { json!(null) },
            "s": settings[number % 4],
        })
    };
    (0..60).map(row).collect()
}

const MIXED: &str = "format = \"FORMAT\"\ntoken_ids = true\n[prompt]\nmax_length = 64\n[generation]\nlogprobs = true\n[infill]\nmax_new_tokens = 6\n[batch]\nmax_batch_size = SIZE\nwindow_rows = 9\n[checkpoint]\ninterval_seconds = 0.05\n";

#[test]
fn the_bytes_depend_neither_on_the_batch_nor_on_shards_nor_on_kills() {
    let rows = mixed();
    let columns = "columns = { prompt = \"q\", prefix = \"p\", generation = \"s\" }";
    for format in ["jsonl", "parquet"] {
        let job = |size: &str| {
            let more = MIXED.replace("FORMAT", format).replace("SIZE", size);
            over(&demo_model(), &rows, columns, &more)
        };
        let unbroken = job("7");
        let started = Instant::now();
        unbroken.run_ok(&["--quiet"]);
        let took = started.elapsed();
        let parts = unbroken.files("parts");
        for size in ["1", "64"] {
            let other = job(size);
            other.run_ok(&["--quiet"]);
            assert!(other.files("parts") == parts, "{format}, batches of {size}");
        }
        let sharded = job("64");
        for shard in ["0/3", "1/3", "2/3"] {
            sharded.run_ok(&["--quiet", "--set", "shards=3", "--shard", shard]);
        }
        assert!(sharded.files("parts") == parts, "{format}: shards");
        let killed = job("7");
        for tenth in 1..=10 {
            kill_after(&killed, took * tenth / 11);
        }
        killed.run_ok(&["--quiet"]);
        assert!(killed.files("parts") == parts, "{format}: killed");

        let found = unbroken.rows();
        assert_eq!(found.len(), 60 + 15, "drawn rows have two lines");
        for row in &found {
            assert_eq!(row["status"], "ok", "{row}");
            let text = match &row["p"] {
                Value::String(prefix) => format!("{}\n{prefix}", row["q"].as_str().unwrap()),
                _ => row["q"].as_str().unwrap().to_owned(),
            };
            assert_eq!(row["completion"], replaced(&text, &row["spans"]), "{row}");
            let tokens = row["token_ids"].as_array().unwrap().len();
            assert_eq!(row["completion_tokens"], tokens);
            assert_eq!(row["token_logprobs"].as_array().unwrap().len(), tokens);
        }
    }
}

#[test]
fn lists_are_nested_where_samples_are() {
    let rows = &mixed()[1..2];
    let columns = "columns = { prompt = \"q\", generation = \"s\" }";
    for format in ["jsonl", "parquet"] {
        let more = MIXED.replace("FORMAT", format).replace("SIZE", "4");
        let flat = over(&demo_model(), rows, columns, &more);
        flat.run_ok(&["--quiet"]);
        let flat = flat.rows();
        let more = format!("samples = \"nested\"\n{more}");
        let nested = over(&demo_model(), rows, columns, &more);
        nested.run_ok(&["--quiet"]);
        let nested = nested.rows();
        assert_eq!((flat.len(), nested.len()), (2, 1));
        for column in ["completion", "spans", "finish_reasons", "token_ids"] {
            assert_eq!(nested[0][column], json!([flat[0][column], flat[1][column]]));
        }
    }
}

#[test]
fn a_row_whose_masks_cannot_be_filled_fails_with_its_reason() {
    let long = "很长".repeat(40);
    let rows = [
        json!({"q": "首都是[MASK]。"}),
        json!({"q": "首都是哪里？"}),
        json!({"q": format!("[MASK]{long}[MASK]")}),
        json!({"q": format!("[MASK]{long}")}),
        json!({"q": "[MASK]".repeat(12)}),
        json!({"q": "[MASK]", "s": {"max_new_tokens": 3}}),
        json!({"q": "[MASK]", "s": {"num_beams": 2, "num_return_sequences": 2}}),
        json!({"q": null}),
    ];
    let columns = "columns = { prompt = \"q\", generation = \"s\" }";
    let more = "format = \"jsonl\"\ncolumns = \"none\"\n[prompt]\nmax_length = 60\n[infill]\nmax_new_tokens = 5\n";
    let job = over(&demo_model(), &rows, columns, more);
    let planned = job.command(&["plan", "job.toml"]).output().unwrap();
    let plan = String::from_utf8_lossy(&planned.stdout).into_owned();
    assert!(plan.contains("bad rows    7"), "{}", both(&planned));
    assert!(!plan.contains("the first is answered"), "{plan}");
    job.run_ok(&["--quiet"]);
    let reasons: Vec<String> = job
        .rows()
        .iter()
        .map(|row| row["error"].as_str().unwrap_or("ok").to_owned())
        .collect();
    insta::assert_snapshot!(reasons.join("\n"));
}

#[test]
fn what_does_not_go_with_infill_is_refused() {
    let rows = [json!({"q": "首都是[MASK]。", "a": "巴黎"})];
    let columns = "columns = { prompt = \"q\" }";
    let mut texts = Vec::new();
    for set in [
        &["generation.max_new_tokens=9"][..],
        &["infill.max_new_tokens=0"],
        &["infill.max_new_tokens=600"],
        &["generation.min_new_tokens=70"],
        &[
            "generation.num_beams=2",
            "generation.num_return_sequences=2",
        ],
        &["generation.num_return_sequences=2"],
        &["input.columns.target=a"],
        &["score.ending=true"],
        &["task=generate", "infill.max_new_tokens=9"],
    ] {
        let job = over(&demo_model(), &rows, columns, "");
        let args: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
        let output = job.run(&args);
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        texts.push(stderr(&output));
    }
    insta::assert_snapshot!(texts.join("---\n"));
}

#[test]
fn a_reference_is_the_whole_text_or_a_list_of_what_stands_at_each_mask() {
    let more = "format = \"jsonl\"\n[prompt]\nmax_length = 64\n[infill]\nmax_new_tokens = 3\n";
    let mut rows = mixed()[..3].to_vec();
    let filled = over(&demo_model(), &rows, "columns = { prompt = \"q\" }", more);
    filled.run_ok(&["--quiet"]);
    let texts = filled.rows();
    rows[0]["r"] = texts[0]["spans"].clone();
    rows[1]["r"] = texts[1]["spans"][0].clone();
    rows[2]["r"] = json!(["猫", "狗"]);
    rows.push(json!({"q": rows[0]["q"], "r": texts[0]["completion"]}));
    rows.push(json!({"q": rows[0]["q"], "r": texts[0]["spans"][0]}));
    let columns = "columns = { prompt = \"q\", reference = \"r\" }";
    let compared = over(&demo_model(), &rows, columns, more);
    let text = both(&compared.run_ok(&[]));
    assert!(text.contains("3 of 5 answers match"), "{text}");
}
