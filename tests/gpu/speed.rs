//! Steps of 1 to 1,024 rows behind contexts of two lengths, beside what reading the weights and the cache allows.

use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use glm_batch::internals::model::{
    DecodeRow, Glm, ModelError, Precision, PrefillRow, Scores, TextModel, step_counts,
};

use crate::support::gpu;

/// Steps that are timed.
const STEPS: usize = 24;

/// Steps that come before them: those that are computed both ways, and one more.
const WARM_UP: usize = 4;

/// Rows of a step.
const ROWS: [usize; 6] = [1, 8, 64, 256, 512, 1024];

/// Tokens of each context.
const CONTEXTS: [usize; 2] = [32, 512];

/// Tokens that are read at once.
const CALL_TOKENS: usize = 16_384;

/// Bytes a second that the device reads, by the sum of a large tensor.
fn read_rate(device: &Device) -> f64 {
    let width = 1 << 14;
    let numbers = width * width;
    // One row a block of threads.
    let tensor = Tensor::ones((width, width), DType::F32, device).unwrap();
    let sum = || {
        tensor.sum(1).unwrap();
        device.synchronize().unwrap();
    };
    sum();
    let start = Instant::now();
    for _ in 0..STEPS {
        sum();
    }
    (4 * numbers * STEPS) as f64 / start.elapsed().as_secs_f64()
}

/// Seconds of reading all contexts, and of a step.
fn times(model: &mut Glm, rows: usize, context: usize) -> Result<(f64, f64), ModelError> {
    let vocabulary = model.config().vocab_size;
    let ids: Vec<u32> = (0..context)
        .map(|at| (at * 37 % vocabulary) as u32)
        .collect();
    let contexts: Vec<PrefillRow<'_>> = (0..rows)
        .map(|slot| PrefillRow {
            slot,
            ids: &ids,
            start: 0,
            mask_position: context as u32 - 1,
            capacity: context + WARM_UP + STEPS + 1,
        })
        .collect();
    let start = Instant::now();
    for call in contexts.chunks((CALL_TOKENS / context).max(1)) {
        model.prefill_likeliest(call)?;
    }
    let prefill = start.elapsed().as_secs_f64();
    let counts = step_counts(model);
    let mut step = |number: usize| {
        let row = |slot| DecodeRow {
            slot,
            id: (slot * 7 % vocabulary) as u32,
            mask_position: context as u32 - 1,
            block_position: number as u32 + 2,
        };
        let rows: Vec<DecodeRow> = (0..rows).map(row).collect();
        let Scores::Likeliest(tokens) = model.decode_likeliest(&rows)? else {
            panic!("the logits are not finite");
        };
        assert_eq!(tokens.len(), rows.len());
        Ok::<_, ModelError>(())
    };
    (0..WARM_UP).try_for_each(&mut step)?;
    let own = || counts.as_ref().map(|counts| counts.now()[0]);
    let before = own();
    let start = Instant::now();
    (WARM_UP..WARM_UP + STEPS).try_for_each(&mut step)?;
    let seconds = start.elapsed().as_secs_f64();
    let alone = own().zip(before).map(|(after, before)| after - before);
    assert!(
        alone.is_none_or(|steps| steps == STEPS as u64),
        "{alone:?} of {STEPS} steps are by the kernels alone: {:?}",
        model.take_note()
    );
    Ok((prefill, seconds / STEPS as f64))
}

fn told(model: &mut Glm, rate: f64, rows: usize, context: usize) {
    let config = model.config();
    let cached =
        2 * config.num_layers * config.hidden_size * rows * (context + WARM_UP + STEPS / 2);
    let bytes = 2 * (config.matrix_weights() + cached);
    let times = times(model, rows, context);
    for slot in 0..rows {
        model.release(slot);
    }
    match times {
        Ok((prefill, step)) => eprintln!(
            "{rows} rows behind {context} tokens: {:.0} tokens/s, {:.2} ms a step, {:.0}% of what is read allows; \
             contexts {:.0} tokens/s",
            rows as f64 / step,
            1e3 * step,
            100.0 * bytes as f64 / rate / step,
            (rows * context) as f64 / prefill
        ),
        Err(ModelError::OutOfMemory) => {
            eprintln!("{rows} rows behind {context} tokens: out of memory");
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn steps_beside_what_reading_allows() {
    let Some(gpu) = gpu() else { return };
    let Some(folder) = std::env::var_os("GLM_BATCH_GPU_MODEL") else {
        eprintln!("skipped: `GLM_BATCH_GPU_MODEL` names no model folder");
        return;
    };
    if gpu.is_emulated {
        eprintln!("skipped: the device is emulated");
        return;
    }
    let rate = read_rate(&gpu.device);
    eprintln!("memory is read at {:.0} GB/s", rate / 1e9);
    let mut model = Glm::load(Path::new(&folder), &gpu.device, Precision::F16).unwrap();
    for context in CONTEXTS {
        for rows in ROWS {
            told(&mut model, rate, rows, context);
        }
    }
}
