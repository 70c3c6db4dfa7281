//! The finished folder of a job, made without a model: questions that are made here, each with one answer.
//!
//! The benches and the tests of exports share it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use glm_batch::StopFlag;
use glm_batch::internals::checkpoint::{
    Commit, JobRecord, LockOptions, Manifest, OutputFolder, ShardLock, StoredJob, Totals,
    commit_window, record_version,
};
use glm_batch::internals::fsio;
use glm_batch::internals::ids::{RowId, ShardId};
use glm_batch::internals::input::{
    InputIndex, InputWindow, MAX_WINDOW_BYTES, OpenOptions, ScanOptions, id_column, open,
    resolve_files, scan,
};
use glm_batch::internals::job::{self, JobSpec, Rules};
use glm_batch::internals::outcome::{Completion, FinishReason, Outcome, RowResult, Sample};
use glm_batch::internals::sink::new_sink;
use glm_batch::internals::tasks::form;
use glm_batch_kernels::ARITHMETIC;
use serde_json::json;

/// Makes `in.jsonl` and `out` in a folder; `output` is more keys of `[output]`.
pub(crate) fn finished(folder: &Path, rows: u64, output: &str) {
    fsio::write_atomic(&folder.join("in.jsonl"), |out| {
        for row in 0..rows {
            let length = 20 + row * 7919 % 281;
            let question = "法国的首都是哪座城市？"
                .chars()
                .cycle()
                .skip(row as usize % 11);
            let question: String = question.take(length as usize).collect();
            writeln!(
                out,
                r#"{{"id":"row-{row}","question":"{question}","number":{row}}}"#
            )?;
        }
        Ok(())
    })
    .unwrap();
    let text = format!(
        "version = 1\nmodel.path = \"model\"\ninput.path = \"in.jsonl\"\ninput.columns = {{ id = \"id\", prompt = \"question\" }}\n[output]\npath = \"out\"\n{output}"
    );
    let spec = job::parse(&text, "job.toml", folder, &[]).unwrap();
    let index = Arc::new(first_pass(&spec));
    let output = OutputFolder::open(&spec.output.path).unwrap();
    assert!(record(&spec, &index).create(&output).unwrap());
    commit_all(&spec, &index, &output);
}

fn first_pass(spec: &JobSpec) -> InputIndex {
    let found = resolve_files(&spec.input, &spec.output.path, Rules::CURRENT).unwrap();
    let options = ScanOptions {
        spec: &spec.input,
        prompt: &spec.prompt,
        choices: None,
        files: &found.files,
        rules: Rules::CURRENT,
        window_rows: spec.batch.window_rows,
        shards: 1,
        max_window_bytes: MAX_WINDOW_BYTES,
        previous: None,
        stop: &StopFlag::default(),
    };
    scan(&options).unwrap().index
}

fn commit_all(spec: &JobSpec, index: &Arc<InputIndex>, folder: &OutputFolder) {
    let options = OpenOptions {
        input: &spec.input,
        prompt: &spec.prompt,
        group: None,
        choices: None,
        carried: &spec.output.columns,
        rules: Rules::CURRENT,
    };
    let source = open(&options, Arc::clone(index)).unwrap();
    let schema = source.arrow_schema();
    let id = id_column(&spec.input.columns, index);
    let sink = new_sink(&form(spec), index, id.as_deref(), schema.as_deref()).unwrap();
    let fingerprint = StoredJob::existing(folder).unwrap().fingerprint;
    let lock = ShardLock::acquire(folder, ShardId(0), &LockOptions::default()).unwrap();
    let mut manifest = Manifest::load_or_new(folder, &fingerprint, ShardId(0), 1).unwrap();
    for span in &index.windows {
        let window = source.read_window(span).unwrap();
        let commit = Commit {
            window: &window,
            first_row: span.first_row,
            rows: span.rows,
            outcomes: &outcomes(&window),
            sink: sink.as_ref(),
            files: &index.files,
            totals: &Totals {
                rows: span.rows,
                ok: span.rows,
                ..Totals::default()
            },
            examples: &[],
        };
        commit_window(folder, &lock, &mut manifest, &commit).unwrap();
    }
}

/// An answer of 32 tokens for each row.
fn outcomes(window: &InputWindow) -> BTreeMap<RowId, Outcome> {
    let answer = |row: RowId| {
        let sample = Sample {
            text: format!("{row}：{}", "巴黎是法国的首都和最大的城市。".repeat(3)),
            finish_reason: FinishReason::Stop,
            token_ids: (0..32).collect(),
            token_logprobs: Vec::new(),
            score: None,
            spans: Vec::new(),
        };
        let completion = Completion {
            prompt_tokens: 40,
            truncated: 0,
            samples: vec![sample],
        };
        Outcome::Ok(RowResult::Generated(completion))
    };
    let rows = window.rows.iter();
    rows.map(|row| (row.row, answer(row.row))).collect()
}

/// `job.json` by its keys, so that keys which other jobs have need not be named.
fn record(spec: &JobSpec, index: &InputIndex) -> JobRecord {
    let record = json!({
        "version": record_version(spec.task, index),
        "program": env!("CARGO_PKG_VERSION"),
        "results_format": 1,
        "arithmetic": ARITHMETIC,
        "rules": Rules::CURRENT,
        "spec": spec,
        "resolved": {
            "dtype": "f32",
            "device": "cpu",
            "cpu": "any",
            "max_length": 128,
            "tokenizer": "made without one",
            "weights": "made without them",
            "model_files": [],
        },
        "input": index,
    });
    serde_json::from_value(record).unwrap()
}
