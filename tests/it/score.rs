//! `task = "score"`: whole jobs, the reference's values, bad rows, what is refused.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Job, both, demo_model, demo_questions, shared, stderr};

const COLUMNS: &str =
    "columns = { prompt = \"question\", prefix = \"prefix\", target = \"answer\" }";

/// A job that scores; `more` begins inside `[output]`.
fn job(model: &Path, input: &Path, columns: &str, more: &str) -> Job {
    let job = Job::of_model(model, input, columns, more);
    let path = job.path("job.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        text.replacen("name =", "task = \"score\"\nname =", 1),
    )
    .unwrap();
    job
}

fn demo(columns: &str, more: &str) -> Job {
    job(&demo_model(), &demo_questions(), columns, more)
}

/// A job over rows that are written here.
fn over(rows: &[Value], columns: &str, more: &str) -> Job {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.keep().join("in.jsonl");
    let lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
    std::fs::write(&input, lines.join("\n")).unwrap();
    job(&demo_model(), &input, columns, more)
}

fn floats(value: &Value) -> Vec<f64> {
    let items = value.as_array().unwrap().iter();
    items.map(|item| item.as_f64().unwrap()).collect()
}

fn near(a: &Value, b: f64, tolerance: f64) -> bool {
    (a.as_f64().unwrap() - b).abs() <= tolerance
}

#[test]
fn an_answer_that_was_generated_is_scored_as_it_was_generated() {
    let more = "format = \"jsonl\"\n[prompt]\nmax_length = 96\n";
    let answered = Job::new(
        &demo_questions(),
        &format!("{more}[generation]\nmax_new_tokens = 24\nlogprobs = true\n"),
    );
    answered.run_ok(&["--quiet"]);
    let answers = answered.rows();
    let scored = demo(COLUMNS, &format!("{more}[score]\ntoken_logprobs = true\n"));
    let output = scored.run_ok(&[]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("scored") && text.contains("perplexity"),
        "{text}"
    );
    let rows = scored.rows();
    assert_eq!(rows.len(), answers.len());
    let mut same = 0;
    for (row, answer) in rows.iter().zip(&answers) {
        assert_eq!(
            (&row["status"], &row["sample"]),
            (&json!("ok"), &json!(0)),
            "{row}"
        );
        let each = floats(&row["token_logprobs"]);
        let sum: f64 = each.iter().sum();
        assert_eq!(row["target_tokens"], each.len());
        assert!(near(&row["logprob"], sum, 1e-5));
        let mean = sum / each.len() as f64;
        assert!(near(&row["mean_logprob"], mean, 1e-5));
        let perplexity = (-mean).exp();
        assert!(near(&row["perplexity"], perplexity, 1e-5 * perplexity));
        if answer["completion"] != answer["answer"] {
            assert_eq!(row["is_greedy"], false, "{row}");
            continue;
        }
        same += 1;
        assert_eq!(row["is_greedy"], true, "{row}");
        assert_eq!(row["prompt_tokens"], answer["prompt_tokens"]);
        let generated = floats(&answer["token_logprobs"]);
        assert_eq!(each.len(), generated.len());
        for (now, then) in each.iter().zip(&generated) {
            assert!((now - then).abs() < 1e-4, "{row} {answer}");
        }
    }
    assert!(
        same > rows.len() / 2,
        "{same} of {} answers are right",
        rows.len()
    );
}

#[test]
fn the_ending_token_counts_where_it_is_asked_for() {
    let more = "format = \"jsonl\"\n[prompt]\nmax_length = 96\n[score]\ntoken_logprobs = true\n";
    let with = demo(COLUMNS, more);
    with.run_ok(&["--quiet"]);
    let without = demo(COLUMNS, &format!("{more}ending = false\n"));
    without.run_ok(&["--quiet"]);
    for (with, without) in with.rows().iter().zip(without.rows()) {
        let mut all = floats(&with["token_logprobs"]);
        all.pop();
        assert_eq!(all, floats(&without["token_logprobs"]), "{with} {without}");
    }
}

