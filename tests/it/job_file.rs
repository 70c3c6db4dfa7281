//! The job file as a user meets it: messages of wrong files, the schema, the reference.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use glm_batch::internals::job::{GenerationSpec, JobSpec, SpecError, job_keys, json_schema, parse};
use serde_json::Value;

/// A whole job; the cases below change a line of it or add to it.
const JOB: &str = r#"version = 1
name = "answers"

[model]
path = "models/glm"

[input]
path = ["questions.jsonl"]
columns = { prompt = "question" }

[output]
path = "out"
"#;

fn read(text: &str, set: &[&str]) -> Result<JobSpec, SpecError> {
    let set: Vec<String> = set.iter().map(ToString::to_string).collect();
    parse(text, "job.toml", Path::new("/data"), &set)
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The message of each job, under what makes the job wrong.
fn messages<'a>(cases: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut all = String::new();
    for (title, text) in cases {
        let error = read(&text, &[]).expect_err(title);
        write!(
            all,
            "{title}\n  error: {}\n\n",
            error.to_string().replace('\n', "\n  ")
        )
        .unwrap();
    }
    all
}

/// A snapshot without the long expression that made it.
macro_rules! snapshot {
    ($($argument:expr),* $(,)?) => {
        insta::with_settings!({ omit_expression => true }, {
            insta::assert_snapshot!($($argument),*);
        })
    };
}

/// Adds lines at the end of the job.
fn with(lines: &str) -> String {
    format!("{JOB}\n{lines}\n")
}

/// Puts another line in the place of one that starts with `start`.
fn instead(start: &str, line: &str) -> String {
    let mut found = false;
    let lines = JOB.lines().map(|old| {
        let hit = old.starts_with(start) && !found;
        found |= hit;
        if hit { line } else { old }
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    assert!(found, "{start}");
    text
}

fn added<'a>(lines: &[&'a str]) -> Vec<(&'a str, String)> {
    lines.iter().map(|line| (*line, with(line))).collect()
}

#[test]
fn unknown_keys() {
    snapshot!(messages(added(&[
        "[generation]\ntopp = 0.9",
        "[generation]\nTOP_P = 0.9",
        "[generation]\ntemprature = 0.9",
        "[generation]\nmax_length = 100",
        "[generation]\nmax_tokens = 100",
        "[generation]\nnumber_of_wheels = 4",
        "[genration]\ntop_p = 0.9",
        "[checkpoint]\nevery = 5",
        "[batch]\nbatch_size = 5",
        "[training]\nlr = 1",
        "[prompt]\n\"bad\\nkey\" = 1",
        "[prompt]\ntemplat = \"{{ x }}\"",
        "[[batch]]\nwindow_rows = 1",
    ])));
}

#[test]
fn keys_in_the_wrong_place() {
    snapshot!(messages([
        ("top_p at the top", instead("name", "top_p = 0.9")),
        ("path at the top", instead("name", "path = \"out\"")),
        (
            "an unknown column role",
            instead("columns", "columns = { promt = \"question\" }")
        ),
        (
            "columns as a list",
            instead("columns", "columns = [\"question\"]")
        ),
        ("verson", instead("version", "verson = 1")),
    ]));
}

#[test]
fn wrong_types() {
    snapshot!(messages(added(&[
        "[generation]\ntop_p = \"0.9\"",
        "[generation]\ntop_k = 50.5",
        "[generation]\ntop_k = -1",
        "[generation]\nseed = 99999999999999999999999",
        "[generation]\nseed = 99999999999999999999999999999999999999999999999999999999",
        "[generation]\ndo_sample = 1",
        "[generation]\ndo_sample = \"true\"",
        "[generation]\nstop = \"。\"",
        "[generation]\nstop = [\"。\", 7]",
        "[generation]\nmax_new_tokens = \"all\"",
        "[generation]\nmax_new_tokens = 10.5",
        "[generation]\nseed = 2024-01-01",
        "[batch]\nmax_batch_size = \"atuo\"",
        "[batch]\nwindow_rows = \"auto\"",
        "[prompt]\nmask = \"[MSK]\"",
        "[prompt]\nmask = 1",
        "[prompt]\nprefix = 1",
        "[prompt]\noverflow = \"cut\"",
        "generation = 5",
        "rename = { a = 1 }",
        "format = \"parket\"",
        "format = \"csv\"",
        "format = \"json\"",
        "[input.filter]\nx = 1",
        "columns = \"some\"",
        "max_failed = \"none\"",
    ])));
    snapshot!(
        "wrong_types_in_sections",
        messages([
            (
                "device = gpu",
                instead("path = \"models", "path = \"m\"\ndevice = \"gpu\"")
            ),
            (
                "dtype = fp16",
                instead("path = \"models", "path = \"m\"\ndtype = \"fp16\"")
            ),
            (
                "dtype = int8",
                instead("path = \"models", "path = \"m\"\ndtype = \"int8\"")
            ),
            (
                "dtype = float32",
                instead("path = \"models", "path = \"m\"\ndtype = \"float32\"")
            ),
            ("model = text", "version = 1\nmodel = \"m\"".into()),
            ("path = 1", instead("path = [", "path = 1")),
            ("path = [1]", instead("path = [", "path = [\"a\", 1]")),
            ("task = chat", instead("name", "task = \"chat\"")),
            ("name = 2024", instead("name", "name = 2024")),
            ("version = text", instead("version", "version = \"1\"")),
        ])
    );
}

