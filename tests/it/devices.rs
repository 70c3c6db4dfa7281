//! Several engines over one queue: no row lost, none doubled, answers as from one engine.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use glm_batch::internals::engine::{Devices, EngineError, LoadModel, Request};
use glm_batch::internals::ids::{RowId, WindowId};
use glm_batch::internals::job::GenerationSpec;
use glm_batch::internals::model::{DecodeRow, Logits, ModelError, PrefillRow, Scores, TextModel};
use glm_batch::internals::outcome::Outcome;
use glm_batch::internals::plan::Budget;
use glm_batch::{Engine, StopFlag};

use crate::engine::{BUDGET, Bytes, FakeModel, Log, alone, greedy, outcome_of, request, sampled};

const WAIT: Duration = Duration::from_millis(20);

fn device(model: FakeModel, budget: Budget) -> LoadModel {
    Box::new(move || Ok((Box::new(model) as Box<dyn TextModel>, budget)))
}

fn start(models: Vec<LoadModel>) -> Result<Devices, ModelError> {
    Devices::start(Arc::new(Bytes), models, &StopFlag::default()).map(Option::unwrap)
}

fn finish(devices: &mut Devices) -> BTreeMap<RowId, Outcome> {
    let mut outcomes = BTreeMap::new();
    while !devices.is_idle() {
        for finished in devices.finished(WAIT).unwrap() {
            let before = outcomes.insert(finished.row, outcome_of(finished.found));
            assert!(before.is_none(), "row {} came twice", finished.row);
        }
    }
    assert_eq!(devices.running(), 0);
    outcomes
}

fn rows(count: u64) -> Vec<Request> {
    let settings = [greedy(), sampled(1), sampled(3)].map(Arc::new);
    let row = |row: u64| {
        let length = 1 + (row * 7 % 40) as usize;
        request(
            row,
            length,
            1 + row as u32 % 12,
            &settings[row as usize % 3],
        )
    };
    (0..count).map(row).collect()
}

/// Decodes at a pace that lets every engine have its share, and notes each step.
struct Slow {
    model: FakeModel,
    steps: Arc<Mutex<usize>>,
}

impl TextModel for Slow {
    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }
    fn prefill(&mut self, rows: &[PrefillRow<'_>]) -> Result<Logits, ModelError> {
        self.model.prefill(rows)
    }
    fn fork(&mut self, from: usize, to: usize) -> Result<(), ModelError> {
        self.model.fork(from, to)
    }
    fn decode(&mut self, rows: &[DecodeRow]) -> Result<Logits, ModelError> {
        *self.steps.lock().unwrap() += 1;
        std::thread::sleep(Duration::from_millis(1));
        self.model.decode(rows)
    }
    fn release(&mut self, slot: usize) {
        self.model.release(slot);
    }
}

#[test]
fn engines_share_the_rows_and_answers_are_those_of_one() {
    let steps: Vec<Arc<Mutex<usize>>> = (0..3).map(|_| Arc::default()).collect();
    let models = steps.iter().map(|steps| -> LoadModel {
        let steps = Arc::clone(steps);
        Box::new(move || {
            let model = FakeModel::default();
            Ok((Box::new(Slow { model, steps }), BUDGET))
        })
    });
    let mut devices = start(models.collect()).unwrap();
    assert_eq!(devices.budget().max_batch_size, 3 * BUDGET.max_batch_size);
    let rows = rows(120);
    for (window, rows) in rows.chunks(40).enumerate() {
        devices.submit(WindowId(window as u32), rows.to_vec());
    }
    let outcomes = finish(&mut devices);
    assert_eq!(outcomes.len(), rows.len());
    for row in &rows {
        assert_eq!(outcomes[&row.row], alone(row), "row {}", row.row);
    }
    for steps in &steps {
        assert!(*steps.lock().unwrap() > 0, "an engine had nothing to do");
    }
    let statistics = devices.statistics();
    assert_eq!(statistics.rows, 120);
    let decoded: usize = steps.iter().map(|steps| *steps.lock().unwrap()).sum();
    assert_eq!(statistics.decode_steps as usize, decoded);
}

