//! An output folder to what its page says, in one pass over the parts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde_json::Value;

use super::numbers::Numbers;
use crate::checkpoint::{self, CommittedWindow, JobRecord, OutputFolder, Totals};
use crate::error::Result;
use crate::ids::{RowId, ShardId};
use crate::input;
use crate::report::{FailureReason, MetricsReport, RunReport};
use crate::run::{self, Columns, Prompts};
use crate::sink::{self, ResultRow};
use crate::stop::StopFlag;
use crate::tasks;

/// Rows that are shown side by side.
const SHOWN_ROWS: u64 = 20;

/// Columns of numbers that get a histogram, with what they are.
const MEASURED: [(&str, &str); 13] = [
    ("prompt_tokens", "tokens of the context"),
    ("completion_tokens", "tokens of an answer"),
    ("target_tokens", "tokens of a target"),
    ("score", "score of a beam"),
    ("logprob", "log-probability"),
    ("mean_logprob", "log-probability a token"),
    ("perplexity", "perplexity"),
    ("reward", "reward"),
    ("chosen_score", "score of the chosen answer"),
    ("rejected_score", "score of the rejected answer"),
    ("margin", "margin between chosen and rejected"),
    ("choice", "number of the choice"),
    ("choice_logprobs", "log-probability of a choice"),
];

/// Columns of a row that are said beside its prompt, not among its results.
const BESIDE: [&str; 7] = [
    "row",
    "id",
    "sample",
    "pair",
    "rendered_prompt",
    "rendered_prefix",
    "prompt_tokens",
];

/// Columns that say too little for their length.
const UNREADABLE: [&str; 2] = ["token_ids", "token_logprobs"];

/// What a page says.
pub(super) struct Gathered {
    pub(super) record: JobRecord,
    pub(super) is_finished: bool,
    pub(super) rows: u64,
    pub(super) totals: Totals,
    pub(super) metrics: MetricsReport,
    pub(super) failures: Vec<FailureReason>,
    /// The last run of each shard and phase, with what it is of.
    pub(super) runs: Vec<(String, RunReport)>,
    /// Seconds since the job began, and rows that were committed by then.
    pub(super) progress: Vec<(f64, f64)>,
    /// By column: what it is, and its numbers.
    pub(super) numbers: Vec<(&'static str, &'static str, Numbers)>,
    pub(super) shown: Vec<ShownRow>,
    /// What the page cannot say, and why.
    pub(super) notes: Vec<String>,
}

/// A row with its lines of results.
pub(super) struct ShownRow {
    pub(super) row: u64,
    pub(super) id: String,
    pub(super) prompt: Option<String>,
    pub(super) reference: Option<String>,
    /// By line: names and values.
    pub(super) lines: Vec<Vec<(String, String)>>,
}

/// Reads a folder.
pub(super) fn gather(
    folder: &OutputFolder,
    record: &JobRecord,
    columns: Columns<'_>,
) -> Result<Gathered> {
    let record = &*columns.of(record)?;
    let by = columns.by;
    let windows = checkpoint::committed_windows(folder)?;
    let mut notes = Vec::new();
    let mut totals = match run::measured(folder, record, columns) {
        Ok(totals) => totals,
        Err(error) if by.is_none() && columns.reference.is_none() => {
            notes.push(format!(
                "windows of an earlier version are not measured: {error}"
            ));
            committed(&windows)
        }
        Err(error) => return Err(error),
    };
    notes.extend(columns.note(&totals)?);
    let task = record.spec.task;
    let by = by.or(record.spec.report.by.as_deref());
    totals.add_behind(record.input.rows_behind());
    let mut reader = Reader::new(record, totals.taken());
    for window in &windows {
        reader.read(folder, window)?;
    }
    Ok(Gathered {
        is_finished: windows.len() == record.input.windows.len(),
        rows: record.input.rows,
        metrics: MetricsReport::new(task, by.map(str::to_owned), &totals),
        failures: run::failure_reasons(folder).0,
        runs: runs(folder, record),
        progress: progress(folder, &windows),
        numbers: reader.numbers(),
        shown: reader.shown(record, &mut notes),
        notes,
        totals,
        record: record.clone(),
    })
}