#[test]
fn values_out_of_range() {
    snapshot!(messages(added(&[
        "[generation]\ntop_p = 1.5",
        "[generation]\ntop_p = nan",
        "[generation]\nmin_p = -0.1",
        "[generation]\ntemperature = 0",
        "[generation]\ntemperature = -1.0",
        "[generation]\ntemperature = inf",
        "[generation]\nrepetition_penalty = 0.0",
        "[generation]\nmax_new_tokens = 0",
        "[generation]\nmin_new_tokens = 20\nmax_new_tokens = 10",
        "[generation]\nnum_return_sequences = 0",
        "[generation]\nnum_return_sequences = 4",
        "[generation]\ndo_sample = true\nnum_return_sequences = 100000",
        "[generation]\nnum_beams = 0",
        "[generation]\nnum_beams = 2000",
        "[generation]\nnum_beams = 4\ndo_sample = true",
        "[generation]\nnum_beams = 4\nnum_return_sequences = 5",
        "[generation]\nlength_penalty = inf",
        "[generation]\nearly_stopping = \"sometimes\"",
        "[generation]\nlength_penalty_over = \"prompt\"",
        "[generation]\nstop = [\"\"]",
        "[generation]\nbad_words = [\"x\", \"\"]",
        "[generation]\nchoices = [\"x\", \"\"]",
        "[generation]\nchoices = [\"x\"]\nstop = [\"y\"]",
        "[generation]\nchoices = [\"x\"]\nmin_new_tokens = 1",
        "[prompt]\nmax_length = 1",
        "[prompt]\nmax_length = 100\n[generation]\nmax_new_tokens = 100",
        "[prompt]\ntemplate = \"\"",
        "[batch]\nmax_batch_size = 0",
        "[batch]\nmax_batch_tokens = 0",
        "[batch]\nwindow_rows = 0",
        "[batch]\nbucket_tokens = 100000",
        "[checkpoint]\ninterval_seconds = -1",
        "columns = [\"a\", \"a\"]",
        "rename = { a = \"\" }",
        "rename = { a = \"c\", b = \"c\" }",
        "columns = [\"question\"]\nrename = { qestion = \"q\" }",
        "columns = \"none\"\nrename = { question = \"q\" }",
    ])));
    snapshot!(
        "values_out_of_range_in_sections",
        messages([
            ("shards = 0", instead("name", "shards = 0")),
            (
                "version = 2",
                instead("version", "version = 2\nnew_key = 1")
            ),
            ("no input", instead("path = [", "path = []")),
            ("an empty input", instead("path = [", "path = \"\"")),
            (
                "standard input and a file",
                instead("path = [", "path = [\"-\", \"a.jsonl\"]")
            ),
            (
                "an address",
                instead("path = [", "path = \"https://x/a.jsonl\"")
            ),
            ("no prompt", instead("columns", "columns = { id = \"id\" }")),
            (
                "an empty column",
                instead("columns", "columns = { prompt = \"\" }")
            ),
            (
                "output over the job",
                instead("path = \"out", "path = \".\"")
            ),
            (
                "output over the input",
                instead("path = [", "path = \"out/questions/*.jsonl\"")
            ),
            ("a home folder", instead("path = \"out", "path = \"~/out\"")),
            (
                "output over the model",
                instead("path = \"out", "path = \"models\"")
            ),
            (
                "a variable that is not set",
                instead("path = \"out", "path = \"${GLM_NOT_SET}/x\"")
            ),
            (
                "an open variable",
                instead("path = \"out", "path = \"${GLM\"")
            ),
            (
                "a variable in a list",
                instead("path = [", "path = [\"a\", \"${GLM_NOT_SET}\"]")
            ),
        ])
    );
    let error = read(JOB, &["shards=2", "input.path=-"]).unwrap_err();
    snapshot!("standard_input_with_shards", error);
}

#[test]
fn missing_keys() {
    snapshot!(messages([
        ("an empty file", String::new()),
        ("no version", instead("version", "")),
        ("no model", "version = 1\n".into()),
        ("no model path", instead("path = \"models", "")),
        ("no input path", instead("path = [", "")),
        ("no output path", instead("path = \"out", "")),
    ]));
}

#[test]
fn what_comes_later() {
    snapshot!(messages([
        (
            "repo",
            instead("path = \"models", "repo = \"sunzeyeah/glm-350M-chinese\"")
        ),
        (
            "revision",
            instead("path = \"models", "path = \"m\"\nrevision = \"main\"")
        ),
        (
            "an object store for the input",
            instead("path = [", "path = [\"s3://b/q.jsonl\"]")
        ),
        (
            "an object store for the output",
            instead("path = \"out", "path = \"gs://b/out\"")
        ),
    ]));
}

