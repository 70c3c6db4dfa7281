//! A job folder of its own for each test, and the program to run in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use glm_batch::internals::checkpoint::{JobRecord, OutputFolder};
use serde_json::Value;
use tempfile::TempDir;

/// The folder that large fixtures stand in, where there is one beside the checkout.
pub fn shared(path: &str) -> Option<PathBuf> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../shared")
        .join(path);
    if found.exists() {
        return Some(found);
    }
    eprintln!("skipped: `shared/{path}` is not here");
    None
}

pub fn demo_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo/model")
}

pub fn demo_questions() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo/questions.jsonl")
}

/// A folder with a job file, its input and its output.
pub struct Job {
    pub folder: TempDir,
}

impl Job {
    /// A job of the demonstration model over `input`, with more keys as TOML.
    pub fn new(input: &Path, more: &str) -> Self {
        Self::of_model(
            &demo_model(),
            input,
            "columns = { prompt = \"question\", prefix = \"prefix\" }",
            more,
        )
    }

    pub fn of_model(model: &Path, input: &Path, columns: &str, more: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let (model, input) = (model.display(), input.display());
        let text = format!(
            "version = 1\nname = \"test\"\n[model]\npath = \"{model}\"\ndevice = \"cpu\"\n[input]\npath = \"{input}\"\n{columns}\n[output]\npath = \"out\"\n{more}"
        );
        std::fs::write(folder.path().join("job.toml"), text).unwrap();
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_glm-batch"));
        command.current_dir(self.folder.path()).args(args);
        command.env_remove("GLM_BATCH_LOG");
        command.env("XDG_CACHE_HOME", self.path("cache"));
        command
    }

    /// `run job.toml` with more arguments.
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(&[&["run", "job.toml"], args].concat())
            .output()
            .unwrap()
    }

    /// As [`Job::run`], which must end with 0.
    pub fn run_ok(&self, args: &[&str]) -> Output {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(0), "{}", both(&output));
        output
    }

    /// Name and bytes of every file in a folder of the output.
    pub fn files(&self, folder: &str) -> Vec<(String, Vec<u8>)> {
        files(&self.path("out").join(folder))
    }

    /// All result rows, in order of the parts.
    pub fn rows(&self) -> Vec<Value> {
        rows(&self.path("out"))
    }
}

pub fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found: Vec<_> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                std::fs::read(&path).unwrap(),
            )
        })
        .collect();
    found.sort();
    found
}

pub fn rows(output: &Path) -> Vec<Value> {
    let mut rows = Vec::new();
    for (name, _) in files(&output.join("parts")) {
        let part = glm_batch::internals::sink::read_part(&output.join("parts").join(name)).unwrap();
        rows.extend(part.map(|row| Value::Object(row.unwrap())));
    }
    rows
}

/// Makes `job.json` that of a job of two shards which began otherwise, before anything of it is done: the rows must be
/// so few that they make one window, which shard 0 has.
pub fn begin_otherwise(job: &Job, args: &[&str], edit: impl FnOnce(&mut JobRecord)) {
    job.run_ok(&[args, &["--shard", "1/2"]].concat());
    let folder = OutputFolder::open(&job.path("out")).unwrap();
    let mut record = JobRecord::load(&folder).unwrap().unwrap();
    edit(&mut record);
    std::fs::remove_file(job.path("out/job.json")).unwrap();
    assert!(record.create(&folder).unwrap());
}

pub fn both(output: &Output) -> String {
    format!(
        "{}\n--- stdout\n{}--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The demonstration's questions, so many of them, written as JSON lines to a file.
pub fn some_questions(folder: &Path, count: usize) -> PathBuf {
    let text = std::fs::read_to_string(demo_questions()).unwrap();
    let lines: Vec<&str> = text.lines().cycle().take(count).collect();
    let path = folder.join("questions.jsonl");
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    path
}

/// The same rows as a Parquet file: every column text.
pub fn as_parquet(jsonl: &Path, to: &Path) {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, RecordBatch, StringArray};
    let text = std::fs::read_to_string(jsonl).unwrap();
    let rows: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let names: Vec<String> = rows[0].as_object().unwrap().keys().cloned().collect();
    let columns = names.iter().map(|name| {
        let values: StringArray = rows.iter().map(|row| row[name].as_str()).collect();
        (name.as_str(), Arc::new(values) as ArrayRef, true)
    });
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let file = std::fs::File::create(to).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// A job that generates, with this output and these settings; its paths lead nowhere.
pub fn spec_of(
    output: &glm_batch::internals::job::OutputSpec,
    generation: &glm_batch::internals::job::GenerationSpec,
) -> glm_batch::internals::job::JobSpec {
    let text = "version = 1\nmodel.path = \"m\"\ninput = { path = \"q.jsonl\", columns.prompt = \"question\" }\noutput.path = \"out\"\n";
    let mut spec =
        glm_batch::internals::job::parse(text, "job.toml", "/data".as_ref(), &[]).unwrap();
    spec.output = output.clone();
    spec.generation = generation.clone();
    spec
}

/// Names of the files in a folder, those of folders in it left out.
pub fn files_of(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let files = entries.filter(|entry| entry.path().is_file());
    let mut names: Vec<String> = files
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
