//! `export`: whole files or none, their cards, folders of several exports, readers that stop.

use std::process::{Command, Stdio};

use crate::export::{exported, generated};
use crate::support::{both, stderr};

#[path = "../../benches/folder/mod.rs"]
mod folder;

#[test]
fn a_card_lies_beside_the_file_or_in_its_folder() {
    let job = generated("jsonl", "");
    exported(
        &job,
        &[
            "--to",
            "messages",
            "--finish",
            "stop",
            "--output",
            "sft.jsonl",
        ],
    );
    let card = std::fs::read_to_string(job.path("sft.jsonl.card.md")).unwrap();
    let (_, said) = exported(&job, &["--to", "messages", "--output", "data/"]);
    assert!(said.contains("written to `data/messages.jsonl`"), "{said}");
    let readme = job.path("data/README.md");
    let in_folder = std::fs::read_to_string(&readme).unwrap();
    assert_eq!(
        std::fs::read_to_string(job.path("data/messages.jsonl.card.md"))
            .unwrap()
            .matches("messages.jsonl")
            .count(),
        2
    );
    let weights = card
        .lines()
        .find(|line| line.starts_with("| weights |"))
        .unwrap()
        .to_owned();
    let cards = format!("{card}\n=====\n{in_folder}").replace(&weights, "| weights | [weights] |");
    insta::assert_snapshot!(cards);
    // Ours is written again, another one never.
    std::fs::write(&readme, "my notes\n").unwrap();
    let (_, said) = exported(&job, &["--to", "jsonl", "--output", "data"]);
    assert!(
        said.contains(
            "README.md` is not ours and stays as it is, so it does not tell of this export"
        ),
        "{said}"
    );
    assert_eq!(std::fs::read_to_string(&readme).unwrap(), "my notes\n");
    assert!(job.path("data/rows.jsonl").exists());
    assert!(job.path("data/rows.jsonl.card.md").exists());
    std::fs::write(job.path("x.jsonl.card.md"), "mine").unwrap();
    let (_, said) = exported(&job, &["--to", "messages", "--output", "x.jsonl"]);
    assert!(said.contains("so this export has no card"), "{said}");
}

/// Loads each name that a folder has with `datasets`, and prints how many rows it has.
const LOAD: &str = "
import sys
try:
    import datasets
except ImportError:
    sys.exit(77)
datasets.disable_progress_bars()
for name in datasets.get_dataset_config_names('data'):
    rows = datasets.load_dataset('data', name, split='train')
    print(name.rsplit('-', 1)[0], len(rows), ','.join(rows.column_names))
";

