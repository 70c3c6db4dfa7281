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

/// Copies a folder with everything in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Windows that a folder has committed; `None` where that cannot be read.
fn committed(folder: &Path) -> Option<Vec<u64>> {
    let Ok(text) = std::fs::read(folder.join("manifest/shard-0.json")) else {
        return Some(Vec::new());
    };
    let manifest: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let windows = manifest["windows"].as_array()?;
    windows
        .iter()
        .map(|window| window["window"].as_u64())
        .collect()
}

/// A repair that is stopped leaves no window of a later phase that an earlier one has lost, and what is damaged is
/// still found as long as anything made of it is there.
#[test]
fn every_step_of_a_repair_may_be_the_last() {
    let job = job_with_phases();
    job.run_ok(&["--quiet"]);
    let unbroken = parts(&job);
    let (out, sound) = (job.path("out"), job.path("sound"));
    copy(&out, &sound);
    let verify = |args: &[&str], failpoints: &str| {
        let mut command = job.command(&[&["verify", "out"], args].concat());
        command.env("FAILPOINTS", failpoints).output().unwrap()
    };
    let mut between = 0;
    for damaged in [
        "phases/samples/parts/part-000001.jsonl",
        "phases/samples/manifest/shard-0.json",
        "phases/rewards/manifest/shard-0.json",
    ] {
        let mut stops_made = 0;
        for point in FAILPOINTS {
            for hit in 0.. {
                std::fs::remove_dir_all(&out).unwrap();
                copy(&sound, &out);
                let mut bytes = std::fs::read(out.join(damaged)).unwrap();
                bytes[0] ^= 1;
                std::fs::write(out.join(damaged), bytes).unwrap();
                let setting = format!("{damaged}: {point}={hit}*off->1*panic->off");
                let stopped = verify(&["--repair"], setting.rsplit(' ').next().unwrap());
                if stopped.status.code() == Some(75) {
                    break;
                }
                stops_made += 1;
                let windows = ["", "phases/rewards", "phases/samples"]
                    .map(|folder| committed(&out.join(folder)));
                for pair in windows.windows(2) {
                    if let [Some(later), Some(earlier)] = pair {
                        let lost = later.iter().find(|&window| !earlier.contains(window));
                        assert_eq!(lost, None, "{setting}: {windows:?}");
                    }
                }
                let all = windows[0].as_ref().is_some_and(|found| found.len() == 2);
                between += usize::from(!all && out.join(damaged).exists());
                let found = verify(&[], "").status.code();
                assert!(!all || found == Some(2), "{setting}: {found:?}");
                // A window that is made again is right, or the run names the damage.
                let run = job.run(&["--quiet"]);
                let is_done = run.status.code() == Some(0);
                assert!(!is_done || all || parts(&job) == unbroken, "{setting}");
                verify(&["--repair"], "");
                job.run_ok(&["--quiet"]);
                assert!(parts(&job) == unbroken, "{setting}: parts differ");
                assert_eq!(verify(&[], "").status.code(), Some(0), "{setting}");
            }
        }
        eprintln!("{damaged}: {stops_made} stops");
        assert!(stops_made > 6, "{damaged}: {stops_made} stops");
    }
    assert!(between > 6, "{between} stops between the folders");
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
