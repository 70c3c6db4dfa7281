//! One shard: requests through the engine, finished rows into the journal, whole windows into parts.
//!
//! Invariants: a row is in the journal at most `interval_seconds` after it ended; a window is
//! committed when its last row ends; at most two windows are open.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};

use crate::checkpoint::{self, Commit, Example, Manifest, ShardLock, Totals};
use crate::device::DeviceId;
use crate::engine::{Devices, EngineStatistics, Finished, LoadModel, Tuning};
use crate::error::{Error, Result};
use crate::fsio::FsError;
use crate::ids::{ShardId, WindowId};
use crate::input::WindowSpan;
use crate::job::JobSpec;
use crate::outcome::Outcome;
use crate::report::{Observer, TimeLeft};
use crate::stop::StopFlag;
use crate::tokenize::GlmTokenizer;

use super::counts::{self, Counts};
use super::deadline::Ending;
use super::feed::{self, Fed, FedWindow, Feed};
use super::load::{OpenRows, load_model};
use super::model_facts::{self, ModelFacts};
use super::options::{RunEnd, RunOptions};
use super::prepare::Prepared;
use super::{summary, texts, trim};

mod ahead;
mod failures;
mod pairs;
mod progress;

use ahead::Ahead;
use progress::{Before, answers, row_work, tokens};

/// Windows that may be open at once: the next one fills the slots that this one's tail leaves.
const OPEN_WINDOWS: usize = 2;

/// How long finished rows are waited for before signals, windows and the journal are looked at again.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// Time between two times that free memory is given back while a window is worked on.
const TRIM_INTERVAL: Duration = Duration::from_secs(10);

/// How a shard ended.
pub(super) enum ShardEnd {
    AlreadyFinished,
    Finished,
    Stopped(RunEnd),
}

/// Rows of some shards, and those of them that are committed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ShardRows {
    pub(super) rows: u64,
    /// Those that are left out too.
    pub(super) committed: u64,
    /// Committed rows that are left out.
    pub(super) left_out: u64,
}

/// What goes from shard to shard of one run: the engines with their weights, the counts, the observer.
pub(super) struct Worker<'a> {
    prepared: &'a Prepared,
    spec: &'a JobSpec,
    pub(super) stop: StopFlag,
    ending: Ending,
    pub(super) observer: &'a mut dyn Observer,
    devices: Option<Devices>,
    pub(super) counts: Counts,
    /// When the first window was opened.
    working_since: Option<Instant>,
    /// When the observer was told of progress.
    told: Option<Instant>,
    time_left: TimeLeft,
    /// The run's other shards, while it works on one.
    pub(super) elsewhere: ShardRows,
}

impl<'a> Worker<'a> {
    pub(super) fn new(
        prepared: &'a Prepared,
        spec: &'a JobSpec,
        stop: &StopFlag,
        options: &RunOptions,
        observer: &'a mut dyn Observer,
    ) -> Self {
        Self {
            prepared,
            spec,
            stop: stop.clone(),
            ending: Ending::new(options),
            observer,
            devices: None,
            counts: Counts::new(prepared.load_seconds),
            working_since: None,
            told: None,
            time_left: TimeLeft::default(),
            elsewhere: ShardRows::default(),
        }
    }

    /// Says once how many rows had settings without effect.
    pub(super) fn note_idle_rows(&mut self) {
        if let Some(note) = texts::idle_rows(self.counts.idle_rows) {
            self.observer.note(&note);
        }
    }

    /// Failed rows that the job allows in a shard.
    pub(super) fn max_failed(&self) -> Option<u64> {
        self.spec.output.max_failed
    }

    pub(super) fn engine_statistics(&self) -> EngineStatistics {
        self.devices
            .as_ref()
            .map(Devices::statistics)
            .unwrap_or_default()
    }

