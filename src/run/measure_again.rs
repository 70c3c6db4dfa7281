//! Committed rows and the input to metrics, for what the manifests do not have: windows that an earlier version
//! committed, and groups by a column that the job did not name.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::counts::as_the_model_writes;
use super::read::source_of;
use crate::checkpoint::{self, CommittedWindow, GroupTotals, JobRecord, OutputFolder, Totals};
use crate::error::{Error, Result};
use crate::ids::RowId;
use crate::input::{self, InputError, InputRow, PromptSource};
use crate::job::{JobSpec, Task};
use crate::metrics;
use crate::sink::{self, ResultRow};
use crate::stop::StopFlag;
use crate::tokenize::GlmTokenizer;

/// The counts of a job's committed rows with their metrics, by a column where one is given.
///
/// # Errors
///
/// A manifest or a part that cannot be read; an input that is gone or changed, where it is needed.
pub(crate) fn measured(
    folder: &OutputFolder,
    record: &JobRecord,
    by: Option<&str>,
) -> Result<Totals> {
    let regroups = by.is_some() && by != record.spec.report.by.as_deref();
    let windows = checkpoint::committed_windows(folder)?;
    let measures =
        record.spec.task == Task::Generate && record.spec.input.columns.reference.is_some();
    if regroups && !measures {
        return Err(Error::Usage(
            "`--by` groups the answers of the task `generate` that have references\nhint: name the column in the job as `report.by`, and run it with `--restart`".to_owned(),
        ));
    }
    let lacks = |window: &CommittedWindow| measures && (regroups || is_unmeasured(&window.totals));
    let mut again = if windows.iter().any(lacks) {
        Some(Again::new(record, by)?)
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
}

impl Again {
    fn new(record: &JobRecord, by: Option<&str>) -> Result<Self> {
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
        let is_of_flag = by.is_some();
        let by = by.or(spec.report.by.as_deref());
        Ok(Self {
            source: source_of(&record, by).map_err(|error| named_by_flag(error, is_of_flag))?,
            tokenizer: tokenizer(spec),
            groups: by.is_some(),
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
        let answers = answers(&folder.entry(&window.part.name))?;
        let has_metrics = metrics::has(&totals.sums);
        let mut read = self.source.read_window(span)?;
        // What the job leaves out belongs to no group.
        read.sift()?;
        for row in read.rows {
            let of_row = self.row(&row, answers.get(&row.row));
            if !has_metrics {
                totals.sums += &of_row.sums;
            }
            if self.groups {
                totals.add_to_group(row.group.as_deref().unwrap_or_default(), &of_row);
            }
        }
        Ok(totals)
    }

    fn row(&self, row: &InputRow, answers: Option<&Vec<String>>) -> GroupTotals {
        let mut totals = GroupTotals {
            rows: 1,
            ..GroupTotals::default()
        };
        // Without a tokenizer exact matches cannot be counted, and then a group says nothing of them.
        totals.referenced = u64::from(row.reference.is_some() && self.tokenizer.is_some());
        let Some(answers) = answers else {
            return totals;
        };
        totals.ok = 1;
        let Some(reference) = &row.reference else {
            return totals;
        };
        let references: Vec<&str> = reference.texts().collect();
        let answers: Vec<&str> = answers.iter().map(String::as_str).collect();
        metrics::count(&answers, &references, &mut totals.sums);
        if let (Some(tokenizer), Some(answer)) = (&self.tokenizer, answers.first()) {
            let is_right = |text: &&str| as_the_model_writes(tokenizer, text) == answer.trim();
            totals.exact = u64::from(references.iter().any(is_right));
        }
        totals
    }
}

/// The error with the flag in place of the key, where the column comes from the flag.
fn named_by_flag(error: Error, is_of_flag: bool) -> Error {
    match error {
        Error::Input(InputError::UnknownColumn { column, cure, .. }) if is_of_flag => {
            Error::Input(InputError::UnknownColumn {
                key: "--by",
                column,
                cure,
            })
        }
        error => error,
    }
}

fn tokenizer(spec: &JobSpec) -> Option<GlmTokenizer> {
    GlmTokenizer::load(&spec.model.path).ok()
}

/// The answers in a part by row, in the order of the samples; rows without a result have none.
fn answers(part: &Path) -> Result<BTreeMap<RowId, Vec<String>>> {
    let mut answers: BTreeMap<RowId, Vec<String>> = BTreeMap::new();
    for row in sink::read_part(part)? {
        let row = row?;
        let number = row.get("row").and_then(Value::as_u64);
        if let (Some(number), true) = (number, is_ok(&row)) {
            answers
                .entry(RowId(number))
                .or_default()
                .extend(completions(&row));
        }
    }
    Ok(answers)
}

fn is_ok(row: &ResultRow) -> bool {
    row.get("status").and_then(Value::as_str) == Some("ok")
}

/// The answers of a line: one, or the list of a nested line.
fn completions(row: &ResultRow) -> Vec<String> {
    match row.get("completion") {
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(texts)) => {
            let texts = texts.iter().filter_map(Value::as_str);
            texts.map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}
