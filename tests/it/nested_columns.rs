//! Columns of a job inside other columns: paths, lists of answers, and paths that lead nowhere.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::{Job, both, demo_model, stderr};

const COLUMNS: &str = "columns = { id = \"meta.id\", prompt = \"turns.0.text\", prefix = \"meta.prefix\", reference = \"answers.0.answer\", generation = \"meta.settings\" }";
const MORE: &str = "prompt = true\n[prompt]\nmax_length = 64\n[generation]\nmax_new_tokens = 8\n[batch]\nwindow_rows = 2\n";
const QUESTION: &str = "法国的首都是哪座城市？";

fn rows() -> Vec<Value> {
    let row = |id: &str, prefix: Option<&str>, answers: Value, tokens: Option<u32>| {
        json!({
            "turns": [{"text": QUESTION, "role": "user"}, {"text": "no", "role": "bot"}],
            "meta": {"id": id, "prefix": prefix, "settings": {"max_new_tokens": tokens}},
            "answers": answers,
        })
    };
    let answer = |text: &str| json!({"answer": text, "score": 0.5});
    vec![
        row(
            "a",
            Some("首都："),
            json!([answer("巴黎"), answer("x")]),
            None,
        ),
        row("b", None, json!([answer("x")]), Some(1)),
        row("c", None, json!([]), None),
        json!({"turns": [], "meta": null, "answers": null}),
    ]
}

/// Writes rows in a format and returns the name of the file.
fn write(folder: &Path, rows: &[Value], format: &str) -> String {
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    let name = format!("rows.{format}");
    let text = lines.join("\n") + "\n";
    if format == "jsonl" {
        std::fs::write(folder.join(&name), text).unwrap();
        return name;
    }
    let (schema, _) =
        arrow_json::reader::infer_json_schema(Cursor::new(text.as_bytes()), None).unwrap();
    let schema = Arc::new(schema);
    let reader = arrow_json::ReaderBuilder::new(Arc::clone(&schema));
    let mut reader = reader.build(Cursor::new(text.as_bytes())).unwrap();
    let batch = reader.next().unwrap().unwrap();
    let file = std::fs::File::create(folder.join(&name)).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    name
}

fn job(columns: &str, rows: &[Value], from: &str, to: &str) -> Job {
    let more = format!("format = \"{to}\"\n{MORE}");
    let name = format!("rows.{from}");
    let job = Job::of_model(&demo_model(), Path::new(&name), columns, &more);
    write(job.folder.path(), rows, from);
    job
}

