//! Files of another job, of no job, or left by a killed run, in an output folder.

use std::path::{Path, PathBuf};
use std::process::Output;

use glm_batch::internals::checkpoint::{
    CheckpointError, JobFingerprint, JobRecord, Journal, LockOptions, Manifest, OutputFolder,
    Soundness, StoredJob, repair, restart, status, verify,
};
use glm_batch::internals::ids::{RowId, ShardId, WindowId};
use glm_batch::internals::job;
use glm_batch::internals::report::{Observer, Progress};
use glm_batch::{RunOptions, StopFlag};

use crate::support::{Job, both, files, some_questions, stderr};
use crate::windows::{answered, record, span};

const MORE: &str = "format = \"jsonl\"\n[prompt]\nmax_length = 96\n[generation]\nmax_new_tokens = 24\n[batch]\nmax_batch_size = 4\nwindow_rows = 4\n[checkpoint]\ninterval_seconds = 0\n";

/// Questions that end in three bad rows: with `output.max_failed = 2` the run stops in the last window.
const ROWS: usize = 9;

/// A job of three windows, the last one all bad.
fn job() -> Job {
    let job = Job::new(Path::new("questions.jsonl"), MORE);
    let input = some_questions(job.folder.path(), ROWS);
    let text = std::fs::read_to_string(&input).unwrap();
    std::fs::write(&input, text + &"{\"question\": \"\"}\n".repeat(3)).unwrap();
    job
}

/// Runs it up to its last window.
fn stop_early(job: &Job) {
    let stopped = job.run(&["--quiet", "--set", "output.max_failed=2"]);
    assert_eq!(stopped.status.code(), Some(3), "{}", both(&stopped));
    assert!(!job.files("parts").is_empty() || !job.files("journal").is_empty());
}

fn verified(job: &Job, more: &[&str]) -> Output {
    let args = [&["verify", "out"], more].concat();
    job.command(&args).output().unwrap()
}

fn refused(job: &Job, args: &[&str], named: &str) {
    let output = job.run(args);
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    let text = stderr(&output);
    assert!(text.contains(named), "{text}");
    assert!(text.contains("--restart"), "{text}");
}

#[test]
fn a_job_without_its_record_is_refused_until_it_is_begun_anew() {
    for is_finished in [false, true] {
        let job = job();
        if is_finished {
            job.run_ok(&["--quiet"]);
        } else {
            stop_early(&job);
        }
        let before = (job.files("parts"), job.files("manifest"));
        std::fs::remove_file(job.path("out/job.json")).unwrap();
        for more in [
            &["--quiet"][..],
            &["--quiet", "--set", "generation.seed=7"],
            &["--quiet", "--set", "batch.window_rows=100"],
        ] {
            refused(&job, more, "out/");
        }
        assert_eq!(before, (job.files("parts"), job.files("manifest")));
        assert!(!job.path("out/job.json").exists());
        for command in ["verify", "status", "show"] {
            let output = job.command(&[command, "out"]).output().unwrap();
            assert_eq!(output.status.code(), Some(2), "{}", both(&output));
            assert!(
                stderr(&output).contains("put `job.json` back"),
                "{}",
                both(&output)
            );
        }
        job.run_ok(&["--quiet", "--restart", "--set", "generation.seed=7"]);
        assert_eq!(before.0, files(&job.path("out.old-1/parts")));
        assert_eq!(verified(&job, &[]).status.code(), Some(0));
    }
}

/// Each folder that only a job with a record fills, alone in a folder that lacks the others.
#[test]
fn work_of_any_kind_without_a_record_is_refused() {
    for (name, file) in [
        ("manifest", "shard-0.json"),
        ("journal", "window-000000.jsonl"),
        ("parts", "part-000003.parquet"),
        ("failed", "window-000007.jsonl"),
        ("phases", "shard-1.json"),
    ] {
        let job = job();
        let folder = job.path("out").join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(file), "").unwrap();
        refused(&job, &["--quiet"], file);
        let there: Vec<_> = std::fs::read_dir(job.path("out")).unwrap().collect();
        assert_eq!(there.len(), 1, "a folder that was refused was written to");
        job.run_ok(&["--quiet", "--restart"]);
        assert!(job.path("out.old-1").join(name).join(file).exists());
    }
    let job = job();
    std::fs::create_dir_all(job.path("out/report")).unwrap();
    std::fs::write(job.path("out/README.md"), "mine").unwrap();
    job.run_ok(&["--quiet"]);
    assert!(!job.path("out.old-1").exists());
}