#[test]
fn broken_toml() {
    snapshot!(messages([
        ("no quotes", instead("name", "name = answers")),
        ("an open text", instead("name", "name = \"answers")),
        ("no value", instead("name", "name =")),
        ("no equals sign", instead("name", "name \"answers\"")),
        ("a key twice", with("path = \"other\"")),
        ("a section twice", with("[model]\npath = \"other\"")),
        ("an open list", instead("path = [", "path = [\"a\"")),
        ("True", with("[generation]\ndo_sample = True")),
        ("not TOML at all", "{\"version\": 1}".into()),
    ]));
}

#[test]
fn wrong_set_arguments() {
    let mut all = String::new();
    for argument in [
        "generation.topp=0.9",
        "generation.top_p=high",
        "generation.top_p=2",
        "generation.top_p",
        "=1",
        "generation..top_p=1",
        "generation=1",
        "input.path.first=1",
        "prompt.prefix=\"open",
        "generation.stop=[\"open",
        "model.path=${GLM_NOT_SET}",
        "genration.top_p=1",
        "prompt.mask=[MSK]",
    ] {
        let error = read(JOB, &[argument]).expect_err(argument);
        write!(all, "error: {error}\n\n").unwrap();
    }
    snapshot!(all);
}

#[test]
fn every_key_can_be_set() {
    let mut missing: BTreeSet<&String> = job_keys().iter().collect();
    for name in [
        "full",
        "infill",
        "choose",
        "choose-letters",
        "few-shot",
        "preference",
        "requests",
        "reward",
        "score",
    ] {
        let path = root().join(format!("tests/fixtures/jobs/{name}.toml"));
        let text = std::fs::read_to_string(path).unwrap();
        let table: toml::Table = text.parse().unwrap();
        let mut set = Vec::new();
        for key in job_keys() {
            let table = toml::Value::Table(table.clone());
            let value = key
                .split('.')
                .try_fold(&table, |value, part| value.get(part));
            if let Some(value) = value {
                set.push(format!("{key}={value}"));
                missing.remove(key);
            }
        }
        let set: Vec<&str> = set.iter().map(String::as_str).collect();
        assert_eq!(read("", &set).unwrap(), read(&text, &[]).unwrap(), "{name}");
    }
    assert_eq!(missing, BTreeSet::new(), "no file has these keys");
}

/// Set this to write `docs/job-schema.json` anew.
const UPDATE: &str = "UPDATE_DOCS";

#[test]
fn the_schema_in_docs_is_current() {
    let path = root().join("docs/job-schema.json");
    let now = format!("{:#}\n", json_schema());
    if std::env::var_os(UPDATE).is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &now).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == now,
        "docs/job-schema.json is stale: run the tests with {UPDATE}=1"
    );
}

#[test]
fn every_key_of_the_schema_is_described() {
    let schema = json_schema();
    for key in job_keys() {
        let mut here = &schema;
        for part in key.split('.') {
            here = &here["properties"][part];
        }
        assert!(here["description"].is_string(), "{key}");
    }
}

#[test]
fn the_reference_has_a_row_for_every_key_with_its_default() {
    let text = std::fs::read_to_string(root().join("docs/JOB.md")).unwrap();
    let schema = json_schema();
    for key in job_keys() {
        let row = text
            .lines()
            .find(|line| line.starts_with(&format!("| `{key}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/JOB.md has no row for `{key}`"));
        let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
        let mut here = &schema;
        for part in section.split('.').filter(|part| !part.is_empty()) {
            here = &here["properties"][part];
        }
        let own = &here["properties"][name]["default"];
        let default = if own.is_null() {
            &here["default"][name]
        } else {
            own
        };
        let cell = row.split('|').nth(3).unwrap_or_default().trim();
        let written = cell.trim_matches('`');
        let same = match default {
            Value::Null => !cell.starts_with('`'),
            _ => serde_json::from_str::<Value>(written).ok().as_ref() == Some(default),
        };
        assert!(
            same,
            "`{key}`: docs/JOB.md says {cell}, the program {default}"
        );
    }
    for key in GenerationSpec::ROW_KEYS {
        assert!(text.contains(&format!("`generation.{key}`")), "{key}");
    }
}

#[test]
fn the_jobs_of_the_project_are_valid() {
    let folder = root().join("jobs");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        eprintln!("skipped: no folder `jobs`");
        return;
    };
    let mut checked = 0;
    for entry in entries {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "toml") {
            let text = std::fs::read_to_string(&path).unwrap();
            if let Err(error) = parse(&text, &path.display().to_string(), &folder, &[]) {
                panic!("{error}");
            }
            checked += 1;
        }
    }
    assert!(checked > 0, "`jobs` holds no job");
}
