//! `task = "reward"`: whole jobs, the reference's values, both forms of a reward model, bad rows, what is refused.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Job, both, demo_model, demo_questions, shared, stderr};

const HEAD: &str = "v_head.weight";

const COLUMNS: &str = "columns = { prompt = \"q\", answer = \"a\" }";

/// A job that judges, of the model in a folder; `more` begins inside `[output]`.
pub(crate) fn of_folder(model: &Path, input: &Path, columns: &str, more: &str) -> Job {
    let job = Job::of_model(model, input, columns, more);
    instead(&job, "name =", "task = \"reward\"\nname =");
    job
}

/// As [`of_folder`], with a file on top of the folder.
pub(crate) fn of_overlay(
    model: &Path,
    overlay: &Path,
    input: &Path,
    columns: &str,
    more: &str,
) -> Job {
    let job = of_folder(model, input, columns, more);
    let line = format!("[model]\noverlay = \"{}\"\n", overlay.display());
    instead(&job, "[model]\n", &line);
    job
}

fn instead(job: &Job, text: &str, other: &str) {
    let path = job.path("job.toml");
    let whole = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, whole.replacen(text, other, 1)).unwrap();
}

type Tensors = HashMap<String, Tensor>;

/// A head for the demonstration model.
fn head(scale: f32) -> Tensors {
    let weight: Vec<f32> = (0..128)
        .map(|at| ((at * 37) % 64) as f32 / 64.0 - 0.5)
        .map(|weight| weight * scale)
        .collect();
    let weight = Tensor::from_vec(weight, (1, 128), &Device::Cpu).unwrap();
    Tensors::from([(HEAD.to_owned(), weight)])
}

/// A folder with files that a test needs; `head.safetensors` makes a reward model of the demonstration model.
struct Files {
    folder: TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self {
            folder: TempDir::new().unwrap(),
        };
        candle_core::safetensors::save(&head(1.0), files.overlay()).unwrap();
        files
    }

    fn overlay(&self) -> PathBuf {
        self.folder.path().join("head.safetensors")
    }

    fn rows(&self, rows: &[Value]) -> PathBuf {
        let input = self.folder.path().join("in.jsonl");
        let lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
        std::fs::write(&input, lines.join("\n")).unwrap();
        input
    }

    /// A job of the demonstration model with its head.
    fn job(&self, rows: &[Value], columns: &str, more: &str) -> Job {
        of_overlay(
            &demo_model(),
            &self.overlay(),
            &self.rows(rows),
            columns,
            more,
        )
    }

    /// The same reward model as a folder, as the reference's trainer saves it.
    fn reward_folder(&self) -> PathBuf {
        let to = self.folder.path().join("reward");
        std::fs::create_dir(&to).unwrap();
        for name in ["config.json", "tokenizer.json"] {
            std::fs::copy(demo_model().join(name), to.join(name)).unwrap();
        }
        let weights = demo_model().join("model.safetensors");
        let tensors = candle_core::safetensors::load(weights, &Device::Cpu).unwrap();
        let mut tensors: Tensors = tensors
            .into_iter()
            .map(|(name, tensor)| {
                let plain = name.strip_prefix("glm.").unwrap();
                (format!("transformer.{plain}"), tensor)
            })
            .collect();
        tensors.extend(head(1.0));
        candle_core::safetensors::save(&tensors, to.join("model.safetensors")).unwrap();
        to
    }
}

/// The demonstration's questions, each with its own answer and with that of the next.
fn pairs() -> Vec<Value> {
    let text = std::fs::read_to_string(demo_questions()).unwrap();
    let rows: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let others = rows.iter().cycle().skip(1);
    rows.iter()
        .zip(others)
        .map(|(row, other)| json!({"q": row["question"], "p": row["prefix"], "a": [row["answer"], other["answer"]]}))
        .collect()
}

const PAIR_COLUMNS: &str = "columns = { prompt = \"q\", prefix = \"p\", answer = \"a\" }";

