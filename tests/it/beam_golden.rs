//! Beam searches of the reference, token for token and score for score: alone, side by side, and through the engine.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use glm_batch::internals::engine::{Engine, Found, Generation, Request, Work};
use glm_batch::internals::generate::{
    BadWords, Beams, Endings, Rules, Scored, Searched, Start, TextCodec,
};
use glm_batch::internals::ids::{RowId, WindowId};
use glm_batch::internals::job::{GenerationSpec, LengthOver};
use glm_batch::internals::model::{
    Backend, DecodeRow, Glm, Logits, Precision, PrefillRow, TextModel,
};
use glm_batch::internals::outcome::Completion;
use glm_batch::internals::plan::{Budget, SlotSizes};
use glm_batch::internals::tokenize::Encoded;
use serde_json::Value;

use crate::nano::{Ids, committed, full, list, lists, shared};

/// Largest difference of a score.
const TOLERANCE: f32 = 1e-4;

/// No tokenizer: texts are not looked at. It has the ids that answers begin and end with.
#[derive(Clone, Copy)]
pub(crate) struct NoText {
    pub(crate) start: u32,
    pub(crate) endings: Endings,
}

impl TextCodec for NoText {
    fn decode(&self, _: &[u32]) -> Result<String, String> {
        Ok(String::new())
    }
    fn encode_plain(&self, _: &str) -> Vec<u32> {
        Vec::new()
    }
    fn sop(&self) -> u32 {
        self.start
    }
    fn eop(&self) -> u32 {
        self.endings.eop
    }
    fn eos(&self) -> u32 {
        self.endings.eos
    }
}

/// Rules that change nothing.
pub(crate) fn plain_rules(endings: Endings) -> Rules {
    Rules {
        endings,
        choices: None,
        repetition_penalty: 1.0,
        no_repeat_ngram_size: 0,
        bad_words: Arc::new(BadWords::default()),
        min_new_tokens: 0,
        warp: None,
        beams: None,
        seed: 0,
        stop: Vec::new(),
        logprobs: false,
    }
}

/// A prompt with the settings of its search.
struct Case {
    prompt: Vec<u32>,
    mask_position: u32,
    settings: GenerationSpec,
    endings: Endings,
    most: u32,
}

impl Case {
    fn new(prompt: Vec<u32>, ids: Ids, endings: Endings, kwargs: &Value, most: &Value) -> Self {
        let whole = |key: &str, default: u64| kwargs[key].as_u64().unwrap_or(default) as u32;
        let number = |key: &str, default: f64| kwargs[key].as_f64().unwrap_or(default);
        let early_stopping = kwargs
            .get("early_stopping")
            .map_or_else(Default::default, |stop| {
                serde_json::from_value(stop.clone()).unwrap()
            });
        Self {
            mask_position: ids.mask_position(&prompt),
            settings: GenerationSpec {
                num_beams: whole("num_beams", 1),
                num_return_sequences: whole("num_return_sequences", 1),
                length_penalty: number("length_penalty", 1.0),
                early_stopping,
                repetition_penalty: number("repetition_penalty", 1.0),
                no_repeat_ngram_size: whole("no_repeat_ngram_size", 0),
                // `min_length` counts the context and the start token.
                min_new_tokens: whole("min_length", 0).saturating_sub(prompt.len() as u32 + 1),
                ..GenerationSpec::default()
            },
            endings,
            most: most.as_u64().unwrap() as u32,
            prompt,
        }
    }

    fn rules(&self) -> Rules {
        Rules::new(&self.settings, Arc::new(BadWords::default()), self.endings)
    }

    fn request(&self, row: usize) -> Request {
        Request {
            row: RowId(row as u64),
            work: Work::Generate(Generation {
                encoded: Encoded {
                    ids: self.prompt.clone(),
                    mask_position: self.mask_position,
                    truncated: 0,
                },
                later_masks: Vec::new(),
                settings: Arc::new(self.settings.clone()),
                choices: None,
                max_new_tokens: self.most,
            }),
        }
    }
}