#[test]
fn every_export_of_a_folder_is_told_of_and_loadable() {
    let job = generated("jsonl", "");
    let names = ["messages", "alpaca", "rlhf", "parquet"];
    let mut cards = Vec::new();
    for to in names {
        exported(&job, &["--to", to, "--output", "data/"]);
        let file = match to {
            "parquet" => "rows.parquet".to_owned(),
            to => format!("{to}.jsonl"),
        };
        cards.push((
            to,
            std::fs::read_to_string(job.path(&format!("data/{file}.card.md"))).unwrap(),
        ));
    }
    for (to, card) in &cards {
        assert!(card.contains(&format!("`--to {to}`")), "{card}");
    }
    let readme = std::fs::read_to_string(job.path("data/README.md")).unwrap();
    let of_line = |start: &str| -> Vec<String> {
        let lines = readme.lines().filter_map(|line| line.strip_prefix(start));
        lines.map(str::to_owned).collect()
    };
    // One reader loads a folder, so the Parquet file is told of and has no name.
    assert_eq!(
        of_line("    path: "),
        ["\"alpaca.jsonl\"", "\"messages.jsonl\"", "\"rlhf.jsonl\""]
    );
    assert_eq!(of_line("| `").len(), 4, "{readme}");
    assert!(!readme.contains("NAME may be left out"), "{readme}");

    // A file that is gone is forgotten.
    let python = std::env::var("GLM_BATCH_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut command = Command::new(&python);
    command.current_dir(job.folder.path()).args(["-c", LOAD]);
    command
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HOME", job.path("home"));
    match command.output() {
        Ok(output) if output.status.success() => {
            let said = String::from_utf8(output.stdout).unwrap();
            assert_eq!(
                said.lines().collect::<Vec<_>>(),
                [
                    "alpaca 10 instruction,input,output",
                    "messages 10 messages",
                    "rlhf 5 prompt,prefix,answers",
                ]
            );
        }
        Ok(output) if output.status.code() != Some(77) => panic!("{}", both(&output)),
        _ => eprintln!("skipped: `{python}` has no `datasets`; set GLM_BATCH_TEST_PYTHON"),
    }
    std::fs::remove_file(job.path("data/alpaca.jsonl")).unwrap();
    exported(&job, &["--to", "sharegpt", "--output", "data/"]);
    let readme = std::fs::read_to_string(job.path("data/README.md")).unwrap();
    assert!(!readme.contains("alpaca"), "{readme}");
    assert!(readme.contains("sharegpt.jsonl"), "{readme}");
}

/// Stopped just before the file has its name: the card is there, and the same command does the rest.
#[cfg(feature = "failpoints")]
#[test]
fn a_file_never_has_its_name_without_its_card() {
    let job = generated("jsonl", "");
    for (point, is_there) in [("create-before-link", false), ("create-after-link", true)] {
        let file = if is_there {
            "after.jsonl"
        } else {
            "before.jsonl"
        };
        let mut command = job.command(&["export", "out", "--to", "messages", "--output", file]);
        let stopped = command
            .env("FAILPOINTS", format!("{point}=panic"))
            .output()
            .unwrap();
        assert_ne!(
            stopped.status.code(),
            Some(0),
            "{point}: {}",
            both(&stopped)
        );
        assert_eq!(job.path(file).exists(), is_there, "{point}");
        let card = std::fs::read(job.path(&format!("{file}.card.md"))).unwrap();
        if !is_there {
            exported(&job, &["--to", "messages", "--output", file]);
            assert_eq!(
                std::fs::read(job.path(&format!("{file}.card.md"))).unwrap(),
                card
            );
        }
    }
}

/// A large folder: a reader that stops in the middle of it, and a kill.
#[cfg(unix)]
#[test]
fn a_reader_that_stops_ends_the_export_quietly_and_a_kill_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    folder::finished(folder.path(), 40_000, "format = \"jsonl\"\n");
    let export = |more: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_glm-batch"));
        command
            .current_dir(folder.path())
            .args(["export", "out", "--to", "messages"]);
        command
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    };
    let mut child = export(&[]).spawn().unwrap();
    let mut first = [0; 100];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    assert_eq!(stderr(&output), "");

    let leftovers = || {
        let names = crate::support::files_of(folder.path()).into_iter();
        names
            .filter(|name| name.contains("sft"))
            .collect::<Vec<_>>()
    };
    for signal in ["-KILL", "-TERM"] {
        let child = export(&["--output", "sft.jsonl"]).spawn().unwrap();
        // Once its hidden file is there, it is in the middle of it.
        while leftovers().is_empty() {
            std::thread::yield_now();
        }
        let pid = child.id().to_string();
        let killed = std::process::Command::new("kill")
            .args([signal, &pid])
            .status();
        assert!(killed.unwrap().success());
        let output = child.wait_with_output().unwrap();
        if signal == "-TERM" {
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(75), "{said}");
            for words in [
                "SIGTERM: ending without the file, of which nothing is kept",
                "exit 75: interrupted: no file was written, and the same command writes all of it",
            ] {
                assert!(said.contains(words), "{said}");
            }
            assert!(!said.contains("rows in flight"), "{said}");
        }
        let left = leftovers();
        assert!(
            left.iter().all(|name| name.starts_with(".sft.jsonl.")),
            "{left:?}"
        );
        assert_eq!(left.is_empty(), signal == "-TERM", "{left:?}");
        for name in left {
            std::fs::rename(folder.path().join(name), folder.path().join("half")).unwrap();
        }
    }
    // What a kill left now, and what one of an earlier version did.
    for name in [".sft.jsonl.0.tmp", ".sft.jsonl.7.tmp"] {
        std::fs::copy(folder.path().join("half"), folder.path().join(name)).unwrap();
    }
    let output = export(&["--output", "sft.jsonl"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    assert_eq!(
        leftovers(),
        ["sft.jsonl", "sft.jsonl.card.md"],
        "a later export clears up"
    );
    let lines = std::fs::read_to_string(folder.path().join("sft.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 40_000);
}

/// Several exports to one name at once: one writes it, and the others say so and change nothing.
#[cfg(unix)]
#[test]
fn of_several_exports_to_one_name_one_wins_and_none_does_harm() {
    let folder = tempfile::tempdir().unwrap();
    folder::finished(folder.path(), 20_000, "format = \"jsonl\"\n");
    let export = |to: &str, output: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_glm-batch"));
        command.current_dir(folder.path());
        command.args(["export", "out", "--to", to, "--output", output]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    // Different lines, so that the card of another export would be wrong.
    let children = ["messages", "alpaca", "messages", "rlhf"]
        .map(|to| export(to, "sft.jsonl").spawn().unwrap());
    let ended = children.map(|child| child.wait_with_output().unwrap());
    let (won, lost): (Vec<_>, Vec<_>) = ended.iter().partition(|one| one.status.success());
    assert_eq!(won.len(), 1, "{:?}", ended.each_ref().map(both));
    for one in lost {
        let said = stderr(one);
        let reasons = [
            (
                75,
                "`sft.jsonl` is being written by another export\nhint: wait until that has ended, or give another `--output`\nexit 75: run the same command again when the other export has ended",
            ),
            (2, "`sft.jsonl` is there already"),
            (2, "`sft.jsonl` came while"),
        ];
        let is_one = |&(code, reason): &(i32, &str)| {
            one.status.code() == Some(code) && said.contains(reason)
        };
        assert!(reasons.iter().any(is_one), "{said}");
    }
    let mut names = crate::support::files_of(folder.path());
    names.retain(|name| name.contains("sft"));
    assert_eq!(names, ["sft.jsonl", "sft.jsonl.card.md"]);
    let bytes = std::fs::read(folder.path().join("sft.jsonl")).unwrap();
    let card = std::fs::read_to_string(folder.path().join("sft.jsonl.card.md")).unwrap();
    let hash = blake3::hash(&bytes).to_hex();
    assert!(card.contains(&format!("| blake3 | `{hash}` |")), "{card}");

    // Exports to one folder tell of each other, whichever ends last.
    let formats = ["messages", "alpaca", "rlhf"];
    let children = formats.map(|to| export(to, "data/").spawn().unwrap());
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    }
    let readme = std::fs::read_to_string(folder.path().join("data/README.md")).unwrap();
    for to in formats {
        assert!(readme.contains(&format!("| `{to}.jsonl` |")), "{readme}");
    }
    let names = crate::support::files_of(&folder.path().join("data"));
    assert_eq!(names.len(), 7, "{names:?}");
}

#[test]
fn the_command_in_a_card_can_be_copied() {
    let job = generated("jsonl", "");
    let filter = "completion is string and completion | length > 0 and question != 'it`s'";
    let args = [
        "--to",
        "messages",
        "--output",
        "a|b.jsonl",
        "--where",
        filter,
    ];
    exported(&job, &args);
    let card = std::fs::read_to_string(job.path("a|b.jsonl.card.md")).unwrap();
    let line = card.lines().find(|line| line.starts_with("| export |"));
    assert_eq!(
        line.unwrap(),
        r"| export | ``--to messages --where 'completion is string and completion \| length > 0 and question != '\''it`s'\'''`` |"
    );
    assert!(card.starts_with("# a|b.jsonl\n"), "{card}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_device_is_told_of() {
    let job = generated("jsonl", "");
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut command = job.command(&["export", "out", "--to", "jsonl"]);
    let output = command.stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    assert!(
        stderr(&output).contains("No space left on device"),
        "{}",
        both(&output)
    );
}