#[test]
fn an_engine_that_is_short_of_memory_loses_no_row() {
    let small = FakeModel {
        memory: Some(90),
        ..FakeModel::default()
    };
    let models = vec![device(small, BUDGET), device(FakeModel::default(), BUDGET)];
    let mut devices = start(models).unwrap();
    let rows = rows(60);
    devices.submit(WindowId(0), rows.clone());
    let outcomes = finish(&mut devices);
    for row in &rows {
        assert_eq!(outcomes[&row.row], alone(row), "row {}", row.row);
    }
}

#[test]
fn what_has_not_started_can_be_dropped() {
    let log = Arc::new(Mutex::new(Log::default()));
    let model = FakeModel {
        log: Arc::clone(&log),
        ..FakeModel::default()
    };
    let mut devices = start(vec![device(model, BUDGET)]).unwrap();
    let settings = Arc::new(sampled(9));
    let rows: Vec<_> = (0..400).map(|row| request(row, 9, 20, &settings)).collect();
    devices.submit(WindowId(0), rows);
    while log.lock().unwrap().decodes.is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
    devices.drain();
    let outcomes = finish(&mut devices);
    assert!(outcomes.len() < 400, "nothing was dropped");
}

#[test]
fn a_model_that_cannot_be_loaded_ends_the_start() {
    let broken: LoadModel = Box::new(|| Err(ModelError::Unsupported("no such model".to_owned())));
    let models = vec![device(FakeModel::default(), BUDGET), broken];
    let error = start(models).err().unwrap();
    assert_eq!(error.to_string(), "no such model");
}

#[test]
fn a_load_that_is_interrupted_is_not_waited_for() {
    let (finish, wait) = channel::<()>();
    let endless: LoadModel = Box::new(move || {
        // Until the sender is gone, at the end of the test.
        _ = wait.recv();
        Err(ModelError::OutOfMemory)
    });
    let stop = StopFlag::default();
    stop.request();
    let devices = Devices::start(Arc::new(Bytes), vec![endless], &stop).unwrap();
    assert!(devices.is_none());
    drop(finish);
}

#[test]
fn devices_that_are_abandoned_are_not_waited_for() {
    let (finish, wait) = channel::<()>();
    let (tell, started) = channel();
    let load: LoadModel = Box::new(move || Ok((Box::new(Stuck { wait, tell }), BUDGET)));
    let mut devices = start(vec![load]).unwrap();
    devices.submit(WindowId(0), rows(3));
    started.recv().unwrap();
    devices.abandon();
    drop(devices);
    drop(finish);
}

/// Reads until its channel is closed.
struct Stuck {
    wait: Receiver<()>,
    tell: Sender<()>,
}

