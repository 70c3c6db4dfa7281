//! Runs that must have ended by a time: what they finish, how they say so, and that the answers are the same.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use glm_batch::internals::report::Silent;
use glm_batch::{Deadline, RunEnd, RunOptions, StopFlag};

use crate::support::{Job, both, some_questions, stderr};

const MORE: &str = "format = \"jsonl\"\ntoken_ids = true\n[prompt]\nmax_length = 96\n[generation]\ndo_sample = true\nmax_new_tokens = 24\n[batch]\nmax_batch_size = 8\nwindow_rows = 30\n";

fn job() -> Job {
    job_with(MORE)
}

fn job_with(more: &str) -> Job {
    let job = Job::new(Path::new("questions.jsonl"), more);
    some_questions(job.folder.path(), 70);
    job
}

/// Far more than the rows in flight need, and less than the grace.
const NEAR: Duration = Duration::from_secs(1000);

/// A run in this process, by a clock that the test drives.
fn run_by(job: &Job, left: impl Fn() -> Duration + Send + Sync + 'static) -> RunEnd {
    let spec = glm_batch::internals::job::load(&job.path("job.toml"), &[]).unwrap();
    let options = RunOptions {
        grace: 2 * NEAR,
        deadline: Some(Deadline::told_by(left)),
        ..RunOptions::default()
    };
    let stop = StopFlag::default();
    let (_, end) = glm_batch::run(&spec, &options, &stop, &mut Silent).unwrap();
    end
}

#[test]
fn runs_that_have_time_for_one_batch_each_finish_the_job_with_the_same_bytes() {
    let whole = job();
    whole.run_ok(&[]);
    let pieces = job();
    let mut runs = 0;
    loop {
        runs += 1;
        match run_by(&pieces, || NEAR) {
            RunEnd::OutOfTime { rows } => assert!(rows > 0, "rows in flight end before NEAR"),
            RunEnd::Finished { .. } => break,
            other => panic!("{other:?}"),
        }
        let verified = pieces.command(&["verify", "out"]).output().unwrap();
        assert_eq!(verified.status.code(), Some(75), "{}", both(&verified));
    }
    assert!(runs > 2, "{runs} runs");
    assert!(whole.files("parts") == pieces.files("parts"));
}

#[test]
fn a_run_without_time_for_a_row_says_that_it_finished_none() {
    // No row can end before the deadline is looked at: it needs seconds.
    let long = "max_new_tokens = 64\nmin_new_tokens = 60\nnum_return_sequences = 1000";
    let job = job_with(&MORE.replace("max_new_tokens = 24", long));
    assert_eq!(
        run_by(&job, || Duration::ZERO),
        RunEnd::OutOfTime { rows: 0 }
    );
    assert_eq!(job.files("parts"), []);
}

#[test]
fn a_deadline_that_is_far_changes_nothing() {
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&looks);
    let job = job();
    let end = run_by(&job, move || {
        counted.fetch_add(1, Ordering::SeqCst);
        100 * NEAR
    });
    assert_eq!(end, RunEnd::Finished { already: false });
    assert!(looks.load(Ordering::SeqCst) > 0);
}

#[test]
fn the_command_line_and_slurm_give_a_deadline() {
    let job = job();
    // The grace is longer than what is left, so that one batch is all.
    let args = ["--deadline", "1h", "--grace", "7200"];
    let output = job.run(&args);
    assert_eq!(output.status.code(), Some(75), "{}", both(&output));
    let text = stderr(&output);
    assert!(
        text.contains("the deadline is near: no more rows start"),
        "{text}"
    );
    let last = text.lines().last().unwrap();
    assert!(
        last.starts_with("exit 75: the deadline came after "),
        "{last}"
    );
    let mut slurm = job.command(&["run", "job.toml", "--grace", "1e8"]);
    let in_2100 = slurm.env("SLURM_JOB_END_TIME", "4102444800");
    let output = in_2100.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    let text = stderr(&output);
    assert!(
        text.contains("Slurm ends this job at 2100-01-01T00:00:00Z"),
        "{text}"
    );
}

#[test]
fn a_deadline_that_is_past_is_refused_and_slurms_is_ignored() {
    let job = job();
    let refused = job.run(&["--deadline", "2020-01-01T00:00:00Z"]);
    assert_eq!(refused.status.code(), Some(2), "{}", both(&refused));
    assert!(
        stderr(&refused).contains("hint: give a later time"),
        "{}",
        both(&refused)
    );
    assert!(!job.path("out").exists());
    let refused = job.run(&["--deadline", "soon"]);
    assert_eq!(refused.status.code(), Some(2), "{}", both(&refused));
    assert!(stderr(&refused).contains("`1h30m`"), "{}", both(&refused));
    let mut slurm = job.command(&["run", "job.toml"]);
    let output = slurm.env("SLURM_JOB_END_TIME", "1000").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    assert!(
        stderr(&output).contains("is past, and is ignored"),
        "{}",
        both(&output)
    );
}
