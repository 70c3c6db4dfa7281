//! The network on a CUDA device in f16: near the reference, the same tokens alone and in a batch.
//!
//! Runs where a device exists; elsewhere each test says that it was skipped.
#![cfg(feature = "cuda")]
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests"
)]

#[path = "it/nano.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod nano;

use std::time::Instant;

use candle_core::{Device, Tensor};
use glm_batch::model::{DecodeRow, DeviceChoice, Glm, Precision, TextModel, open_device};

use nano::{committed, distance, greedy, list, lists};

/// Steps of the throughput test.
const STEPS: usize = 50;

fn device() -> Option<Device> {
    match open_device(DeviceChoice::Cuda(0)) {
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
fn a_decode_step_reads_the_weights_once_for_all_rows() {
    let Some(device) = device() else { return };
    let Some(folder) = std::env::var_os("GLM_BATCH_GPU_MODEL") else {
        eprintln!("skipped: `GLM_BATCH_GPU_MODEL` names no model folder");
        return;
    };
    let mut model = Glm::load(folder.as_ref(), &device, Precision::F16).unwrap();
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
            let logits = model
                .decode(&(0..rows).map(row).collect::<Vec<_>>())
                .unwrap();
            assert!(logits.values.iter().all(|value| value.is_finite()));
        };
        step(&mut model, 2);
        let start = Instant::now();
        for number in 0..STEPS {
            step(&mut model, number as u32 + 3);
        }
        let seconds = start.elapsed().as_secs_f64();
        eprintln!(
            "{rows} rows: {:.1} tokens/s",
            (rows * STEPS) as f64 / seconds
        );
        for slot in 0..rows {
            model.release(slot);
        }
    }
}