impl TextModel for Stuck {
    fn vocab_size(&self) -> usize {
        1
    }
    fn prefill(&mut self, _: &[PrefillRow<'_>]) -> Result<Logits, ModelError> {
        self.tell.send(()).unwrap();
        _ = self.wait.recv();
        Err(ModelError::Unsupported("ended".to_owned()))
    }
    fn fork(&mut self, _: usize, _: usize) -> Result<(), ModelError> {
        Ok(())
    }
    fn decode(&mut self, _: &[DecodeRow]) -> Result<Logits, ModelError> {
        Err(ModelError::Unsupported("ended".to_owned()))
    }
    fn release(&mut self, _: usize) {}
}

struct Broken(fn() -> Result<Logits, ModelError>);

impl TextModel for Broken {
    fn vocab_size(&self) -> usize {
        1
    }
    fn prefill(&mut self, _: &[PrefillRow<'_>]) -> Result<Logits, ModelError> {
        (self.0)()
    }
    fn fork(&mut self, _: usize, _: usize) -> Result<(), ModelError> {
        Ok(())
    }
    fn decode(&mut self, _: &[DecodeRow]) -> Result<Logits, ModelError> {
        (self.0)()
    }
    fn release(&mut self, _: usize) {}
}

fn with_broken(call: fn() -> Result<Logits, ModelError>) -> Result<(), EngineError> {
    let broken: LoadModel = Box::new(move || Ok((Box::new(Broken(call)), BUDGET)));
    let models = vec![device(FakeModel::default(), BUDGET), broken];
    let mut devices = start(models).unwrap();
    devices.submit(WindowId(0), rows(200));
    while !devices.is_idle() {
        devices.finished(WAIT)?;
    }
    Ok(())
}

#[test]
fn a_model_that_fails_ends_the_run_and_hangs_nothing() {
    let error = with_broken(|| Err(ModelError::Unsupported("gone".to_owned()))).unwrap_err();
    let EngineError::Model { source, .. } = error else {
        panic!("another error");
    };
    assert_eq!(source.to_string(), "gone");
}

#[test]
#[should_panic(expected = "the model broke")]
fn a_panic_is_passed_on() {
    with_broken(|| panic!("the model broke")).unwrap();
}

/// Says which token is the likeliest instead of giving logits.
struct Chooser(FakeModel);

fn likeliest(logits: &Logits) -> Scores {
    let first = |row: &[f32]| {
        let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter().position(|&logit| logit == top).unwrap() as u32
    };
    let rows = 0..logits.values.len() / logits.vocab_size;
    Scores::Likeliest(rows.map(|row| first(logits.row(row))).collect())
}

impl TextModel for Chooser {
    fn vocab_size(&self) -> usize {
        self.0.vocab_size()
    }
    fn prefill(&mut self, _: &[PrefillRow<'_>]) -> Result<Logits, ModelError> {
        panic!("the logits of greedy rows are not needed");
    }
    fn prefill_likeliest(&mut self, rows: &[PrefillRow<'_>]) -> Result<Scores, ModelError> {
        self.0.prefill(rows).map(|logits| likeliest(&logits))
    }
    fn fork(&mut self, from: usize, to: usize) -> Result<(), ModelError> {
        self.0.fork(from, to)
    }
    fn decode(&mut self, _: &[DecodeRow]) -> Result<Logits, ModelError> {
        panic!("the logits of greedy rows are not needed");
    }
    fn decode_likeliest(&mut self, rows: &[DecodeRow]) -> Result<Scores, ModelError> {
        self.0.decode(rows).map(|logits| likeliest(&logits))
    }
    fn release(&mut self, slot: usize) {
        self.0.release(slot);
    }
}

#[test]
fn plain_greedy_rows_need_no_logits() {
    let load: LoadModel = Box::new(|| Ok((Box::new(Chooser(FakeModel::default())), BUDGET)));
    let mut devices = start(vec![load]).unwrap();
    let plain = Arc::new(GenerationSpec {
        logprobs: false,
        ..greedy()
    });
    let rows: Vec<_> = (0..30).map(|row| request(row, 9, 12, &plain)).collect();
    devices.submit(WindowId(0), rows.clone());
    let outcomes = finish(&mut devices);
    for row in &rows {
        assert_eq!(outcomes[&row.row], alone(row));
    }
}

/// Has something to say after its first step.
struct Noting {
    model: FakeModel,
    note: Option<String>,
    has_stepped: bool,
}

impl Noting {
    fn new() -> Self {
        Self {
            model: FakeModel::default(),
            note: Some("warning: a kernel is wrong".to_owned()),
            has_stepped: false,
        }
    }
}

impl TextModel for Noting {
    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }
    fn prefill(&mut self, rows: &[PrefillRow<'_>]) -> Result<Logits, ModelError> {
        self.model.prefill(rows)
    }
    fn fork(&mut self, from: usize, to: usize) -> Result<(), ModelError> {
        self.model.fork(from, to)
    }
    fn decode(&mut self, rows: &[DecodeRow]) -> Result<Logits, ModelError> {
        self.has_stepped = true;
        self.model.decode(rows)
    }
    fn release(&mut self, slot: usize) {
        self.model.release(slot);
    }
    fn take_note(&mut self) -> Option<String> {
        self.note.take_if(|_| self.has_stepped)
    }
}

#[test]
fn what_a_model_has_to_say_is_told_once_and_before_its_last_row() {
    let load: LoadModel = Box::new(|| Ok((Box::new(Noting::new()), BUDGET)));
    let mut devices = start(vec![load]).unwrap();
    assert!(devices.notes().is_empty());
    devices.submit(WindowId(0), rows(20));
    finish(&mut devices);
    assert_eq!(devices.notes(), ["warning: a kernel is wrong"]);
    assert!(devices.notes().is_empty());
}

#[test]
fn an_engine_tells_once_what_its_model_has_to_say() {
    let mut engine = Engine::new(Box::new(Noting::new()), Arc::new(Bytes), BUDGET);
    assert_eq!(engine.take_note(), None);
    engine.submit(WindowId(0), rows(20));
    let mut notes = Vec::new();
    while !engine.is_idle() {
        engine.step().unwrap();
        notes.extend(engine.take_note());
    }
    assert_eq!(notes, ["warning: a kernel is wrong"]);
}