/// Lists of texts and of objects, and several columns; flat and nested; both formats.
#[test]
fn a_row_may_have_several_targets() {
    let rows = [
        json!({"q": "法国的首都是哪座城市？", "a": "巴黎", "b": "伦敦", "t": ["巴黎", "伦敦"], "s": [{"answer": "伦敦", "score": 1}]}),
        json!({"q": "德国的首都是哪座城市？", "a": "柏林", "b": "巴黎", "t": ["柏林"], "s": [{"answer": "巴黎", "score": 2}, {"answer": "柏林"}]}),
    ];
    let columns = |target: &str| format!("columns = {{ prompt = \"q\", target = {target} }}");
    for format in ["jsonl", "parquet"] {
        let more =
            format!("format = \"{format}\"\ncolumns = \"none\"\n[prompt]\nprefix = \"答案：\"\n");
        let flat = over(&rows, &columns("\"t\""), &more);
        flat.run_ok(&["--quiet"]);
        let flat = flat.rows();
        let places: Vec<_> = flat
            .iter()
            .map(|row| (&row["row"], &row["sample"]))
            .collect();
        assert_eq!(
            places,
            [
                (&json!(0), &json!(0)),
                (&json!(0), &json!(1)),
                (&json!(1), &json!(0))
            ]
        );
        assert_eq!(flat[0]["is_greedy"], true);
        assert_eq!(flat[1]["is_greedy"], false);

        let more = more.replacen("columns", "samples = \"nested\"\ncolumns", 1);
        let nested = over(&rows, &columns("\"t\""), &more);
        nested.run_ok(&["--quiet"]);
        let nested = nested.rows();
        assert_eq!(nested.len(), 2);
        assert!(nested[0].get("sample").is_none());
        assert_eq!(
            nested[0]["logprob"],
            json!([flat[0]["logprob"], flat[1]["logprob"]])
        );
        assert_eq!(
            nested[1]["target_tokens"],
            json!([flat[2]["target_tokens"]])
        );

        let objects = over(&rows, &columns("\"s\""), &more);
        objects.run_ok(&["--quiet"]);
        let objects = objects.rows();
        assert_eq!(objects[0]["logprob"], json!([flat[1]["logprob"]]));
        assert_eq!(objects[1]["logprob"][1], flat[2]["logprob"]);

        // Several columns are lists in their order, whatever the layout.
        let more = more.replacen("samples = \"nested\"\n", "", 1);
        let several = over(&rows, &columns("[\"b\", \"a\"]"), &more);
        several.run_ok(&["--quiet"]);
        let several = several.rows();
        assert_eq!(several.len(), 2);
        assert_eq!(
            several[0]["logprob"],
            json!([flat[1]["logprob"], flat[0]["logprob"]])
        );
        assert_eq!(several[0]["is_greedy"], json!([false, true]));
    }
}

const BATCHED: &str = "format = \"FORMAT\"\n[prompt]\nmax_length = 96\n[score]\ntoken_logprobs = true\n[batch]\nmax_batch_size = SIZE\nwindow_rows = 50\n[checkpoint]\ninterval_seconds = 0.05\n";

#[test]
fn the_bytes_depend_neither_on_the_batch_nor_on_shards_nor_on_kills() {
    for format in ["jsonl", "parquet"] {
        let more = |size: &str| BATCHED.replace("FORMAT", format).replace("SIZE", size);
        let unbroken = demo(COLUMNS, &more("7"));
        let started = Instant::now();
        unbroken.run_ok(&["--quiet"]);
        let took = started.elapsed();
        let parts = unbroken.files("parts");
        assert!(parts.len() > 1);
        for size in ["1", "64"] {
            let other = demo(COLUMNS, &more(size));
            other.run_ok(&["--quiet"]);
            assert!(other.files("parts") == parts, "{format}, batches of {size}");
        }
        let sharded = demo(COLUMNS, &more("64"));
        let sharded_set = ["--quiet", "--set", "shards=3"];
        for shard in ["0/3", "1/3", "2/3"] {
            sharded.run_ok(&[&sharded_set[..], &["--shard", shard]].concat());
        }
        assert!(sharded.files("parts") == parts, "{format}: shards");

        let killed = demo(COLUMNS, &more("7"));
        for tenth in 1..=10 {
            kill_after(&killed, took * tenth / 11);
        }
        let last = killed.run_ok(&["--quiet"]);
        assert!(!stderr(&last).contains("journal"), "{}", both(&last));
        assert!(killed.files("parts") == parts, "{format}: killed");
        let verified = killed.command(&["verify", "out"]).output().unwrap();
        assert_eq!(verified.status.code(), Some(0), "{}", both(&verified));
    }
}

pub(crate) fn kill_after(job: &Job, time: Duration) {
    let mut command = job.command(&["run", "job.toml", "--quiet"]);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let until = Instant::now() + time;
    while Instant::now() < until && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    // SIGKILL; a process that has ended already is no matter.
    let _ = child.kill();
    child.wait().unwrap();
}

