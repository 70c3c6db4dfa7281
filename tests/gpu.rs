//! The network on a CUDA device in f16: near the reference, the same tokens alone and in a batch.
//!
//! Runs where a device exists; elsewhere each test says that it was skipped.
#![cfg(feature = "cuda")]
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests"
)]

#[path = "it/nano.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod nano;

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use glm_batch::internals::device::DeviceId;
use glm_batch::internals::model::{DecodeRow, Glm, ModelError, Precision, Scores, TextModel};

use nano::{committed, distance, greedy, list, lists};

/// Steps of the throughput test.
const STEPS: usize = 50;

fn device() -> Option<Device> {
    match DeviceId::Cuda(0).open() {
        Ok(device) => Some(device),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

#[test]
fn logits_are_near_the_reference() {
    let Some(device) = device() else { return };
    let nano = committed();
    for (precision, tolerance) in [(Precision::F32, 5e-3), (Precision::F16, 0.1)] {
        let mut model = Glm::load(&nano.folder, &device, precision).unwrap();
        for case in nano.goldens["sampling"]["cases"].as_array().unwrap() {
            let prompt = list(&case["prompt"]);
            let logits = model.prefill(&[nano.ids().prefill(0, &prompt, 1)]).unwrap();
            let got = Tensor::new(logits.row(0), &Device::Cpu)
                .unwrap()
                .unsqueeze(0)
                .unwrap();
            let distance = distance(&got, nano.tensor(&case["logits"]));
            assert!(distance < tolerance, "{precision:?}: {distance}");
        }
    }
}

#[test]
fn greedy_answers_are_the_references_alone_and_in_a_batch() {
    let Some(device) = device() else { return };
    let nano = committed();
    let mut model = Glm::load(&nano.folder, &device, Precision::F32).unwrap();
    let prompts: Vec<_> = nano
        .cases("greedy_single")
        .iter()
        .map(|case| list(&case["prompt"]))
        .collect();
    let together = greedy(&mut model, nano.ids(), &prompts, 24, true).unwrap();
    for ((case, prompt), together) in nano
        .cases("greedy_single")
        .iter()
        .zip(&prompts)
        .zip(together)
    {
        let alone = greedy(
            &mut model,
            nano.ids(),
            std::slice::from_ref(prompt),
            24,
            true,
        )
        .unwrap();
        assert_eq!(alone[0], list(&case["generated"]));
        assert_eq!(together, alone[0]);
    }
    for case in nano.cases("greedy_batch") {
        let prompts = lists(&case["prompts"]);
        let padded = prompts.iter().map(Vec::len).max().unwrap() + 1;
        let got = greedy(&mut model, nano.ids(), &prompts, 24, true).unwrap();
        for (got, want) in got.iter().zip(lists(&case["sequences"])) {
            assert_eq!(got[..], want[padded..padded + got.len()]);
        }
    }
}

#[test]
fn the_device_chooses_the_lowest_id_of_the_largest_logit() {
    let Some(device) = device() else { return };
    let nano = committed();
    let mut models: Vec<Glm> = (0..2)
        .map(|_| Glm::load(&nano.folder, &device, Precision::F16).unwrap())
        .collect();
    let case = &nano.cases("greedy_single")[0];
    let prompt = list(&case["prompt"]);
    let prefill = [nano.ids().prefill(0, &prompt, 24)];
    for model in &mut models {
        model.prefill(&prefill).unwrap();
    }
    let mut id = 7;
    for step in 0..20 {
        let row = [DecodeRow {
            slot: 0,
            id,
            mask_position: prefill[0].mask_position,
            block_position: step + 2,
        }];
        let logits = models[0].decode(&row).unwrap();
        let top = logits.row(0).iter().copied().fold(f32::MIN, f32::max);
        let first = logits.row(0).iter().position(|&logit| logit == top);
        let Scores::Likeliest(tokens) = models[1].decode_likeliest(&row).unwrap() else {
            panic!("the device gave logits");
        };
        assert_eq!(Some(tokens[0] as usize), first, "step {step}");
        id = tokens[0];
    }
}

/// Rows whose cache no device holds: they must fail as out of memory, and leave the model usable.
#[test]
fn memory_that_runs_out_is_given_back() {
    let Some(device) = device() else { return };
    let nano = committed();
    let mut model = Glm::load(&nano.folder, &device, Precision::F16).unwrap();
    let case = &nano.cases("greedy_single")[0];
    let prompt = list(&case["prompt"]);
    let mut row = nano.ids().prefill(0, &prompt, 24);
    row.capacity = 1 << 31;
    let error = model.prefill(&[row]).unwrap_err();
    assert!(matches!(error, ModelError::OutOfMemory), "{error}");
    let answers = greedy(&mut model, nano.ids(), &[prompt], 24, true).unwrap();
    assert_eq!(answers.len(), 1);
}

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

#[test]
fn a_decode_step_reads_the_weights_once_for_all_rows() {
    let Some(device) = device() else { return };
    let Some(folder) = std::env::var_os("GLM_BATCH_GPU_MODEL") else {
        eprintln!("skipped: `GLM_BATCH_GPU_MODEL` names no model folder");
        return;
    };
    let rate = read_rate(&device);
    let mut model = Glm::load(folder.as_ref(), &device, Precision::F16).unwrap();
    let bytes = 2 * model.config().matrix_weights();
    let limit = rate / bytes as f64;
    eprintln!(
        "memory is read at {:.0} GB/s: {limit:.0} steps/s at most",
        rate / 1e9
    );
    let prompt: Vec<u32> = (0..60).collect();
    for rows in [1, 8, 32, 128] {
        let ids = nano::Ids {
            start: 1,
            end: 0,
            masks: [50, 50, 50],
        };
        let prefill: Vec<_> = (0..rows)
            .map(|slot| ids.prefill(slot, &prompt, 100))
            .collect();
        model.prefill(&prefill).unwrap();
        let step = |model: &mut Glm, block_position: u32| {
            let row = |slot| DecodeRow {
                slot,
                id: 9,
                mask_position: 50,
                block_position,
            };
            let scores = model.decode_likeliest(&(0..rows).map(row).collect::<Vec<_>>());
            let Scores::Likeliest(tokens) = scores.unwrap() else {
                panic!("the logits are not finite");
            };
            assert_eq!(tokens.len(), rows);
        };
        step(&mut model, 2);
        let start = Instant::now();
        for number in 0..STEPS {
            step(&mut model, number as u32 + 3);
        }
        let seconds = start.elapsed().as_secs_f64();
        let steps = STEPS as f64 / seconds;
        eprintln!(
            "{rows} rows: {:.1} tokens/s, {:.0}% of what reading the weights allows",
            rows as f64 * steps,
            100.0 * steps / limit
        );
        for slot in 0..rows {
            model.release(slot);
        }
    }
}
