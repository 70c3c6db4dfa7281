//! The network against values of the reference code: forward passes, greedy answers, log-probabilities.
//!
//! Absolute tolerances, f32: 2e-4 (`scale8` 5e-4, logits of `smallemb` 5e-6).

use candle_core::{Device, Tensor};
use glm_batch::internals::model::{
    AttentionMask, Backend, DecodeRow, FloatType, ForwardInput, Glm, ModelError, Positions,
    Precision, TextModel, convert,
};
use serde_json::Value;

use crate::nano::{
    Ids, Nano, argmax, committed, distance, full, greedy, list, lists, log_probability, shared,
};

const BACKENDS: [Backend; 2] = [Backend::Packed, Backend::Padded];

fn load(nano: &Nano, precision: Precision, backend: Backend) -> Glm {
    Glm::load_with(&nano.folder, &Device::Cpu, precision, backend).unwrap()
}

fn floats(value: &Value) -> Tensor {
    fn shape(value: &Value, dims: &mut Vec<usize>, values: &mut Vec<f32>, depth: usize) {
        match value.as_array() {
            Some(list) => {
                if dims.len() == depth {
                    dims.push(list.len());
                }
                for value in list {
                    shape(value, dims, values, depth + 1);
                }
            }
            None => values.push(value.as_f64().unwrap() as f32),
        }
    }
    let (mut dims, mut values) = (Vec::new(), Vec::new());
    shape(value, &mut dims, &mut values, 0);
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

fn positions(value: &Value) -> Positions {
    match value.as_array() {
        None => Positions::Default,
        Some(rows) if rows[0][0].is_array() => Positions::Block(
            rows.iter()
                .map(|row| [list(&row[0]), list(&row[1])])
                .collect(),
        ),
        Some(_) => Positions::Single(lists(value)),
    }
}

fn mask(value: &Value) -> AttentionMask {
    if value.is_null() {
        return AttentionMask::Causal;
    }
    let mask = floats(value);
    match mask.rank() {
        0 | 1 => {
            let lengths = mask.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            AttentionMask::Prefix(lengths.into_iter().map(|length| length as usize).collect())
        }
        2 => AttentionMask::Keys(mask),
        _ => AttentionMask::Full(mask),
    }
}

/// Every forward case of a model; returns how many tensors were compared.
fn check_forward(nano: &Nano, model: &Glm, tolerance: f32) -> usize {
    let mut outputs = std::collections::HashMap::new();
    let mut compared = 0;
    for case in nano.cases("forward") {
        let name = case["name"].as_str().unwrap();
        let memory: Vec<Tensor> = case["mems_from"]
            .as_str()
            .map_or_else(Vec::new, |from: &str| {
                let output: &glm_batch::internals::model::ForwardOutput = &outputs[from];
                output.hidden.clone()
            });
        let ids = lists(&case["input_ids"]);
        let input = ForwardInput {
            ids: &ids,
            positions: positions(&case["position_ids"]),
            mask: mask(&case["attention_mask"]),
            memory: &memory,
        };
        let output = model.forward(&input).unwrap();
        let mut pairs = vec![
            (&output.logits, &case["logits"]),
            (output.hidden.last().unwrap(), &case["hidden_last"]),
            (&output.normalized, &case["final_norm"]),
        ];
        if let Some(mems) = case["mems"].as_array() {
            assert_eq!(mems.len(), output.hidden.len());
            pairs.extend(output.hidden.iter().zip(mems));
        }
        for (got, want) in pairs.into_iter().filter(|(_, want)| !want.is_null()) {
            let distance = distance(got, nano.tensor(want));
            let tolerance = if want == &case["logits"] {
                tolerance
            } else {
                tolerance.max(2e-4)
            };
            assert!(distance < tolerance, "{name} {want}: {distance}");
            compared += 1;
        }
        outputs.insert(name.to_owned(), output);
    }
    compared
}

/// Rounded weights, all else in f32: `f16` does so, and `f32` with a file in bf16.
fn check_rounded(nano: &Nano) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let rounded = folder.path().join("bf16");
    convert(&nano.folder, &rounded, FloatType::Bf16).unwrap();
    let of_file = Glm::load(&rounded, &Device::Cpu, Precision::F32).unwrap();
    let names = nano.goldens["rounded_weights"]["tensors"]
        .as_array()
        .unwrap();
    for (model, ending) in [
        (
            load(nano, Precision::F16, Backend::Packed),
            ".logits_f16_weights",
        ),
        (of_file, ".logits_bf16_weights"),
    ] {
        for golden in names {
            let Some(name) = golden.as_str().unwrap().strip_suffix(ending) else {
                continue;
            };
            let case = nano
                .cases("forward")
                .iter()
                .find(|case| case["name"] == name)
                .unwrap();
            let input = ForwardInput {
                ids: &lists(&case["input_ids"]),
                positions: positions(&case["position_ids"]),
                mask: mask(&case["attention_mask"]),
                memory: &[],
            };
            let distance = distance(&model.forward(&input).unwrap().logits, nano.tensor(golden));
            assert!(distance < 2e-4, "{golden}: {distance}");
        }
    }
    names.len()
}