/// What a finished job's summary counts: rows with a reference, and those that match it.
fn compared(job: &Job) -> (u64, u64) {
    let output = job.run_ok(&["--quiet", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let count = |key: &str| report["totals"][key].as_u64().unwrap();
    (count("referenced"), count("exact"))
}

#[test]
fn paths_lead_to_every_column_of_a_job() {
    for from in ["jsonl", "parquet"] {
        for to in ["jsonl", "parquet"] {
            let job = job(COLUMNS, &rows(), from, to);
            let (referenced, _) = compared(&job);
            assert_eq!(referenced, 2, "{from}, {to}");
            let rows = job.rows();
            let ids: Vec<&str> = rows.iter().map(|row| row["id"].as_str().unwrap()).collect();
            assert_eq!(ids, ["a", "b", "c", "3"], "{from}, {to}");
            assert_eq!(rows[0]["rendered_prompt"], QUESTION);
            assert_eq!(rows[0]["rendered_prefix"], "首都：");
            assert_eq!(rows[1]["rendered_prefix"], Value::Null);
            assert_eq!(rows[1]["completion_tokens"], 1);
            assert_eq!(
                rows[3]["error"],
                "input: the row has no prompt column `turns.0.text`"
            );
            assert!(rows[0].get("answers").is_some() && rows[0].get("meta").is_some());
        }
    }
}

#[test]
fn a_list_is_read_where_a_reference_is_expected() {
    let columns = "columns = { prompt = \"question\", reference = \"answers\" }";
    let lists = [
        json!([{"answer": "巴黎", "score": 1.0}, {"answer": "x", "score": 0.0}]),
        json!([]),
    ];
    let texts = [json!(["巴黎", "x"]), json!([]), Value::Null];
    for (answers, referenced) in [(&lists[..], 1), (&texts[..], 1)] {
        let row = |answers: &Value| json!({"question": QUESTION, "answers": answers});
        let rows: Vec<Value> = answers.iter().map(row).collect();
        for from in ["jsonl", "parquet"] {
            let job = job(columns, &rows, from, "jsonl");
            assert_eq!(compared(&job).0, referenced, "{from}");
            assert!(job.rows().iter().all(|row| row["status"] == "ok"));
        }
    }
    let odd = json!({"question": QUESTION, "answers": [5]});
    let job = job(columns, &[odd], "jsonl", "jsonl");
    assert_eq!(job.run(&["--quiet"]).status.code(), Some(3));
    let error = job.rows()[0]["error"].as_str().unwrap().to_owned();
    assert!(
        error.contains("a list that begins with a number"),
        "{error}"
    );
}

#[test]
fn a_column_whose_own_name_holds_the_dots_wins() {
    let columns = "columns = { prompt = \"a.b\" }";
    let rows = [
        json!({"a.b": QUESTION, "a": {"b": "x"}}),
        json!({"a": {"b": "x"}}),
    ];
    for from in ["jsonl", "parquet"] {
        let job = job(columns, &rows, from, "jsonl");
        job.run_ok(&["--quiet"]);
        let rows = job.rows();
        assert_eq!(rows[0]["rendered_prompt"], QUESTION, "{from}");
        assert_eq!(rows[1]["status"], "failed", "{from}");
    }
}

#[test]
fn a_path_that_no_row_has_is_refused_with_the_nearest() {
    for (reference, cure) in [
        ("answers.0.anwser", "did you mean `answers.0.answer`?"),
        ("answers.answer", "the rows have `answers.0`"),
        (
            "answers.0.zzzzzz",
            "the rows have `answers.0.answer`, `answers.0.score`",
        ),
        ("answer.0.answer", "did you mean `answers.0.answer`?"),
        ("zzzzzzz.0", "the input has"),
    ] {
        let columns =
            format!("columns = {{ prompt = \"turns.0.text\", reference = \"{reference}\" }}");
        for from in ["jsonl", "parquet"] {
            let job = job(&columns, &rows(), from, "jsonl");
            for command in ["run", "plan"] {
                let output = job.command(&[command, "job.toml"]).output().unwrap();
                assert_eq!(output.status.code(), Some(2), "{}", both(&output));
                let text = stderr(&output);
                let named = format!("no row has the column `{reference}`");
                assert!(text.contains(&named), "{text}");
                assert!(text.contains(cure), "{from}: {text}");
                assert!(!job.path("out/job.json").exists());
            }
        }
    }
}

#[test]
fn prompts_with_more_than_one_mask_are_counted() {
    let prompts = [
        "[MASK]是法国的首都",
        "[MASK]是[MASK]的首都",
        "[gMASK]是[MASK]的首都",
        "法国的首都是",
    ];
    let rows = prompts.map(|prompt| json!({"question": prompt}));
    let job = job(
        "columns = { prompt = \"question\" }",
        &rows,
        "jsonl",
        "jsonl",
    );
    let plan = job.command(&["plan", "job.toml"]).output().unwrap();
    let text = String::from_utf8_lossy(&plan.stdout);
    assert!(
        text.contains("2 prompts with more than one, of which the first is answered"),
        "{text}"
    );
    let summary = both(&job.run_ok(&[]));
    let said = "2 with more than one mask (the first is answered)";
    assert!(summary.contains(said), "{summary}");
    let report = std::fs::read_to_string(job.path("out/report/shard-0.json")).unwrap();
    assert!(report.contains("\"several_masks\": 2"), "{report}");
    let card = std::fs::read_to_string(job.path("out/README.md")).unwrap();
    assert!(card.contains("more than one mask"), "{card}");
    // A finished job says it again.
    assert!(both(&job.run_ok(&[])).contains(said));
}
