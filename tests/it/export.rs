//! `export`: every format from both kinds of parts, what is left out, what is refused.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::support::{Job, both, demo_model, stderr};

const COLUMNS: &str =
    "columns = { prompt = \"question\", prefix = \"prefix\", reference = \"answer\" }";

/// Two samples a row at a temperature at which some differ, with all that filters look at.
const GENERATE: &str = "samples = \"flat\"\n[prompt]\nmax_length = 96\n[generation]\nmax_new_tokens = 12\nnum_return_sequences = 2\ndo_sample = true\ntemperature = 3.0\nseed = 3\nlogprobs = true\n[batch]\nwindow_rows = 4\n";

fn questions(job: &Job, count: usize) {
    let text = std::fs::read_to_string(crate::support::demo_questions()).unwrap();
    let mut lines: Vec<String> = text.lines().take(count).map(str::to_owned).collect();
    // A row that fails, and one without a prefix.
    lines.insert(2, json!({"id": "bad", "question": null}).to_string());
    lines.push(json!({"id": "bare", "question": "德国的首都是哪座城市？"}).to_string());
    std::fs::write(job.path("in.jsonl"), lines.join("\n") + "\n").unwrap();
}

/// A finished job that generates; `format` and `more` begin inside `[output]`.
pub fn generated(format: &str, more: &str) -> Job {
    let more = format!("format = \"{format}\"\n{more}{GENERATE}");
    let job = Job::of_model(&demo_model(), Path::new("in.jsonl"), COLUMNS, &more);
    questions(&job, 4);
    job.run_ok(&["--quiet"]);
    job
}

/// A finished job of another task over these rows.
fn of_task(task: &str, model: &str, columns: &str, rows: &[Value], format: &str) -> Job {
    let more = format!("format = \"{format}\"\n[prompt]\nmax_length = 96\n");
    let job = Job::of_model(&demo_model(), Path::new("in.jsonl"), columns, &more);
    let path = job.path("job.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replacen("name =", &format!("task = \"{task}\"\nname ="), 1);
    let text = text.replacen("[model]\n", &format!("[model]\n{model}"), 1);
    std::fs::write(&path, text).unwrap();
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    std::fs::write(job.path("in.jsonl"), lines.join("\n") + "\n").unwrap();
    job.run_ok(&["--quiet"]);
    job
}

fn rewarded(format: &str) -> Job {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo/reward");
    let overlay = root.join("reward_delta.safetensors");
    let text = std::fs::read_to_string(root.join("answers.jsonl")).unwrap();
    let mut rows: Vec<Value> = text
        .lines()
        .take(6)
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    // An answer that comes twice has one reward.
    let again = rows[0]["answers"][0].clone();
    rows[0]["answers"].as_array_mut().unwrap().push(again);
    let columns = "columns = { prompt = \"question\", prefix = \"prefix\", answer = \"answers\" }";
    let model = format!("overlay = \"{}\"\n", overlay.display());
    of_task("reward", &model, columns, &rows, format)
}

fn chosen(format: &str) -> Job {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo/choose");
    let text = std::fs::read_to_string(root.join("questions.jsonl")).unwrap();
    let mut rows: Vec<Value> = text
        .lines()
        .take(4)
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    rows[1]["answer"] = json!(0);
    rows[2]["answer"] = Value::Null;
    let columns = "columns = { prompt = \"question\", prefix = \"prefix\", choices = \"choices\", label = \"answer\" }";
    of_task("choose", "", columns, &rows, format)
}

fn scored(format: &str) -> Job {
    let row = |question: &str, good: &str, bad: &str| json!({"question": question, "prefix": "答案：", "good": good, "bad": bad});
    let rows = [
        row("法国的首都是哪座城市？", "巴黎", "东京"),
        row("德国的首都是哪座城市？", "柏林", "伦敦"),
        row("英国的首都是哪座城市？", "伦敦", "伦敦"),
    ];
    let columns =
        "columns = { prompt = \"question\", prefix = \"prefix\", target = [\"good\", \"bad\"] }";
    of_task("score", "", columns, &rows, format)
}

pub fn export(job: &Job, args: &[&str]) -> Output {
    job.command(&[&["export", "out"], args].concat())
        .output()
        .unwrap()
}

