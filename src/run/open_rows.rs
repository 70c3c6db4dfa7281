//! Journals to result rows, for people who look at a job while it runs.
//!
//! A journal has neither ids nor the input's columns. They come from the input, of which only the windows that have a
//! journal are read: at most two a shard. Where the input is gone or has changed, and in a trial, whose rows are known
//! only after a pass over the whole input, rows are shown without them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::read::source_of;
use crate::checkpoint::{self, JobFingerprint, JobRecord, OutputFolder, StoredJob};
use crate::error::Result;
use crate::ids::{RowId, WindowId};
use crate::input::{
    self, Carried, HeldPrompt, InputIndex, InputRow, InputWindow, JsonRows, Place, PromptSource,
    WindowSpan,
};
use crate::job::{CarriedColumns, JobSpec, OutputFormat};
use crate::outcome::Outcome;
use crate::sink::{self, ResultRow, ResultSink};
use crate::tasks;

/// Rows of the windows that are not committed yet.
pub(crate) struct OpenRows {
    folder: OutputFolder,
    record: JobRecord,
    job: JobFingerprint,
    journalled: BTreeSet<WindowId>,
    /// Opened when the first window is asked for.
    input: Option<std::result::Result<Input, String>>,
}

/// The input of the job, and what writes its rows.
struct Input {
    source: Box<dyn PromptSource>,
    sink: Box<dyn ResultSink>,
}

impl OpenRows {
    /// Looks which windows have a journal.
    ///
    /// # Errors
    ///
    /// Those of [`StoredJob::existing`].
    pub(crate) fn new(folder: &OutputFolder) -> Result<Self> {
        let StoredJob {
            record,
            fingerprint,
        } = StoredJob::existing(folder)?;
        Ok(Self {
            folder: folder.clone(),
            record,
            job: fingerprint,
            journalled: folder.journalled_windows().into_iter().collect(),
            input: None,
        })
    }

    /// Why rows are shown without ids and columns, where they are.
    pub(crate) fn reason_without_columns(&self) -> Option<&str> {
        self.input.as_ref()?.as_ref().err().map(String::as_str)
    }

    /// The rows in the journal of a window, as JSON lines of its part would give them, or those that failed as a
    /// line of `failed/` does.
    ///
    /// # Errors
    ///
    /// A journal of another job, or one that cannot be read; a row that cannot be written.
    pub(crate) fn rows(&mut self, span: &WindowSpan, failed: bool) -> Result<Vec<ResultRow>> {
        if !self.journalled.contains(&span.id) {
            return Ok(Vec::new());
        }
        let mut outcomes = checkpoint::journalled_rows(&self.folder, &self.job, span)?;
        if failed {
            outcomes.retain(|_, outcome| outcome.failure().is_some());
        }
        if outcomes.is_empty() {
            return Ok(Vec::new());
        }
        let record = &self.record;
        let input = self.input.get_or_insert_with(|| Input::open(record));
        if let Ok(open) = input {
            match open.rows(span, &outcomes, &record.input, failed) {
                Ok(rows) => return Ok(rows),
                Err(reason) => *input = Err(reason),
            }
        }
        if failed {
            return Ok(outcomes.iter().filter_map(failed_row).collect());
        }
        rows_alone(record, span.id, &outcomes)
    }
}

impl Input {
    fn open(record: &JobRecord) -> std::result::Result<Self, String> {
        if record.trial.is_some() {
            return Err("the job is a trial".to_owned());
        }
        let source = source_of(record, None).map_err(|error| error.to_string())?;
        let spec = as_lines(&record.spec);
        let id = input::id_column(&spec.input.columns, &record.input);
        let sink = sink::new_sink(
            &tasks::form(&spec),
            &record.input,
            id.as_deref(),
            source.arrow_schema().as_deref(),
        );
        let sink = sink.map_err(|error| error.to_string())?;
        Ok(Self { source, sink })
    }

    fn rows(
        &self,
        span: &WindowSpan,
        outcomes: &BTreeMap<RowId, Outcome>,
        index: &InputIndex,
        failed: bool,
    ) -> std::result::Result<Vec<ResultRow>, String> {
        let window = self.source.read_rows(span, &|_, row| row.release());
        let mut window = window.map_err(|error| error.to_string())?;
        for row in &mut window.rows {
            // A row without an outcome has no line yet. Its values keep their place in the window.
            row.is_record &= outcomes.contains_key(&row.row);
            if row.outcome.is_err() && !outcomes.contains_key(&row.row) {
                row.outcome = Ok(HeldPrompt::default());
            }
        }
        let mut lines = Vec::new();
        if failed {
            sink::write_failed(&window, outcomes, &index.files, &mut lines)
                .map_err(|error| error.to_string())?;
        } else {
            self.sink
                .write_part(&window, outcomes, &mut lines)
                .map_err(|error| error.to_string())?;
        }
        sink::read_lines(&lines)
    }
}

/// The results of a job as JSON lines, in whatever format its parts are.
fn as_lines(spec: &JobSpec) -> JobSpec {
    let mut spec = spec.clone();
    spec.output.format = OutputFormat::Jsonl;
    spec
}

/// A failed row without what only the input knows.
fn failed_row((row, outcome): (&RowId, &Outcome)) -> Option<ResultRow> {
    let bad = outcome.failure()?;
    let row = json!({ "row": row, "id": null, "stage": bad.stage, "reason": bad.reason });
    match row {
        Value::Object(row) => Some(row),
        _ => None,
    }
}

/// The rows of a window without ids and without the input's columns: both are null.
fn rows_alone(
    record: &JobRecord,
    window: WindowId,
    outcomes: &BTreeMap<RowId, Outcome>,
) -> Result<Vec<ResultRow>> {
    let spec = &record.spec;
    let id = input::id_column(&spec.input.columns, &record.input);
    let names = sink::result_columns(&tasks::form(spec), &record.input, id.as_deref())?;
    let mut alone = as_lines(spec);
    alone.output.columns = CarriedColumns::None;
    alone.output.rename = Vec::new();
    let sink = sink::new_sink(&tasks::form(&alone), &record.input, None, None)?;
    let rows = outcomes.keys().map(|&row| InputRow {
        row,
        place: Place::Line { file: 0, line: 0 },
        id: String::new(),
        reference: None,
        group: None,
        is_record: true,
        left_out: None,
        outcome: Ok(HeldPrompt::default()),
    });
    let window = InputWindow {
        id: window,
        rows: rows.collect(),
        carried: Carried::Json(JsonRows::of(outcomes.keys().map(|_| ""))),
    };
    let mut lines = Vec::new();
    sink.write_part(&window, outcomes, &mut lines)?;
    let rows = sink::read_lines(&lines).unwrap_or_default();
    Ok(rows
        .into_iter()
        .map(|row| with_nulls(row, &names))
        .collect())
}

/// The row with a null for its id and for each column that it does not have.
fn with_nulls(mut row: ResultRow, names: &[String]) -> ResultRow {
    row.insert("id".to_owned(), Value::Null);
    let value = |name: &String| row.get(name).cloned().unwrap_or_default();
    names
        .iter()
        .map(|name| (name.clone(), value(name)))
        .collect()
}
