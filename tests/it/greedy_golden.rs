//! Greedy answers of the nano models, token for token: the engine and the network together, alone and
//! in any batch.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use glm_batch::generate::{Engine, Outcome, Request, TextCodec};
use glm_batch::ids::{RowId, WindowId};
use glm_batch::model::{Glm, Precision};
use glm_batch::plan::Budget;
use glm_batch::spec::GenerationSpec;
use glm_batch::tokenize::Encoded;
use serde_json::Value;

const SOP: u32 = 506;
const EOP: u32 = 507;
const EOS: u32 = 500;
const MASKS: [u32; 3] = [503, 508, 509];

/// The nano models have no text: a word is a number.
struct Numbers;

impl TextCodec for Numbers {
    fn decode(&self, ids: &[u32]) -> String {
        ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }
    fn encode_plain(&self, text: &str) -> Vec<u32> {
        text.split(' ').map(|word| word.parse().unwrap()).collect()
    }
    fn sop(&self) -> u32 {
        SOP
    }
    fn eop(&self) -> u32 {
        EOP
    }
    fn eos(&self) -> u32 {
        EOS
    }
}

struct Case {
    request: Request,
    expected: Vec<u32>,
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn settings(kwargs: &Value, context: usize) -> GenerationSpec {
    let whole = |key: &str| kwargs[key].as_u64().unwrap_or(0) as u32;
    let bad_words = kwargs["bad_words_ids"].as_array().into_iter().flatten();
    // `min_length` counts the context and the start token.
    let min_length = whole("min_length").saturating_sub(context as u32 + 1);
    GenerationSpec {
        do_sample: false,
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: kwargs["repetition_penalty"].as_f64().unwrap_or(1.0),
        no_repeat_ngram_size: whole("no_repeat_ngram_size"),
        min_new_tokens: whole("min_new_tokens").max(min_length),
        max_new_tokens: None,
        num_return_sequences: 1,
        bad_words: bad_words.map(|word| Numbers.decode(&ids(word))).collect(),
        stop: Vec::new(),
        seed: 0,
        logprobs: false,
    }
}

fn request(row: usize, prompt: Vec<u32>, most: &Value, kwargs: &Value) -> Request {
    let mask = prompt.iter().position(|id| MASKS.contains(id)).unwrap();
    Request {
        row: RowId(row as u64),
        settings: Arc::new(settings(kwargs, prompt.len())),
        encoded: Encoded { ids: prompt, mask_position: mask as u32, truncated: 0 },
        max_new_tokens: most.as_u64().unwrap() as u32,
    }
}

fn cases(goldens: &Value) -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in ["greedy_single", "greedy_processors", "greedy_min_new_tokens"] {
        for golden in goldens[kind].as_array().into_iter().flatten() {
            let most = &golden["max_gen_length"];
            let request = request(cases.len(), ids(&golden["prompt"]), most, &golden["kwargs"]);
            cases.push(Case { request, expected: ids(&golden["generated"]) });
        }
    }
    // Left padding shifts the reference's positions; only right padding is a batch of the same rows.
    let batches = goldens["greedy_batch"].as_array().into_iter().flatten();
    for golden in batches.filter(|golden| golden["padding_side"] == "right") {
        let prompts: Vec<Vec<u32>> = golden["prompts"].as_array().unwrap().iter().map(ids).collect();
        let width = prompts.iter().map(Vec::len).max().unwrap() + 1;
        for (prompt, sequence) in prompts.into_iter().zip(golden["sequences"].as_array().unwrap()) {
            let answer = &ids(sequence)[width..];
            let end = answer.iter().position(|&id| id == EOP).map_or(answer.len(), |end| end + 1);
            let request = request(cases.len(), prompt, &golden["max_gen_length"], &Value::Null);
            cases.push(Case { request, expected: answer[..end].to_vec() });
        }
    }
    cases
}

fn check(folder: &Path) {
    let text = fs::read(folder.join("goldens.json")).unwrap();
    let cases = cases(&serde_json::from_slice(&text).unwrap());
    assert!(!cases.is_empty(), "{}", folder.display());
    for (slots, tokens, bucket) in [(1, 10_000, 1), (7, 10_000, 8), (64, 10_000, 32), (64, 300, 8)] {
        let model = Glm::load(folder, &Device::Cpu, Precision::F32).unwrap();
        let budget =
            Budget { max_batch_size: slots, max_batch_tokens: tokens, bucket_tokens: bucket };
        let mut engine = Engine::new(Box::new(model), Arc::new(Numbers), budget);
        engine.submit(WindowId(0), cases.iter().map(|case| case.request.clone()).collect());
        let mut answers = BTreeMap::new();
        while !engine.is_idle() {
            for finished in engine.step().unwrap() {
                let Outcome::Ok(mut completion) = finished.outcome else { panic!("{finished:?}") };
                answers.insert(finished.row, completion.samples.remove(0).token_ids);
            }
        }
        assert_eq!(answers.len(), cases.len());
        for case in &cases {
            let row = case.request.row;
            assert_eq!(answers[&row], case.expected, "row {row} of {slots} slots, {budget:?}");
        }
    }
}

#[test]
fn answers_are_those_of_the_reference_for_all_nano_models() {
    let nano = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/fixtures/nano"));
    if !nano.exists() {
        eprintln!("skipped: no {}", nano.display());
        return;
    }
    for model in ["base", "scale8", "len64"] {
        check(&nano.join(model));
    }
}
