//! Rows in flight that a job leaves open: what an engine tries, what a job keeps, and that no answer follows from it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use glm_batch::internals::engine::{Engine, Learned, Request, Tuning};
use glm_batch::internals::ids::{RowId, WindowId};
use glm_batch::internals::outcome::Outcome;
use glm_batch::internals::plan::Budget;
use proptest::prelude::*;
use serde_json::Value;

use crate::engine::{
    BUDGET, Bytes, FakeModel, alone, finish, greedy, request, requests, sampled, searched,
};
use crate::support::{Job, both, demo_model, some_questions};

/// What was kept, and how often.
type Kept = Arc<Mutex<Vec<Learned>>>;

/// An engine that begins with so many rows, and what it keeps.
fn tuned(model: FakeModel, first: usize) -> (Engine, Kept) {
    let model = FakeModel {
        may_split: true,
        ..model
    };
    let kept = Kept::default();
    let told = Arc::clone(&kept);
    let engine = Engine::new(Box::new(model), Arc::new(Bytes), BUDGET);
    let tuning = Tuning::new(first, move |learned| {
        told.lock().unwrap().push(learned.clone());
    });
    (engine.tuned_by(tuning), kept)
}

/// Rows with samples and beams among them, whose answers are long enough for a trial.
fn rows(count: u64) -> Vec<Request> {
    let settings = [greedy(), sampled(1), sampled(3), searched(2, 1)].map(Arc::new);
    let row = |row: u64| {
        let length = 1 + (row * 7 % 40) as usize;
        let most = 1 + (row * 11 % 60) as u32;
        request(row, length, most, &settings[row as usize % 4])
    };
    (0..count).map(row).collect()
}

fn expected(rows: &[Request]) -> BTreeMap<RowId, Outcome> {
    rows.iter().map(|row| (row.row, alone(row))).collect()
}

#[test]
fn steps_in_two_calls_give_the_answers_of_rows_alone() {
    let rows = rows(200);
    let model = FakeModel::default();
    let log = Arc::clone(&model.log);
    let (mut engine, _) = tuned(model, 4);
    assert_eq!(engine.budget().max_batch_size, 4);
    engine.submit(WindowId(0), rows.clone());
    assert_eq!(finish(&mut engine), expected(&rows));
    let statistics = engine.statistics();
    let calls = log.lock().unwrap().decodes.len() as u64;
    assert!(
        calls >= statistics.decode_steps + 4,
        "{calls}: {statistics:?}"
    );
    assert!(statistics.peak_slots >= 7, "{statistics:?}");
    assert!((0.0..1.0).contains(&statistics.idle_share()));
    assert!(statistics.slots_in_use() <= statistics.peak_slots as f64);
}

#[test]
fn a_number_is_kept_once_it_is_found() {
    // With 128 rows, one trial decides.
    let rows: Vec<Request> = (0..700)
        .map(|row| request(row, 3, 40, &Arc::new(greedy())))
        .collect();
    let budget = 1 << 20;
    let model = FakeModel {
        may_split: true,
        ..FakeModel::default()
    };
    let log = Arc::clone(&model.log);
    let kept = Kept::default();
    let told = Arc::clone(&kept);
    let tuning = Tuning::new(128, move |learned| {
        told.lock().unwrap().push(learned.clone());
    });
    let wide = Budget {
        max_batch_tokens: budget,
        ..BUDGET
    };
    let mut engine = Engine::new(Box::new(model), Arc::new(Bytes), wide).tuned_by(tuning);
    engine.submit(WindowId(0), rows.clone());
    assert_eq!(finish(&mut engine).len(), rows.len());
    let kept = kept.lock().unwrap();
    let [learned] = &kept[..] else {
        panic!("{kept:?}")
    };
    assert!([128, 256].contains(&learned.rows), "{learned:?}");
    assert!(learned.is_enough, "256 are the most");
    assert_eq!(engine.budget().max_batch_size, learned.rows);
    let tried: Vec<usize> = learned.decode.iter().map(|&(rows, _)| rows).collect();
    assert_eq!(tried, [128, 256]);
    assert!(learned.decode.iter().all(|&(_, rate)| rate > 0.0) && learned.prefill > 0.0);
    // Eight pairs, one step of each in two calls.
    let calls = log.lock().unwrap().decodes.len() as u64;
    assert_eq!(calls, engine.statistics().decode_steps + 8);
}