#[test]
fn a_row_without_a_target_that_fits_fails_with_its_reason() {
    let long = "长".repeat(60);
    let rows = [
        json!({"q": "一？", "a": "一"}),
        json!({"q": "二？"}),
        json!({"q": "三？", "a": null}),
        json!({"q": "四？", "a": ""}),
        json!({"q": "五？", "a": []}),
        json!({"q": "六？", "a": ["六", ""]}),
        json!({"q": "七？", "a": [{"text": "七"}]}),
        json!({"q": "八？", "a": {"answer": "八"}}),
        json!({"q": "九？", "a": 9}),
        json!({"q": "十？", "a": long}),
        json!({"q": "十一？", "a": ["一", long]}),
        json!({"q": "十二？", "a": ["一", 2]}),
    ];
    let more = "format = \"jsonl\"\ncolumns = \"none\"\n[prompt]\nmax_length = 60\n[score]\nmax_target_tokens = 20\n";
    let columns = "columns = { prompt = \"q\", target = \"a\" }";
    let failing = over(&rows, columns, more);
    let planned = failing.command(&["plan", "job.toml"]).output().unwrap();
    let plan = String::from_utf8_lossy(&planned.stdout).into_owned();
    assert!(plan.contains("bad rows    11"), "{}", both(&planned));
    failing.run_ok(&["--quiet"]);
    let reasons: Vec<String> = failing
        .rows()
        .iter()
        .map(|row| row["error"].as_str().unwrap_or("ok").to_owned())
        .collect();
    insta::assert_snapshot!(reasons.join("\n"));
    let cut = over(
        &rows[9..10],
        columns,
        &format!("{more}target_overflow = \"cut\"\n"),
    );
    cut.run_ok(&["--quiet"]);
    assert_eq!(cut.rows()[0]["target_tokens"], 20);
}

#[test]
fn what_belongs_to_another_task_is_refused() {
    let mut texts = Vec::new();
    let rows = [json!({"q": "一？", "a": "一"})];
    let columns = "columns = { prompt = \"q\", target = \"a\" }";
    let mut refuse = |job: &Job, args: &[&str]| {
        let output = job.run(args);
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        texts.push(stderr(&output));
    };
    refuse(
        &over(&rows, columns, "[generation]\nmax_new_tokens = 3\n"),
        &[],
    );
    refuse(&over(&rows, "columns = { prompt = \"q\" }", ""), &[]);
    refuse(
        &over(
            &rows,
            "columns = { prompt = \"q\", target = \"a\", reference = \"a\" }",
            "",
        ),
        &[],
    );
    refuse(&over(&rows, columns, "token_ids = true\n"), &[]);
    refuse(
        &over(&rows, columns, ""),
        &["--set", "score.method=whole-text"],
    );
    let whole = "[score]\nmethod = \"whole-text\"\n";
    for idle in [
        "score.ending=false",
        "score.max_target_tokens=9",
        "score.target_overflow=cut",
    ] {
        let job = over(&rows, "columns = { prompt = \"q\" }", whole);
        refuse(&job, &["--set", idle]);
    }
    refuse(
        &over(&rows, columns, ""),
        &["--set", "score.method=letters"],
    );
    refuse(
        &over(&rows, columns, ""),
        &["--set", "score.max_target_tokens=600"],
    );
    refuse(
        &over(&rows, "columns = { prompt = \"q\", target = \"b\" }", ""),
        &[],
    );
    refuse(
        &over(&rows, "columns = { prompt = \"q\", target = [] }", ""),
        &[],
    );
    refuse(
        &over(
            &rows,
            "columns = { prompt = \"q\", target = [\"a\", \"a\"] }",
            "",
        ),
        &[],
    );
    refuse(&over(&rows, columns, ""), &["--set", "task=generate"]);
    refuse(
        &over(&rows, "columns = { prompt = \"q\" }", ""),
        &["--set", "task=generate", "--set", "score.ending=false"],
    );
    insta::assert_snapshot!(texts.join("---\n"));
}

