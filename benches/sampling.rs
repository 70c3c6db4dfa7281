//! Choosing a token from 50,048 logits: what a row costs beside the model's step.
#![allow(missing_docs, reason = "a benchmark")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use glm_batch::internals::generate::{
    Draw, Endings, Rules, Scratch, Warp, choose, log_probability,
};

const VOCABULARY: usize = 50_048;

/// Logits with the spread of a trained model, a few likely tokens over a long tail, divided by `flatness`.
fn logits(flatness: f32) -> Vec<f32> {
    (0..VOCABULARY as u64)
        .map(|id| {
            let bits = id.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
            let uniform = (bits >> 40) as f32 / (1 << 24) as f32;
            (-(1.0 - uniform).max(1e-7).ln() * 2.0 - 10.0) / flatness
        })
        .collect()
}

fn greedy() -> Rules {
    Rules {
        endings: Endings {
            eop: 50_007,
            eos: 50_000,
        },
        choices: None,
        repetition_penalty: 1.0,
        no_repeat_ngram_size: 0,
        bad_words: Arc::default(),
        min_new_tokens: 0,
        warp: None,
        beams: None,
        seed: 42,
        stop: Vec::new(),
        logprobs: false,
    }
}

/// Rules that draw, by name.
fn drawing() -> Vec<(&'static str, Rules)> {
    let open = Warp {
        temperature: 0.8,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
    };
    let (top_k, top_p, min_p) = (50, 0.9, 0.05);
    [
        ("temperature", open),
        ("top_k_50", Warp { top_k, ..open }),
        ("top_p_0.9", Warp { top_p, ..open }),
        ("min_p_0.05", Warp { min_p, ..open }),
        (
            "top_k_50_top_p_0.9",
            Warp {
                top_k,
                top_p,
                ..open
            },
        ),
        (
            "top_p_0.9_min_p_0.05",
            Warp {
                top_p,
                min_p,
                ..open
            },
        ),
    ]
    .map(|(name, warp)| {
        let warp = Some(warp);
        (name, Rules { warp, ..greedy() })
    })
    .into()
}

fn sampling(criterion: &mut Criterion) {
    let mut cases = vec![
        ("greedy", greedy()),
        ("greedy_penalty_ngram", {
            Rules {
                repetition_penalty: 1.2,
                no_repeat_ngram_size: 3,
                ..greedy()
            }
        }),
    ];
    cases.extend(drawing());
    group(criterion, "choose", &logits(1.0), &cases);
    group(criterion, "choose_flat", &logits(4.0), &drawing());
}

fn group(criterion: &mut Criterion, name: &str, logits: &[f32], cases: &[(&str, Rules)]) {
    let history: Vec<u32> = (0..512).map(|i| i * 97 % 50_000).collect();
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(1));
    for (name, rules) in cases {
        let mut scratch = Scratch::default();
        let mut step = 0;
        group.bench_function(*name, |bencher| {
            bencher.iter(|| {
                step += 1;
                let draw = Draw {
                    seed: 42,
                    row: 0,
                    sample: 0,
                    step,
                };
                choose(rules, &history, 100, black_box(logits), draw, &mut scratch)
            });
        });
    }
    group.bench_function("log_probability", |bencher| {
        bencher.iter(|| log_probability(black_box(logits), 7));
    });
    group.finish();
}

criterion_group!(benches, sampling);
criterion_main!(benches);