/// What was written, and what was said of it.
#[track_caller]
pub fn exported(job: &Job, args: &[&str]) -> (String, String) {
    let output = export(job, args);
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    (
        String::from_utf8(output.stdout.clone()).unwrap(),
        stderr(&output),
    )
}

pub fn values(lines: &str) -> Vec<Value> {
    let lines = lines.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn every_format_of_a_job_that_generates() {
    let (plain, packed) = (
        generated("jsonl", ""),
        generated("parquet", "prompt = true\n"),
    );
    let mut texts = Vec::new();
    for args in [
        &["--to", "rlhf"][..],
        &["--to", "trl-prompt-completion"],
        &["--to", "trl-prompt-completion", "--conversational"],
        &[
            "--to",
            "trl-unpaired",
            "--label",
            "finish_reason == 'stop'",
            "--prompt-template",
            "{{ prefix }}|{{ prompt }}",
        ],
        &["--to", "alpaca"],
        &["--to", "sharegpt"],
        &["--to", "messages"],
        &["--to", "openai-batch"],
    ] {
        let (lines, said) = exported(&plain, args);
        assert!(!lines.contains("\n\n"), "{lines}");
        texts.push(format!("# {}\n{lines}{said}\n", args.join(" ")));
        // Kept prompts and those made again are one, and so are the two kinds of parts.
        assert_eq!(exported(&packed, args), (lines, said), "{args:?}");
    }
    insta::assert_snapshot!(texts.concat());
}

#[test]
fn nested_results_give_the_lines_of_flat_ones() {
    let flat = generated("jsonl", "");
    let more = GENERATE.replace("\"flat\"", "\"nested\"");
    for format in ["jsonl", "parquet"] {
        let more = format!("format = \"{format}\"\n{more}");
        let nested = Job::of_model(&demo_model(), Path::new("in.jsonl"), COLUMNS, &more);
        questions(&nested, 4);
        nested.run_ok(&["--quiet"]);
        for args in [
            &["--to", "rlhf"][..],
            &["--to", "messages", "--finish", "stop"],
            &["--to", "openai-batch", "--min-logprob", "-0.5"],
            &["--to", "trl-unpaired", "--label", "sample == 0"],
        ] {
            assert_eq!(exported(&nested, args), exported(&flat, args), "{args:?}");
        }
        let refused = export(&nested, &["--to", "jsonl", "--dedup"]);
        assert_eq!(refused.status.code(), Some(2), "{}", both(&refused));
        assert!(
            stderr(&refused).contains("holds all answers of its row"),
            "{}",
            both(&refused)
        );
    }
}

#[test]
fn every_format_of_the_tasks_that_read() {
    let mut texts = Vec::new();
    for (name, job, formats) in [
        ("reward", rewarded as fn(&str) -> Job, &["rlhf"][..]),
        ("choose", chosen, &["trl-prompt-completion", "trl-unpaired"]),
        (
            "score",
            scored,
            &["trl-prompt-completion", "trl-preference", "trl-unpaired"],
        ),
    ] {
        let (plain, packed) = (job("jsonl"), job("parquet"));
        for format in formats {
            let (lines, said) = exported(&plain, &["--to", format]);
            texts.push(format!("# {name} --to {format}\n{lines}{said}\n"));
            assert_eq!(
                exported(&packed, &["--to", format]),
                (lines, said),
                "{name}, {format}"
            );
        }
    }
    insta::assert_snapshot!(texts.concat());
}

#[test]
fn a_file_in_parquet_has_the_lines_of_json() {
    let job = generated("jsonl", "");
    for (to, more) in [
        ("rlhf", &[][..]),
        ("trl-prompt-completion", &["--conversational"]),
        ("trl-unpaired", &["--label", "sample == 0"]),
        ("alpaca", &[]),
        ("sharegpt", &[]),
        ("messages", &[]),
        ("openai-batch", &[]),
    ] {
        let file = format!("{to}.parquet");
        let args = [&["--to", to, "--output", &file], more].concat();
        let (nothing, said) = exported(&job, &args);
        assert_eq!(nothing, "");
        assert!(said.contains(&format!("written to `{file}`")), "{said}");
        let (lines, _) = exported(&job, &[&["--to", to], more].concat());
        let read = glm_batch::read_part(&job.path(&file)).unwrap();
        let read: Vec<Value> = read.map(|row| Value::Object(row.unwrap())).collect();
        // Numbers of the two forms are compared as numbers: `0` and `0.0` are one.
        let plain = |value: &Value| value.to_string().replace(".0}", "}");
        let read: Vec<String> = read.iter().map(plain).collect();
        let lines: Vec<String> = values(&lines).iter().map(plain).collect();
        assert_eq!(read, lines, "{to}");
    }
}

#[test]
fn result_rows_come_out_as_they_are() {
    let mut texts = Vec::new();
    for format in ["jsonl", "parquet"] {
        let job = generated(format, "");
        let expected = job.rows();
        let (lines, said) = exported(&job, &["--to", "jsonl"]);
        assert_eq!(values(&lines), expected, "{format}");
        if format == "jsonl" {
            let parts: Vec<u8> = job
                .files("parts")
                .into_iter()
                .flat_map(|(_, bytes)| bytes)
                .collect();
            assert_eq!(lines.as_bytes(), parts, "byte for byte");
        }
        assert!(said.starts_with("11 lines written\n"), "{said}");
        exported(&job, &["--to", "parquet", "--output", "rows.parquet"]);
        let read = glm_batch::read_part(&job.path("rows.parquet")).unwrap();
        let read: Vec<Value> = read.map(|row| Value::Object(row.unwrap())).collect();
        assert_eq!(read, expected, "{format}");
        for (to, file) in [("csv", "rows.csv"), ("tsv", "rows.tsv")] {
            exported(&job, &["--to", to, "--output", file]);
            texts.push(format!(
                "# {format} --to {to}\n{}\n",
                std::fs::read_to_string(job.path(file)).unwrap()
            ));
        }
        let (wanted, said) = exported(&job, &["--to", "jsonl", "--where", "row == 1"]);
        assert_eq!(values(&wanted), expected[2..4]);
        assert!(said.ends_with("left out: 9 lines by `--where`\n"), "{said}");
        exported(
            &job,
            &[
                "--to",
                "parquet",
                "--where",
                "row == 1",
                "--output",
                "one.parquet",
            ],
        );
        let read = glm_batch::read_part(&job.path("one.parquet")).unwrap();
        let read: Vec<Value> = read.map(|row| Value::Object(row.unwrap())).collect();
        assert_eq!(read, expected[2..4]);
    }
    insta::assert_snapshot!(texts.concat());
}

/// The schema of a Parquet file with all its annotations.
pub fn schema_of(path: &Path) -> String {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    let reader = SerializedFileReader::new(std::fs::File::open(path).unwrap()).unwrap();
    let mut text = Vec::new();
    parquet::schema::printer::print_schema(&mut text, reader.metadata().file_metadata().schema());
    String::from_utf8(text).unwrap()
}

#[test]
fn columns_of_every_type_are_exported() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cases");
    let mut inputs: Vec<_> = std::fs::read_dir(cases)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    inputs.sort();
    // Gigabytes, once its rows no longer share their text.
    inputs.retain(|path| !path.ends_with("long-repeated-text.parquet"));
    let mut exported_files = 0;
    for (input, format) in inputs
        .iter()
        .flat_map(|input| [(input, "jsonl"), (input, "parquet")])
    {
        let more = format!(
            "format = \"{format}\"\n[prompt]\nmax_length = 96\ntemplate = \"法国的首都是哪座城市？\"\n[generation]\nmax_new_tokens = 2\n"
        );
        let job = Job::of_model(&demo_model(), input, "", &more);
        if job.run(&["--quiet"]).status.code() != Some(0) {
            continue;
        }
        let expected = job.rows();
        let (lines, _) = exported(&job, &["--to", "jsonl"]);
        assert_eq!(values(&lines).len(), expected.len(), "{}", input.display());
        exported(&job, &["--to", "csv", "--output", "rows.csv"]);
        exported(&job, &["--to", "parquet", "--output", "rows.parquet"]);
        let read = glm_batch::read_part(&job.path("rows.parquet")).unwrap();
        let read: Vec<Value> = read.map(|row| Value::Object(row.unwrap())).collect();
        exported_files += 1;
        if format == "parquet" {
            assert_eq!(read, expected, "{}", input.display());
            let [(part, _), ..] = &job.files("parts")[..] else {
                panic!("{}: no part", input.display());
            };
            let part = job.path("out/parts").join(part);
            assert_eq!(
                schema_of(&job.path("rows.parquet")),
                schema_of(&part),
                "{}",
                input.display()
            );
            continue;
        }
        let plain = |rows: &[Value]| -> Vec<[Value; 3]> {
            let of_row = |row: &Value| ["row", "id", "completion"].map(|name| row[name].clone());
            rows.iter().map(of_row).collect()
        };
        assert_eq!(plain(&read), plain(&expected), "{}", input.display());
    }
    assert!(exported_files >= 20, "{exported_files}");
}

