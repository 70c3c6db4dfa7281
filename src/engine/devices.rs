//! Engines that share the rows of a run: one for each device, each on a thread of its own.
//!
//! A model is loaded, used and dropped on its engine's thread, because a device's work has an order only
//! within a thread. Invariant: a submitted row is returned once, whichever engine takes it, or counted by
//! [`Devices::drain`].

use std::any::Any;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::generate::TextCodec;
use crate::ids::WindowId;
use crate::model::{ModelError, TextModel};
use crate::plan::{Budget, SlotSizes};
use crate::stop::StopFlag;

use super::error::EngineError;
use super::queue::{Phase, Queue};
use super::request::{Finished, Request};
use super::scheduler::Engine;
use super::statistics::EngineStatistics;
use super::tuning::Tuning;

/// How long a model that is being loaded is waited for before its thread is looked at.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// Loads a model and says what it may have in flight; called on the thread that will use it.
pub type LoadModel = Box<dyn FnOnce() -> Result<(Box<dyn TextModel>, Budget), ModelError> + Send>;

/// Devices with one queue of rows, an engine on each.
pub struct Devices {
    queue: Arc<Queue>,
    members: Vec<Member>,
    reports: Receiver<Report>,
    /// Rows that were submitted and neither returned nor dropped.
    rows: usize,
    shared_rows: u64,
    /// What the models had to say since [`Devices::notes`] was called.
    notes: Vec<String>,
    /// Why an engine is gone; told once what the others had finished is returned.
    failure: Option<Failure>,
}

/// Why an engine is gone.
enum Failure {
    Model(EngineError),
    Panic(Box<dyn Any + Send>),
}

/// One engine, seen from outside.
struct Member {
    view: Arc<Mutex<View>>,
    thread: Option<JoinHandle<()>>,
}

/// The state of an engine after its last step.
#[derive(Clone)]
struct View {
    budget: Budget,
    running: usize,
    statistics: EngineStatistics,
}

/// What an engine tells.
enum Report {
    Loaded(Result<(), ModelError>),
    Finished(Vec<Finished>),
    Dropped(usize),
    Note(String),
    Failed(EngineError),
}

impl Devices {
    /// Starts an engine for each model and waits until all are loaded; `None` where waiting was interrupted.
    ///
    /// # Errors
    ///
    /// The first model that cannot be loaded.
    pub fn start(
        codec: Arc<dyn TextCodec>,
        models: Vec<LoadModel>,
        stop: &StopFlag,
    ) -> Result<Option<Self>, ModelError> {
        let untuned = models.into_iter().map(|load| (load, None)).collect();
        Self::start_tuned(codec, untuned, stop)
    }

    /// As [`Self::start`]; where a model has a search for the rows that are enough, these count instead of its budget's.
    ///
    /// # Errors
    ///
    /// The first model that cannot be loaded.
    pub(crate) fn start_tuned(
        codec: Arc<dyn TextCodec>,
        models: Vec<(LoadModel, Option<Tuning>)>,
        stop: &StopFlag,
    ) -> Result<Option<Self>, ModelError> {
        let queue = Arc::new(Queue::new(codec));
        let (sender, reports) = unbounded();
        let members: Vec<Member> = models
            .into_iter()
            .map(|(load, tuning)| Member::start(load, tuning, Arc::clone(&queue), sender.clone()))
            .collect();
        let mut devices = Self {
            queue,
            members,
            reports,
            rows: 0,
            shared_rows: 0,
            notes: Vec::new(),
            failure: None,
        };
        let mut loading = devices.members.len();
        while loading > 0 {
            match devices.reports.recv_timeout(LONGEST_WAIT) {
                Ok(Report::Loaded(loaded)) => {
                    loaded?;
                    loading -= 1;
                }
                Ok(_) => {}
                Err(_) if stop.is_requested() => {
                    devices.abandon();
                    return Ok(None);
                }
                Err(_) => {
                    devices.notice_panics();
                    if let Some(Failure::Panic(panic)) = devices.failure.take() {
                        resume_unwind(panic);
                    }
                }
            }
        }
        Ok(Some(devices))
    }

