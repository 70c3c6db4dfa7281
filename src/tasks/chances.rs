//! Branches behind a context to the tokens that are asked for, and chances back to what each branch comes to.

use crate::model::{Asked, TokenChance};

/// Branches of a row and what is asked of them, built one by one.
#[derive(Debug)]
pub(super) struct Branches {
    /// Where the next branch begins, counted from the row's first token.
    place: usize,
    pub(super) tokens: Vec<Vec<u32>>,
    pub(super) asked: Vec<Asked>,
    /// Tokens asked for, a branch.
    pub(super) lengths: Vec<usize>,
}

impl Branches {
    /// Behind a context of so many tokens.
    pub(super) fn behind(context: usize) -> Self {
        Self {
            place: context,
            tokens: Vec::new(),
            asked: Vec::new(),
            lengths: Vec::new(),
        }
    }

    /// Adds a branch that begins with the start token `sop`, and asks for the chance of each of `ids` after those before
    /// it. The last one is asked for and never read.
    pub(super) fn push(&mut self, sop: u32, ids: &[u32]) {
        let read = ids.len().saturating_sub(1);
        let mut branch = Vec::with_capacity(ids.len());
        branch.push(sop);
        branch.extend_from_slice(&ids[..read]);
        let asked = ids.iter().zip(self.place as u32..);
        self.asked
            .extend(asked.map(|(&token, place)| Asked { place, token }));
        self.place += branch.len();
        self.lengths.push(ids.len());
        self.tokens.push(branch);
    }
}

/// The different ones in their order, and which of them each is: equal texts are read once, so their bits are equal.
pub(super) fn distinct<T: PartialEq>(all: Vec<T>) -> (Vec<T>, Vec<usize>) {
    let mut different: Vec<T> = Vec::with_capacity(all.len());
    let mut which = Vec::with_capacity(all.len());
    for one in all {
        let known = different.iter().position(|known| *known == one);
        which.push(known.unwrap_or(different.len()));
        if known.is_none() {
            different.push(one);
        }
    }
    (different, which)
}

/// Asks for each token of a context at its own place. The reference's labels leave the padding out, and the ending token of a
/// text has the same id.
pub(super) fn each_token(ids: &[u32], ending: u32) -> Vec<Asked> {
    let counted = ids.iter().zip(0..).filter(|(id, _)| **id != ending);
    counted
        .map(|(&token, place)| Asked { place, token })
        .collect()
}

/// The chances of each branch; `lengths` says how many each has.
pub(super) fn split<'a>(
    mut chances: &'a [TokenChance],
    lengths: &[usize],
) -> Option<Vec<&'a [TokenChance]>> {
    let mut parts = Vec::with_capacity(lengths.len());
    for &length in lengths {
        let (part, rest) = chances.split_at_checked(length)?;
        parts.push(part);
        chances = rest;
    }
    chances.is_empty().then_some(parts)
}

/// What the tokens of a text come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Likelihood {
    /// Sum of the log-probabilities.
    pub(super) logprob: f64,
    /// Tokens; at least one.
    pub(super) tokens: usize,
    /// Whether each is the likeliest at its place.
    pub(super) is_greedy: bool,
}

impl Likelihood {
    pub(super) fn of(chances: &[TokenChance]) -> Self {
        Self {
            logprob: chances.iter().map(|chance| f64::from(chance.logprob)).sum(),
            tokens: chances.len(),
            is_greedy: chances.iter().all(|chance| chance.is_likeliest),
        }
    }

    /// Log-probability a token.
    pub(super) fn mean(&self) -> f64 {
        self.logprob / self.tokens.max(1) as f64
    }

    pub(super) fn perplexity(&self) -> f64 {
        (-self.mean()).exp()
    }
}