#[test]
fn what_filters_leave_out_is_counted() {
    let job = generated("jsonl", "");
    let rows = job.rows();
    let ok: Vec<&Value> = rows.iter().filter(|row| row["status"] == "ok").collect();
    let number = |row: &Value, name: &str| row[name].as_f64().unwrap();
    let mean = |row: &Value| number(row, "logprob") / number(row, "completion_tokens");
    let mut means: Vec<f64> = ok.iter().map(|row| mean(row)).collect();
    means.sort_by(f64::total_cmp);
    let least = means[4];
    let at_least = ok.iter().filter(|row| mean(row) >= least).count();
    let short = ok
        .iter()
        .filter(|row| number(row, "completion_tokens") <= 5.0)
        .count();
    let stopped = ok
        .iter()
        .filter(|row| row["finish_reason"] == "stop")
        .count();
    let least = least.to_string();
    for (args, kept, name) in [
        (["--min-logprob", &least], at_least, "--min-logprob"),
        (
            ["--max-completion-tokens", "5"],
            short,
            "--max-completion-tokens",
        ),
        (["--finish", "stop"], stopped, "--finish"),
    ] {
        assert!(
            kept > 0 && kept < ok.len(),
            "{args:?} leaves {kept} of {}",
            ok.len()
        );
        for to in ["messages", "jsonl"] {
            let (lines, said) = exported(&job, &[&["--to", to], &args[..]].concat());
            assert_eq!(values(&lines).len(), kept, "{args:?} {to}: {said}");
            let left = ok.len() - kept;
            let answers = if left == 1 { "answer" } else { "answers" };
            let words = format!("left out: {left} {answers} by `{name}`\n");
            assert!(said.contains(&words), "{said}");
            assert!(said.contains("left out: 1 row that failed\n"), "{said}");
        }
    }
}