    /// Answers what is left of a shard.
    pub(super) fn run(
        &mut self,
        lock: &ShardLock,
        manifest: Manifest,
        shard: ShardId,
    ) -> Result<ShardEnd> {
        if !self.spec.phases().is_empty() {
            return self.make_pairs(lock, manifest, shard);
        }
        let prepared = self.prepared;
        let Some(model) = &prepared.model else {
            return Err(Error::Reopened);
        };
        let windows: Vec<WindowSpan> = manifest
            .remaining(&prepared.index.windows)
            .cloned()
            .collect();
        let mut devices = match self.devices.take() {
            Some(devices) => devices,
            None => match self.start_devices(model)? {
                Some(devices) => devices,
                None => return Ok(ShardEnd::Stopped(RunEnd::Interrupted)),
            },
        };
        let (sender, receiver) = bounded(0);
        let (ahead, asked) = Ahead::new();
        let to = Feed { asked, sender };
        let (stop, to_feed) = (&self.stop.clone(), &windows);
        self.counts.unfinished = Totals::default();
        let before = Before {
            began: Instant::now(),
            rows: self.counts.rows_now,
            tokens: tokens(&devices.statistics()),
        };
        let work = ShardWork {
            before,
            unfed: windows.len(),
            ahead,
            rows_total: prepared.shard_rows(shard) + self.elsewhere.rows,
            worker: self,
            tokenizer: &model.tokenizer,
            devices: &mut devices,
            lock,
            manifest,
            open: BTreeMap::new(),
            synced: Instant::now(),
            trimmed: Instant::now(),
            reader_ended: false,
        };
        let end = std::thread::scope(|scope| {
            scope.spawn(move || feed::feed(prepared, model, lock, to_feed, stop, &to));
            // The other ends of both channels go with `run`, so that a feeder that waits ends too.
            work.run(receiver)
        });
        self.devices = Some(devices);
        self.report(lock, shard, end)
    }

    /// Writes the shard's report, and gives how its work ended.
    fn report(&self, lock: &ShardLock, shard: ShardId, end: Result<ShardEnd>) -> Result<ShardEnd> {
        let engine = self.engine_statistics();
        let written = summary::write_shard(self.prepared, &self.counts, engine, lock, shard);
        // Why the work ended matters more than that its report could not be written.
        let end = end?;
        written?;
        Ok(end)
    }

    /// Loads the model on each device; `None` where that was interrupted.
    fn start_devices(&mut self, facts: &Arc<ModelFacts>) -> Result<Option<Devices>> {
        let started = Instant::now();
        let open = OpenRows::of(self.spec, facts);
        let load = |&device: &DeviceId| -> (LoadModel, Option<Tuning>) {
            let search = open.search(&self.spec.batch, facts);
            let (facts, spec) = (Arc::clone(facts), self.spec.clone());
            let load = move || load_model(&spec, device, &facts, open);
            (Box::new(load), search)
        };
        let models = facts.devices.iter().map(load).collect();
        let stop = &self.stop;
        let codec = texts::codec(&facts.tokenizer, self.prepared.record.rules.text);
        let devices = Devices::start_tuned(codec, models, stop)?;
        if devices.is_some() {
            // Answers must come from the weights that the record names.
            model_facts::check_unchanged(&self.prepared.record.resolved)?;
        }
        self.counts.load_seconds += started.elapsed().as_secs_f64();
        Ok(devices)
    }
}

/// The work on one shard while its lock is held.
struct ShardWork<'w, 'a> {
    before: Before,
    worker: &'w mut Worker<'a>,
    tokenizer: &'w GlmTokenizer,
    devices: &'w mut Devices,
    lock: &'w ShardLock,
    manifest: Manifest,
    /// Windows that the feeder has not handed over yet.
    unfed: usize,
    ahead: Ahead,
    /// Rows of all shards of the run.
    rows_total: u64,
    open: BTreeMap<WindowId, Box<FedWindow>>,
    synced: Instant,
    trimmed: Instant,
    /// The feeder hung up although windows are left.
    reader_ended: bool,
}

