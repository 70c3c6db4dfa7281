//! Committed rows and the input to metrics, for what the manifests do not have: windows that an earlier version
//! committed, and groups by a column, or references in one, that the job did not name.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::counts::as_the_model_writes;
use super::phase_results::PhaseResults;
use super::read::source_of;
use crate::checkpoint::{self, CommittedWindow, GroupTotals, JobRecord, OutputFolder, Totals};
use crate::error::{Error, Result};
use crate::ids::{RowId, WindowId};
use crate::input::{self, InputError, InputRow, PromptSource};
use crate::job::{JobSpec, Phase, Task};
use crate::metrics;
use crate::numbers::{counted, grouped};
use crate::outcome::{RowResult, Sums};
use crate::sink::{self, ResultRow};
use crate::stop::StopFlag;
use crate::tasks;
use crate::tokenize::GlmTokenizer;

/// Columns of the input that metrics are asked by, beside those that the job names.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Columns<'a> {
    /// The one whose values split them into groups.
    pub by: Option<&'a str>,
    /// The one with the expected answers.
    pub reference: Option<&'a str>,
}

impl Columns<'_> {
    /// The job as if it had named the column with the expected answers.
    ///
    /// # Errors
    ///
    /// A job whose answers are compared with others already, or with none at all.
    pub(crate) fn of(self, record: &JobRecord) -> Result<Cow<'_, JobRecord>> {
        let Some(column) = self.reference else {
            return Ok(Cow::Borrowed(record));
        };
        let mut record = record.clone();
        let task = record.spec.task;
        if task != Task::Generate {
            let name = task.name();
            return Err(Error::Usage(format!(
                "`--reference` is for the answers of `generate`, and the task of this job is `{name}`\nhint: leave it out"
            )));
        }
        if let Some(own) = &record.spec.input.columns.reference {
            return Err(Error::Usage(format!(
                "the job compares its answers with the column `{own}` already\nhint: leave out `--reference`"
            )));
        }
        record.spec.input.columns.reference = Some(column.to_owned());
        Ok(Cow::Owned(record))
    }

    /// What is to be known of the references of a job that named none.
    ///
    /// # Errors
    ///
    /// No row has one.
    pub(crate) fn note(self, totals: &Totals) -> Result<Option<String>> {
        let Some(column) = self.reference else {
            return Ok(None);
        };
        let rows = counted(totals.taken(), "row");
        if !metrics::has(&totals.sums) {
            return Err(Error::Usage(format!(
                "of {rows} none has an answer and a reference in `{column}`\nhint: a reference is a text, a list of texts, or a list of objects with the text `answer`"
            )));
        }
        Ok(match totals.referenced {
            0 => Some("exact matches are not counted: the model's folder is gone".to_owned()),
            some if some < totals.taken() => {
                let some = grouped(some);
                Some(format!("{some} of {rows} have a reference in `{column}`"))
            }
            _ => None,
        })
    }
}

/// The counts of a job's committed rows with their metrics; the record is that of [`Columns::of`].
///
/// # Errors
///
/// A manifest or a part that cannot be read; an input that is gone or changed, where it is needed; a column that no row has.
pub(crate) fn measured(
    folder: &OutputFolder,
    record: &JobRecord,
    columns: Columns<'_>,
) -> Result<Totals> {
    let spec = &record.spec;
    let by = columns.by;
    let regroups = by.is_some() && by != spec.report.by.as_deref();
    let compares = columns.reference.is_some();
    let windows = checkpoint::committed_windows(folder)?;
    let measures = spec.task == Task::Generate && spec.input.columns.reference.is_some();
    let lacks = |window: &CommittedWindow| {
        regroups || compares || measures && is_unmeasured(&window.totals)
    };
    let mut again = if windows.iter().any(lacks) {
        Some(Again::new(folder, record, columns)?)
    } else {
        None
    };
    let mut totals = Totals::default();
    for window in &windows {
        match &mut again {
            Some(again) if lacks(window) => totals += &again.window(folder, record, window)?,
            _ => totals += &window.totals,
        }
    }
    Ok(totals)
}

/// Whether a window has rows to measure, and an earlier version committed it.
pub(super) fn is_unmeasured(window: &Totals) -> bool {
    window.referenced > 0 && window.ok > 0 && !metrics::has(&window.sums)
}

/// What measures windows again.
struct Again {
    source: Box<dyn PromptSource>,
    /// `None` where the model's folder is gone: exact matches are not counted by group then.
    tokenizer: Option<GlmTokenizer>,
    groups: bool,
    /// The task that gave the answers.
    task: Task,
    /// Whether answers are compared with the references of their rows.
    compares: bool,
    /// Whether the manifests know nothing of the references.
    counts_references: bool,
    /// Where the answers are, if not in the results.
    samples: Option<Samples>,
}

/// What the results of a job of phases were made of: its phase of samples.
struct Samples {
    record: JobRecord,
    results: PhaseResults,
}

impl Samples {
    fn of(folder: &OutputFolder, record: &JobRecord) -> Result<Option<Self>> {
        if !record.spec.phases().contains(&Phase::Samples) {
            return Ok(None);
        }
        Ok(Some(Self {
            record: record.of_phase(Phase::Samples),
            results: PhaseResults::open(Phase::Samples, &folder.phase(Phase::Samples))?,
        }))
    }

    /// The answers of a window by row.
    fn window(&self, window: WindowId) -> Result<BTreeMap<RowId, RowResult>> {
        let part = &self.results.window(window)?.part;
        results(&self.results.unchanged(part)?, &self.record)
    }
}

