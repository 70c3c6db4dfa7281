//! What the program prints, whole outputs, paths and times filtered.

use std::process::Command;

use glm_batch_kernels::Storage;
use serde_json::{Value, json};

use crate::support::{Job, both, demo_model, demo_questions, shared, some_questions, stderr};

const MORE: &str =
    "format = \"jsonl\"\n[prompt]\nmax_length = 96\n[generation]\nmax_new_tokens = 24\n";

/// An output with everything replaced that differs from run to run.
fn filtered(job: &Job, text: &str) -> String {
    let root = job.folder.path().display().to_string();
    let project = env!("CARGO_MANIFEST_DIR");
    let text = text.replace(&root, "[job]").replace(project, "[project]");
    let lines: Vec<&str> = text
        .lines()
        .map(|line| {
            if line.contains("if every answer has its full length") {
                "  time        [time]"
            } else {
                line
            }
        })
        .collect();
    lines.join("\n")
}

fn refused(job: &Job, args: &[&str]) -> String {
    let output = job.run(args);
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    assert!(output.stdout.is_empty(), "{}", both(&output));
    filtered(job, &stderr(&output))
}

#[test]
fn every_message_names_place_and_cure() {
    let folder = tempfile::tempdir().unwrap();
    let input = some_questions(folder.path(), 3);
    let job = Job::new(&input, MORE);
    let mut texts = Vec::new();
    for (what, args) in [
        ("unknown key", vec!["--set", "generation.topp=0.9"]),
        ("wrong type", vec!["--set", "generation.top_p=high"]),
        ("no model", vec!["--set", "model.path=nowhere"]),
        ("no input", vec!["--set", "input.path=nowhere.jsonl"]),
        ("empty folder", vec!["--set", "input.path=."]),
        (
            "missing column",
            vec!["--set", "input.columns.prompt=questoin"],
        ),
        (
            "missing result column",
            vec!["--set", "output.columns=[qestion]"],
        ),
        ("template", vec!["--set", "prompt.template={{ question"]),
        (
            "missing column in a template",
            vec!["--set", "prompt.template={{ questoin }}"],
        ),
        (
            "no room for a prompt",
            vec!["--set", "generation.max_new_tokens=96"],
        ),
        ("wrong shard", vec!["--shard", "0/2"]),
    ] {
        texts.push(format!("# {what}\n{}", refused(&job, &args)));
    }
    insta::assert_snapshot!(texts.join("\n"));
}

#[test]
fn plan_refuses_the_result_columns_that_run_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let job = Job::new(&some_questions(folder.path(), 3), MORE);
    for (set, named) in [
        ("output.columns=[quest]", "did you mean `question`?"),
        ("output.rename={ id = \"x\" }", "written as `id`"),
    ] {
        let plan = job.command(&["plan", "job.toml", "--set", set]).output();
        let plan = plan.unwrap();
        assert_eq!(plan.status.code(), Some(2), "{}", both(&plan));
        assert!(stderr(&plan).contains(named), "{}", both(&plan));
        assert_eq!(stderr(&plan), stderr(&job.run(&["--set", set])));
    }
}

#[test]
fn a_column_that_is_missing_is_named_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let input = some_questions(folder.path(), 3);
    let columns = "columns = { prompt = \"questoin\" }";
    let job = Job::of_model(&demo_model(), &input, columns, MORE);
    let text = refused(&job, &[]);
    assert!(
        text.starts_with("error: job.toml:8: no row has the column `questoin`"),
        "{text}"
    );
}

#[test]
fn a_model_folder_with_a_file_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let input = some_questions(folder.path(), 3);
    let mut texts = Vec::new();
    for missing in ["config.json", "model.safetensors", "tokenizer.json"] {
        let model = folder.path().join(missing.replace('.', "-"));
        std::fs::create_dir(&model).unwrap();
        for entry in std::fs::read_dir(demo_model()).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap() != missing {
                std::fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
            }
        }
        let job = Job::of_model(&model, &input, "columns = { prompt = \"question\" }", MORE);
        let text = refused(&job, &[]);
        texts.push(format!(
            "# {missing}\n{}",
            text.replace(&folder.path().display().to_string(), "[models]")
        ));
    }
    insta::assert_snapshot!(texts.join("\n"));
}

#[test]
fn a_weight_file_cut_short_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let input = some_questions(folder.path(), 3);
    for entry in std::fs::read_dir(demo_model()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let weights = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let job = Job::of_model(
        folder.path(),
        &input,
        "columns = { prompt = \"question\" }",
        MORE,
    );
    let text = refused(&job, &[]);
    assert!(text.contains("model.safetensors"), "{text}");
}

