//! Answers of the reference, alone and in batches, in each precision that a device takes.

use std::path::Path;

use candle_core::{Device, Tensor};
use glm_batch::internals::model::{
    DecodeRow, Glm, Precision, PrefillRow, Scores, TextModel, step_counts,
};

use crate::nano::{Nano, argmax, committed, distance, greedy, list, lists};
use crate::support::{CHINESE, Case, Gpu, Limits, equal, gpu, prompts, run, trained};

/// Rows in flight with which the answers are compared.
const ROWS: [usize; 3] = [1, 7, 512];

/// One row of so many is enough where the device is emulated, for other numbers of rows than the first.
const EMULATED: usize = 5;

#[test]
fn logits_are_near_the_reference() {
    let Some(gpu) = gpu() else { return };
    let nano = committed();
    for (precision, tolerance) in [(Precision::F32, 5e-3), (Precision::F16, 0.1)] {
        let mut model = Glm::load(&nano.folder, &gpu.device, precision).unwrap();
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

/// Prompts that run together, and their answers.
type Set = (Vec<Vec<u32>>, Vec<Vec<u32>>);

/// The prompts of the nano model, alone and together, and the reference's answers.
fn nano_sets(nano: &Nano) -> Vec<Set> {
    let single = nano.cases("greedy_single");
    let mut sets: Vec<Set> = single
        .iter()
        .map(|case| (vec![list(&case["prompt"])], vec![list(&case["generated"])]))
        .collect();
    sets.push((
        single.iter().map(|case| list(&case["prompt"])).collect(),
        single.iter().map(|case| list(&case["generated"])).collect(),
    ));
    for case in nano.cases("greedy_batch") {
        let prompts = lists(&case["prompts"]);
        let padded = prompts.iter().map(Vec::len).max().unwrap() + 1;
        let answer = |sequence: Vec<u32>| {
            let answer = &sequence[padded..];
            let end = answer.iter().position(|&id| id == nano.ids().end);
            answer[..end.map_or(answer.len(), |end| end + 1)].to_vec()
        };
        let answers = lists(&case["sequences"]).into_iter().map(answer);
        sets.push((prompts, answers.collect()));
    }
    sets
}

#[test]
fn nano_answers_are_the_references_alone_and_in_a_batch() {
    let Some(gpu) = gpu() else { return };
    let nano = committed();
    for precision in [Precision::F32, Precision::F16, Precision::Bf16] {
        let mut model = Glm::load(&nano.folder, &gpu.device, precision).unwrap();
        // Its heads have 16 numbers, and the kernels of this program take those of 64.
        assert!(step_counts(&model).is_none());
        let (mut same, mut all) = (0, 0);
        for (prompts, answers) in nano_sets(&nano) {
            let got = greedy(&mut model, nano.ids(), &prompts, 24, true).unwrap();
            all += got.len();
            same += got.iter().zip(&answers).filter(|(a, b)| a == b).count();
        }
        eprintln!("nano, {}: {same} of {all} answers", precision.name());
        // Logits of random weights lie so near one another that bf16 may choose others.
        assert!(same == all || precision == Precision::Bf16, "{precision:?}");
    }
}

/// How many answers are the reference's with so many rows at once.
fn count(gpu: &Gpu, precision: Precision, rows: usize, cases: &[Case], folder: &Path) -> usize {
    let model = Glm::load(folder, &gpu.device, precision).unwrap();
    let counts = step_counts(&model).unwrap();
    let (answers, _) = run(model, CHINESE, prompts(cases), Limits::rows(rows));
    let same = equal(&answers, cases);
    let [own, both, candle] = counts.now();
    eprintln!(
        "{}, {rows} rows at once: {same} of {} answers are the reference's; {own} steps by this program's kernels, {both} \
         both ways",
        precision.name(),
        cases.len()
    );
    assert!(own > 0 && both > 0 && candle == 0, "{:?}", counts.now());
    same
}

#[test]
fn trained_answers_are_the_references() {
    let Some(gpu) = gpu() else { return };
    let Some((folder, cases)) = trained() else {
        return;
    };
    for precision in [Precision::F16, Precision::Bf16, Precision::F32] {
        let same = count(&gpu, precision, 64, &cases, &folder);
        assert_eq!(same, cases.len(), "{precision:?}");
    }
}

/// Differences are counted and not refused on a GPU: its products may sum in another order for other numbers of rows.
#[test]
fn trained_answers_with_other_numbers_of_rows() {
    let Some(gpu) = gpu() else { return };
    let Some((folder, cases)) = trained() else {
        return;
    };
    for rows in ROWS {
        let step = if gpu.is_emulated && rows < 64 {
            EMULATED
        } else {
            1
        };
        let some: Vec<Case> = cases.iter().step_by(step).cloned().collect();
        let same = count(&gpu, Precision::F16, rows, &some, &folder);
        assert!(same == some.len() || !gpu.is_emulated, "{rows} rows");
    }
}

/// The lowest id of the largest of the logits, which a device finds by itself.
#[test]
fn the_device_chooses_what_its_logits_say() {
    const ROWS: usize = 64;
    let Some(gpu) = gpu() else { return };
    let nano = committed();
    let (folder, ids, cases) = match trained() {
        Some((folder, cases)) => (folder, CHINESE, cases),
        None => (nano.folder.clone(), nano.ids(), nano_cases(&nano)),
    };
    let mut models: Vec<Glm> = (0..2)
        .map(|_| Glm::load(&folder, &gpu.device, Precision::F16).unwrap())
        .collect();
    let contexts: Vec<PrefillRow<'_>> = (0..ROWS)
        .map(|slot| ids.prefill(slot, &cases[slot * 7 % cases.len()].prompt, 24))
        .collect();
    let by_logits = models[0].prefill(&contexts).unwrap();
    let mut chosen = likeliest(models[1].prefill_likeliest(&contexts).unwrap());
    let tops = |values: &dyn Fn(usize) -> u32| (0..ROWS).map(values).collect::<Vec<u32>>();
    assert_eq!(chosen, tops(&|row| argmax(by_logits.row(row))), "prefill");
    for step in 0..10 {
        let rows: Vec<DecodeRow> = contexts
            .iter()
            .zip(&chosen)
            .map(|(context, &id)| DecodeRow {
                slot: context.slot,
                id,
                mask_position: context.mask_position,
                block_position: step + 2,
            })
            .collect();
        let logits = models[0].decode(&rows).unwrap();
        chosen = likeliest(models[1].decode_likeliest(&rows).unwrap());
        assert_eq!(chosen, tops(&|row| argmax(logits.row(row))), "step {step}");
    }
}

fn likeliest(scores: Scores) -> Vec<u32> {
    match scores {
        Scores::Likeliest(tokens) => tokens,
        Scores::Logits(_) => panic!("the device gave logits"),
    }
}

fn nano_cases(nano: &Nano) -> Vec<Case> {
    let case = |case: &serde_json::Value| Case {
        prompt: list(&case["prompt"]),
        answer: list(&case["generated"]),
    };
    nano.cases("greedy_single").iter().map(case).collect()
}