#[test]
fn an_answer_to_a_prompt_comes_once_where_that_is_asked_for() {
    let more = "format = \"jsonl\"\n[prompt]\nmax_length = 96\n[generation]\nmax_new_tokens = 12\n";
    let columns = "columns = { prompt = \"question\", prefix = \"prefix\" }";
    let job = Job::of_model(&demo_model(), Path::new("in.jsonl"), columns, more);
    let row =
        |question: &str, prefix: &str| json!({"question": question, "prefix": prefix}).to_string();
    let rows = [
        row("法国的首都是哪座城市？", "答案："),
        row("德国的首都是哪座城市？", "答案："),
        row("法国的首都是哪座城市？", "答案："),
        row("法国的首都是哪座城市?", " 答案："),
        row("法国的首都是哪座城市？", ""),
    ];
    std::fs::write(job.path("in.jsonl"), rows.join("\n") + "\n").unwrap();
    job.run_ok(&["--quiet"]);
    assert_eq!(job.rows()[0]["completion"], job.rows()[3]["completion"]);
    for to in ["messages", "rlhf", "jsonl"] {
        let (lines, said) = exported(&job, &["--to", to, "--dedup"]);
        assert_eq!(values(&lines).len(), 3, "{said}");
        assert!(
            said.contains("left out: 2 duplicates by `--dedup`\n"),
            "{said}"
        );
    }
}