#[test]
fn bad_rows_are_recorded_and_good_ones_answered() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("mixed.jsonl");
    let lines = [
        "{\"question\": \"3+5等于几？\", \"prefix\": \"答案：\"}",
        "{\"question\": \"\"}",
        "not json",
        "",
        "{\"question\": 7}",
        "{\"question\": \"法国的首都是哪里？\", \"prefix\": \"答案：\"}",
    ];
    std::fs::write(&input, lines.join("\n")).unwrap();
    let job = Job::new(&input, MORE);
    job.run_ok(&[]);
    let rows = job.rows();
    let numbers: Vec<i64> = rows
        .iter()
        .map(|row| row["row"].as_i64().unwrap())
        .collect();
    assert_eq!(numbers, [0, 1, 3, 4]);
    let failed = String::from_utf8(job.files("failed")[0].1.clone()).unwrap();
    insta::assert_snapshot!(failed.replace(&folder.path().display().to_string(), "[input]"));
    let stopped = Job::new(&input, MORE);
    let text = refused(&stopped, &["--set", "input.on_bad_row=stop"]);
    insta::assert_snapshot!(text.replace(&folder.path().display().to_string(), "[input]"));
    let limited = Job::new(&input, MORE);
    let output = limited.run(&["--set", "output.max_failed=1"]);
    assert_eq!(output.status.code(), Some(3), "{}", both(&output));
    limited.run_ok(&["--set", "output.max_failed=3"]);
}

#[test]
fn quiet_hides_progress_not_warnings() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("none.jsonl");
    std::fs::write(&input, "").unwrap();
    let job = Job::new(&input, MORE);
    let warned = job.run_ok(&["--quiet"]);
    let text = stderr(&warned);
    assert!(text.contains("warning: the input has no rows"), "{text}");
}

#[test]
fn bench_knows_the_words_of_other_tools() {
    let folder = tempfile::tempdir().unwrap();
    let job = Job::new(&some_questions(folder.path(), 1), MORE);
    for (option, word, meant) in [
        ("--dtype", "int8", "q8"),
        ("--dtype", "fp16", "f16"),
        ("--device", "gpu", "cuda"),
    ] {
        let output = job.command(&["bench", "model", option, word]).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        let text = stderr(&output);
        assert!(
            text.contains(&format!("hint: did you mean `{meant}`?")),
            "{text}"
        );
    }
}

#[test]
fn dirty_lines_each_give_what_they_must() {
    let (Some(input), Some(expected)) = (
        shared("data/dirty.jsonl"),
        shared("data/dirty.expected.json"),
    ) else {
        return;
    };
    let expected: serde_json::Value =
        serde_json::from_slice(&std::fs::read(expected).unwrap()).unwrap();
    let columns = "columns = { prompt = \"prompt\", prefix = \"prefix\" }";
    let more = "format = \"jsonl\"\n[prompt]\nmax_length = 96\n[generation]\nmax_new_tokens = 2\n";
    let job = Job::of_model(&demo_model(), &input, columns, more);
    job.run_ok(&[]);
    let ids: Vec<String> = job
        .rows()
        .iter()
        .filter(|row| row["status"] == "ok")
        .map(|row| row["id"].as_str().unwrap().to_owned())
        .collect();
    let plain = expected["ok_plain"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry[1]);
    let odd = expected["lines_not_plain"].as_array().unwrap();
    let odd = odd
        .iter()
        .filter(|line| line["class"] == "ok")
        .map(|line| &line["id"]);
    let mut wanted = 0;
    for id in plain.chain(odd).map(|id| id.as_str().unwrap()) {
        assert!(ids.iter().any(|found| found == id), "no result for `{id}`");
        wanted += 1;
    }
    assert_eq!(wanted, 109);
    let failed = String::from_utf8(job.files("failed")[0].1.clone()).unwrap();
    let lines: Vec<u64> = failed
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["line"]
                .as_u64()
                .unwrap()
        })
        .collect();
    for bad in expected["bad_lines"].as_array().unwrap() {
        assert!(
            lines.contains(&bad.as_u64().unwrap()),
            "line {bad} was not refused"
        );
    }
}