/// What the last run of each shard and phase said of itself; a report that is not there is passed over.
fn runs(folder: &OutputFolder, record: &JobRecord) -> Vec<(String, RunReport)> {
    let phases = record.spec.phases();
    let of_phases = phases
        .iter()
        .map(|&phase| (phase.name(), folder.phase(phase)));
    let last = if phases.is_empty() { "" } else { "pairs" };
    let mut runs = Vec::new();
    for (phase, folder) in of_phases.chain([(last, folder.clone())]) {
        for shard in (0..record.spec.shards).map(ShardId) {
            let text = std::fs::read(folder.report(shard)).ok();
            let report = text.and_then(|text| serde_json::from_slice(&text).ok());
            runs.extend(report.map(|report| (format!("{phase} shard {shard}"), report)));
        }
    }
    runs
}

/// When the parts were written, by the times of their files: the manifests have none, so that equal jobs have equal ones.
fn progress(folder: &OutputFolder, windows: &[CommittedWindow]) -> Vec<(f64, f64)> {
    let written = |path| -> Option<SystemTime> { std::fs::metadata(path).ok()?.modified().ok() };
    let times = windows.iter().filter_map(|window| {
        let time = written(folder.entry(&window.part.name))?;
        Some((time, window.rows))
    });
    let mut times: Vec<(SystemTime, u64)> = times.collect();
    times.sort();
    let begun = written(folder.job_file());
    let Some(begun) = begun.or(times.first().map(|(time, _)| *time)) else {
        return Vec::new();
    };
    let mut rows = 0;
    let mut points = vec![(0.0, 0.0)];
    for (time, more) in times {
        rows += more;
        let seconds = time.duration_since(begun).unwrap_or_default();
        points.push((seconds.as_secs_f64(), rows as f64));
    }
    points
}

/// Takes what the page needs from result lines.
struct Reader {
    ours: BTreeSet<&'static str>,
    reference: Option<String>,
    numbers: BTreeMap<&'static str, Numbers>,
    /// Every so many rows one is shown.
    every: u64,
    seen: u64,
    last: Option<u64>,
    shown: Vec<ShownRow>,
}

impl Reader {
    fn new(record: &JobRecord, rows: u64) -> Self {
        let form = tasks::form(&record.spec);
        let spec = &record.spec;
        let renamed = |name: &String| {
            let renamed = spec.output.rename.iter().find(|(from, _)| from == name);
            match renamed {
                Some((_, to)) => to.clone(),
                None if record.input.is_result(name) => format!("source_{name}"),
                None => name.clone(),
            }
        };
        Self {
            ours: form.names().collect(),
            reference: spec.input.columns.reference.as_ref().map(renamed),
            numbers: BTreeMap::new(),
            every: rows.div_ceil(SHOWN_ROWS).max(1),
            seen: 0,
            last: None,
            shown: Vec::new(),
        }
    }

    fn read(&mut self, folder: &OutputFolder, window: &CommittedWindow) -> Result<()> {
        let unchanged = |file| checkpoint::unchanged(folder, file, &StopFlag::default());
        // The reasons of rows that failed are taken from it.
        window.failed.as_ref().map(unchanged).transpose()?;
        let path = unchanged(&window.part)?;
        for line in sink::read_part(&path)? {
            self.line(&line?);
        }
        Ok(())
    }

