//! Output folders that an earlier version began are finished with the bytes that it would have written, or
//! refused in plain words.

use std::path::Path;
use std::process::{Command, Output};

use glm_batch::internals::checkpoint::{OutputFolder, StoredJob};

use crate::support::{both, demo_model, files, stderr};

const OLD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/old");

/// A copy of an old job in a folder of its own.
struct OldJob {
    folder: tempfile::TempDir,
}

impl OldJob {
    fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy(&Path::new(OLD).join(name), folder.path());
        Self { folder }
    }

    fn command(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_glm-batch"));
        let output = command.current_dir(self.folder.path()).args(args).output();
        output.unwrap()
    }

    fn run(&self, args: &[&str]) -> Output {
        let model = format!("model.path={}", demo_model().display());
        self.command(&[&["run", "job.toml", "--quiet", "--set", &model], args].concat())
    }

    /// Name and content of the files in a folder of the output, with the input where it was then.
    fn files(&self, folder: &str, home: &str) -> Vec<(String, Vec<u8>)> {
        let mut found = files(&self.folder.path().join("out").join(folder));
        if folder == "failed" {
            let here = self.folder.path().display().to_string();
            for (_, bytes) in &mut found {
                *bytes = String::from_utf8(std::mem::take(bytes))
                    .unwrap()
                    .replace(&here, home)
                    .into_bytes();
            }
        }
        found
    }

    fn assert_is_as_unbroken(&self, name: &str) {
        let whole = Path::new(OLD).join(name).join("whole");
        let home = format!("/srv/glm-batch/old/{name}");
        for folder in ["parts", "failed"] {
            assert!(
                self.files(folder, &home) == files(&whole.join(folder)),
                "{name}: {folder}"
            );
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

#[test]
fn an_old_folder_is_finished_with_the_same_bytes() {
    for name in ["jsonl", "parquet", "no-task"] {
        let job = OldJob::new(name);
        let before = job.command(&["verify", "out"]);
        assert_eq!(before.status.code(), Some(75), "{}", both(&before));
        let committed = |at: usize| job.files("parts", "").get(at).cloned();
        let first = committed(0);
        let ended = job.run(&[]);
        assert_eq!(ended.status.code(), Some(0), "{}", both(&ended));
        assert!(!stderr(&ended).contains("is wrong"), "{}", both(&ended));
        assert_eq!(committed(0), first);
        job.assert_is_as_unbroken(name);
        let after = job.command(&["verify", "out"]);
        assert_eq!(after.status.code(), Some(0), "{}", both(&after));
        let shown = job.command(&["show", "out", "--limit", "0"]);
        assert_eq!(shown.status.code(), Some(0), "{}", both(&shown));
        let again = job.run(&["--verify"]);
        assert!(
            stderr(&again).contains("finished already"),
            "{}",
            both(&again)
        );
    }
}

/// A later version says more of a row's wrong settings, but not in a job that was begun without that.
#[test]
fn the_reasons_of_failed_rows_stay_as_they_were() {
    let job = OldJob::new("row-settings");
    let ended = job.run(&["--shard", "1/2"]);
    assert_eq!(ended.status.code(), Some(0), "{}", both(&ended));
    job.assert_is_as_unbroken("row-settings");
}

/// The files of an old job stay as they were: none names the job, in whatever version.
#[test]
fn the_files_of_an_old_folder_name_no_job() {
    let job = OldJob::new("jsonl");
    let out = job.folder.path().join("out");
    let stored = StoredJob::existing(&OutputFolder::at(&out)).unwrap();
    assert_eq!(stored.fingerprint.as_deref(), None);
    let ended = job.run(&[]);
    assert_eq!(ended.status.code(), Some(0), "{}", both(&ended));
    for file in ["manifest/shard-0.json", "report/shard-0.json"] {
        let text = std::fs::read_to_string(out.join(file)).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        for key in ["job_fingerprint", "finger"] {
            assert!(value.get(key).is_none(), "{file}: {text}");
        }
        if file.starts_with("manifest") {
            assert_eq!(value["version"], "1");
            assert!(value.get("job").is_none());
        }
    }
}

/// The other files of a job name it by the bytes of its `job.json`: these stay as they were, whatever a
/// `job.json` says by now.
#[test]
fn a_job_without_a_task_keeps_its_name() {
    let job = OldJob::new("no-task");
    let out = job.folder.path().join("out");
    let before = std::fs::read(out.join("job.json")).unwrap();
    assert!(!String::from_utf8_lossy(&before).contains("\"task\""));
    let ended = job.run(&[]);
    assert_eq!(ended.status.code(), Some(0), "{}", both(&ended));
    assert!(std::fs::read(out.join("job.json")).unwrap() == before);
    let manifest = std::fs::read_to_string(out.join("manifest/shard-0.json")).unwrap();
    let named = blake3::hash(&before).to_hex();
    assert!(manifest.contains(named.as_str()), "{manifest}");
}

/// Killed in the middle by the new program too, and gone on with.
#[test]
fn an_old_folder_may_be_stopped_again() {
    let job = OldJob::new("jsonl");
    let stopped = job.run(&["--set", "output.max_failed=1"]);
    assert_eq!(stopped.status.code(), Some(3), "{}", both(&stopped));
    let status = job.command(&["status", "out"]);
    assert_eq!(status.status.code(), Some(0), "{}", both(&status));
    let ended = job.run(&[]);
    assert_eq!(ended.status.code(), Some(0), "{}", both(&ended));
    job.assert_is_as_unbroken("jsonl");
}

#[test]
fn an_old_folder_whose_rules_have_changed_is_refused() {
    let job = OldJob::new("bad-words");
    let before = job.files("parts", "");
    let refused = job.run(&[]);
    assert_eq!(refused.status.code(), Some(2), "{}", both(&refused));
    let text = stderr(&refused);
    assert!(text.contains("generation.bad_words"), "{text}");
    assert!(text.contains("--restart"), "{text}");
    assert_eq!(job.files("parts", ""), before);
    let anew = job.run(&["--restart"]);
    assert_eq!(anew.status.code(), Some(0), "{}", both(&anew));
}

/// The same folder as it was begun under the arithmetic before: its bits are not those of today.
#[test]
fn an_old_folder_of_other_arithmetic_is_refused() {
    let job = OldJob::new("jsonl");
    let record = Path::new(OLD).join("arithmetic/job.json");
    std::fs::copy(record, job.folder.path().join("out/job.json")).unwrap();
    let before = job.files("parts", "");
    let refused = job.run(&[]);
    assert_eq!(refused.status.code(), Some(2), "{}", both(&refused));
    let text = stderr(&refused);
    assert!(
        text.contains("`version of the arithmetic` was `3`, is now `4`"),
        "{text}"
    );
    assert!(text.contains("--restart"), "{text}");
    assert_eq!(job.files("parts", ""), before);
    let shown = job.command(&["show", "out", "--limit", "0"]);
    assert_eq!(shown.status.code(), Some(0), "{}", both(&shown));
}

/// Nothing is left that other rules could change, wherever the model is now.
#[test]
fn a_finished_old_folder_is_finished_under_any_rules() {
    let job = OldJob::new("bad-words-finished");
    let before = job.files("parts", "");
    for more in [&[][..], &["--verify"]] {
        let ended = job.run(more);
        assert_eq!(ended.status.code(), Some(0), "{}", both(&ended));
        assert!(
            stderr(&ended).contains("finished already"),
            "{}",
            both(&ended)
        );
    }
    assert_eq!(job.files("parts", ""), before);
}