#[test]
fn plan_status_show_and_verify_speak_plainly() {
    let job = Job::new(
        &demo_questions(),
        &format!("{MORE}[batch]\nmax_batch_size = 8\nmax_batch_tokens = 4096\n"),
    );
    let plan = job.command(&["plan", "job.toml"]).output().unwrap();
    assert_eq!(plan.status.code(), Some(0), "{}", both(&plan));
    insta::assert_snapshot!(
        "plan",
        filtered(&job, &String::from_utf8_lossy(&plan.stdout))
    );
    assert!(!job.path("out").exists(), "`plan` wrote something");
    job.run_ok(&[]);
    for (name, args) in [
        ("status", vec!["status", "out"]),
        ("show", vec!["show", "out", "--limit", "2"]),
        (
            "show_where",
            vec!["show", "out", "--where", "completion_tokens > 8", "-n", "1"],
        ),
        ("verify", vec!["verify", "out"]),
    ] {
        let output = job.command(&args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", both(&output));
        insta::assert_snapshot!(
            name,
            filtered(&job, &String::from_utf8_lossy(&output.stdout))
        );
    }
}

#[test]
fn show_says_why_there_is_nothing_to_show() {
    let folder = tempfile::tempdir().unwrap();
    let job = Job::new(&some_questions(folder.path(), 5), MORE);
    job.run_ok(&[]);
    let show = |more: &[&str]| {
        let output = job.command(&[&["show", "out"], more].concat()).output();
        let output = output.unwrap();
        (output.status.code().unwrap(), stderr(&output))
    };
    assert_eq!(
        show(&["--where", "row > 9"]),
        (0, "no such row\n".to_owned())
    );
    for (filter, failed, cure) in [
        ("statsu == 'ok'", false, "did you mean `status`?"),
        (
            "wheels > 4",
            false,
            "these rows have `row`, `id`, `category`",
        ),
        ("reasn == ''", true, "did you mean `reason`?"),
        // A half-typed condition would show every row.
        ("category", false, "compare it, as in"),
    ] {
        let failed: &[&str] = if failed { &["--failed"] } else { &[] };
        let (code, text) = show(&[&["--where", filter], failed].concat());
        assert_eq!(code, 2, "{text}");
        assert!(text.contains(&format!("\nhint: {cure}")), "{text}");
    }
    // As an interrupted run leaves it: the job is there, and no window is complete.
    std::fs::remove_dir_all(job.path("out/manifest")).unwrap();
    let (code, text) = show(&[]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("no row is finished yet"), "{text}");
}

#[test]
fn standard_input_is_read_once_and_kept() {
    use std::io::Write;
    use std::process::Stdio;
    let job = Job::new(&demo_questions(), MORE);
    let mut child = job
        .command(&["run", "job.toml", "--quiet", "--set", "input.path=-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let questions = std::fs::read(demo_questions()).unwrap();
    child.stdin.take().unwrap().write_all(&questions).unwrap();
    assert!(child.wait().unwrap().success());
    let again = job
        .command(&["run", "job.toml", "--quiet", "--set", "input.path=-"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(again.status.code(), Some(0), "{}", both(&again));
}

#[test]
fn tokenize_prints_a_line_for_a_line() {
    use std::io::Write;
    use std::process::Stdio;
    let mut child = Command::new(env!("CARGO_BIN_EXE_glm-batch"))
        .arg("tokenize")
        .arg(demo_model())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = "{\"text\": \"3+5\", \"prefix\": \"答案：\"}\n{\"text\": \"3+5\", \"prefix\": null}\nrubbish\n";
    child
        .stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    let printed = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<serde_json::Value> = printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[0]["tokens"][0], "[CLS]");
    assert!(rows[0]["ids"].as_array().unwrap().len() > rows[1]["ids"].as_array().unwrap().len());
    assert_eq!(rows[2]["line"], 3);
}

#[test]
fn bench_measures_and_plan_and_run_stand_on_it() {
    let folder = tempfile::tempdir().unwrap();
    let job = Job::new(&some_questions(folder.path(), 40), MORE);
    let model = demo_model();
    let bench = |more: &[&str]| {
        let words = ["bench", model.to_str().unwrap(), "--batch", "1,32"];
        let steps = ["--context", "8", "--steps", "2"];
        let mut command = job.command(&[&words, &steps[..], more].concat());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", both(&output));
        output
    };
    let calibrated = |dtype: &str| {
        let dtype = format!("model.dtype={dtype}");
        let mut command = job.command(&["plan", "job.toml", "--json", "--set", &dtype]);
        let output = command.output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        report["calibrated"].as_bool().unwrap()
    };
    assert!(!calibrated("f32"));

    let output = bench(&["--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["batches"].as_array().unwrap().len(), 2);
    for batch in report["batches"].as_array().unwrap() {
        for rate in ["prefill", "decode", "products", "reading"] {
            assert!(batch[rate].as_f64().unwrap() > 0.0, "{batch}");
        }
    }
    let peaks = report["product_peaks"].as_array().unwrap();
    let storages: Vec<&str> = peaks
        .iter()
        .map(|peak| peak["storage"].as_str().unwrap())
        .collect();
    assert_eq!(storages, Storage::ALL.map(Storage::name));
    for peak in peaks {
        assert!(
            peak["operations_per_second"].as_f64().unwrap() > 0.0,
            "{peak}"
        );
    }
    assert!(calibrated("f32"));
    let output = job.run_ok(&["--verbose"]);
    assert!(both(&output).contains("by `bench`"), "{}", both(&output));

    // Other weights are another matter.
    assert!(!calibrated("q8"));
    let output = bench(&["--dtype", "q8"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("kept for `plan`"));
    assert!(calibrated("q8"));
}

/// Runs `bench` with a workload of these lines.
fn workload(job: &Job, lines: &[String], more: &[&str]) -> std::process::Output {
    std::fs::write(job.path("workload.jsonl"), lines.join("\n")).unwrap();
    let words = ["bench", "--workload", "workload.jsonl", "--device", "cpu"];
    let model = demo_model();
    let args = [&words, more, &[model.to_str().unwrap()]].concat();
    let temporary = job.path("tmp");
    std::fs::create_dir_all(&temporary).unwrap();
    let output = job.command(&args).env("TMPDIR", &temporary).output();
    let left = std::fs::read_dir(&temporary).unwrap().count();
    assert_eq!(left, 0, "the folder of the workload was left behind");
    output.unwrap()
}

/// Lines of a workload, and the length that each answer must have.
fn workload_lines(count: usize) -> (Vec<String>, Vec<u64>) {
    let lengths: Vec<u64> = (0..count as u64).map(|row| 1 + row * 7 % 40).collect();
    let line = |(row, out_len): (usize, &u64)| {
        let text = format!("{row}+{row}等于几？");
        json!({ "id": format!("p{row}"), "text": text, "prefix": "答案：", "out_len": out_len, "n": 1 })
            .to_string()
    };
    (lengths.iter().enumerate().map(line).collect(), lengths)
}

#[test]
fn a_workload_gets_answers_of_exactly_its_lengths() {
    let job = Job::new(&demo_questions(), MORE);
    let (mut lines, mut lengths) = workload_lines(40);
    lines.insert(3, String::new());
    lines.push(r#"{"prompt": "3+5等于几？", "out_len": 128}"#.to_owned());
    lengths.push(128);
    let output = workload(&job, &lines, &["--json", "--counts", "counts.jsonl"]);
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["wrong"], json!([]));
    let run = &report["run"];
    assert_eq!(run["finished"], true);
    assert_eq!(run["totals"]["ok"], 41);
    assert_eq!(
        run["totals"]["completion_tokens"],
        lengths.iter().sum::<u64>()
    );
    for time in ["wall", "prefill", "decode"] {
        assert!(run["times"][time].as_f64().unwrap() > 0.0, "{run}");
    }
    let counts = std::fs::read_to_string(job.path("counts.jsonl")).unwrap();
    let counts: Vec<Value> = counts
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let expected: Vec<Value> = lengths
        .iter()
        .enumerate()
        .map(|(row, tokens)| {
            let id = if row < 40 {
                format!("p{row}")
            } else {
                "40".to_owned()
            };
            json!({ "id": id, "n_tokens": tokens })
        })
        .collect();
    assert_eq!(counts, expected);
}

#[test]
fn a_workload_says_what_it_took() {
    let job = Job::new(&demo_questions(), MORE);
    let (lines, _) = workload_lines(12);
    let output = workload(&job, &lines, &["--dtype", "q8"]);
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"\d+\.\d+", "[n]");
    settings.add_filter(r"\d+ MiB", "[n] MiB");
    settings.add_filter(r"[\d,]+ tokens/s", "[n] tokens/s");
    settings.bind(|| insta::assert_snapshot!(String::from_utf8(output.stdout).unwrap()));
}

#[test]
fn a_line_that_is_no_row_of_a_workload_is_named() {
    let job = Job::new(&demo_questions(), MORE);
    let mut texts = Vec::new();
    for (what, line) in [
        ("not JSON", r#"{"text": "x", "out_len": 3"#),
        (
            "a field under another name",
            r#"{"text": "x", "outlen": 3}"#,
        ),
        ("no prompt", r#"{"id": "a", "out_len": 3}"#),
        ("a wrong type", r#"{"text": "x", "out_len": "three"}"#),
        ("too long an answer", r#"{"text": "x", "out_len": 129}"#),
        (
            "too long a prompt",
            &format!(r#"{{"text": "{}", "out_len": 3}}"#, "好".repeat(200)),
        ),
    ] {
        let lines = [r#"{"text": "3+5等于几？", "out_len": 3}"#, "", line].map(str::to_owned);
        let output = workload(&job, &lines, &[]);
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        assert!(output.stdout.is_empty(), "{}", both(&output));
        texts.push(format!("# {what}\n{}", stderr(&output)));
    }
    let output = workload(&job, &[], &[]);
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    texts.push(format!("# no rows\n{}", stderr(&output)));
    insta::assert_snapshot!(texts.join("\n"));
}
