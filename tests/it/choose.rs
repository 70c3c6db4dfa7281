//! `task = "choose"`: whole jobs, the reference's values, labels, bad rows, what is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};

use crate::score::kill_after;
use crate::support::{Job, both, demo_model, shared, stderr};

const COLUMNS: &str = "columns = { prompt = \"question\", prefix = \"prefix\", choices = \"choices\", label = \"answer\" }";

/// A job that chooses; `more` begins inside `[output]`.
fn job(model: &Path, input: &Path, columns: &str, more: &str) -> Job {
    let job = Job::of_model(model, input, columns, more);
    let path = job.path("job.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        text.replacen("name =", "task = \"choose\"\nname =", 1),
    )
    .unwrap();
    job
}

fn demo_choices() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo/choose/questions.jsonl")
}

fn demo(columns: &str, more: &str) -> Job {
    job(&demo_model(), &demo_choices(), columns, more)
}

/// A job over rows that are written here.
fn rows_with(model: &Path, rows: &[Value], columns: &str, more: &str) -> Job {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.keep().join("in.jsonl");
    let lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
    std::fs::write(&input, lines.join("\n")).unwrap();
    job(model, &input, columns, more)
}

fn over(rows: &[Value], columns: &str, more: &str) -> Job {
    rows_with(&demo_model(), rows, columns, more)
}