/// The lines of the document are what comes out.
#[test]
fn the_document_shows_real_lines_of_every_format() {
    let text = include_str!("../../docs/EXPORT.md");
    let more = "format = \"jsonl\"\n[prompt]\nmax_length = 96\n[generation]\nmax_new_tokens = 24\n";
    let answers = Job::of_model(&demo_model(), Path::new("in.jsonl"), COLUMNS, more);
    questions(&answers, 4);
    answers.run_ok(&["--quiet"]);
    let (judged, pairs) = (rewarded("jsonl"), scored("jsonl"));
    let mut lines = Vec::new();
    for (job, args) in [
        (&answers, &["--to", "rlhf"][..]),
        (&judged, &["--to", "rlhf"]),
        (&answers, &["--to", "trl-prompt-completion"]),
        (
            &answers,
            &["--to", "trl-prompt-completion", "--conversational"],
        ),
        (&pairs, &["--to", "trl-preference"]),
        (&pairs, &["--to", "trl-unpaired"]),
        (&answers, &["--to", "alpaca"]),
        (&answers, &["--to", "sharegpt"]),
        (&answers, &["--to", "messages"]),
        (&answers, &["--to", "openai-batch"]),
        (&answers, &["--to", "jsonl"]),
    ] {
        let (written, _) = exported(job, args);
        let name = args
            .get(2)
            .map_or(format!("`{}`", args[1]), |flag| format!("with `{flag}`"));
        lines.push(format!(
            "| {name} | `{}` |\n",
            written.lines().next().unwrap()
        ));
    }
    for line in lines {
        assert!(text.contains(&line), "docs/EXPORT.md lacks {line}");
    }
    let help = glm_batch::cli::command();
    let export = help
        .get_subcommands()
        .find(|one| one.get_name() == "export")
        .unwrap();
    for flag in export.get_arguments().filter_map(|one| one.get_long()) {
        let is_named = flag == "help" || text.contains(&format!("--{flag}"));
        assert!(is_named, "docs/EXPORT.md lacks --{flag}");
    }
}

