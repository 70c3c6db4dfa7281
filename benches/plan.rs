//! A window of 8,192 rows: ordering by length, its batches under a budget, and the statistics of `plan`.
#![allow(missing_docs, reason = "a bench")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use glm_batch::internals::plan::{Budget, RowLength, SlotSizes, order, schedule, simulate};

const ROWS: usize = 8192;

const BUDGET: Budget = Budget {
    max_batch_size: 128,
    max_batch_tokens: 1 << 16,
    bucket_tokens: 8,
    slot_sizes: SlotSizes::Exact,
};

/// Lengths with a long tail: most contexts are short, a few have 500 tokens.
fn rows() -> Vec<RowLength> {
    (0..ROWS)
        .map(|index| {
            let uniform = (index * 7919 % ROWS) as f64 / ROWS as f64;
            let context = 8 + (500.0 * uniform.powi(3)) as u32;
            RowLength {
                index,
                context,
                reserve: 1 + (index * 31 % 128) as u32,
                samples: 1,
                places: 1,
                texts: 1,
                longest: context,
            }
        })
        .collect()
}

fn plan(criterion: &mut Criterion) {
    let rows = rows();
    let mut group = criterion.benchmark_group("plan");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("order", |bencher| {
        bencher.iter(|| order(black_box(&rows), BUDGET.bucket_tokens));
    });
    group.bench_function("batches", |bencher| {
        bencher.iter(|| schedule(black_box(&rows), &BUDGET));
    });
    group.bench_function("statistics", |bencher| {
        bencher.iter(|| simulate(black_box(&rows), &BUDGET));
    });
    group.finish();
}

criterion_group!(benches, plan);
criterion_main!(benches);