fn floats(value: &Value) -> Vec<f64> {
    let items = value.as_array().unwrap().iter();
    items.map(|item| item.as_f64().unwrap()).collect()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The place of the highest value, the first of equal ones.
fn highest(values: &[f64]) -> usize {
    let best = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    values.iter().position(|&value| value == best).unwrap()
}

#[test]
fn the_demonstration_model_knows_the_right_choices() {
    for format in ["jsonl", "parquet"] {
        let chosen = demo(
            COLUMNS,
            &format!("format = \"{format}\"\n[prompt]\nmax_length = 96\n"),
        );
        let output = chosen.run_ok(&[]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let rows = chosen.rows();
        assert_eq!(rows.len(), 40);
        let mut right = 0;
        for row in &rows {
            assert_eq!(
                (&row["status"], &row["sample"]),
                (&json!("ok"), &json!(0)),
                "{row}"
            );
            let logprobs = floats(&row["choice_logprobs"]);
            assert_eq!(row["choice"], highest(&logprobs), "{row}");
            // In Parquet a carried list of JSON lines is its JSON.
            let choices = match &row["choices"] {
                Value::String(text) => serde_json::from_str(text).unwrap(),
                list => list.clone(),
            };
            assert_eq!(
                row["choice_text"],
                choices[row["choice"].as_u64().unwrap() as usize]
            );
            assert_eq!(row["correct"], row["choice"] == row["answer"], "{row}");
            right += usize::from(row["choice"] == row["answer"]);
        }
        assert!(right >= 36, "{right} of 40");
        assert!(
            text.contains("40 choices, 40 of them with a label"),
            "{text}"
        );
        let share = format!(
            "{right} of 40 ({:.1}%) as they are",
            100.0 * right as f64 / 40.0
        );
        assert!(text.contains(&share), "{share}: {text}");
        assert!(
            text.contains("% by characters") || text.contains("%) by characters"),
            "{text}"
        );
        let card = std::fs::read_to_string(chosen.path("out/README.md")).unwrap();
        assert!(card.contains(&share), "{card}");
    }
}

/// A choice has the log-probability that it has as a target without its ending token.
#[test]
fn a_choice_is_as_likely_as_the_same_target() {
    let more = "format = \"jsonl\"\n[prompt]\nmax_length = 96\n";
    let chosen = demo(COLUMNS, more);
    chosen.run_ok(&["--quiet"]);
    let columns = "columns = { prompt = \"question\", prefix = \"prefix\", target = \"choices\" }";
    let scored = demo(
        columns,
        &format!("samples = \"nested\"\n{more}[score]\nending = false\n"),
    );
    scored.run_ok(&["--quiet", "--set", "task=score"]);
    for (chosen, scored) in chosen.rows().iter().zip(scored.rows()) {
        assert_eq!(chosen["choice_logprobs"], scored["logprob"], "{chosen}");
    }
}

#[test]
fn normalizing_decides_what_is_compared_and_not_what_is_written() {
    let more = "format = \"jsonl\"\n[prompt]\nmax_length = 96\n[choose]\nnormalize = ";
    let columns = COLUMNS.replace(", label = \"answer\"", "");
    let lengths = demo(
        &columns.replace("choices =", "target ="),
        "format = \"jsonl\"\nsamples = \"nested\"\n[prompt]\nmax_length = 96\n[score]\nending = false\n",
    );
    lengths.run_ok(&["--quiet", "--set", "task=score"]);
    let lengths = lengths.rows();
    for normalize in ["none", "tokens", "characters"] {
        let chosen = demo(COLUMNS, &format!("{more}\"{normalize}\"\n"));
        let output = chosen.run_ok(&[]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(text.contains("by tokens"), normalize == "tokens", "{text}");
        for (row, tokens) in chosen.rows().iter().zip(&lengths) {
            let logprobs = floats(&row["choice_logprobs"]);
            assert_eq!(logprobs, floats(&tokens["logprob"]), "{row}");
            let texts = row["choices"].as_array().unwrap();
            let divisors = match normalize {
                "tokens" => floats(&tokens["target_tokens"]),
                "characters" => texts
                    .iter()
                    .map(|text| text.as_str().unwrap().chars().count() as f64)
                    .collect(),
                _ => vec![1.0; texts.len()],
            };
            let values: Vec<f64> = logprobs.iter().zip(divisors).map(|(a, b)| a / b).collect();
            assert_eq!(row["choice"], highest(&values), "{normalize}: {row}");
        }
    }
}

#[test]
fn choices_come_from_lists_objects_columns_paths_or_the_job() {
    let rows = [
        json!({"q": "法国的首都是哪座城市？", "c": ["伦敦", "巴黎"], "a": "伦敦", "b": "巴黎",
               "s": [{"answer": "伦敦", "score": 0}, {"answer": "巴黎", "score": 1}], "n": {"text": ["伦敦", "巴黎"]}, "l": "B"}),
        json!({"q": "英国的首都是哪座城市？", "c": ["伦敦", "巴黎"], "a": "伦敦", "b": "巴黎",
               "s": [{"answer": "伦敦"}, {"answer": "巴黎"}], "n": {"text": ["伦敦", "巴黎"]}, "l": "伦敦"}),
    ];
    let mut all = Vec::new();
    for choices in ["\"c\"", "[\"a\", \"b\"]", "\"s\"", "\"n.text\""] {
        let columns = format!("columns = {{ prompt = \"q\", choices = {choices}, label = \"l\" }}");
        let more = "format = \"jsonl\"\ncolumns = \"none\"\n[prompt]\nprefix = \"答案：\"\n";
        let chosen = over(&rows, &columns, more);
        chosen.run_ok(&["--quiet"]);
        all.push(chosen.rows());
    }
    let columns = "columns = { prompt = \"q\", label = \"l\" }";
    let literal = over(
        &rows,
        columns,
        "format = \"jsonl\"\ncolumns = \"none\"\n[prompt]\nprefix = \"答案：\"\n[choose]\nchoices = [\"伦敦\", \"巴黎\"]\n",
    );
    literal.run_ok(&["--quiet"]);
    all.push(literal.rows());
    for rows in &all {
        assert_eq!(rows, &all[0]);
        assert_eq!(
            (&rows[0]["choice_text"], &rows[0]["correct"]),
            (&json!("巴黎"), &json!(true))
        );
        assert_eq!(
            (&rows[1]["choice_text"], &rows[1]["correct"]),
            (&json!("伦敦"), &json!(true))
        );
    }
}

#[test]
fn the_lowest_of_equal_choices_wins_and_is_right() {
    let question = "法国的首都是哪座城市？";
    let rows = [
        json!({"q": question, "c": ["罗马", "巴黎", "巴黎"], "l": 2}),
        json!({"q": question, "c": ["巴黎", "巴黎"], "l": "巴黎"}),
        json!({"q": question, "c": ["巴黎", "罗马"], "l": null}),
        json!({"q": question, "c": ["巴黎", "罗马"]}),
    ];
    for format in ["jsonl", "parquet"] {
        let columns = "columns = { prompt = \"q\", choices = \"c\", label = \"l\" }";
        let chosen = over(
            &rows[..1],
            columns,
            &format!("format = \"{format}\"\n[prompt]\nprefix = \"答案：\"\n"),
        );
        chosen.run_ok(&["--quiet"]);
        let first = &chosen.rows()[0];
        assert_eq!(
            (&first["choice"], &first["correct"]),
            (&json!(1), &json!(true)),
            "{first}"
        );
        assert_eq!(first["choice_logprobs"][1], first["choice_logprobs"][2]);
    }
    let columns = "columns = { prompt = \"q\", choices = \"c\", label = \"l\" }";
    let chosen = over(
        &rows,
        columns,
        "format = \"parquet\"\ncolumns = \"none\"\n[prompt]\nprefix = \"答案：\"\n",
    );
    let output = chosen.run_ok(&[]);
    let got = chosen.rows();
    assert_eq!(
        (&got[1]["choice"], &got[1]["correct"]),
        (&json!(0), &json!(true))
    );
    for unlabelled in &got[2..] {
        assert_eq!(unlabelled["correct"], Value::Null, "{unlabelled}");
        assert_eq!(unlabelled["choice"], 0);
    }
    assert!(
        both(&output).contains("4 choices, 2 of them with a label"),
        "{}",
        both(&output)
    );
}

#[test]
fn the_bytes_depend_neither_on_the_batch_nor_on_shards_nor_on_kills() {
    let methods = [
        ("target", COLUMNS, ""),
        (
            "next-token",
            "columns = { prompt = \"question\", label = \"answer\" }",
            "choices = [\"是\", \"不\", \"大\", \"北\"]\n",
        ),
        ("whole-text", COLUMNS, ""),
    ];
    for (method, columns, choices) in methods {
        let template = match method {
            "whole-text" => "template = \"{{ question }}{{ choice }}\"\n",
            _ => "",
        };
        for format in ["jsonl", "parquet"] {
            let with = |size: &str| {
                let more = format!(
                    "format = \"{format}\"\n[prompt]\n{template}max_length = 96\n[choose]\nmethod = \"{method}\"\n{choices}[batch]\nwindow_rows = 9\nmax_batch_size = {size}\n[checkpoint]\ninterval_seconds = 0.05\n"
                );
                demo(columns, &more)
            };
            let first = with("7");
            let started = Instant::now();
            first.run_ok(&["--quiet"]);
            let took = started.elapsed();
            let parts = first.files("parts");
            assert!(parts.len() > 1);
            for size in ["1", "64"] {
                let other = with(size);
                other.run_ok(&["--quiet"]);
                assert!(
                    other.files("parts") == parts,
                    "{method}, {format}, batches of {size}"
                );
            }
            let killed = with("7");
            for tenth in 1..=10 {
                kill_after(&killed, took * tenth / 11);
            }
            killed.run_ok(&["--quiet"]);
            assert!(killed.files("parts") == parts, "{method}, {format}: killed");
            let sharded = with("64");
            for shard in ["0/3", "1/3", "2/3"] {
                sharded.run_ok(&["--quiet", "--set", "shards=3", "--shard", shard]);
            }
            assert!(
                sharded.files("parts") == parts,
                "{method}, {format}: shards"
            );
            assert!(
                first.rows().iter().all(|row| row["status"] == "ok"),
                "{method}"
            );
        }
    }
}

#[test]
fn a_row_without_choices_that_fit_fails_with_its_reason() {
    let long = "长".repeat(70);
    let rows = [
        json!({"q": "一？", "c": ["一", "二"], "l": 1}),
        json!({"q": "二？", "l": 1}),
        json!({"q": "三？", "c": null}),
        json!({"q": "四？", "c": []}),
        json!({"q": "五？", "c": ["一"]}),
        json!({"q": "六？", "c": ["一", ""]}),
        json!({"q": "七？", "c": ["一", null]}),
        json!({"q": "八？", "c": ["一", 2]}),
        json!({"q": "十？", "c": "一"}),
        json!({"q": "十一？", "c": [{"text": "一"}, {"text": "二"}]}),
        json!({"q": "十二？", "c": ["一", long]}),
        json!({"q": "十三？", "c": ["一", "二"], "l": 2}),
        json!({"q": "十四？", "c": ["一", "二"], "l": -1}),
        json!({"q": "十五？", "c": ["一", "二"], "l": "三"}),
        json!({"q": "十六？", "c": ["B", "A"], "l": "A"}),
        json!({"q": "十七？", "c": ["一", "二"], "l": true}),
        json!({"q": "十八？", "c": ["一", "二"], "l": "1"}),
    ];
    let columns = "columns = { prompt = \"q\", choices = \"c\", label = \"l\" }";
    let more = "format = \"jsonl\"\ncolumns = \"none\"\n[prompt]\nmax_length = 60\n";
    let failing = over(&rows, columns, more);
    let planned = failing.command(&["plan", "job.toml"]).output().unwrap();
    assert!(
        both(&planned).contains("bad rows    16"),
        "{}",
        both(&planned)
    );
    failing.run_ok(&["--quiet"]);
    let reasons = |job: &Job| {
        let rows = job.rows();
        let reasons: Vec<String> = rows
            .iter()
            .map(|row| row["error"].as_str().unwrap_or("ok").to_owned())
            .collect();
        reasons.join("\n")
    };
    insta::assert_snapshot!(reasons(&failing));
    let letters = over(
        &rows[..1],
        columns,
        &format!("{more}[choose]\nmethod = \"next-token\"\n"),
    );
    letters.run_ok(&["--quiet"]);
    assert_eq!(reasons(&letters), "ok");
    let rows = [json!({"q": "一？", "c": ["一", "一二三四五"]})];
    let letters = over(
        &rows,
        "columns = { prompt = \"q\", choices = \"c\" }",
        &format!("{more}[choose]\nmethod = \"next-token\"\n"),
    );
    letters.run(&["--quiet"]);
    assert!(
        reasons(&letters).contains("`choose.method = \"next-token\"` needs choices of one"),
        "{}",
        reasons(&letters)
    );
}

#[test]
fn what_cannot_be_chosen_is_refused_before_the_run() {
    let rows = [json!({"q": "一？", "c": ["一", "二"], "n": 3, "l": 1})];
    let columns = "columns = { prompt = \"q\", choices = \"c\" }";
    let without = "columns = { prompt = \"q\" }";
    let mut texts = Vec::new();
    let mut refuse = |columns: &str, more: &str, set: &[&str]| {
        let job = over(&rows, columns, more);
        let args: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
        let output = job.run(&args);
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        assert!(job.files("parts").is_empty());
        texts.push(stderr(&output));
    };
    refuse(without, "", &[]);
    refuse(columns, "", &["choose.choices=[\"A\", \"B\"]"]);
    refuse(without, "", &["choose.choices=[\"A\"]"]);
    refuse(without, "", &["choose.choices=[\"A\", \"\"]"]);
    refuse(columns, "[generation]\nmax_new_tokens = 3\n", &[]);
    refuse(columns, "[score]\nending = false\n", &[]);
    refuse(
        "columns = { prompt = \"q\", choices = \"c\", reference = \"l\" }",
        "",
        &[],
    );
    refuse(columns, "", &["task=generate"]);
    refuse(columns, "", &["choose.method=whole-text"]);
    refuse(
        columns,
        "",
        &["choose.method=whole-text", "prompt.template={{ q }}"],
    );
    refuse(columns, "", &["choose.method=letters"]);
    refuse(columns, "", &["choose.normalise=tokens"]);
    refuse(
        columns,
        "",
        &["choose.method=next-token", "choose.normalize=tokens"],
    );
    refuse(columns, "", &["choose.label=letter"]);
    refuse("columns = { prompt = \"q\", choices = \"n\" }", "", &[]);
    refuse("columns = { prompt = \"q\", choices = \"d\" }", "", &[]);
    refuse(
        "columns = { prompt = \"q\", choices = \"c\", label = \"m\" }",
        "",
        &[],
    );
    refuse(
        "columns = { prompt = \"q\", choices = [\"c\", \"c\"] }",
        "",
        &[],
    );
    // A column without lists, and choices of the job that do not fit any row.
    refuse("columns = { prompt = \"q\", choices = \"q\" }", "", &[]);
    let next_token = "choose.method=next-token";
    refuse(
        without,
        "",
        &["choose.choices=[\"是\", \"法国的首都\"]", next_token],
    );
    let long = format!("choose.choices=[\"是\", \"{}\"]", "长".repeat(40));
    refuse(without, "", &[&long, "prompt.max_length=32"]);
    let too_long = format!("choose.choices=[\"是\", \"{}\"]", "长".repeat(400));
    refuse(without, "", &[&too_long]);
    insta::assert_snapshot!(texts.join("---\n"));
}

/// A prompt is cut so that the longest choice fits; a choice never is.
#[test]
fn the_context_gets_what_the_longest_choice_leaves() {
    let rows = [json!({"q": "问".repeat(80), "c": ["甲", "乙丙丁戊己庚辛"]})];
    let chosen = over(
        &rows,
        "columns = { prompt = \"q\", choices = \"c\" }",
        "format = \"jsonl\"\n[prompt]\nmax_length = 40\n",
    );
    chosen.run_ok(&["--quiet"]);
    let scored = over(
        &rows,
        "columns = { prompt = \"q\", target = \"c\" }",
        "format = \"jsonl\"\nsamples = \"nested\"\n[prompt]\nmax_length = 40\n[score]\nending = false\n",
    );
    scored.run_ok(&["--quiet", "--set", "task=score"]);
    let longest = floats(&scored.rows()[0]["target_tokens"])
        .into_iter()
        .fold(0.0, f64::max);
    assert_eq!(chosen.rows()[0]["prompt_tokens"], 40 - longest as u64);
}

/// The reference's picks and log-probabilities through the whole pipeline, in batches of three sizes.
#[test]
fn the_picks_are_those_of_the_reference() {
    let (Some(goldens), Some(model)) = (
        shared("fixtures/glm-tiny-zh/tasks/choose.jsonl"),
        shared("fixtures/glm-tiny-zh"),
    ) else {
        return;
    };
    // The reference cuts contexts at 200 tokens whatever the choices, we at `max_length` less the longest choice: so
    // rows whose context is cut run in a job of their own for each length of a longest choice.
    let mut by_length: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
    let (mut compared, mut by_mean) = (0, 0);
    for golden in lines(&goldens) {
        let ids = golden["choice_ids"].as_array().unwrap().iter();
        let longest = ids.map(|ids| ids.as_array().unwrap().len()).max().unwrap() as u64;
        let is_cut = golden["context_ids"].as_array().unwrap().len() >= 200;
        by_length
            .entry(if is_cut { 200 + longest } else { 1000 })
            .or_default()
            .push(golden);
    }
    assert!(by_length.len() > 2, "some contexts are cut");
    let columns = "columns = { prompt = \"prompt\", prefix = \"prefix\", choices = \"choices\", label = \"answer\" }";
    for (length, goldens) in &by_length {
        let more = format!("format = \"jsonl\"\n[prompt]\nmax_length = {length}\n");
        let mut parts = Vec::new();
        for size in [1, 7, 64] {
            let chosen = rows_with(
                &model,
                goldens,
                columns,
                &format!("{more}[batch]\nmax_batch_size = {size}\n"),
            );
            chosen.run_ok(&["--quiet"]);
            for (row, golden) in chosen.rows().iter().zip(goldens) {
                compare(row, golden);
                assert_eq!(row["correct"], golden["pick"] == golden["answer"]);
                compared += 1;
            }
            parts.push(chosen.files("parts"));
        }
        assert!(
            parts[0] == parts[1] && parts[1] == parts[2],
            "max_length {length}"
        );
        let by_tokens = rows_with(
            &model,
            goldens,
            columns,
            &format!("{more}[choose]\nnormalize = \"tokens\"\n"),
        );
        by_tokens.run_ok(&["--quiet"]);
        for (row, golden) in by_tokens.rows().iter().zip(goldens) {
            assert_eq!(row["choice"], golden["pick_by_mean"], "{}", golden["id"]);
            by_mean += 1;
        }
    }
    assert_eq!((compared, by_mean), (3 * 160, 160));
}

fn compare(row: &Value, golden: &Value) {
    let id = &golden["id"];
    assert_eq!(
        row["prompt_tokens"],
        golden["context_ids"].as_array().unwrap().len(),
        "{id}"
    );
    assert_eq!(row["choice"], golden["pick"], "{id}");
    let (got, want) = (floats(&row["choice_logprobs"]), floats(&golden["logprobs"]));
    assert_eq!(got.len(), want.len(), "{id}");
    for (got, want) in got.iter().zip(&want) {
        assert!((got - want).abs() < 5e-4, "{id}: {got} {want}");
    }
}

#[test]
fn known_questions_are_answered_as_by_the_reference() {
    let (Some(goldens), Some(model)) = (
        shared("fixtures/glm-tiny-zh/tasks/choose_qa.jsonl"),
        shared("fixtures/glm-tiny-zh"),
    ) else {
        return;
    };
    let columns = "columns = { prompt = \"prompt\", prefix = \"prefix\", choices = \"choices\", label = \"answer\" }";
    let chosen = job(
        &model,
        &goldens,
        columns,
        "format = \"jsonl\"\n[prompt]\nmax_length = 256\n",
    );
    let output = chosen.run_ok(&[]);
    let goldens = lines(&goldens);
    assert_eq!(goldens.len(), 32);
    for (row, golden) in chosen.rows().iter().zip(&goldens) {
        compare(row, golden);
    }
    assert!(
        both(&output).contains("32 of 32 (100.0%) as they are"),
        "{}",
        both(&output)
    );
}

/// C-Eval and MMLU with 0, 3 and 5 examples: the logits of the letters, which log-probabilities give up to one number a
/// row.
#[test]
fn letters_are_those_of_the_reference() {
    let (Some(goldens), Some(model)) = (
        shared("fixtures/glm-tiny-zh/tasks/eval/generation.json"),
        shared("fixtures/glm-tiny-zh"),
    ) else {
        return;
    };
    let goldens: Value = serde_json::from_slice(&std::fs::read(goldens).unwrap()).unwrap();
    let mut compared = 0;
    for set in ["ceval", "mmlu"] {
        for run in goldens[set]["runs"].as_array().unwrap() {
            let cases = run["cases"].as_array().unwrap();
            let prompt = |case: &Value| {
                let text = case["text"].as_str().unwrap();
                let text = text
                    .strip_prefix("[CLS]")
                    .unwrap()
                    .strip_suffix("<|endoftext|>")
                    .unwrap();
                json!({"prompt": text.trim(), "label": case["label"]})
            };
            let rows: Vec<Value> = cases.iter().map(prompt).collect();
            let more = "format = \"jsonl\"\n[prompt]\nmax_length = 400\n[choose]\nmethod = \"next-token\"\nchoices = [\"A\", \"B\", \"C\", \"D\"]\n";
            let chosen = rows_with(
                &model,
                &rows,
                "columns = { prompt = \"prompt\", label = \"label\" }",
                more,
            );
            let output = chosen.run_ok(&[]);
            for (row, case) in chosen.rows().iter().zip(cases) {
                assert_eq!(
                    row["prompt_tokens"],
                    case["input_ids"].as_array().unwrap().len(),
                    "{case}"
                );
                assert_eq!(row["choice_text"], case["pred"], "{case}");
                assert_eq!(row["correct"], case["pred"] == case["label"], "{case}");
                let (got, want) = (
                    floats(&row["choice_logprobs"]),
                    floats(&case["letter_logits"]),
                );
                for (got_one, want_one) in got.iter().zip(&want) {
                    let (got, want) = (got_one - got[0], want_one - want[0]);
                    assert!((got - want).abs() < 4e-4, "{got} {want}: {case}");
                }
                compared += 1;
            }
            let right = cases
                .iter()
                .filter(|case| case["pred"] == case["label"])
                .count();
            assert!(
                both(&output).contains(&format!("{right} of {} (", cases.len())),
                "{}",
                both(&output)
            );
        }
    }
    assert_eq!(compared, 108);
}

/// The evaluations by perplexity: each group of texts is one row, and the text is the choice.
#[test]
fn whole_texts_are_chosen_as_by_the_reference() {
    let (Some(goldens), Some(model)) = (
        shared("fixtures/glm-tiny-zh/tasks/eval/ppl.json"),
        shared("fixtures/glm-tiny-zh"),
    ) else {
        return;
    };
    let goldens: Value = serde_json::from_slice(&std::fs::read(goldens).unwrap()).unwrap();
    let mut compared = 0;
    for (task, golden) in goldens.as_object().unwrap() {
        let prompts = golden["prompts"].as_array().unwrap();
        let groups = golden["groups"].as_array().unwrap();
        let of = |group: &Value| {
            let [from, to] = [0, 1].map(|at| group["rows"][at].as_u64().unwrap() as usize);
            prompts[from..to].to_vec()
        };
        let rows: Vec<Value> = groups
            .iter()
            .map(|group| {
                let texts: Vec<Value> = of(group)
                    .iter()
                    .map(|prompt| prompt["prompt"].clone())
                    .collect();
                json!({"texts": texts, "right": group["label_index"]})
            })
            .collect();
        let length = golden["max_length"].as_u64().unwrap();
        let more = format!(
            "format = \"jsonl\"\n[prompt]\nmax_length = {length}\ntemplate = \"{{{{ choice }}}}\"\n[choose]\nmethod = \"whole-text\"\n"
        );
        let chosen = rows_with(
            &model,
            &rows,
            "columns = { choices = \"texts\", label = \"right\" }",
            &more,
        );
        chosen.run_ok(&["--quiet"]);
        for (row, group) in chosen.rows().iter().zip(groups) {
            assert_eq!(
                row["choice"], group["argmin_single_softmax"],
                "{task}: {group}"
            );
            for (got, prompt) in floats(&row["choice_logprobs"]).iter().zip(of(group)) {
                let want = prompt["ppl_single_softmax"].as_f64().unwrap();
                assert!(
                    ((-got).exp() - want).abs() < 1e-4 * want,
                    "{task}: {got} {prompt}"
                );
            }
            compared += 1;
        }
    }
    assert_eq!(compared, 53);
}

/// A column of the row and the choice both stand in the template; the choice wins over a column of its name.
#[test]
fn the_template_is_filled_with_each_choice() {
    let rows = [json!({"city": "法国", "choice": "x", "c": ["伦敦", "巴黎"]})];
    let columns = "columns = { choices = \"c\" }";
    let more = "format = \"jsonl\"\ncolumns = \"none\"\nprompt = true\n[prompt]\ntemplate = \"{{ city }}的首都是{{ choice }}\"\n[choose]\nmethod = \"whole-text\"\n";
    let chosen = over(&rows, columns, more);
    chosen.run_ok(&["--quiet"]);
    let got = &chosen.rows()[0];
    assert_eq!(got["rendered_prompt"], "法国的首都是伦敦");
    let texts = [
        json!({"t": "法国的首都是伦敦"}),
        json!({"t": "法国的首都是巴黎"}),
    ];
    let scored = over(
        &texts,
        "columns = { prompt = \"t\" }",
        "format = \"jsonl\"\n[score]\nmethod = \"whole-text\"\n",
    );
    scored.run_ok(&["--quiet", "--set", "task=score"]);
    let means: Vec<Value> = scored
        .rows()
        .iter()
        .map(|row| row["mean_logprob"].clone())
        .collect();
    assert_eq!(got["choice_logprobs"], json!(means));
    // The job's own choices fill it too.
    let columns = "columns = { id = \"city\" }";
    let literal = over(
        &rows,
        columns,
        &format!("{more}choices = [\"伦敦\", \"巴黎\"]\n"),
    );
    literal.run_ok(&["--quiet"]);
    assert_eq!(literal.rows()[0]["choice_logprobs"], got["choice_logprobs"]);
}