    fn line(&mut self, line: &ResultRow) {
        let Some(row) = line.get("row").and_then(Value::as_u64) else {
            return;
        };
        let is_first = self.last != Some(row);
        if is_first {
            self.last = Some(row);
            self.seen += 1;
            if (self.seen - 1).is_multiple_of(self.every) {
                self.shown.push(self.begin(row, line));
            }
        }
        for (name, _) in MEASURED {
            if self.ours.contains(name) && (name != "prompt_tokens" || is_first) {
                self.measure(name, line.get(name));
            }
        }
        let named = self.named(line);
        match self.shown.last_mut() {
            Some(shown) if shown.row == row => shown.lines.push(named),
            _ => {}
        }
    }

    fn measure(&mut self, name: &'static str, value: Option<&Value>) {
        match value {
            Some(Value::Number(number)) => {
                let numbers = self.numbers.entry(name).or_default();
                numbers.add(number.as_f64().unwrap_or(f64::NAN));
            }
            Some(Value::Array(items)) => {
                for item in items {
                    self.measure(name, Some(item));
                }
            }
            _ => {}
        }
    }

    fn begin(&self, row: u64, line: &ResultRow) -> ShownRow {
        let text = |name: &str| line.get(name).filter(|value| !value.is_null()).map(text_of);
        let kept = text("rendered_prompt").map(|prompt| match text("rendered_prefix") {
            Some(prefix) => format!("{prompt}\n{prefix}"),
            None => prompt,
        });
        ShownRow {
            row,
            id: text("id").unwrap_or_default(),
            prompt: kept,
            reference: self.reference.as_ref().and_then(|name| text(name)),
            lines: Vec::new(),
        }
    }

    /// The results of a line by name, without those that say nothing to people.
    fn named(&self, line: &ResultRow) -> Vec<(String, String)> {
        let says = |name: &str, value: &Value| {
            self.ours.contains(name)
                && !BESIDE.contains(&name)
                && !UNREADABLE.contains(&name)
                && !value.is_null()
                && (name != "status" || value != "ok")
        };
        let named = line.iter().filter(|(name, value)| says(name, value));
        named
            .map(|(name, value)| (name.clone(), text_of(value)))
            .collect()
    }

    fn numbers(&mut self) -> Vec<(&'static str, &'static str, Numbers)> {
        let mut numbers = std::mem::take(&mut self.numbers);
        MEASURED
            .into_iter()
            .filter_map(|(name, what)| Some((name, what, numbers.remove(name)?)))
            .filter(|(.., numbers)| !numbers.is_empty())
            .collect()
    }

    /// The rows with their prompts, made again from the input where the results do not hold them and it is as it was.
    fn shown(self, record: &JobRecord, notes: &mut Vec<String>) -> Vec<ShownRow> {
        let mut shown = self.shown;
        if shown.iter().any(|row| row.prompt.is_none())
            && let Err(error) = put_prompts(&mut shown, record)
        {
            notes.push(format!("prompts are not shown: {error}"));
        }
        shown
    }
}

/// Makes the prompts again that the results have not kept.
fn put_prompts(shown: &mut [ShownRow], record: &JobRecord) -> Result<()> {
    let mut record = record.clone();
    // A file that was only copied or touched since is still what the job has read.
    input::confirm(&mut record.input, record.rules, &StopFlag::default())?;
    let mut prompts = Prompts::new(&record)?;
    for row in shown.iter_mut().filter(|row| row.prompt.is_none()) {
        let prompt = prompts.of(RowId(row.row))?;
        row.prompt = prompt.map(|prompt| match &prompt.prefix {
            Some(prefix) => format!("{}\n{prefix}", prompt.text),
            None => prompt.text.clone(),
        });
    }
    Ok(())
}

/// The counts that the manifests have.
fn committed(windows: &[CommittedWindow]) -> Totals {
    let mut totals = Totals::default();
    for window in windows {
        totals += &window.totals;
    }
    totals
}

/// A value as people read it: a text without quotation marks.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text_of).collect::<Vec<_>>().join(" · "),
        other => other.to_string(),
    }
}