fn check_greedy(nano: &Nano, model: &mut Glm) -> usize {
    let ids = nano.ids();
    let mut checked = 0;
    for case in nano.cases("greedy_single") {
        let new = case["max_gen_length"].as_u64().unwrap() as usize;
        let got = greedy(model, ids, &[list(&case["prompt"])], new, true).unwrap();
        assert_eq!(got[0], list(&case["generated"]));
        checked += 1;
    }
    let all: Vec<Vec<u32>> = nano
        .cases("greedy_single")
        .iter()
        .map(|case| list(&case["prompt"]))
        .collect();
    let together = greedy(model, ids, &all, 24, true).unwrap();
    for (case, got) in nano.cases("greedy_single").iter().zip(together) {
        let want = list(&case["generated"]);
        assert_eq!(got[..want.len()], want);
    }
    for case in nano.cases("greedy_batch") {
        if case["padding_side"] != "right" {
            continue;
        }
        let new = case["max_gen_length"].as_u64().unwrap() as usize;
        let prompts = lists(&case["prompts"]);
        let padded = prompts.iter().map(Vec::len).max().unwrap() + 1;
        for (got, want) in greedy(model, ids, &prompts, new, true)
            .unwrap()
            .iter()
            .zip(lists(&case["sequences"]))
        {
            assert_eq!(got[..], want[padded..padded + got.len()]);
            checked += 1;
        }
    }
    checked
}

fn check_limits(nano: &Nano, model: &mut Glm) -> (usize, usize) {
    let (mut good, mut bad) = (0, 0);
    for (name, case) in nano.goldens["limits"].as_object().unwrap() {
        if case["ok"] == true {
            let prompt = list(&case["prompt"]);
            let sequence = list(&case["sequence"]);
            let new = case["max_new_tokens"].as_u64().unwrap() as usize;
            let got = greedy(model, nano.ids(), std::slice::from_ref(&prompt), new, false).unwrap();
            assert_eq!(got[0], sequence[prompt.len() + 1..], "{name}");
            good += 1;
        } else if name.contains("context max_sequence_length+2") {
            let mut prompt = vec![1; model.config().max_sequence_length + 2];
            prompt[5] = nano.ids().masks[0];
            let result = greedy(model, nano.ids(), &[prompt], 4, false);
            assert!(matches!(result, Err(ModelError::Call(_))), "{name}");
            bad += 1;
        }
    }
    let mut prompt = vec![1; 10];
    prompt[5] = nano.ids().masks[0];
    let limit = model.config().max_sequence_length;
    let answer = greedy(model, nano.ids(), &[prompt.clone()], limit, false).unwrap();
    assert_eq!(answer[0].len(), limit);
    let result = greedy(model, nano.ids(), &[prompt], limit + 1, false);
    assert!(matches!(result, Err(ModelError::Call(_))));
    (good, bad)
}

