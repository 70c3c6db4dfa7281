//! `prompt.reserve = false`: the prompt comes first, and its answer gets what is left.

use std::path::Path;

use serde_json::Value;

use crate::support::{Job, both, demo_model, demo_questions, some_questions};

const COLUMNS: &str =
    "columns = { id = \"id\", prompt = \"question\", prefix = \"prefix\", reference = \"answer\" }";

const RESERVE_NOTHING: [&str; 2] = ["--set", "prompt.reserve=false"];

/// The demonstration within so many tokens: all of it, or its first 40 questions.
fn job(max_length: u32, input: &Path) -> Job {
    let more = format!(
        "format = \"jsonl\"\ntoken_ids = true\n[prompt]\nmax_length = {max_length}\n[generation]\nmax_new_tokens = 24\n"
    );
    let job = Job::of_model(&demo_model(), input, COLUMNS, &more);
    some_questions(job.folder.path(), 40);
    job
}

fn small_job(max_length: u32) -> Job {
    job(max_length, Path::new("questions.jsonl"))
}

/// The report of a run or a plan, as JSON.
fn report(job: &Job, command: &str, args: &[&str]) -> Value {
    let args = [&[command, "job.toml", "--json"], args].concat();
    let output = job.command(&args).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn number(row: &Value, column: &str) -> u64 {
    row[column].as_u64().unwrap()
}

#[test]
fn no_question_is_cut_for_its_answer() {
    for (set, cut, right) in [(&[][..], 8, 391), (&RESERVE_NOTHING[..], 0, 399)] {
        // With the default, 40 tokens are left for these questions.
        let job = job(64, &demo_questions());
        assert_eq!(report(&job, "plan", set)["truncated"], cut, "{set:?}");
        let totals = &report(&job, "run", set)["totals"];
        let found = (
            number(totals, "truncated"),
            number(totals, "exact"),
            number(totals, "referenced"),
        );
        assert_eq!(found, (cut, right, 399), "{set:?}");
        for row in job.rows() {
            let tokens = number(&row, "prompt_tokens") + number(&row, "completion_tokens");
            assert!(tokens <= 64, "{row}");
        }
        let record = std::fs::read_to_string(job.path("out/job.json")).unwrap();
        assert_eq!(record.contains("reserve"), !set.is_empty());
    }
}

#[test]
fn an_answer_may_be_allowed_more_than_all_is_long() {
    let job = small_job(64);
    let many = ["--set", "generation.max_new_tokens=500"];
    let refused = job.run(&many);
    assert_eq!(refused.status.code(), Some(2), "{}", both(&refused));
    assert!(
        both(&refused).contains("`prompt.reserve = false`"),
        "{}",
        both(&refused)
    );
    let args = [RESERVE_NOTHING, many].concat();
    assert_eq!(report(&job, "run", &args)["totals"]["exact"], 40);
}

#[test]
fn a_prompt_that_is_too_long_by_itself_leaves_one_token() {
    let longest = small_job(64);
    longest.run_ok(&RESERVE_NOTHING);
    let most = longest.rows();
    let most = most.iter().map(|row| number(row, "prompt_tokens")).max();
    // One token fewer than the longest question and one answer token need.
    let max_length = most.unwrap() as u32;
    let cut = small_job(max_length);
    let rows_cut = report(&cut, "run", &RESERVE_NOTHING)["totals"]["truncated"].clone();
    assert!(rows_cut.as_u64().unwrap() > 0);
    let rows = cut.rows();
    let full = rows
        .iter()
        .filter(|row| number(row, "prompt_tokens") >= u64::from(max_length) - 1);
    for row in full {
        assert_eq!(number(row, "prompt_tokens"), u64::from(max_length) - 1);
        assert_eq!(number(row, "completion_tokens"), 1, "{row}");
    }
    let failing = small_job(max_length);
    let set = [&RESERVE_NOTHING[..], &["--set", "prompt.overflow=fail"]].concat();
    assert_eq!(report(&failing, "run", &set)["totals"]["bad"], rows_cut);
}

#[test]
fn answers_do_not_depend_on_the_batch() {
    let parts: Vec<_> = ["1", "7", "64"]
        .iter()
        .map(|rows| {
            let job = small_job(64);
            let set = format!("batch.max_batch_size={rows}");
            job.run_ok(&[&RESERVE_NOTHING[..], &["--set", &set]].concat());
            job.files("parts")
        })
        .collect();
    assert!(parts[0] == parts[1] && parts[0] == parts[2]);
}

#[test]
fn the_key_is_fixed_by_the_first_run() {
    let job = small_job(64);
    job.run_ok(&[]);
    let changed = job.run(&RESERVE_NOTHING);
    assert_eq!(changed.status.code(), Some(2), "{}", both(&changed));
    assert!(
        both(&changed).contains("prompt.reserve"),
        "{}",
        both(&changed)
    );
}

#[test]
fn a_limit_beyond_the_model_is_said() {
    let job = small_job(5000);
    for command in ["plan", "run"] {
        let output = job.command(&[command, "job.toml"]).output().unwrap();
        assert!(
            both(&output).contains("note: `prompt.max_length` is 5000, more than this model has"),
            "{}",
            both(&output)
        );
    }
}
