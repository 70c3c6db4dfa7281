//! A run that is killed, signalled, changed or doubled.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use glm_batch::internals::checkpoint::OutputFolder;
use glm_batch::internals::ids::ShardId;

use crate::support::{self, Job, both, demo_questions, shared, some_questions, stderr};

const MORE: &str = "format = \"jsonl\"\n[prompt]\nmax_length = 96\n[generation]\nmax_new_tokens = 24\n[batch]\nmax_batch_size = 8\nwindow_rows = 50\n[checkpoint]\ninterval_seconds = 0.05\n";

/// Pseudo-random numbers for the moments of the kills; printed, so that a failure can be repeated.
struct Moments(u64);

impl Moments {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Runs the job, kills it after a while, again and again, then lets it end.
fn run_with_kills(job: &Job, kills: usize, longest: Duration) -> usize {
    let seed = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let mut moments = Moments(seed.as_nanos() as u64);
    eprintln!("seed of the kills: {}", moments.0);
    let mut killed = 0;
    for _ in 0..kills {
        let mut child = job
            .command(&["run", "job.toml", "--quiet"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Well inside the run, so that the first one at least is killed.
        let moment = moments.below(longest.as_micros() as u64 / 3);
        let until = Instant::now() + Duration::from_micros(moment);
        while Instant::now() < until && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        killed += usize::from(child.try_wait().unwrap().is_none());
        // SIGKILL; a process that has ended already is no matter.
        let _ = child.kill();
        child.wait().unwrap();
    }
    job.run_ok(&[]);
    killed
}

#[test]
fn a_killed_run_ends_with_the_same_bytes() {
    for format in ["jsonl", "parquet"] {
        let more = MORE.replace("jsonl", format);
        let unbroken = Job::new(&demo_questions(), &more);
        let started = Instant::now();
        unbroken.run_ok(&[]);
        let took = started.elapsed();
        let broken = Job::new(&demo_questions(), &more);
        let killed = run_with_kills(&broken, 10, took);
        assert!(killed > 0, "no run lived long enough to be killed");
        assert!(broken.files("parts") == unbroken.files("parts"), "{format}");
        assert!(
            broken.files("failed") == unbroken.files("failed"),
            "{format}"
        );
        assert_eq!(broken.files("journal"), []);
        let verified = broken.command(&["verify", "out"]).output().unwrap();
        assert_eq!(verified.status.code(), Some(0), "{}", both(&verified));
    }
}

/// Real prompts of one input file, killed at random moments, whole and in three shards at once.
#[test]
fn real_prompts_survive_kills_and_shards() {
    let (Some(input), Some(model)) = (
        shared("data/shards/zh_questions-00003-of-00008.parquet"),
        shared("fixtures/glm-tiny-zh"),
    ) else {
        return;
    };
    let columns = "columns = { prompt = \"prompt\", prefix = \"prefix\" }";
    let more = "format = \"FORMAT\"\n[prompt]\nmax_length = 64\n[generation]\nmax_new_tokens = 4\n[batch]\nwindow_rows = 64\n[checkpoint]\ninterval_seconds = 0.2\n";
    for format in ["parquet", "jsonl"] {
        let more = more.replace("FORMAT", format);
        let unbroken = Job::of_model(&model, &input, columns, &more);
        let started = Instant::now();
        unbroken.run_ok(&[]);
        let took = started.elapsed();
        let rows = unbroken.rows();
        assert_eq!(rows.len(), 615);
        assert!(
            rows.iter().enumerate().all(|(at, row)| row["row"] == at),
            "rows out of order"
        );
        let broken = Job::of_model(&model, &input, columns, &more);
        let killed = run_with_kills(&broken, 10, took);
        assert!(killed > 0, "no run lived long enough to be killed");
        assert!(
            broken.files("parts") == unbroken.files("parts"),
            "{format}: killed"
        );
        let sharded = Job::of_model(&model, &input, columns, &more);
        let text = std::fs::read_to_string(sharded.path("job.toml")).unwrap();
        std::fs::write(
            sharded.path("job.toml"),
            text.replace("name =", "shards = 3\nname ="),
        )
        .unwrap();
        let mut workers: Vec<_> = (0..3)
            .map(|i| {
                let shard = format!("{i}/3");
                sharded
                    .command(&["run", "job.toml", "--quiet", "--shard", &shard])
                    .spawn()
                    .unwrap()
            })
            .collect();
        for worker in &mut workers {
            assert!(worker.wait().unwrap().success());
        }
        assert!(
            sharded.files("parts") == unbroken.files("parts"),
            "{format}: three shards"
        );
    }
}

#[cfg(unix)]
#[test]
fn a_signal_ends_with_75_and_keeps_what_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let input = some_questions(folder.path(), 20_000);
    let job = Job::new(
        &input,
        &MORE
            .replace("window_rows = 50", "window_rows = 20000")
            .replace("[generation]", "[generation]\ndo_sample = true"),
    );
    let child = job
        .command(&["run", "job.toml", "--quiet", "--grace", "0"])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let journal = job.path("out/journal/window-000000.jsonl");
    while std::fs::metadata(&journal).map_or(0, |found| found.len()) == 0 {
        std::thread::yield_now();
    }
    Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status()
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(75), "{}", both(&output));
    let text = stderr(&output);
    assert!(text.contains("exit 75: interrupted with "), "{text}");
    assert!(
        text.ends_with(" done, the checkpoint is valid: run the same command again\n"),
        "{text}"
    );
    let status = job.command(&["status", "out", "--json"]).output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert!(status["journalled_rows"].as_u64().unwrap() > 0, "{status}");
    let verified = job.command(&["verify", "out"]).output().unwrap();
    assert_eq!(verified.status.code(), Some(75), "{}", both(&verified));
}

#[test]
fn a_finished_job_is_a_no_op() {
    let job = Job::new(&demo_questions(), MORE);
    job.run_ok(&[]);
    let before = job.files("parts");
    let again = job.run_ok(&[]);
    assert!(
        stderr(&again).contains("finished already"),
        "{}",
        both(&again)
    );
    assert!(String::from_utf8_lossy(&again.stdout).contains("finished"));
    assert!(job.files("parts") == before);
}

#[test]
fn a_finished_job_needs_its_model_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    std::fs::create_dir(&model).unwrap();
    for (name, bytes) in support::files(&support::demo_model()) {
        std::fs::write(model.join(name), bytes).unwrap();
    }
    let input = support::some_questions(folder.path(), 5);
    let columns = "columns = { prompt = \"question\", prefix = \"prefix\" }";
    let job = Job::of_model(&model, &input, columns, "");
    job.run_ok(&[]);

