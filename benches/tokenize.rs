//! Tokenizing: load time, contexts a second on one thread and on all, long texts, decoding.
//!
//! Uses the published model and its texts where `../shared` is present, else the cut fixture.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use glm_batch::internals::job::{MaskToken, Overflow};
use glm_batch::internals::tokenize::GlmTokenizer;
use rayon::prelude::*;
use serde_json::Value;

const SMALL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tokenizer");
const SHARED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/fixtures/tokenizers");
/// Classes of golden lines that look like prompts.
const PROMPT_CLASSES: [&str; 5] = ["zh", "classical", "en", "num", "multi"];

fn model() -> (PathBuf, PathBuf) {
    let shared = Path::new(SHARED);
    if shared.exists() {
        (
            shared.join("glm-chinese"),
            shared.join("glm-chinese.goldens.jsonl"),
        )
    } else {
        (SMALL.into(), Path::new(SMALL).join("goldens.jsonl"))
    }
}

fn prompts(goldens: &Path) -> Vec<String> {
    let text = fs::read_to_string(goldens).unwrap();
    let lines = text.split('\n').filter(|line| !line.is_empty());
    let lines = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut prompts: Vec<String> = lines
        .filter(|line| PROMPT_CLASSES.contains(&line["class"].as_str().unwrap()))
        .map(|line| line["text"].as_str().unwrap().to_owned())
        .collect();
    // Different texts each round, so that no cache of whole texts helps.
    let more: Vec<String> = (0..4)
        .flat_map(|round| {
            prompts
                .iter()
                .map(move |text| format!("{round}{text}第{round}题"))
        })
        .collect();
    prompts.extend(more);
    prompts
}

fn encode(tokenizer: &GlmTokenizer, text: &str) -> usize {
    tokenizer
        .encode_prompt(
            text,
            Some("回答："),
            MaskToken::Mask,
            512,
            Overflow::Truncate,
        )
        .unwrap()
        .ids
        .len()
}

fn benches(criterion: &mut Criterion) {
    let (folder, goldens) = model();
    let tokenizer = GlmTokenizer::load(&folder).unwrap();
    let prompts = prompts(&goldens);
    let mut group = criterion.benchmark_group("tokenize");
    group.sample_size(10);
    group.bench_function("load", |b| {
        b.iter(|| GlmTokenizer::load(black_box(&folder)).unwrap());
    });

    group.throughput(Throughput::Elements(prompts.len() as u64));
    group.bench_function("contexts/1 thread", |b| {
        b.iter(|| {
            prompts
                .iter()
                .map(|text| encode(&tokenizer, text))
                .sum::<usize>()
        });
    });
    group.bench_function("contexts/all threads", |b| {
        b.iter(|| {
            prompts
                .par_iter()
                .map(|text| encode(&tokenizer, text))
                .sum::<usize>()
        });
    });
    let ids: Vec<Vec<u32>> = prompts.iter().map(|text| tokenizer.encode(text)).collect();
    group.bench_function("decode/1 thread", |b| {
        b.iter(|| {
            ids.iter()
                .map(|ids| tokenizer.decode(ids, true).len())
                .sum::<usize>()
        });
    });

    let mut long = prompts.concat();
    while long.len() < 1 << 20 {
        long.extend_from_within(..);
    }
    long.truncate(long.floor_char_boundary(1 << 20));
    group.throughput(Throughput::Bytes(long.len() as u64));
    group.bench_function("encode/1 MiB", |b| {
        b.iter(|| tokenizer.encode(black_box(&long)));
    });
    group.finish();
}

criterion_group!(tokenize, benches);
criterion_main!(tokenize);
