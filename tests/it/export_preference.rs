//! `export` of a real `preference` job: its pairs beside the lines that are made of them.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::export::{export, exported, values};
use crate::support::{Job, both, demo_model, some_questions, stderr};

/// A finished job that judges four answers to each of some questions.
fn judged(pairs: &str, format: &str) -> Job {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let overlay = root.join("examples/demo/reward/reward_delta.safetensors");
    let columns = "columns = { id = \"id\", prompt = \"question\", prefix = \"prefix\" }";
    let more = format!(
        "format = \"{format}\"\n[generation]\ndo_sample = true\nnum_return_sequences = 4\ntemperature = 2.0\nmax_new_tokens = 6\n[preference]\npairs = \"{pairs}\"\n[reward]\nmodel = \"{}\"\noverlay = \"{}\"\n",
        demo_model().display(),
        overlay.display()
    );
    let job = Job::of_model(&demo_model(), Path::new("questions.jsonl"), columns, &more);
    some_questions(job.folder.path(), 12);
    let path = job.path("job.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replacen("name =", "task = \"preference\"\nname =", 1);
    std::fs::write(&path, text).unwrap();
    job.run_ok(&["--quiet"]);
    job
}

/// The pairs of each row that has some, as the results have them.
fn pairs_of(job: &Job) -> BTreeMap<u64, Vec<Value>> {
    let mut found: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
    for line in job.rows() {
        if line["chosen"].is_string() {
            found
                .entry(line["row"].as_u64().unwrap())
                .or_default()
                .push(line);
        }
    }
    found
}

/// The prompt of a row, as the formats of TRL have it.
fn prompt(pair: &Value) -> String {
    let text = |name: &str| pair[name].as_str().unwrap();
    format!("{}\n{}", text("question"), text("prefix"))
}

#[test]
fn pairs_come_out_in_every_format_that_takes_them() {
    let mut middle_ones = 0;
    for (pairs, format) in [
        ("best-worst", "jsonl"),
        ("adjacent", "parquet"),
        ("all", "jsonl"),
        ("all", "parquet"),
    ] {
        let job = judged(pairs, format);
        let rows = pairs_of(&job);
        assert!(rows.len() >= 6, "{pairs}: {} rows", rows.len());
        let (mut preferred, mut scored, mut labelled) = (Vec::new(), Vec::new(), Vec::new());
        let mut mixed = 0;
        for of_row in rows.values() {
            let prompt = prompt(&of_row[0]);
            for pair in of_row {
                preferred.push(json!({"prompt": prompt, "chosen": pair["chosen"], "rejected": pair["rejected"]}));
            }
            let side = |name: &str| -> Vec<&Value> {
                let mut texts: Vec<&Value> = Vec::new();
                for pair in of_row {
                    if !texts.contains(&&pair[name]) {
                        texts.push(&pair[name]);
                    }
                }
                texts
            };
            let (good, bad) = (side("chosen"), side("rejected"));
            mixed += good.iter().filter(|text| bad.contains(text)).count();
            for (texts, others, label) in [(&good, &bad, true), (&bad, &good, false)] {
                for text in texts.iter().filter(|text| !others.contains(text)) {
                    labelled.push(
                        json!({"prompt": prompt, "completion": text, "label": label}).to_string(),
                    );
                }
            }
            let mut answers: Vec<(f64, &Value)> = Vec::new();
            for pair in of_row {
                for (text, score) in [("chosen", "chosen_score"), ("rejected", "rejected_score")] {
                    if !answers.iter().any(|(_, known)| **known == pair[text]) {
                        answers.push((pair[score].as_f64().unwrap(), &pair[text]));
                    }
                }
            }
            answers.sort_by(|a, b| b.0.total_cmp(&a.0));
            let answers: Vec<Value> = answers
                .iter()
                .map(|(score, text)| json!({"answer": text, "score": score}))
                .collect();
            scored.push((
                of_row[0]["question"].clone(),
                of_row[0]["prefix"].clone(),
                Value::from(answers),
            ));
        }

        let (lines, said) = exported(&job, &["--to", "trl-preference"]);
        assert_eq!(values(&lines), preferred, "{pairs}, {format}");
        let without = job
            .rows()
            .iter()
            .filter(|row| row["no_pair"].is_string())
            .count();
        assert_eq!(said.contains("without a pair ("), without > 0, "{said}");

        let (lines, said) = exported(&job, &["--to", "rlhf"]);
        let lines = values(&lines);
        let ties = said.contains("with the score of another one of the row");
        for (line, (question, prefix, answers)) in lines.iter().zip(&scored) {
            assert_eq!((&line["prompt"], &line["prefix"]), (question, prefix));
            assert!(ties || line["answers"] == *answers, "{line}, {answers}");
        }
        assert_eq!(lines.len(), scored.len(), "{pairs}, {format}");

        let (lines, said) = exported(&job, &["--to", "trl-unpaired"]);
        let mut lines: Vec<String> = values(&lines).iter().map(Value::to_string).collect();
        lines.sort();
        labelled.sort();
        assert_eq!(lines, labelled, "{pairs}, {format}");
        let words = match mixed {
            0 => None,
            1 => Some("1 answer that is".to_owned()),
            many => Some(format!("{many} answers that are")),
        };
        let told = "the better one of a pair and the worse one of another";
        assert_eq!(said.contains(told), words.is_some(), "{said}");
        if let Some(words) = words {
            assert!(
                said.contains(&format!("left out: {words} {told}\n")),
                "{said}"
            );
        }
        middle_ones += mixed;
        if pairs == "best-worst" {
            assert_eq!(mixed, 0);
        }
    }
    assert!(middle_ones > 10, "{middle_ones}");
}

#[test]
fn a_label_is_refused_where_pairs_say_it() {
    let job = judged("best-worst", "jsonl");
    let args = [
        "--to",
        "trl-unpaired",
        "--label",
        "margin > 1",
        "--output",
        "x.jsonl",
    ];
    let refused = export(&job, &args);
    assert_eq!(refused.status.code(), Some(2), "{}", both(&refused));
    let said = stderr(&refused);
    assert!(
        said.contains("`--label` does nothing for `preference`"),
        "{said}"
    );
    assert!(said.contains("hint: leave it out; `--where`"), "{said}");
    assert!(!job.path("x.jsonl").exists());
    let (lines, _) = exported(&job, &["--to", "trl-unpaired", "--where", "margin > 1"]);
    let kept = job.rows();
    let kept = kept
        .iter()
        .filter(|row| row["margin"].as_f64().is_some_and(|margin| margin > 1.0));
    assert_eq!(values(&lines).len(), 2 * kept.count());
}