/// Refusals, each before anything is written.
#[test]
fn what_cannot_be_exported_is_refused_with_a_cure() {
    let job = generated("jsonl", "");
    let choices = chosen("jsonl");
    let scores = of_task(
        "score",
        "",
        "columns = { prompt = \"question\", target = \"answer\" }",
        &[json!({"question": "法国的首都是哪座城市？", "answer": "巴黎"})],
        "jsonl",
    );
    let pairs = scored("jsonl");
    std::fs::write(job.path("there.jsonl"), "mine").unwrap();
    let mut texts = Vec::new();
    for (job, args) in [
        (&choices, &["--to", "rlhf"][..]),
        (&choices, &["--to", "trl-preference"]),
        (&scores, &["--to", "trl-preference"]),
        (&scores, &["--to", "openai-batch"]),
        (&job, &["--to", "trl-preference"]),
        (&job, &["--to", "trl-unpaired"]),
        (&job, &["--to", "messages", "--label", "sample == 0"]),
        (&job, &["--to", "rlhf", "--conversational"]),
        (&job, &["--to", "rlhf", "--prompt-template", "x"]),
        (&job, &["--to", "messages", "--margin"]),
        (&scores, &["--to", "jsonl", "--margin"]),
        (&pairs, &["--to", "trl-preference", "--margin"]),
        (&scores, &["--to", "jsonl", "--finish", "stop"]),
        (&choices, &["--to", "jsonl", "--min-logprob", "-1"]),
        (&job, &["--to", "jsonl", "--finish", "eos"]),
        (&job, &["--to", "jsonl", "--where", "complet == 1"]),
        (&job, &["--to", "jsonl", "--where", "completion_tokens"]),
        (&job, &["--to", "trl-unpaired", "--label", "score > 1"]),
        (&job, &["--to", "trl-unpaired", "--label", "sample > 'x'"]),
        (
            &job,
            &["--to", "messages", "--prompt-template", "{{ questio }}"],
        ),
        (
            &job,
            &["--to", "messages", "--prompt-template", "{{ prompt"],
        ),
        (&job, &["--to", "parquet"]),
        (&job, &["--to", "csv"]),
        (&job, &["--to", "csv", "--output", "rows.jsonl"]),
        (&job, &["--to", "rlhf", "--output", "rows.csv"]),
        (&job, &["--to", "rlhf", "--output", "rows"]),
        (&job, &["--to", "rlhf", "--output", "there.jsonl"]),
        (&job, &["--to", "rlhf", "--output", "out/x.jsonl"]),
        (&job, &["--to", "rlhf", "--output", "out"]),
        (&job, &["--to", "rlhf", "--output", "none/x.jsonl"]),
    ] {
        let output = export(job, args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", both(&output));
        assert!(output.stdout.is_empty(), "{}", both(&output));
        let root = job.folder.path().display().to_string();
        texts.push(format!(
            "# {}\n{}\n",
            args.join(" "),
            stderr(&output).replace(&root, "[job]")
        ));
    }
    insta::assert_snapshot!(texts.concat());
    let names: Vec<String> = crate::support::files_of(job.folder.path());
    assert_eq!(names, ["in.jsonl", "job.toml", "there.jsonl"]);
    assert_eq!(
        std::fs::read_to_string(job.path("there.jsonl")).unwrap(),
        "mine"
    );
}

#[test]
fn an_input_that_is_gone_or_changed_is_named_where_prompts_are_needed() {
    let job = generated("jsonl", "");
    let (lines, _) = exported(&job, &["--to", "messages"]);
    let path = job.path("in.jsonl");
    let bytes = std::fs::read(&path).unwrap();
    // The same bytes are the same file, whenever they were written.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(exported(&job, &["--to", "messages"]).0, lines);
    let changed = String::from_utf8(bytes)
        .unwrap()
        .replacen("法国", "英国", 1);
    std::fs::write(&path, &changed).unwrap();
    let refused = |what: &str| {
        let output = export(&job, &["--to", "messages", "--output", "x.jsonl"]);
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        let said = stderr(&output);
        assert!(said.contains("in.jsonl"), "{said}");
        assert!(said.contains(what), "{said}");
        assert!(said.contains("hint: put the file back as it was"), "{said}");
        assert!(!job.path("x.jsonl").exists());
    };
    refused("its bytes are others");
    std::fs::write(&path, changed + "\n").unwrap();
    refused("changed since the job read it");
    std::fs::remove_file(&path).unwrap();
    refused("cannot be read");
    // Rows and requests need no prompts; results that kept theirs do not need the input.
    exported(&job, &["--to", "jsonl"]);
    exported(&job, &["--to", "openai-batch"]);
    let kept = generated("jsonl", "prompt = true\n");
    std::fs::remove_file(kept.path("in.jsonl")).unwrap();
    assert_eq!(exported(&kept, &["--to", "messages"]).0, lines);
}

#[test]
fn an_unfinished_job_gives_what_it_has_and_says_so() {
    let job = generated("jsonl", "");
    // The second of two windows is taken out.
    let damage = job.path("out/parts/part-000001.jsonl");
    let part = std::fs::read(&damage).unwrap();
    std::fs::write(&damage, &part[1..]).unwrap();
    let output = export(&job, &["--to", "jsonl", "--output", "x.jsonl"]);
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    assert!(
        stderr(&output).contains("part-000001.jsonl"),
        "{}",
        both(&output)
    );
    assert!(!job.path("x.jsonl").exists());
    job.command(&["verify", "out", "--repair"])
        .output()
        .unwrap();
    let (lines, said) = exported(&job, &["--to", "jsonl"]);
    assert_eq!(values(&lines).len(), 7);
    assert!(
        said.contains("note: the job is not finished: these are the rows of 1 of its 2 windows"),
        "{said}"
    );
    let empty = Job::of_model(&demo_model(), Path::new("in.jsonl"), COLUMNS, GENERATE);
    let output = export(&empty, &["--to", "jsonl"]);
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
}

#[test]
fn the_cure_for_a_lacking_label_names_a_column_that_is_there() {
    let row = json!({"question": "法国的首都是哪座城市？", "good": "巴黎"});
    let columns = "columns = { prompt = \"question\", target = \"good\" }";
    let job = of_task("score", "", columns, &[row], "jsonl");
    let output = export(&job, &["--to", "trl-unpaired"]);
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    assert!(
        stderr(&output).contains("--label \"mean_logprob > -1\""),
        "{}",
        both(&output)
    );
    exported(
        &job,
        &["--to", "trl-unpaired", "--label", "mean_logprob > -1"],
    );
}
