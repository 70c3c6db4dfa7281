//! The scheduler with a model that has no weights: its logits are a hash of what a slot was fed, so a
//! row's answer is known without the scheduler, and every misuse of a slot shows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use glm_batch::internals::engine::{Engine, Finished, Found, Generation, Request, Work};
use glm_batch::internals::generate::{TextCodec, log_probability};
use glm_batch::internals::ids::{RowId, WindowId};
use glm_batch::internals::job::{EarlyStopping, GenerationSpec};
use glm_batch::internals::model::{DecodeRow, Logits, ModelError, PrefillRow, TextModel};
use glm_batch::internals::outcome::{BadRow, Completion, FinishReason, Outcome, RowResult, Stage};
use glm_batch::internals::plan::{Budget, RowLength, SlotSizes, padded, simulate};
use glm_batch::internals::tokenize::Encoded;
use proptest::prelude::*;

const VOCABULARY: usize = 64;
const SOP: u32 = 60;
const EOP: u32 = 61;
const EOS: u32 = 62;
/// An id that makes the model's logits NaN once it is in the context.
const POISON: u32 = 63;

/// Ids are bytes of UTF-8 text, by way of a small table; specials decode to nothing.
pub(crate) struct Bytes;

const TEXT: &str = "天空是蓝的abcdefghijklmnopqrstuvwxyz ";

