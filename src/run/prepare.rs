//! Job spec to everything that a run needs but the weights: input index, tokenizer, limits, `job.json`.

use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use crate::checkpoint::{
    self, JobFingerprint, JobLock, JobRecord, LockOptions, Manifest, OutputFolder, Resolved,
    StoredJob,
};
use crate::error::{Error, Result};
use crate::fsio;
use crate::ids::ShardId;
use crate::input::{self, InputIndex, PromptSource};
use crate::job::{JobSpec, ModelSpec, Phase, Rules};
use crate::model::GlmConfig;
use crate::report::{Observer, Silent};
use crate::sink::{self, ResultSink};
use crate::stop::StopFlag;
use crate::tasks::{self, Examples};
use glm_batch_kernels::ARITHMETIC;

use super::model_facts::{ModelFacts, check_vocabulary};
use super::options::RunOptions;
use super::phase_results::PhaseResults;
use super::read::{ReadInput, reads_standard_input};
use super::rerun::{begun, establish, is_finished, is_model_unchanged, rules_of};
use super::sampled::SampledSource;
use super::texts;

/// A job that is ready to run.
pub(super) struct Prepared {
    pub(super) folder: OutputFolder,
    /// What the files in the folder name the job by.
    pub(super) job: JobFingerprint,
    pub(super) record: JobRecord,
    pub(super) index: Arc<InputIndex>,
    pub(super) source: Arc<dyn PromptSource>,
    pub(super) examples: Option<Arc<Examples>>,
    pub(super) sink: Box<dyn ResultSink>,
    /// `None` where nothing is left to do: a finished job needs neither device nor tokenizer.
    pub(super) model: Option<Arc<ModelFacts>>,
    /// The reward model that ranks the answers, where there is one and something is left to do.
    judge: Option<Arc<ModelFacts>>,
    pub(super) scan_seconds: f64,
    pub(super) load_seconds: f64,
}

impl Prepared {
    pub(super) fn new(
        spec: &JobSpec,
        options: &RunOptions,
        folder: OutputFolder,
        stop: &StopFlag,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let first = begun(&folder)?;
        let finished = match &first {
            Some(first) => is_finished(options, &folder, first)?.then_some(first),
            None => None,
        };
        let copies_input = reads_standard_input(spec) && !folder.standard_input().exists();
        let was_finished = finished.is_some();
        let started = Instant::now();
        let rules = rules_of(first.as_ref().map(|first| &first.record), spec);
        let finished = finished.map(|first| &first.record);
        let known = finished.map(|first| Known {
            model: &first.spec.model,
            resolved: &first.resolved,
        });
        let model = Model::new(spec, known.as_ref(), rules)?;
        let judge = Judge::new(spec, finished, rules)?;
        if let Some(judge) = &judge {
            judge.check_beside(&model)?;
        }
        // A wrong model must not leave an empty folder behind; its weights are loaded much later.
        if !was_finished || copies_input {
            // A finished job may lie where nothing can be written.
            OutputFolder::open(folder.root())?;
        }
        let load_seconds = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let (first, lock) = locked(&folder, first, copies_input, stop)?;
        let known = first.as_ref().map(|first| &first.record);
        let rules = rules_of(known, spec);
        let read = ReadInput::new(spec, options, &folder, known, stop, observer)?;
        let known_resolved = known.filter(|_| !options.verify);
        let resolved = model.resolved(
            spec,
            rules,
            known_resolved.map(|first| &first.resolved),
            stop,
        )?;
        let known_judge = known_resolved.and_then(|first| first.reward.as_ref());
        let reward = judge
            .as_ref()
            .map(|judge| judge.model.resolved(&judge.spec, rules, known_judge, stop))
            .transpose()?;
        for warning in model.facts().iter().flat_map(|facts| facts.warnings(spec)) {
            observer.note(&warning);
        }
        let record = JobRecord {
            reward,
            ..new_record(spec, options, rules, resolved, &read)
        };
        if stop.is_requested() {
            return Err(Error::Interrupted);
        }
        if read.index.rows == 0 {
            observer.note("warning: the input has no rows");
        }
        let sink = read.sink(spec)?;
        let notes = [read.case_note(spec)?, read.kinds_note(spec)?];
        for note in notes.into_iter().flatten() {
            observer.note(&format!("note: {note}"));
        }
        let notes = match &model {
            Model::Open(facts) => texts::check(spec, facts, known, &folder)?,
            // A finished job gets no more answers that its texts could change, but what does nothing still does not.
            Model::Untouched(_) | Model::Changed(_) => texts::idle_settings(spec),
        };
        for note in notes {
            observer.note(&note);
        }
        let (record, job) = establish(&folder, record, first, observer)?;
        if let Some(text) = options
            .job_file
            .as_deref()
            .filter(|_| options.trial.is_none())
        {
            keep_job_file(&folder, text, lock.as_ref(), was_finished, observer)?;
        }
        drop(lock);
        Ok(Self {
            folder,
            job,
            record,
            index: read.index,
            source: read.source.into(),
            examples: read.examples.map(Arc::new),
            sink,
            model: model.open(),
            judge: judge.and_then(|judge| judge.model.open()),
            scan_seconds: started.elapsed().as_secs_f64(),
            load_seconds,
        })
    }