/// What an engine with so many slots answers, in the order of the rows.
pub(crate) fn through_the_engine(
    model: Glm,
    codec: Arc<dyn TextCodec>,
    rows: Vec<Request>,
    slots: usize,
    slot_sizes: SlotSizes,
) -> Vec<Completion> {
    let budget = Budget {
        max_batch_size: slots,
        max_batch_tokens: 1 << 20,
        bucket_tokens: 8,
        slot_sizes,
    };
    let mut engine = Engine::new(Box::new(model), codec, budget);
    let mut answers: Vec<Option<Completion>> = rows.iter().map(|_| None).collect();
    engine.submit(WindowId(0), rows);
    while !engine.is_idle() {
        for finished in engine.step().unwrap() {
            let Ok(Found::Generated(completion)) = finished.found else {
                panic!("{finished:?}")
            };
            answers[finished.row.0 as usize] = Some(completion);
        }
    }
    answers.into_iter().map(Option::unwrap).collect()
}

/// Searches that run side by side, each with slots of its own.
fn search(model: &mut dyn TextModel, start: u32, cases: &[Case]) -> Vec<Vec<Scored>> {
    let codec = NoText {
        start,
        endings: cases[0].endings,
    };
    let mut beams = Vec::new();
    let mut slots: Vec<Vec<usize>> = Vec::new();
    for case in cases {
        let first = slots.iter().map(Vec::len).sum();
        slots.push((first..first + case.settings.num_beams as usize).collect());
        beams.push(Some(Beams::new(
            case.rules().beams.unwrap(),
            Start {
                history: [case.prompt.as_slice(), &[start]].concat(),
                mask_position: case.mask_position,
                rules: Arc::new(case.rules()),
                max_new_tokens: case.most,
                row: 0,
                sample: 0,
            },
        )));
    }
    let rows: Vec<PrefillRow<'_>> = cases
        .iter()
        .zip(&slots)
        .map(|(case, slots)| PrefillRow {
            slot: slots[0],
            ids: &case.prompt,
            start,
            mask_position: case.mask_position,
            capacity: case.prompt.len() + case.most as usize,
        })
        .collect();
    let mut logits = model.prefill(&rows).unwrap();
    let mut found = vec![Vec::new(); cases.len()];
    loop {
        step(model, &mut beams, &slots, &logits, &codec, &mut found);
        let running = beams.iter().zip(&slots);
        let rows: Vec<DecodeRow> = running
            .filter_map(|(beams, slots)| Some(beams.as_ref()?.decode_rows(slots)))
            .flatten()
            .collect();
        if rows.is_empty() {
            break;
        }
        logits = model.decode(&rows).unwrap();
    }
    slots
        .concat()
        .into_iter()
        .for_each(|slot| model.release(slot));
    found
}

fn step(
    model: &mut dyn TextModel,
    beams: &mut [Option<Beams>],
    slots: &[Vec<usize>],
    logits: &Logits,
    codec: &NoText,
    found: &mut [Vec<Scored>],
) {
    let mut next = 0;
    for (row, running) in beams.iter_mut().enumerate() {
        let Some(search) = running else { continue };
        let rows: Vec<&[f32]> = (next..next + search.running())
            .map(|row| logits.row(row))
            .collect();
        next += rows.len();
        match search.advance(&rows, codec) {
            Searched::Running(forks) => {
                for fork in forks {
                    let (from, to) = (slots[row][fork.from], slots[row][fork.to]);
                    model.fork(from, to).unwrap();
                }
            }
            Searched::Ended { answers, .. } => {
                found[row] = answers;
                *running = None;
            }
            Searched::Failed(reason) => panic!("{reason}"),
        }
    }
}

/// An answer of the reference: its ids up to the ending token, and its score.
type Expected = (Vec<u32>, f32);

/// The answer in a sequence that padding follows.
fn without_padding(answer: &[u32], eop: u32) -> Vec<u32> {
    let end = answer.iter().position(|&id| id == eop);
    answer[..end.map_or(answer.len(), |end| end + 1)].to_vec()
}

