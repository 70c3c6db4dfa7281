//! The phases of `task = "preference"`: kills in each, shards, trials, what is looked at, verified and repaired, and the
//! reward model.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::preference::{
    COLUMNS, DRAW, by_row, check_pairs, instead, judge, of_input, overlay, phase_rows, results,
    reward,
};
use crate::support::{Job, both, demo_model, files, rows, shared, some_questions, stderr};

/// Durable steps of a phase after which its kills come: none is the moment after its lock is taken.
const STEPS: [usize; 6] = [0, 1, 2, 3, 5, 8];

/// Whether a process has the shard of a phase.
fn is_owner(folder: &Path, child: &Child) -> bool {
    let text = std::fs::read(folder.join("locks/shard-0.json")).unwrap_or_default();
    let owner: Value = serde_json::from_slice(&text).unwrap_or_default();
    owner["pid"] == child.id()
}

/// Names and sizes of what a phase has written; each durable step changes them.
fn written(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for name in ["journal", "parts", "failed", "manifest"] {
        let Ok(entries) = std::fs::read_dir(folder.join(name)) else {
            continue;
        };
        for entry in entries.flatten() {
            // It may be gone by now.
            let bytes = entry.metadata().map_or(0, |data| data.len());
            found.push((entry.path(), bytes));
        }
    }
    found.sort();
    found
}

