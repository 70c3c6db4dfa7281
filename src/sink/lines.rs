//! A window and its outcomes to the lines of its part.
//!
//! Invariant: lines are in input order, then in sample order; a row that is a record has at least
//! one line, a broken line has none.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::ids::RowId;
use crate::input::{InputRow, InputWindow};
use crate::outcome::{BadRow, Completion, Outcome, RowResult, Sample};

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

/// What generation, or its absence, fills in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content<'a> {
    /// One sample of a row.
    Flat(&'a Completion, u32, &'a Sample),
    /// All samples of a row.
    Nested(&'a Completion),
    /// No result.
    Failed(&'a BadRow),
}

/// Samples of a row that one line shows.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shown<'a> {
    /// One, in flat results.
    One(&'a Sample),
    /// All, in nested results.
    All(&'a [Sample]),
    /// None, where the row failed.
    None,
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

    /// The samples that the line shows.
    pub(super) fn shown(&self) -> Shown<'a> {
        match self.content {
            Content::Flat(_, _, sample) => Shown::One(sample),
            Content::Nested(completion) => Shown::All(&completion.samples),
            Content::Failed(_) => Shown::None,
        }
    }

    /// As [`Line::shown`], however many; `None` where the row failed.
    pub(super) fn samples(&self) -> Option<&'a [Sample]> {
        match self.shown() {
            Shown::One(sample) => Some(std::slice::from_ref(sample)),
            Shown::All(samples) => Some(samples),
            Shown::None => None,
        }
    }
}

/// Tokens of the row's context.
pub(super) fn prompt_tokens(line: &Line<'_>) -> Option<u32> {
    match line.content {
        Content::Flat(completion, ..) | Content::Nested(completion) => {
            Some(completion.prompt_tokens)
        }
        Content::Failed(_) => None,
    }
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
        Content::Flat(_, number, _) => Some(number),
        Content::Nested(_) | Content::Failed(_) => None,
    }
}

/// Sum of a sample's log-probabilities.
pub(super) fn logprob(sample: &Sample) -> f32 {
    sample
        .token_logprobs
        .iter()
        .map(|&value| f64::from(value))
        .sum::<f64>() as f32
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
            Some(Ok(RowResult::Generated(completion))) if completion.samples.is_empty() => {
                return Err(SinkError::MissingOutcome { row: row.row });
            }
            Some(Ok(RowResult::Generated(completion))) if nested => {
                lines.push(line(Content::Nested(completion)));
            }
            Some(Ok(RowResult::Generated(completion))) => lines.extend(
                (0..)
                    .zip(&completion.samples)
                    .map(|(n, s)| line(Content::Flat(completion, n, s))),
            ),
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