/// Log-probabilities of an answer fed token by token.
fn score(model: &mut Glm, ids: Ids, prompt: &[u32], answer: &[u32]) -> Vec<f64> {
    let row = ids.prefill(3, prompt, answer.len());
    let mut logits = model.prefill(&[row]).unwrap();
    let mut scores = Vec::new();
    for (number, &id) in answer.iter().enumerate() {
        scores.push(log_probability(logits.row(0), id));
        if number + 1 < answer.len() {
            let row = DecodeRow {
                slot: 3,
                id,
                mask_position: row.mask_position,
                block_position: number as u32 + 2,
            };
            logits = model.decode(&[row]).unwrap();
        }
    }
    scores
}

fn check_scores(nano: &Nano, model: &mut Glm, tolerance: f64) -> usize {
    let ids = nano.ids();
    for case in nano.cases("target_logprobs") {
        let want: Vec<f64> = case["token_logprobs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|score| score.as_f64().unwrap())
            .collect();
        let mut target = list(&case["target"]);
        target.truncate(want.len() - 1);
        target.push(ids.end);
        let got = score(model, ids, &list(&case["prompt"]), &target);
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() < tolerance, "{got} {want}");
        }
    }
    let batch = &nano.goldens["target_logprobs_batch"];
    let sums = batch["row_sums"].as_array().unwrap();
    let rows = lists(&batch["prompts"])
        .into_iter()
        .zip(lists(&batch["targets"]));
    for ((prompt, mut target), want) in rows.zip(sums) {
        target.truncate(batch["max_gen_length"].as_u64().unwrap() as usize - 1);
        target.push(ids.end);
        let sum: f64 = score(model, ids, &prompt, &target).iter().sum();
        assert!(
            (sum - want.as_f64().unwrap()).abs() < tolerance,
            "{sum} {want}"
        );
    }
    for case in nano.goldens["sampling"]["cases"].as_array().unwrap() {
        let prompt = list(&case["prompt"]);
        let logits = model.prefill(&[ids.prefill(0, &prompt, 1)]).unwrap();
        let got = Tensor::new(logits.row(0), &Device::Cpu)
            .unwrap()
            .unsqueeze(0)
            .unwrap();
        assert!(f64::from(distance(&got, nano.tensor(&case["logits"]))) < tolerance);
    }
    nano.cases("target_logprobs").len()
}

#[test]
fn the_committed_model_agrees_with_the_reference() {
    let nano = committed();
    for backend in BACKENDS {
        let mut model = load(&nano, Precision::F32, backend);
        assert_eq!(check_forward(&nano, &model, 2e-4), 6 + 2 + 2 + 4);
        assert_eq!(check_greedy(&nano, &mut model), 8 + 12);
        assert_eq!(check_limits(&nano, &mut model), (3, 1));
        assert_eq!(check_scores(&nano, &mut model, 2e-4), 8);
    }
    assert_eq!(check_rounded(&nano), 2);
}

#[test]
fn every_nano_model_agrees_with_the_reference() {
    for (name, tolerance) in [("base", 2e-4), ("scale8", 5e-4), ("len64", 2e-4)] {
        let Some(nano) = full(name) else { return };
        for backend in BACKENDS {
            let mut model = load(&nano, Precision::F32, backend);
            assert!(check_forward(&nano, &model, tolerance) > 36);
            assert_eq!(check_greedy(&nano, &mut model), 24 + 12, "{name}");
            assert!(check_limits(&nano, &mut model).0 >= 3);
            assert_eq!(check_scores(&nano, &mut model, f64::from(tolerance)), 8);
        }
        assert_eq!(check_rounded(&nano), 8);
    }
}

#[test]
fn a_wrong_epsilon_or_missing_block_positions_would_show() {
    for (name, tolerance, compared) in [("smallemb", 5e-6, 39), ("noblock", 2e-4, 16)] {
        let Some(nano) = full(name) else { return };
        for backend in BACKENDS {
            let model = load(&nano, Precision::F32, backend);
            assert_eq!(check_forward(&nano, &model, tolerance), compared, "{name}");
        }
    }
}

