//! Stops the real process before and after every durable step, goes on, and wants each row exactly
//! once and the same bytes as an unbroken run. Needs the feature `failpoints`.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests"
)]

#[path = "it/support.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod support;

use std::path::Path;
use std::process::Output;

use glm_batch::internals::fsio::FAILPOINTS;
use support::{Job, both, demo_questions};

const MORE: &str = "format = \"jsonl\"\n[prompt]\nmax_length = 96\n[generation]\nmax_new_tokens = 24\n[batch]\nmax_batch_size = 16\nwindow_rows = 40\n[checkpoint]\ninterval_seconds = 0\n";

/// Which of a failpoint's hits the process is stopped at.
const HITS: [usize; 8] = [0, 1, 2, 3, 5, 8, 13, 21];

/// Those of a job with phases: fewer, and later ones.
const PHASE_HITS: [usize; 6] = [0, 1, 4, 9, 20, 34];

/// A job with two bad rows among a hundred questions, its input in its own folder.
fn job() -> Job {
    let text = std::fs::read_to_string(demo_questions()).unwrap();
    let mut lines: Vec<&str> = text.lines().take(100).collect();
    lines.insert(7, "broken line");
    lines.insert(60, "{\"question\": \"\"}");
    let job = Job::new(Path::new("questions.jsonl"), MORE);
    std::fs::write(job.path("questions.jsonl"), lines.join("\n")).unwrap();
    job
}

/// A job of the task `preference` with a bad row among seven questions, which goes through all phases.
fn job_with_phases() -> Job {
    let text = std::fs::read_to_string(demo_questions()).unwrap();
    let mut lines: Vec<&str> = text.lines().take(7).collect();
    lines.insert(2, "broken line");
    let (model, root) = (support::demo_model(), env!("CARGO_MANIFEST_DIR"));
    let more = format!(
        "format = \"jsonl\"\n[reward]\nmodel = \"{}\"\noverlay = \"{root}/examples/demo/reward/reward_delta.safetensors\"\n[generation]\ndo_sample = true\nnum_return_sequences = 2\ntemperature = 2.0\nmax_new_tokens = 4\n[batch]\nwindow_rows = 4\n[checkpoint]\ninterval_seconds = 0\n",
        model.display()
    );
    let job = Job::new(Path::new("questions.jsonl"), &more);
    let text = std::fs::read_to_string(job.path("job.toml")).unwrap();
    let text = text.replacen("name =", "task = \"preference\"\nname =", 1);
    std::fs::write(job.path("job.toml"), text).unwrap();
    std::fs::write(job.path("questions.jsonl"), lines.join("\n")).unwrap();
    job
}

/// The parts of the results and of the phases.
fn parts(job: &Job) -> Vec<Vec<(String, Vec<u8>)>> {
    let folders = ["parts", "phases/samples/parts", "phases/rewards/parts"];
    folders.map(|folder| job.files(folder)).into()
}

/// The failed rows, without the folder that the job happens to be in.
fn failed(job: &Job) -> Vec<(String, String)> {
    let folder = job.folder.path().display().to_string();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&folder, "");
    job.files("failed")
        .into_iter()
        .map(|(name, bytes)| (name, text(bytes)))
        .collect()
}

fn run_with(job: &Job, failpoints: &str) -> Output {
    job.command(&["run", "job.toml", "--quiet"])
        .env("FAILPOINTS", failpoints)
        .output()
        .unwrap()
}

/// Stops at the failpoint's n-th hit in every way; true where the run came to that hit.
fn stops(new: fn() -> Job, unbroken: &Job, point: &str, hit: usize, action: &str) -> bool {
    let job = new();
    let setting = format!("{point}={hit}*off->1*{action}->off");
    let stopped = run_with(&job, &setting);
    let end = job.run(&["--quiet"]);
    assert_eq!(end.status.code(), Some(0), "{setting}: {}", both(&end));
    assert!(parts(&job) == parts(unbroken), "{setting}: parts differ");
    assert!(
        failed(&job) == failed(unbroken),
        "{setting}: failed rows differ"
    );
    let verified = job.command(&["verify", "out"]).output().unwrap();
    assert_eq!(
        verified.status.code(),
        Some(0),
        "{setting}: {}",
        both(&verified)
    );
    stopped.status.code() != Some(0)
}

#[test]
fn every_durable_step_may_be_the_last() {
    let unbroken = job();
    unbroken.run_ok(&["--quiet"]);
    let mut reached = Vec::new();
    let mut stops_made = 0;
    for point in FAILPOINTS {
        for hit in HITS {
            if !stops(job, &unbroken, point, hit, "panic") {
                break;
            }
            stops_made += 1;
            reached.push(point);
        }
    }
    reached.dedup();
    eprintln!(
        "{stops_made} stops at {} of {} failpoints",
        reached.len(),
        FAILPOINTS.len()
    );
    for point in [
        "write-before-rename",
        "write-after",
        "append-before-sync",
        "create-after-link",
    ] {
        assert!(reached.contains(&point), "no run came to `{point}`");
    }
}

#[test]
fn every_failed_write_leaves_a_checkpoint_to_go_on_from() {
    let unbroken = job();
    unbroken.run_ok(&["--quiet"]);
    for point in FAILPOINTS {
        for hit in [0, 2, 5] {
            if !stops(job, &unbroken, point, hit, "return") {
                break;
            }
        }
    }
}

#[test]
fn every_durable_step_of_a_phase_may_be_the_last() {
    let unbroken = job_with_phases();
    unbroken.run_ok(&["--quiet"]);
    assert!(parts(&unbroken).iter().all(|parts| parts.len() == 2));
    let mut stops_made = 0;
    for point in FAILPOINTS {
        for hit in PHASE_HITS {
            if !stops(job_with_phases, &unbroken, point, hit, "panic") {
                break;
            }
            stops_made += 1;
        }
    }
    assert!(stops_made > 15, "{stops_made} stops");
}

/// An export has its file whole or not at all, whatever step is the last.
#[test]
fn an_export_that_is_stopped_leaves_a_whole_file_or_none() {
    let job = job();
    job.run_ok(&["--quiet"]);
    let export = |name: &str, failpoints: &str| {
        let args = ["export", "out", "--to", "messages", "--output", name];
        let mut command = job.command(&args);
        command.env("FAILPOINTS", failpoints).output().unwrap()
    };
    let unbroken = export("whole.jsonl", "");
    assert_eq!(unbroken.status.code(), Some(0), "{}", both(&unbroken));
    let whole = std::fs::read(job.path("whole.jsonl")).unwrap();
    let mut stops_made = 0;
    for (number, point) in FAILPOINTS.iter().enumerate() {
        for action in ["panic", "return"] {
            let name = format!("{action}-{number}.jsonl");
            let stopped = export(&name, &format!("{point}=1*{action}->off"));
            stops_made += usize::from(stopped.status.code() != Some(0));
            let card = job.path(&format!("{name}.card.md"));
            assert!(
                card.exists() || !job.path(&name).exists(),
                "{point}, {action}: no card"
            );
            if !job.path(&name).exists() {
                let again = export(&name, "");
                assert_eq!(again.status.code(), Some(0), "{point}: {}", both(&again));
            }
            assert!(
                std::fs::read(job.path(&name)).unwrap() == whole,
                "{point}, {action}"
            );
        }
    }
    // Before it is made, before it is synced, the steps of its card, and before and after it has its name.
    assert!(stops_made >= 8, "{stops_made}");
}