/// Rows of one sample with so many beams, and what a search that begins with `first` rows keeps of them.
fn searched_by(beams: u32, first: usize) -> (Engine, Vec<Learned>) {
    let settings = Arc::new(searched(beams, 1));
    let rows: Vec<Request> = (0..60).map(|row| request(row, 3, 40, &settings)).collect();
    let (mut engine, kept) = tuned(FakeModel::default(), first);
    engine.submit(WindowId(0), rows.clone());
    assert_eq!(finish(&mut engine), expected(&rows));
    let kept = kept.lock().unwrap().clone();
    (engine, kept)
}

#[test]
fn slots_that_are_too_few_for_a_sample_do_not_keep_more_from_being_tried() {
    // Four slots hold one sample of three beams, eight hold two.
    let (_, kept) = searched_by(3, 4);
    let tried: Vec<usize> = kept[0].decode.iter().map(|&(rows, _)| rows).collect();
    assert_eq!(tried, [4, 8]);
}

#[test]
fn a_trial_of_samples_without_two_halves_ends() {
    // Sixteen slots hold three samples of five beams.
    let (engine, kept) = searched_by(5, 8);
    assert!(kept.is_empty(), "{kept:?}");
    assert_eq!(engine.statistics().peak_slots, 15);
    assert_eq!(engine.budget().max_batch_size, 8);
}

#[test]
fn a_short_queue_is_run_as_it_is() {
    let rows: Vec<Request> = (0..11)
        .map(|row| request(row, 9, 40, &Arc::new(greedy())))
        .collect();
    let model = FakeModel::default();
    let log = Arc::clone(&model.log);
    let (mut engine, kept) = tuned(model, 4);
    engine.submit(WindowId(0), rows.clone());
    assert_eq!(finish(&mut engine), expected(&rows));
    let statistics = engine.statistics();
    assert_eq!(statistics.peak_slots, 4);
    assert_eq!(
        log.lock().unwrap().decodes.len() as u64,
        statistics.decode_steps
    );
    assert!(kept.lock().unwrap().is_empty());
}

#[test]
fn memory_that_allows_no_more_rows_ends_the_search() {
    let rows = rows(60);
    for model in [
        // Twice as many rows are too many to decode, or to hold.
        FakeModel {
            decode_rows: Some(6),
            ..FakeModel::default()
        },
        FakeModel {
            memory: Some(500),
            ..FakeModel::default()
        },
    ] {
        let (mut engine, kept) = tuned(model, 6);
        engine.submit(WindowId(0), rows.clone());
        assert_eq!(finish(&mut engine), expected(&rows));
        assert!(engine.statistics().oom_retries > 0);
        assert_eq!(engine.budget().max_batch_size, 6);
        assert!(kept.lock().unwrap().is_empty());
    }
    // The budget of tokens has no room for a trial.
    let narrow = Budget {
        max_batch_tokens: 300,
        ..BUDGET
    };
    let model = FakeModel::default();
    let engine = Engine::new(Box::new(model), Arc::new(Bytes), narrow);
    let mut engine = engine.tuned_by(Tuning::new(4, |_| panic!("nothing is found")));
    let long: Vec<Request> = (0..40)
        .map(|row| request(row, 30, 30, &Arc::new(greedy())))
        .collect();
    engine.submit(WindowId(0), long.clone());
    assert_eq!(finish(&mut engine), expected(&long));
    assert_eq!(engine.statistics().peak_slots, 4);
}

