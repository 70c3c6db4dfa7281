//! Jobs that read the results of other jobs: which lines and columns they get, and what is refused.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{both, demo_model, files, rows, stderr};

const FORMATS: [&str; 2] = ["jsonl", "parquet"];

/// A folder with rows and the jobs that are run in it.
struct Place {
    folder: TempDir,
}

impl Place {
    /// Ten rows: the question of row 4 is null.
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let rows = (0..10).map(|n| match n {
            4 => json!({"id": "q4", "question": null, "level": 4}),
            n => json!({"id": format!("q{n}"), "question": format!("中国的首都是哪里？{n}"), "level": n}),
        });
        let lines: Vec<String> = rows.map(|row| row.to_string()).collect();
        std::fs::write(folder.path().join("in.jsonl"), lines.join("\n")).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the job `NAME.toml`, whose output folder is NAME.
    fn write(&self, name: &str, task: &str, input: &str, output: &str, more: &str) {
        let model = demo_model();
        let overlay = if task == "reward" {
            let delta = model
                .with_file_name("reward")
                .join("reward_delta.safetensors");
            format!("overlay = \"{}\"\n", delta.display())
        } else {
            String::new()
        };
        let text = format!(
            "version = 1\nname = \"{name}\"\ntask = \"{task}\"\n[model]\npath = \"{}\"\n{overlay}device = \"cpu\"\n[input]\n{input}\n[output]\npath = \"{name}\"\n{output}\n[batch]\nwindow_rows = 4\n{more}",
            model.display()
        );
        std::fs::write(self.path(&format!("{name}.toml")), text).unwrap();
    }

    fn command(&self, args: &[&str]) -> Output {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_glm-batch"));
        command.current_dir(self.folder.path()).args(args);
        command.env("XDG_CACHE_HOME", self.path("cache"));
        command.output().unwrap()
    }

    fn run(&self, name: &str, args: &[&str]) -> Output {
        self.command(&[&["run", &format!("{name}.toml"), "-q"], args].concat())
    }

    fn run_ok(&self, name: &str) -> Output {
        let output = self.run(name, &["--json"]);
        assert_eq!(output.status.code(), Some(0), "{}", both(&output));
        output
    }