    /// What the model says about itself, for the summary.
    pub(super) fn notice(&self) -> Option<String> {
        match &self.model {
            Some(model) => model.config.notice.clone(),
            None => GlmConfig::load(&self.record.spec.model.path).ok()?.notice,
        }
    }

    /// What a shard has committed.
    pub(super) fn manifest(&self, shard: ShardId) -> Result<Manifest> {
        let (folder, shards) = (&self.folder, self.record.spec.shards);
        Manifest::load_or_new(folder, &self.job, shard, shards).or_else(|error| {
            // It may be the manifest of a job that another process has begun here meanwhile.
            self.job.ensure_current(folder)?;
            Err(error.into())
        })
    }

    /// Whether every window of a shard is committed.
    pub(super) fn is_committed(&self, shard: ShardId) -> Result<bool> {
        let manifest = self.manifest(shard)?;
        Ok(manifest.remaining(&self.index.windows).next().is_none())
    }

    /// A phase of the job as a job of its own: the same rows, windows and shards, in a folder below this one's.
    pub(super) fn of_phase(&self, phase: Phase) -> Result<Self> {
        let folder = self.folder.phase(phase);
        OutputFolder::open(folder.root())?;
        let record = self.record.of_phase(phase);
        let (source, model): (Arc<dyn PromptSource>, _) = match phase {
            Phase::Samples => (Arc::clone(&self.source), self.model.clone()),
            Phase::Rewards => {
                let samples = self.folder.phase(Phase::Samples);
                let samples = PhaseResults::open(Phase::Samples, &samples)?;
                let source = SampledSource::new(Arc::clone(&self.source), samples);
                (Arc::new(source), self.judge.clone())
            }
        };
        let (first, lock) = locked(&folder, begun(&folder)?, false, &StopFlag::default())?;
        // What differs from the first run was said of the whole job.
        let (record, job) = establish(&folder, record, first, &mut Silent)?;
        drop(lock);
        let id = input::id_column(&record.spec.input.columns, &self.index);
        Ok(Self {
            sink: sink::new_sink(
                &tasks::form(&record.spec),
                &self.index,
                id.as_deref(),
                source.arrow_schema().as_deref(),
            )?,
            folder,
            job,
            record,
            index: Arc::clone(&self.index),
            source,
            examples: self.examples.clone(),
            model,
            judge: None,
            scan_seconds: 0.0,
            load_seconds: 0.0,
        })
    }

    /// All shards of the job.
    pub(super) fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.record.spec.shards).map(ShardId)
    }

    /// Rows that a shard owns.
    pub(super) fn shard_rows(&self, shard: ShardId) -> u64 {
        let shards = self.record.spec.shards;
        let windows = self.index.windows.iter();
        windows
            .filter(|span| span.id.shard(shards) == shard)
            .map(|span| span.rows)
            .sum()
    }

    /// The first of these shards that has rows, all of which failed, but those that are left out.
    pub(super) fn shard_that_all_failed(&self, shards: &[ShardId]) -> Result<Option<ShardId>> {
        for &shard in shards {
            let manifest = self.manifest(shard)?;
            let totals = manifest.totals();
            let taken = totals.taken();
            if taken > 0 && totals.failed + totals.bad == taken {
                return Ok(Some(shard));
            }
        }
        Ok(None)
    }
}

/// The model of a job, as far as this run has to look at it.
enum Model {
    /// Every window is committed and no file of the model has changed since: the record knows all of it.
    Untouched(Resolved),
    /// Every window is committed, and the files of the model are others now.
    Changed(Arc<ModelFacts>),
    /// Windows are left.
    Open(Arc<ModelFacts>),
}

impl Model {
    /// The model of a job; `finished` is what is known of it where all windows are committed.
    fn new(spec: &JobSpec, finished: Option<&Known<'_>>, rules: Rules) -> Result<Self> {
        match finished {
            Some(known) if is_model_unchanged(&spec.model, known.model, known.resolved) => {
                Ok(Self::Untouched(known.resolved.clone()))
            }
            Some(_) => Ok(Self::Changed(Arc::new(ModelFacts::load(spec, rules)?))),
            None => Ok(Self::Open(Arc::new(ModelFacts::load(spec, rules)?))),
        }
    }

