//! Texts with several masks, filled as the reference fills them: one mask after another, alone, side by
//! side and through the engine.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use glm_batch::internals::engine::{Generation, Request, Work};
use glm_batch::internals::generate::{
    Answered, BeamSearch, EarlyStopping, Endings, LengthOver, Rules, Start, TextCodec, Writing,
    Written, mask_positions,
};
use glm_batch::internals::ids::RowId;
use glm_batch::internals::job::GenerationSpec;
use glm_batch::internals::model::{Backend, DecodeRow, Glm, Precision, PrefillRow, TextModel};
use glm_batch::internals::outcome::Sample;
use glm_batch::internals::plan::SlotSizes;
use glm_batch::internals::tokenize::{Encoded, GlmTokenizer};
use serde_json::Value;

use crate::beam_golden::{NoText, plain_rules, through_the_engine};
use crate::nano::{Ids, committed, full, list, lists, shared};

/// A context, and the tokens of each of its answers without the ending token.
struct Case {
    context: Vec<u32>,
    most: usize,
    search: Option<BeamSearch>,
    spans: Vec<Vec<u32>>,
}

/// What the answers of a model begin and end with.
#[derive(Clone)]
struct Numbers {
    start: u32,
    masks: Vec<u32>,
    endings: Endings,
}

impl Numbers {
    fn of(ids: Ids, eos: u32) -> Self {
        let endings = Endings { eop: ids.end, eos };
        Self {
            start: ids.start,
            masks: ids.masks.to_vec(),
            endings,
        }
    }

    fn cases(&self, goldens: &[Value], most: Option<&Value>) -> Vec<Case> {
        let case = |golden: &Value| {
            let context = list(
                ["context", "context_ids", "input_ids"]
                    .iter()
                    .find_map(|key| golden.get(key))
                    .unwrap(),
            );
            let most = most.unwrap_or(&golden["out_seq_length"]).as_u64().unwrap();
            Case {
                spans: self.spans(golden, context.len()),
                search: search(golden),
                most: most as usize,
                context,
            }
        };
        goldens.iter().map(case).collect()
    }

    /// The answers of a golden, which writes them as lists, or one behind the other after the context.
    fn spans(&self, golden: &Value, context: usize) -> Vec<Vec<u32>> {
        if !golden["spans"].is_null() {
            let spans = lists(&golden["spans"]).into_iter();
            return spans.map(|span| span[1..].to_vec()).collect();
        }
        let output = list(&golden["output"]);
        let spans = output[context + 1..].split(|&id| id == self.start);
        spans.map(<[u32]>::to_vec).collect()
    }

    fn writing(&self, case: &Case) -> Writing {
        let masks = mask_positions(&case.context, &self.masks);
        assert_eq!(masks.len(), case.spans.len());
        let rules = Rules {
            beams: case.search,
            ..plain_rules(self.endings)
        };
        let start = Start {
            history: [case.context.as_slice(), &[self.start]].concat(),
            mask_position: masks[0],
            rules: Arc::new(rules),
            max_new_tokens: case.most as u32,
            row: 0,
            sample: 0,
        };
        Writing::new(start, masks[1..].to_vec())
    }

    fn codec(&self) -> NoText {
        NoText {
            start: self.start,
            endings: self.endings,
        }
    }

    fn request(&self, row: usize, case: &Case) -> Request {
        let masks = mask_positions(&case.context, &self.masks);
        let default = GenerationSpec::default();
        let search = case.search;
        let settings = GenerationSpec {
            num_beams: search.map_or(1, |search| search.num_beams as u32),
            length_penalty: search.map_or(1.0, |search| search.length_penalty),
            length_penalty_over: LengthOver::Piece,
            ..default
        };
        Request {
            row: RowId(row as u64),
            work: Work::Generate(Generation {
                encoded: Encoded {
                    ids: case.context.clone(),
                    mask_position: masks[0],
                    truncated: 0,
                },
                later_masks: masks[1..].to_vec(),
                settings: Arc::new(settings),
                choices: None,
                max_new_tokens: case.most as u32,
            }),
        }
    }
}

fn search(golden: &Value) -> Option<BeamSearch> {
    Some(BeamSearch {
        num_beams: golden["num_beams"].as_u64()? as usize,
        num_return_sequences: 1,
        length_penalty: golden["length_penalty"].as_f64()?,
        length_over: LengthOver::Piece,
        early_stopping: EarlyStopping::Likely,
    })
}

