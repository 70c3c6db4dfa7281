//! Answers of the reference's models, token for token: the engine and the network together, alone and
//! in any batch.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use glm_batch::internals::engine::{Engine, Found, Generation, Request, Work};
use glm_batch::internals::generate::TextCodec;
use glm_batch::internals::ids::{RowId, WindowId};
use glm_batch::internals::job::GenerationSpec;
use glm_batch::internals::model::{Backend, DecodeRow, Glm, Precision, PrefillRow, TextModel};
use glm_batch::internals::outcome::Completion;
use glm_batch::internals::plan::{Budget, RowLength, SlotSizes};
use glm_batch::internals::tokenize::Encoded;
use serde_json::Value;

use crate::engine::generation;

/// Ids of the nano models.
const NANO: Numbers = Numbers {
    sop: 506,
    eop: 507,
    eos: 500,
    masks: [503, 508, 509],
};
/// Ids of the Chinese models.
const CHINESE: Numbers = Numbers {
    sop: 50006,
    eop: 50007,
    eos: 50000,
    masks: [50003, 50008, 50009],
};

/// No tokenizer: a word is a number.
#[derive(Clone, Copy)]
struct Numbers {
    sop: u32,
    eop: u32,
    eos: u32,
    masks: [u32; 3],
}

impl TextCodec for Numbers {
    fn decode(&self, ids: &[u32]) -> Result<String, String> {
        let numbers: Vec<String> = ids.iter().map(ToString::to_string).collect();
        Ok(numbers.join(" "))
    }
    fn encode_plain(&self, text: &str) -> Vec<u32> {
        text.split(' ').map(|word| word.parse().unwrap()).collect()
    }
    fn sop(&self) -> u32 {
        self.sop
    }
    fn eop(&self) -> u32 {
        self.eop
    }
    fn eos(&self) -> u32 {
        self.eos
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
        repetition_penalty: kwargs["repetition_penalty"].as_f64().unwrap_or(1.0),
        no_repeat_ngram_size: whole("no_repeat_ngram_size"),
        min_new_tokens: whole("min_new_tokens").max(min_length),
        bad_words: bad_words
            .map(|word| NANO.decode(&ids(word)).unwrap())
            .collect(),
        ..GenerationSpec::default()
    }
}

fn request(row: usize, prompt: Vec<u32>, most: &Value, settings: GenerationSpec) -> Request {
    let masks = [NANO.masks, CHINESE.masks].concat();
    let mask = prompt.iter().position(|id| masks.contains(id)).unwrap();
    Request {
        row: RowId(row as u64),
        work: Work::Generate(Generation {
            later_masks: Vec::new(),
            settings: Arc::new(settings),
            choices: None,
            encoded: Encoded {
                ids: prompt,
                mask_position: mask as u32,
                truncated: 0,
            },
            max_new_tokens: most.as_u64().unwrap() as u32,
        }),
    }
}

fn cases(goldens: &Value) -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in [
        "greedy_single",
        "greedy_processors",
        "greedy_min_new_tokens",
    ] {
        for golden in goldens[kind].as_array().into_iter().flatten() {
            let most = &golden["max_gen_length"];
            let prompt = ids(&golden["prompt"]);
            let settings = settings(&golden["kwargs"], prompt.len());
            let request = request(cases.len(), prompt, most, settings);
            cases.push(Case {
                request,
                expected: ids(&golden["generated"]),
            });
        }
    }
    // Left padding shifts the reference's positions; only right padding is a batch of the same rows.
    let batches = goldens["greedy_batch"].as_array().into_iter().flatten();
    for golden in batches.filter(|golden| golden["padding_side"] == "right") {
        let prompts: Vec<Vec<u32>> = golden["prompts"]
            .as_array()
            .unwrap()
            .iter()
            .map(ids)
            .collect();
        let width = prompts.iter().map(Vec::len).max().unwrap() + 1;
        for (prompt, sequence) in prompts
            .into_iter()
            .zip(golden["sequences"].as_array().unwrap())
        {
            let answer = &ids(sequence)[width..];
            let end = answer
                .iter()
                .position(|&id| id == NANO.eop)
                .map_or(answer.len(), |end| end + 1);
            let settings = settings(&Value::Null, prompt.len());
            let request = request(cases.len(), prompt, &golden["max_gen_length"], settings);
            cases.push(Case {
                request,
                expected: answer[..end].to_vec(),
            });
        }
    }
    cases
}

