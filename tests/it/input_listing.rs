//! Which files a folder or glob gives beside links, earlier results and by the rules of old jobs; templates on a
//! machine without threads.
#![cfg(unix)]

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use glm_batch::internals::input::{InputError, resolve_files};
use glm_batch::internals::job::{InputSpec, Rules};

use crate::input;
use crate::support::{Job, both, some_questions, stderr};

fn spec(path: &Path) -> InputSpec {
    let mut spec = input::Job::new(&[]).input;
    spec.path = vec![path.to_str().unwrap().to_owned()];
    spec
}

/// Names of the files below `root`, and the notes.
fn listed(
    root: &Path,
    pattern: &str,
    output: &Path,
    rules: Rules,
) -> Result<(Vec<String>, Vec<String>), InputError> {
    let found = resolve_files(&spec(&root.join(pattern)), output, rules)?;
    let name = |path: &Path| path.strip_prefix(root).unwrap().display().to_string();
    let names = found.files.iter().map(|file| name(&file.path)).collect();
    Ok((names, found.notes))
}

fn write(root: &Path, names: &[&str]) {
    for name in names {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "{\"question\": \"1+1\"}\n").unwrap();
    }
}

#[test]
fn a_link_to_nothing_is_left_out_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root, &["in/a.jsonl", "in/b/c.jsonl"]);
    symlink("/nowhere/d.jsonl", root.join("in/b/d.jsonl")).unwrap();
    symlink("/nowhere/notes.txt", root.join("in/b/notes.txt")).unwrap();
    for (pattern, expected) in [
        ("in", &["in/a.jsonl", "in/b/c.jsonl"][..]),
        ("in/**/*.jsonl", &["in/a.jsonl", "in/b/c.jsonl"]),
        ("in/*", &["in/a.jsonl", "in/b/c.jsonl"]),
        ("in/b/*.jsonl", &["in/b/c.jsonl"]),
    ] {
        let (names, notes) = listed(root, pattern, &root.join("out"), Rules::CURRENT).unwrap();
        assert_eq!(names, expected, "{pattern}");
        let [note] = &notes[..] else {
            panic!("{pattern}: {notes:?}")
        };
        assert!(
            note.ends_with("`d.jsonl`: they are links to files that do not exist"),
            "{note}"
        );
    }
}

#[test]
fn results_behind_a_link_are_no_input() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root, &["in/a.jsonl", "disk/results/parts/p.jsonl"]);
    symlink(root.join("disk/results"), root.join("in/out")).unwrap();
    for pattern in ["in", "in/**/*.jsonl", "in/*"] {
        let output = root.join("in/out");
        let (names, _) = listed(root, pattern, &output, Rules::CURRENT).unwrap();
        assert_eq!(names, ["in/a.jsonl"], "{pattern}");
    }
}

#[test]
fn an_old_job_is_listed_as_it_was_begun() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(
        root,
        &[
            "in/_a.jsonl",
            "in/b.jsonl",
            "in/c.json.gz",
            "in/d.json",
            "in/x=1/e.jsonl",
        ],
    );
    std::fs::create_dir_all(root.join("in/_delta_log")).unwrap();
    let output = root.join("out");
    for pattern in ["in", "in/*"] {
        let (names, _) = listed(root, pattern, &output, Rules::FIRST).unwrap();
        assert_eq!(
            names,
            ["in/_a.jsonl", "in/b.jsonl", "in/x=1/e.jsonl"],
            "{pattern}"
        );
        let now = listed(root, pattern, &output, Rules::CURRENT);
        assert!(matches!(now, Err(InputError::Table { .. })), "{now:?}");
    }
    let found = resolve_files(&spec(&root.join("in")), &output, Rules::FIRST).unwrap();
    assert!(found.files.iter().all(|file| file.partition.is_empty()));
}

fn run_with_memory(job: &Job, kilobytes: u32, template: &str) -> Output {
    let ours = job.command(&[
        "run",
        "job.toml",
        "--set",
        &format!("prompt.template={template}"),
    ]);
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg(format!("ulimit -v {kilobytes} && exec \"$0\" \"$@\""))
        .arg(ours.get_program())
        .args(ours.get_args())
        .current_dir(job.folder.path());
    shell.env("XDG_CACHE_HOME", job.path("cache"));
    shell.output().unwrap()
}

#[test]
fn a_machine_without_threads_fails_no_row() {
    let folder = tempfile::tempdir().unwrap();
    let more = "format = \"jsonl\"\n[prompt]\nmax_length = 96\n[generation]\nmax_new_tokens = 2\n";
    let job = Job::new(&some_questions(folder.path(), 40), more);
    let words = run_with_memory(&job, 1_200_000, "recall, basically: {{ question }}");
    assert_eq!(words.status.code(), Some(0), "{}", both(&words));
    let job = Job::new(&some_questions(folder.path(), 40), more);
    let set = run_with_memory(&job, 480_000, "{% set q = question %}{{ q }}");
    assert_eq!(set.status.code(), Some(2), "{}", both(&set));
    assert!(stderr(&set).contains("ulimit -v"), "{}", both(&set));
    assert!(!job.path("out/job.json").exists());
}