    /// The model where windows are left. Of others the texts of the job were not checked, so no window that is taken
    /// out meanwhile may be made again.
    fn open(self) -> Option<Arc<ModelFacts>> {
        match self {
            Self::Open(facts) => Some(facts),
            Self::Untouched(_) | Self::Changed(_) => None,
        }
    }

    fn facts(&self) -> Option<&ModelFacts> {
        match self {
            Self::Untouched(_) => None,
            Self::Changed(facts) | Self::Open(facts) => Some(facts),
        }
    }

    /// What the model comes to. `first` is what an earlier run found and this one need not look at again.
    fn resolved(
        &self,
        spec: &JobSpec,
        rules: Rules,
        first: Option<&Resolved>,
        stop: &StopFlag,
    ) -> Result<Resolved> {
        match self {
            Self::Untouched(resolved) => Ok(resolved.clone()),
            Self::Changed(facts) => facts.resolved(spec, rules, first, stop),
            Self::Open(facts) => {
                facts.check_reading(spec, rules)?;
                facts.resolved(spec, rules, first, stop)
            }
        }
    }
}

/// What the record of a finished job says of a model.
struct Known<'a> {
    model: &'a ModelSpec,
    resolved: &'a Resolved,
}

/// The reward model that ranks the answers of a job.
struct Judge {
    /// The job of the phase that it is the model of.
    spec: JobSpec,
    model: Model,
}

impl Judge {
    /// That of a job, where it has one; `finished` is the record where all windows are committed.
    fn new(spec: &JobSpec, finished: Option<&JobRecord>, rules: Rules) -> Result<Option<Self>> {
        if !spec.phases().contains(&Phase::Rewards) {
            return Ok(None);
        }
        let first = finished.map(|first| first.spec.of_phase(Phase::Rewards).model);
        let resolved = finished.and_then(|first| first.reward.as_ref());
        let known = first.as_ref().zip(resolved);
        let known = known.map(|(model, resolved)| Known { model, resolved });
        let spec = spec.of_phase(Phase::Rewards);
        let model = Model::new(&spec, known.as_ref(), rules)?;
        Ok(Some(Self { spec, model }))
    }

    /// Refuses a reward model that does not read texts as the other model writes them.
    fn check_beside(&self, model: &Model) -> Result<()> {
        match (self.model.facts(), model.facts()) {
            (Some(judge), Some(model)) => check_vocabulary(model, judge),
            _ => Ok(()),
        }
    }
}

/// Takes the job's lock where this run may be the first to write, and looks for the record again under it.
fn locked(
    folder: &OutputFolder,
    first: Option<StoredJob>,
    copies_input: bool,
    stop: &StopFlag,
) -> Result<(Option<StoredJob>, Option<JobLock>)> {
    let waiting = LockOptions {
        stop: stop.clone(),
        ..LockOptions::default()
    };
    let lock = match first {
        Some(_) if !copies_input => None,
        _ => Some(JobLock::acquire_first(folder, &waiting)?),
    };
    checkpoint::clean_job_leftovers(folder, lock.as_ref());
    let first = match first {
        Some(first) => Some(first),
        // The holder of the lock before this one has written the record by now.
        None => begun(folder)?,
    };
    Ok((first, lock))
}

/// The job as this run sees it.
fn new_record(
    spec: &JobSpec,
    options: &RunOptions,
    rules: Rules,
    resolved: Resolved,
    read: &ReadInput,
) -> JobRecord {
    JobRecord {
        version: checkpoint::record_version(spec.task, &read.index).to_owned(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        results_format: sink::RESULTS_FORMAT,
        arithmetic: ARITHMETIC.to_owned(),
        rules,
        spec: spec.clone(),
        trial: options.trial,
        resolved,
        reward: None,
        few_shot: read
            .examples
            .as_ref()
            .map(|examples| examples.file().clone()),
        input: InputIndex::clone(&read.index),
    }
}

/// Writes the job file that the output folder keeps. The run that writes `job.json` writes it too; a later one writes
/// it where that run was killed in between. Of a finished job it is only a help, and its folder may be read-only.
fn keep_job_file(
    folder: &OutputFolder,
    text: &str,
    lock: Option<&JobLock>,
    is_finished: bool,
    observer: &mut dyn Observer,
) -> Result<()> {
    let path = folder.kept_job();
    let write = || fsio::write_atomic(&path, |out| out.write_all(text.as_bytes()));
    if lock.is_some() {
        write()?;
    } else if !path.exists() {
        // Another shard's run may be at it: one writes.
        match JobLock::try_acquire(folder).map(|lock| lock.map(|_lock| write())) {
            Ok(None | Some(Ok(_))) => {}
            Ok(Some(Err(error))) if !is_finished => return Err(error.into()),
            Err(error) if !is_finished => return Err(error.into()),
            _ => observer.note(&format!("note: `{}` could not be written", path.display())),
        }
    }
    Ok(())
}
