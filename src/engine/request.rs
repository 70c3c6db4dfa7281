//! What goes into an engine, and what comes out: rows with their work, rows with what was found.

use std::sync::Arc;

use crate::generate::{Choices, Writing};
use crate::ids::{RowId, WindowId};
use crate::job::GenerationSpec;
use crate::model::{Asked, Sight, TokenChance};
use crate::outcome::{BadRow, Completion};
use crate::plan::RowLength;
use crate::tokenize::Encoded;

/// A row and its work.
#[derive(Clone, Debug)]
pub struct Request {
    /// The row.
    pub row: RowId,
    /// What the model has to do for it.
    pub work: Work,
}

/// What the model has to do for a row.
#[derive(Clone, Debug)]
pub enum Work {
    /// Answers, token by token.
    Generate(Generation),
    /// One forward pass.
    Read(Reading),
    /// One forward pass over several contexts, at least one. All want chances, which are found in the order of the
    /// contexts.
    ReadEach(Vec<Reading>),
}

/// A context to be answered.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The context.
    pub encoded: Encoded,
    /// Positions of the masks that are answered after the first one, left to right.
    pub later_masks: Vec<u32>,
    /// The job's settings with the row's own on top; with the seed and the sample, the row keys the draw.
    pub settings: Arc<GenerationSpec>,
    /// What the answer of each mask is held to; `None` is nothing. These count, whatever `settings.choices` says.
    pub choices: Option<Arc<Choices>>,
    /// `max_new_tokens` resolved for this row: the most answer tokens of each mask, ending token included.
    pub max_new_tokens: u32,
}

/// A context to be read once, with what follows it; see [`ReadRow`](crate::model::ReadRow).
#[derive(Clone, Debug)]
pub struct Reading {
    /// The context.
    pub encoded: Encoded,
    /// Which of its tokens see which.
    pub sight: Sight,
    /// What follows it, each with its start token.
    pub branches: Vec<Vec<u32>>,
    /// What is wanted.
    pub want: Want,
}

/// What a reading is for.
#[derive(Clone, Debug)]
pub enum Want {
    /// The chances of these tokens, sorted by place.
    Chances(Vec<Asked>),
    /// The value head's number at the last token of each branch.
    Values,
}

/// A row that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Window that the row was submitted with.
    pub window: WindowId,
    /// The row.
    pub row: RowId,
    /// What the model found for it, or why it found nothing.
    pub found: Result<Found, BadRow>,
}

/// What the model found for a row, by its [`Work`].
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// Answers: for each sample one entry a mask, left to right.
    Generated(Completion),
    /// The chances that were asked for, in that order. Their log-probabilities are finite.
    Chances(Vec<TokenChance>),
    /// A number for each branch; all are finite.
    Values(Vec<f32>),
}

impl Work {
    /// The context; of several, the first. `None` only where [`Work::ReadEach`] has none.
    pub fn encoded(&self) -> Option<&Encoded> {
        match self {
            Self::Generate(generation) => Some(&generation.encoded),
            Self::Read(reading) => Some(&reading.encoded),
            Self::ReadEach(readings) => readings.first().map(|reading| &reading.encoded),
        }
    }

    /// Whether a prompt was cut to fit.
    pub fn is_truncated(&self) -> bool {
        match self {
            Self::ReadEach(readings) => {
                let mut contexts = readings.iter().map(|reading| &reading.encoded);
                contexts.any(|context| context.truncated > 0)
            }
            _ => self.encoded().is_some_and(|context| context.truncated > 0),
        }
    }

    /// What planning knows of it. What is read in one pass is all context.
    pub fn length(&self, index: usize) -> RowLength {
        match self {
            Self::Generate(generation) => generation.length(index),
            Self::Read(reading) => Reading::length(std::slice::from_ref(reading), index),
            Self::ReadEach(readings) => Reading::length(readings, index),
        }
    }
}

impl Generation {
    /// Samples that are written each on its own: a beam search is one, whatever it returns.
    pub(super) fn samples(&self) -> u32 {
        match self.settings.num_beams {
            0 | 1 => self.settings.num_return_sequences.max(1),
            _ => 1,
        }
    }

    /// Tokens behind the context that a slot must have room for: for each mask the start token and the longest
    /// answer, whose last token is never fed.
    pub(super) fn reserve(&self) -> u32 {
        let masks = self.later_masks.len() as u32 + 1;
        self.max_new_tokens.max(1).saturating_mul(masks)
    }

    /// What planning knows of it.
    pub(super) fn length(&self, index: usize) -> RowLength {
        let beams = self.settings.num_beams as usize;
        RowLength {
            index,
            context: self.encoded.ids.len() as u32,
            reserve: self.reserve(),
            samples: self.samples(),
            places: Writing::places_of(beams, !self.later_masks.is_empty()) as u32,
            texts: 1,
            longest: self.encoded.ids.len() as u32,
        }
    }
}

impl Reading {
    /// Tokens of the context and all branches.
    pub fn tokens(&self) -> usize {
        self.encoded.ids.len() + self.branches.iter().map(Vec::len).sum::<usize>()
    }

    /// Chances that are asked for.
    pub fn asked(&self) -> usize {
        match &self.want {
            Want::Chances(asked) => asked.len(),
            Want::Values => 0,
        }
    }

    /// What planning knows of the readings of one row.
    pub(super) fn length(readings: &[Self], index: usize) -> RowLength {
        RowLength {
            index,
            context: readings.iter().map(Self::tokens).sum::<usize>() as u32,
            reserve: 0,
            samples: 1,
            places: 1,
            texts: readings.len() as u32,
            longest: readings.iter().map(Self::tokens).max().unwrap_or(0) as u32,
        }
    }
}
