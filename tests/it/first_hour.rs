//! A job without a job file, and what a newcomer types by mistake.

use std::path::Path;
use std::process::Output;

use crate::support::{Job, both, demo_model, some_questions, stderr};

const SET: [&str; 5] = [
    "--set=batch.max_batch_size=8",
    "--set=prompt.max_length=96",
    "--set=generation.max_new_tokens=24",
    "--set=output.format=jsonl",
    "--set=input.columns.prefix=prefix",
];

/// A folder with questions and without a job file.
fn place() -> Job {
    let job = Job::new(Path::new("questions.jsonl"), "");
    std::fs::remove_file(job.path("job.toml")).unwrap();
    some_questions(job.folder.path(), 20);
    job
}

fn call(job: &Job, command: &str, input: &str, more: &[&str]) -> Output {
    let model = demo_model();
    let flags = [
        command,
        "--model",
        model.to_str().unwrap(),
        "--input",
        input,
        "--output",
        "out",
    ];
    let args = [&flags[..], &SET[..], more].concat();
    job.command(&args).output().unwrap()
}

#[track_caller]
fn ok(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", both(output));
    both(output)
}

#[track_caller]
fn refused(job: &Job, output: &Output) -> String {
    assert_eq!(output.status.code(), Some(2), "{}", both(output));
    assert!(!job.path("out").exists(), "something was written");
    stderr(output)
}

#[test]
fn a_job_without_a_job_file_runs_resumes_and_keeps_its_file() {
    let job = place();
    let first = ok(&call(&job, "run", "questions.jsonl", &[]));
    assert!(
        first.contains("prompts come from the column `question`"),
        "{first}"
    );
    let kept = std::fs::read_to_string(job.path("out/job.toml")).unwrap();
    assert!(
        kept.contains("columns = { prefix = \"prefix\", prompt = \"question\" }"),
        "{kept}"
    );
    assert!(kept.contains("path = \".\""), "{kept}");
    let rows = job.rows();
    assert_eq!(rows.len(), 20);
    let again = call(
        &job,
        "run",
        "questions.jsonl",
        &["--prompt-column", "question"],
    );
    assert!(ok(&again).contains("finished already"), "{}", both(&again));
    // The kept file works from anywhere, and wherever the folder is moved.
    std::fs::rename(job.path("out"), job.path("moved")).unwrap();
    let by_file = job.command(&["run", "moved/job.toml"]).output().unwrap();
    assert!(
        ok(&by_file).contains("finished already"),
        "{}",
        both(&by_file)
    );
    let restarted = job
        .command(&["run", "moved/job.toml", "--restart"])
        .output()
        .unwrap();
    ok(&restarted);
    assert_eq!(
        std::fs::read_to_string(job.path("moved/job.toml")).unwrap(),
        kept
    );
    assert_eq!(crate::support::rows(&job.path("moved")), rows);
    assert!(job.path("moved.old-1/job.toml").exists());
}

#[test]
fn a_kept_file_that_a_kill_prevented_is_written_by_the_next_run() {
    let job = place();
    ok(&call(&job, "run", "questions.jsonl", &[]));
    std::fs::remove_file(job.path("out/job.toml")).unwrap();
    ok(&call(&job, "run", "questions.jsonl", &[]));
    assert!(job.path("out/job.toml").exists());
}

#[test]
fn a_job_file_of_the_user_is_never_written_over() {
    let job = place();
    std::fs::create_dir(job.path("out")).unwrap();
    std::fs::write(job.path("out/job.toml"), "mine").unwrap();
    let output = call(&job, "run", "questions.jsonl", &[]);
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    assert!(
        stderr(&output).contains("no run has written it"),
        "{}",
        both(&output)
    );
    assert_eq!(
        std::fs::read_to_string(job.path("out/job.toml")).unwrap(),
        "mine"
    );
}

