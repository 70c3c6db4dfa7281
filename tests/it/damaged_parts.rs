//! A committed file that is not as it was written: nothing is exported, shown or reported from it.

use crate::export::{exported, generated};
use crate::support::{Job, both, stderr};

/// Changes a byte in the middle of a file, whose length stays.
fn damage(job: &Job, name: &str) -> Vec<u8> {
    let path = job.path(name);
    let sound = std::fs::read(&path).unwrap();
    let mut bytes = sound.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    sound
}

/// Runs a command, which must be refused with the name of the file and the command that helps.
fn refused(job: &Job, args: &[&str], file: &str, reason: &str) {
    let output = job.command(args).output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {}", both(&output));
    for words in [
        &format!("{file}` {reason}"),
        "hint: `glm-batch verify out --repair` takes it out, then run the job again",
    ] {
        assert!(said.contains(words), "{args:?}: {said}");
    }
}

#[test]
fn a_damaged_part_is_refused_by_name_and_the_cure_helps() {
    for format in ["jsonl", "parquet"] {
        let job = generated(format, "");
        let (before, _) = exported(&job, &["--to", "jsonl"]);
        let part = format!("out/parts/part-000001.{format}");
        let sound = damage(&job, &part);
        let reason = "does not hold what was written";
        for (to, file) in [
            ("jsonl", "x.jsonl"),
            ("parquet", "x.parquet"),
            ("csv", "x.csv"),
            ("messages", "x.jsonl"),
        ] {
            let args = ["export", "out", "--to", to, "--output", file];
            refused(&job, &args, &part, reason);
            for left in [file, "x.jsonl.card.md", ".x.jsonl.0.tmp"] {
                assert!(!job.path(left).exists(), "{format}, {to}: {left}");
            }
        }
        refused(&job, &["export", "out", "--to", "jsonl"], &part, reason);
        refused(&job, &["show", "out", "-n", "0"], &part, reason);
        refused(&job, &["report", "out"], &part, reason);
        let by = ["report", "out", "--metrics", "--by", "question"];
        refused(&job, &by, &part, reason);
        assert!(!job.path("out/report.html").exists(), "{format}");
        // What comes before it is sound.
        let shown = job.command(&["show", "out", "-n", "2"]).output().unwrap();
        assert_eq!(shown.status.code(), Some(0), "{}", both(&shown));
        std::fs::write(job.path(&part), &sound[1..]).unwrap();
        let shorter = format!(
            "has {} bytes, was written with {}",
            sound.len() - 1,
            sound.len()
        );
        refused(&job, &["show", "out", "-n", "0"], &part, &shorter);
        std::fs::remove_file(job.path(&part)).unwrap();
        refused(&job, &["export", "out", "--to", "alpaca"], &part, "is gone");

        let repaired = job
            .command(&["verify", "out", "--repair"])
            .output()
            .unwrap();
        assert_eq!(repaired.status.code(), Some(75), "{}", both(&repaired));
        job.run_ok(&["--quiet"]);
        assert_eq!(exported(&job, &["--to", "jsonl"]).0, before, "{format}");
    }
}

#[test]
fn a_damaged_file_of_failed_rows_is_refused_too() {
    let job = generated("jsonl", "");
    let file = "out/failed/window-000000.jsonl";
    damage(&job, file);
    let reason = "does not hold what was written";
    refused(&job, &["show", "out", "--failed"], file, reason);
    refused(&job, &["report", "out"], file, reason);
    // The rows themselves are sound.
    exported(&job, &["--to", "jsonl"]);
}
