//! Logits to the probabilities that a draw follows, against the reference's processors and warpers.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use glm_batch::internals::generate::{Endings, Rules, Warp, probabilities, process};
use safetensors::SafeTensors;
use serde_json::Value;

const TOLERANCE: f32 = 1e-5;

fn rules(kwargs: &Value) -> Rules {
    let number = |key: &str, default: f64| kwargs[key].as_f64().unwrap_or(default);
    Rules {
        endings: Endings { eop: 507, eos: 500 },
        choices: None,
        repetition_penalty: number("repetition_penalty", 1.0) as f32,
        no_repeat_ngram_size: 0,
        bad_words: Arc::default(),
        min_new_tokens: 0,
        warp: Some(Warp {
            temperature: number("temperature", 1.0),
            top_k: number("top_k", 0.0) as usize,
            top_p: number("top_p", 1.0),
            min_p: number("min_p", 0.0),
        }),
        beams: None,
        seed: 0,
        stop: Vec::new(),
        logprobs: false,
    }
}

fn floats(tensors: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let bytes = tensors.tensor(name).unwrap().data().to_vec();
    bytes
        .chunks_exact(4)
        .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
        .collect()
}

/// Checks every case of a folder of goldens; returns how many there were.
fn check(folder: &Path) -> usize {
    let goldens: Value =
        serde_json::from_slice(&fs::read(folder.join("goldens.json")).unwrap()).unwrap();
    let bytes = fs::read(folder.join("goldens.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut checked = 0;
    for context in goldens["sampling"]["cases"].as_array().unwrap() {
        let history: Vec<u32> = serde_json::from_value(context["input_ids"].clone()).unwrap();
        let logits = floats(&tensors, context["logits"].as_str().unwrap());
        for case in context["cases"].as_array().unwrap() {
            let kwargs = &case["kwargs"];
            if kwargs.get("typical_p").is_some() {
                continue;
            }
            let rules = rules(kwargs);
            let mut processed = logits.clone();
            process(&rules, &history, 0, &mut processed);
            let ours = probabilities(&rules.warp.unwrap(), &processed);
            let expected = floats(&tensors, case["probs"].as_str().unwrap());
            assert_eq!(ours.len(), expected.len());
            for (id, (ours, expected)) in ours.iter().zip(&expected).enumerate() {
                assert!(
                    (ours - expected).abs() <= TOLERANCE,
                    "{kwargs} id {id}: {ours} {expected}"
                );
                assert_eq!(
                    *ours > 0.0,
                    *expected > 0.0,
                    "{kwargs} id {id} is kept or not"
                );
            }
            checked += 1;
        }
    }
    checked
}

#[test]
fn probabilities_are_those_of_the_reference() {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sampling");
    assert_eq!(check(&committed), 16);
}

#[test]
fn probabilities_are_those_of_the_reference_for_all_nano_models() {
    let nano = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../shared/fixtures/nano"
    ));
    if !nano.exists() {
        eprintln!("skipped: no {}", nano.display());
        return;
    }
    for model in ["base", "scale8", "len64"] {
        assert!(check(&nano.join(model)) >= 16, "{model}");
    }
}