/// What differs, in words.
fn differences(name: &str, found: &[Scored], expected: &[Expected]) -> Vec<String> {
    if found.len() != expected.len() {
        return vec![format!("{name}: {} answers", found.len())];
    }
    let pairs = found.iter().zip(expected).enumerate();
    pairs
        .filter_map(|(at, (found, (ids, score)))| {
            let is_same =
                found.sample.token_ids == *ids && (found.score - score).abs() <= TOLERANCE;
            (!is_same).then(|| {
                let (found, value) = (&found.sample.token_ids, found.score);
                format!("{name}, answer {at}: {found:?} {value}, not {ids:?} {score}")
            })
        })
        .collect()
}

fn scores(value: &Value) -> Vec<f32> {
    let scores = value.as_array().unwrap().iter();
    scores.map(|score| score.as_f64().unwrap() as f32).collect()
}

/// The searches of a nano model with what the reference gives, and how many batches they come from.
///
/// In a batch of the reference padding counts as length, so its scores are taken back to the row's own length.
fn nano_cases(goldens: &Value, ids: Ids) -> (Vec<(String, Case, Vec<Expected>)>, usize) {
    let endings = Endings {
        eop: ids.end,
        eos: 500,
    };
    let mut cases = Vec::new();
    let batches = goldens["beam"].as_array().unwrap();
    for (number, golden) in batches.iter().enumerate() {
        let prompts = lists(&golden["prompts"]);
        let sequences = lists(&golden["sequences"]);
        let scores = scores(&golden["sequences_scores"]);
        let width = prompts.iter().map(Vec::len).max().unwrap();
        let each = sequences.len() / prompts.len();
        for (row, prompt) in prompts.into_iter().enumerate() {
            let case = Case::new(
                prompt,
                ids,
                endings,
                &golden["kwargs"],
                &golden["max_gen_length"],
            );
            let answers = (row * each..(row + 1) * each).map(|at| {
                let answer = without_padding(&sequences[at][width + 1..], ids.end);
                let counted = answer.len() + 1 - usize::from(answer.last() == Some(&ids.end));
                let (padded, own) = (width + counted, case.prompt.len() + counted);
                let factor = (padded as f64 / own as f64).powf(case.settings.length_penalty);
                (answer, (f64::from(scores[at]) * factor) as f32)
            });
            let answers = answers.collect();
            cases.push((format!("{number}, row {row}"), case, answers));
        }
    }
    (cases, batches.len())
}

fn check(
    folder: &Path,
    start: u32,
    cases: Vec<(String, Case, Vec<Expected>)>,
    side_by_side: &[usize],
) {
    let mut model = Glm::load(folder, &Device::Cpu, Precision::F32).unwrap();
    let mut names = Vec::new();
    let mut expected = Vec::new();
    let mut searches = Vec::new();
    for (name, case, answers) in cases {
        names.push(name);
        searches.push(case);
        expected.push(answers);
    }
    assert!(!searches.is_empty());
    let mut first: Option<Vec<Vec<Scored>>> = None;
    for &count in side_by_side {
        let found: Vec<Vec<Scored>> = searches
            .chunks(count)
            .flat_map(|cases| search(&mut model, start, cases))
            .collect();
        let different: Vec<String> = (0..found.len())
            .flat_map(|at| differences(&names[at], &found[at], &expected[at]))
            .collect();
        assert!(different.is_empty(), "{}", different.join("\n"));
        // What runs beside a search changes no bit of it.
        assert_eq!(*first.get_or_insert_with(|| found.clone()), found);
    }
    let codec = NoText {
        start,
        endings: searches[0].endings,
    };
    let load = |backend| Glm::load_with(folder, &Device::Cpu, Precision::F32, backend).unwrap();
    let run = |backend, slots, sizes| -> Vec<Vec<Scored>> {
        let rows = searches.iter().enumerate();
        let rows = rows.map(|(row, case)| case.request(row)).collect();
        let found = through_the_engine(load(backend), Arc::new(codec), rows, slots, sizes);
        found.into_iter().map(scored).collect()
    };
    // Bit for bit, whatever is in flight beside a row.
    for slots in [1, 7, 64] {
        assert_eq!(
            Some(run(Backend::Packed, slots, SlotSizes::Exact)),
            first,
            "{slots} slots"
        );
    }
    let padded = run(Backend::Padded, 20, SlotSizes::Stepped);
    let different: Vec<String> = (0..padded.len())
        .flat_map(|at| differences(&names[at], &padded[at], &expected[at]))
        .collect();
    assert!(different.is_empty(), "padded: {}", different.join("\n"));
}