/// Another task is another job: its folder is refused, and so are other settings of the same task.
#[test]
fn a_folder_goes_on_only_with_its_own_task_and_settings() {
    let rows = [json!({"q": "一？", "a": "一"})];
    let job = over(
        &rows,
        "columns = { prompt = \"q\", target = \"a\" }",
        "format = \"jsonl\"\n",
    );
    job.run_ok(&["--quiet"]);
    let record = std::fs::read_to_string(job.path("out/job.json")).unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["version"], "3");
    assert_eq!(record["spec"]["task"], "score");
    assert_eq!(record["spec"]["score"]["method"], "target");
    let again = job.run_ok(&[]);
    assert!(stderr(&again).contains("nothing left") || both(&again).contains("finished"));
    let other = job.run(&["--set", "score.ending=false"]);
    assert_eq!(other.status.code(), Some(2), "{}", both(&other));
    assert!(
        stderr(&other).contains("`score.ending` was `true`, is now `false`"),
        "{}",
        both(&other)
    );
    for args in [
        vec!["show", "out"],
        vec!["status", "out"],
        vec!["verify", "out"],
    ] {
        let output = job.command(&args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    }
    let filtered = job
        .command(&["show", "out", "--where", "logprob < 0"])
        .output()
        .unwrap();
    assert_eq!(filtered.status.code(), Some(0), "{}", both(&filtered));
    let card = std::fs::read_to_string(job.path("out/README.md")).unwrap();
    assert!(card.contains("perplexity"), "{card}");
}

/// The reference's values through the whole pipeline, in batches of three sizes.
#[test]
fn the_values_are_those_of_the_reference() {
    let (Some(goldens), Some(model)) = (
        shared("fixtures/glm-tiny-zh/tasks/score.jsonl"),
        shared("fixtures/glm-tiny-zh"),
    ) else {
        return;
    };
    let text = std::fs::read_to_string(&goldens).unwrap();
    let expected: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(expected.len(), 160);
    let columns = "columns = { prompt = \"prompt\", prefix = \"prefix\", target = \"target\" }";
    let more = "format = \"jsonl\"\ncolumns = [\"max_context\"]\n[prompt]\nmax_length = 228\n[score]\nmax_target_tokens = 100\ntarget_overflow = \"cut\"\ntoken_logprobs = true\n";
    let mut parts = Vec::new();
    for size in [1, 7, 64] {
        let scored = job(
            &model,
            &goldens,
            columns,
            &format!("{more}[batch]\nmax_batch_size = {size}\n"),
        );
        scored.run_ok(&["--quiet"]);
        parts.push(scored.files("parts"));
        if size != 64 {
            continue;
        }
        for (row, golden) in scored.rows().iter().zip(&expected) {
            let id = &golden["id"];
            assert_eq!(
                row["prompt_tokens"],
                golden["context_ids"].as_array().unwrap().len(),
                "{id}"
            );
            let (got, want) = (
                floats(&row["token_logprobs"]),
                floats(&golden["token_logprobs"]),
            );
            assert_eq!(got.len(), want.len(), "{id}");
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want).abs() < 2e-4, "{id}: {got} {want}");
            }
            let sum = golden["sum_with_end"].as_f64().unwrap();
            assert!(
                near(&row["logprob"], sum, 5e-4),
                "{id}: {} {sum}",
                row["logprob"]
            );
            let perplexity = golden["perplexity_with_end"].as_f64().unwrap();
            assert!(
                near(&row["perplexity"], perplexity, 1e-4 * perplexity),
                "{id}"
            );
        }
    }
    assert!(parts[0] == parts[1] && parts[1] == parts[2]);
    let without = job(
        &model,
        &goldens,
        columns,
        &format!("{more}ending = false\n"),
    );
    without.run_ok(&["--quiet"]);
    for (row, golden) in without.rows().iter().zip(&expected) {
        let sum = golden["sum_without_end"].as_f64().unwrap();
        assert!(
            near(&row["logprob"], sum, 5e-4),
            "{}: {} {sum}",
            golden["id"],
            row["logprob"]
        );
    }
}

/// The prompts of the reference's evaluations by perplexity, with one softmax.
#[test]
fn whole_texts_have_the_perplexity_of_the_reference() {
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
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("in.jsonl");
        let lines: Vec<String> = prompts
            .iter()
            .map(|prompt| json!({"prompt": prompt["prompt"]}).to_string())
            .collect();
        std::fs::write(&input, lines.join("\n")).unwrap();
        let length = golden["max_length"].as_u64().unwrap();
        let more = format!(
            "format = \"jsonl\"\n[prompt]\nmax_length = {length}\n[score]\nmethod = \"whole-text\"\n"
        );
        let scored = job(&model, &input, "columns = { prompt = \"prompt\" }", &more);
        scored.run_ok(&["--quiet"]);
        for (row, prompt) in scored.rows().iter().zip(prompts) {
            assert_eq!(
                row["target_tokens"], prompt["tokens_counted"],
                "{task}: {prompt}"
            );
            let want = prompt["ppl_single_softmax"].as_f64().unwrap();
            assert!(
                near(&row["perplexity"], want, 1e-4 * want),
                "{task}: {row} {want}"
            );
            compared += 1;
        }
    }
    assert!(compared > 100, "{compared}");
}
