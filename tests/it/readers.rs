//! Results of every kind load in `datasets`, polars, pandas, pyarrow and `DuckDB`, by the calls that the summary
//! and the card print; what the card says, and when it is written.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use arrow_array::builder::{MapBuilder, StringBuilder};
use arrow_array::types::{Float32Type, Int32Type};
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray,
    DurationMicrosecondArray, FixedSizeBinaryArray, FixedSizeListArray, Float32Array, Float64Array,
    Int8Array, Int16Array, Int64Array, LargeStringArray, ListArray, NullArray, RecordBatch,
    StringArray, StringViewArray, StructArray, Time64MicrosecondArray, TimestampMicrosecondArray,
    TimestampNanosecondArray, UInt32Array, UInt64Array,
};
use serde_json::{Value, json};

use crate::support::{Job, both, demo_model, rows};

const COLUMNS: &str = "columns = { prompt = \"question\" }";
const QUESTIONS: [&str; 2] = ["法国的首都是哪座城市？", "河南省的省会在哪里？"];
const FORMATS: [&str; 2] = ["jsonl", "parquet"];

/// Rows so that two of eight fail; windows of 4, so that a window has none of them, one, or nothing else.
const FAILING: [(&str, &[usize]); 3] = [("first", &[0, 1, 2, 3]), ("late", &[6]), ("none", &[])];

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/cases")
        .join(name)
}

/// Runs a job with more keys of `[output]`, which may end with those of `[generation]`.
fn run(input: &Path, format: &str, more: &str) -> (Job, Value) {
    let generation = if more.is_empty() {
        "[generation]\n"
    } else {
        more
    };
    let more = format!(
        "format = \"{format}\"\n{generation}max_new_tokens = 4\n[prompt]\nmax_length = 64\n[batch]\nwindow_rows = 4\n"
    );
    let job = Job::of_model(&demo_model(), input, COLUMNS, &more);
    let output = job.run_ok(&["--quiet", "--json"]);
    let report = serde_json::from_slice(&output.stdout).unwrap();
    (job, report)
}

/// A finished job, as the script wants it.
fn loaded(
    name: &str,
    carried: &[&str],
    skip: &[&str],
    (job, report): (Job, Value),
) -> (Job, Value) {
    let out = job.path("out");
    let question = json!({
        "name": name,
        "out": out,
        "calls": report["loading"],
        "rows": rows(&out),
        "carried": carried,
        "singles": [],
        "skip": skip,
    });
    (job, question)
}

/// JSON lines with columns of every kind, some rows without a prompt.
fn questions(folder: &Path, name: &str, failing: &[usize]) -> PathBuf {
    let line = |number: usize| {
        let question = (!failing.contains(&number)).then_some(QUESTIONS[number % 2]);
        // Null in the first window, so that a reader cannot guess.
        let late = |value: Value| if number < 4 { Value::Null } else { value };
        json!({
            "id": number.to_string(),
            "question": question,
            "whole": late(json!(9_007_199_254_740_993_i64)),
            "float": late(json!(0.1)),
            "flag": late(json!(true)),
            "text": late(json!("007")),
            "null": null,
        })
    };
    let path = folder.join(format!("{name}.jsonl"));
    let lines: Vec<String> = (0..8).map(|number| line(number).to_string()).collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    path
}

/// As [`questions`], with a column whose values are of many kinds, and one with chat messages.
fn mixed(folder: &Path) -> PathBuf {
    let path = folder.join("mixed.jsonl");
    let kinds = [
        json!({"a": [1]}),
        json!("text"),
        json!([1, "b"]),
        json!(5),
        Value::Null,
    ];
    let lines: Vec<String> = (0..8)
        .map(|number| {
            let messages = json!([{"role": "user", "content": QUESTIONS[0]}]);
            json!({"question": QUESTIONS[0], "kinds": kinds[number % 5], "messages": messages})
                .to_string()
        })
        .collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    path
}