    /// Queues a window's rows behind what waits, as [`Engine::submit`] does.
    pub fn submit(&mut self, window: WindowId, requests: Vec<Request>) {
        self.rows += requests.len();
        let bucket_tokens = self.budget().bucket_tokens;
        let shared = self.queue.submit(window, requests, bucket_tokens);
        self.shared_rows += shared as u64;
    }

    /// Rows that have ended since the last call; waits for some no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`EngineError::Model`] where an engine had to stop, once the rows that had ended before are
    /// returned. The devices take no more rows then.
    ///
    /// # Panics
    ///
    /// As an engine did that panicked.
    pub fn finished(&mut self, timeout: Duration) -> Result<Vec<Finished>, EngineError> {
        let mut finished = Vec::new();
        let mut next = self.reports.recv_timeout(timeout).ok();
        while let Some(report) = next {
            match report {
                Report::Finished(rows) => {
                    self.rows -= rows.len();
                    finished.extend(rows);
                }
                Report::Dropped(rows) => self.rows -= rows,
                Report::Note(note) => self.notes.push(note),
                Report::Failed(error) => self.fail(Failure::Model(error)),
                Report::Loaded(_) => {}
            }
            next = self.reports.try_recv().ok();
        }
        self.notice_panics();
        if finished.is_empty() {
            match self.failure.take() {
                Some(Failure::Model(error)) => return Err(error),
                Some(Failure::Panic(panic)) => resume_unwind(panic),
                None => {}
            }
        }
        Ok(finished)
    }

    /// What the models had to say to the user since the last call, a line each.
    pub fn notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Whether no row is left.
    pub fn is_idle(&self) -> bool {
        self.rows == 0
    }

    /// Whether the rows that wait could not fill every slot; see [`Engine::wants_more`].
    pub fn wants_more(&self) -> bool {
        self.queue.wants_more(&self.budget(), std::iter::empty())
    }

    /// Work that waits; rows that share their answers count as one.
    pub fn waiting(&self) -> usize {
        self.queue.entries()
    }

    /// Forgets the rows that have not started; what runs goes on. Nothing may be submitted afterwards.
    pub fn drain(&mut self) {
        self.rows -= self.queue.clear();
        self.queue.turn(Phase::Draining);
    }

    /// Leaves the engines alone: their present step is lost, and dropping them does not wait for it. This is for a process
    /// that is about to end, because a long prefill would make it miss its deadline.
    pub fn abandon(&mut self) {
        self.queue.turn(Phase::Closed);
        for member in &mut self.members {
            member.thread = None;
        }
    }

    /// Slots in use.
    pub fn running(&self) -> usize {
        self.members
            .iter()
            .map(|member| member.view().running)
            .sum()
    }

    /// The budgets of all engines together, as they are now.
    pub fn budget(&self) -> Budget {
        let budgets = self.members.iter().map(|member| member.view().budget);
        let together = |a: Budget, b: Budget| Budget {
            max_batch_size: a.max_batch_size + b.max_batch_size,
            max_batch_tokens: a.max_batch_tokens.saturating_add(b.max_batch_tokens),
            ..a
        };
        budgets.reduce(together).unwrap_or(NOTHING)
    }

    /// Whether rows have started.
    pub fn has_begun(&self) -> bool {
        self.members
            .iter()
            .any(|member| member.view().statistics.prefill_batches > 0)
    }

    /// Seconds that a token of every running answer takes, reading the prompts of others meanwhile included: that
    /// of the slowest engine, and zero before the first.
    pub fn seconds_per_step(&self) -> f64 {
        let seconds = self.members.iter().map(|member| {
            let counted = member.view().statistics;
            if counted.decode_steps == 0 {
                // Nothing has been generated yet, or nothing is to be: a group of texts is a step.
                return counted.prefill_seconds / counted.prefill_batches.max(1) as f64;
            }
            let all = counted.prefill_seconds + counted.decode_seconds + counted.sampling_seconds;
            all / counted.decode_steps as f64
        });
        seconds.fold(0.0, f64::max)
    }