    // Another tokenizer is another job, finished or not.
    let config = std::fs::read(model.join("config.json")).unwrap();
    std::fs::write(model.join("config.json"), [&config[..], b"\n"].concat()).unwrap();
    let output = job.run(&[]);
    assert_eq!(output.status.code(), Some(2), "{}", support::both(&output));

    std::fs::remove_dir_all(&model).unwrap();
    let output = job.run_ok(&[]);
    assert!(
        support::stderr(&output).contains("finished already"),
        "{}",
        support::both(&output)
    );
}

#[test]
fn a_changed_job_is_refused_with_the_difference() {
    let job = Job::new(&demo_questions(), MORE);
    job.run_ok(&[]);
    let changed = job.run(&["--set", "generation.repetition_penalty=1.5"]);
    assert_eq!(changed.status.code(), Some(2));
    let text = stderr(&changed);
    assert!(
        text.contains("`generation.repetition_penalty` was `1.0`, is now `1.5`"),
        "{text}"
    );
    assert!(text.contains("--restart"), "{text}");
    job.run_ok(&["--set", "batch.max_batch_size=3", "--set", "name=other"]);
    job.run_ok(&["--restart", "--set", "generation.repetition_penalty=1.5"]);
    assert!(job.path("out.old-1/parts").exists());
}

#[test]
fn changed_input_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let input = some_questions(folder.path(), 30);
    let job = Job::new(&input, MORE);
    job.run_ok(&[]);
    let text = std::fs::read_to_string(&input).unwrap();
    std::fs::write(&input, text.replacen('?', "!", 1).replacen('？', "！", 1)).unwrap();
    let changed = job.run(&[]);
    assert_eq!(changed.status.code(), Some(2), "{}", both(&changed));
    assert!(
        stderr(&changed).contains("questions.jsonl"),
        "{}",
        both(&changed)
    );
}

#[test]
fn moved_input_with_equal_content_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let input = some_questions(folder.path(), 30);
    let job = Job::new(&input, MORE);
    job.run_ok(&[]);
    let moved = folder.path().join("elsewhere.jsonl");
    std::fs::rename(&input, &moved).unwrap();
    job.run_ok(&[
        "--set",
        &format!("input.path={:?}", moved.display().to_string()),
    ]);
}

#[test]
fn a_lost_part_is_named_and_repaired() {
    let job = Job::new(&demo_questions(), MORE);
    job.run_ok(&[]);
    let before = job.files("parts");
    std::fs::remove_file(job.path("out/parts/part-000001.jsonl")).unwrap();
    let lost = job.run(&[]);
    assert_eq!(lost.status.code(), Some(2), "{}", both(&lost));
    assert!(
        stderr(&lost).contains("part-000001.jsonl"),
        "{}",
        both(&lost)
    );
    assert!(stderr(&lost).contains("verify --repair"), "{}", both(&lost));
    let repaired = job
        .command(&["verify", "out", "--repair"])
        .output()
        .unwrap();
    assert_eq!(repaired.status.code(), Some(75), "{}", both(&repaired));
    job.run_ok(&[]);
    assert!(job.files("parts") == before);
}

#[test]
fn a_second_writer_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let input = some_questions(folder.path(), 20_000);
    let more = MORE.replace("[generation]", "[generation]\ndo_sample = true");
    let job = Job::new(&input, &more);
    let mut first = job
        .command(&["run", "job.toml", "--quiet"])
        .spawn()
        .unwrap();
    let owner = OutputFolder::at(&job.path("out")).owner(ShardId(0));
    while !owner.exists() && first.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    let second = job.run(&["--quiet"]);
    let _ = first.kill();
    first.wait().unwrap();
    assert_eq!(second.status.code(), Some(75), "{}", both(&second));
}