#[test]
fn generation_without_block_positions_is_refused() {
    let Some(nano) = full("noblock") else { return };
    let mut model = load(&nano, Precision::F32, Backend::Packed);
    let prompt = [502, 7, 503, 500];
    let error = model
        .prefill(&[nano.ids().prefill(0, &prompt, 4)])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`block_position_encoding` is false"),
        "{error}"
    );
}

#[test]
fn the_trained_model_gives_the_references_answers() {
    let Some(folder) = shared("glm-tiny-zh") else {
        return;
    };
    let text = std::fs::read_to_string(folder.join("reference_greedy.jsonl")).unwrap();
    let cases: Vec<Value> = text
        .split('\n')
        .take(40)
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let ids = Ids {
        start: 50006,
        end: 50007,
        masks: [50003, 50008, 50009],
    };
    let prompts: Vec<Vec<u32>> = cases
        .iter()
        .map(|case| {
            let mut ids = list(&case["input_ids"]);
            assert_eq!(ids.pop(), Some(50006));
            ids
        })
        .collect();
    let mut model = Glm::load(&folder, &Device::Cpu, Precision::F32).unwrap();
    let answers = greedy(&mut model, ids, &prompts, 24, true).unwrap();
    for (case, answer) in cases.iter().zip(&answers) {
        assert_eq!(*answer, list(&case["generated"]));
    }
    for (case, prompt) in cases.iter().zip(&prompts).take(8) {
        let scores = score(&mut model, ids, prompt, &list(&case["answer_ids"]));
        for (got, want) in scores
            .iter()
            .zip(case["answer_logprobs"].as_array().unwrap())
        {
            assert!((got - want.as_f64().unwrap()).abs() < 1e-4);
        }
        let logits = model.prefill(&[ids.prefill(0, prompt, 1)]).unwrap();
        let top = &case["first_step_top10"];
        assert_eq!(argmax(logits.row(0)), list(&top["ids"])[0]);
        for (id, want) in list(&top["ids"])
            .into_iter()
            .zip(top["logits"].as_array().unwrap())
        {
            let got = f64::from(logits.row(0)[id as usize]);
            assert!((got - want.as_f64().unwrap()).abs() < 2e-4);
        }
    }
}

#[test]
fn running_rows_outlive_a_padded_cache_that_changes_its_shape() {
    let nano = committed();
    let cases = nano.cases("greedy_single");
    let prompts: Vec<_> = cases.iter().map(|case| list(&case["prompt"])).collect();
    let ids = nano.ids();
    let mut model = load(&nano, Precision::F32, Backend::Padded);
    let mut long = ids.prefill(0, &prompts[1], 24);
    long.capacity += 200;
    let first = ids.prefill(1, &prompts[0], 24);
    let logits = model.prefill(&[long, first]).unwrap();
    let mut answer = vec![argmax(logits.row(1))];
    model.release(0);
    let want = list(&cases[0]["generated"]);
    while answer.len() < want.len() {
        // The first of these calls gives the long row's room up, each asks for one more place.
        let slot = answer.len() + 1;
        model
            .prefill(&[ids.prefill(slot, &prompts[2], 24)])
            .unwrap();
        let row = DecodeRow {
            slot: 1,
            id: *answer.last().unwrap(),
            mask_position: first.mask_position,
            block_position: answer.len() as u32 + 1,
        };
        let logits = model.decode(&[row]).unwrap();
        answer.push(argmax(logits.row(0)));
    }
    assert_eq!(answer, want);
}

#[test]
fn half_precision_stays_close() {
    let nano = committed();
    // Logits reach 20 here; f16 keeps 11 bits, bf16 8.
    for (precision, backend, tolerance) in [
        (Precision::F16, Backend::Padded, 0.1),
        (Precision::Bf16, Backend::Packed, 0.2),
    ] {
        let mut model = load(&nano, precision, backend);
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