fn reasons(job: &Job) -> String {
    let rows = job.rows();
    let reasons: Vec<&str> = rows
        .iter()
        .map(|row| row["error"].as_str().unwrap_or("ok"))
        .collect();
    reasons.join("\n")
}

/// The reference's values through the whole pipeline, in batches of three sizes.
#[test]
fn the_values_are_those_of_the_reference() {
    let (Some(goldens), Some(model)) = (
        shared("fixtures/glm-tiny-zh/reward/reference_pairs.jsonl"),
        shared("fixtures/glm-tiny-zh"),
    ) else {
        return;
    };
    let text = std::fs::read_to_string(&goldens).unwrap();
    let expected: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(expected.len(), 200);
    let files = Files::new();
    let rows: Vec<Value> = expected
        .iter()
        .map(|pair| json!({"q": pair["prompt"], "p": pair["prefix"], "a": [pair["chosen"], pair["rejected"]]}))
        .collect();
    let input = files.rows(&rows);
    let overlay = model.join("reward/reward_delta.safetensors");
    let mut parts = Vec::new();
    for size in [1, 7, 64] {
        let more = format!(
            "format = \"jsonl\"\nsamples = \"nested\"\n[prompt]\nmax_length = 64\n[batch]\nmax_batch_size = {size}\n"
        );
        let judged = of_overlay(&model, &overlay, &input, PAIR_COLUMNS, &more);
        judged.run_ok(&["--quiet"]);
        parts.push(judged.files("parts"));
        if size != 64 {
            continue;
        }
        let mut right = HashMap::<&str, (usize, usize)>::new();
        let rows = judged.rows();
        assert_eq!(rows.len(), expected.len());
        for (row, pair) in rows.iter().zip(&expected) {
            let ids = pair["chosen_input_ids"].as_array().unwrap();
            let context = ids.iter().position(|id| *id == 50006).unwrap();
            assert_eq!(row["prompt_tokens"], context, "{row}");
            let got = [0, 1].map(|at| row["reward"][at].as_f64().unwrap());
            let want = ["chosen_value", "rejected_value"].map(|key| pair[key].as_f64().unwrap());
            for (got, want) in got.iter().zip(want) {
                assert!((got - want).abs() <= 2e-3, "{row} {pair}");
            }
            let (all, of_split) = right.entry(pair["split"].as_str().unwrap()).or_default();
            *all += 1;
            *of_split += usize::from(got[0] > got[1]);
            assert_eq!(got[0] > got[1], want[0] > want[1], "{row} {pair}");
        }
        let mut right: Vec<_> = right.into_iter().collect();
        right.sort_unstable();
        insta::assert_snapshot!(format!("{right:?}"));
    }
    assert!(parts[0] == parts[1] && parts[1] == parts[2]);
}

const BATCHED: &str = "format = \"FORMAT\"\n[prompt]\nmax_length = 96\n[batch]\nmax_batch_size = SIZE\nwindow_rows = 50\n[checkpoint]\ninterval_seconds = 0.05\n";

#[test]
fn the_bytes_depend_neither_on_the_batch_nor_on_shards_nor_on_kills() {
    let files = Files::new();
    let rows = pairs();
    for format in ["jsonl", "parquet"] {
        let more = |size: &str| BATCHED.replace("FORMAT", format).replace("SIZE", size);
        let of_size = |size: &str| files.job(&rows, PAIR_COLUMNS, &more(size));
        let unbroken = of_size("7");
        let started = Instant::now();
        unbroken.run_ok(&["--quiet"]);
        let took = started.elapsed();
        let parts = unbroken.files("parts");
        assert!(parts.len() > 1);
        assert_eq!(unbroken.rows().len(), 2 * rows.len());
        for size in ["1", "64"] {
            let other = of_size(size);
            other.run_ok(&["--quiet"]);
            assert!(other.files("parts") == parts, "{format}, batches of {size}");
        }
        let sharded = of_size("64");
        for shard in ["0/3", "1/3", "2/3"] {
            sharded.run_ok(&["--quiet", "--set", "shards=3", "--shard", shard]);
        }
        assert!(sharded.files("parts") == parts, "{format}: shards");

        let killed = of_size("7");
        for tenth in 1..=10 {
            kill_after(&killed, took * tenth / 11);
        }
        killed.run_ok(&["--quiet"]);
        assert!(killed.files("parts") == parts, "{format}: killed");
        let verified = killed.command(&["verify", "out"]).output().unwrap();
        assert_eq!(verified.status.code(), Some(0), "{}", both(&verified));
    }
}