impl TextCodec for Bytes {
    fn decode(&self, ids: &[u32]) -> Result<String, String> {
        let bytes: Vec<u8> = ids
            .iter()
            .filter_map(|&id| TEXT.as_bytes().get(id as usize))
            .copied()
            .collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
    fn encode_plain(&self, text: &str) -> Vec<u32> {
        let id = |byte| TEXT.bytes().position(|known| known == byte).unwrap() as u32;
        text.bytes().map(id).collect()
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

/// What the model was asked for.
#[derive(Default)]
pub(crate) struct Log {
    /// Context lengths of each prefill call.
    prefills: Vec<Vec<usize>>,
    forks: usize,
    /// Rows of each decode call.
    pub(crate) decodes: Vec<usize>,
    /// Most tokens that slots were promised at once.
    peak_capacity: usize,
}

#[derive(Clone)]
pub(crate) struct Slot {
    fed: Vec<u32>,
    /// Number of the reading of its context, which its forks share.
    reading: usize,
    context: usize,
    capacity: usize,
    mask_position: u32,
    /// Tokens before the start token of the mask that is answered.
    begins: usize,
}

#[derive(Default)]
pub(crate) struct FakeModel {
    pub(crate) slots: HashMap<usize, Slot>,
    pub(crate) log: Arc<Mutex<Log>>,
    pub(crate) readings: usize,
    /// Tokens that slots may be promised in all; more is out of memory.
    pub(crate) memory: Option<usize>,
    /// Rows that a decode call may have; more is out of memory.
    pub(crate) decode_rows: Option<usize>,
    /// The decode call that runs out of memory, counted from 0; no other does for this.
    pub(crate) fails_at: Option<usize>,
    /// Whether a decode call may leave slots out that are in use.
    pub(crate) may_split: bool,
    /// What the ids continue with, in place of the hash.
    pub(crate) script: HashMap<u32, Vec<u32>>,
}

impl FakeModel {
    fn logits(&self, slot: &Slot) -> Vec<f32> {
        if slot.fed.contains(&POISON) {
            return vec![f32::NAN; VOCABULARY];
        }
        let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ u64::from(slot.mask_position);
        for &id in &slot.fed {
            hash = (hash ^ u64::from(id))
                .wrapping_mul(0x0100_0000_01b3)
                .rotate_left(17);
        }
        let mut logits: Vec<f32> = (0..VOCABULARY as u64)
            .map(|id| {
                let bits = (hash ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(hash | 1);
                (bits >> 40) as f32 / (1 << 22) as f32 - 2.0
            })
            .collect();
        logits[POISON as usize] = -9.0;
        if let Some(script) = self.script.get(&slot.fed[0]) {
            let next = script
                .get(slot.fed.len() - slot.context - 1)
                .copied()
                .unwrap_or(EOP);
            logits[next as usize] = 50.0;
        }
        logits
    }

    fn rows(&self, slots: impl Iterator<Item = usize>) -> Logits {
        let values = slots
            .flat_map(|slot| self.logits(&self.slots[&slot]))
            .collect();
        Logits {
            vocab_size: VOCABULARY,
            values,
        }
    }

    /// Contexts once a reading, and what is behind them once a slot.
    fn promised(&self) -> usize {
        let slots = self.slots.values();
        let contexts: HashMap<usize, usize> = slots
            .clone()
            .map(|slot| (slot.reading, slot.context))
            .collect();
        let tails: usize = slots.map(|slot| slot.capacity - slot.context).sum();
        contexts.values().sum::<usize>() + tails
    }

    fn check_memory(&self, more: usize) -> Result<(), ModelError> {
        let promised = self.promised() + more;
        if self.memory.is_some_and(|memory| promised > memory) {
            return Err(ModelError::OutOfMemory);
        }
        let mut log = self.log.lock().unwrap();
        log.peak_capacity = log.peak_capacity.max(promised);
        Ok(())
    }
}

impl TextModel for FakeModel {
    fn vocab_size(&self) -> usize {
        VOCABULARY
    }

    fn prefill(&mut self, rows: &[PrefillRow<'_>]) -> Result<Logits, ModelError> {
        self.check_memory(rows.iter().map(|row| row.capacity).sum())?;
        let lengths = rows.iter().map(|row| row.ids.len()).collect();
        self.log.lock().unwrap().prefills.push(lengths);
        for row in rows {
            let mut fed = row.ids.to_vec();
            fed.push(row.start);
            self.readings += 1;
            let slot = Slot {
                reading: self.readings,
                context: row.ids.len(),
                begins: row.ids.len(),
                fed,
                capacity: row.capacity,
                mask_position: row.mask_position,
            };
            assert!(
                self.slots.insert(row.slot, slot).is_none(),
                "slot {} is taken",
                row.slot
            );
        }
        Ok(self.rows(rows.iter().map(|row| row.slot)))
    }

    fn fork(&mut self, from: usize, to: usize) -> Result<(), ModelError> {
        let copy = self.slots[&from].clone();
        // A beam that ends leaves its slot to one that goes on.
        if let Some(old) = self.slots.remove(&to) {
            assert_eq!(old.reading, copy.reading, "slot {to} is of another row");
        }
        self.check_memory(copy.capacity - copy.context)?;
        self.slots.insert(to, copy);
        self.log.lock().unwrap().forks += 1;
        Ok(())
    }

    fn decode(&mut self, rows: &[DecodeRow]) -> Result<Logits, ModelError> {
        if self.decode_rows.is_some_and(|most| rows.len() > most) {
            return Err(ModelError::OutOfMemory);
        }
        if self.fails_at == Some(self.log.lock().unwrap().decodes.len()) {
            self.fails_at = None;
            return Err(ModelError::OutOfMemory);
        }
        let fed: BTreeSet<usize> = rows.iter().map(|row| row.slot).collect();
        assert_eq!(fed.len(), rows.len(), "a slot is fed once");
        let read: BTreeSet<usize> = fed.iter().map(|slot| self.slots[slot].reading).collect();
        // A beam that has ended keeps its slot for those that go on.
        let is_held = |held: &Slot| read.contains(&held.reading);
        assert!(
            self.may_split || self.slots.values().all(is_held),
            "a slot is forgotten"
        );
        self.log.lock().unwrap().decodes.push(rows.len());
        for row in rows {
            let slot = self.slots.get_mut(&row.slot).unwrap();
            slot.fed.push(row.id);
            assert!(
                slot.fed.len() <= slot.capacity,
                "slot {} is over its capacity",
                row.slot
            );
            if row.id == SOP && row.block_position == 1 {
                slot.begins = slot.fed.len() - 1;
                slot.mask_position = row.mask_position;
            }
            assert_eq!(row.block_position as usize, slot.fed.len() - slot.begins);
            assert_eq!(row.mask_position, slot.mask_position);
        }
        Ok(self.rows(rows.iter().map(|row| row.slot)))
    }

    fn release(&mut self, slot: usize) {
        self.slots.remove(&slot);
    }
}

pub(crate) fn greedy() -> GenerationSpec {
    GenerationSpec {
        logprobs: true,
        ..GenerationSpec::default()
    }
}

pub(crate) fn sampled(samples: u32) -> GenerationSpec {
    GenerationSpec {
        do_sample: true,
        num_return_sequences: samples,
        top_p: 0.9,
        ..greedy()
    }
}

/// A beam search that returns so many answers.
pub(crate) fn searched(beams: u32, answers: u32) -> GenerationSpec {
    GenerationSpec {
        num_beams: beams,
        num_return_sequences: answers,
        ..greedy()
    }
}

/// A row whose context is `length` ids that no other row has.
pub(crate) fn request(
    row: u64,
    length: usize,
    most: u32,
    settings: &Arc<GenerationSpec>,
) -> Request {
    let ids = (0..length as u64)
        .map(|i| ((row * 31 + i * 7 + row / 59 * i) % 59) as u32)
        .collect();
    Request {
        row: RowId(row),
        work: Work::Generate(Generation {
            encoded: Encoded {
                ids,
                mask_position: (length - 1) as u32,
                truncated: 0,
            },
            later_masks: Vec::new(),
            settings: Arc::clone(settings),
            choices: None,
            max_new_tokens: most,
        }),
    }
}

/// What a row is to have generated.
pub(crate) fn generation(request: &mut Request) -> &mut Generation {
    match &mut request.work {
        Work::Generate(generation) => generation,
        Work::Read(_) | Work::ReadEach(_) => panic!("row {} is read", request.row),
    }
}

/// How a row ended that was to be answered.
pub(crate) fn outcome_of(found: Result<Found, BadRow>) -> Outcome {
    match found {
        Ok(Found::Generated(completion)) => Outcome::Ok(RowResult::Generated(completion)),
        Ok(other) => panic!("{other:?}"),
        Err(bad) => Outcome::Failed(bad),
    }
}

pub(crate) const BUDGET: Budget = Budget {
    max_batch_size: 4,
    max_batch_tokens: 10_000,
    bucket_tokens: 8,
    slot_sizes: SlotSizes::Exact,
};

fn engine(model: FakeModel, budget: Budget) -> Engine {
    Engine::new(Box::new(model), Arc::new(Bytes), budget)
}

/// Steps until nothing is left; every row must come back once.
pub(crate) fn finish(engine: &mut Engine) -> BTreeMap<RowId, Outcome> {
    let mut outcomes = BTreeMap::new();
    while !engine.is_idle() {
        for Finished { row, found, .. } in engine.step().unwrap() {
            assert!(
                outcomes.insert(row, outcome_of(found)).is_none(),
                "row {row} came twice"
            );
        }
    }
    assert_eq!((engine.waiting(), engine.running()), (0, 0));
    assert!(
        engine.step().unwrap().is_empty(),
        "an idle engine has nothing to say"
    );
    outcomes
}

fn run(model: FakeModel, budget: Budget, rows: Vec<Request>) -> BTreeMap<RowId, Outcome> {
    let mut engine = engine(model, budget);
    engine.submit(WindowId(0), rows);
    finish(&mut engine)
}

pub(crate) fn alone(row: &Request) -> Outcome {
    let one = Budget {
        max_batch_size: 1,
        max_batch_tokens: 1,
        bucket_tokens: 1,
        slot_sizes: SlotSizes::Exact,
    };
    run(FakeModel::default(), one, vec![row.clone()])
        .remove(&row.row)
        .unwrap()
}

fn completion(outcome: &Outcome) -> &Completion {
    match outcome {
        Outcome::Ok(RowResult::Generated(completion)) => completion,
        Outcome::Ok(other) => panic!("{other:?}"),
        Outcome::Failed(bad) => panic!("{}", bad.reason),
    }
}

pub(crate) fn requests() -> impl Strategy<Value = Vec<Request>> {
    let settings = prop_oneof![
        Just(greedy()),
        Just(sampled(1)),
        Just(sampled(3)),
        Just(GenerationSpec {
            top_k: 5,
            temperature: 0.5,
            ..sampled(2)
        }),
        Just(GenerationSpec {
            repetition_penalty: 1.5,
            min_new_tokens: 4,
            ..greedy()
        }),
        Just(GenerationSpec {
            stop: vec!["a".into(), "蓝".into()],
            ..sampled(1)
        }),
        Just(searched(2, 1)),
        Just(GenerationSpec {
            no_repeat_ngram_size: 1,
            length_penalty: -0.5,
            early_stopping: EarlyStopping::Never,
            ..searched(3, 3)
        }),
    ];
    let row = (
        1..40_usize,
        1..30_u32,
        settings.prop_map(Arc::new),
        prop::collection::vec(0..40_u32, 0..3),
    );
    prop::collection::vec(row, 1..30).prop_map(|rows| {
        let request =
            |(row, (length, most, settings, later_masks)): (usize, (_, _, _, Vec<u32>))| {
                let mut request = request(row as u64, length, most, &settings);
                // Several masks share what a slot may hold.
                let asked = generation(&mut request);
                asked.max_new_tokens = most / (later_masks.len() as u32 + 1) + 1;
                asked.later_masks = later_masks;
                request
            };
        rows.into_iter().enumerate().map(request).collect()
    })
}

/// Rows whose answers are as long as they may be: what runs is what was planned.
#[test]
fn an_engine_reads_and_steps_as_often_as_the_plan_says() {
    let rows: Vec<Request> = (0..200)
        .map(|row| {
            let most = (row * 7 % 60 + 1) as u32;
            let settings = Arc::new(GenerationSpec {
                min_new_tokens: most,
                ..GenerationSpec::default()
            });
            request(row, 5 + row as usize % 40, most, &settings)
        })
        .collect();
    let lengths: Vec<RowLength> = rows.iter().map(|row| row.work.length(0)).collect();
    let calls = |slot_sizes, tokens| {
        let budget = Budget {
            max_batch_size: 32,
            max_batch_tokens: tokens,
            bucket_tokens: 32,
            slot_sizes,
        };
        let planned = simulate(&lengths, &budget);
        let mut engine = engine(FakeModel::default(), budget);
        engine.submit(WindowId(0), rows.clone());
        assert_eq!(finish(&mut engine).len(), rows.len());
        let ran = engine.statistics();
        assert_eq!(
            (ran.prefill_batches, ran.decode_steps, ran.peak_slots),
            (
                planned.prefill_batches,
                planned.decode_steps,
                planned.peak_slots
            ),
        );
        ran.prefill_batches
    };
    for tokens in [100_000, 1500] {
        let (on_a_cpu, on_a_gpu) = (
            calls(SlotSizes::Exact, tokens),
            calls(SlotSizes::Stepped, tokens),
        );
        assert!(on_a_gpu < on_a_cpu, "{on_a_gpu} of {on_a_cpu} calls");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_answer_does_not_depend_on_what_runs_beside_it(
        rows in requests(),
        slots in 1..12_usize,
        tokens in 1..600_u64,
        bucket in 1..20_u32,
        memory in 180..600_usize,
        order in any::<prop::sample::Index>(),
    ) {
        let expected: BTreeMap<_, _> = rows.iter().map(|row| (row.row, alone(row))).collect();
        let budget =
            Budget { max_batch_size: slots, max_batch_tokens: tokens, bucket_tokens: bucket, slot_sizes: SlotSizes::Exact };
        let mut turned = rows;
        let by = order.index(turned.len());
        turned.rotate_left(by);
        let short = FakeModel { memory: Some(memory), ..FakeModel::default() };
        // A GPU starts rows in larger groups.
        let in_groups = Budget { slot_sizes: SlotSizes::Stepped, ..budget };
        prop_assert_eq!(&run(FakeModel::default(), in_groups, turned.clone()), &expected);
        prop_assert_eq!(&run(FakeModel::default(), budget, turned.clone()), &expected);
        prop_assert_eq!(&run(short, budget, turned), &expected);
    }

    #[test]
    fn slots_never_cost_more_than_the_budget(rows in requests(), tokens in 180..600_u64) {
        let budget = Budget { max_batch_tokens: tokens, ..BUDGET };
        let model = FakeModel::default();
        let log = Arc::clone(&model.log);
        let mut engine = engine(model, budget);
        engine.submit(WindowId(0), rows);
        while !engine.is_idle() {
            engine.step().unwrap();
            prop_assert!(engine.running() <= budget.max_batch_size);
        }
        prop_assert!(engine.statistics().peak_tokens <= tokens);
        // A slot holds the true context; what it costs is the padded one.
        prop_assert!(log.lock().unwrap().peak_capacity as u64 <= tokens);
    }
}

/// Steps to the end; no decode may leave a slot of four empty while a row waits.
fn finish_with_full_slots(engine: &mut Engine, log: &Mutex<Log>) -> Vec<Finished> {
    let mut finished = Vec::new();
    while !engine.is_idle() {
        let waiting = engine.waiting();
        let decodes = log.lock().unwrap().decodes.len();
        finished.extend(engine.step().unwrap());
        let log = log.lock().unwrap();
        if waiting > 0 && log.decodes.len() > decodes {
            assert_eq!(
                log.decodes.last(),
                Some(&4),
                "a row waited beside an empty slot"
            );
        }
    }
    finished
}

#[test]
fn a_freed_slot_is_taken_before_the_next_decode() {
    let model = FakeModel::default();
    let log = Arc::clone(&model.log);
    let settings = Arc::new(greedy());
    let rows = (0..20)
        .map(|row| request(row, 9, 3 + row as u32 % 5, &settings))
        .collect();
    let mut engine = engine(model, BUDGET);
    engine.submit(WindowId(0), rows);
    assert_eq!(finish_with_full_slots(&mut engine, &log).len(), 20);
    let statistics = engine.statistics();
    assert_eq!((statistics.rows, statistics.peak_slots), (20, 4));
    assert!(statistics.idle_share() < 0.2, "{statistics:?}");
    assert_eq!(statistics.slot_steps, 4 * statistics.decode_steps);
}

#[test]
fn a_prefill_group_is_of_one_bucket_only_on_a_gpu() {
    let settings = Arc::new(greedy());
    let lengths = [3, 20, 9, 17, 30, 4, 12, 8, 1];
    let rows: Vec<Request> = lengths
        .iter()
        .zip(0..)
        .map(|(&length, row)| request(row, length, 5, &settings))
        .collect();
    let prefills = |slot_sizes| {
        let model = FakeModel::default();
        let log = Arc::clone(&model.log);
        let budget = Budget {
            max_batch_size: 9,
            slot_sizes,
            ..BUDGET
        };
        let mut engine = engine(model, budget);
        engine.submit(WindowId(0), rows.clone());
        finish(&mut engine);
        let prefills = log.lock().unwrap().prefills.clone();
        let statistics = engine.statistics();
        let tokens: usize = lengths.iter().sum();
        let padding: u32 = lengths
            .iter()
            .map(|&length| padded(length as u32, 8) - length as u32)
            .sum();
        assert_eq!(statistics.prompt_tokens, tokens as u64);
        assert_eq!(statistics.padded_tokens, u64::from(padding));
        assert_eq!(statistics.prefill_batches, prefills.len() as u64);
        prefills
    };
    assert_eq!(
        prefills(SlotSizes::Stepped),
        [vec![30], vec![20, 17], vec![12, 9], vec![8, 4, 3, 1]]
    );
    assert_eq!(
        prefills(SlotSizes::Exact),
        [[30, 20, 17, 12, 9, 8, 4, 3, 1]]
    );
}

#[test]
fn samples_share_one_prefill_and_differ() {
    let model = FakeModel::default();
    let log = Arc::clone(&model.log);
    let row = request(7, 12, 20, &Arc::new(sampled(4)));
    let outcomes = run(model, BUDGET, vec![row.clone()]);
    let log = log.lock().unwrap();
    assert_eq!((log.prefills.len(), log.forks), (1, 3));
    let samples = &completion(&outcomes[&RowId(7)]).samples;
    assert_eq!(samples.len(), 4);
    assert!(
        samples
            .windows(2)
            .all(|pair| pair[0].token_ids != pair[1].token_ids)
    );

    let mut single = row;
    generation(&mut single).settings = Arc::new(sampled(1));
    assert_eq!(
        completion(&alone(&single)).samples[0],
        samples[0],
        "n is no part of the draw's key"
    );
}

#[test]
fn each_beam_goes_on_from_the_cache_of_its_own_tokens() {
    for (row, beams) in (0..40).zip([2, 3, 4, 8].into_iter().cycle()) {
        let settings = GenerationSpec {
            no_repeat_ngram_size: 2,
            ..searched(beams, beams)
        };
        let mut asked = request(row, 7, 12, &Arc::new(settings));
        let outcome = alone(&asked);
        let samples = &completion(&outcome).samples;
        assert_eq!(samples.len(), beams as usize);
        let scores: Vec<f32> = samples.iter().map(|sample| sample.score.unwrap()).collect();
        assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
        let Generation { encoded, .. } = generation(&mut asked);
        for sample in samples {
            let mut slot = Slot {
                fed: [encoded.ids.as_slice(), &[SOP]].concat(),
                reading: 0,
                context: 7,
                capacity: 0,
                mask_position: encoded.mask_position,
                begins: 7,
            };
            for (&id, &logprob) in sample.token_ids.iter().zip(&sample.token_logprobs) {
                let logits = FakeModel::default().logits(&slot);
                assert_eq!(log_probability(&logits, id).to_bits(), logprob.to_bits());
                slot.fed.push(id);
            }
        }
    }
}

#[test]
fn beams_share_one_reading_and_what_they_cost_is_counted() {
    let model = FakeModel::default();
    let log = Arc::clone(&model.log);
    let budget = Budget {
        max_batch_size: 8,
        ..BUDGET
    };
    let mut engine = engine(model, budget);
    let rows = [0, 1].map(|row| request(row, 16, 10, &Arc::new(searched(4, 2))));
    engine.submit(WindowId(0), rows.to_vec());
    let outcomes = finish(&mut engine);
    assert!(
        outcomes
            .values()
            .all(|outcome| completion(outcome).samples.len() == 2)
    );
    let statistics = engine.statistics();
    assert_eq!(statistics.peak_slots, 8);
    assert_eq!(statistics.peak_tokens, 2 * (16 + 4 * 10));
    let log = log.lock().unwrap();
    assert_eq!(log.prefills, [[16, 16]]);
    assert!(log.peak_capacity <= 2 * (16 + 4 * 10));
}

#[test]
fn a_row_with_more_beams_than_slots_runs_alone() {
    let rows: Vec<_> = (0..3)
        .map(|row| request(row, 9, 9, &Arc::new(searched(6, 1))))
        .collect();
    let model = FakeModel::default();
    let log = Arc::clone(&model.log);
    let outcomes = run(model, BUDGET, rows);
    assert!(outcomes.values().all(|outcome| outcome.failure().is_none()));
    assert!(log.lock().unwrap().decodes.iter().all(|&rows| rows <= 6));
}

#[test]
fn memory_that_runs_out_for_beams_puts_their_row_back() {
    let rows: Vec<_> = (0..6)
        .map(|row| request(row, 16, 10, &Arc::new(searched(3, 1))))
        .collect();
    let expected: BTreeMap<_, _> = rows.iter().map(|row| (row.row, alone(row))).collect();
    // Room for three rows of one beam, and for one row with all of its beams.
    let model = FakeModel {
        memory: Some(80),
        ..FakeModel::default()
    };
    let mut short = engine(
        model,
        Budget {
            max_batch_size: 9,
            ..BUDGET
        },
    );
    short.submit(WindowId(0), rows.clone());
    assert_eq!(finish(&mut short), expected);
    assert!(short.statistics().oom_retries > 0);

    let model = FakeModel {
        memory: Some(40),
        ..FakeModel::default()
    };
    let outcomes = run(model, BUDGET, rows[..1].to_vec());
    let Outcome::Failed(bad) = &outcomes[&RowId(0)] else {
        panic!("{outcomes:?}")
    };
    assert!(
        bad.reason.contains("46 tokens") && bad.reason.contains("fewer beams"),
        "{}",
        bad.reason
    );
}

#[test]
fn identical_greedy_rows_are_computed_once() {
    let model = FakeModel::default();
    let log = Arc::clone(&model.log);
    let settings = Arc::new(greedy());
    let base = request(0, 12, 20, &settings);
    let row = |row, settings: GenerationSpec, most, truncated| {
        let mut other = base.clone();
        other.row = RowId(row);
        let asked = generation(&mut other);
        asked.settings = Arc::new(settings);
        asked.max_new_tokens = most;
        asked.encoded.truncated = truncated;
        other
    };
    let rows = vec![
        base.clone(),
        row(1, greedy(), 20, 3),
        row(
            2,
            GenerationSpec {
                seed: 1,
                temperature: 2.0,
                ..greedy()
            },
            20,
            0,
        ),
        row(3, greedy(), 19, 0),
        row(
            4,
            GenerationSpec {
                repetition_penalty: 1.1,
                ..greedy()
            },
            20,
            0,
        ),
        row(5, sampled(1), 20, 0),
        row(6, sampled(1), 20, 0),
        row(7, searched(2, 2), 20, 0),
        row(8, searched(2, 1), 20, 0),
        row(9, searched(2, 2), 20, 4),
    ];
    let mut engine = engine(model, BUDGET);
    engine.submit(WindowId(0), rows);
    assert_eq!(engine.waiting(), 10);
    let outcomes = finish(&mut engine);
    assert_eq!(outcomes.len(), 10);
    assert_eq!(
        log.lock()
            .unwrap()
            .prefills
            .iter()
            .map(Vec::len)
            .sum::<usize>(),
        7
    );
    assert_eq!(engine.statistics().shared_rows, 3);
    let [first, second] = [0, 1].map(|row| completion(&outcomes[&RowId(row)]));
    assert_eq!(first.samples, second.samples);
    assert_eq!(
        (first.truncated, second.truncated),
        (0, 3),
        "what is a row's own stays so"
    );
    assert_ne!(
        outcomes[&RowId(5)],
        outcomes[&RowId(6)],
        "the row keys the draw"
    );
}

#[test]
fn a_later_window_fills_slots_that_the_earlier_one_leaves() {
    let settings = Arc::new(greedy());
    let rows = |from: u64| {
        (from..from + 6)
            .map(|row| request(row, 9, 25, &settings))
            .collect::<Vec<_>>()
    };
    let model = FakeModel::default();
    let log = Arc::clone(&model.log);
    let mut engine = engine(model, BUDGET);
    assert!(engine.wants_more());
    engine.submit(WindowId(0), rows(0));
    assert!(!engine.wants_more());
    engine.step().unwrap();
    assert_eq!((engine.running(), engine.waiting()), (4, 2));
    assert!(engine.wants_more(), "two rows wait for four slots");
    engine.submit(WindowId(1), rows(100));
    let finished = finish_with_full_slots(&mut engine, &log);
    let of = |window| {
        finished
            .iter()
            .filter(|finished| finished.window == window)
            .count()
    };
    assert_eq!((of(WindowId(0)), of(WindowId(1))), (6, 6));
}

#[test]
fn what_waits_can_be_dropped() {
    let settings = Arc::new(sampled(1));
    let mut rows: Vec<_> = (0..6).map(|row| request(row, 9, 25, &settings)).collect();
    rows.push(request(6, 9, 20, &Arc::new(sampled(9))));
    let mut engine = engine(FakeModel::default(), BUDGET);
    engine.submit(WindowId(0), rows);
    engine.step().unwrap();
    assert_eq!(engine.drop_waiting(), 3);
    let outcomes = finish(&mut engine);
    assert_eq!(outcomes.len(), 4);

    engine.submit(WindowId(1), vec![request(6, 9, 20, &Arc::new(sampled(9)))]);
    engine.step().unwrap();
    assert_eq!(
        engine.drop_waiting(),
        1,
        "a row with samples left to start goes whole"
    );
    assert!(engine.is_idle() && engine.running() == 0);
}

#[test]
fn running_out_of_memory_halves_the_budget_for_good() {
    let settings = Arc::new(greedy());
    let rows: Vec<_> = (0..20).map(|row| request(row, 16, 15, &settings)).collect();
    let expected: BTreeMap<_, _> = rows.iter().map(|row| (row.row, alone(row))).collect();
    let model = FakeModel {
        memory: Some(100),
        ..FakeModel::default()
    };
    let budget = Budget {
        max_batch_size: 16,
        ..BUDGET
    };
    let mut engine = engine(model, budget);
    engine.submit(WindowId(0), rows);
    assert_eq!(finish(&mut engine), expected);
    // 16 rows of 31 tokens are tried, then 8, 4, and 2: 3 would fit.
    let statistics = engine.statistics();
    assert_eq!((statistics.oom_retries, statistics.token_limit), (3, 62));
    assert_eq!(engine.budget().max_batch_tokens, 62);
    assert_eq!(statistics.peak_slots, 2);
}

#[test]
fn memory_that_runs_out_while_decoding_puts_rows_back() {
    let settings = Arc::new(sampled(2));
    let rows: Vec<_> = (0..9).map(|row| request(row, 16, 30, &settings)).collect();
    let expected: BTreeMap<_, _> = rows.iter().map(|row| (row.row, alone(row))).collect();
    let model = FakeModel {
        decode_rows: Some(3),
        ..FakeModel::default()
    };
    let mut engine = engine(
        model,
        Budget {
            max_batch_size: 8,
            ..BUDGET
        },
    );
    engine.submit(WindowId(0), rows);
    assert_eq!(finish(&mut engine), expected);
    assert!(engine.statistics().oom_retries >= 1);
}

#[test]
fn a_row_that_does_not_fit_alone_fails_and_the_others_go_on() {
    let settings = Arc::new(greedy());
    let rows = vec![request(0, 16, 15, &settings), request(1, 90, 15, &settings)];
    let model = FakeModel {
        memory: Some(100),
        ..FakeModel::default()
    };
    let mut engine = engine(model, BUDGET);
    engine.submit(WindowId(0), rows);
    let outcomes = finish(&mut engine);
    completion(&outcomes[&RowId(0)]);
    let Outcome::Failed(bad) = &outcomes[&RowId(1)] else {
        panic!("{outcomes:?}")
    };
    assert_eq!(bad.stage, Stage::Generate);
    assert!(
        bad.reason.contains("out of memory") && bad.reason.contains("105 tokens"),
        "{}",
        bad.reason
    );
    assert_eq!(engine.statistics().failed_rows, 1);
}

#[test]
fn a_row_that_runs_out_of_memory_alone_is_read_once_more() {
    let model = FakeModel {
        decode_rows: Some(0),
        ..FakeModel::default()
    };
    let log = Arc::clone(&model.log);
    let rows = vec![request(0, 16, 15, &Arc::new(greedy()))];
    let outcomes = run(model, BUDGET, rows);
    let Outcome::Failed(bad) = &outcomes[&RowId(0)] else {
        panic!("{outcomes:?}")
    };
    assert!(bad.reason.contains("out of memory"), "{}", bad.reason);
    assert_eq!(log.lock().unwrap().prefills, [[16], [16]]);
}

#[test]
fn a_row_over_the_budget_runs_alone() {
    let settings = Arc::new(greedy());
    let rows = vec![request(0, 16, 15, &settings), request(1, 90, 15, &settings)];
    let model = FakeModel::default();
    let log = Arc::clone(&model.log);
    let outcomes = run(
        model,
        Budget {
            max_batch_tokens: 40,
            ..BUDGET
        },
        rows,
    );
    assert!(
        outcomes
            .values()
            .all(|outcome| matches!(outcome, Outcome::Ok(_)))
    );
    assert!(log.lock().unwrap().decodes.iter().all(|&rows| rows == 1));
}

#[test]
fn broken_logits_fail_the_row_and_no_other() {
    let settings = Arc::new(sampled(3));
    let mut rows: Vec<_> = (0..3).map(|row| request(row, 9, 9, &settings)).collect();
    generation(&mut rows[1]).encoded.ids[4] = POISON;
    let outcomes = run(
        FakeModel::default(),
        Budget {
            max_batch_size: 9,
            ..BUDGET
        },
        rows,
    );
    let Outcome::Failed(bad) = &outcomes[&RowId(1)] else {
        panic!("{outcomes:?}")
    };
    assert!(bad.reason.contains("NaN"), "{}", bad.reason);
    completion(&outcomes[&RowId(0)]);
    completion(&outcomes[&RowId(2)]);
}

#[test]
fn stop_strings_span_tokens_and_keep_characters_whole() {
    let script = Bytes.encode_plain("天空是蓝的abc");
    let run_with = |stop: &[&str], most| {
        let model = FakeModel {
            script: HashMap::from([(5, script.clone())]),
            ..FakeModel::default()
        };
        let stop = stop.iter().map(ToString::to_string).collect();
        let mut row = request(0, 9, most, &Arc::new(GenerationSpec { stop, ..greedy() }));
        generation(&mut row).encoded.ids[0] = 5;
        let outcomes = run(model, BUDGET, vec![row]);
        completion(&outcomes[&RowId(0)]).samples[0].clone()
    };
    let whole = run_with(&[], 40);
    assert_eq!(
        (whole.text.as_str(), whole.finish_reason),
        ("天空是蓝的abc", FinishReason::Stop)
    );
    assert_eq!(whole.token_ids.last(), Some(&EOP));
    assert_eq!(whole.token_logprobs.len(), whole.token_ids.len());

    // A character is three tokens here, and the stop string begins in the middle of nothing.
    let cut = run_with(&["的a", "是蓝的"], 40);
    assert_eq!(
        (cut.text.as_str(), cut.finish_reason),
        ("天空", FinishReason::StopString)
    );
    assert_eq!(
        cut.token_ids.len(),
        15,
        "up to the last byte of the stop string"
    );

    let short = run_with(&["xyz"], 9);
    assert_eq!(
        (short.text.as_str(), short.finish_reason),
        ("天空是", FinishReason::Length)
    );
}