type Columns = Vec<(&'static str, ArrayRef)>;

fn numbers() -> Columns {
    let decimals = Decimal128Array::from(vec![150, 2, 3, -4]).with_precision_and_scale(10, 2);
    vec![
        (
            "flag",
            Arc::new(BooleanArray::from(vec![true, false, true, false])),
        ),
        ("int8", Arc::new(Int8Array::from(vec![1, -2, 3, 4]))),
        ("int16", Arc::new(Int16Array::from(vec![1, -2, 3, 4]))),
        (
            "int64",
            Arc::new(Int64Array::from(vec![i64::MAX, i64::MIN, 3, 4])),
        ),
        (
            "uint32",
            Arc::new(UInt32Array::from(vec![u32::MAX, 2, 3, 4])),
        ),
        (
            "uint64",
            Arc::new(UInt64Array::from(vec![u64::MAX, 2, 3, 4])),
        ),
        (
            "float32",
            Arc::new(Float32Array::from(vec![0.5, f32::NAN, 3.0, 4.0])),
        ),
        (
            "float64",
            Arc::new(Float64Array::from(vec![0.1, f64::INFINITY, 3.0, 4.0])),
        ),
        ("decimal", Arc::new(decimals.unwrap())),
    ]
}

fn texts_and_times() -> Columns {
    let words: DictionaryArray<Int32Type> = ["a", "b", "a", "b"].into_iter().collect();
    let bytes = FixedSizeBinaryArray::try_from_iter([[1_u8; 12]; 4].iter()).unwrap();
    let times = TimestampMicrosecondArray::from(vec![0, 1_704_164_645_678_901, 2, 3]);
    let zone = |zone: &str| Arc::new(times.clone().with_timezone(zone));
    vec![
        (
            "text",
            Arc::new(StringArray::from(vec!["1", "2", "3", "4"])),
        ),
        (
            "large",
            Arc::new(LargeStringArray::from(vec!["甲", "乙", "丙", "丁"])),
        ),
        (
            "view",
            Arc::new(StringViewArray::from(vec!["a", "b", "c", "d"])),
        ),
        ("words", Arc::new(words)),
        (
            "bytes",
            Arc::new(BinaryArray::from_vec(vec![b"\xff", b"", b"a", b"b"])),
        ),
        ("fixed", Arc::new(bytes)),
        ("day", Arc::new(Date32Array::from(vec![0, 19_724, 2, -1]))),
        (
            "clock",
            Arc::new(Time64MicrosecondArray::from(vec![1, 2, 3, 4])),
        ),
        (
            "span",
            Arc::new(DurationMicrosecondArray::from(vec![1, -2, 3, 4])),
        ),
        ("utc", zone("UTC")),
        ("berlin", zone("Europe/Berlin")),
        ("offset", zone("+08:00")),
        ("naive", Arc::new(times)),
        (
            "nano",
            Arc::new(TimestampNanosecondArray::from(vec![1, 2, 3, 4])),
        ),
    ]
}

fn nested() -> Columns {
    let list = |values: [Option<i32>; 4]| {
        let values = values.map(|value| Some(vec![value, None]));
        Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(values)) as ArrayRef
    };
    let floats = [Some(vec![Some(0.5)]), Some(vec![]), None, None];
    let floats = ListArray::from_iter_primitive::<Float32Type, _, _>(floats);
    let pair = [Some([Some(1), Some(2)]), None, None, None];
    let pair = FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>(pair, 2);
    let whole = Int64Array::from(vec![Some(1), None, Some(3), None]);
    let inner = StructArray::try_from(vec![
        ("a", Arc::new(whole) as ArrayRef),
        ("b", list([Some(1), None, None, None])),
    ]);
    let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    for number in 0..4 {
        map.keys().append_value(number.to_string());
        map.values().append_value("x");
        map.append(true).unwrap();
    }
    vec![
        ("list", list([Some(1), None, Some(3), None])),
        ("floats", Arc::new(floats)),
        ("pair", Arc::new(pair)),
        ("struct", Arc::new(inner.unwrap())),
        ("map", Arc::new(map.finish())),
    ]
}

