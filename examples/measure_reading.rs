//! Measures how fast a model reads contexts with branches, beside its plain prefill, in real tokens a second.
//!
//! `cargo run --release --example measure_reading -- FOLDER`. A context counts once a row, padding never. Each shape is
//! read several times by turns with the prefill of as many tokens, and the medians are printed.
#![allow(clippy::print_stdout, reason = "an example")]

use std::path::PathBuf;
use std::time::Instant;

use candle_core::Device;
use clap::Parser;
use glm_batch::{Asked, Glm, ModelError, Precision, PrefillRow, ReadRow, Sight, TextModel};

/// Measures how fast a model reads contexts with branches, beside its plain prefill.
#[derive(Parser)]
struct Arguments {
    /// Model folder.
    model: PathBuf,
    /// Rows of a call.
    #[arg(long, default_value_t = 8)]
    rows: usize,
    /// Times that each shape is read.
    #[arg(long, default_value_t = 5)]
    times: usize,
}

/// What is read behind a context.
struct Shape {
    name: &'static str,
    context: usize,
    branches: usize,
    branch: usize,
    whole_text: bool,
}

const SHAPES: [Shape; 4] = [
    shape("score: 64 + 64 tokens", 64, 1, 64),
    shape("score: 256 + 64 tokens", 256, 1, 64),
    shape("choose: 200 + 4 x 8 tokens", 200, 4, 8),
    Shape {
        whole_text: true,
        ..shape("whole text: 200 tokens", 200, 0, 0)
    },
];

const fn shape(name: &'static str, context: usize, branches: usize, branch: usize) -> Shape {
    Shape {
        name,
        context,
        branches,
        branch,
        whole_text: false,
    }
}

fn ids(count: usize, seed: usize) -> Vec<u32> {
    (0..count)
        .map(|at| ((at * 7919 + seed * 104_729) % 5000) as u32)
        .collect()
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn prefill(model: &mut Glm, tokens: usize, rows: usize) -> Result<f64, ModelError> {
    let contexts: Vec<Vec<u32>> = (0..rows).map(|row| ids(tokens - 1, row)).collect();
    let calls: Vec<PrefillRow<'_>> = contexts
        .iter()
        .enumerate()
        .map(|(slot, context)| PrefillRow {
            slot,
            ids: context,
            start: 1,
            mask_position: 0,
            capacity: tokens,
        })
        .collect();
    let begun = Instant::now();
    model.prefill(&calls)?;
    let seconds = begun.elapsed().as_secs_f64();
    (0..rows).for_each(|slot| model.release(slot));
    Ok(seconds)
}

fn read(model: &mut Glm, shape: &Shape, rows: usize) -> Result<f64, ModelError> {
    let contexts: Vec<Vec<u32>> = (0..rows).map(|row| ids(shape.context, row)).collect();
    let branches: Vec<Vec<u32>> = (0..shape.branches)
        .map(|at| ids(shape.branch, at))
        .collect();
    let branches: Vec<&[u32]> = branches.iter().map(Vec::as_slice).collect();
    let first = if shape.whole_text { 0 } else { shape.context };
    let end = shape.context + shape.branches * shape.branch;
    let asked: Vec<Asked> = (first..end)
        .map(|place| Asked {
            place: place as u32,
            token: 9,
        })
        .collect();
    let calls: Vec<ReadRow<'_>> = contexts
        .iter()
        .map(|context| ReadRow {
            context,
            sight: Sight::Whole,
            mask_position: 0,
            branches: &branches,
            asked: &asked,
        })
        .collect();
    let begun = Instant::now();
    model.chances(&calls)?;
    Ok(begun.elapsed().as_secs_f64())
}

fn main() -> Result<(), ModelError> {
    let arguments = Arguments::parse();
    let mut model = Glm::load(&arguments.model, &Device::Cpu, Precision::F32)?;
    for shape in &SHAPES {
        let tokens = shape.context + shape.branches * shape.branch;
        let (mut plain, mut branched) = (Vec::new(), Vec::new());
        for _ in 0..arguments.times {
            plain.push(prefill(&mut model, tokens, arguments.rows)?);
            branched.push(read(&mut model, shape, arguments.rows)?);
        }
        let all = (tokens * arguments.rows) as f64;
        let (plain, branched) = (all / median(plain), all / median(branched));
        println!(
            "{}: prefill {plain:.0} tokens/s, read {branched:.0} tokens/s ({:.0} %)",
            shape.name,
            100.0 * branched / plain
        );
    }
    Ok(())
}