fn run(
    folder: &Path,
    codec: Numbers,
    rows: Vec<Request>,
    budget: Budget,
) -> BTreeMap<RowId, Completion> {
    let model = Glm::load(folder, &Device::Cpu, Precision::F32).unwrap();
    run_model(model, codec, rows, budget)
}

fn run_model(
    model: Glm,
    codec: Numbers,
    rows: Vec<Request>,
    budget: Budget,
) -> BTreeMap<RowId, Completion> {
    let mut engine = Engine::new(Box::new(model), Arc::new(codec), budget);
    engine.submit(WindowId(0), rows);
    let mut answers = BTreeMap::new();
    while !engine.is_idle() {
        for finished in engine.step().unwrap() {
            let Ok(Found::Generated(completion)) = finished.found else {
                panic!("{finished:?}")
            };
            answers.insert(finished.row, completion);
        }
    }
    answers
}

fn budget((slots, tokens, bucket): (usize, u64, u32)) -> Budget {
    Budget {
        max_batch_size: slots,
        max_batch_tokens: tokens,
        bucket_tokens: bucket,
        slot_sizes: SlotSizes::Exact,
    }
}

fn check(folder: &Path, codec: Numbers, cases: &[Case], budgets: &[(usize, u64, u32)]) {
    assert!(!cases.is_empty(), "{}", folder.display());
    for &limits in budgets {
        let rows = cases.iter().map(|case| case.request.clone()).collect();
        let answers = run(folder, codec, rows, budget(limits));
        assert_eq!(answers.len(), cases.len());
        for case in cases {
            let row = case.request.row;
            assert_eq!(
                answers[&row].samples[0].token_ids, case.expected,
                "row {row}, {limits:?}"
            );
        }
    }
}

fn fixtures(folder: &str) -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/fixtures")).join(folder);
    if !path.exists() {
        eprintln!("skipped: no {}", path.display());
        return None;
    }
    Some(path)
}

#[test]
fn answers_are_those_of_the_reference_for_all_nano_models() {
    let Some(nano) = fixtures("nano") else { return };
    let budgets = [
        (1, 10_000, 1),
        (7, 10_000, 8),
        (64, 10_000, 32),
        (64, 300, 8),
    ];
    for model in ["base", "scale8", "len64"] {
        let folder = nano.join(model);
        let text = fs::read(folder.join("goldens.json")).unwrap();
        check(
            &folder,
            NANO,
            &cases(&serde_json::from_slice(&text).unwrap()),
            &budgets,
        );
    }
}

/// Slots of several widths come and go in pools of their own; the answers stay those of the reference.
#[test]
fn a_padded_cache_of_many_widths_gives_the_same_answers() {
    let Some(nano) = fixtures("nano") else { return };
    let folder = nano.join("base");
    let text = fs::read(folder.join("goldens.json")).unwrap();
    let mut cases = cases(&serde_json::from_slice(&text).unwrap());
    for (number, case) in cases.iter_mut().enumerate() {
        let has_ended = case.expected.last() == Some(&NANO.eop);
        let request = generation(&mut case.request);
        if number % 3 == 0 && request.settings.min_new_tokens <= 2 {
            // A shorter answer is the beginning of the longer one.
            request.max_new_tokens = 2;
            case.expected.truncate(2);
        } else if number % 3 == 1 && has_ended {
            // One that has ended does not use the room that it is given.
            request.max_new_tokens += 50;
        }
    }
    let mut widths = BTreeSet::new();
    for limits in [(1, 10_000, 32), (5, 10_000, 32), (64, 700, 32)] {
        let budget = Budget {
            slot_sizes: SlotSizes::Stepped,
            ..budget(limits)
        };
        let requests: Vec<Request> = cases.iter().map(|case| case.request.clone()).collect();
        widths.extend(requests.iter().map(|request| {
            budget
                .cost(&RowLength {
                    samples: 1,
                    ..request.work.length(0)
                })
                .of(1)
        }));
        let model = Glm::load_with(&folder, &Device::Cpu, Precision::F32, Backend::Padded);
        let answers = run_model(model.unwrap(), NANO, requests, budget);
        for case in &cases {
            let row = case.request.row;
            let got = &answers[&row].samples[0].token_ids;
            assert_eq!(*got, case.expected, "row {row}, {limits:?}");
        }
    }
    assert!(widths.len() > 2, "{widths:?}");
}

