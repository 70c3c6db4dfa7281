//! Job spec to everything that a run needs but the weights: input index, tokenizer, limits, `job.json`.
//!
//! Invariant: what stands in `job.json` is never changed; a run whose facts differ is refused.

use std::io::BufRead;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::facts::{ModelFacts, model_file};
use super::{RunOptions, StopFlag};
use crate::checkpoint::{
    CheckpointError, JobLock, JobRecord, LockOptions, Manifest, OutputFolder, RECORD_VERSION,
    Resolved,
};
use crate::error::{Error, Result};
use crate::ids::ShardId;
use crate::input::{
    self, BadRow, InputFile, InputIndex, MAX_WINDOW_BYTES, Place, PromptSource, ScanOptions,
};
use crate::model::GlmConfig;
use crate::report::Observer;
use crate::sink::{self, ResultSink};
use crate::spec::{self, JobSpec, Rules};

/// Version of the order in which the arithmetic is done; a resume with another one is refused.
const ARITHMETIC: &str = "3";

/// A job that is ready to run.
pub(super) struct Prepared {
    pub(super) folder: OutputFolder,
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
        let first = JobRecord::load(&folder)?;
        let started = Instant::now();
        let model = match &first {
            Some(first) if is_done(spec, options, &folder, first)? => None,
            _ => Some(Arc::new(ModelFacts::load(spec)?)),
        };
        let load_seconds = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let is_interrupted = || stop.is_requested();
        let waiting = LockOptions {
            is_interrupted: &is_interrupted,
            ..LockOptions::default()
        };
        let lock = match first {
            Some(_) => None,
            None => Some(JobLock::acquire(&folder, &waiting)?),
        };
        // Whoever held the lock before has written the record by now.
        let first = match first {
            Some(first) => Some(first),
            None => JobRecord::load(&folder)?,
        };
        let read = ReadInput::new(spec, options, &folder, first.as_ref(), stop, observer)?;
        let resolved = match (&model, &first) {
            (None, Some(first)) => first.resolved.clone(),
            (None, None) => ModelFacts::load(spec)?.resolved(spec, None)?,
            (Some(model), first) => {
                model.resolved(spec, first.as_ref().map(|first| &first.resolved))?
            }
        };
        let rules = first.as_ref().map_or(Rules::CURRENT, |first| first.rules);
        let record = new_record(spec, options, rules, resolved, &read.index);
        if stop.is_requested() {
            return Err(Error::Interrupted);
        }
        if read.index.rows == 0 {
            observer.note("warning: the input has no rows");
        }
        let sink = read.sink(spec)?;
        let record = establish(&folder, record, first, observer)?;
        drop(lock);
        Ok(Self {
            folder,
            record,
            index: read.index,
            source: read.source,
            sink,
            model,
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
        Ok(Manifest::load_or_new(
            &self.folder,
            shard,
            self.record.spec.shards,
        )?)
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
        arithmetic: ARITHMETIC.to_owned(),
        rules,
        spec: spec.clone(),
        trial: options.trial,
        resolved,
        input: InputIndex::clone(index),
    }
}

/// Whether nothing is left to do, so that the model need not be looked at: every asked-for window is
/// committed, and no file of the model has changed. One that is gone does not matter any more.
fn is_done(
    spec: &JobSpec,
    options: &RunOptions,
    folder: &OutputFolder,
    first: &JobRecord,
) -> Result<bool> {
    if spec.model.path != first.spec.model.path {
        return Ok(false);
    }
    let known = &first.resolved.model_files;
    if known
        .iter()
        .any(|known| model_file(&known.path).is_some_and(|file| file != *known))
    {
        return Ok(false);
    }
    let shards = first.spec.shards;
    for shard in (0..shards).filter(|&at| options.shard.is_none_or(|(asked, _)| asked == at)) {
        let manifest = Manifest::load_or_new(folder, ShardId(shard), shards)?;
        if manifest.remaining(&first.input.windows).next().is_some() {
            return Ok(false);
        }
    }
    Ok(true)
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
        let previous = first.map(|first| &first.input);
        let rules = first.map_or(Rules::CURRENT, |first| first.rules);
        let Some(selection) = options.trial else {
            return Self::open(spec, &files, rules, previous, stop);
        };
        // A bad row may be none of the trial's; its own ones are met when they are read.
        let (read, _) = Self::scan(spec, &files, rules, previous, stop)?;
        let (source, index) =
            input::select(read.source, &read.index, selection, spec.batch.window_rows);
        Ok(Self {
            index: Arc::new(index),
            source,
        })
    }

