//! A window and its outcomes to the lines of its part.
//!
//! Invariant: lines are in input order, then in sample order; a row that is a record has at least
//! one line, a broken line has none.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::ids::RowId;
use crate::input::{InputRow, InputWindow};
use crate::outcome::{BadRow, Cell, Outcome, RowResult, Sample};

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

/// All lines of a window.
pub(super) fn lines<'a>(
    window: &'a InputWindow,
    outcomes: &'a BTreeMap<RowId, Outcome>,
    nested: bool,
) -> Result<Vec<Line<'a>>, SinkError> {
    let mut lines = Vec::with_capacity(window.rows.len());
    for (position, row) in window
        .rows
        .iter()
        .enumerate()
        .filter(|(_, row)| row.is_record)
    {
        let line = |content| Line {
            position,
            row,
            content,
        };
        match row_outcome(row, outcomes) {
            Some(Err(bad)) => lines.push(line(Content::Failed(bad))),
            Some(Ok(result)) if result.samples() == 0 => {
                return Err(SinkError::MissingOutcome { row: row.row });
            }
            Some(Ok(result)) if nested => lines.push(line(Content::Nested(result))),
            Some(Ok(result)) => {
                let numbers = 0..result.samples() as u32;
                lines.extend(numbers.map(|number| line(Content::Flat(result, number))));
            }
            None => return Err(SinkError::MissingOutcome { row: row.row }),
        }
    }
    Ok(lines)
}

/// How a row ended: what was recorded, else why it is bad.
pub(super) fn row_outcome<'a>(
    row: &'a InputRow,
    outcomes: &'a BTreeMap<RowId, Outcome>,
) -> Option<Result<&'a RowResult, &'a BadRow>> {
    match outcomes.get(&row.row) {
        Some(outcome) => Some(outcome.result()),
        None => row.outcome.as_ref().err().map(Err),
    }
}