    /// Counts of all engines since the start; times are those of an engine on average.
    pub fn statistics(&self) -> EngineStatistics {
        let views: Vec<View> = self.members.iter().map(Member::view).collect();
        let mut all = EngineStatistics::together(views.iter().map(|view| &view.statistics));
        all.shared_rows += self.shared_rows;
        all
    }

    /// Finds out whether an engine is gone: its rows would be waited for without end.
    fn notice_panics(&mut self) {
        let mut ended = self.members.iter_mut().filter_map(|member| {
            let thread = member.thread.take_if(|thread| thread.is_finished())?;
            thread.join().err()
        });
        if let Some(panic) = ended.next() {
            self.fail(Failure::Panic(panic));
        }
    }

    /// Stops the engines that are left; the first failure is the one that is told.
    fn fail(&mut self, failure: Failure) {
        self.queue.turn(Phase::Closed);
        self.failure.get_or_insert(failure);
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        self.queue.turn(Phase::Closed);
        for member in &mut self.members {
            if let Some(thread) = member.thread.take() {
                // A panic was told by the thread itself, and this may be the unwinding from it.
                drop(thread.join());
            }
        }
    }
}

impl Member {
    fn start(
        load: LoadModel,
        tuning: Option<Tuning>,
        queue: Arc<Queue>,
        reports: Sender<Report>,
    ) -> Self {
        let view = Arc::new(Mutex::new(View {
            budget: NOTHING,
            running: 0,
            statistics: EngineStatistics::default(),
        }));
        let seen = Arc::clone(&view);
        let thread = std::thread::spawn(move || {
            let loaded = load().map(|(model, budget)| Engine::of_queue(model, queue, budget));
            let engine = match (loaded, tuning) {
                (Ok(engine), Some(tuning)) => engine.tuned_by(tuning),
                (Ok(engine), None) => engine,
                (Err(error), _) => return tell(&reports, Report::Loaded(Err(error))),
            };
            show(&engine, &seen);
            tell(&reports, Report::Loaded(Ok(())));
            work(engine, &seen, &reports);
        });
        Self {
            view,
            thread: Some(thread),
        }
    }

    fn view(&self) -> View {
        let view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        view.clone()
    }
}

/// The budget of no engine.
const NOTHING: Budget = Budget {
    max_batch_size: 0,
    max_batch_tokens: 0,
    bucket_tokens: 1,
    slot_sizes: SlotSizes::Exact,
};

/// Runs an engine until the queue is closed or the model fails.
fn work(mut engine: Engine, seen: &Mutex<View>, reports: &Sender<Report>) {
    loop {
        match engine.phase() {
            Phase::Open => {}
            Phase::Draining => match engine.drop_waiting() {
                0 => {}
                rows => {
                    show(&engine, seen);
                    tell(reports, Report::Dropped(rows));
                }
            },
            Phase::Closed => return,
        }
        let finished = engine.step();
        show(&engine, seen);
        // Before the rows, because nothing is received after the last of them.
        if let Some(note) = engine.take_note() {
            tell(reports, Report::Note(note));
        }
        match finished {
            Ok(rows) if rows.is_empty() => {}
            Ok(rows) => tell(reports, Report::Finished(rows)),
            Err(error) => return tell(reports, Report::Failed(error)),
        }
    }
}

/// The receiver is gone once the devices are being dropped.
fn tell(reports: &Sender<Report>, report: Report) {
    drop(reports.send(report));
}

fn show(engine: &Engine, seen: &Mutex<View>) {
    let mut view = seen.lock().unwrap_or_else(PoisonError::into_inner);
    view.budget = engine.budget();
    view.running = engine.running();
    view.statistics = engine.statistics();
}