fn kill_after(job: &Job, time: Duration) {
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

/// Texts, lists, objects, a path into them; flat and nested; both formats; both forms of the model.
#[test]
fn a_row_may_have_several_answers() {
    let files = Files::new();
    let rows = [
        json!({"q": "法国的首都是哪座城市？", "a": ["巴黎", "伦敦", "巴黎"], "s": [{"answer": "伦敦", "score": 1}, {"answer": "巴黎"}]}),
        json!({"q": "德国的首都是哪座城市？", "a": "柏林", "s": [{"answer": "柏林", "score": 2}]}),
    ];
    let reward_folder = files.reward_folder();
    for format in ["jsonl", "parquet"] {
        let more =
            format!("format = \"{format}\"\ncolumns = \"none\"\n[prompt]\nmax_length = 96\n");
        let flat = files.job(&rows, COLUMNS, &more);
        let output = flat.run_ok(&[]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("4 answers of 2 rows: mean "), "{text}");
        assert!(
            text.contains("best answer (rows with several: 1)"),
            "{text}"
        );
        let parts = flat.files("parts");
        let flat = flat.rows();
        let places: Vec<_> = flat
            .iter()
            .map(|row| {
                (
                    row["row"].as_u64().unwrap(),
                    row["sample"].as_u64().unwrap(),
                )
            })
            .collect();
        assert_eq!(places, [(0, 0), (0, 1), (0, 2), (1, 0)]);
        assert_eq!(flat[0]["reward"], flat[2]["reward"]);
        assert_ne!(flat[0]["reward"], flat[1]["reward"]);

        let more = more.replacen("columns", "samples = \"nested\"\ncolumns", 1);
        let nested = files.job(&rows, COLUMNS, &more);
        nested.run_ok(&["--quiet"]);
        let nested = nested.rows();
        assert!(nested.len() == 2 && nested[0].get("sample").is_none());
        let of_first: Vec<&Value> = flat[..3].iter().map(|row| &row["reward"]).collect();
        assert_eq!(nested[0]["reward"], json!(of_first));
        assert_eq!(nested[1]["reward"], json!([flat[3]["reward"]]));

        let objects = files.job(&rows, &COLUMNS.replace("\"a\"", "\"s\""), &more);
        objects.run_ok(&["--quiet"]);
        let first = objects.rows().remove(0);
        assert_eq!(
            first["reward"],
            json!([flat[1]["reward"], flat[0]["reward"]])
        );
        let by_path = files.job(&rows, &COLUMNS.replace("\"a\"", "\"s.0.answer\""), &more);
        by_path.run_ok(&["--quiet"]);
        assert_eq!(by_path.rows()[0]["reward"], json!([flat[1]["reward"]]));

        let more = more.replacen("samples = \"nested\"\n", "", 1);
        let input = files.rows(&rows);
        let of_folder = of_folder(&reward_folder, &input, COLUMNS, &more);
        of_folder.run_ok(&["--quiet"]);
        assert!(of_folder.files("parts") == parts, "{format}: one folder");
    }
}

#[test]
fn a_row_without_an_answer_that_fits_fails_with_its_reason() {
    let files = Files::new();
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
        json!({"q": "十二？", "a": ["一", null]}),
        json!({"q": "十三？", "a": "长".repeat(140)}),
        json!({"q": "长".repeat(40), "a": "长".repeat(30)}),
    ];
    let more = "format = \"jsonl\"\ncolumns = \"none\"\n[prompt]\nmax_length = 60\n";
    let failing = files.job(&rows, COLUMNS, more);
    let planned = failing.command(&["plan", "job.toml"]).output().unwrap();
    let plan = String::from_utf8_lossy(&planned.stdout).into_owned();
    assert!(plan.contains("bad rows    12"), "{}", both(&planned));
    failing.run_ok(&["--quiet"]);
    insta::assert_snapshot!(reasons(&failing));
    assert!(failing.rows()[13]["reward"].is_f64(), "the prompt is cut");

    let soft = format!("{more}reserve = false\n");
    let kept = files.job(&rows[13..], COLUMNS, &soft);
    // All rows fail, so the run ends with another code.
    kept.run(&["--quiet"]);
    let reason = reasons(&kept);
    assert!(
        reason.starts_with("tokenize: the longest answer has 31 tokens, the ending token included, and the prompt leaves"),
        "{reason}"
    );
}