fn trained_cases(folder: &Path) -> Vec<Case> {
    let text = fs::read_to_string(folder.join("reference_greedy.jsonl")).unwrap();
    let mut cases = Vec::new();
    for line in text.lines() {
        let golden: Value = serde_json::from_str(line).unwrap();
        let mut prompt = ids(&golden["input_ids"]);
        assert_eq!(prompt.pop(), Some(CHINESE.sop));
        let settings = settings(&Value::Null, prompt.len());
        let request = request(cases.len(), prompt, &Value::from(24), settings);
        cases.push(Case {
            request,
            expected: ids(&golden["generated"]),
        });
    }
    cases
}

#[test]
fn answers_are_those_of_the_reference_for_the_trained_model() {
    let Some(folder) = fixtures("glm-tiny-zh") else {
        return;
    };
    let cases = trained_cases(&folder);
    check(&folder, CHINESE, &cases, &[(64, 10_000, 8)]);
}

/// Sum of the log-probabilities of the expected tokens, each after those before it.
fn log_probability(model: &mut Glm, cases: &[Case]) -> f64 {
    let mut sum = 0.0;
    let mut add = |logits: &[f32], id: u32| {
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = logits
            .iter()
            .map(|&logit| f64::from(logit - highest).exp())
            .sum();
        sum += f64::from(logits[id as usize] - highest) - total.ln();
    };
    for case in cases {
        let encoded = case.request.work.encoded().unwrap();
        let prefill = PrefillRow {
            slot: 0,
            ids: &encoded.ids,
            start: CHINESE.sop,
            mask_position: encoded.mask_position,
            capacity: encoded.ids.len() + 1 + case.expected.len(),
        };
        add(model.prefill(&[prefill]).unwrap().row(0), case.expected[0]);
        for (number, pair) in case.expected.windows(2).enumerate() {
            let row = DecodeRow {
                slot: 0,
                id: pair[0],
                mask_position: encoded.mask_position,
                block_position: number as u32 + 2,
            };
            add(model.decode(&[row]).unwrap().row(0), pair[1]);
        }
        model.release(0);
    }
    sum
}

#[test]
fn rounded_weights_keep_the_answers_of_the_trained_model() {
    let Some(folder) = fixtures("glm-tiny-zh") else {
        return;
    };
    let cases = trained_cases(&folder);
    let load = |precision| Glm::load(&folder, &Device::Cpu, precision).unwrap();
    let exact = log_probability(&mut load(Precision::F32), &cases);
    for (precision, tolerance) in [(Precision::Bf16, 0.005), (Precision::Q8, 0.01)] {
        let rounded = log_probability(&mut load(precision), &cases);
        let away = (rounded - exact).abs() / exact.abs();
        let rows = cases.iter().map(|case| case.request.clone()).collect();
        let answers = run_model(load(precision), CHINESE, rows, budget((64, 10_000, 8)));
        let differ: Vec<RowId> = cases
            .iter()
            .filter(|case| answers[&case.request.row].samples[0].token_ids != case.expected)
            .map(|case| case.request.row)
            .collect();
        eprintln!(
            "{}: log-probability {rounded:.3}, in f32 {exact:.3}; other answers: {differ:?}",
            precision.name()
        );
        assert!(away < tolerance, "{precision:?}: {rounded} for {exact}");
        assert!(differ.is_empty(), "{precision:?}: {differ:?}");
    }
}

#[test]
fn draws_and_log_probabilities_are_the_same_bits_in_any_batch() {
    let Some(nano) = fixtures("nano") else { return };
    let folder = nano.join("base");
    let text = fs::read(folder.join("goldens.json")).unwrap();
    let rows: Vec<Request> = cases(&serde_json::from_slice(&text).unwrap())
        .into_iter()
        .map(|mut case| {
            let asked = generation(&mut case.request);
            asked.settings = Arc::new(GenerationSpec {
                do_sample: true,
                temperature: 1.3,
                top_p: 0.95,
                num_return_sequences: 2,
                logprobs: true,
                ..GenerationSpec::clone(&asked.settings)
            });
            case.request
        })
        .collect();
    let alone = run(&folder, NANO, rows.clone(), budget((1, 1, 1)));
    for limits in [(7, 10_000, 8), (64, 10_000, 32), (64, 300, 8)] {
        assert_eq!(
            run(&folder, NANO, rows.clone(), budget(limits)),
            alone,
            "{limits:?}"
        );
    }
}
