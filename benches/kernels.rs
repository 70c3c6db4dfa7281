//! CPU kernels at the widths of the 350M size: products by rows and storage, attention of one query,
//! `LayerNorm`, GELU.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use glm_batch_kernels::{
    Cached, HeadCache, Norm, PackedLinear, QUERIES, QueryBlock, Storage, gelu, layer_norm,
};

/// Width of a hidden state.
const HIDDEN: usize = 1024;
/// Width of the widest layer.
const WIDE: usize = 4 * HIDDEN;
/// Width of one head of attention.
const HEAD: usize = 64;

/// So many values between -1 and 1.
fn values(count: usize) -> Vec<f32> {
    let value = |at: usize| (at * 2_654_435_761 % 2001) as f32 / 1000.0 - 1.0;
    (0..count).map(value).collect()
}

/// Throughput is in operations: two for each weight and row.
fn products(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("product");
    let weights = values(HIDDEN * WIDE);
    let fill = |start: usize, out: &mut [f32]| {
        out.copy_from_slice(&weights[start..start + out.len()]);
    };
    for storage in Storage::ALL {
        let layer = PackedLinear::pack(WIDE, HIDDEN, storage, None, &fill).unwrap();
        for rows in [1, 8, 32, 128] {
            let x = values(rows * HIDDEN);
            let mut out = vec![0.0; rows * WIDE];
            group.throughput(Throughput::Elements((2 * rows * HIDDEN * WIDE) as u64));
            group.bench_function(BenchmarkId::new(storage.name(), rows), |bencher| {
                bencher.iter(|| layer.forward_into(black_box(&x), &mut out));
            });
        }
    }
    group.finish();
}

/// Throughput is in products of a query with a cached token, softmax included: one query as in a decode step, and
/// a block of them as in a prefill.
fn attention(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attend");
    let queries = values(QUERIES * HIDDEN);
    let mut out = vec![0.0; QUERIES * HIDDEN];
    let mut scores = Vec::new();
    for length in [32, 128, 512] {
        let (keys, cached) = (values(length * HEAD), values(length * HEAD));
        let cache = HeadCache {
            keys: &keys,
            values: &cached,
            tokens: length,
            next_keys: &[],
            next_values: &[],
        };
        for (name, count) in [("one", 1), ("block", QUERIES)] {
            group.throughput(Throughput::Elements((count * length) as u64));
            group.bench_function(BenchmarkId::new(name, length), |bencher| {
                bencher.iter(|| {
                    let mut block = QueryBlock {
                        count,
                        queries: black_box(&queries),
                        query_stride: HIDDEN,
                        out: &mut out,
                        out_stride: HIDDEN,
                        size: HEAD,
                    };
                    f32::attend(&mut block, &[cache], &mut scores);
                });
            });
        }
    }
    group.finish();
}

/// Throughput is in values.
fn row_by_row(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("32 rows");
    let (scale, shift) = (values(HIDDEN), values(HIDDEN));
    let norm = Norm {
        scale: &scale,
        shift: &shift,
        epsilon: 1e-5,
    };
    let x = values(32 * HIDDEN);
    let mut out = vec![0.0; x.len()];
    group.throughput(Throughput::Elements(x.len() as u64));
    group.bench_function("layer_norm", |bencher| {
        bencher.iter(|| layer_norm(black_box(&x), norm, &mut out));
    });
    let wide = values(32 * WIDE);
    let mut out = wide.clone();
    group.throughput(Throughput::Elements(wide.len() as u64));
    group.bench_function("gelu", |bencher| {
        bencher.iter(|| {
            out.copy_from_slice(&wide);
            gelu(black_box(&mut out));
        });
    });
    group.finish();
}

criterion_group!(kernels, products, attention, row_by_row);
criterion_main!(kernels);
