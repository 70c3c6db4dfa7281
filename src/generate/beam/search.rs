//! The settings of a beam search: how many beams, how lengths count, when it stops.

use crate::job::GenerationSpec;

pub use crate::job::{EarlyStopping, LengthOver};

/// How a row's beams are searched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BeamSearch {
    /// Answers that run side by side; at least 2.
    pub num_beams: usize,
    /// Answers that are returned, the best first; at most `num_beams`.
    pub num_return_sequences: usize,
    /// A score is the sum of log-probabilities divided by the length to this power.
    pub length_penalty: f64,
    /// What the length counts.
    pub length_over: LengthOver,
    /// When the search stops before the longest answer.
    pub early_stopping: EarlyStopping,
}

impl BeamSearch {
    /// The search of these settings; `None` where they name no beams.
    pub fn new(settings: &GenerationSpec) -> Option<Self> {
        (settings.num_beams > 1).then_some(Self {
            num_beams: settings.num_beams as usize,
            num_return_sequences: settings.num_return_sequences as usize,
            length_penalty: settings.length_penalty,
            length_over: settings.length_penalty_over,
            early_stopping: settings.early_stopping,
        })
    }
}

/// The lengths of one search's answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lengths {
    over: LengthOver,
    /// Tokens before the answer that count.
    before: usize,
    /// Most answer tokens.
    most: usize,
}

impl Lengths {
    /// Of answers of at most `most` tokens after a context and a start token of `history` tokens.
    pub(super) fn new(over: LengthOver, history: usize, most: usize) -> Self {
        let before = match over {
            LengthOver::Sequence => history,
            LengthOver::Piece => 1,
            LengthOver::Generated => 0,
        };
        Self { over, before, most }
    }

    /// Of an answer of so many tokens, the last of which may be an ending token.
    pub(super) fn of_answer(self, tokens: usize, has_ending: bool) -> usize {
        match self.over {
            LengthOver::Sequence | LengthOver::Piece => {
                self.before + tokens - usize::from(has_ending)
            }
            LengthOver::Generated => tokens,
        }
    }

    /// Of the running beams in the bound, after so many answer tokens.
    pub(super) fn of_running(self, tokens: usize) -> usize {
        match self.over {
            // The reference counts before the new token is there.
            LengthOver::Sequence | LengthOver::Piece => self.before + tokens - 1,
            LengthOver::Generated => tokens,
        }
    }

    /// Of the longest answer.
    pub(super) fn longest(self) -> usize {
        self.before + self.most
    }
}
