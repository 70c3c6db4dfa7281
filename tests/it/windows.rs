//! Windows, outcomes and jobs made by hand, for the tests of results and checkpoints.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use glm_batch::internals::checkpoint::{JobRecord, RECORD_VERSION, Resolved};
use glm_batch::internals::device::DeviceKind;
use glm_batch::internals::ids::{RowId, WindowId};
use glm_batch::internals::input::{
    Carried, ColumnKind, InputColumn, InputFile, InputFormat, InputIndex, InputRow, InputWindow,
    JsonRows, Place, Prompt, WindowSpan,
};
use glm_batch::internals::job::{JobSpec, OutputFormat, OutputSpec, Rules};
use glm_batch::internals::outcome::{
    BadRow, Completion, FinishReason, Outcome, RowResult, Sample, Stage,
};
use glm_batch::internals::precision::Precision;

pub(crate) fn output(format: OutputFormat) -> OutputSpec {
    OutputSpec {
        format,
        ..job(Path::new("/out"), 1).output
    }
}

pub(crate) fn index(columns: &[(&str, ColumnKind)]) -> InputIndex {
    let column = |(name, kind): &(&str, ColumnKind)| InputColumn {
        mixed_at: None,
        name: (*name).to_owned(),
        kind: kind.clone(),
    };
    InputIndex {
        format: InputFormat::Jsonl,
        files: vec![input_file()],
        rows: 0,
        windows: vec![span(0, 0, 0)],
        columns: columns.iter().map(column).collect(),
        earlier: Vec::new(),
    }
}

pub(crate) fn input_file() -> InputFile {
    InputFile {
        path: PathBuf::from("/data/questions.jsonl"),
        bytes: 100,
        modified_ns: 5,
        inode: None,
        fingerprint: "0123456789abcdef".to_owned(),
        rows: 0,
        partition: Vec::new(),
        earlier: None,
    }
}

pub(crate) fn span(id: u32, first_row: u64, rows: u64) -> WindowSpan {
    WindowSpan {
        id: WindowId(id),
        first_row: RowId(first_row),
        rows,
        file: 0,
        offset: 0,
        line: first_row + 1,
        row_group: 0,
        row_in_group: 0,
    }
}

fn row(number: u64, id: &str) -> InputRow {
    let prompt = Prompt {
        text: "?".to_owned(),
        prefix: None,
        overrides: serde_json::Map::new(),
        has_passed_over: false,
        following: Vec::new(),
        label: None,
        filled: Vec::new(),
        group: None,
        intro: None,
        turns: Vec::new(),
    };
    InputRow {
        row: RowId(number),
        place: Place::Line {
            file: 0,
            line: number + 1,
        },
        id: id.to_owned(),
        reference: None,
        group: None,
        is_record: true,
        left_out: None,
        outcome: Ok(prompt.into()),
    }
}

/// A window of JSON lines; a line that is no object becomes a broken one.
pub(crate) fn json_window(id: u32, first_row: u64, lines: &[&str]) -> InputWindow {
    let mut window = InputWindow {
        id: WindowId(id),
        rows: Vec::new(),
        carried: Carried::Json(JsonRows::of(lines)),
    };
    for (number, line) in (first_row..).zip(lines) {
        let record = serde_json::from_str::<serde_json::Map<_, _>>(line);
        let mut row = row(number, &format!("q{number}"));
        if record.is_err() {
            row.is_record = false;
            let reason = "broken JSON".to_owned();
            row.outcome = Err(BadRow {
                stage: Stage::Input,
                reason,
            });
        }
        window.rows.push(row);
    }
    window
}

/// A window of Parquet rows.
pub(crate) fn arrow_window(id: u32, batch: arrow_array::RecordBatch) -> InputWindow {
    let rows = (0..batch.num_rows() as u64)
        .map(|number| InputRow {
            place: Place::RowGroup {
                file: 0,
                row_group: 0,
                row: number,
            },
            ..row(number, &format!("q{number}"))
        })
        .collect();
    InputWindow {
        id: WindowId(id),
        rows,
        carried: Carried::Arrow(batch),
    }
}

pub(crate) fn sample(text: &str) -> Sample {
    Sample {
        text: text.to_owned(),
        finish_reason: FinishReason::Stop,
        token_ids: vec![7, 50_007],
        token_logprobs: vec![-0.5, -0.25],
        score: None,
        spans: Vec::new(),
    }
}

pub(crate) fn answered(texts: &[&str]) -> Outcome {
    let samples = texts.iter().map(|text| sample(text)).collect();
    Outcome::Ok(RowResult::Generated(Completion {
        prompt_tokens: 9,
        truncated: 0,
        samples,
    }))
}

pub(crate) fn failed(reason: &str) -> Outcome {
    Outcome::Failed(BadRow {
        stage: Stage::Generate,
        reason: reason.to_owned(),
    })
}

/// Every row that has a prompt answered with its own number.
pub(crate) fn outcomes(window: &InputWindow) -> BTreeMap<RowId, Outcome> {
    let rows = window.rows.iter().filter(|row| row.outcome.is_ok());
    rows.map(|row| (row.row, answered(&[&format!("答 {}", row.row)])))
        .collect()
}

/// A job over windows of the given sizes.
pub(crate) fn record(root: &Path, shards: u32, sizes: &[u64]) -> JobRecord {
    let mut index = index(&[("n", ColumnKind::Int64)]);
    index.windows.clear();
    for (id, &rows) in (0..).zip(sizes) {
        index.windows.push(span(id, index.rows, rows));
        index.rows += rows;
    }
    index.files[0].rows = index.rows;
    JobRecord {
        trial: None,
        reward: None,
        version: RECORD_VERSION.to_owned(),
        program: "0.1.0".to_owned(),
        results_format: 1,
        arithmetic: "1".to_owned(),
        rules: Rules::CURRENT,
        spec: job(root, shards),
        resolved: Resolved {
            dtype: Precision::F32,
            cache_dtype: None,
            device: DeviceKind::Cpu,
            cpu: "avx512".to_owned(),
            max_length: 512,
            tokenizer: "t1".to_owned(),
            weights: "w1".to_owned(),
            model_files: Vec::new(),
        },
        few_shot: None,
        input: index,
    }
}

fn job(root: &Path, shards: u32) -> JobSpec {
    let text = format!(
        r#"
        version = 1
        shards = {shards}
        model.path = "/model"
        input = {{ path = "/data/questions.jsonl", columns = {{ prompt = "question" }} }}
        generation.max_new_tokens = 8
        batch.window_rows = 4
        output = {{ path = "{}", format = "jsonl" }}
        "#,
        root.display()
    );
    glm_batch::internals::job::parse(&text, "test.toml", Path::new("/"), &[]).unwrap()
}
