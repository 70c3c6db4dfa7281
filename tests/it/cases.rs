//! Inputs, job files and attacks that failed when they were found, each held to what must happen.
//!
//! They are large or many, so they are not in the repository: where the folder is not beside the checkout, each
//! test says so and passes. Every kind has a smaller test of its own elsewhere.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{Job, both, demo_model, rows, shared};

/// Both formats of results.
const FORMATS: [&str; 2] = ["parquet", "jsonl"];

/// A job of the demonstration model over a file or folder of `cases/`, with more keys of `[output]` and sections
/// behind it.
fn data_job(input: &Path, format: &str, more: &str) -> Job {
    Job::of_model(
        &demo_model(),
        input,
        "columns = { prompt = \"question\" }",
        &format!(
            "format = \"{format}\"\n[prompt]\nmax_length = 64\n[generation]\nmax_new_tokens = 4\n{more}"
        ),
    )
}

/// Runs the file in one format: exit 0, so many rows, all of them answered.
fn sound(name: &str, format: &str, count: usize, more: &str) -> Option<(Job, Vec<Value>)> {
    let job = data_job(&shared(&format!("cases/{name}"))?, format, more);
    job.run_ok(&["-q"]);
    let found = job.rows();
    assert_eq!(found.len(), count, "{name} as {format}");
    for row in &found {
        assert_eq!(row["status"], "ok", "{name} as {format}: {row}");
    }
    Some((job, found))
}

/// As [`sound`] in both formats, with a look at the rows.
fn sound_in_both(name: &str, count: usize, check: impl Fn(&str, &[Value])) {
    for format in FORMATS {
        if let Some((_job, rows)) = sound(name, format, count, "") {
            check(format, &rows);
        }
    }
}

/// What a column of these rows holds.
fn column<'a>(rows: &'a [Value], name: &str) -> Vec<&'a Value> {
    rows.iter().map(|row| &row[name]).collect()
}

/// `plan` and `run` refuse the file before any work, in these words.
fn refused(name: &str, words: &[&str]) {
    let Some(input) = shared(&format!("cases/{name}")) else {
        return;
    };
    let job = data_job(&input, "parquet", "");
    for command in ["plan", "run"] {
        let output = job.command(&[command, "job.toml"]).output().unwrap();
        let said = both(&output);
        assert_eq!(output.status.code(), Some(2), "{name}: {command}: {said}");
        for word in words {
            assert!(
                said.contains(word),
                "{name}: {command}: no `{word}`: {said}"
            );
        }
    }
    assert!(job.files("parts").is_empty());
}

#[test]
fn a_long_repeated_text_costs_little_memory() {
    let Some(input) = shared("cases/long-repeated-text.parquet") else {
        return;
    };
    for format in FORMATS {
        let job = data_job(&input, format, "");
        let plan = job
            .command(&["plan", "job.toml", "--json"])
            .output()
            .unwrap();
        assert_eq!(plan.status.code(), Some(0), "{}", both(&plan));
        let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
        assert_eq!(plan["rows"], 8192, "{plan}");
        assert_eq!(plan["bad_rows"], 0, "{plan}");
    }
}

#[test]
fn a_parquet_file_edited_in_place_is_another_input() {
    let (Some(before), Some(after)) = (
        shared("cases/edited-in-place/before.parquet"),
        shared("cases/edited-in-place/after.parquet"),
    ) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.parquet");
    std::fs::copy(before, &input).unwrap();
    let job = data_job(&input, "jsonl", "");
    job.run_ok(&["-q"]);
    std::fs::copy(after, &input).unwrap();
    let output = job.run(&["-q"]);
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    assert!(both(&output).contains("in.parquet"), "{}", both(&output));
}