#[test]
fn plan_and_a_dry_run_take_the_same_flags_and_write_nothing() {
    let job = place();
    let plan = call(&job, "plan", "questions.jsonl", &[]);
    let dry = call(&job, "run", "questions.jsonl", &["--dry-run"]);
    assert!(ok(&plan).contains("20 rows in 1 file"), "{}", both(&plan));
    let shown = |output: &Output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines()
            .filter(|line| !line.contains("  time"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(shown(&plan), shown(&dry));
    assert!(!job.path("out").exists());
}

#[test]
fn wrong_input_is_refused_with_the_nearest_names_before_anything_is_written() {
    let job = place();
    let text = refused(&job, &call(&job, "run", "question.jsonl", &[]));
    assert!(
        text.contains("did you mean `") && text.contains("questions.jsonl`?"),
        "{text}"
    );
    let text = refused(&job, &call(&job, "run", "xyz", &[]));
    assert!(
        text.contains("check `--input`; that folder has `questions.jsonl`"),
        "{text}"
    );
    let column = call(
        &job,
        "run",
        "questions.jsonl",
        &["--prompt-column", "questoin"],
    );
    let text = refused(&job, &column);
    assert!(
        text.contains("`questoin` that `--prompt-column` names\nhint: did you mean `question`?"),
        "{text}"
    );
    std::fs::write(job.path("two.jsonl"), "{\"a\": \"x\", \"b\": \"y\"}\n").unwrap();
    let text = refused(
        &job,
        &call(&job, "run", "two.jsonl", &["--set=input.columns={}"]),
    );
    assert!(text.contains("may hold the prompts: `a`, `b`"), "{text}");
    let text = refused(&job, &call(&job, "run", "-", &[]));
    assert!(text.contains("--prompt-column question"), "{text}");
}

#[test]
fn flags_go_with_no_job_file_and_not_alone() {
    let job = place();
    for args in [
        &["run", "job.toml", "--model", "m"][..],
        &["run", "--model", "m"],
        &["run"],
        &["plan", "--input", "x"],
    ] {
        let output = job.command(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", both(&output));
    }
}

#[test]
fn commands_for_an_output_folder_follow_a_job_file() {
    let job = place();
    ok(&call(&job, "run", "questions.jsonl", &[]));
    for command in ["status", "show", "verify"] {
        let followed = ok(&job.command(&[command, "out/job.toml"]).output().unwrap());
        let direct = ok(&job.command(&[command, "out"]).output().unwrap());
        assert_eq!(followed, direct);
        let output = job.command(&[command, "out/job.json"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        assert!(
            stderr(&output).contains("hint: give the folder `out`"),
            "{}",
            both(&output)
        );
    }
}

#[test]
fn failures_are_told_with_reasons_and_the_command_that_shows_them() {
    let job = place();
    let lines = "{\"question\": \"3+5等于几？\"}\n{\"question\": 7}\n{\"question\": 8}\nnot json\n";
    std::fs::write(job.path("mixed.jsonl"), lines).unwrap();
    let flags = [
        "--prompt-column",
        "question",
        "--set=input.columns={ prompt = \"question\" }",
    ];
    let text = ok(&call(&job, "run", "mixed.jsonl", &flags));
    assert!(
        text.contains("    failed     2 at input: prompt column `question` holds the number 7"),
        "{text}"
    );
    let shown = format!("glm-batch show {} --failed", job.path("out").display());
    assert!(text.contains(&shown), "{text}");
    assert!(!text.contains("peak memory"), "{text}");
    let again = ok(&call(
        &job,
        "run",
        "mixed.jsonl",
        &[&flags[..], &["--verbose"]].concat(),
    ));
    assert!(again.contains("\n  pandas  "), "{again}");
}

#[test]
fn plan_says_what_the_output_folder_holds_and_how_bad_rows_end_a_run() {
    let job = place();
    ok(&call(&job, "run", "questions.jsonl", &[]));
    let plan = |more: &[&str]| ok(&call(&job, "plan", "questions.jsonl", more));
    assert!(plan(&[]).contains("holds this job, finished: `run` has nothing left to do"));
    let other = plan(&["--set=generation.seed=7"]);
    assert!(
        other.contains("differs in `generation.seed`: `run` will refuse"),
        "{other}"
    );
    std::fs::write(
        job.path("bad.jsonl"),
        "{\"question\": 7}\n{\"question\": \"\"}\n",
    )
    .unwrap();
    let model = demo_model();
    let args = [
        "plan",
        "--model",
        model.to_str().unwrap(),
        "--input",
        "bad.jsonl",
        "--output",
        "new",
    ];
    let args = [&args[..], &["--prompt-column", "question"]].concat();
    let bad = ok(&job.command(&args).output().unwrap());
    assert!(
        bad.contains("every row is bad: `run` will end with exit code 3"),
        "{bad}"
    );
    assert!(bad.contains("  bad rows    2\n              "), "{bad}");
}

#[test]
fn columns_that_could_be_used_are_told_of() {
    let job = place();
    let said = ok(&call(&job, "plan", "questions.jsonl", &[]));
    let answer = "note: the column `answer` is not used; `--set input.columns.reference=answer` compares the answers with it";
    assert!(said.contains(answer), "{said}");
    assert!(!said.contains("the column `prefix` is not used"), "{said}");
    let columns = "--set=input.columns={ prompt = \"question\", reference = \"answer\" }";
    let said = ok(&call(&job, "plan", "questions.jsonl", &[columns]));
    assert!(
        said.contains("note: the column `prefix` is not used; `--set input.columns.prefix=prefix` begins the answers with it"),
        "{said}"
    );
    assert!(!said.contains("the column `answer` is not used"), "{said}");
    let template = "--set=prompt.template={{ question }}{{ answer }}";
    let said = ok(&call(&job, "plan", "questions.jsonl", &[template]));
    assert!(!said.contains("is not used"), "{said}");
}

#[test]
fn a_finished_job_that_is_run_again_says_its_notes_again() {
    let job = place();
    std::fs::create_dir(job.path("in")).unwrap();
    std::fs::rename(job.path("questions.jsonl"), job.path("in/questions.jsonl")).unwrap();
    std::fs::write(job.path("in/notes.txt"), "of the data").unwrap();
    for _ in 0..2 {
        let said = ok(&call(&job, "run", "in", &["--set=generation.top_k=5"]));
        assert!(said.contains("notes.txt"), "{said}");
        assert!(
            said.contains("`top_k` does nothing while `do_sample = false`"),
            "{said}"
        );
    }
    let shown = job.command(&["show", "out", "--failed"]).output().unwrap();
    assert_eq!(stderr(&shown), "no row has failed\n");
}