/// The longest answer that the model has places for, and one token more.
#[test]
fn an_answer_may_take_all_places_of_the_model() {
    let files = Files::new();
    // Characters that the vocabulary has as single tokens, so that each makes one more.
    let of = |count: usize| "一二".chars().cycle().take(count).collect::<String>();
    let rows: Vec<Value> = (100..140)
        .map(|count| json!({"q": "一？", "a": of(count)}))
        .collect();
    let more = "format = \"jsonl\"\ncolumns = \"none\"\n[prompt]\nmax_length = 200\n";
    let job = files.job(&rows, COLUMNS, more);
    job.run_ok(&["--quiet"]);
    let reasons = reasons(&job);
    let fitting = reasons.lines().take_while(|reason| *reason == "ok").count();
    let after: Vec<&str> = reasons.lines().skip(fitting).collect();
    assert!(fitting > 0 && !after.is_empty(), "{reasons}");
    assert_eq!(
        after[0],
        "tokenize: the answer has 128 tokens, the ending token included, and this model has places for 127"
    );
    assert!(after.iter().all(|reason| reason.contains("has places for")));
}

#[test]
fn a_value_that_is_not_finite_fails_its_row() {
    let files = Files::new();
    candle_core::safetensors::save(&head(3e38), files.overlay()).unwrap();
    let rows = [json!({"q": "一？", "a": ["一", "二"]})];
    let job = files.job(&rows, COLUMNS, "format = \"jsonl\"\n");
    job.run(&["--quiet"]);
    assert_eq!(reasons(&job), "read: the value head's number is not finite");
}

