//! The input of a job: its files found, indexed and open.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checkpoint::{JobRecord, OutputFolder};
use crate::error::{Error, Result};
use crate::fsio::FsError;
use crate::input::{
    self, FoundFile, InputError, InputFile, InputIndex, InputStream, MAX_WINDOW_BYTES, OpenOptions,
    Place, PromptSource, ScanOptions,
};
use crate::job::{InputSpec, JobSpec, Rules};
use crate::outcome::BadRow;
use crate::report::Observer;
use crate::sink::{self, ResultSink};
use crate::stop::StopFlag;
use crate::tasks::{self, Examples};

use super::earlier;
use super::options::RunOptions;
use super::rerun::rules_of;

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
    /// What goes before the prompts.
    pub(super) examples: Option<Examples>,
}

impl ReadInput {
    /// The input of a run, or of a trial's rows.
    pub(super) fn new(
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
            rules: rules_of(first, spec),
            stop,
        };
        let Some(selection) = options.trial else {
            return Self::open(&reading);
        };
        // A bad row may be none of the trial's; its own ones are met when they are read.
        let (read, _) = Self::scan(&reading)?;
        let (source, index) = input::select(
            read.source,
            &read.index,
            &spec.input,
            selection,
            spec.batch.window_rows,
        );
        Ok(Self {
            index: Arc::new(index),
            source,
            examples: read.examples,
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
            &tasks::form(spec),
            &self.index,
            input::id_column(&spec.input.columns, &self.index).as_deref(),
            self.source.arrow_schema().as_deref(),
        )?)
    }

    /// What should be known of the names of the result columns.
    pub(super) fn case_note(&self, spec: &JobSpec) -> Result<Option<String>> {
        let id = input::id_column(&spec.input.columns, &self.index);
        let form = tasks::form(spec);
        Ok(sink::case_note(&form, &self.index, id.as_deref())?)
    }

    /// What should be known of columns that hold texts beside other values.
    pub(super) fn kinds_note(&self, spec: &JobSpec) -> Result<Option<String>> {
        let id = input::id_column(&spec.input.columns, &self.index);
        let form = tasks::form(spec);
        Ok(sink::kinds_note(&form, &self.index, id.as_deref())?)
    }

    fn scan(reading: &Reading<'_>) -> Result<(Self, Option<(Place, BadRow)>)> {
        let Reading {
            spec, rules, stop, ..
        } = reading;
        let mut examples = Examples::read(spec, *rules, stop)?;
        let input = input_spec(spec, *rules);
        let scan = input::scan(&ScanOptions {
            spec: &input,
            prompt: &spec.prompt,
            choices: spec.template_choices(),
            files: reading.files,
            rules: *rules,
            window_rows: spec.batch.window_rows,
            shards: spec.shards,
            max_window_bytes: MAX_WINDOW_BYTES,
            previous: reading.previous,
            stop,
        })?;
        let index = Arc::new(scan.index);
        if let Some(examples) = &mut examples {
            examples.beside(&index);
        }
        let options = OpenOptions {
            input: &input,
            prompt: &spec.prompt,
            group: spec.report.by.as_deref(),
            choices: spec.template_choices(),
            carried: &spec.output.columns,
            rules: *rules,
        };
        let mut source = input::open(&options, Arc::clone(&index))?;
        source.stop_with(stop);
        let read = Self {
            index,
            source,
            examples,
        };
        Ok((read, scan.first_bad))
    }
}

/// The input of a job that has begun, opened again; `group` is the column that splits its metrics.
pub(super) fn source_of(record: &JobRecord, group: Option<&str>) -> Result<Box<dyn PromptSource>> {
    let spec = &record.spec;
    let options = OpenOptions {
        input: &input_spec(spec, record.rules),
        prompt: &spec.prompt,
        group,
        choices: spec.template_choices(),
        carried: &spec.output.columns,
        rules: record.rules,
    };
    Ok(input::open(&options, Arc::new(record.input.clone()))?)
}

/// What reading goes by under the rules of the job.
pub(super) fn input_spec(spec: &JobSpec, rules: Rules) -> InputSpec {
    let mut input = spec.input.clone();
    if rules.rows == 1 {
        // Such a job began when lines had no limit.
        input.max_row_bytes = u64::MAX;
    }
    input
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
    if let Some(first) = first {
        earlier::refuse_restarted(&first.input)?;
    }
    let found = earlier::input_files(&spec.input, &spec.output.path, rules_of(first, spec));
    for note in found.iter().flat_map(|found| &found.notes) {
        observer.note(&format!("note: {note}"));
    }
    let Some(first) = first else {
        return Ok(found?.files);
    };
    let known = || first.input.files.iter();
    if spec.input.path != first.spec.input.path || !known().all(|file| file.path.exists()) {
        // The same files may be elsewhere now; their hashes decide.
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
    Ok(earlier::of_first_run(&first.input))
}

pub(super) fn reads_standard_input(spec: &JobSpec) -> bool {
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

/// The place of a row, in words.
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