#[test]
fn a_damaged_record_alone_is_moved_away_too() {
    let job = job();
    stop_early(&job);
    let whole = std::fs::read(job.path("out/job.json")).unwrap();
    let half = &whole[..whole.len() / 2];
    for damaged in [half.to_vec(), [half, &[0; 100]].concat()] {
        std::fs::remove_dir_all(job.path("out")).unwrap();
        std::fs::create_dir(job.path("out")).unwrap();
        std::fs::write(job.path("out/job.json"), damaged).unwrap();
        refused(&job, &["--quiet"], "out/job.json");
        job.run_ok(&["--quiet", "--restart"]);
    }
    assert!(job.path("out.old-2/job.json").exists());
}

/// Files that have the names of ours, or lie in folders that do, in somebody's other folder.
#[test]
fn a_folder_of_another_program_is_never_moved() {
    for (file, content) in [
        ("job.json", "{}"),
        (
            "job.json",
            "{\n  \"version\": \"2\",\n  \"steps\": [\"build\"]\n}\n",
        ),
        ("failed/x", ""),
        ("parts/.gitkeep", ""),
        ("parts/part-list.txt", ""),
        ("journal/2024.md", ""),
        ("manifest/shard-0", ""),
    ] {
        let job = job();
        let path = job.path("out").join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        assert_eq!(
            restart(&job.path("out"), &LockOptions::default()).unwrap(),
            None,
            "{file}"
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        assert!(!job.path("out/locks").exists(), "{file}");
        if file != "job.json" {
            continue;
        }
        for more in [&["--quiet"][..], &["--quiet", "--restart"]] {
            let output = job.run(more);
            assert_eq!(output.status.code(), Some(2), "{}", both(&output));
            let text = stderr(&output);
            assert!(text.contains("out/job.json"), "{text}");
            assert!(text.contains("choose another `output.path`"), "{text}");
            assert!(!text.contains("--restart"), "{text}");
        }
        assert!(!job.path("out/locks").exists());
        assert!(!job.path("out.old-1").exists());
    }
}

/// Begins another job in the folder as soon as the run says something: while it prepares, it holds no lock.
struct BeginsAnew {
    root: PathBuf,
    notes: usize,
}

impl Observer for BeginsAnew {
    fn note(&mut self, _message: &str) {
        self.notes += 1;
        if self.notes > 1 {
            return;
        }
        let options = LockOptions::default();
        let old = restart(&self.root, &options).unwrap().unwrap();
        let mut other = JobRecord::load(&OutputFolder::at(&old)).unwrap().unwrap();
        other.spec.generation.seed += 1;
        let folder = OutputFolder::open(&self.root).unwrap();
        assert!(other.create(&folder).unwrap());
    }

    fn progress(&mut self, _progress: &Progress) {}
    fn finish(&mut self) {}
}

#[test]
fn a_job_that_was_replaced_during_the_preparation_gets_no_work_of_the_first() {
    let job = job();
    let text = std::fs::read_to_string(job.path("job.toml")).unwrap();
    // A setting without effect makes the run say something.
    let text = text.replace("[generation]", "[generation]\ntop_k = 5");
    std::fs::write(job.path("job.toml"), text).unwrap();
    stop_early(&job);
    let spec = job::load(&job.path("job.toml"), &[]).unwrap();
    let mut observer = BeginsAnew {
        root: job.path("out"),
        notes: 0,
    };
    let (options, stop) = (RunOptions::default(), StopFlag::default());
    let error = glm_batch::run(&spec, &options, &stop, &mut observer).unwrap_err();
    assert!(observer.notes > 0);
    assert!(error.is_temporary(), "{error}");
    assert!(error.to_string().contains("begun anew"), "{error}");
    for folder in ["parts", "journal", "manifest", "failed", "report"] {
        assert_eq!(job.files(folder), [], "{folder}");
    }
}

/// Two jobs that stopped early; the file of the second one takes the place of the first one's.
fn with_file_of_another_job(name: &str) -> Job {
    let (job, other) = (job(), job());
    for (job, seed) in [(&job, 1), (&other, 2)] {
        let text = std::fs::read_to_string(job.path("job.toml")).unwrap();
        let text = text.replace("[generation]", &format!("[generation]\nseed = {seed}"));
        std::fs::write(job.path("job.toml"), text).unwrap();
        stop_early(job);
    }
    let name = Path::new("out").join(name);
    assert!(other.path("").join(&name).exists());
    std::fs::copy(other.path("").join(&name), job.path("").join(&name)).unwrap();
    job
}

#[test]
fn a_manifest_of_another_job_is_refused_named_and_taken_out() {
    let job = with_file_of_another_job("manifest/shard-0.json");
    let parts = job.files("parts");
    refused(&job, &["--quiet"], "manifest/shard-0.json");
    for command in ["status", "show"] {
        let output = job.command(&[command, "out"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        assert!(
            stderr(&output).contains("manifest/shard-0.json"),
            "{}",
            both(&output)
        );
    }
    let found = verified(&job, &[]);
    assert_eq!(found.status.code(), Some(2), "{}", both(&found));
    let text = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(
        text.contains("manifest/shard-0.json`: it belongs to another job"),
        "{text}"
    );
    assert!(text.contains("--restart"), "{text}");
    let repaired = verified(&job, &["--repair"]);
    assert_eq!(repaired.status.code(), Some(75), "{}", both(&repaired));
    // Which job wrote the parts is not known, so none is written over.
    assert_eq!(job.files("parts"), []);
    let kept = files(&job.path("out/damaged"));
    assert!(kept.len() > parts.len(), "{kept:?}");
    job.run_ok(&["--quiet"]);
    assert_eq!(verified(&job, &[]).status.code(), Some(0));
}

#[test]
fn a_manifest_of_a_shard_that_the_job_does_not_have_is_refused() {
    let job = job();
    stop_early(&job);
    let manifest = job.path("out/manifest/shard-0.json");
    std::fs::copy(&manifest, job.path("out/manifest/shard-4.json")).unwrap();
    refused(&job, &["--quiet"], "manifest/shard-4.json");
    let found = verified(&job, &["--repair"]);
    let text = both(&found);
    assert!(text.contains("manifest/shard-4.json"), "{text}");
    job.run_ok(&["--quiet"]);
}

#[test]
fn a_report_of_another_job_is_named_and_replaced() {
    let job = with_file_of_another_job("report/shard-0.json");
    let found = verified(&job, &[]);
    assert_eq!(found.status.code(), Some(2), "{}", both(&found));
    assert!(
        both(&found).contains("report/shard-0.json"),
        "{}",
        both(&found)
    );
    job.run_ok(&["--quiet"]);
    assert_eq!(verified(&job, &[]).status.code(), Some(0));
    let stored = StoredJob::existing(&OutputFolder::at(&job.path("out"))).unwrap();
    let report = std::fs::read(job.path("out/report/shard-0.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(
        report["job_fingerprint"].as_str(),
        stored.fingerprint.as_deref()
    );
}

/// A folder with a job of one window.
fn folder_with_job() -> (tempfile::TempDir, OutputFolder, JobFingerprint) {
    let parent = tempfile::tempdir().unwrap();
    let folder = OutputFolder::open(&parent.path().join("out")).unwrap();
    assert!(record(folder.root(), 1, &[4]).create(&folder).unwrap());
    let job = StoredJob::existing(&folder).unwrap().fingerprint;
    (parent, folder, job)
}

/// A journal of this job with one row.
fn write_journal(folder: &OutputFolder, job: &JobFingerprint) -> PathBuf {
    let (mut journal, ..) = Journal::open(folder, job, &span(0, 0, 4)).unwrap();
    journal.append(RowId(1), &answered(&["a"])).unwrap();
    journal.sync().unwrap();
    folder.journal(WindowId(0))
}

#[test]
fn the_journal_of_another_job_is_refused_named_and_taken_out() {
    let (_parent, folder, job) = folder_with_job();
    let path = write_journal(&folder, &job);
    let own = std::fs::read_to_string(&path).unwrap();
    assert_eq!(status(&folder).unwrap().journalled_rows, 1);
    let (header, row) = own.split_once('\n').unwrap();
    let other = {
        let (_parent, folder, _) = folder_with_job();
        let mut other = record(folder.root(), 1, &[4]);
        other.spec.generation.seed = 7;
        std::fs::remove_file(folder.job_file()).unwrap();
        assert!(other.create(&folder).unwrap());
        let job = StoredJob::existing(&folder).unwrap().fingerprint;
        std::fs::read_to_string(write_journal(&folder, &job)).unwrap()
    };
    assert_ne!(other.lines().next(), Some(header));
    // One of another job, and one that names none, as those beside an old record.
    for stranger in [other.as_str(), row] {
        std::fs::write(&path, stranger).unwrap();
        let opened = Journal::open(&folder, &job, &span(0, 0, 4));
        assert!(
            matches!(opened, Err(CheckpointError::Stranger { .. })),
            "{stranger}"
        );
        assert!(matches!(
            status(&folder),
            Err(CheckpointError::Stranger { .. })
        ));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), stranger);
        let report = verify(&folder).unwrap();
        assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
        assert_eq!(report.problems[0].path, path);
        repair(&folder, &LockOptions::default()).unwrap();
        assert_eq!(verify(&folder).unwrap().soundness(), Soundness::SoFar);
        assert!(!path.exists());
    }
    // Half of the first line is what a kill leaves; a wrong one is damage, whose ever it is.
    std::fs::write(&path, &header[..20]).unwrap();
    let (_, rows, cut) = Journal::open(&folder, &job, &span(0, 0, 4)).unwrap();
    assert!(rows.is_empty() && cut.unwrap().is_tail);
    std::fs::write(&path, own.replacen("crc", "CRC", 1)).unwrap();
    let (_, rows, cut) = Journal::open(&folder, &job, &span(0, 0, 4)).unwrap();
    assert!(rows.is_empty() && cut.unwrap().line == 1);
    assert_eq!(
        std::fs::read_to_string(write_journal(&folder, &job)).unwrap(),
        own
    );
}

#[test]
fn files_that_name_no_job_belong_beside_an_old_record_only() {
    let (_parent, folder, job) = folder_with_job();
    let text = std::fs::read_to_string(folder.job_file()).unwrap();
    let fingerprint = blake3::hash(text.as_bytes()).to_hex().to_string();
    assert_eq!(job.as_deref(), Some(fingerprint.as_str()));
    let old = JobFingerprint::NONE;
    let old_manifest = Manifest::new(&old, ShardId(0), 1);
    let new_manifest = Manifest::new(&job, ShardId(0), 1);
    for (written, read_as) in [(old_manifest, &job), (new_manifest, &old)] {
        let _ = std::fs::remove_file(folder.manifest(ShardId(0)));
        let mut written = written;
        written.commit(&folder, committed_nothing()).unwrap();
        let read = Manifest::load_or_new(&folder, read_as, ShardId(0), 1);
        assert!(
            matches!(read, Err(CheckpointError::Stranger { .. })),
            "{read:?}"
        );
    }
    assert!(JobRecord::load(&folder).unwrap().is_some());
}

fn committed_nothing() -> glm_batch::internals::checkpoint::CommittedWindow {
    glm_batch::internals::checkpoint::CommittedWindow {
        window: WindowId(0),
        first_row: 0,
        rows: 4,
        part: glm_batch::internals::checkpoint::FileEntry {
            name: "parts/part-000000.jsonl".to_owned(),
            digest: glm_batch::internals::fsio::FileDigest {
                bytes: 0,
                blake3: String::new(),
            },
        },
        failed: None,
        totals: glm_batch::internals::checkpoint::Totals::default(),
        examples: Vec::new(),
    }
}

#[test]
fn a_file_of_no_window_is_warned_of_named_and_moved() {
    let job = job();
    job.run_ok(&["--quiet"]);
    let sound = (job.files("parts"), job.files("failed"));
    let strays = [
        "parts/part-000009.jsonl",
        "parts/part-000000.parquet",
        "parts/copy of part-000000.jsonl",
        "failed/window-000000.jsonl",
    ];
    for stray in strays {
        std::fs::write(job.path("out").join(stray), "{}\n").unwrap();
    }
    // Hidden files are no results to any reader, and the top of the folder is for people.
    for other in ["parts/.hidden", "README.md", "notes.txt"] {
        std::fs::write(job.path("out").join(other), "mine").unwrap();
    }
    let warned = job.run_ok(&["--quiet"]);
    let found = verified(&job, &[]);
    assert_eq!(found.status.code(), Some(2), "{}", both(&found));
    for stray in strays {
        assert!(stderr(&warned).contains(stray), "{}", both(&warned));
        assert!(both(&found).contains(stray), "{}", both(&found));
    }
    assert!(stderr(&warned).contains("--repair"), "{}", both(&warned));
    let refused = job.run(&["--quiet", "--verify"]);
    assert_eq!(refused.status.code(), Some(2), "{}", both(&refused));
    let repaired = verified(&job, &["--repair"]);
    assert_eq!(repaired.status.code(), Some(0), "{}", both(&repaired));
    assert_eq!(files(&job.path("out/damaged")).len(), strays.len());
    std::fs::remove_file(job.path("out/parts/.hidden")).unwrap();
    assert_eq!(sound, (job.files("parts"), job.files("failed")));
    let again = job.run_ok(&["--quiet"]);
    assert!(!stderr(&again).contains("warning"), "{}", both(&again));
    assert!(job.path("out/notes.txt").exists());
}

/// Stopped between the rename of a part and the manifest: the file is there, and its window is open.
#[test]
fn a_part_of_an_open_window_is_a_note() {
    let unbroken = job();
    unbroken.run_ok(&["--quiet"]);
    let job = job();
    stop_early(&job);
    let manifest = std::fs::read_to_string(job.path("out/manifest/shard-0.json"));
    let manifest = manifest.unwrap_or_default();
    let (name, bytes) = unbroken
        .files("parts")
        .into_iter()
        .find(|(name, _)| !manifest.contains(name))
        .unwrap();
    std::fs::write(job.path("out/parts").join(&name), bytes).unwrap();
    let found = verified(&job, &[]);
    assert_eq!(found.status.code(), Some(75), "{}", both(&found));
    let text = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(text.contains("note: ") && text.contains(&name), "{text}");
    let ended = job.run_ok(&["--quiet"]);
    assert!(!stderr(&ended).contains("warning"), "{}", both(&ended));
    assert!(job.files("parts") == unbroken.files("parts"));
    assert_eq!(verified(&job, &[]).status.code(), Some(0));
}

/// Files that a killed run leaves, of every kind that the program makes in the folder.
#[test]
fn leftovers_of_a_killed_run_are_cleared_by_the_next() {
    let leftovers = [
        ".job.json.123.tmp",
        "input/.stdin.jsonl.123.tmp",
        "locks/.probe-77.123.tmp",
        "locks/probe-77",
        "locks/.tmpAb3dE6",
        "locks/.shard-0.json.123.tmp",
        "manifest/.shard-0.json.123.tmp",
        "report/.shard-0.json.123.tmp",
        "parts/.part-000001.jsonl.123.tmp",
        "failed/.window-000001.jsonl.123.tmp",
        "damaged/.journal-window-000000.jsonl.1.123.tmp",
    ];
    for is_finished in [false, true] {
        let job = job();
        if is_finished {
            job.run_ok(&["--quiet"]);
        } else {
            stop_early(&job);
        }
        for name in leftovers {
            let path = job.path("out").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "half").unwrap();
        }
        std::fs::write(job.path("out/journal/window-000000.jsonl"), "").unwrap();
        std::fs::write(job.path("out/parts/.mine"), "").unwrap();
        job.run_ok(&["--quiet"]);
        for name in leftovers {
            assert!(
                !job.path("out").join(name).exists(),
                "{name}, {is_finished}"
            );
        }
        assert_eq!(job.files("journal"), []);
        assert!(job.path("out/parts/.mine").exists());
    }
}

#[cfg(unix)]
#[test]
fn a_restart_keeps_a_link_and_moves_what_is_behind_it() {
    let job = job();
    std::fs::create_dir(job.path("disk")).unwrap();
    std::os::unix::fs::symlink("disk", job.path("link")).unwrap();
    std::os::unix::fs::symlink("link", job.path("out")).unwrap();
    job.run_ok(&["--quiet"]);
    let parts = job.files("parts");
    job.run_ok(&["--quiet", "--restart"]);
    assert_eq!(
        std::fs::read_link(job.path("out")).unwrap(),
        Path::new("link")
    );
    assert_eq!(
        std::fs::read_link(job.path("link")).unwrap(),
        Path::new("disk")
    );
    assert!(!job.path("out.old-1").exists());
    assert_eq!(files(&job.path("disk.old-1/parts")), parts);
    assert_eq!(files(&job.path("disk/parts")), parts);
    // The folder of a trial may be a link too.
    std::fs::create_dir(job.path("trials")).unwrap();
    std::os::unix::fs::symlink("trials", job.path("out.trial")).unwrap();
    for _ in 0..2 {
        job.run_ok(&["--quiet", "--limit", "2"]);
        assert!(job.path("out.trial").is_symlink());
        assert!(job.path("trials/job.json").exists());
    }
}

/// Where the folder that holds it cannot be written, the folder cannot be renamed.
#[cfg(unix)]
#[test]
fn a_folder_that_cannot_be_moved_is_named_with_a_cure() {
    use std::os::unix::fs::PermissionsExt;
    let job = job();
    let holder = job.path("holder");
    std::fs::create_dir(&holder).unwrap();
    let place = ["--quiet", "--set", "output.path=holder/out"];
    job.run_ok(&place);
    let set = |mode| {
        std::fs::set_permissions(&holder, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    set(0o555);
    let is_root = std::fs::write(holder.join("probe"), "").is_ok();
    let restarted = job.run(&[&place[..], &["--restart"]].concat());
    set(0o755);
    if is_root {
        eprintln!("skipped: permissions do not hold root back");
        return;
    }
    assert_eq!(restarted.status.code(), Some(2), "{}", both(&restarted));
    let text = stderr(&restarted);
    assert!(
        text.contains("cannot move") && text.contains("hint: "),
        "{text}"
    );
}

/// A finished job needs nothing but to be read.
#[cfg(unix)]
#[test]
fn a_finished_job_may_lie_where_nothing_can_be_written() {
    use std::os::unix::fs::PermissionsExt;
    let job = job();
    job.run_ok(&["--quiet"]);
    let mut folders = vec![job.path("out")];
    folders.extend(
        std::fs::read_dir(job.path("out"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_dir()),
    );
    let set = |mode| {
        for folder in &folders {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    set(0o555);
    let is_root = std::fs::write(job.path("out/locks/root"), "").is_ok();
    let ended = job.run(&["--quiet"]);
    set(0o755);
    if is_root {
        eprintln!("not shown: permissions do not hold root back");
    }
    assert_eq!(ended.status.code(), Some(0), "{}", both(&ended));
}

#[test]
fn damage_that_sizes_do_not_show_is_found_where_it_is_asked_for() {
    let job = job();
    let fresh = job.run_ok(&["--quiet", "--verbose", "--verify"]);
    assert!(!both(&fresh).contains("checked"), "{}", both(&fresh));
    let part = job.path("out/parts/part-000001.jsonl");
    let text = std::fs::read_to_string(&part).unwrap();
    std::fs::write(&part, text.replacen("\"ok\"", "\"OK\"", 1)).unwrap();
    let seen = job.run_ok(&["--quiet", "--verbose"]);
    let said = "4 committed files: names and sizes (`run --verify` reads the content too)";
    assert!(both(&seen).contains(said), "{}", both(&seen));
    let refused = job.run(&["--quiet", "--verify"]);
    assert_eq!(refused.status.code(), Some(2), "{}", both(&refused));
    let error = stderr(&refused);
    assert!(
        error.contains("part-000001.jsonl`: does not hold what was written"),
        "{error}"
    );
    assert!(
        error.contains("verify") && error.contains("--repair"),
        "{error}"
    );
    assert_eq!(verified(&job, &["--repair"]).status.code(), Some(75));
    job.run_ok(&["--quiet", "--verify"]);
    assert_eq!(std::fs::read_to_string(&part).unwrap(), text);
    let whole = job.run_ok(&["--quiet", "--verify", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&whole.stdout).unwrap();
    assert_eq!(
        report["checked"],
        serde_json::json!({ "files": 4, "content": true })
    );
}

#[test]
fn an_input_that_size_and_time_do_not_tell_from_another_is_found_where_it_is_asked_for() {
    let job = job();
    job.run_ok(&["--quiet"]);
    let input = job.path("questions.jsonl");
    let before = std::fs::metadata(&input).unwrap().modified().unwrap();
    let text = std::fs::read_to_string(&input).unwrap();
    std::fs::write(&input, text.replacen('法', "泰", 1)).unwrap();
    let file = std::fs::File::options().write(true).open(&input).unwrap();
    file.set_modified(before).unwrap();
    let refused = job.run(&["--quiet", "--verify"]);
    assert_eq!(refused.status.code(), Some(2), "{}", both(&refused));
    assert!(
        stderr(&refused).contains("questions.jsonl"),
        "{}",
        both(&refused)
    );
}

#[test]
fn what_is_no_file_any_more_is_damage_like_any_other() {
    let job = job();
    job.run_ok(&["--quiet"]);
    let part = job.path("out/parts/part-000000.jsonl");
    let text = std::fs::read(&part).unwrap();
    std::fs::remove_file(&part).unwrap();
    std::fs::create_dir(&part).unwrap();
    let found = verified(&job, &[]);
    assert_eq!(found.status.code(), Some(2), "{}", both(&found));
    assert!(
        both(&found).contains("is not a file any more"),
        "{}",
        both(&found)
    );
    assert_eq!(verified(&job, &["--repair"]).status.code(), Some(75));
    job.run_ok(&["--quiet"]);
    assert_eq!(std::fs::read(&part).unwrap(), text);
}