/// A Parquet file with a column of every type that can be carried, null in its first half.
fn every_type(folder: &Path) -> PathBuf {
    let half = |array: ArrayRef| {
        let nulls = arrow_array::new_null_array(array.data_type(), 4);
        arrow_select::concat::concat(&[&nulls, &array]).unwrap()
    };
    let prompts = (0..8).map(|number| (number != 5).then_some(QUESTIONS[number % 2]));
    let prompts: ArrayRef = Arc::new(prompts.collect::<StringArray>());
    let mut columns = vec![("question", prompts, true)];
    let typed = [numbers(), texts_and_times(), nested()]
        .into_iter()
        .flatten();
    columns.extend(typed.map(|(name, array)| (name, half(array), true)));
    columns.push(("nothing", Arc::new(NullArray::new(8)), true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let path = folder.join("types.parquet");
    let file = std::fs::File::create(&path).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    path
}

const JSON_CARRIED: [&str; 5] = ["whole", "float", "flag", "text", "null"];
const SAMPLES: &str = "samples = \"nested\"\ntoken_ids = true\nprompt = true\n[generation]\nlogprobs = true\ndo_sample = true\ntemperature = 2.0\nnum_return_sequences = 2\n";

/// A finished job of each kind, with the rows that it must give.
fn finished(folder: &Path) -> Vec<(Job, Value)> {
    let mut jobs = Vec::new();
    for format in FORMATS {
        for (name, failing) in FAILING {
            let input = questions(folder, name, failing);
            // Such whole numbers with nulls between them become floats in pandas.
            let carried = &JSON_CARRIED[1..];
            let flat = format!("{format}, failing {name}");
            jobs.push(loaded(&flat, carried, &[], run(&input, format, "")));
            let nested = format!("{format}, failing {name}, nested");
            jobs.push(loaded(&nested, carried, &[], run(&input, format, SAMPLES)));
        }
        let text = if format == "parquet" {
            &["kinds", "messages"][..]
        } else {
            &[]
        };
        // pyarrow's reader of JSON takes no column of several kinds.
        let skip = if format == "jsonl" {
            &["pyarrow"][..]
        } else {
            &[]
        };
        jobs.push(loaded(
            &format!("{format}, mixed"),
            text,
            skip,
            run(&mixed(folder), format, ""),
        ));
        let same = [
            "flag", "int8", "int16", "uint32", "text", "large", "view", "words", "list", "pair",
            "struct",
        ];
        let types = run(&every_type(folder), format, "");
        jobs.push(loaded(&format!("{format}, every type"), &same, &[], types));
        for name in [
            "utc-timestamp",
            "infinite-dates",
            "enum-text",
            "uuid",
            "logical-types",
            "interval",
        ] {
            let made = run(&case(&format!("{name}.parquet")), format, "");
            // Its columns of dates are Python's own, which end with the year 9999.
            let skip = match (format, name) {
                ("parquet", "infinite-dates") => &["pandas"][..],
                // They read none with a variant, an interval or a list of such bytes, not even the input.
                ("parquet", "logical-types") => &["polars"],
                ("parquet", "interval") => &["polars", "pandas"],
                _ => &[],
            };
            jobs.push(loaded(&format!("{format}, {name}"), &[], skip, made));
        }
        let error = run(&case("error-after-nulls.jsonl"), format, "");
        jobs.push(loaded(
            &format!("{format}, error after nulls"),
            &[],
            &[],
            error,
        ));
    }
    jobs
}

/// Columns of the other tasks: those that must load as they are, and those of single precision.
const OF_TASKS: [(&str, &[&str], &[&str]); 6] = [
    (
        "choose",
        &["choice", "choice_text", "correct"],
        &["choice_logprobs"],
    ),
    ("infill", &["spans", "finish_reasons"], &[]),
    (
        "demo-preference",
        &[
            "pair",
            "chosen",
            "rejected",
            "chosen_sample",
            "rejected_sample",
            "no_pair",
            "rendered_prompt",
        ],
        &["chosen_score", "rejected_score", "margin"],
    ),
    ("reward", &[], &["reward"]),
    (
        "score",
        &["is_greedy", "target_tokens"],
        &["logprob", "mean_logprob", "perplexity"],
    ),
    ("ceval", &["choice", "choice_text"], &["choice_logprobs"]),
];

/// The ready jobs of the other tasks, over a few rows.
fn of_tasks() -> Vec<(Job, Value)> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut jobs = Vec::new();
    for format in FORMATS {
        for (name, same, singles) in OF_TASKS {
            let job = Job::new("unused".as_ref(), "");
            let path = home.join("jobs").join(format!("{name}.toml"));
            let model = demo_model();
            let keys = [
                format!("output.path={}", job.path("out").display()),
                format!("output.format={format}"),
                format!("model.path={}", model.display()),
                "batch.window_rows=20".to_owned(),
                "input.limit=40".to_owned(),
            ];
            let mut args = vec!["run", path.to_str().unwrap(), "--quiet", "--json"];
            args.extend(keys.iter().flat_map(|key| ["--set", key.as_str()]));
            let output = job.command(&args).output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{name}: {}", both(&output));
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            let named = format!("{format}, {name}");
            let (job, mut question) = loaded(&named, same, &[], (job, report));
            assert!(!question["rows"].as_array().unwrap().is_empty(), "{named}");
            for column in same.iter().chain(singles) {
                assert!(
                    question["rows"][0].get(*column).is_some(),
                    "{named}: {column}"
                );
            }
            question["singles"] = json!(singles);
            jobs.push((job, question));
        }
    }
    jobs
}

/// The Python to try the readers with: `GLM_BATCH_TEST_PYTHON`, else `python3`.
fn python() -> Option<String> {
    let python = std::env::var("GLM_BATCH_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let version = Command::new(&python).arg("--version").output();
    match version {
        Ok(output) if output.status.success() => Some(python),
        _ => {
            eprintln!("skipped: `{python}` is not here; set GLM_BATCH_TEST_PYTHON");
            None
        }
    }
}

#[test]
fn results_of_every_kind_load_in_every_reader() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut jobs = finished(folder.path());
    jobs.extend(of_tasks());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/readers.py");
    let mut reader = Command::new(python)
        .arg(script)
        .env("HF_HOME", folder.path().join("hf"))
        .env("HF_HUB_OFFLINE", "1")
        .env("PYTHONWARNINGS", "ignore")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let questions: Vec<String> = jobs
        .iter()
        .map(|(_, question)| question.to_string())
        .collect();
    let mut input = reader.stdin.take().unwrap();
    let sender = std::thread::spawn(move || {
        // A reader that fails closes its end; its message is shown below.
        let _ = input.write_all(questions.join("\n").as_bytes());
    });
    let output = reader.wait_with_output().unwrap();
    sender.join().unwrap();
    assert!(output.status.success(), "{}", both(&output));
    eprint!("{}", String::from_utf8_lossy(&output.stdout));
}

fn card(job: &Job) -> String {
    std::fs::read_to_string(job.path("out/README.md")).unwrap()
}

/// What differs from machine to machine, in a word.
fn without_hashes(card: &str) -> String {
    let words = card.split('`').map(|word| {
        let is_hash = word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_hash { "HASH" } else { word }
    });
    let card = words.collect::<Vec<_>>().join("`");
    let named = card.split("results-").nth(1).unwrap();
    card.replace(&named[..16], "HASH")
}

#[test]
fn results_of_two_jobs_are_two_for_a_reader_that_keeps_them() {
    let folder = tempfile::tempdir().unwrap();
    let named = |failing: &[usize]| {
        let input = questions(folder.path(), "questions", failing);
        let (job, _) = run(&input, "jsonl", "");
        card(&job).lines().nth(2).unwrap().to_owned()
    };
    let first = named(&[]);
    assert!(first.starts_with("- config_name: \"results-"), "{first}");
    assert_eq!(named(&[]), first);
    assert_ne!(named(&[3]), first);
}

#[test]
fn a_card_tells_of_the_job_and_of_every_column() {
    let folder = tempfile::tempdir().unwrap();
    let input = questions(folder.path(), "questions", &[6]);
    let (job, _) = run(&input, "jsonl", SAMPLES);
    insta::assert_snapshot!(without_hashes(&card(&job)));
    let (job, report) = run(&case("uuid.parquet"), "parquet", "");
    insta::assert_snapshot!(without_hashes(&card(&job)));
    let folder = job.path("out").display().to_string();
    let calls = report["loading"].to_string().replace(&folder, "OUT");
    insta::assert_snapshot!(calls);
}

#[test]
fn a_card_is_made_by_the_run_that_finishes_and_again_where_it_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let input = questions(folder.path(), "questions", &[1]);
    let job = Job::of_model(
        &demo_model(),
        &input,
        COLUMNS,
        "format = \"jsonl\"\n[prompt]\nmax_length = 64\n[generation]\nmax_new_tokens = 4\n[batch]\nwindow_rows = 4\n",
    );
    let text = std::fs::read_to_string(job.path("job.toml")).unwrap();
    std::fs::write(
        job.path("job.toml"),
        text.replace("name =", "shards = 2\nname ="),
    )
    .unwrap();
    job.run_ok(&["--quiet", "--shard", "0/2"]);
    assert!(
        !job.path("out/README.md").exists(),
        "one shard of two is finished"
    );
    let finished = job.run_ok(&["--quiet", "--verbose", "--shard", "1/2"]);
    let first = card(&job);
    let summary = String::from_utf8_lossy(&finished.stdout).into_owned();
    for library in ["datasets", "polars", "pandas", "pyarrow"] {
        assert!(summary.contains(&format!("\n  {library} ")), "{summary}");
    }

    std::fs::remove_file(job.path("out/README.md")).unwrap();
    std::fs::write(job.path("out/.README.md.7.tmp"), "half").unwrap();
    job.run_ok(&["--quiet"]);
    assert_eq!(card(&job), first);
    assert!(!job.path("out/.README.md.7.tmp").exists());
    let verified = job.command(&["verify", "out"]).output().unwrap();
    assert!(verified.status.success(), "{}", both(&verified));

    std::fs::write(job.path("out/README.md"), "mine").unwrap();
    let said = crate::support::both(&job.run_ok(&[]));
    assert_eq!(card(&job), "mine");
    assert!(
        said.contains("`run --verbose` prints their calls"),
        "{said}"
    );

    let whole = Job::of_model(&demo_model(), &input, COLUMNS, "");
    std::fs::write(
        whole.path("job.toml"),
        std::fs::read_to_string(job.path("job.toml")).unwrap(),
    )
    .unwrap();
    whole.run_ok(&["--quiet"]);
    assert_eq!(card(&whole), first, "two workers or one, here or there");
    whole.run_ok(&["--quiet", "--restart"]);
    assert_eq!(card(&whole), first);
}

/// Runs a finished job whose folder takes no files; `None` where everybody may write everywhere.
#[cfg(unix)]
fn run_read_only(job: &Job) -> Option<Output> {
    use std::os::unix::fs::PermissionsExt as _;
    let set = |mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(job.path("out"), permissions).unwrap();
    };
    set(0o555);
    let may_write = std::fs::write(job.path("out/probe"), "").is_ok();
    let output = (!may_write).then(|| job.run(&["--quiet"]));
    set(0o755);
    output
}

#[test]
#[cfg(unix)]
fn a_card_that_cannot_be_written_hinders_nothing() {
    let (job, _) = run(&case("uuid.parquet"), "parquet", "");
    std::fs::remove_file(job.path("out/README.md")).unwrap();
    // A folder in its place is none of ours.
    std::fs::create_dir(job.path("out/README.md")).unwrap();
    job.run_ok(&["--quiet"]);
    std::fs::remove_dir(job.path("out/README.md")).unwrap();
    let Some(output) = run_read_only(&job) else {
        eprintln!("skipped: this user may write into every folder");
        return;
    };
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    assert!(!job.path("out/README.md").exists());
}