/// Kills a run once it has a phase and has made so many steps in it. False where it left the phase before that.
fn kill_in_phase(job: &Job, phase: &str, steps: usize) -> bool {
    let folder = job.path("out").join(phase);
    let mut child = job
        .command(&["run", "job.toml", "--quiet"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !is_owner(&folder, &child) && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    let (mut seen, mut before) = (0, written(&folder));
    while seen < steps && is_owner(&folder, &child) {
        let now = written(&folder);
        seen += usize::from(now != before);
        before = now;
    }
    let _ = child.kill();
    child.wait().unwrap();
    // A run that leaves a phase gives its shard back, so the name is there only where the kill came before.
    seen == steps && is_owner(&folder, &child)
}

/// The manifests of a job and of its phases, but for the job that they name.
fn manifests(job: &Job) -> Vec<String> {
    let folders = [".", "phases/samples", "phases/rewards"];
    let manifest = |folder| {
        let path = job.path("out").join(folder).join("manifest/shard-0.json");
        let text = std::fs::read_to_string(path).unwrap();
        let is_named =
            |line: &&str| line.starts_with("  \"job\": ") || line.starts_with("  \"crc\": ");
        let lines = text.lines().filter(|line| !is_named(line));
        lines.collect::<Vec<_>>().join("\n")
    };
    folders.map(manifest).to_vec()
}

#[test]
fn a_run_that_is_killed_in_any_phase_ends_with_the_same_bytes() {
    let folder = TempDir::new().unwrap();
    let input = some_questions(folder.path(), 48);
    let batch =
        "[batch]\nwindow_rows = 3\nmax_batch_size = 4\n[checkpoint]\ninterval_seconds = 0.02\n";
    for (format, kills) in [("jsonl", &STEPS[..]), ("parquet", &STEPS[3..])] {
        let more = format!("format = \"{format}\"\n{DRAW}{batch}{}", judge());
        let unbroken = of_input(&input, &more);
        unbroken.run_ok(&[]);
        let broken = of_input(&input, &more);
        for phase in ["phases/samples", "phases/rewards", "."] {
            let inside = kills
                .iter()
                .filter(|&&steps| kill_in_phase(&broken, phase, steps))
                .count();
            eprintln!("{format}, {phase}: {inside} of {} kills", kills.len());
            // One may come too late where the machine is busy.
            assert!(inside + 1 >= kills.len(), "{format}, {phase}: {inside}");
            let finished = broken.path("out").join(phase).join("manifest/shard-0.json");
            assert!(finished.exists(), "{format}, {phase}");
        }
        broken.run_ok(&[]);
        assert!(results(&broken) == results(&unbroken), "{format}");
        assert_eq!(manifests(&broken), manifests(&unbroken), "{format}");
        let verified = broken.command(&["verify", "out"]).output().unwrap();
        assert_eq!(verified.status.code(), Some(0), "{}", both(&verified));
    }
}

#[test]
fn shards_give_the_same_rows() {
    let folder = TempDir::new().unwrap();
    let input = some_questions(folder.path(), 40);
    let more = format!(
        "format = \"jsonl\"\n{DRAW}[batch]\nwindow_rows = 8\n{}",
        judge()
    );
    let whole = of_input(&input, &more);
    whole.run_ok(&[]);
    let sharded = of_input(&input, &more);
    instead(&sharded, "name =", "shards = 3\nname =");
    let shard = |shard: &str| {
        let output = sharded.run(&["--shard", shard]);
        assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    };
    shard("1/3");
    assert_eq!(sharded.rows().first().unwrap()["row"], 8);
    shard("0/3");
    shard("2/3");
    assert!(results(&sharded) == results(&whole));
    // One command for all of them, after one has done its part.
    let together = of_input(&input, &more);
    instead(&together, "name =", "shards = 3\nname =");
    together.run_ok(&["--shard", "2/3"]);
    together.run_ok(&[]);
    assert!(results(&together) == results(&whole));
    let output = together.run_ok(&[]);
    assert!(
        stderr(&output).contains("finished already"),
        "{}",
        both(&output)
    );
}

#[test]
fn a_trial_and_a_restart_cover_the_phases() {
    let folder = TempDir::new().unwrap();
    let input = some_questions(folder.path(), 20);
    let job = of_input(&input, &format!("format = \"jsonl\"\n{DRAW}{}", judge()));
    job.run_ok(&[]);
    let all = job.rows();
    for _ in 0..2 {
        job.run_ok(&["--limit", "3"]);
        let trial = rows(&job.path("out.trial"));
        assert_eq!(trial, all[..3]);
        assert_eq!(by_row(rows(&job.path("out.trial/phases/rewards"))).len(), 3);
    }
    let before = results(&job);
    let changed = job.run(&["--set", "preference.margin=2.0"]);
    assert_eq!(changed.status.code(), Some(2));
    let text = stderr(&changed);
    assert!(
        text.contains("`preference.margin` was `0.0`, is now `2.0`"),
        "{text}"
    );
    job.run_ok(&["--restart"]);
    assert!(results(&job) == before);
    assert!(job.path("out.old-1/phases/samples/parts").exists());
}

#[test]
fn another_reward_model_is_another_job() {
    let folder = TempDir::new().unwrap();
    let input = some_questions(folder.path(), 5);
    let job = of_input(&input, &format!("format = \"jsonl\"\n{DRAW}{}", judge()));
    job.run_ok(&[]);
    let moved = folder.path().join("moved.safetensors");
    std::fs::copy(overlay(), &moved).unwrap();
    let set = format!("reward.overlay={:?}", moved.display().to_string());
    // The same bytes elsewhere are the same model.
    job.run_ok(&["--set", &set]);
    let tensors = candle_core::safetensors::load(&moved, &candle_core::Device::Cpu).unwrap();
    let tensors: std::collections::HashMap<String, candle_core::Tensor> = tensors
        .into_iter()
        .map(|(name, tensor)| (name, (tensor * 0.5).unwrap()))
        .collect();
    candle_core::safetensors::save(&tensors, &moved).unwrap();
    let output = job.run(&["--set", &set]);
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    assert!(
        stderr(&output).contains("weights of the reward model"),
        "{}",
        both(&output)
    );
}

#[test]
fn the_phases_are_looked_at_verified_and_repaired() {
    let folder = TempDir::new().unwrap();
    let input = some_questions(folder.path(), 24);
    let more = format!(
        "format = \"jsonl\"\n{DRAW}[batch]\nwindow_rows = 8\n{}",
        judge()
    );
    let job = of_input(&input, &more);
    job.run_ok(&[]);
    let before = results(&job);
    let said = |args: &[&str]| {
        let output = job.command(args).output().unwrap();
        (output.status.code(), both(&output))
    };
    let (code, text) = said(&["status", "out"]);
    assert_eq!(code, Some(0));
    for line in [
        "phase samples: finished, 24 of 24 rows",
        "phase rewards: finished, 24 of 24 rows",
    ] {
        assert!(text.contains(line), "{text}");
    }
    let (_, text) = said(&["status", "out", "--json"]);
    assert!(text.contains("\"phases\""), "{text}");
    let (_, text) = said(&["show", "out", "--phase", "rewards", "--json", "-n", "0"]);
    assert_eq!(text.matches("\"reward\":").count(), 24 * 4, "{text}");
    let (_, text) = said(&[
        "show",
        "out",
        "--phase",
        "samples",
        "--where",
        "sample == 3",
        "-n",
        "0",
    ]);
    assert_eq!(text.matches("completion: ").count(), 24, "{text}");
    let (code, text) = said(&["verify", "out"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("phase samples: 3 of 3 windows sound"),
        "{text}"
    );

    // A damaged window of samples is made again, with all that was made of it.
    let part = job.path("out/phases/samples/parts/part-000001.jsonl");
    let mut bytes = std::fs::read(&part).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    let output = job.run(&["--verify"]);
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    let (code, text) = said(&["verify", "out"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.contains("phases/samples/parts/part-000001.jsonl"),
        "{text}"
    );
    let (code, text) = said(&["verify", "out", "--repair"]);
    assert_eq!(code, Some(75), "{text}");
    assert!(text.contains("1 window will be made again"), "{text}");
    let (_, text) = said(&["status", "out"]);
    assert!(
        text.contains("phase rewards: not finished, 16 of 24 rows"),
        "{text}"
    );
    job.run_ok(&[]);
    assert!(results(&job) == before);
    let (code, text) = said(&["verify", "out"]);
    assert_eq!(code, Some(0), "{text}");

    let (code, text) = said(&["plan", "job.toml"]);
    assert_eq!(code, Some(0), "{text}");
    for words in [
        "samples: 24 rows, 96 answers",
        "rewards: 24 rows, 96 answers",
        "the models take turns",
    ] {
        assert!(text.contains(words), "{text}");
    }
}

/// The record of a phase follows from that of the job: the repair writes it again, and nothing is made again.
#[test]
fn the_record_of_a_phase_can_be_written_again() {
    let folder = TempDir::new().unwrap();
    let input = some_questions(folder.path(), 12);
    let more = format!(
        "format = \"jsonl\"\n{DRAW}[batch]\nwindow_rows = 4\n{}",
        judge()
    );
    let job = of_input(&input, &more);
    job.run_ok(&[]);
    let before = (results(&job), manifests(&job));
    let said = |args: &[&str]| {
        let output = job.command(args).output().unwrap();
        (output.status.code(), both(&output))
    };
    for phase in ["samples", "rewards"] {
        let record = job.path(&format!("out/phases/{phase}/job.json"));
        let sound = std::fs::read(&record).unwrap();
        let mut flipped = sound.clone();
        flipped[60] ^= 1;
        for (damaged, reason) in [
            (None, "is gone"),
            (Some(flipped), "its checksum does not fit its content"),
        ] {
            std::fs::remove_file(&record).unwrap();
            if let Some(text) = &damaged {
                std::fs::write(&record, text).unwrap();
            }
            let reason = format!(
                "phases/{phase}/job.json`: {reason}, and can be written again from `job.json` of the whole job"
            );
            let (code, text) = said(&["verify", "out"]);
            assert_eq!(code, Some(2), "{text}");
            assert!(text.contains(&reason), "{text}");
            assert!(text.contains("`glm-batch verify out --repair`"), "{text}");
            assert!(!text.contains("--restart"), "{text}");
            assert_eq!(text.matches("wrong: ").count(), 1, "{text}");
            let (code, text) = said(&["status", "out"]);
            assert_eq!(code, Some(0), "{text}");
            assert!(text.contains("\ntest: damaged, 12 of 12 rows"), "{text}");
            let of_phase = format!("phase {phase}: damaged, 12 of 12 rows");
            assert!(text.contains(&of_phase), "{text}");
            assert!(text.contains(&reason), "{text}");
            let output = job.run(&[]);
            assert_eq!(output.status.code(), Some(2), "{}", both(&output));
            assert!(stderr(&output).contains(&reason), "{}", both(&output));
            let (code, text) = said(&["show", "out", "--phase", phase]);
            assert_eq!(code, Some(2), "{text}");
            assert!(text.contains("`--repair` mends the phase"), "{text}");

            let (code, text) = said(&["verify", "out", "--repair"]);
            assert_eq!(code, Some(0), "{text}");
            assert!(text.contains("job.json` again"), "{text}");
            assert_eq!(std::fs::read(&record).unwrap(), sound);
            let kept = job.path(&format!("out/phases/{phase}/damaged/job.json.1"));
            assert_eq!(kept.exists(), damaged.is_some());
        }
        let output = job.run_ok(&[]);
        assert!(stderr(&output).contains("finished already"));
    }
    assert!((results(&job), manifests(&job)) == before);

    // What was written by another version of the program has another record: its files are not known any more.
    let record = job.path("out/phases/samples/job.json");
    std::fs::remove_file(&record).unwrap();
    let manifest = job.path("out/phases/samples/manifest/shard-0.json");
    let rewards = job.path("out/phases/rewards/manifest/shard-0.json");
    std::fs::copy(rewards, &manifest).unwrap();
    let (code, text) = said(&["verify", "out", "--repair"]);
    assert_eq!(code, Some(75), "{text}");
    assert!(text.contains("3 windows will be made again"), "{text}");
    job.run_ok(&[]);
    assert!((results(&job), manifests(&job)) == before);
    assert_eq!(said(&["verify", "out"]).0, Some(0));
}

/// A folder of a phase that is gone is damage like a manifest that is gone, as soon as later results were made of it.
#[test]
fn a_phase_that_is_gone_as_a_whole_is_damage_with_a_cure() {
    let folder = TempDir::new().unwrap();
    let input = some_questions(folder.path(), 12);
    let more = format!(
        "format = \"jsonl\"\n{DRAW}[batch]\nwindow_rows = 4\n{}",
        judge()
    );
    let job = of_input(&input, &more);
    instead(&job, COLUMNS, &format!("{COLUMNS}\nskip = 2\nlimit = 6"));
    job.run_ok(&[]);
    let before = (results(&job), manifests(&job));
    let said = |args: &[&str]| {
        let output = job.command(args).output().unwrap();
        (output.status.code(), both(&output))
    };
    for gone in ["phases/samples", "phases/rewards", "phases"] {
        std::fs::remove_dir_all(job.path("out").join(gone)).unwrap();
        let phases: &[&str] = match gone {
            "phases" => &["samples", "rewards"],
            one => &[&one["phases/".len()..]],
        };
        let (code, verified) = said(&["verify", "out"]);
        assert_eq!(code, Some(2), "{verified}");
        let (code, status) = said(&["status", "out"]);
        assert_eq!(code, Some(0), "{status}");
        let first = "\ntest: damaged, 6 of 6 rows (0 in open windows), 0 failed, left out 2 by `input.skip`, 4 by `input.limit`\n";
        assert!(status.contains(first), "{status}");
        let output = job.run(&[]);
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        for phase in phases {
            let lost = format!(
                "phases/{phase}/manifest/shard-0.json`: is gone, and results were made of what it named"
            );
            for text in [&verified, &both(&output)] {
                assert!(text.contains(&lost), "{text}");
                assert!(text.contains("out --repair`"), "{text}");
            }
            let of_phase = format!("phase {phase}: damaged, 0 of ");
            assert!(status.contains(&of_phase), "{status}");
        }
        assert!(!job.path("out").join(gone).exists(), "{gone}");
        let (code, text) = said(&["show", "out", "--phase", phases[0]]);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains("`--repair` mends the phase"), "{text}");
        let (code, text) = said(&["verify", "out", "--repair"]);
        assert_eq!(code, Some(75), "{text}");
        job.run_ok(&[]);
        assert!((results(&job), manifests(&job)) == before, "{gone}");
        assert_eq!(said(&["verify", "out"]).0, Some(0), "{gone}");
    }
    // A file of a phase is missed as one of the results is.
    std::fs::remove_file(job.path("out/phases/rewards/parts/part-000000.jsonl")).unwrap();
    let output = job.run(&[]);
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    let text = stderr(&output);
    assert!(text.contains("part-000000.jsonl` is gone"), "{text}");
}

/// Whichever folder another process writes to, nothing is taken out of any.
#[test]
fn a_repair_changes_nothing_while_any_phase_is_written() {
    let folder = TempDir::new().unwrap();
    let input = some_questions(folder.path(), 8);
    let more = format!(
        "format = \"jsonl\"\n{DRAW}[batch]\nwindow_rows = 4\n{}",
        judge()
    );
    let job = of_input(&input, &more);
    job.run_ok(&[]);
    let sound = results(&job);
    let part = job.path("out/phases/samples/parts/part-000001.jsonl");
    let mut bytes = std::fs::read(&part).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    let damaged = results(&job);
    let phases = [".", "phases/samples", "phases/rewards"].map(|phase| job.path("out").join(phase));
    let manifests = || phases.clone().map(|phase| files(&phase.join("manifest")));
    let before = manifests();
    let repair = || {
        job.command(&["verify", "out", "--repair"])
            .output()
            .unwrap()
    };
    for phase in &phases {
        let lock = std::fs::File::open(phase.join("locks/shard-0")).unwrap();
        lock.lock().unwrap();
        let refused = repair();
        assert_eq!(refused.status.code(), Some(75), "{}", both(&refused));
        let text = stderr(&refused);
        assert!(text.contains("shard 0 is being written"), "{text}");
        assert!(results(&job) == damaged, "{}", phase.display());
        assert!(manifests() == before, "{}", phase.display());
        assert!(!phase.join("damaged").exists());
    }
    let repaired = repair();
    assert_eq!(repaired.status.code(), Some(75), "{}", both(&repaired));
    let text = both(&repaired);
    assert!(text.contains("1 window will be made again"), "{text}");
    job.run_ok(&[]);
    assert!(results(&job) == sound);
}

/// A damaged window of samples that was not taken out yet is refused, not made into pairs.
#[test]
fn nothing_is_made_of_damaged_samples() {
    let folder = TempDir::new().unwrap();
    let input = some_questions(folder.path(), 8);
    let job = of_input(&input, &format!("format = \"jsonl\"\n{DRAW}{}", judge()));
    job.run_ok(&[]);
    let part = job.path("out/phases/samples/parts/part-000000.jsonl");
    let text = std::fs::read_to_string(&part).unwrap();
    // A line of the phase still, of the same length.
    let changed = text.replacen("\"sample\":0", "\"sample\":1", 1);
    assert_ne!(text, changed);
    std::fs::write(&part, changed).unwrap();
    std::fs::remove_dir_all(job.path("out/manifest")).unwrap();
    std::fs::remove_dir_all(job.path("out/parts")).unwrap();
    let output = job.run(&[]);
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    let text = stderr(&output);
    assert!(text.contains("does not hold what was written"), "{text}");
    assert!(text.contains("--repair"), "{text}");
    assert_eq!(job.rows(), Vec::<Value>::new());
}

#[test]
fn a_reward_model_that_does_not_fit_is_refused() {
    let folder = TempDir::new().unwrap();
    let input = some_questions(folder.path(), 5);
    // Without a head it is no reward model.
    let bare = format!("[reward]\nmodel = \"{}\"\n", demo_model().display());
    let job = of_input(&input, &format!("format = \"jsonl\"\n{DRAW}{bare}"));
    let output = job.run(&[]);
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    assert!(
        stderr(&output).contains("`reward.overlay`"),
        "{}",
        both(&output)
    );

    // Two tokens changed places.
    let other = folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(demo_model().join(name), other.join(name)).unwrap();
    }
    let text = std::fs::read_to_string(other.join("tokenizer.json")).unwrap();
    let changed = text
        .replace("巴", "\u{1}")
        .replace("柏", "巴")
        .replace('\u{1}', "柏");
    assert_ne!(text, changed);
    std::fs::write(other.join("tokenizer.json"), changed).unwrap();
    let judge = judge().replacen(
        &demo_model().display().to_string(),
        &other.display().to_string(),
        1,
    );
    let job = of_input(&input, &format!("format = \"jsonl\"\n{DRAW}{judge}"));
    for command in ["run", "plan"] {
        let output = job.command(&[command, "job.toml"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        let text = stderr(&output);
        assert!(text.contains("is a model of another vocabulary"), "{text}");
    }
    assert!(!job.path("out/job.json").exists());
}

/// The tiny model with the reference's reward model, over 120 real questions, to the end; then by three processes at once.
#[test]
fn real_questions_become_pairs() {
    let (Some(model), Some(overlay), Some(questions)) = (
        shared("fixtures/glm-tiny-zh"),
        shared("fixtures/glm-tiny-zh/reward/reward_delta.safetensors"),
        shared("data/zh_questions.jsonl"),
    ) else {
        return;
    };
    let folder = TempDir::new().unwrap();
    let input = folder.path().join("questions.jsonl");
    let text = std::fs::read_to_string(questions).unwrap();
    let lines: Vec<&str> = text.lines().take(120).collect();
    std::fs::write(&input, lines.join("\n")).unwrap();
    let columns = "columns = { id = \"id\", prompt = \"prompt\", prefix = \"prefix\", reference = \"reference\" }";
    let more = format!(
        "format = \"parquet\"\n[reward]\nmodel = \"{}\"\noverlay = \"{}\"\n[prompt]\nmax_length = 32\n[generation]\ndo_sample = true\nnum_return_sequences = 4\nmax_new_tokens = 4\n[batch]\nwindow_rows = 32\n",
        model.display(),
        overlay.display()
    );
    let of_shards = |shards: &str| {
        let job = Job::of_model(&model, &input, columns, &more);
        instead(
            &job,
            "name =",
            &format!("task = \"preference\"\nshards = {shards}\nname ="),
        );
        job
    };
    let job = of_shards("1");
    job.run_ok(&[]);
    assert_eq!(by_row(job.rows()).len(), 120);
    check_pairs(&job, "best-worst", 0.0, &reward);
    let sharded = of_shards("3");
    let mut workers: Vec<_> = (0..3)
        .map(|shard| {
            let shard = format!("{shard}/3");
            sharded
                .command(&["run", "job.toml", "--quiet", "--shard", &shard])
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for worker in &mut workers {
        assert!(worker.wait().unwrap().success());
    }
    assert!(results(&sharded) == results(&job));
}

#[test]
fn rows_that_are_left_out_are_in_no_phase() {
    let folder = TempDir::new().unwrap();
    let input = some_questions(folder.path(), 12);
    let more = format!(
        "format = \"jsonl\"\n{DRAW}{}[batch]\nwindow_rows = 5\n",
        judge()
    );
    let whole = of_input(&input, &more);
    whole.run_ok(&["-q"]);
    let some = of_input(&input, &more);
    let keys = format!("{COLUMNS}\nskip = 2\nwhere = \"id != 'capital-005'\"");
    instead(&some, COLUMNS, &keys);
    let output = some.run_ok(&["-q", "--json"]);
    let chosen = |mut rows: Vec<Value>| {
        rows.retain(|row| row["row"].as_u64() > Some(1) && row["id"] != "capital-005");
        rows
    };
    assert_eq!(by_row(some.rows()).len(), 9);
    assert_eq!(some.rows(), chosen(whole.rows()));
    for phase in ["samples", "rewards"] {
        assert_eq!(phase_rows(&some, phase), chosen(phase_rows(&whole, phase)));
    }
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let left_out = json!({"skip": 2, "limit": 0, "failed": 0, "where": 1});
    assert_eq!(report["totals"]["left_out"], left_out, "{report}");
    assert_eq!(report["totals"]["rows"], 12);
    let verified = some.command(&["verify", "out"]).output().unwrap();
    assert_eq!(verified.status.code(), Some(0), "{}", both(&verified));
}

/// The manifest of a phase is gone, or an older one was put back: `verify` and `status` say so, and the repair makes
/// again what was made of the lost windows.
#[test]
fn a_phase_that_has_lost_windows_is_damage_with_a_cure() {
    let folder = TempDir::new().unwrap();
    let input = some_questions(folder.path(), 24);
    let more = format!(
        "format = \"jsonl\"\n{DRAW}[batch]\nwindow_rows = 8\n{}",
        judge()
    );
    let job = of_input(&input, &more);
    let said = |args: &[&str]| {
        let output = job.command(args).output().unwrap();
        (output.status.code(), both(&output))
    };
    let samples = job.path("out/phases/samples/manifest/shard-0.json");
    job.run_ok(&[]);
    let before = results(&job);
    let sound = std::fs::read(&samples).unwrap();
    for (phase, rows) in [("samples", "0 of 24 rows"), ("rewards", "0 of 24 rows")] {
        let manifest = job.path(&format!("out/phases/{phase}/manifest/shard-0.json"));
        std::fs::remove_file(&manifest).unwrap();
        let (code, text) = said(&["verify", "out"]);
        assert_eq!(code, Some(2), "{text}");
        let gone = format!(
            "phases/{phase}/manifest/shard-0.json`: is gone, and results were made of what it named"
        );
        assert!(text.contains(&gone), "{text}");
        assert!(text.contains("`glm-batch verify out --repair`"), "{text}");
        let (code, text) = said(&["status", "out"]);
        assert_eq!(code, Some(0), "{text}");
        assert!(
            text.contains(&format!("phase {phase}: damaged, {rows}")),
            "{text}"
        );
        assert!(
            text.contains("damaged: it has lost 3 windows that later results were made of"),
            "{text}"
        );
        assert!(text.contains("exit 0: the job is damaged: "), "{text}");
        let (_, json) = said(&["status", "out", "--json"]);
        assert!(json.contains("\"lost_windows\": 3"), "{json}");
        let (_, text) = said(&["status", "out"]);
        assert!(text.contains("\ntest: damaged, 24 of 24 rows"), "{text}");
        for args in [&["--verify"][..], &[]] {
            let output = job.run(args);
            assert_eq!(output.status.code(), Some(2), "{}", both(&output));
            let text = stderr(&output);
            assert!(text.contains(&gone), "{text}");
            assert!(text.contains("out --repair`"), "{text}");
        }
        assert!(!manifest.exists());

        let (code, text) = said(&["verify", "out", "--repair"]);
        assert_eq!(code, Some(75), "{text}");
        assert!(text.contains("3 windows will be made again"), "{text}");
        job.run_ok(&[]);
        assert!(results(&job) == before, "{phase}");
        assert_eq!(said(&["verify", "out"]).0, Some(0), "{phase}");
        let (_, text) = said(&["status", "out"]);
        assert!(!text.contains("damaged"), "{text}");
    }
    assert_eq!(std::fs::read(&samples).unwrap(), sound);
}