#[test]
fn memory_may_run_out_at_any_call_of_a_trial() {
    let rows = rows(60);
    let expected = expected(&rows);
    for call in 0..60 {
        let model = FakeModel {
            fails_at: Some(call),
            ..FakeModel::default()
        };
        let (mut engine, kept) = tuned(model, 4);
        engine.submit(WindowId(0), rows.clone());
        assert_eq!(finish(&mut engine), expected, "{call}");
        assert_eq!(engine.statistics().oom_retries, 1, "{call}");
        let limit = engine.budget().max_batch_size;
        let kept = kept.lock().unwrap().last().map(|learned| learned.rows);
        assert!(kept.is_none_or(|rows| rows == limit), "{call}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_search_never_alters_an_answer(
        rows in requests(),
        first in 1..4_usize,
        memory in 180..900_usize,
        fails_at in 0..40_usize,
    ) {
        let expected = expected(&rows);
        let models = [
            FakeModel::default(),
            FakeModel { memory: Some(memory), ..FakeModel::default() },
            FakeModel { fails_at: Some(fails_at), ..FakeModel::default() },
        ];
        for model in models {
            let (mut engine, _) = tuned(model, first);
            engine.submit(WindowId(0), rows.clone());
            prop_assert_eq!(&finish(&mut engine), &expected);
        }
    }
}

const MORE: &str = "format = \"jsonl\"\ntoken_ids = true\n[prompt]\nmax_length = 96\n[generation]\nmax_new_tokens = 24\ndo_sample = true\nlogprobs = true\n";

fn plan(job: &Job, set: &[&str]) -> (Value, String) {
    let set: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
    let of = |more: &[&str]| {
        let args = [&["plan", "job.toml"], &set[..], more].concat();
        let output = job.command(&args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", both(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    (serde_json::from_str(&of(&["--json"])).unwrap(), of(&[]))
}

/// The file of a job's rows beside that of `bench`, which must be there.
fn rows_file(job: &Job) -> PathBuf {
    let folder = job.path("cache/glm-batch");
    let names = std::fs::read_dir(&folder).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let bench: Vec<String> = names.filter(|name| name.starts_with("bench-")).collect();
    assert_eq!(bench.len(), 1, "{bench:?}");
    folder.join(bench[0].replace("bench-", "rows-"))
}

fn peak_slots(job: &Job) -> u64 {
    let report = std::fs::read(job.path("out/report/shard-0.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    report["engine"]["peak_slots"].as_u64().unwrap()
}

#[test]
fn a_job_that_tries_more_rows_gives_the_bytes_of_one_that_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let input = some_questions(folder.path(), 900);
    let (open, set) = (Job::new(&input, MORE), Job::new(&input, MORE));
    open.run_ok(&["--quiet"]);
    set.run_ok(&["--quiet", "--set", "batch.max_batch_size=7"]);
    assert_eq!(open.files("parts"), set.files("parts"));
    assert!(peak_slots(&open) > 64, "{}", peak_slots(&open));
    let names = std::fs::read_dir(open.path("cache/glm-batch")).unwrap();
    let kept: Vec<PathBuf> = names.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    let kept: Value = serde_json::from_slice(&std::fs::read(&kept[0]).unwrap()).unwrap();
    let rows = kept["rows"].as_u64().unwrap();
    assert!([64, 128, 256].contains(&rows), "{kept}");
    let tried = kept["batches"].as_array().unwrap();
    assert!(tried.iter().any(|speed| speed["rows"] == 128), "{kept}");
    assert_eq!(peak_slots(&set), 7);
    let other = set.path("cache/glm-batch");
    assert!(
        !Path::new(&other).exists(),
        "a job with a number keeps none"
    );
}

#[test]
fn a_number_that_was_kept_is_planned_with_and_run() {
    let folder = tempfile::tempdir().unwrap();
    let job = Job::new(&some_questions(folder.path(), 200), MORE);
    let (open, text) = plan(&job, &[]);
    assert_eq!(open["max_batch_size"], 64);
    assert_eq!(open["most_batch_size"], 128);
    assert_eq!(open["statistics"]["peak_slots"], 64);
    assert!(open["estimated_seconds"].is_null(), "{open}");
    assert!(
        text.contains("a run begins with 64 rows in flight and tries up to 128 as it goes")
            && text.contains("time        not known: run `glm-batch bench MODEL --batch 64` first"),
        "{text}"
    );
    let (given, text) = plan(&job, &["batch.max_batch_size=48"]);
    assert_eq!(given["max_batch_size"], 48);
    assert!(given.get("most_batch_size").is_none(), "{given}");
    assert!(!text.contains("a run begins with"), "{text}");

    let model = demo_model();
    let words = ["bench", model.to_str().unwrap(), "--batch", "1,64"];
    let mut command = job.command(&[&words[..], &["--context", "8", "--steps", "2"]].concat());
    assert_eq!(command.output().unwrap().status.code(), Some(0));
    let (one_measured, _) = plan(&job, &[]);
    assert_eq!(
        one_measured["most_batch_size"], 128,
        "64 alone says nothing"
    );

    let file = rows_file(&job);
    let kept = |rows: u32, is_enough: bool| {
        format!(
            "{{\"rows\": {rows}, \"is_enough\": {is_enough}, \"batches\": [{{\"rows\": 64, \"prefill\": 9000.0, \"decode\": 5000.0}}]}}"
        )
    };
    std::fs::write(&file, kept(64, true)).unwrap();
    let (known, text) = plan(&job, &[]);
    assert_eq!(known["max_batch_size"], 64);
    assert!(known.get("most_batch_size").is_none(), "{known}");
    assert!(!text.contains("a run begins with"), "{text}");
    job.run_ok(&["--quiet"]);
    assert_eq!(peak_slots(&job), 64);
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        kept(64, true),
        "it is not tried again"
    );

    // Without `bench`, the speed of the job is what is known.
    std::fs::remove_file(
        file.with_file_name(
            file.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .replace("rows-", "bench-"),
        ),
    )
    .unwrap();
    let (known, text) = plan(&job, &[]);
    assert!(
        known["estimated_seconds"].as_f64().unwrap() > 0.0,
        "{known}"
    );
    assert_eq!(known["calibrated"], false);
    assert!(
        text.contains("at the speed that an earlier job had here"),
        "{text}"
    );

    // What an earlier job has found without trying more goes on from there.
    std::fs::write(&file, kept(64, false)).unwrap();
    let (open, text) = plan(&job, &[]);
    assert_eq!(open["max_batch_size"], 64);
    assert_eq!(open["most_batch_size"], 128);
    assert!(
        text.contains("a run begins with 64 rows in flight"),
        "{text}"
    );

    std::fs::write(&file, kept(65, true)).unwrap();
    assert_eq!(plan(&job, &[]).0["max_batch_size"], 64);
}

#[test]
fn a_job_that_only_reads_tries_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("rows.jsonl");
    let line = "{\"question\": \"首都是哪座城市？\", \"prefix\": \"\", \"t\": \"巴黎\"}\n";
    std::fs::write(&input, line.repeat(400)).unwrap();
    let columns = "columns = { prompt = \"question\", prefix = \"prefix\", target = \"t\" }";
    let job = Job::of_model(&demo_model(), &input, columns, "format = \"jsonl\"\n");
    std::fs::write(
        job.path("job.toml"),
        std::fs::read_to_string(job.path("job.toml"))
            .unwrap()
            .replace("version = 1\n", "version = 1\ntask = \"score\"\n"),
    )
    .unwrap();
    let (plan, text) = plan(&job, &[]);
    assert_eq!(plan["max_batch_size"], 128);
    assert!(
        plan.get("most_batch_size").is_none() && !text.contains("begins with"),
        "{text}"
    );
    job.run_ok(&["--quiet"]);
    assert_eq!(plan["statistics"]["peak_slots"], peak_slots(&job));
}
