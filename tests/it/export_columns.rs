//! `export`: columns of the input beside results of their names, types of columns, results without rows.

use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Date32Array, Decimal128Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

use crate::export::{export, exported, schema_of, values};
use crate::support::{Job, both, demo_model, stderr};

const COLUMNS: &str = "columns = { prompt = \"question\" }";

/// A finished job over rows whose columns have the names of results that it lacks.
fn misnamed(format: &str, samples: &str, more: &str) -> Job {
    let more = format!(
        "format = \"{format}\"\nsamples = \"{samples}\"\n[prompt]\nmax_length = 96\n[generation]\nmax_new_tokens = 6\n{more}"
    );
    let job = Job::of_model(&demo_model(), Path::new("in.jsonl"), COLUMNS, &more);
    let row = |question: &str, score: f64| {
        json!({
            "question": question, "reward": [1, 2, 3], "score": score, "logprob": -0.5, "mean_logprob": -0.25,
            "correct": true, "finish_reasons": ["length"], "choice_text": "甲", "margin": 2.5, "spans": ["乙"],
            "rendered_prompt": "别的",
        })
        .to_string()
    };
    let rows = [
        row("法国的首都是哪座城市？", 9.5),
        row("德国的首都是哪座城市？", -2.0),
    ];
    std::fs::write(job.path("in.jsonl"), rows.join("\n") + "\n").unwrap();
    job.run_ok(&["--quiet"]);
    job
}

#[test]
fn a_column_of_the_input_is_never_taken_for_a_result() {
    let two = "num_return_sequences = 2\ndo_sample = true\ntemperature = 3.0\nseed = 3\n";
    for format in ["jsonl", "parquet"] {
        for (samples, more, answers) in [("flat", "", 1), ("flat", two, 2), ("nested", two, 2)] {
            let job = misnamed(format, samples, more);
            let row = &job.rows()[0];
            // Parquet holds columns of JSON as text.
            let list = match format {
                "parquet" => json!("[1,2,3]"),
                _ => json!([1, 2, 3]),
            };
            assert_eq!(row["reward"], list, "{row}");
            assert_eq!(row["score"], json!(9.5), "{row}");
            let context = format!("{format}, {samples}, {answers}");

            let (lines, _) = exported(&job, &["--to", "messages"]);
            let lines = values(&lines);
            assert_eq!(lines.len(), 2 * answers, "{context}");
            let first = &lines[0]["messages"];
            assert_eq!(first[0]["content"], "法国的首都是哪座城市？", "{context}");

            let (lines, said) = exported(&job, &["--to", "rlhf"]);
            for line in values(&lines) {
                let scored = line["answers"].as_array().unwrap();
                assert_eq!(scored.len(), 1, "{context}: {line}");
                assert_eq!(scored[0]["score"], 0, "{context}: {line}");
            }
            assert!(said.contains("these answers have no scores"), "{said}");

            let (lines, _) = exported(&job, &["--to", "openai-batch"]);
            for line in values(&lines) {
                let choices = &line["response"]["body"]["choices"];
                assert_eq!(choices.as_array().unwrap().len(), answers, "{context}");
            }
            let ends = if samples == "flat" {
                let ends = job.rows();
                let ends = ends.iter().filter(|row| row["finish_reason"] == "length");
                ends.count()
            } else {
                let rows = job.rows();
                let ends = rows
                    .iter()
                    .flat_map(|row| row["finish_reason"].as_array().unwrap());
                ends.filter(|end| *end == "length").count()
            };
            let (lines, _) = exported(&job, &["--to", "messages", "--finish", "length"]);
            assert_eq!(values(&lines).len(), ends, "{context}");

            for (args, words) in [
                (
                    &["--to", "messages", "--min-logprob", "-5"][..],
                    "needs the log-probabilities of the answers",
                ),
                (
                    &["--to", "trl-unpaired"],
                    "says which answers are good ones",
                ),
            ] {
                let refused = export(&job, args);
                assert_eq!(refused.status.code(), Some(2), "{}", both(&refused));
                assert!(stderr(&refused).contains(words), "{}", both(&refused));
            }
        }
    }
}

/// A column of the input may be called as the number of a sample, which nested results do not have.
#[test]
fn a_column_named_sample_stays_what_it_is_in_nested_results() {
    let more = "format = \"jsonl\"\nsamples = \"nested\"\n[prompt]\nmax_length = 96\n[generation]\nmax_new_tokens = 6\nnum_return_sequences = 2\ndo_sample = true\ntemperature = 3.0\nseed = 3\n";
    let job = Job::of_model(&demo_model(), Path::new("in.jsonl"), COLUMNS, more);
    let row = json!({"question": "法国的首都是哪座城市？", "sample": "甲"});
    std::fs::write(job.path("in.jsonl"), row.to_string() + "\n").unwrap();
    job.run_ok(&["--quiet"]);
    let args = ["--to", "trl-unpaired", "--label", "sample == '甲'"];
    let (lines, _) = exported(&job, &args);
    let labels: Vec<Value> = values(&lines)
        .iter()
        .map(|line| line["label"].clone())
        .collect();
    assert_eq!(labels, [true, true]);
    let (lines, _) = exported(&job, &["--to", "openai-batch"]);
    let choices = values(&lines)[0]["response"]["body"]["choices"].clone();
    let numbers: Vec<&Value> = choices
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["index"])
        .collect();
    assert_eq!(numbers, [0, 1]);
}