    /// Reads the input once and opens it; with `on_bad_row = "stop"` a bad row ends it here.
    pub(super) fn open(
        spec: &JobSpec,
        files: &[PathBuf],
        rules: Rules,
        previous: Option<&InputIndex>,
        stop: &StopFlag,
    ) -> Result<Self> {
        let (read, first_bad) = Self::scan(spec, files, rules, previous, stop)?;
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

    fn scan(
        spec: &JobSpec,
        files: &[PathBuf],
        rules: Rules,
        previous: Option<&InputIndex>,
        stop: &StopFlag,
    ) -> Result<(Self, Option<(Place, BadRow)>)> {
        let scan = input::scan(&ScanOptions {
            spec: &spec.input,
            prompt: &spec.prompt,
            files,
            rules,
            window_rows: spec.batch.window_rows,
            max_window_bytes: MAX_WINDOW_BYTES,
            previous,
            is_interrupted: &|| stop.is_requested(),
        })?;
        let index = Arc::new(scan.index);
        let source = input::open(&spec.input, &spec.prompt, Arc::clone(&index), rules)?;
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
) -> Result<Vec<PathBuf>> {
    if spec.input.path == ["-"] {
        return Ok(vec![standard_input(folder, first, stop)?]);
    }
    let found = input::resolve_files(&spec.input, &spec.output.path)?;
    let Some(first) = first else { return Ok(found) };
    let known: Vec<PathBuf> = first
        .input
        .files
        .iter()
        .map(|file| file.path.clone())
        .collect();
    if spec.input.path != first.spec.input.path || !known.iter().all(|path| path.exists()) {
        // The same files may stand elsewhere now; their hashes decide.
        return Ok(found);
    }
    for late in found.iter().filter(|path| !known.contains(path)) {
        observer.note(&format!(
            "warning: `{}` came after the first run and is left out",
            late.display()
        ));
    }
    Ok(known)
}

/// The copy of standard input: made by the first run, read again by the others.
fn standard_input(
    folder: &OutputFolder,
    first: Option<&JobRecord>,
    stop: &StopFlag,
) -> Result<PathBuf> {
    let copy = folder.standard_input();
    let mut input = std::io::stdin().lock();
    // A copy without a job is what a refused run left; new input replaces it.
    let is_stale = first.is_none() && input.fill_buf().is_ok_and(|bytes| !bytes.is_empty());
    if is_stale || !copy.exists() {
        input::copy_stdin(input, &copy, &|| stop.is_requested())?;
    }
    Ok(copy)
}

/// Writes `job.json`, or holds this run against the one that is there.
fn establish(
    folder: &OutputFolder,
    record: JobRecord,
    first: Option<JobRecord>,
    observer: &mut dyn Observer,
) -> Result<JobRecord> {
    let first = match first {
        Some(first) => first,
        None if record.create(folder)? => return Ok(record),
        // Another host was faster, where locks do not reach from one to the other.
        None => JobRecord::load(folder)?.ok_or_else(|| CheckpointError::NoJob {
            path: folder.root().to_path_buf(),
        })?,
    };
    let differences = spec::differences(&first.spec, &record.spec);
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
        return Ok(record);
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
