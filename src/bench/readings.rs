//! A loaded model to the speed of the tasks that read: contexts with what follows them, beside plain prefill.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::model::{Asked, Glm, GlmConfig, ModelError, PrefillRow, ReadRow, Sight, TextModel};

/// How often each shape is read, by turns with the prefill that it is compared with.
const TIMES: usize = 3;

/// Tokens of one call, as far as whole rows go into them.
const CALL_TOKENS: usize = 512;

/// Fewest tokens of a context; a model without room for them is not measured.
const FEWEST: usize = 8;

/// What is read in one row.
struct Shape {
    task: &'static str,
    context: usize,
    branches: usize,
    branch: usize,
}

const SHAPES: [Shape; 3] = [
    Shape {
        task: "score",
        context: 64,
        branches: 1,
        branch: 64,
    },
    Shape {
        task: "choose",
        context: 200,
        branches: 4,
        branch: 8,
    },
    Shape {
        task: "whole text",
        context: 200,
        branches: 0,
        branch: 0,
    },
];

/// How fast one shape is read. A context counts once a row, padding never.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ReadingSpeed {
    /// The task that reads so.
    pub task: String,
    /// Tokens of the context.
    pub context: usize,
    /// Texts behind it.
    pub branches: usize,
    /// Tokens of each.
    pub branch: usize,
    /// Tokens a second where contexts of as many tokens are read for answers.
    pub prefill: f64,
    /// Tokens a second, with the log-probability of each token that the task asks for.
    pub read: f64,
}

/// Measures every shape that the model, and memory, have room for.
pub(super) fn speeds(glm: &mut Glm, config: &GlmConfig) -> Result<Vec<ReadingSpeed>, Error> {
    let mut speeds = Vec::new();
    for shape in &SHAPES {
        let behind = shape.branches * shape.branch;
        let room = config.max_sequence_length.saturating_sub(behind + 1);
        let context = shape.context.min(room);
        if context < FEWEST || shape.branch > config.max_sequence_length {
            continue;
        }
        let tokens = context + behind;
        let rows = (CALL_TOKENS / tokens).max(1);
        let (mut prefill, mut read) = (f64::INFINITY, f64::INFINITY);
        let mut once = || -> Result<(), ModelError> {
            prefill = prefill.min(prefill_seconds(glm, config, tokens, rows)?);
            read = read.min(read_seconds(glm, config, shape, context, rows)?);
            Ok(())
        };
        match (0..TIMES).try_for_each(|_| once()) {
            Err(ModelError::OutOfMemory) => continue,
            timed => timed?,
        }
        let all = (tokens * rows) as f64;
        speeds.push(ReadingSpeed {
            task: shape.task.to_owned(),
            context,
            branches: shape.branches,
            branch: shape.branch,
            prefill: all / prefill,
            read: all / read,
        });
    }
    Ok(speeds)
}

fn ids(config: &GlmConfig, count: usize, seed: usize) -> Vec<u32> {
    let id = |at| ((at * 7919 + seed * 104_729) % config.vocab_size) as u32;
    (0..count).map(id).collect()
}

fn prefill_seconds(
    glm: &mut Glm,
    config: &GlmConfig,
    tokens: usize,
    rows: usize,
) -> Result<f64, ModelError> {
    let contexts: Vec<Vec<u32>> = (0..rows).map(|row| ids(config, tokens - 1, row)).collect();
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
    let started = Instant::now();
    glm.prefill(&calls)?;
    let seconds = started.elapsed().as_secs_f64();
    (0..rows).for_each(|slot| glm.release(slot));
    Ok(seconds)
}

fn read_seconds(
    glm: &mut Glm,
    config: &GlmConfig,
    shape: &Shape,
    context: usize,
    rows: usize,
) -> Result<f64, ModelError> {
    let contexts: Vec<Vec<u32>> = (0..rows).map(|row| ids(config, context, row)).collect();
    let branches: Vec<Vec<u32>> = (0..shape.branches)
        .map(|at| ids(config, shape.branch, at))
        .collect();
    let branches: Vec<&[u32]> = branches.iter().map(Vec::as_slice).collect();
    // A text without anything behind it is asked for all of its own tokens.
    let first = if branches.is_empty() { 0 } else { context };
    let end = context + shape.branches * shape.branch;
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
    let started = Instant::now();
    glm.chances(&calls)?;
    Ok(started.elapsed().as_secs_f64())
}
