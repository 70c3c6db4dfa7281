//! The demonstration job as a whole: from its file to the last committed part, in a folder of its own.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a bench"
)]

use std::path::Path;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use glm_batch::internals::report::{RunReport, Silent};
use glm_batch::{RunEnd, RunOptions, StopFlag, load_job, run};
use tempfile::TempDir;

const JOB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/jobs/demo.toml");

/// Runs the job into a new folder; the folder is handed back so that removing it is not timed.
fn run_demo(folder: TempDir, dtype: &str) -> (RunReport, TempDir) {
    let output = folder.path().join("out");
    let set = [
        format!("output.path={}", output.display()),
        format!("model.dtype={dtype}"),
        "model.device=cpu".to_owned(),
    ];
    let job = load_job(Path::new(JOB), &set).unwrap();
    let options = RunOptions::default();
    let (report, end) = run(&job, &options, &StopFlag::default(), &mut Silent).unwrap();
    assert_eq!(end, RunEnd::Finished { already: false });
    (report, folder)
}

/// Throughput is in answer tokens.
fn end_to_end(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("demo");
    group.sample_size(10);
    for dtype in ["f32", "q8"] {
        let new_folder = || tempfile::tempdir().unwrap();
        let (report, _) = run_demo(new_folder(), dtype);
        group.throughput(Throughput::Elements(report.totals.completion_tokens));
        group.bench_function(dtype, |bencher| {
            let run = |folder| run_demo(folder, dtype);
            bencher.iter_batched(new_folder, run, BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group!(benches, end_to_end);
criterion_main!(benches);
