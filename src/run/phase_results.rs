//! What a phase found of a window's rows, read again from its committed part.
//!
//! Invariant: what is read of a window depends on its committed files alone, so that a run that goes on reads what an
//! unbroken one does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::checkpoint::{self, CheckpointError, CommittedWindow, FileEntry, OutputFolder};
use crate::error::Result;
use crate::ids::{RowId, WindowId};
use crate::input::InputError;
use crate::job::Phase;
use crate::outcome::{BadRow, Stage};
use crate::sink::{self, ResultRow};
use crate::stop::StopFlag;

/// What became of each row of a window in a phase.
pub(super) type PhaseRows<T> = BTreeMap<RowId, std::result::Result<T, BadRow>>;

/// The committed windows of a phase.
pub(super) struct PhaseResults {
    phase: Phase,
    folder: OutputFolder,
    windows: BTreeMap<WindowId, CommittedWindow>,
}

/// The samples of a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct SampledRow {
    /// Tokens of the context.
    pub(super) prompt_tokens: u32,
    /// In the order of the samples.
    pub(super) answers: Vec<SampledAnswer>,
}

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SampledAnswer {
    pub(super) text: String,
    /// Its tokens, the ending token included.
    pub(super) tokens: u32,
    /// Sum of its log-probabilities, where the phase has written it.
    pub(super) logprob: Option<f32>,
}

impl PhaseResults {
    /// Looks which windows the phase has committed.
    pub(super) fn open(phase: Phase, folder: &OutputFolder) -> Result<Self> {
        let windows = checkpoint::committed_windows(folder)?.into_iter();
        Ok(Self {
            phase,
            folder: folder.clone(),
            windows: windows.map(|window| (window.window, window)).collect(),
        })
    }

    /// A window, which must be committed.
    pub(super) fn window(&self, id: WindowId) -> std::result::Result<&CommittedWindow, InputError> {
        let window = self.windows.get(&id);
        window.ok_or_else(|| self.unreadable(self.folder.root(), format!("it has no window {id}")))
    }

    /// The samples of a window's rows, where the phase has written answers.
    pub(super) fn samples(
        &self,
        id: WindowId,
    ) -> std::result::Result<PhaseRows<SampledRow>, InputError> {
        self.rows(id, |row: &mut SampledRow, line| {
            row.prompt_tokens = number(line, "prompt_tokens")?;
            row.answers.push(SampledAnswer {
                text: line.get("completion")?.as_str()?.to_owned(),
                tokens: number(line, "completion_tokens")?,
                logprob: line.get("logprob").and_then(float),
            });
            Some(())
        })
    }

    /// The rewards of a window's rows, one a sample, where the phase has written rewards.
    pub(super) fn rewards(
        &self,
        id: WindowId,
    ) -> std::result::Result<PhaseRows<Vec<Option<f32>>>, InputError> {
        self.rows(id, |row: &mut Vec<Option<f32>>, line| {
            row.push(float(line.get("reward")?));
            Some(())
        })
    }

    /// The lines of a window by row; `take` adds a line to its row, and gives `None` where the line is not one of the
    /// phase.
    fn rows<T: Default>(
        &self,
        id: WindowId,
        take: impl Fn(&mut T, &ResultRow) -> Option<()>,
    ) -> std::result::Result<PhaseRows<T>, InputError> {
        let window = self.window(id)?;
        let mut rows = PhaseRows::new();
        if let Some(failed) = &window.failed {
            let path = self.unchanged(failed)?;
            for line in self.lines(&path)? {
                let failure = Failure::of(line?);
                let failure = failure.map_err(|reason| self.unreadable(&path, reason))?;
                rows.insert(RowId(failure.row), Err(failure.bad));
            }
        }
        let path = self.unchanged(&window.part)?;
        let damaged = || self.unreadable(&path, "a line is not one of this phase".to_owned());
        for line in self.lines(&path)? {
            let line = line?;
            let number = line.get("row").and_then(Value::as_u64);
            let row = RowId(number.ok_or_else(damaged)?);
            // The line of a row that failed says no more.
            if let Ok(found) = rows.entry(row).or_insert_with(|| Ok(T::default())) {
                take(found, &line).ok_or_else(damaged)?;
            }
        }
        Ok(rows)
    }

    /// The path of a committed file, which must be as it was written: nothing may be made of a damaged one, nor of one
    /// that a repair has moved away since the manifest was read.
    pub(super) fn unchanged(&self, file: &FileEntry) -> std::result::Result<PathBuf, InputError> {
        let found = checkpoint::unchanged(&self.folder, file, &StopFlag::default());
        found.map_err(|error| {
            let reason = match error {
                CheckpointError::Altered { reason, .. } => reason,
                error => error.to_string(),
            };
            self.unreadable(&self.folder.entry(&file.name), reason)
        })
    }

    fn lines<'a>(
        &'a self,
        path: &'a Path,
    ) -> std::result::Result<
        impl Iterator<Item = std::result::Result<ResultRow, InputError>> + 'a,
        InputError,
    > {
        let wrong = |error: sink::SinkError| self.unreadable(path, error.to_string());
        let lines = sink::read_part(path).map_err(wrong)?;
        Ok(lines.map(move |line| line.map_err(wrong)))
    }

    /// The error of a row that the phase does not know, which no run leaves.
    pub(super) fn lacks(&self, row: RowId) -> InputError {
        self.unreadable(self.folder.root(), format!("it lacks row {row}"))
    }

    /// The error of results that are not what the phase has written.
    pub(super) fn unreadable(&self, path: &Path, reason: String) -> InputError {
        InputError::Phase {
            phase: self.phase.name(),
            path: path.to_owned(),
            reason,
        }
    }
}

fn number(line: &ResultRow, name: &str) -> Option<u32> {
    line.get(name)?.as_u64()?.try_into().ok()
}

/// A number of a part; the shortest digits of an f32 lead back to it through an f64.
fn float(value: &Value) -> Option<f32> {
    value.as_f64().map(|value| value as f32)
}

/// A line of failed rows.
struct Failure {
    row: u64,
    bad: BadRow,
}

impl Failure {
    fn of(line: ResultRow) -> std::result::Result<Self, String> {
        #[derive(Deserialize)]
        struct Fields {
            row: u64,
            stage: Stage,
            reason: String,
        }
        let fields: Fields =
            serde_json::from_value(line.into()).map_err(|error| error.to_string())?;
        let (row, stage, reason) = (fields.row, fields.stage, fields.reason);
        Ok(Self {
            row,
            bad: BadRow { stage, reason },
        })
    }
}
