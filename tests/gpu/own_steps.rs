//! Steps by this program's kernels in a whole model: beside candle's operations, in each type of cache, and with a fault.

use std::path::Path;

use candle_core::Device;
use glm_batch::internals::model::fused::{Kernels, Ops};
use glm_batch::internals::model::{
    DecodeRow, Glm, Precision, PrefillRow, Scores, TextModel, step_counts, with_ops,
};

use crate::faulty_ops::{FAULTS, Fault, Faulty};
use crate::memory::broken_at_a_position;
use crate::support::{CHINESE, Case, Gpu, Limits, equal, gpu, prompts, run, trained};

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::F16, Precision::Bf16];

fn kernels(gpu: &Gpu, precision: Precision) -> Box<dyn Ops> {
    let Device::Cuda(device) = &gpu.device else {
        panic!("a GPU is a CUDA device");
    };
    Box::new(Kernels::load(device, precision.float().dtype()).unwrap())
}

/// The logits of steps that follow some questions, whose rows have several widths. On the way a row is copied, and most of
/// the others leave, so that the pools are made smaller.
fn logits(model: &mut Glm, cases: &[Case], steps: u32) -> Vec<Vec<f32>> {
    let contexts: Vec<PrefillRow<'_>> = cases
        .iter()
        .enumerate()
        .map(|(slot, case)| CHINESE.prefill(slot, &case.prompt, 24 + slot * 5))
        .collect();
    model.prefill(&contexts).unwrap();
    let mut running: Vec<(PrefillRow<'_>, &Case)> = contexts.into_iter().zip(cases).collect();
    let mut all = Vec::new();
    for step in 0..steps {
        let row = |(context, case): &(PrefillRow<'_>, &Case)| DecodeRow {
            slot: context.slot,
            id: case.answer[step as usize % case.answer.len()],
            mask_position: context.mask_position,
            block_position: step + 2,
        };
        let rows: Vec<DecodeRow> = running.iter().map(row).collect();
        all.push(model.decode(&rows).unwrap().values);
        let (last, case) = running[running.len() - 1];
        match step {
            4 => {
                let slot = cases.len() + 3;
                model.fork(last.slot, slot).unwrap();
                running.insert(0, (PrefillRow { slot, ..last }, case));
            }
            6 => {
                let leave = running.len() * 2 / 3;
                for (context, _) in running.drain(1..=leave) {
                    model.release(context.slot);
                }
            }
            _ => {}
        }
    }
    all
}

/// The largest difference of two logits of a step, as a share of the largest logit.
fn share(a: &[f32], b: &[f32]) -> f32 {
    let largest = b.iter().fold(0.0_f32, |top, logit| top.max(logit.abs()));
    let off = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    off.fold(0.0, f32::max) / largest
}

/// The largest [`share`] that rounding explains.
fn rounding(precision: Precision) -> f32 {
    match precision {
        Precision::F16 => 0.01,
        Precision::Bf16 => 0.05,
        _ => 1e-4,
    }
}

/// The same with the kernels and without, whatever the types of weights and cache: what is told is what rounding comes to.
#[test]
fn logits_are_those_of_candle_but_for_rounding() {
    let Some(gpu) = gpu() else { return };
    let Some((folder, cases)) = trained() else {
        return;
    };
    let cases: Vec<Case> = cases.into_iter().step_by(40).collect();
    for precision in PRECISIONS {
        for cached in [Precision::F32, Precision::F16, Precision::Bf16] {
            let load = || {
                Glm::load(&folder, &gpu.device, precision)
                    .unwrap()
                    .cached_as(cached)
            };
            let mut own = load();
            let counts = step_counts(&own).unwrap();
            let with = logits(&mut own, &cases, 14);
            // 14 and 15 rows, then 5: two classes, in each of which three steps are computed both ways.
            assert_eq!(counts.now(), [8, 6, 0], "{precision:?}, {cached:?}");
            assert_eq!(own.take_note(), None);
            let fault = Fault::Launch;
            let ops = kernels(&gpu, precision);
            let mut without = with_ops(load(), Box::new(Faulty { ops, fault })).cached_as(cached);
            let without = logits(&mut without, &cases, 14);
            let most = with.iter().zip(&without).map(|(a, b)| share(a, b));
            let most = most.fold(0.0, f32::max);
            eprintln!("{precision:?}, {cached:?} cached: {most:.1e} of the largest logit");
            assert!(
                most < rounding(precision),
                "{precision:?}, {cached:?}: {most}"
            );
        }
    }
}

/// A model that is named: 3 rows behind short contexts, a few steps.
#[test]
fn a_named_model_has_the_same_logits_both_ways() {
    let Some(gpu) = gpu() else { return };
    let Some(folder) = std::env::var_os("GLM_BATCH_GPU_MODEL") else {
        eprintln!("skipped: `GLM_BATCH_GPU_MODEL` names no model folder");
        return;
    };
    let folder = Path::new(&folder);
    for precision in PRECISIONS {
        let load = || Glm::load(folder, &gpu.device, precision).unwrap();
        let mut own = load();
        let vocabulary = own.config().vocab_size;
        let id = |at: usize| (at * 7919 % vocabulary) as u32;
        let case = |row: usize| Case {
            prompt: (0..5 + 6 * row)
                .map(|at| id(at + 100 * row + 1))
                .chain([CHINESE.masks[0]])
                .collect(),
            answer: (0..8).map(|at| id(at + 31 * row)).collect(),
        };
        let cases: Vec<Case> = (0..3).map(case).collect();
        let with = logits(&mut own, &cases, 6);
        assert_eq!(own.take_note(), None);
        assert_eq!(step_counts(&own).unwrap().now(), [2, 4, 0]);
        // Two models may be more than the device holds.
        drop(own);
        let (ops, fault) = (kernels(&gpu, precision), Fault::Launch);
        let without = logits(
            &mut with_ops(load(), Box::new(Faulty { ops, fault })),
            &cases,
            6,
        );
        let most = with.iter().zip(&without).map(|(a, b)| share(a, b));
        let most = most.fold(0.0, f32::max);
        eprintln!("{precision:?}: {most:.1e} of the largest logit");
        assert!(most < rounding(precision), "{precision:?}: {most}");
    }
}

/// A row that is not finite leaves those beside it as they are, and does not count as a fault of the kernels.
#[test]
fn a_row_that_is_not_finite_leaves_the_others_alone() {
    const ROWS: usize = 5;
    const BROKEN: usize = 3;
    let Some(gpu) = gpu() else { return };
    let Some((folder, cases)) = trained() else {
        return;
    };
    let broken = tempfile::tempdir().unwrap();
    broken_at_a_position(&folder, broken.path());
    let load = || Glm::load(broken.path(), &gpu.device, Precision::F16).unwrap();
    let contexts: Vec<PrefillRow<'_>> = (0..ROWS)
        .map(|slot| CHINESE.prefill(slot, &cases[slot * 30].prompt, 24))
        .collect();
    let steps = |model: &mut Glm| -> Vec<Vec<f32>> {
        model.prefill(&contexts).unwrap();
        let step = |step: usize| {
            let row = |context: &PrefillRow<'_>| DecodeRow {
                slot: context.slot,
                id: cases[context.slot].answer[0],
                // The position that overflows: at first in a step that is computed both ways, then in one that is not.
                mask_position: match (context.slot, step) {
                    (BROKEN, 2 | 5) => 40,
                    _ => context.mask_position,
                },
                block_position: step as u32 + 2,
            };
            let rows: Vec<DecodeRow> = contexts.iter().map(row).collect();
            match model.decode_likeliest(&rows).unwrap() {
                Scores::Logits(logits) => logits.values,
                Scores::Likeliest(_) => Vec::new(),
            }
        };
        (0..7).map(step).collect()
    };
    let mut own = load();
    let with = steps(&mut own);
    assert_eq!(step_counts(&own).unwrap().now(), [4, 3, 0]);
    assert_eq!(own.take_note(), None);
    let (ops, fault) = (kernels(&gpu, Precision::F16), Fault::Launch);
    let without = steps(&mut with_ops(load(), Box::new(Faulty { ops, fault })));
    for (number, (with, without)) in with.iter().zip(&without).enumerate() {
        // Its keys and values stay, so it is broken from then on; the device chooses before that.
        assert_eq!(
            (with.is_empty(), without.is_empty()),
            (number < 2, number < 2)
        );
        let width = own.config().vocab_size;
        let rows = with.chunks(width).zip(without.chunks(width));
        for (slot, (with, without)) in rows.enumerate() {
            let is_finite = |row: &[f32]| row.iter().all(|logit| logit.is_finite());
            assert_eq!(is_finite(with), slot != BROKEN, "step {number}, row {slot}");
            assert_eq!(is_finite(without), slot != BROKEN);
            assert!(slot == BROKEN || share(with, without) < 0.01);
        }
    }
}

#[test]
fn a_faulty_kernel_is_told_of_and_alters_no_answer() {
    let Some(gpu) = gpu() else { return };
    let Some((folder, cases)) = trained() else {
        return;
    };
    let cases: Vec<Case> = cases.into_iter().step_by(25).collect();
    for (number, (fault, words)) in FAULTS.into_iter().enumerate() {
        let precision = PRECISIONS[number % 3];
        let ops = kernels(&gpu, precision);
        let model = Glm::load(&folder, &gpu.device, precision).unwrap();
        let mut model = with_ops(model, Box::new(Faulty { ops, fault }));
        let counts = step_counts(&model).unwrap();
        if !matches!(fault, Fault::Choice | Fault::ChoiceLaunch(_)) {
            logits(&mut model, &cases, 2);
            let note = model.take_note().unwrap();
            assert!(note.contains(words), "{fault:?}: {note}");
        }
        let (answers, _) = run(model, CHINESE, prompts(&cases), Limits::rows(8));
        assert_eq!(equal(&answers, &cases), cases.len(), "{fault:?}");
        let [own, both, candle] = counts.now();
        assert!(
            own == 0 && both <= 1 && candle > 0,
            "{fault:?}: {:?}",
            counts.now()
        );
    }
}
