//! Job spec to everything that a run needs but the weights: input index, tokenizer, limits, `job.json`.
//!
//! Invariant: what stands in `job.json` is never changed; a run whose facts differ is refused.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::RunOptions;
use super::model_facts::{ModelFacts, model_file};
use super::texts;
use crate::checkpoint::{
    self, CheckpointError, JobFingerprint, JobLock, JobRecord, LockOptions, Manifest, ModelFile,
    OutputFolder, RECORD_VERSION, Resolved, StoredJob,
};
use crate::error::{Error, Result};
use crate::fsio::{self, FsError};
use crate::ids::ShardId;
use crate::input::{
    self, FoundFile, InputError, InputFile, InputIndex, InputStream, MAX_WINDOW_BYTES, OpenOptions,
    Place, PromptSource, ScanOptions,
};
use crate::job::{self, JobSpec, Rules};
use crate::kernels;
use crate::model::GlmConfig;
use crate::outcome::BadRow;
use crate::report::Observer;
use crate::sink::{self, ResultSink};
use crate::stop::StopFlag;

/// How often a record is looked for where there is work of its job.
const LOADS: usize = 3;

/// A job that is ready to run.
pub(super) struct Prepared {
    pub(super) folder: OutputFolder,
    /// What the files in the folder name the job by.
    pub(super) job: JobFingerprint,
    pub(super) record: JobRecord,
    pub(super) index: Arc<InputIndex>,
    pub(super) source: Box<dyn PromptSource>,
    pub(super) sink: Box<dyn ResultSink>,
    /// `None` where nothing is left to do: a finished job needs neither device nor tokenizer.
    pub(super) model: Option<Arc<ModelFacts>>,
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
        let is_finished = match &first {
            Some(first) => is_finished(options, &folder, first)?,
            None => false,
        };
        let copies_input = reads_standard_input(spec) && !folder.standard_input().exists();
        if !is_finished || copies_input {
            // A finished job may lie where nothing can be written.
            OutputFolder::open(folder.root())?;
        }
        let started = Instant::now();
        let model = match &first {
            Some(first) if is_finished && is_model_unchanged(spec, &first.record) => None,
            _ => {
                let rules = rules_of(first.as_ref().map(|first| &first.record));
                Some(Arc::new(ModelFacts::load(spec, rules)?))
            }
        };
        let load_seconds = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let waiting = LockOptions {
            stop: stop.clone(),
            ..LockOptions::default()
        };
        let lock = match first {
            Some(_) if !copies_input => None,
            _ => Some(JobLock::acquire(&folder, &waiting)?),
        };
        checkpoint::clean_job_leftovers(&folder, lock.as_ref());
        // The holder of the lock before this one has written the record by now.
        let first = match first {
            Some(first) => Some(first),
            None => begun(&folder)?,
        };
        let known = first.as_ref().map(|first| &first.record);
        let rules = rules_of(known);
        let read = ReadInput::new(spec, options, &folder, known, stop, observer)?;
        let resolved = match (&model, known) {
            (None, Some(first)) => first.resolved.clone(),
            (None, None) => ModelFacts::load(spec, rules)?.resolved(spec, rules, None, stop)?,
            (Some(model), known) => {
                if !is_finished {
                    model.check_reading(spec, rules)?;
                }
                let first = known.map(|known| &known.resolved);
                model.resolved(spec, rules, first.filter(|_| !options.verify), stop)?
            }
        };
        for warning in model.iter().flat_map(|model| model.warnings()) {
            observer.note(&warning);
        }
        let record = new_record(spec, options, rules, resolved, &read.index);
        if stop.is_requested() {
            return Err(Error::Interrupted);
        }
        if read.index.rows == 0 {
            observer.note("warning: the input has no rows");
        }
        let sink = read.sink(spec)?;
        if let Some(note) = read.case_note(spec)? {
            observer.note(&format!("note: {note}"));
        }
        // A finished job gets no more answers that its texts could change.
        if let Some(model) = model.as_ref().filter(|_| !is_finished) {
            for note in texts::check(spec, model, known, &folder)? {
                observer.note(&note);
            }
        }
        let (record, job) = establish(&folder, record, first, observer)?;
        if let Some(text) = options
            .job_file
            .as_deref()
            .filter(|_| options.trial.is_none())
        {
            keep_job_file(&folder, text, lock.as_ref(), is_finished, observer)?;
        }
        drop(lock);
        Ok(Self {
            folder,
            job,
            record,
            index: read.index,
            source: read.source,
            sink,
            // Its texts were not checked, so no window that is taken out meanwhile may be made again.
            model: model.filter(|_| !is_finished),
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

    /// The first of these shards that has rows, all of which failed.
    pub(super) fn shard_that_all_failed(&self, shards: &[ShardId]) -> Result<Option<ShardId>> {
        for &shard in shards {
            let totals = self.manifest(shard)?.totals();
            if totals.rows > 0 && totals.failed + totals.bad == totals.rows {
                return Ok(Some(shard));
            }
        }
        Ok(None)
    }
}

/// The rules that the job goes by: those of its first run.
fn rules_of(first: Option<&JobRecord>) -> Rules {
    first.map_or(Rules::CURRENT, |first| first.rules)
}

/// The job as this run sees it.
fn new_record(
    spec: &JobSpec,
    options: &RunOptions,
    rules: Rules,
    resolved: Resolved,
    index: &Arc<InputIndex>,
) -> JobRecord {
    JobRecord {
        version: RECORD_VERSION.to_owned(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        results_format: sink::RESULTS_FORMAT,
        arithmetic: kernels::ARITHMETIC.to_owned(),
        rules,
        spec: spec.clone(),
        trial: options.trial,
        resolved,
        input: InputIndex::clone(index),
    }
}

/// The job that has begun in the folder. Work without its record may be any job's.
fn begun(folder: &OutputFolder) -> Result<Option<StoredJob>> {
    // Work is looked for first: where another host begins the job meanwhile, the record is there before it.
    let work = folder.first_work()?;
    let mut first = StoredJob::load(folder)?;
    if first.is_none() && work.is_some() {
        first = load_again(folder)?;
    }
    match (&first, work) {
        (Some(first), _) => checkpoint::check_manifests(folder, first.record.spec.shards)?,
        (None, Some(path)) => return Err(CheckpointError::NoRecord { path }.into()),
        (None, None) => {}
    }
    Ok(first)
}

/// Reads a record that another host may have written just now: a network file system remembers for a while that a
/// file was not there, until its folder is listed.
fn load_again(folder: &OutputFolder) -> Result<Option<StoredJob>> {
    for _ in 0..LOADS {
        let _ = std::fs::read_dir(folder.root()).map(Iterator::count);
        if let Some(stored) = StoredJob::load(folder)? {
            return Ok(Some(stored));
        }
    }
    Ok(None)
}

/// Whether every asked-for window is committed.
fn is_finished(options: &RunOptions, folder: &OutputFolder, first: &StoredJob) -> Result<bool> {
    let shards = first.record.spec.shards;
    for shard in (0..shards).filter(|&at| options.shard.is_none_or(|(asked, _)| asked == at)) {
        let manifest = Manifest::load_or_new(folder, &first.fingerprint, ShardId(shard), shards)?;
        let windows = &first.record.input.windows;
        if manifest.remaining(windows).next().is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether no file of the model has changed, so that a finished job need not look at it. One that is gone does
/// not matter any more.
fn is_model_unchanged(spec: &JobSpec, first: &JobRecord) -> bool {
    let is_unchanged =
        |known: &ModelFile| model_file(&known.path).is_none_or(|file| file.is(known));
    spec.model.path == first.spec.model.path && first.resolved.model_files.iter().all(is_unchanged)
}

/// What is to be read, and how.
pub(super) struct Reading<'a> {
    pub(super) spec: &'a JobSpec,
    pub(super) files: &'a [FoundFile],
    /// What an earlier run knows of the files.
    pub(super) previous: Option<&'a InputIndex>,
    pub(super) rules: Rules,
    pub(super) stop: &'a StopFlag,
}

/// The input, indexed and open.
pub(super) struct ReadInput {
    pub(super) index: Arc<InputIndex>,
    pub(super) source: Box<dyn PromptSource>,
}

impl ReadInput {
    fn new(
        spec: &JobSpec,
        options: &RunOptions,
        folder: &OutputFolder,
        first: Option<&JobRecord>,
        stop: &StopFlag,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let files = files(spec, folder, first, stop, observer)?;
        let reading = Reading {
            spec,
            files: &files,
            // To verify is to read the input again, not to believe its size and time.
            previous: first.map(|first| &first.input).filter(|_| !options.verify),
            rules: rules_of(first),
            stop,
        };
        let Some(selection) = options.trial else {
            return Self::open(&reading);
        };
        // A bad row may be none of the trial's; its own ones are met when they are read.
        let (read, _) = Self::scan(&reading)?;
        let (source, index) =
            input::select(read.source, &read.index, selection, spec.batch.window_rows);
        Ok(Self {
            index: Arc::new(index),
            source,
        })
    }

    /// Reads the input once and opens it; with `on_bad_row = "stop"` a bad row ends it here.
    pub(super) fn open(reading: &Reading<'_>) -> Result<Self> {
        let (read, first_bad) = Self::scan(reading)?;
        match first_bad {
            None => Ok(read),
            Some((place, bad)) => Err(Error::BadRow {
                place: place_text(&place, &read.index.files),
                stage: bad.stage,
                reason: bad.reason,
            }),
        }
    }

    /// What writes the results of this input, or why the job's columns cannot be written.
    pub(super) fn sink(&self, spec: &JobSpec) -> Result<Box<dyn ResultSink>> {
        Ok(sink::new_sink(
            &spec.output,
            &spec.generation,
            &self.index,
            input::id_column(&spec.input.columns, &self.index).as_deref(),
            self.source.arrow_schema().as_deref(),
        )?)
    }

    /// What should be known of the names of the result columns.
    pub(super) fn case_note(&self, spec: &JobSpec) -> Result<Option<String>> {
        let id = input::id_column(&spec.input.columns, &self.index);
        let (output, generation) = (&spec.output, &spec.generation);
        Ok(sink::case_note(
            output,
            generation,
            &self.index,
            id.as_deref(),
        )?)
    }

    fn scan(reading: &Reading<'_>) -> Result<(Self, Option<(Place, BadRow)>)> {
        let Reading {
            spec, rules, stop, ..
        } = reading;
        let mut input = spec.input.clone();
        if rules.rows == 1 {
            // Such a job began when lines had no limit.
            input.max_row_bytes = u64::MAX;
        }
        let scan = input::scan(&ScanOptions {
            spec: &input,
            prompt: &spec.prompt,
            files: reading.files,
            rules: *rules,
            window_rows: spec.batch.window_rows,
            max_window_bytes: MAX_WINDOW_BYTES,
            previous: reading.previous,
            stop,
        })?;
        let index = Arc::new(scan.index);
        let options = OpenOptions {
            input: &input,
            prompt: &spec.prompt,
            carried: &spec.output.columns,
            rules: *rules,
        };
        let mut source = input::open(&options, Arc::clone(&index))?;
        source.stop_with(stop);
        Ok((Self { index, source }, scan.first_bad))
    }
}

/// The files of the job: those of the first run, else what the patterns find now.
fn files(
    spec: &JobSpec,
    folder: &OutputFolder,
    first: Option<&JobRecord>,
    stop: &StopFlag,
    observer: &mut dyn Observer,
) -> Result<Vec<FoundFile>> {
    if reads_standard_input(spec) {
        return Ok(vec![standard_input(folder, first, stop)?.into()]);
    }
    let found = input::resolve_files(&spec.input, &spec.output.path, rules_of(first));
    let Some(first) = first else {
        let found = found?;
        for note in &found.notes {
            observer.note(&format!("note: {note}"));
        }
        return Ok(found.files);
    };
    let known = || first.input.files.iter();
    if spec.input.path != first.spec.input.path || !known().all(|file| file.path.exists()) {
        // The same files may stand elsewhere now; their hashes decide.
        return Ok(found?.files);
    }
    let paths: BTreeSet<&Path> = known().map(|file| file.path.as_path()).collect();
    let is_known = |path: &Path| paths.contains(path);
    // The list is fixed: whatever came into the folders since then does not end the job.
    for late in found.into_iter().flat_map(|found| found.files) {
        if !is_known(&late.path) {
            observer.note(&format!(
                "warning: `{}` came after the first run and is left out",
                late.path.display()
            ));
        }
    }
    let of_first_run = |file: &InputFile| FoundFile {
        path: file.path.clone(),
        partition: file.partition.clone(),
    };
    Ok(known().map(of_first_run).collect())
}

fn reads_standard_input(spec: &JobSpec) -> bool {
    spec.input.path == ["-"]
}

/// The copy of standard input: made by the first run, read again by the others.
fn standard_input(
    folder: &OutputFolder,
    first: Option<&JobRecord>,
    stop: &StopFlag,
) -> Result<PathBuf> {
    let copy = folder.standard_input();
    if first.is_some() && copy.exists() {
        return Ok(copy);
    }
    let failed = |cause| FsError::new("read", Path::new("standard input"), cause);
    let mut input = InputStream::start(std::io::stdin(), stop).map_err(failed)?;
    // A copy without a job is what a refused run left; new input replaces it.
    let is_empty = input.is_empty().map_err(|cause| match cause {
        _ if stop.is_requested() => Error::Input(InputError::Interrupted),
        cause => failed(cause).into(),
    })?;
    if !is_empty || !copy.exists() {
        input.copy_to(&copy)?;
    }
    Ok(copy)
}

/// Writes `job.json`, or holds this run against the one that is there.
fn establish(
    folder: &OutputFolder,
    record: JobRecord,
    first: Option<StoredJob>,
    observer: &mut dyn Observer,
) -> Result<(JobRecord, JobFingerprint)> {
    let is_first = first.is_none() && record.create(folder)?;
    let StoredJob {
        record: first,
        fingerprint,
    } = match first {
        Some(first) => first,
        // Another host may have been faster, where locks do not reach from one to the other.
        None => StoredJob::existing(folder)?,
    };
    if is_first {
        return Ok((record, fingerprint));
    }
    let differences = job::differences(&first.spec, &record.spec);
    let differences = differences
        .into_iter()
        .map(|d| (d.key, d.first, d.now))
        .collect();
    let comparison = first.compare(&record, differences);
    for warning in &comparison.warnings {
        observer.note(&format!("warning: {warning}"));
    }
    if comparison.refused.is_empty() {
        // The index keeps the paths of now, the windows and hashes are equal.
        return Ok((record, fingerprint));
    }
    let lines: Vec<String> = comparison
        .refused
        .iter()
        .map(|difference| format!("  {difference}"))
        .collect();
    Err(Error::Refused {
        folder: folder.root().display().to_string(),
        differences: lines.join("\n"),
        cure: "set the values back, choose another `output.path`, or begin anew with `--restart` (the old results are kept beside)",
    })
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

/// Where a row stands, in words.
pub(super) fn place_text(place: &Place, files: &[InputFile]) -> String {
    let path = |file: u32| {
        files
            .get(file as usize)
            .map_or_else(String::new, |file| file.path.display().to_string())
    };
    match place {
        Place::Line { file, line } => format!("{}:{line}", path(*file)),
        Place::RowGroup {
            file,
            row_group,
            row,
        } => {
            format!("{}: row group {row_group}, row {row}", path(*file))
        }
    }
}