/// The answers of cases that run side by side.
fn write(
    model: &mut dyn TextModel,
    numbers: &Numbers,
    codec: &dyn TextCodec,
    cases: &[Case],
) -> Vec<Answered> {
    let mut running: Vec<Option<(Writing, Vec<usize>)>> = Vec::new();
    let mut next = 0;
    for case in cases {
        let writing = numbers.writing(case);
        let slots = (next..next + writing.places()).collect();
        next += writing.places();
        running.push(Some((writing, slots)));
    }
    let contexts: Vec<PrefillRow<'_>> = cases
        .iter()
        .zip(&running)
        .map(|(case, running)| PrefillRow {
            slot: running.as_ref().unwrap().1[0],
            ids: &case.context,
            start: numbers.start,
            mask_position: mask_positions(&case.context, &numbers.masks)[0],
            capacity: case.context.len() + case.spans.len() * case.most,
        })
        .collect();
    let mut answers: Vec<Option<Answered>> = cases.iter().map(|_| None).collect();
    let mut logits = model.prefill(&contexts).unwrap();
    loop {
        let mut first = 0;
        for (row, entry) in running.iter_mut().enumerate() {
            let Some((writing, slots)) = entry else {
                continue;
            };
            let of_row = first..first + writing.running();
            first = of_row.end;
            let of_row: Vec<&[f32]> = of_row.map(|row| logits.row(row)).collect();
            match writing.advance(&of_row, codec) {
                Written::Running(forks) => {
                    for fork in forks {
                        model.fork(slots[fork.from], slots[fork.to]).unwrap();
                    }
                }
                Written::Ended(mut found) => {
                    answers[row] = found.pop();
                    *entry = None;
                }
                Written::Failed(reason) => panic!("{reason}"),
            }
        }
        let entries = running.iter().flatten();
        let rows: Vec<DecodeRow> = entries
            .flat_map(|(writing, slots)| writing.decode_rows(slots))
            .collect();
        if rows.is_empty() {
            break;
        }
        logits = model.decode(&rows).unwrap();
    }
    (0..next).for_each(|slot| model.release(slot));
    answers.into_iter().map(Option::unwrap).collect()
}

fn without_ending(span: &Sample, endings: Endings) -> &[u32] {
    let ids = &span.token_ids;
    let has_ending = ids.last().is_some_and(|&id| endings.contains(id));
    &ids[..ids.len() - usize::from(has_ending)]
}