#[test]
fn results_without_rows_are_whole_files_in_every_form() {
    for format in ["jsonl", "parquet"] {
        let more = format!("format = \"{format}\"\n[prompt]\nmax_length = 96\n");
        let columns = format!("{COLUMNS}\nskip = 1000");
        let job = Job::of_model(&demo_model(), Path::new("in.jsonl"), &columns, &more);
        let row = json!({"question": "法国的首都是哪座城市？", "number": 7});
        std::fs::write(job.path("in.jsonl"), row.to_string() + "\n").unwrap();
        job.run_ok(&["--quiet"]);
        for to in ["parquet", "messages"] {
            let file = format!("{to}.parquet");
            let (_, said) = exported(&job, &["--to", to, "--output", &file]);
            assert!(said.starts_with("0 lines written to"), "{said}");
            let rows = glm_batch::read_part(&job.path(&file)).unwrap();
            assert_eq!(rows.count(), 0, "{format}, {to}");
        }
        let schema = schema_of(&job.path("parquet.parquet"));
        for column in ["row", "number", "completion", "finish_reason"] {
            assert!(schema.contains(&format!(" {column}")), "{format}: {schema}");
        }
        if format == "parquet" {
            let (part, _) = &job.files("parts")[0];
            assert_eq!(schema, schema_of(&job.path("out/parts").join(part)));
        }
        let (lines, _) = exported(&job, &["--to", "jsonl"]);
        assert_eq!(lines, "");
        exported(&job, &["--to", "csv", "--output", "rows.csv"]);
        let text = std::fs::read_to_string(job.path("rows.csv")).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

/// Dates and decimals of Parquet, from parts that are JSON lines.
#[test]
fn types_that_only_the_input_knows_are_kept_or_told_to_be_lost() {
    let more = "format = \"jsonl\"\n[prompt]\nmax_length = 96\n[generation]\nmax_new_tokens = 2\n";
    let job = Job::of_model(&demo_model(), Path::new("in.parquet"), COLUMNS, more);
    let input = job.path("in.parquet");
    let price = Decimal128Array::from(vec![150, 225]).with_precision_and_scale(10, 2);
    let columns: [(&str, ArrayRef); 3] = [
        (
            "question",
            Arc::new(StringArray::from(vec!["法国", "德国"])),
        ),
        ("day", Arc::new(Date32Array::from(vec![0, 19_724]))),
        ("price", Arc::new(price.unwrap())),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let file = std::fs::File::create(&input).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    job.run_ok(&["--quiet"]);

    let typed = |file: &str| {
        let (_, said) = exported(&job, &["--to", "parquet", "--output", file]);
        let schema = schema_of(&job.path(file));
        let card = std::fs::read_to_string(job.path(&format!("{file}.card.md"))).unwrap();
        (schema, said, card)
    };
    let (whole, said, _) = typed("whole.parquet");
    assert!(whole.contains("day (DATE)"), "{whole}");
    assert!(whole.contains("DOUBLE price"), "{whole}");
    assert!(!said.contains("note:"), "{said}");
    // The same bytes are the same file, whenever they were written.
    let bytes = std::fs::read(&input).unwrap();
    std::fs::remove_file(&input).unwrap();
    std::fs::write(&input, &bytes).unwrap();
    assert_eq!(typed("again.parquet").0, whole);

    let lost = |file: &str, words: &str| {
        let (schema, said, card) = typed(file);
        assert!(!schema.contains("DATE"), "{schema}");
        assert!(schema.contains("day"), "{schema}");
        for text in [&said, &card] {
            assert!(text.contains("in.parquet` "), "{text}");
            assert!(text.contains(words), "{text}");
            assert!(text.contains("types of their JSON"), "{text}");
        }
    };
    std::fs::write(&input, &bytes[1..]).unwrap();
    lost("changed.parquet", "changed since the job read it");
    std::fs::remove_file(&input).unwrap();
    lost("gone.parquet", "cannot be read");
    // Without columns of the input nothing is lost.
    let (_, said) = exported(&job, &["--to", "csv", "--output", "rows.csv"]);
    assert!(!said.contains("note:"), "{said}");
}
