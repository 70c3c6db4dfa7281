//! What the memory of a device may and may not alter: no room, rows beside a broken one, copies, pools made smaller.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use glm_batch::internals::model::{DecodeRow, Glm, ModelError, Precision, Scores, TextModel};

use crate::nano::{committed, greedy, list};
use crate::support::{CHINESE, Case, Gpu, Limits, ROOM, equal, gpu, prompts, run, trained};

/// Bytes of the device that are left to the engine which runs out of them.
const LEFT: usize = 256 << 20;

/// Bytes of an emulated device that may be filled.
const MOST_EMULATED: usize = 4 << 30;

/// Rows whose cache no device holds: they must fail as out of memory, and leave the model usable.
#[test]
fn memory_that_runs_out_is_given_back() {
    let Some(gpu) = gpu() else { return };
    let nano = committed();
    let mut model = Glm::load(&nano.folder, &gpu.device, Precision::F16).unwrap();
    let case = &nano.cases("greedy_single")[0];
    let prompt = list(&case["prompt"]);
    let mut row = nano.ids().prefill(0, &prompt, 24);
    row.capacity = 1 << 31;
    let error = model.prefill(&[row]).unwrap_err();
    assert!(matches!(error, ModelError::OutOfMemory), "{error}");
    let answers = greedy(&mut model, nano.ids(), &[prompt], 24, true).unwrap();
    assert_eq!(answers[0], list(&case["generated"]));
}

/// Takes all of the device's memory but some.
fn ballast(gpu: &Gpu, left: usize) -> Tensor {
    let Device::Cuda(device) = &gpu.device else {
        panic!("a GPU is a CUDA device");
    };
    let (free, _) = device.cuda_stream().context().mem_get_info().unwrap();
    assert!(free > left, "{free} bytes are free");
    // What an emulated device has is the machine's.
    assert!(
        !gpu.is_emulated || free <= MOST_EMULATED,
        "{free} bytes would be taken from this machine: give the emulated device less, as `CONTRIBUTING.md` says"
    );
    Tensor::zeros(free - left, DType::U8, &gpu.device).unwrap()
}

/// An engine whose rows have no room together runs fewer of them at once, and gives the same answers.
#[test]
fn an_engine_that_runs_out_of_memory_answers_all_the_same() {
    let Some(gpu) = gpu() else { return };
    let Some((folder, cases)) = trained() else {
        return;
    };
    let cases: Vec<Case> = cases.into_iter().step_by(11).collect();
    assert!(
        cases
            .iter()
            .all(|case| case.answer.last() == Some(&CHINESE.end))
    );
    let load = || Glm::load(&folder, &gpu.device, Precision::F32).unwrap();
    let model = load();
    let held = ballast(&gpu, LEFT);
    // Slots of 2,048 tokens: all of them together take three times what is left.
    let wide = Limits {
        tokens: 1 << 40,
        most: 1800,
        ..Limits::rows(cases.len())
    };
    let (answers, counted) = run(model, CHINESE, prompts(&cases), wide);
    eprintln!(
        "out of memory {} times; {} of {} rows at once at most",
        counted.oom_retries,
        counted.peak_slots,
        cases.len()
    );
    assert!(counted.oom_retries > 0 && counted.peak_slots < cases.len());
    assert_eq!(equal(&answers, &cases), cases.len());
    drop(held);
    // The memory is there again.
    let (answers, counted) = run(load(), CHINESE, prompts(&cases), Limits::rows(cases.len()));
    assert_eq!(
        (equal(&answers, &cases), counted.oom_retries),
        (cases.len(), 0)
    );
    assert_eq!(counted.peak_slots, cases.len());
}