/// Fills every case alone and eight at a time. Returns the answers.
fn check(
    folder: &Path,
    numbers: &Numbers,
    codec: &Arc<dyn TextCodec>,
    cases: &[Case],
) -> Vec<Answered> {
    assert!(!cases.is_empty());
    let mut model = Glm::load(folder, &Device::Cpu, Precision::F32).unwrap();
    let mut write = |count: usize| -> Vec<Answered> {
        let chunks = cases.chunks(count);
        chunks
            .flat_map(|cases| write(&mut model, numbers, codec.as_ref(), cases))
            .collect()
    };
    let alone = write(1);
    let mut different = Vec::new();
    for (number, (answered, case)) in alone.iter().zip(cases).enumerate() {
        let spans = answered.spans.iter();
        let found: Vec<&[u32]> = spans.map(|s| without_ending(s, numbers.endings)).collect();
        if found != case.spans {
            different.push(format!("case {number}: {found:?}, not {:?}", case.spans));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    assert_eq!(write(8), alone, "what runs beside a text changes no bit");
    let run = |backend, slots, sizes| -> Vec<Vec<Sample>> {
        let model = Glm::load_with(folder, &Device::Cpu, Precision::F32, backend).unwrap();
        let rows = cases.iter().enumerate();
        let rows = rows.map(|(row, case)| numbers.request(row, case)).collect();
        let found = through_the_engine(model, Arc::clone(codec), rows, slots, sizes);
        found
            .into_iter()
            .map(|completion| completion.samples)
            .collect()
    };
    let expected: Vec<Vec<Sample>> = alone.iter().map(samples).collect();
    for slots in [1, 7, 64] {
        assert_eq!(
            run(Backend::Packed, slots, SlotSizes::Exact),
            expected,
            "{slots} slots"
        );
    }
    for (found, case) in run(Backend::Padded, 20, SlotSizes::Stepped)
        .iter()
        .zip(cases)
    {
        let found = found.iter();
        let found: Vec<&[u32]> = found.map(|s| without_ending(s, numbers.endings)).collect();
        assert_eq!(found, case.spans, "padded");
    }
    alone
}

/// The answers of a text as the engine gives them.
fn samples(answered: &Answered) -> Vec<Sample> {
    let spans = answered.spans.iter();
    spans
        .map(|span| Sample {
            score: answered.score,
            ..span.clone()
        })
        .collect()
}

#[test]
fn masks_of_the_committed_model_are_filled_as_by_the_reference() {
    let nano = committed();
    let numbers = Numbers::of(nano.ids(), 500);
    let codec: Arc<dyn TextCodec> = Arc::new(numbers.codec());
    let writing = nano.writing();
    for (kind, count) in [("fill", 8), ("fill_beam", 5)] {
        let cases = numbers.cases(writing[kind].as_array().unwrap(), None);
        assert_eq!(cases.len(), count);
        check(&nano.folder, &numbers, &codec, &cases);
    }
}

#[test]
fn masks_of_the_other_nano_models_are_filled_as_by_the_reference() {
    for name in ["scale8", "len64", "smallemb"] {
        let Some(nano) = full(name) else { return };
        let numbers = Numbers::of(nano.ids(), 500);
        let codec: Arc<dyn TextCodec> = Arc::new(numbers.codec());
        for kind in [
            "thudm_fill_all_masks_top_k_1",
            "thudm_beam_with_topk_candidates",
        ] {
            let goldens = nano.goldens[kind]["cases"].as_array().unwrap();
            let cases = numbers.cases(goldens, None);
            check(&nano.folder, &numbers, &codec, &cases);
        }
    }
}

#[test]
fn masks_of_the_trained_model_are_filled_as_by_the_reference() {
    let Some(folder) = shared("glm-tiny-zh") else {
        return;
    };
    let text = std::fs::read_to_string(folder.join("tasks/infill.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let goldens = golden["cases"].as_array().unwrap();
    assert_eq!(goldens.len(), 30);
    let tokenizer = GlmTokenizer::load(&folder).unwrap();
    let special = tokenizer.special();
    let endings = list(&golden["end_tokens"]);
    assert_eq!(endings, [special.eop, special.eos]);
    let numbers = Numbers {
        start: special.sop,
        masks: vec![50003, 50008, 50009],
        endings: Endings {
            eop: special.eop,
            eos: special.eos,
        },
    };
    let cases = numbers.cases(goldens, Some(&golden["out_seq_length"]));
    let codec: Arc<dyn TextCodec> = Arc::new(tokenizer);
    let answers = check(&folder, &numbers, &codec, &cases);
    for (answered, golden) in answers.iter().zip(goldens) {
        let texts: Vec<&str> = answered
            .spans
            .iter()
            .map(|span| span.text.as_str())
            .collect();
        assert_eq!(serde_json::json!(texts), golden["span_texts"]);
    }
}

#[test]
fn masks_of_the_english_models_are_filled_as_by_the_reference() {
    for name in ["glm-gpt2", "glm-roberta", "glm-bert"] {
        let Some(folder) = shared(&format!("english/{name}")) else {
            return;
        };
        let text = std::fs::read_to_string(folder.join("goldens.json")).unwrap();
        let golden: Value = serde_json::from_str(&text).unwrap();
        let (special, infill) = (&golden["special_ids"], &golden["infill"]);
        let endings = list(&infill["end_tokens"]);
        let numbers = Numbers {
            start: special["sop"].as_u64().unwrap() as u32,
            masks: list(&special["mask_ids"]),
            endings: Endings {
                eop: endings[0],
                eos: endings[1],
            },
        };
        let goldens = infill["cases"].as_array().unwrap();
        let cases = numbers.cases(goldens, Some(&infill["out_seq_length"]));
        let codec: Arc<dyn TextCodec> = Arc::new(numbers.codec());
        check(&folder, &numbers, &codec, &cases);
    }
}

/// The model has the other form of gelu there. No answer of these depends on that.
#[test]
fn masks_of_a_model_of_the_first_authors_are_filled_as_by_their_code() {
    let Some(folder) = shared("thudm") else {
        return;
    };
    let text = std::fs::read_to_string(folder.join("goldens.json")).unwrap();
    let goldens: Value = serde_json::from_str(&text).unwrap();
    let numbers = Numbers::of(committed().ids(), 500);
    let codec: Arc<dyn TextCodec> = Arc::new(numbers.codec());
    let cases = |kind: &str| {
        let golden = &goldens[kind];
        let all = golden["cases"].as_array().unwrap();
        numbers.cases(all, Some(&golden["out_seq_length"]))
    };
    for (kind, count) in [
        ("fill_out12", 28),
        ("fill_out40", 10),
        ("beam_with_topk_candidates", 36),
    ] {
        let cases = cases(kind);
        assert_eq!(cases.len(), count);
        check(&folder.join("hf"), &numbers, &codec, &cases);
    }

    // Their cache forgets all but the last 31 positions, ours none: the answers agree up to there.
    let mut model = Glm::load(&folder.join("hf"), &Device::Cpu, Precision::F32).unwrap();
    let cases = cases("fill_memory_limit_31");
    assert_eq!(cases.len(), 5);
    for (answered, case) in write(&mut model, &numbers, codec.as_ref(), &cases)
        .iter()
        .zip(&cases)
    {
        let spans = answered.spans.iter();
        let found = spans.map(|span| without_ending(span, numbers.endings).to_vec());
        let tokens = |spans: Vec<Vec<u32>>| spans.join(&numbers.start);
        let same = 31 - case.context.len();
        let (found, expected) = (tokens(found.collect()), tokens(case.spans.clone()));
        assert_eq!(found[..same], expected[..same]);
    }
}