impl Again {
    fn new(folder: &OutputFolder, record: &JobRecord, columns: Columns<'_>) -> Result<Self> {
        if record.trial.is_some() {
            return Err(Error::Usage(
                "the rows of a trial cannot be found again in its input\nhint: run the whole job"
                    .to_owned(),
            ));
        }
        // A file that was only copied or touched since is still what the job has read.
        let mut record = record.clone();
        input::confirm(&mut record.input, record.rules, &StopFlag::default())?;
        let spec = &record.spec;
        let by = columns.by.or(spec.report.by.as_deref());
        Ok(Self {
            source: source_of(&record, by).map_err(|error| of_flag(error, columns))?,
            tokenizer: tokenizer(spec),
            task: if spec.phases().is_empty() {
                spec.task
            } else {
                Task::Generate
            },
            groups: by.is_some(),
            compares: spec.input.columns.reference.is_some(),
            counts_references: columns.reference.is_some(),
            samples: Samples::of(folder, &record)?,
        })
    }

    /// The counts of a window: those of its manifest, with metrics and groups made anew.
    fn window(
        &mut self,
        folder: &OutputFolder,
        record: &JobRecord,
        window: &CommittedWindow,
    ) -> Result<Totals> {
        let mut totals = window.totals.clone();
        totals.groups = BTreeMap::new();
        let span = record
            .input
            .windows
            .iter()
            .find(|span| span.id == window.window);
        let Some(span) = span else {
            return Ok(totals);
        };
        let part = checkpoint::unchanged(folder, &window.part, &StopFlag::default())?;
        let mut results = results(&part, record)?;
        let task = tasks::of(record.spec.task);
        let samples = self.samples.as_ref();
        let samples = samples.map(|samples| samples.window(window.window));
        let samples = samples.transpose()?;
        let has_metrics = metrics::has(&totals.sums);
        let mut read = self.source.read_window(span)?;
        // What the job leaves out belongs to no group.
        read.sift()?;
        for row in read.rows {
            let result = results.get_mut(&row.row);
            if let (Some(result), Ok(prompt)) = (result, &row.outcome) {
                task.restore(&record.spec, prompt, result);
            }
            let result = results.get(&row.row);
            let answers = samples.as_ref().map_or(result, |all| all.get(&row.row));
            let (mut of_row, metrics) = self.row(&row, answers);
            if let Some(result) = result {
                of_row.ok = 1;
                task.count(result, &mut of_row.sums);
            }
            if !has_metrics {
                totals.sums += &metrics;
            }
            if self.counts_references {
                totals.referenced += of_row.referenced;
                totals.exact += of_row.exact;
            }
            of_row.sums += &metrics;
            if self.groups {
                totals.add_to_group(row.group.as_deref().unwrap_or_default(), &of_row);
            }
        }
        Ok(totals)
    }

    /// What the answers of a row add to the counts, and to the metrics.
    fn row(&self, row: &InputRow, answers: Option<&RowResult>) -> (GroupTotals, Sums) {
        let mut metrics = Sums::default();
        let mut totals = GroupTotals {
            rows: 1,
            ..GroupTotals::default()
        };
        let reference = row.reference.as_ref().filter(|_| self.compares);
        // Without a tokenizer exact matches cannot be counted, and then a group says nothing of them.
        totals.referenced = u64::from(reference.is_some() && self.tokenizer.is_some());
        let Some(result) = answers else {
            return (totals, metrics);
        };
        let task = tasks::of(self.task);
        if self.samples.is_some() {
            task.count(result, &mut totals.sums);
        }
        if let Some(reference) = reference {
            let references: Vec<&str> = reference.texts().collect();
            metrics::count(&task.answers(result), &references, &mut metrics);
            if let Some(tokenizer) = &self.tokenizer {
                let written = |text: &str| as_the_model_writes(tokenizer, text);
                totals.exact = u64::from(task.matches(result, reference, &written));
            }
        }
        (totals, metrics)
    }
}

/// A column that the command names and no row has; those that the job names were there when it began.
fn of_flag(error: Error, columns: Columns<'_>) -> Error {
    match error {
        Error::Input(InputError::UnknownColumn { key, column, cure }) => {
            let flag = match key {
                "report.by" if columns.by == Some(&column) => "--by",
                "input.columns.reference" if columns.reference == Some(&column) => "--reference",
                _ => return InputError::UnknownColumn { key, column, cure }.into(),
            };
            Error::Usage(format!(
                "no row has the column `{column}` that `{flag}` names\nhint: {cure}"
            ))
        }
        error => error,
    }
}

fn tokenizer(spec: &JobSpec) -> Option<GlmTokenizer> {
    GlmTokenizer::load(&spec.model.path).ok()
}

/// The results in a part by row; rows without a result have none.
fn results(part: &Path, record: &JobRecord) -> Result<BTreeMap<RowId, RowResult>> {
    let form = tasks::form(&record.spec);
    let mut results = BTreeMap::new();
    let mut lines: Vec<ResultRow> = Vec::new();
    let mut take = |lines: &mut Vec<ResultRow>| {
        let number = lines.first().and_then(number);
        let result = sink::result_of(&form, lines);
        results.extend(number.zip(result));
        lines.clear();
    };
    // The lines of a row lie together.
    for line in sink::read_part(part)? {
        let line = line?;
        if lines.first().and_then(number) != number(&line) {
            take(&mut lines);
        }
        lines.push(line);
    }
    take(&mut lines);
    Ok(results)
}

fn number(line: &ResultRow) -> Option<RowId> {
    line.get("row").and_then(Value::as_u64).map(RowId)
}