    fn refused(&self, name: &str, args: &[&str], words: &[&str]) {
        let output = self.run(name, args);
        let said = both(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        for word in words {
            assert!(said.contains(word), "no `{word}`: {said}");
        }
    }

    fn rows(&self, name: &str) -> Vec<Value> {
        rows(&self.path(name))
    }

    /// The job `first`: answers to the ten rows, of which one fails.
    fn first(&self, format: &str, samples: &str) {
        self.write(
            "first",
            "generate",
            "path = \"in.jsonl\"\ncolumns = { prompt = \"question\" }",
            &format!("format = \"{format}\"\n{samples}"),
            "[prompt]\nmax_length = 64\n[generation]\nmax_new_tokens = 6\ndo_sample = true\nnum_return_sequences = 2\nseed = 3\nlogprobs = true\n",
        );
        self.run_ok("first");
    }
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", both(output)))
}

const SCORE: &str =
    "path = \"first\"\ncolumns = { prompt = \"question\", target = \"completion\" }";

/// The columns of a row, in their order.
fn names(row: &Value) -> Vec<&str> {
    row.as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn the_answers_of_one_job_are_scored_by_the_next() {
    for format in FORMATS {
        let place = Place::new();
        place.first(format, "");
        let answers = place.rows("first");
        assert_eq!(answers.len(), 19);
        for results in FORMATS {
            place.write(
                "scored",
                "score",
                SCORE,
                &format!("format = \"{results}\""),
                "",
            );
            let output = place.run_ok("scored");
            let scored = place.rows("scored");
            assert!(
                scored
                    .iter()
                    .filter(|row| row["logprob"].is_number())
                    .count()
                    > 9
            );
            assert_eq!(scored.len(), 18, "{format} to {results}");
            assert_eq!(
                names(&scored[0])[..7],
                [
                    "row", "id", "question", "level", "sample", "status", "error"
                ]
            );
            assert_eq!(report(&output)["totals"]["left_out"]["failed"], 1);
            assert_eq!(report(&output)["totals"]["rows"], 19);
            // The same texts in a file of rows get the same scores.
            let lines: Vec<String> = answers
                .iter()
                .map(|row| json!({"id": row["id"], "question": row["question"], "level": row["level"], "completion": row["completion"]}).to_string())
                .collect();
            std::fs::write(place.path("plain.jsonl"), lines.join("\n")).unwrap();
            place.write(
                "plain",
                "score",
                &SCORE.replace("\"first\"", "\"plain.jsonl\""),
                &format!("format = \"{results}\"\ncolumns = [\"question\", \"level\"]"),
                "",
            );
            place.run_ok("plain");
            let mut plain = place.rows("plain");
            plain.retain(|row| !(row["status"] == "failed" && row["question"].is_null()));
            assert_eq!(plain, scored, "{format} to {results}");
            std::fs::remove_dir_all(place.path("scored")).unwrap();
            std::fs::remove_dir_all(place.path("plain")).unwrap();
        }
    }
}

#[test]
fn results_are_read_by_templates_and_expressions_and_carried_by_name() {
    for format in FORMATS {
        let place = Place::new();
        place.first(format, "");
        place.write(
            "second",
            "generate",
            "path = \"first\"\nwhere = \"sample == 0 and level > 2 and logprob < 0\"",
            "format = \"jsonl\"\ncolumns = [\"level\", \"completion\", \"sample\", \"token_logprobs\"]\nrename = { sample = \"draw\" }",
            "[prompt]\nmax_length = 64\ntemplate = \"问题：{{ question }}回答：{{ completion }}\"\n[generation]\nmax_new_tokens = 3\n",
        );
        let plan = report(&place.command(&["plan", "second.toml", "--json"]));
        let left_out = json!({"skip": 0, "limit": 0, "failed": 1, "where": 12});
        assert_eq!(plan["left_out"], left_out);
        let output = place.run_ok("second");
        let before = place.rows("first");
        let after = place.rows("second");
        assert_eq!(after.len(), 6, "{format}");
        assert_eq!(
            names(&after[0])[..6],
            [
                "row",
                "id",
                "level",
                "source_completion",
                "draw",
                "source_token_logprobs"
            ]
        );
        for row in &after {
            let source = &before[row["row"].as_u64().unwrap() as usize];
            assert_eq!(row["id"], source["id"]);
            assert_eq!(row["source_completion"], source["completion"]);
            assert_eq!(row["source_token_logprobs"], source["token_logprobs"]);
            assert_eq!(row["draw"], 0);
        }
        assert_eq!(report(&output)["totals"]["left_out"], left_out);
        let shown = place.command(&["show", "second", "--prompt", "--json", "-n", "1"]);
        let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
        let prompt = shown["rendered_prompt"].as_str().unwrap();
        assert!(
            prompt.starts_with("问题：中国的首都是哪里？3回答："),
            "{prompt}"
        );
        // A third job: what the second one made is not carried, what it carried is.
        place.write(
            "third",
            "score",
            "path = \"second\"\ncolumns = { prompt = \"source_completion\", target = \"completion\" }",
            "format = \"parquet\"",
            "",
        );
        place.run_ok("third");
        let third = place.rows("third");
        assert_eq!(
            names(&third[0])[..8],
            [
                "row",
                "id",
                "level",
                "source_completion",
                "draw",
                "source_token_logprobs",
                "sample",
                "status"
            ]
        );
        let card = std::fs::read_to_string(place.path("third/README.md")).unwrap();
        assert!(
            card.contains("\nResults of the earlier job `second`: 5 files.\n"),
            "{card}"
        );
        let verified = place.command(&["verify", "third"]);
        assert_eq!(verified.status.code(), Some(0), "{}", both(&verified));
    }
}

#[test]
fn nested_answers_are_judged_in_lists() {
    for format in FORMATS {
        let place = Place::new();
        place.first(format, "samples = \"nested\"");
        place.write(
            "judged",
            "reward",
            "path = \"first\"\ncolumns = { prompt = \"question\", answer = \"completion\" }",
            "format = \"jsonl\"\nsamples = \"nested\"\ncolumns = [\"completion\"]",
            "",
        );
        place.run_ok("judged");
        let judged = place.rows("judged");
        assert_eq!(judged.len(), 9, "{format}");
        for row in &judged {
            assert_eq!(row["source_completion"].as_array().unwrap().len(), 2);
            if row["status"] == "ok" {
                assert_eq!(row["reward"].as_array().unwrap().len(), 2, "{row}");
            }
        }
        assert!(judged.iter().filter(|row| row["status"] == "ok").count() > 5);
    }
}

#[test]
fn several_folders_and_plain_files_follow_one_another() {
    let place = Place::new();
    place.first("jsonl", "");
    std::fs::rename(place.path("first"), place.path("one")).unwrap();
    place.first("jsonl", "");
    std::fs::write(
        place.path("more.jsonl"),
        "{\"question\":\"天空是什么颜色？\",\"level\":7}\n",
    )
    .unwrap();
    place.write(
        "second",
        "generate",
        "path = [\"one\", \"more.jsonl\", \"first\"]\ncolumns = { prompt = \"question\" }",
        "format = \"jsonl\"",
        "[prompt]\nmax_length = 64\n[generation]\nmax_new_tokens = 2\n",
    );
    let output = place.run_ok("second");
    let rows = place.rows("second");
    assert_eq!(rows.len(), 37);
    assert_eq!(rows[18]["row"], 19);
    assert_eq!(rows[18]["question"], "天空是什么颜色？");
    assert_eq!(report(&output)["totals"]["left_out"]["failed"], 2);
    assert_eq!(names(&rows[0])[..4], ["row", "id", "question", "level"]);
    // A column that is a result here and a column there.
    std::fs::write(
        place.path("more.jsonl"),
        "{\"question\":\"q\",\"completion\":\"c\"}\n",
    )
    .unwrap();
    std::fs::remove_dir_all(place.path("second")).unwrap();
    place.refused(
        "second",
        &[],
        &[
            "column `completion` is a result in",
            "more.jsonl",
            "hint: read them in two jobs",
        ],
    );
}

#[test]
fn flags_name_a_folder_of_results_too() {
    let place = Place::new();
    place.first("parquet", "");
    let model = demo_model();
    let output = place.command(&[
        "run",
        "-q",
        "--model",
        model.to_str().unwrap(),
        "--input",
        "first",
        "--output",
        "second",
        "--set",
        "generation.max_new_tokens=2",
        "--limit",
        "5",
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    let rows = place.rows("second.trial");
    assert_eq!(names(&rows[0])[..4], ["row", "id", "question", "level"]);
    assert_eq!(rows.len(), 5);
}

#[test]
fn unfinished_results_are_refused_or_taken_as_far_as_they_go() {
    let place = Place::new();
    place.first("jsonl", "");
    // As a killed run leaves it: the last window is not committed.
    let whole = place.rows("first").len();
    let last = files(&place.path("first/parts")).pop().unwrap().0;
    std::fs::write(place.path("first/parts").join(&last), "{").unwrap();
    let repaired = place.command(&["verify", "first", "--repair"]);
    assert_eq!(repaired.status.code(), Some(75), "{}", both(&repaired));
    place.write("scored", "score", SCORE, "format = \"jsonl\"", "");
    place.refused(
        "scored",
        &[],
        &[
            "its job is not finished: 2 of 3 windows committed",
            "`input.unfinished = \"allow\"`",
        ],
    );
    let plan = place.command(&["plan", "scored.toml"]);
    assert_eq!(plan.status.code(), Some(2), "{}", both(&plan));
    let allow = format!("{SCORE}\nunfinished = \"allow\"");
    place.write("scored", "score", &allow, "format = \"jsonl\"", "");
    place.run_ok("scored");
    let some = place.rows("scored");
    assert!(some.len() < whole && !some.is_empty());
    // The earlier job goes on; this one keeps to what it began with.
    place.first("jsonl", "");
    assert_eq!(place.rows("first").len(), whole);
    let again = place.run("scored", &[]);
    assert_eq!(again.status.code(), Some(0), "{}", both(&again));
    assert!(
        stderr(&again).contains("came after the first run and is left out"),
        "{}",
        both(&again)
    );
    assert_eq!(place.rows("scored"), some);
}

#[test]
fn damaged_results_are_refused() {
    for format in FORMATS {
        let place = Place::new();
        place.first(format, "");
        place.write("scored", "score", SCORE, "format = \"jsonl\"", "");
        let part = place
            .path("first/parts")
            .join(format!("part-000001.{format}"));
        let sound = std::fs::read(&part).unwrap();
        let mut other = sound.clone();
        let middle = other.len() / 2;
        other[middle] ^= 1;
        let said = ["the results in `", "part-000001", "glm-batch verify "];
        for bytes in [&other[..], &sound[..sound.len() - 3], b""] {
            std::fs::write(&part, bytes).unwrap();
            place.refused("scored", &[], &said);
            assert!(!place.path("scored/job.json").exists());
        }
        std::fs::remove_file(&part).unwrap();
        place.refused("scored", &[], &["part-000001", "is gone"]);
        std::fs::write(&part, &sound).unwrap();
        let manifest = files(&place.path("first/manifest")).pop().unwrap();
        let path = place.path("first/manifest").join(&manifest.0);
        std::fs::write(&path, &manifest.1[..manifest.1.len() / 2]).unwrap();
        place.refused("scored", &[], &["the results in `", "manifest"]);
        std::fs::write(&path, &manifest.1).unwrap();
        let record = std::fs::read(place.path("first/job.json")).unwrap();
        std::fs::write(place.path("first/job.json"), &record[..record.len() / 2]).unwrap();
        place.refused("scored", &[], &["the results in `", "job.json"]);
        std::fs::write(place.path("first/job.json"), &record).unwrap();
        place.run_ok("scored");
    }
}

#[test]
fn results_inside_other_folders_and_ones_own_are_refused() {
    let place = Place::new();
    place.first("jsonl", "");
    std::fs::create_dir_all(place.path("data/deep")).unwrap();
    std::fs::copy(place.path("in.jsonl"), place.path("data/in.jsonl")).unwrap();
    std::fs::rename(place.path("first"), place.path("data/deep/first")).unwrap();
    for input in ["data", "dat*"] {
        place.write(
            "second",
            "score",
            &SCORE.replace("\"first\"", &format!("\"{input}\"")),
            "format = \"jsonl\"",
            "",
        );
        place.refused("second", &[], &["first` holds the results of a job, and it lies inside a folder or glob of the input", "hint: name it itself"]);
    }
    place.write(
        "second",
        "score",
        &SCORE.replace("\"first\"", "\"second\""),
        "format = \"jsonl\"",
        "",
    );
    std::fs::create_dir_all(place.path("second")).unwrap();
    place.refused(
        "second",
        &[],
        &["`output.path` is a folder that holds the input"],
    );
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(place.path("second"), place.path("link")).unwrap();
        place.write(
            "second",
            "score",
            &SCORE.replace("\"first\"", "\"link\""),
            "format = \"jsonl\"",
            "",
        );
        place.refused(
            "second",
            &[],
            &["is the output folder of this job, and cannot be its input"],
        );
    }
    // A `job.json` of another program makes no results of its folder.
    std::fs::remove_dir_all(place.path("data/deep")).unwrap();
    std::fs::write(
        place.path("data/job.json"),
        "{\"name\": \"something else\"}",
    )
    .unwrap();
    place.write(
        "second",
        "generate",
        "path = \"data\"\ncolumns = { prompt = \"question\" }",
        "format = \"jsonl\"",
        "[prompt]\nmax_length = 64\n[generation]\nmax_new_tokens = 2\n",
    );
    place.run_ok("second");
    assert_eq!(place.rows("second").len(), 10);
}

#[test]
fn an_earlier_job_that_was_begun_anew_ends_the_later_one_unless_its_parts_are_the_same() {
    let place = Place::new();
    place.first("jsonl", "");
    place.write("scored", "score", SCORE, "format = \"jsonl\"", "");
    place.run_ok("scored");
    let scored = files(&place.path("scored/parts"));
    // The same bytes are the same input.
    assert_eq!(place.run("first", &["--restart"]).status.code(), Some(0));
    let again = place.run("scored", &[]);
    assert_eq!(again.status.code(), Some(0), "{}", both(&again));
    let other = place.run("first", &["--restart", "--set", "generation.seed=9"]);
    assert_eq!(other.status.code(), Some(0), "{}", both(&other));
    place.refused(
        "scored",
        &[],
        &[
            "part-000000.jsonl",
            "since the earlier job was begun anew",
            "--restart",
        ],
    );
    // Its parts are gone.
    let other = place.run("first", &["--restart", "--set", "output.format=parquet"]);
    assert_eq!(other.status.code(), Some(0), "{}", both(&other));
    place.refused(
        "scored",
        &[],
        &[
            "its job was begun anew since the first run of this one",
            "hint: begin this job anew too",
        ],
    );
    assert!(files(&place.path("scored/parts")) == scored);
    let restarted = place.run("scored", &["--restart"]);
    assert_eq!(restarted.status.code(), Some(0), "{}", both(&restarted));
}

#[test]
fn kills_and_shards_give_the_same_rows() {
    for format in FORMATS {
        let place = Place::new();
        place.first(format, "");
        let second = |name: &str, shards: u32| {
            place.write(
                name,
                "generate",
                "path = \"first\"\ncolumns = { prompt = \"completion\" }\nwhere = \"level != 2\"",
                &format!("format = \"{format}\"\ncolumns = [\"question\", \"completion\"]"),
                "[prompt]\nmax_length = 96\n[generation]\nmax_new_tokens = 24\nmin_new_tokens = 20\n[checkpoint]\ninterval_seconds = 0.01\n",
            );
            let path = place.path(&format!("{name}.toml"));
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(
                &path,
                text.replace("version = 1", &format!("version = 1\nshards = {shards}")),
            )
            .unwrap();
        };
        second("whole", 1);
        let started = Instant::now();
        place.run_ok("whole");
        let took = started.elapsed();
        second("killed", 1);
        for share in 1..=6 {
            let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_glm-batch"))
                .current_dir(place.folder.path())
                .args(["run", "killed.toml", "-q"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let until = Instant::now() + took * share / 8;
            while Instant::now() < until && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
            let _ = child.kill();
            child.wait().unwrap();
        }
        place.run_ok("killed");
        let parts = |name: &str| files(&place.path(name).join("parts"));
        assert!(parts("killed") == parts("whole"), "{format}");
        second("sharded", 3);
        place.run_ok("sharded");
        assert_eq!(place.rows("sharded"), place.rows("whole"));
        assert_eq!(parts("whole").len(), 5);
    }
}