#[test]
fn a_zone_and_a_bad_row() {
    let Some(input) = shared("cases/utc-timestamp.parquet") else {
        return;
    };
    for (format, template) in [
        ("parquet", ""),
        ("jsonl", ""),
        ("jsonl", "{{ question }}{{ asked }}"),
    ] {
        let job = data_job(&input, format, "");
        let set = format!("prompt.template={template}");
        let with_template = ["-q", "--set", set.as_str()];
        job.run_ok(if template.is_empty() {
            &["-q"]
        } else {
            &with_template
        });
        let rows = job.rows();
        let ok = rows.iter().filter(|row| row["status"] == "ok").count();
        assert_eq!((ok, rows.len()), (1, 2), "{rows:?}");
        assert_eq!(job.files("failed").len(), 1);
        if format == "jsonl" {
            assert_eq!(rows[0]["asked"], "2024-01-02T03:04:05.678901Z", "{rows:?}");
        }
        let show = job.command(&["show", "out"]).output().unwrap();
        assert_eq!(show.status.code(), Some(0), "{}", both(&show));
        assert!(
            both(&show).contains("2024-01-02T03:04:05.678901Z"),
            "{}",
            both(&show)
        );
    }
}

#[test]
fn far_dates_stay_what_they_are() {
    sound_in_both("int96-far-dates.parquet", 3, |format, rows| {
        let text = Value::from(rows.to_vec()).to_string();
        for date in ["0001-01-01", "2024-01-01", "9999-12-31"] {
            assert!(text.contains(date), "{format}: no {date}: {text}");
        }
    });
}

#[test]
fn ids_keep_their_digits() {
    let Some(input) = shared("cases/ids-int-and-float") else {
        return;
    };
    for format in FORMATS {
        let job = data_job(&input, format, "");
        let output = job.run(&["-q"]);
        let said = both(&output);
        assert!(!said.contains("e+18"), "{said}");
        if output.status.code() == Some(2) {
            assert!(said.contains("post") && said.contains("hint: "), "{said}");
            let job = data_job(&input, format, "");
            job.run_ok(&["-q", "--set", "output.columns=none"]);
            let ids = job.rows();
            let ids = column(&ids, "id");
            assert!(ids.iter().any(|id| *id == "1234567890123456789"), "{ids:?}");
            assert!(
                ids.iter().all(|id| !id.to_string().contains('e')),
                "{ids:?}"
            );
        } else {
            let rows = job.rows();
            for row in &rows {
                let text = row.to_string();
                assert!(!text.contains("e+18") && !text.contains("e18"), "{text}");
            }
        }
    }
}

#[test]
fn infinite_dates_are_no_error_texts() {
    sound_in_both("infinite-dates.parquet", 1, |format, rows| {
        let text = Value::from(rows.to_vec()).to_string();
        assert!(!text.contains("ERROR"), "{format}: {text}");
    });
}

#[test]
fn logical_types_have_their_texts() {
    sound_in_both("enum-text.parquet", 2, |_, rows| {
        assert_eq!(column(rows, "role"), ["user", "tool"]);
    });
    for format in FORMATS {
        if let Some((_job, rows)) = sound("uuid.parquet", format, 1, "") {
            assert_eq!(rows[0]["id"], "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11");
            if format == "jsonl" {
                let parent = rows[0]["parent"].as_str().unwrap();
                assert_eq!(
                    parent.split('-').map(str::len).collect::<Vec<_>>(),
                    [8, 4, 4, 4, 12]
                );
            }
        }
    }
    for format in FORMATS {
        let Some(input) = shared("cases/logical-types.parquet") else {
            return;
        };
        let job = data_job(&input, format, "");
        job.run_ok(&["-q"]);
        assert!(!Value::from(job.rows()).to_string().contains("ERROR"));
    }
}

#[test]
fn one_type_of_two_writers_is_one_type() {
    for (name, count) in [
        ("nested-small-dictionary.parquet", 300),
        ("lists-of-two-writers", 2),
        ("empty-lists-in-one-shard", 2),
        ("timestamp-units", 2),
        ("shard-without-rows", 1),
    ] {
        sound_in_both(name, count, |_, _| {});
    }
}

#[test]
fn folders_of_other_programs() {
    sound_in_both("spark-folder", 1, |_, _| {});
    sound_in_both("partitioned-folder", 2, |_, rows| {
        let mut languages = column(rows, "lang");
        languages.sort_by_key(ToString::to_string);
        assert_eq!(languages, ["en", "zh"]);
    });
    for entry in ["", "/*.json", "/*.json.gz"] {
        let Some(folder) = shared("cases/json-folder") else {
            return;
        };
        let input = PathBuf::from(format!("{}{entry}", folder.display()));
        let job = data_job(&input, "jsonl", "");
        job.run_ok(&["-q"]);
        assert!(!job.rows().is_empty(), "`{entry}`");
    }
}