impl ShardWork<'_, '_> {
    #[expect(
        clippy::needless_pass_by_value,
        reason = "dropping the receiver ends the feeder"
    )]
    fn run(mut self, receiver: Receiver<Fed>) -> Result<ShardEnd> {
        let end = self.work(&receiver);
        // Whatever ended the work, what is finished is made durable first.
        let synced = self.sync();
        let mut counted = Ok(());
        for fed in self.open.values() {
            match self.counts_of(fed) {
                Ok((totals, _)) => self.worker.counts.unfinished += &totals,
                Err(error) => counted = Err(error),
            }
        }
        let end = end?;
        synced?;
        counted?;
        Ok(end)
    }

    fn counts_of(&self, fed: &FedWindow) -> Result<(Totals, Vec<Example>)> {
        let prepared = self.worker.prepared;
        let spec = &prepared.record.spec;
        counts::of_window(spec, self.tokenizer, &fed.window, &fed.ended, &fed.sifting)
            .map_err(|cause| FsError::new("read", prepared.folder.root(), cause).into())
    }

    fn work(&mut self, receiver: &Receiver<Fed>) -> Result<ShardEnd> {
        loop {
            self.take_windows(receiver)?;
            self.commit_complete()?;
            if let Some(end) = self.over_the_limit() {
                return Ok(ShardEnd::Stopped(end));
            }
            if self.open.is_empty() && self.unfed == 0 {
                return Ok(ShardEnd::Finished);
            }
            if self.worker.stop.is_requested() || self.is_out_of_time() {
                let end = self.wind_down()?;
                // A signal ends the run as soon as may be; a deadline leaves time to write what is whole.
                if matches!(end, RunEnd::OutOfTime { .. }) {
                    self.commit_complete()?;
                }
                return Ok(if self.open.is_empty() && self.unfed == 0 {
                    ShardEnd::Finished
                } else {
                    ShardEnd::Stopped(end)
                });
            }
            if self.reader_ended {
                return Err(Error::ReaderEnded);
            }
            // Windows whose rows are all left out, or bad, leave nothing to wait for.
            if self.open.is_empty() {
                self.tell_progress();
            } else {
                self.step()?;
            }
        }
    }

    /// Opens windows while the engine has room for their rows.
    fn take_windows(&mut self, receiver: &Receiver<Fed>) -> Result<()> {
        if self.unfed > 0 {
            self.ahead.ask_in_time(self.devices.waiting());
        }
        while self.unfed > 0 && self.open.len() < OPEN_WINDOWS && self.devices.wants_more() {
            self.ahead.ask();
            let fed = if self.open.is_empty() {
                // Nothing else to do; a feeder that stops early hangs up.
                let fed = receiver.recv();
                self.reader_ended = fed.is_err();
                fed.ok()
            } else {
                receiver.try_recv().ok()
            };
            match fed {
                Some(fed) => self.open_window(fed?)?,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    fn open_window(&mut self, mut fed: Box<FedWindow>) -> Result<()> {
        self.unfed -= 1;
        let worker = &mut *self.worker;
        worker.counts.read_seconds += fed.read_seconds;
        worker.counts.tokenize_seconds += fed.tokenize_seconds;
        let refused = fed.ended.len() - fed.recovered;
        worker.counts.rows_now += refused as u64;
        worker.counts.failed_now += refused as u64;
        worker.counts.idle_rows += fed.idle_rows;
        for row in fed.window.rows.iter().filter(|row| row.is_record) {
            worker.counts.duplicates.observe(&row.id);
        }
        if let Some(cut) = fed.cut.as_ref().filter(|cut| !cut.is_tail) {
            worker.observer.note(&format!("warning: {cut}"));
        }
        let rows = fed.window.rows.len() - fed.recovered;
        let work = fed.requests.iter().map(row_work);
        worker.working_since.get_or_insert_with(Instant::now);
        worker.time_left.opened(rows as u64, work);
        self.devices
            .submit(fed.window.id, std::mem::take(&mut fed.requests));
        self.ahead.opened(
            self.devices.waiting(),
            fed.read_seconds + fed.tokenize_seconds,
        );
        let stop_at = fed.stop_at;
        let id = fed.window.id;
        self.open.insert(id, fed);
        // What queueing has worked with.
        trim::give_back();
        match stop_at {
            Some(position) => Err(self.bad_row(id, position)),
            None => Ok(()),
        }
    }

    fn step(&mut self) -> Result<()> {
        let finished = self.devices.finished(LONGEST_WAIT)?;
        for note in self.devices.notes() {
            self.worker.observer.note(&note);
        }
        self.record(finished)?;
        let is_full = self.open.values().any(|fed| fed.ended.is_full());
        let interval = self.worker.spec.checkpoint.interval_seconds;
        if is_full || self.synced.elapsed().as_secs_f64() >= interval {
            self.sync()?;
        }
        if self.trimmed.elapsed() >= TRIM_INTERVAL {
            trim::give_back();
            self.trimmed = Instant::now();
        }
        self.tell_progress();
        Ok(())
    }

    fn record(&mut self, finished: Vec<Finished>) -> Result<()> {
        for Finished { window, row, found } in finished {
            let Some(fed) = self.open.get_mut(&window) else {
                continue;
            };
            let place = fed.pending.binary_search_by_key(&row, |(row, _)| *row);
            let finish = place.ok().and_then(|place| fed.pending[place].1.take());
            let finish = finish.expect("what a row needs at its end is kept until then");
            let outcome = match found.and_then(finish) {
                Ok(result) => Outcome::Ok(result),
                Err(bad) => Outcome::Failed(bad),
            };
            fed.ended.add(row, &outcome)?;
            self.worker.time_left.finished(row, answers(&outcome));
            self.worker.ending.observe(&outcome);
            self.worker.counts.rows_now += 1;
            if let Ok(result) = outcome.result() {
                self.worker.counts.tokens_written += result.counts().completion_tokens;
            }
            self.worker.counts.failed_now += u64::from(outcome.failure().is_some());
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        let started = Instant::now();
        if self.open.values().any(|fed| fed.ended.is_dirty()) {
            // A process that has taken the shard over writes these journals now.
            self.lock.ensure_mine()?;
        }
        for fed in self.open.values_mut().filter(|fed| fed.ended.is_dirty()) {
            fed.ended.journal().sync()?;
        }
        self.synced = Instant::now();
        self.worker.counts.write_seconds += started.elapsed().as_secs_f64();
        Ok(())
    }

    fn commit_complete(&mut self) -> Result<()> {
        let is_complete = |fed: &FedWindow| fed.ended.len() == fed.window.rows.len();
        let complete: Vec<WindowId> = self
            .open
            .iter()
            .filter(|(_, fed)| is_complete(fed))
            .map(|(&id, _)| id)
            .collect();
        for id in complete {
            let started = Instant::now();
            let Some(fed) = self.open.remove(&id) else {
                continue;
            };
            if let Err(error) = self.commit(&fed) {
                self.open.insert(id, fed);
                return Err(error);
            }
            self.worker.counts.write_seconds += started.elapsed().as_secs_f64();
            drop(fed);
            trim::give_back();
        }
        Ok(())
    }

    fn commit(&mut self, fed: &FedWindow) -> Result<()> {
        let prepared = self.worker.prepared;
        prepared.source.check_unchanged(&fed.span)?;
        let (totals, examples) = self.counts_of(fed)?;
        let commit = Commit {
            window: &fed.window,
            first_row: fed.span.first_row,
            rows: fed.span.rows,
            outcomes: &fed.ended,
            sink: prepared.sink.as_ref(),
            files: &prepared.index.files,
            totals: &totals,
            examples: &examples,
        };
        let (folder, manifest) = (&prepared.folder, &mut self.manifest);
        checkpoint::commit_window(folder, self.lock, manifest, &commit)?;
        Ok(())
    }

    /// Whether what would start now would not end before the deadline. A run that has begun nothing starts some
    /// rows all the same: else a job whose rows take long would never get on.
    fn is_out_of_time(&self) -> bool {
        let ending = &self.worker.ending;
        ending.has_deadline()
            && self.devices.has_begun()
            && ending.is_near(self.devices.seconds_per_step())
    }

    /// Lets what is in flight end, as long as the grace or the deadline allows; the rest is computed again.
    fn wind_down(&mut self) -> Result<RunEnd> {
        let is_asked = self.worker.stop.is_requested();
        let left = self.worker.ending.time_left(is_asked);
        if !is_asked {
            self.worker.ending.is_declared = true;
            self.worker.observer.note(&format!(
                "the deadline is near: no more rows start, those in flight have {} s to end (`--grace`)",
                left.as_secs()
            ));
            // The feeder must end too.
            self.worker.stop.request();
        }
        let until = Instant::now() + left;
        self.devices.drain();
        while !self.devices.is_idle() && Instant::now() < until {
            self.step()?;
        }
        if !self.devices.is_idle() {
            // A long prefill may have begun just before: it would be waited for beyond the grace.
            self.devices.abandon();
        }
        let rows = self.worker.counts.rows_now;
        Ok(self.worker.ending.end(rows))
    }
}
