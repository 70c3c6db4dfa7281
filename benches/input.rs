//! Reading 8,192 rows: the first pass over a file, and its windows as prompts, in both formats.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a bench"
)]

mod rows;

use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use glm_batch::internals::fsio;
use parquet::arrow::ArrowWriter;
use rows::{ROWS, first_pass, job, row, source, write_jsonl};

fn write_parquet(path: &Path) {
    let rows: Vec<_> = (0..ROWS).map(row).collect();
    let ids: StringArray = rows.iter().map(|row| Some(row.0.as_str())).collect();
    let questions: StringArray = rows.iter().map(|row| Some(row.1.as_str())).collect();
    let numbers: Int64Array = rows.iter().map(|row| Some(row.2)).collect();
    let columns: [(&str, ArrayRef); 3] = [
        ("id", Arc::new(ids)),
        ("question", Arc::new(questions)),
        ("number", Arc::new(numbers)),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    fsio::write_atomic(path, |out| {
        let mut writer = ArrowWriter::try_new(out, batch.schema(), None)?;
        writer.write(&batch)?;
        writer.close()?;
        Ok(())
    })
    .unwrap();
}

fn input(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    write_jsonl(&folder.path().join("rows.jsonl"));
    write_parquet(&folder.path().join("rows.parquet"));
    for file in ["rows.jsonl", "rows.parquet"] {
        let job = job(folder.path(), file);
        let mut group = criterion.benchmark_group(file);
        group.throughput(Throughput::Elements(ROWS as u64));
        group.bench_function("first pass", |bencher| {
            bencher.iter(|| first_pass(&job));
        });
        let index = Arc::new(first_pass(&job));
        group.bench_function("windows", |bencher| {
            bencher.iter(|| {
                let source = source(&job, &index);
                let windows = index.windows.iter();
                let rows = windows.map(|span| source.read_window(span).unwrap().rows.len());
                assert_eq!(rows.sum::<usize>(), ROWS);
            });
        });
        group.finish();
    }
}

criterion_group!(benches, input);
criterion_main!(benches);