#[test]
fn packed_files() {
    sound_in_both("zero-padded.jsonl.gz", 4, |_, _| {});
    let Some(input) = shared("cases/long-window.jsonl.zst") else {
        return;
    };
    let job = data_job(&input, "jsonl", "");
    let output = job.run(&["-q"]);
    let said = both(&output);
    match output.status.code() {
        Some(0) => assert!(!job.rows().is_empty()),
        Some(2) => assert!(said.contains("window") && said.contains("zstd"), "{said}"),
        _ => panic!("{said}"),
    }
}

#[test]
fn files_that_are_refused_with_the_cure() {
    refused(
        "duplicate-columns.parquet",
        &["tag", "duplicate-columns.parquet"],
    );
    refused("utf16.jsonl", &["UTF-16", "iconv"]);
    refused("array-inside.jsonl", &["jq"]);
    refused("lfs-pointer.jsonl", &["Git LFS pointer"]);
    refused("lfs-pointer.parquet", &["Git LFS pointer"]);
    refused("int128.parquet", &["int128.parquet", "column"]);
}

#[test]
fn an_encrypted_column_is_named_or_left_out() {
    let Some(input) = shared("cases/encrypted-column.parquet") else {
        return;
    };
    let job = data_job(&input, "parquet", "");
    let output = job.run(&["-q"]);
    let said = both(&output);
    assert!(!said.contains("is damaged"), "{said}");
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("note") && said.contains("encrypted"),
        "{said}"
    );
}

#[test]
fn chat_messages_lead_to_a_template() {
    let Some(input) = shared("cases/chat-messages.jsonl") else {
        return;
    };
    let job = data_job(&input, "jsonl", "");
    let output = job.run(&["-q", "--set", "input.columns.prompt=prompt"]);
    assert_eq!(output.status.code(), Some(3), "{}", both(&output));
    let rows = job.rows();
    let error = rows[0]["error"].as_str().unwrap();
    assert!(
        error.contains("prompt.template") && error.contains("{{"),
        "{error}"
    );
}

#[test]
fn names_that_differ_in_case_are_said() {
    let Some(input) = shared("cases/names-differ-in-case.parquet") else {
        return;
    };
    let job = data_job(&input, "parquet", "");
    let said = both(&job.run(&[]));
    assert!(said.contains("Status"), "{said}");
}

/// Runs a case of `cases-generation` with its output elsewhere.
fn generation(name: &str, args: &[&str]) -> Option<(tempfile::TempDir, Output)> {
    let case = shared(&format!("cases-generation/{name}"))?;
    let model = shared("fixtures/glm-tiny-zh")?;
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_glm-batch"))
        .arg("run")
        .arg(case.join("job.toml"))
        .arg("--set")
        .arg(format!(
            "output.path={}",
            folder.path().join("out").display()
        ))
        .args(args)
        .env("XDG_CACHE_HOME", folder.path().join("cache"))
        .env_remove("MODEL")
        .env("MODEL", model)
        .output()
        .unwrap();
    Some((folder, output))
}

