//! Writing a part of 8,192 answered rows, in both formats.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a bench"
)]

mod rows;

use std::collections::BTreeMap;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use glm_batch::internals::ids::RowId;
use glm_batch::internals::input::{InputWindow, id_column};
use glm_batch::internals::job::OutputFormat;
use glm_batch::internals::outcome::{Completion, FinishReason, Outcome, RowResult, Sample};
use glm_batch::internals::sink::new_sink;
use glm_batch::internals::tasks::form;
use rows::{ROWS, first_pass, job, source, write_jsonl};

/// An answer of 32 tokens for each row.
fn outcomes(window: &InputWindow) -> BTreeMap<RowId, Outcome> {
    let sample = Sample {
        text: "巴黎是法国的首都和最大的城市。".repeat(3),
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
    let rows = window.rows.iter();
    rows.map(|row| {
        (
            row.row,
            Outcome::Ok(RowResult::Generated(completion.clone())),
        )
    })
    .collect()
}

fn sink(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    write_jsonl(&folder.path().join("rows.jsonl"));
    let mut job = job(folder.path(), "rows.jsonl");
    let index = Arc::new(first_pass(&job));
    let source = source(&job, &index);
    let window = source.read_window(&index.windows[0]).unwrap();
    assert_eq!(window.rows.len(), ROWS);
    let outcomes = outcomes(&window);
    let id = id_column(&job.input.columns, &index);
    let mut group = criterion.benchmark_group("part");
    group.throughput(Throughput::Elements(ROWS as u64));
    for (name, format) in [
        ("jsonl", OutputFormat::Jsonl),
        ("parquet", OutputFormat::Parquet),
    ] {
        job.output.format = format;
        let schema = source.arrow_schema();
        let sink = new_sink(&form(&job), &index, id.as_deref(), schema.as_deref()).unwrap();
        let mut out = Vec::new();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                sink.write_part(&window, &outcomes, &mut out).unwrap();
            });
        });
    }
    group.finish();
}

criterion_group!(benches, sink);
criterion_main!(benches);
