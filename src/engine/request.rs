//! What goes into an engine, and what comes out: rows with their work, rows with what was found.

use std::sync::Arc;

use crate::generate::Writing;
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
    /// The context.
    pub fn encoded(&self) -> &Encoded {
        match self {
            Self::Generate(generation) => &generation.encoded,
            Self::Read(reading) => &reading.encoded,
        }
    }

    /// What planning knows of it. What is read in one pass is all context.
    pub fn length(&self, index: usize) -> RowLength {
        match self {
            Self::Generate(generation) => generation.length(index),
            Self::Read(reading) => reading.length(index),
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
        }
    }
}

impl Reading {
    /// Tokens of the context and all branches.
    pub fn tokens(&self) -> usize {
        self.encoded.ids.len() + self.branches.iter().map(Vec::len).sum::<usize>()
    }

    /// What planning knows of it.
    pub(super) fn length(&self, index: usize) -> RowLength {
        RowLength {
            index,
            context: self.tokens() as u32,
            reserve: 0,
            samples: 1,
            places: 1,
        }
    }
}