/// The answers of a row as a search gives them.
fn scored(completion: Completion) -> Vec<Scored> {
    let samples = completion.samples.into_iter();
    samples
        .map(|mut sample| Scored {
            score: sample.score.take().unwrap(),
            sample,
        })
        .collect()
}

#[test]
fn searches_of_the_committed_model_are_those_of_the_reference() {
    let nano = committed();
    let (cases, batches) = nano_cases(&nano.writing(), nano.ids());
    assert_eq!(batches, 21);
    check(&nano.folder, nano.ids().start, cases, &[1, 7]);
}

#[test]
fn nano_searches_are_those_of_the_reference() {
    for name in ["scale8", "len64"] {
        let Some(nano) = full(name) else { return };
        let (cases, batches) = nano_cases(&nano.goldens, nano.ids());
        assert_eq!(batches, 21, "{name}");
        check(&nano.folder, nano.ids().start, cases, &[1, 3, 64]);
    }
}

/// Ids of the Chinese models.
const CHINESE: Ids = Ids {
    start: 50006,
    end: 50007,
    masks: [50003, 50008, 50009],
};

#[test]
fn searches_of_the_trained_model_are_those_of_the_reference() {
    let Some(folder) = shared("glm-tiny-zh") else {
        return;
    };
    let endings = Endings {
        eop: 50007,
        eos: 50000,
    };
    let read = |name: &str| -> Value {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let mut cases = Vec::new();
    let batch = read("reference_batch_beam.json");
    for golden in batch["beam"].as_array().unwrap() {
        let sequences = lists(&golden["sequences"]);
        let width = sequences[0]
            .iter()
            .position(|&id| id == CHINESE.start)
            .unwrap();
        let prompt = sequences[0][..width].to_vec();
        let case = Case::new(
            prompt,
            CHINESE,
            endings,
            &golden["kwargs"],
            &batch["max_gen_length"],
        );
        let answers = sequences
            .iter()
            .map(|all| without_padding(&all[width + 1..], CHINESE.end));
        let scores = scores(&golden["sequences_scores"]);
        let answers = answers.zip(scores).collect();
        cases.push((format!("question {}", golden["id"]), case, answers));
    }
    assert_eq!(cases.len(), 30);
    for (name, over, count) in [
        ("full", LengthOver::Sequence, 30),
        ("generated", LengthOver::Generated, 14),
    ] {
        let goldens = read(&format!("tasks/beam_{name}.json"));
        let goldens = goldens["cases"].as_array().unwrap();
        assert_eq!(goldens.len(), count);
        for (number, golden) in goldens.iter().enumerate() {
            let mut prompt = list(&golden["input_ids"]);
            assert_eq!(prompt.pop(), Some(CHINESE.start));
            let most = &golden["max_gen_length"];
            let mut case = Case::new(prompt, CHINESE, endings, &golden["kwargs"], most);
            case.settings.length_penalty_over = over;
            let answers = lists(&golden["answers"]);
            let answers = answers.iter().map(|all| without_padding(all, CHINESE.end));
            let answers = answers.zip(scores(&golden["scores"])).collect();
            cases.push((format!("{name} {number}"), case, answers));
        }
    }
    check(&folder, CHINESE.start, cases, &[1, 8]);
}
