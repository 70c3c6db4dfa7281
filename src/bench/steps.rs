//! A loaded model to the speed of its prefill and of its decode steps.

use std::time::Instant;

use crate::error::Error;
use crate::model::{DecodeRow, Glm, GlmConfig, ModelError, PrefillRow, TextModel};

/// How often contexts are read.
const PREFILLS: usize = 2;

/// Tokens of contexts that are read at once, as far as the rows have so many.
const PREFILL_TOKENS: usize = 1024;

/// Prefill and decode tokens a second; the fastest of the steps counts. Steps that are computed both ways, because the kernels
/// of a GPU are not trusted yet, come before those that are timed. `None` where memory is too short for so many
/// rows, which leaves the model as it was.
pub(super) fn rates(
    glm: &mut Glm,
    config: &GlmConfig,
    rows: usize,
    context: usize,
    steps: usize,
) -> Result<Option<(f64, f64)>, Error> {
    let rates = timed(glm, config, rows, context, steps);
    for slot in 0..rows {
        glm.release(slot);
    }
    match rates {
        Err(ModelError::OutOfMemory) => Ok(None),
        rates => Ok(Some(rates?)),
    }
}

fn timed(
    glm: &mut Glm,
    config: &GlmConfig,
    rows: usize,
    context: usize,
    steps: usize,
) -> Result<(f64, f64), ModelError> {
    let ids: Vec<u32> = (0..context)
        .map(|at| (at * 37 % config.vocab_size) as u32)
        .collect();
    let mask_position = context as u32 - 1;
    let watched = glm.watched_steps();
    let read = rows.min(PREFILL_TOKENS.div_ceil(context));
    let contexts: Vec<PrefillRow<'_>> = (0..rows)
        .map(|slot| PrefillRow {
            slot,
            ids: &ids,
            start: 0,
            mask_position,
            capacity: context + watched + steps + 1,
        })
        .collect();
    let mut prefill_seconds = f64::INFINITY;
    for _ in 0..PREFILLS {
        let started = Instant::now();
        glm.prefill(&contexts[..read])?;
        prefill_seconds = prefill_seconds.min(started.elapsed().as_secs_f64());
    }
    // Each row has a context of its own, because keys and values that rows share are read but once.
    for contexts in contexts[read..].chunks(read) {
        glm.prefill(contexts)?;
    }
    let mut seconds = |step: usize| -> Result<f64, ModelError> {
        let rows: Vec<DecodeRow> = (0..rows)
            .map(|slot| DecodeRow {
                slot,
                id: (slot * 7 % config.vocab_size) as u32,
                mask_position,
                block_position: step as u32 + 2,
            })
            .collect();
        let started = Instant::now();
        glm.decode_likeliest(&rows)?;
        Ok(started.elapsed().as_secs_f64())
    };
    for _ in 0..watched {
        seconds(0)?;
    }
    let mut step_seconds = f64::INFINITY;
    for step in 0..steps {
        step_seconds = step_seconds.min(seconds(step)?);
    }
    let tokens = (read * context) as f64;
    Ok((tokens / prefill_seconds, rows as f64 / step_seconds))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::Device;

    use super::*;
    use crate::model::fused::ByTensors;
    use crate::model::{Backend, step_counts, with_ops};
    use crate::precision::Precision;

    #[test]
    fn steps_that_are_computed_both_ways_are_not_timed() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/nano"));
        let load = |backend| Glm::load_with(folder, &Device::Cpu, Precision::F32, backend).unwrap();
        let mut glm = with_ops(load(Backend::Padded), Box::new(ByTensors));
        let config = glm.config().clone();
        let counts = step_counts(&glm).unwrap();
        let positions = config.max_sequence_length;
        // As many tokens and steps as the model has positions, which `bench` allows.
        assert!(
            rates(&mut glm, &config, 2, positions - 1, 1)
                .unwrap()
                .is_some()
        );
        assert_eq!(counts.now(), [1, 3, 0]);
        assert_eq!(load(Backend::Packed).watched_steps(), 0);
    }
}