fn completions(folder: &tempfile::TempDir) -> Vec<String> {
    rows(&folder.path().join("out"))
        .iter()
        .map(|row| row["completion"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn bad_words_are_barred_inside_a_text_too() {
    for (name, words) in [
        ("bad-word-inside", &["塞尔", "丹"][..]),
        ("bad-word-punctuation", &["?", "？"]),
    ] {
        let Some((folder, output)) = generation(name, &["-q"]) else {
            return;
        };
        assert_eq!(output.status.code(), Some(0), "{name}: {}", both(&output));
        let completions = completions(&folder);
        assert!(!completions.is_empty());
        for completion in completions {
            for word in words {
                assert!(!completion.contains(word), "{name}: {completion}");
            }
        }
    }
}

#[test]
fn a_stop_string_is_what_the_tokenizer_writes() {
    let Some((folder, output)) = generation("stop-fullwidth", &["-q"]) else {
        return;
    };
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    let found = rows(&folder.path().join("out"));
    assert!(
        found
            .iter()
            .any(|row| row["completion"] == "红是什么是什么"
                && row["finish_reason"] == "stop_string"),
        "{found:?}"
    );
    for special in ["<|endofpiece|>", "[MASK]"] {
        let set = format!("generation.stop=[\"{special}\"]");
        let (_folder, output) = generation("stop-fullwidth", &["--set", &set]).unwrap();
        assert!(both(&output).contains(special), "{}", both(&output));
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    }
}

#[test]
fn sampling_keys_without_sampling_are_said() {
    let Some((_folder, output)) = generation("greedy-with-sampling-keys", &[]) else {
        return;
    };
    let said = both(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains("do_sample") && said.contains("temperature"),
        "{said}"
    );
}

#[test]
fn words_of_other_tools_get_the_cure() {
    for (set, cure) in [
        ("generation.top_k=-1", "0"),
        ("generation.top_p=0", "`top_p = 1.0` is off"),
        ("generation.temperature=0", "do_sample"),
        ("generation.seed=-1", "seed"),
    ] {
        let Some((_folder, output)) =
            generation("off-values", &["--set", "generation.top_k=0", "--set", set])
        else {
            return;
        };
        let said = both(&output);
        assert_eq!(output.status.code(), Some(2), "{set}: {said}");
        assert!(
            said.contains("hint: ") && said.contains(cure),
            "{set}: {said}"
        );
    }
}

/// Whether a program answers when it is called.
fn has(program: &str) -> bool {
    let answers = Command::new(program).arg("--version").output().is_ok();
    if !answers {
        eprintln!("skipped: `{program}` is not here");
    }
    answers
}

#[test]
fn odd_model_folders() {
    let Some(maker) = shared("cases-generation/make_folders.py") else {
        return;
    };
    if !has("python3") {
        return;
    }
    let target = tempfile::tempdir().unwrap();
    let made = Command::new("python3")
        .arg(maker)
        .arg(target.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", both(&made));
    for (name, code, words) in [
        ("sharded", 0, &[][..]),
        (
            "both_prefixes",
            2,
            &[
                "glm.transformer.final_layernorm.weight",
                "`transformer.final_layernorm.weight`",
            ],
        ),
        ("fewer_layers", 2, &["num_layers"]),
        ("f64", 2, &["F64", "final_layernorm"]),
        ("lfs_weights", 2, &["LFS pointer", "git lfs pull"]),
        ("hub_root", 2, &["snapshots/0a1b2c"]),
    ] {
        let set = format!("model.path={}", target.path().join(name).display());
        let (_folder, output) = generation("model-folder", &["--set", &set]).unwrap();
        let said = both(&output);
        assert_eq!(output.status.code(), Some(code), "{name}: {said}");
        for word in words {
            assert!(said.contains(word), "{name}: no `{word}`: {said}");
        }
        if name == "sharded" {
            assert!(said.contains("525 of 525"), "{said}");
        }
    }
}

#[test]
fn flat_distributions_are_drawn_from_whole() {
    let Some((folder, output)) = generation("top-p-flat", &[]) else {
        return;
    };
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    let rows = rows(&folder.path().join("out"));
    assert_eq!(rows.len(), 64);
    for row in rows {
        let tokens = row["completion_tokens"].as_u64().unwrap();
        assert!((20..=24).contains(&tokens), "{row}");
    }
}

/// What the `run.sh` of a case prints, where each run draws so many samples of a row.
fn scripted(name: &str, samples: u32) -> Option<String> {
    let case = shared(&format!("cases-generation/{name}"))?;
    let model = shared("fixtures/glm-tiny-zh")?;
    let folder = tempfile::tempdir().unwrap();
    for file in ["run.sh", "job.toml", "in.jsonl"] {
        std::fs::write(
            folder.path().join(file),
            std::fs::read(case.join(file)).unwrap(),
        )
        .unwrap();
    }
    let program = folder.path().join("glm-batch");
    let script = format!(
        "#!/bin/sh\nexec '{}' \"$@\" --set model.path='{}' --set generation.num_return_sequences={samples}\n",
        env!("CARGO_BIN_EXE_glm-batch"),
        model.display(),
    );
    std::fs::write(&program, script).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, executable).unwrap();
    let output = Command::new("bash")
        .arg(folder.path().join("run.sh"))
        .arg(&program)
        .env("XDG_CACHE_HOME", folder.path().join("cache"))
        .output()
        .unwrap();
    Some(both(&output))
}

#[test]
fn schedulers_signals_leave_a_job_to_go_on_with() {
    if !has("bash") {
        return;
    }
    // Enough work for the script's two seconds on any machine.
    let Some(said) = scripted("signals", 16) else {
        return;
    };
    for signal in ["TERM", "USR1", "USR2", "HUP", "XCPU"] {
        assert!(said.contains(&format!("{signal}: exit 75 ")), "{said}");
    }
}

#[test]
fn a_file_system_without_locks_is_used_or_refused_with_the_cure() {
    if !(has("bash") && has("strace")) {
        return;
    }
    let Some(said) = scripted("lock-unsupported", 1) else {
        return;
    };
    for code in ["ENOLCK", "EOPNOTSUPP", "ENOSYS"] {
        let line = said
            .lines()
            .find(|line| line.starts_with(&format!("{code}: ")));
        let line = line.unwrap_or_default();
        let runs = line.contains("exit 0") && line.contains("warning");
        let refused = line.contains("exit 2") && said.contains("hint");
        assert!(runs || refused, "{said}");
    }
}

/// What `cases.sh` prints for one attack.
fn attack(name: &str) -> Option<String> {
    let script = shared("cases-enemy/cases.sh")?;
    if !(has("bash") && has("python3")) {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new("bash")
        .arg(script)
        .arg(name)
        .env("GLM_BATCH", env!("CARGO_BIN_EXE_glm-batch"))
        .env("GLM_DEMO_MODEL", demo_model())
        .env("CASE_OUT", folder.path())
        .env("XDG_CACHE_HOME", folder.path().join("cache"))
        .output()
        .unwrap();
    let said = both(&output);
    assert!(output.status.success(), "{said}");
    Some(said)
}

/// The attack's output has all these words and none of those.
fn attacked(name: &str, words: &[&str], never: &[&str]) {
    let Some(said) = attack(name) else { return };
    for word in words {
        assert!(said.contains(word), "{name}: no `{word}`: {said}");
    }
    for word in never {
        assert!(!said.contains(word), "{name}: `{word}`: {said}");
    }
}

#[test]
fn a_lost_record_is_not_made_anew() {
    attacked(
        "reset",
        &["run: exit 2", "--restart"],
        &["sound and finished"],
    );
    attacked(
        "window",
        &["run: exit 2", "--restart"],
        &["finished already"],
    );
}

#[test]
fn a_stray_part_is_named() {
    attacked("stray", &["part-000009.jsonl"], &["sound and finished"]);
}

#[test]
fn changed_inputs_are_seen() {
    attacked("footer", &["run: exit 2"], &["finished already"]);
    attacked("edit", &["run: exit 2", "in the results: 0"], &[]);
}

#[test]
fn models_that_contradict_themselves_are_refused() {
    attacked("layers", &["run: exit 2"], &["exit 0"]);
    attacked("twice", &["8   exit 2"], &["exit 0"]);
    attacked("pickle", &["run: exit 2"], &[]);
    attacked(
        "sizes",
        &["exit 2"],
        &["exit 134", "exit 137", "exit 1 ", "limit of 0"],
    );
}

#[test]
fn links_limits_and_signals() {
    attacked("symlink", &["out -> "], &[]);
    attacked("xfsz", &["run: exit 2"], &["exit 153"]);
    // `timeout` gives its own code where it had to send the signal, and 137 where it had to kill.
    attacked("stdin_signal", &["exit 124"], &[]);
    attacked("stdin_left", &["stdin.jsonl"], &[".tmp"]);
    attacked("loop", &["exit "], &["still running"]);
}

#[test]
fn nothing_of_the_data_reaches_the_terminal() {
    attacked(
        "escapes",
        &[
            "show : lines with control characters: 0",
            "show --failed: lines with control characters: 0",
            "from config.json: 0",
        ],
        &[],
    );
}

#[test]
fn names_and_templates_that_break_parsers() {
    attacked("glob", &["glob: exit 2", "folder: exit 2"], &["exit 1"]);
    attacked("template_depth", &["run: exit 2"], &[]);
}