/// A folder with a model, in which position 40 makes f16 overflow and nothing else does.
///
/// In one coordinate only that position has anything, so that it reaches the norm of the first layer's MLP as nearly the
/// whole of its row, and one of the weights behind it is too large for that.
pub(crate) fn broken_at_a_position(model: &Path, folder: &Path) {
    const COORDINATE: usize = 9;
    for entry in std::fs::read_dir(model).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
        }
    }
    let file = folder.join("model.safetensors");
    let mut tensors: HashMap<String, Tensor> =
        candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    let prefix = tensors
        .keys()
        .find_map(|name| name.strip_suffix("word_embeddings.weight"))
        .unwrap()
        .to_owned();
    let mut edit = |name: &str, change: &dyn Fn(usize, usize, f32) -> f32| {
        let tensor = tensors.get_mut(&format!("{prefix}{name}")).unwrap();
        let width = tensor.dims().last().copied().unwrap();
        let values = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
        let values: Vec<f32> = values.to_vec1().unwrap();
        let changed = values.iter().enumerate();
        let changed = changed.map(|(at, &value)| change(at / width, at % width, value));
        *tensor =
            Tensor::from_vec(changed.collect::<Vec<f32>>(), tensor.dims(), &Device::Cpu).unwrap();
    };
    let without = |_: usize, column: usize, value: f32| {
        if column == COORDINATE { 0.0 } else { value }
    };
    edit("word_embeddings.weight", &without);
    edit("transformer.block_position_embeddings.weight", &without);
    edit(
        "transformer.position_embeddings.weight",
        &|row, column, value| match column {
            COORDINATE if row == 40 => 6e4,
            COORDINATE => 0.0,
            _ => value,
        },
    );
    let layer = "transformer.layers.0";
    edit(
        &format!("{layer}.attention.dense.weight"),
        &|row, _, value| {
            if row == COORDINATE { 0.0 } else { value }
        },
    );
    edit(&format!("{layer}.attention.dense.bias"), &without);
    edit(
        &format!("{layer}.post_attention_layernorm.weight"),
        &|_, column, value| {
            if column == COORDINATE { 1.0 } else { value }
        },
    );
    edit(&format!("{layer}.post_attention_layernorm.bias"), &without);
    edit(
        &format!("{layer}.mlp.dense_h_to_4h.weight"),
        &|row, column, value| {
            if (row, column) == (3, COORDINATE) {
                16e3
            } else {
                value
            }
        },
    );
    // The file of the model may be read-only, and so its copy.
    std::fs::remove_file(&file).unwrap();
    candle_core::safetensors::save(&tensors, &file).unwrap();
}

#[test]
fn a_row_that_is_not_finite_fails_alone() {
    let Some(gpu) = gpu() else { return };
    let folder = tempfile::tempdir().unwrap();
    let nano = committed();
    broken_at_a_position(&nano.folder, folder.path());
    let ids = nano.ids();
    let prompt = |row: usize, length: usize| {
        let mut prompt: Vec<u32> = (0..length)
            .map(|at| (10 + row * 13 + at * 7) as u32 % 400)
            .collect();
        prompt.push(ids.masks[0]);
        prompt
    };
    // Every fifth row reaches the position that overflows; they have slots of the same size, so that places change hands.
    let is_broken = |row: usize| row % 5 == 2;
    let rows: Vec<Case> = (0..20)
        .map(|row| Case {
            prompt: prompt(row, if is_broken(row) { 45 } else { 5 + row }),
            answer: Vec::new(),
        })
        .collect();
    let limits = |rows| Limits {
        rows,
        tokens: ROOM,
        most: 12,
    };
    let load = || Glm::load(folder.path(), &gpu.device, Precision::F16).unwrap();
    let answers = |at_once| run(load(), ids, prompts(&rows), limits(at_once)).0;
    let (together, few, alone) = (answers(20), answers(3), answers(1));
    for (row, ((together, few), alone)) in together.iter().zip(&few).zip(&alone).enumerate() {
        if is_broken(row) {
            let reason = together.as_ref().unwrap_err();
            assert!(reason.contains("NaN"), "{reason}");
            assert!(few.is_err() && alone.is_err());
        } else {
            assert!(alone.is_ok(), "{alone:?}");
            assert_eq!((together, few), (alone, alone), "row {row}");
        }
    }
}

/// Copies go on as the row that they were copied from, and so does what is left when a pool is made smaller.
#[test]
fn copies_and_pools_that_are_made_smaller_alter_no_answer() {
    const ROWS: usize = 12;
    let Some(gpu) = gpu() else { return };
    let nano = committed();
    let ids = nano.ids();
    let case = &nano.cases("greedy_single")[0];
    let (prompt, want) = (list(&case["prompt"]), list(&case["generated"]));
    for precision in [Precision::F32, Precision::F16] {
        let mut model = Glm::load(&nano.folder, &gpu.device, precision).unwrap();
        let first = ids.prefill(0, &prompt, 24);
        let Scores::Likeliest(tokens) = model.prefill_likeliest(&[first]).unwrap() else {
            panic!("the device gave logits");
        };
        let mut answer = tokens;
        for slot in 1..ROWS {
            model.fork(slot - 1, slot).unwrap();
        }
        let mut running: Vec<usize> = (0..ROWS).collect();
        while answer.len() < want.len() {
            let row = |&slot: &usize| DecodeRow {
                slot,
                id: *answer.last().unwrap(),
                mask_position: first.mask_position,
                block_position: answer.len() as u32 + 1,
            };
            let rows: Vec<DecodeRow> = running.iter().map(row).collect();
            let Scores::Likeliest(tokens) = model.decode_likeliest(&rows).unwrap() else {
                panic!("the device gave logits");
            };
            assert!(tokens.iter().all(|&token| token == tokens[0]), "{tokens:?}");
            answer.push(tokens[0]);
            // The lowest places fall free first, so that the rows behind them move.
            if running.len() > 2 {
                model.release(running.remove(0));
                model.release(running.remove(0));
            }
        }
        assert_eq!(answer, want, "{precision:?}");
    }
}
