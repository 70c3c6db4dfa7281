//! A window and its outcomes to the lines of its part.
//!
//! Invariant: lines are in input order, then in sample order; a row that is a record has at least
//! one line, a broken line has none.

use std::borrow::Cow;

use crate::input::{InputRow, InputWindow};
use crate::outcome::{BadRow, Cell, Outcome, Outcomes, RowResult, Sample};

use super::SinkError;

/// One line of the results.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    /// Position of the row in its window.
    pub(super) position: usize,
    /// The row.
    pub(super) row: &'a InputRow,
    /// What the line says.
    pub(super) content: Content<'a>,
}

/// What the task, or a failure, fills in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content<'a> {
    /// One sample of a row.
    Flat(&'a RowResult, u32),
    /// All samples of a row.
    Nested(&'a RowResult),
    /// No result.
    Failed(&'a BadRow),
}

/// Samples of a row that one line shows.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shown<'a, T> {
    /// One, in flat results.
    One(&'a T),
    /// All, in nested results.
    All(&'a [T]),
    /// None, where the row failed.
    None,
}

impl<'a, T> Shown<'a, T> {
    /// The samples, however many; `None` where the row failed.
    pub(super) fn as_slice(&self) -> Option<&'a [T]> {
        match *self {
            Self::One(sample) => Some(std::slice::from_ref(sample)),
            Self::All(samples) => Some(samples),
            Self::None => None,
        }
    }
}

impl<'a> Line<'a> {
    pub(super) fn status(&self) -> &'static str {
        match self.content {
            Content::Flat(..) | Content::Nested(_) => "ok",
            Content::Failed(_) => "failed",
        }
    }

    pub(super) fn error(&self) -> Option<String> {
        match self.content {
            Content::Failed(bad) => Some(format!("{}: {}", bad.stage, bad.reason)),
            Content::Flat(..) | Content::Nested(_) => None,
        }
    }

    fn result(&self) -> Option<&'a RowResult> {
        match self.content {
            Content::Flat(result, _) | Content::Nested(result) => Some(result),
            Content::Failed(_) => None,
        }
    }

    /// The answers that the line shows.
    pub(super) fn answers(&self) -> Shown<'a, Sample> {
        match self.result() {
            Some(RowResult::Generated(completion)) => self.shown(&completion.samples),
            Some(RowResult::Measured(_)) | None => Shown::None,
        }
    }

    /// The measured samples that the line shows, each with all its values.
    pub(super) fn measured(&self) -> Shown<'a, Vec<Cell>> {
        match self.result() {
            Some(RowResult::Measured(measured)) => self.shown(&measured.samples),
            Some(RowResult::Generated(_)) | None => Shown::None,
        }
    }

    /// A measured value of the row; `None` where the row failed.
    pub(super) fn cell(&self, place: usize) -> Option<&'a Cell> {
        match self.result()? {
            RowResult::Measured(measured) => measured.row.get(place),
            RowResult::Generated(_) => None,
        }
    }

    fn shown<T>(&self, samples: &'a [T]) -> Shown<'a, T> {
        match self.content {
            Content::Flat(_, number) => {
                samples.get(number as usize).map_or(Shown::None, Shown::One)
            }
            Content::Nested(_) => Shown::All(samples),
            Content::Failed(_) => Shown::None,
        }
    }
}

/// Tokens of the row's context.
pub(super) fn prompt_tokens(line: &Line<'_>) -> Option<u32> {
    line.result().map(RowResult::prompt_tokens)
}

/// The prompt that the template gave, or the prompt column; `None` where the row failed before.
pub(super) fn rendered_prompt<'a>(line: &Line<'a>) -> Option<Cow<'a, str>> {
    let prompt = line.row.outcome.as_ref().ok()?;
    Some(Cow::Borrowed(&prompt.text))
}

/// The prefix of the row, or else of the job; `None` where there is none or the row failed before.
pub(super) fn rendered_prefix<'a>(line: &Line<'a>) -> Option<Cow<'a, str>> {
    let prompt = line.row.outcome.as_ref().ok()?;
    prompt.prefix.as_deref().map(Cow::Borrowed)
}

/// Number of the one sample that the line shows.
pub(super) fn sample_number(line: &Line<'_>) -> Option<u32> {
    match line.content {
        Content::Flat(_, number) => Some(number),
        Content::Nested(_) | Content::Failed(_) => None,
    }
}

/// A row of a window and how it ended.
#[derive(Debug)]
pub(super) struct EndedRow<'a> {
    position: usize,
    row: &'a InputRow,
    /// `None` where the row is bad in itself.
    outcome: Option<Cow<'a, Outcome>>,
}

/// The rows of a window that are records, each with how it ended, one after another.
pub(super) fn ended_rows<'a>(
    window: &'a InputWindow,
    outcomes: &'a dyn Outcomes,
) -> impl Iterator<Item = Result<EndedRow<'a>, SinkError>> {
    let rows = window.rows.iter().enumerate();
    rows.filter(|(_, row)| row.is_record)
        .map(|(position, row)| {
            Ok(EndedRow {
                position,
                row,
                outcome: outcomes.outcome(row.row)?,
            })
        })
}

impl EndedRow<'_> {
    /// The lines of the row, at least one.
    pub(super) fn lines(&self, nested: bool) -> Result<impl Iterator<Item = Line<'_>>, SinkError> {
        let Self { position, row, .. } = *self;
        let result = match &self.outcome {
            Some(outcome) => outcome.result(),
            None => Err(row.outcome.as_ref().err().ok_or_else(|| missing(row))?),
        };
        let (one, samples) = match result {
            Err(bad) => (Some(Content::Failed(bad)), None),
            Ok(result) if result.samples() == 0 => return Err(missing(row)),
            Ok(result) if nested => (Some(Content::Nested(result)), None),
            Ok(result) => (None, Some(result)),
        };
        let of_sample = |result: &'_ RowResult| 0..result.samples() as u32;
        let samples = samples
            .into_iter()
            .flat_map(move |result| of_sample(result).map(move |at| Content::Flat(result, at)));
        let line = move |content| Line {
            position,
            row,
            content,
        };
        Ok(one.into_iter().chain(samples).map(line))
    }
}

fn missing(row: &InputRow) -> SinkError {
    SinkError::MissingOutcome { row: row.row }
}

/// Why a row has no result: what was recorded, else why it is bad; `None` where it has one.
pub(super) fn failure<'a>(row: &'a InputRow, outcomes: &'a dyn Outcomes) -> Option<&'a BadRow> {
    if outcomes.has(row.row) {
        outcomes.failure(row.row)
    } else {
        row.outcome.as_ref().err()
    }
}
