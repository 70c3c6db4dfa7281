//! Whole jobs: right answers, the same bytes whatever the batch, the window, the format, the shard.

use serde_json::Value;

use crate::support::{self, Job, as_parquet, demo_questions, rows, shared, some_questions};

const COLUMNS: &str =
    "columns = { prompt = \"prompt\", prefix = \"prefix\", reference = \"answer\" }";

fn more(format: &str, batch: u32, window: u32) -> String {
    format!(
        "format = \"{format}\"\ntoken_ids = true\n[prompt]\nmax_length = 96\n[generation]\nmax_new_tokens = 24\n[batch]\nmax_batch_size = {batch}\nwindow_rows = {window}\n"
    )
}

fn joined(job: &Job) -> Vec<u8> {
    job.files("parts")
        .into_iter()
        .flat_map(|(_, bytes)| bytes)
        .collect()
}

#[test]
fn the_demonstration_is_all_right_in_every_precision() {
    let columns =
        "columns = { prompt = \"question\", prefix = \"prefix\", reference = \"answer\" }";
    for dtype in ["f32", "f16", "bf16", "q8"] {
        let job = Job::of_model(
            &crate::support::demo_model(),
            &demo_questions(),
            columns,
            &more("jsonl", 16, 8192),
        );
        let output = job.run_ok(&["--json", "--set", &format!("model.dtype={dtype}")]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let totals = &report["totals"];
        assert!(totals["referenced"].as_u64().unwrap() >= 200, "{report}");
        assert_eq!(totals["exact"], totals["referenced"], "{dtype}: {report}");
        assert_eq!(totals["rows"], report["job_rows"], "{report}");
    }
}

#[test]
fn bytes_do_not_depend_on_the_batch() {
    let mut parts = Vec::new();
    for batch in [1, 7, 64] {
        let job = Job::new(&demo_questions(), &more("parquet", batch, 100));
        job.run_ok(&[]);
        parts.push(job.files("parts"));
    }
    assert!(parts[0].len() > 1);
    assert!(parts[0] == parts[1], "batches of 1 and 7 differ");
    assert!(parts[0] == parts[2], "batches of 1 and 64 differ");
}

#[test]
fn bytes_do_not_depend_on_the_input_format() {
    let folder = tempfile::tempdir().unwrap();
    let parquet = folder.path().join("questions.parquet");
    as_parquet(&demo_questions(), &parquet);
    for format in ["jsonl", "parquet"] {
        let from_jsonl = Job::new(&demo_questions(), &more(format, 16, 100));
        from_jsonl.run_ok(&[]);
        let from_parquet = Job::new(&parquet, &more(format, 16, 100));
        from_parquet.run_ok(&[]);
        assert!(
            from_jsonl.files("parts") == from_parquet.files("parts"),
            "{format}"
        );
    }
}

#[test]
fn rows_do_not_depend_on_the_window() {
    let whole = Job::new(&demo_questions(), &more("jsonl", 16, 8192));
    whole.run_ok(&[]);
    let many = Job::new(&demo_questions(), &more("jsonl", 16, 50));
    many.run_ok(&[]);
    assert!(many.files("parts").len() > 2);
    assert!(
        joined(&whole) == joined(&many),
        "JSON lines joined in order differ"
    );
    let parquet = Job::new(&demo_questions(), &more("parquet", 16, 50));
    parquet.run_ok(&[]);
    assert_eq!(parquet.rows(), whole.rows());
}

#[test]
fn shards_give_the_same_parts() {
    let whole = Job::new(&demo_questions(), &more("jsonl", 16, 40));
    whole.run_ok(&[]);
    let sharded = Job::new(&demo_questions(), &more("jsonl", 16, 40));
    let text = std::fs::read_to_string(sharded.path("job.toml")).unwrap();
    std::fs::write(
        sharded.path("job.toml"),
        text.replace("name =", "shards = 3\nname ="),
    )
    .unwrap();
    let mut workers: Vec<_> = (0..3)
        .map(|i| {
            sharded
                .command(&["run", "job.toml", "--quiet", "--shard", &format!("{i}/3")])
                .spawn()
                .unwrap()
        })
        .collect();
    for worker in &mut workers {
        assert!(worker.wait().unwrap().success());
    }
    assert!(sharded.files("parts") == whole.files("parts"));
    let output = sharded.run_ok(&[]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("finished"));
}

/// Where windows grow, those of several shards hold other rows: the first window is the same, and the lines joined.
#[test]
fn windows_with_the_same_rows_have_the_same_bytes_in_any_number_of_shards() {
    let folder = tempfile::tempdir().unwrap();
    let input = some_questions(folder.path(), 900);
    let columns = "columns = { prompt = \"question\", prefix = \"prefix\", target = \"answer\" }";
    for format in ["jsonl", "parquet"] {
        let run = |shards: u32| {
            let more = format!("format = \"{format}\"\n[prompt]\nmax_length = 96\n");
            let job = Job::of_model(&support::demo_model(), &input, columns, &more);
            let set = format!("shards={shards}");
            job.run_ok(&["--quiet", "--set", "task=score", "--set", &set]);
            job
        };
        let (whole, sharded) = (run(1), run(3));
        let (parts, parts_of_shards) = (whole.files("parts"), sharded.files("parts"));
        assert_eq!((parts.len(), parts_of_shards.len()), (3, 4), "{format}");
        assert!(parts[0] == parts_of_shards[0], "{format}");
        match format {
            "jsonl" => assert!(joined(&whole) == joined(&sharded)),
            _ => assert_eq!(whole.rows(), sharded.rows()),
        }
    }
}

#[test]
fn samples_and_trials_keep_row_numbers() {
    let sampled = "format = \"jsonl\"\n[prompt]\nmax_length = 96\n[generation]\nmax_new_tokens = 8\ndo_sample = true\ntemperature = 2.0\nnum_return_sequences = 3\nseed = 7\n";
    let job = Job::new(&demo_questions(), sampled);
    job.run_ok(&[]);
    let all = job.rows();
    let trial = Job::new(&demo_questions(), sampled);
    trial.run_ok(&["--sample", "20"]);
    let some = rows(&trial.path("out.trial"));
    assert_eq!(some.len(), 60);
    for row in &some {
        assert!(all.contains(row), "a trial answers otherwise: {row}");
    }
    let texts: std::collections::BTreeSet<&str> = all
        .iter()
        .map(|row| row["completion"].as_str().unwrap())
        .collect();
    assert!(texts.len() > 50, "samples hardly differ");
    assert!(!trial.path("out").exists());
}

#[test]
fn a_trial_takes_nobody_elses_folder() {
    let folder = tempfile::tempdir().unwrap();
    let input = support::some_questions(folder.path(), 5);
    let job = Job::new(&input, "");
    // A job in earnest, written where the trial would go.
    job.run_ok(&["--set", "output.path=out.trial"]);
    let kept = support::files(&job.path("out.trial/parts"));
    let output = job.run(&["--limit", "2"]);
    assert_eq!(output.status.code(), Some(2), "{}", support::both(&output));
    assert!(support::stderr(&output).contains("is in the way"));
    assert_eq!(support::files(&job.path("out.trial/parts")), kept);

    std::fs::remove_dir_all(job.path("out.trial")).unwrap();
    std::fs::create_dir(job.path("out.trial")).unwrap();
    std::fs::write(job.path("out.trial/notes.txt"), "mine").unwrap();
    assert_eq!(job.run(&["--limit", "2"]).status.code(), Some(2));

    std::fs::remove_file(job.path("out.trial/notes.txt")).unwrap();
    job.run_ok(&["--limit", "2"]);
    job.run_ok(&["--sample", "3"]);
    assert_eq!(support::rows(&job.path("out.trial")).len(), 3);
}

#[test]
fn a_failed_row_with_a_reference_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("q.jsonl");
    let lines = "{\"question\": \"法国的首都是哪座城市？\", \"answer\": \"巴黎\"}\n{\"question\": null, \"answer\": \"巴黎\"}\n{\"question\": null, \"answer\": null}\n";
    std::fs::write(&input, lines).unwrap();
    let columns = "columns = { prompt = \"question\", reference = \"answer\" }";
    let more = "[prompt]\nprefix = \"答：\"\n";
    let job = Job::of_model(&support::demo_model(), &input, columns, more);
    let output = job.run_ok(&["--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["totals"]["referenced"], 2, "{report}");
}

#[test]
fn a_run_that_stops_at_failed_rows_counts_the_open_windows() {
    let folder = tempfile::tempdir().unwrap();
    let input = support::some_questions(folder.path(), 40);
    let mut text = std::fs::read_to_string(&input).unwrap();
    text.push_str("{\"question\": null}\n");
    std::fs::write(&input, text).unwrap();
    let job = Job::new(&input, "max_failed = 0\n");
    let output = job.run(&["--json"]);
    assert_eq!(output.status.code(), Some(3), "{}", support::both(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["totals"]["bad"], 1, "{report}");
}

#[test]
fn equal_prompts_are_answered_once_and_written_for_each() {
    let folder = tempfile::tempdir().unwrap();
    // Both of a kind are in the first window.
    let count = 100;
    let once = std::fs::read_to_string(some_questions(folder.path(), count)).unwrap();
    let twice = folder.path().join("twice.jsonl");
    std::fs::write(&twice, once.repeat(2)).unwrap();
    let job = Job::new(&twice, &more("jsonl", 16, 8192));
    let output = job.run_ok(&["--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["engine"]["shared_rows"], count);
    let rows = job.rows();
    assert_eq!(rows.len(), 2 * count);
    for at in 0..count {
        assert_eq!(rows[at]["completion"], rows[at + count]["completion"]);
    }
}

/// Every question of the trained model: the reference's own greedy ids.
#[test]
fn trained_model_gives_the_reference_ids() {
    let Some(model) = shared("fixtures/glm-tiny-zh") else {
        return;
    };
    let reference = std::fs::read_to_string(model.join("reference_greedy.jsonl")).unwrap();
    let wanted: Vec<Value> = reference
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let questions = model.join("qa.jsonl");
    let parquet = folder.path().join("qa.parquet");
    as_parquet(&questions, &parquet);
    let mut first: Option<Vec<(String, Vec<u8>)>> = None;
    for (input, batch) in [
        (&questions, 64),
        (&questions, 7),
        (&questions, 1),
        (&parquet, 64),
    ] {
        let job = Job::of_model(&model, input, COLUMNS, &more("parquet", batch, 8192));
        job.run_ok(&[]);
        let rows = job.rows();
        assert_eq!(rows.len(), wanted.len());
        for (row, wanted) in rows.iter().zip(&wanted) {
            assert_eq!(row["token_ids"], wanted["generated"], "{}", row["id"]);
        }
        let files = job.files("parts");
        assert!(
            *first.get_or_insert(files.clone()) == files,
            "batch {batch} of {}",
            input.display()
        );
    }
}