#[test]
fn what_does_not_fit_the_task_is_refused_before_the_run() {
    let files = Files::new();
    let rows = [json!({"q": "一？", "a": "一", "n": 1})];
    let (input, model) = (files.rows(&rows), demo_model());
    let reward_folder = files.reward_folder();
    let mut texts = Vec::new();
    let mut refuse = |job: &Job, set: &[&str]| {
        let set: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
        let planned = job
            .command(&[&["plan", "job.toml"][..], &set].concat())
            .output()
            .unwrap();
        let ran = job.run(&set);
        assert_eq!(planned.status.code(), Some(2), "{}", both(&planned));
        assert_eq!(ran.status.code(), Some(2), "{}", both(&ran));
        assert_eq!(stderr(&planned), stderr(&ran));
        assert!(!job.path("out/job.json").exists());
        let mut text = stderr(&ran);
        for (path, name) in [
            (job.folder.path(), "JOB"),
            (files.folder.path(), "FILES"),
            (model.as_path(), "MODEL"),
        ] {
            text = text.replace(&path.display().to_string(), name);
        }
        texts.push(text);
    };
    let judging = |columns: &str, more: &str| files.job(&rows, columns, more);
    refuse(&judging("columns = { prompt = \"q\" }", ""), &[]);
    refuse(&judging(COLUMNS, "[generation]\nmax_new_tokens = 3\n"), &[]);
    refuse(&judging(COLUMNS, "[score]\nending = false\n"), &[]);
    refuse(&judging(COLUMNS, ""), &["input.columns.target=a"]);
    refuse(&judging(COLUMNS, ""), &["input.columns.answer=b"]);
    refuse(&judging(COLUMNS, ""), &["input.columns.answer=n"]);
    refuse(&judging(COLUMNS, ""), &["input.columns.answer="]);
    // Models: no head, a head for a task that reads none, an overlay for such a task.
    refuse(&of_folder(&model, &input, COLUMNS, ""), &[]);
    let base = model.join("model.safetensors");
    refuse(&of_overlay(&model, &base, &input, COLUMNS, ""), &[]);
    let absent = files.folder.path().join("absent.safetensors");
    refuse(&of_overlay(&model, &absent, &input, COLUMNS, ""), &[]);
    let to_score = "columns = { prompt = \"q\", target = \"a\" }";
    let scoring = of_folder(&reward_folder, &input, to_score, "");
    refuse(&scoring, &["task=score"]);
    let answering = of_folder(&reward_folder, &input, "columns = { prompt = \"q\" }", "");
    refuse(&answering, &["task=generate"]);
    refuse(&judging(to_score, ""), &["task=score"]);
    refuse(
        &judging("columns = { prompt = \"q\" }", ""),
        &["task=generate"],
    );
    refuse(
        &judging(COLUMNS, ""),
        &["model.overlay=out/head.safetensors"],
    );
    refuse(
        &judging(COLUMNS, ""),
        &["model.overlay=s3://b/head.safetensors"],
    );
    insta::assert_snapshot!(texts.join("---\n"));
}

/// The job of the project, as it is: its model was trained on other wrong answers than these.
#[test]
fn the_demonstration_prefers_right_answers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = Files::new();
    let job = files.job(&[json!({"q": "一？", "a": "一"})], COLUMNS, "");
    let file = root.join("jobs/reward.toml");
    let out = format!("output.path={}", job.path("out").display());
    let args = ["run", file.to_str().unwrap(), "--set", &out, "--quiet"];
    let output = job.command(&args).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    let mut best = HashMap::<u64, (f64, bool)>::new();
    for row in job.rows() {
        let at = row["sample"].as_u64().unwrap() as usize;
        let reward = row["reward"].as_f64().unwrap();
        let is_right = row["answers"][at]["score"] == 1;
        let known = best
            .entry(row["row"].as_u64().unwrap())
            .or_insert((reward, is_right));
        if reward > known.0 {
            *known = (reward, is_right);
        }
    }
    let right = best.values().filter(|(_, is_right)| *is_right).count();
    assert_eq!(best.len(), 40);
    assert!(right >= 34, "{right} of 40");
}

/// The head is part of the model that a folder's results come from; where its file is does not matter.
#[test]
fn a_folder_goes_on_only_with_its_own_head() {
    let files = Files::new();
    let rows = [json!({"q": "一？", "a": ["一", "二"]})];
    let job = files.job(&rows, COLUMNS, "format = \"jsonl\"\n");
    job.run_ok(&["--quiet"]);
    let record = std::fs::read_to_string(job.path("out/job.json")).unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["version"], "3");
    assert_eq!(record["spec"]["task"], "reward");
    let card = std::fs::read_to_string(job.path("out/README.md")).unwrap();
    assert!(card.contains("| overlay | `head.safetensors` |"), "{card}");
    assert!(card.contains("2 answers of 1 row:"), "{card}");

    let moved = files.folder.path().join("moved.safetensors");
    std::fs::copy(files.overlay(), &moved).unwrap();
    let set = format!("model.overlay={}", moved.display());
    job.run_ok(&["--quiet", "--set", &set]);
    candle_core::safetensors::save(&head(2.0), &moved).unwrap();
    let other = job.run(&["--set", &set]);
    assert_eq!(other.status.code(), Some(2), "{}", both(&other));
    assert!(stderr(&other).contains("weights"), "{}", both(&other));
    for command in ["show", "status", "verify"] {
        let output = job.command(&[command, "out"]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    }
}
