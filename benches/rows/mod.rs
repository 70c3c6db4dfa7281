//! A file of questions that the benches make themselves, and the job that reads it.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use glm_batch::StopFlag;
use glm_batch::internals::fsio;
use glm_batch::internals::input::{
    InputIndex, MAX_WINDOW_BYTES, OpenOptions, PromptSource, ScanOptions, open, resolve_files, scan,
};
use glm_batch::internals::job::{self, JobSpec, Rules};

/// Rows of the file: as many as a window has.
pub(crate) const ROWS: usize = 8192;

/// One row: an id, a question of 20 to 300 characters, a number that is carried through.
pub(crate) fn row(number: usize) -> (String, String, i64) {
    let length = 20 + number * 7919 % 281;
    let question = "法国的首都是哪座城市？".chars().cycle().skip(number % 11);
    (
        format!("row-{number}"),
        question.take(length).collect(),
        number as i64,
    )
}

/// Writes the rows as JSON lines.
pub(crate) fn write_jsonl(path: &Path) {
    fsio::write_atomic(path, |out| {
        for (id, question, number) in (0..ROWS).map(row) {
            writeln!(
                out,
                r#"{{"id":"{id}","question":"{question}","number":{number}}}"#
            )?;
        }
        Ok(())
    })
    .unwrap();
}

/// The job that reads a file of `folder`.
pub(crate) fn job(folder: &Path, file: &str) -> JobSpec {
    let text = format!(
        r#"
        version = 1
        model.path = "model"
        input.path = "{file}"
        input.columns = {{ id = "id", prompt = "question" }}
        output.path = "out"
        "#
    );
    job::parse(&text, "bench", folder, &[]).unwrap()
}

/// The first pass over the job's input.
pub(crate) fn first_pass(job: &JobSpec) -> InputIndex {
    let files = resolve_files(&job.input, &job.output.path, Rules::CURRENT)
        .unwrap()
        .files;
    let options = ScanOptions {
        spec: &job.input,
        prompt: &job.prompt,
        choices: None,
        files: &files,
        rules: Rules::CURRENT,
        window_rows: job.batch.window_rows,
        shards: 1,
        max_window_bytes: MAX_WINDOW_BYTES,
        previous: None,
        stop: &StopFlag::default(),
    };
    scan(&options).unwrap().index
}

/// Opens the job's input.
pub(crate) fn source(job: &JobSpec, index: &Arc<InputIndex>) -> Box<dyn PromptSource> {
    let options = OpenOptions {
        input: &job.input,
        prompt: &job.prompt,
        group: None,
        choices: None,
        carried: &job.output.columns,
        rules: Rules::CURRENT,
    };
    open(&options, Arc::clone(index)).unwrap()
}
