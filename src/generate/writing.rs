//! What one sample writes: an answer for each of its masks, left to right, by one token after another or by beams.
//!
//! The context is read once. When the answer of a mask has ended, the next mask gets a start token of its own
//! behind it, with that mask's position; all that was written before stays in the cache and is seen.
//!
//! ```text
//! context <sop> first answer <sop> second answer ...        the tokens that the cache holds, in order
//!         1     2 3 ...      1     2 3 ...                  block positions
//!         first mask         second mask                    positions
//! ```
//!
//! # Source
//!
//! `generate_samples` and `sample_sequence` in `generate_samples.py` of THUDM/GLM: an ending token is neither kept
//! nor fed, and the token at the limit is kept but not fed. There are no processors there. Here they look at
//! all that was written, start tokens included, and the minimum counts the tokens of the one answer. With beams
//! the next mask goes on from the best answer of the last, and [`LengthOver::Piece`] is how lengths count there;
//! it draws its candidates, where here the likeliest are taken. It keeps the last `seq_length - 1` positions alone;
//! here none is forgotten.
//!
//! [`LengthOver::Piece`]: super::LengthOver::Piece

use std::collections::VecDeque;

use crate::model::DecodeRow;
use crate::outcome::{FinishReason, Sample};

use super::answer::{Answer, Progress, Start};
use super::beam::{BeamSearch, Beams, Fork, Searched};
use super::choose::Scratch;
use super::codec::TextCodec;

/// The answers of one sample, as they are written.
///
/// It numbers the places of its caches from 0; its caller has a slot for each of [`Self::places`] of them.
#[derive(Debug)]
pub struct Writing {
    current: Current,
    /// How every mask is searched; `None` without beams.
    search: Option<BeamSearch>,
    places: usize,
    /// What comes after the current mask; `None` where that is the last.
    later: Option<Later>,
    /// Answers of earlier masks.
    spans: Vec<Sample>,
}

#[derive(Debug)]
enum Current {
    /// One token after another, in this place.
    One {
        answer: Answer,
        place: usize,
    },
    Beams(Beams),
}

/// The masks that are still to be answered.
#[derive(Debug)]
struct Later {
    masks: VecDeque<u32>,
    /// How the current answer began.
    begun: Start,
    /// Tokens that were drawn for earlier masks.
    drawn: u32,
}

/// An answer for each mask.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// One for each mask, left to right.
    pub spans: Vec<Sample>,
    /// The score of a beam search; `None` without one, and of several masks.
    pub score: Option<f32>,
}

/// What a step made of a [`Writing`].
#[derive(Debug)]
pub enum Written {
    /// It goes on once these caches are copied, in any order.
    Running(Vec<Fork>),
    /// It has ended: one answer, or those that a beam search returns, the best first.
    Ended(Vec<Answered>),
    /// It cannot go on, and why.
    Failed(String),
}

impl Writing {
    /// Begins with the logits after the context and the start token, which are in place 0.
    ///
    /// `later_masks` are the positions of the masks after `start.mask_position`, left to right; each has
    /// `start.max_new_tokens`. With beams and later masks only the best answer of each is returned.
    pub fn new(start: Start, later_masks: Vec<u32>) -> Self {
        let has_later = !later_masks.is_empty();
        let mut search = start.rules.beams;
        let beams = search.map_or(1, |search| search.num_beams);
        if let Some(search) = search.as_mut().filter(|_| has_later) {
            search.num_return_sequences = 1;
        }
        let later = has_later.then(|| Later {
            masks: later_masks.into(),
            begun: start.clone(),
            drawn: 0,
        });
        Self {
            places: Self::places_of(beams, has_later),
            current: begin(search, start, 0, 0, has_later),
            search,
            later,
            spans: Vec::new(),
        }
    }

    /// Places of a sample with so many beams: one for each, and one that keeps the best answer for later masks.
    pub fn places_of(beams: usize, has_later: bool) -> usize {
        let beams = beams.max(1);
        beams + usize::from(beams > 1 && has_later)
    }

    /// Places that it needs a slot for.
    ///
    /// Each must hold the context and, for each mask, `max_new_tokens`: the start token and the longest answer,
    /// whose last token is never fed.
    pub fn places(&self) -> usize {
        self.places
    }

    /// Rows of logits that the next step takes.
    pub fn running(&self) -> usize {
        match &self.current {
            Current::One { .. } => 1,
            Current::Beams(beams) => beams.running(),
        }
    }

    /// The tokens to feed next, each to the slot of its place, in the order of the logits that
    /// [`Self::advance`] takes.
    pub fn decode_rows(&self, slots: &[usize]) -> Vec<DecodeRow> {
        match &self.current {
            Current::One { answer, place } => vec![answer.decode_row(slots[*place])],
            Current::Beams(beams) => beams.decode_rows(slots).collect(),
        }
    }

    /// Whether the next token is the likeliest one, and nothing else is wanted of the logits.
    pub fn takes_likeliest(&self) -> bool {
        match &self.current {
            Current::One { answer, .. } => answer.takes_likeliest(),
            Current::Beams(_) => false,
        }
    }

    /// Chooses the next tokens from the logits after the last ones.
    ///
    /// Beams share the work among threads, so this must not be called while the thread's [`Scratch`] is lent.
    pub fn advance(&mut self, logits: &[&[f32]], codec: &dyn TextCodec) -> Written {
        let progress = match &mut self.current {
            Current::One { answer, .. } => {
                Scratch::of_thread(|scratch| answer.advance(logits[0], codec, scratch))
            }
            Current::Beams(beams) => {
                let searched = beams.advance(logits, codec);
                return self.searched(searched);
            }
        };
        self.progressed(progress)
    }

    /// Takes the next token, where [`Self::takes_likeliest`] said so.
    pub fn take(&mut self, id: u32, codec: &dyn TextCodec) -> Written {
        let progress = match &mut self.current {
            Current::One { answer, .. } => answer.take(id, codec),
            Current::Beams(_) => Progress::Failed("a beam search needs all logits".to_owned()),
        };
        self.progressed(progress)
    }

    fn progressed(&mut self, progress: Progress) -> Written {
        match progress {
            Progress::Running => Written::Running(Vec::new()),
            Progress::Failed(reason) => Written::Failed(reason),
            Progress::Ended(sample) => self.ended(vec![(sample, None)], 0),
        }
    }

    fn searched(&mut self, searched: Searched) -> Written {
        match searched {
            Searched::Running(forks) => Written::Running(forks),
            Searched::Failed(reason) => Written::Failed(reason),
            Searched::Ended { answers, place } => {
                let answers = answers.into_iter();
                let answers = answers.map(|answer| (answer.sample, Some(answer.score)));
                self.ended(answers.collect(), place)
            }
        }
    }

    /// Goes on with the next mask behind the first of these answers, whose cache is in `place`.
    fn ended(&mut self, answers: Vec<(Sample, Option<f32>)>, place: usize) -> Written {
        if self.later.is_none() && self.spans.is_empty() {
            let answered = answers.into_iter().map(|(sample, score)| Answered {
                spans: vec![sample],
                score,
            });
            return Written::Ended(answered.collect());
        }
        self.spans
            .extend(answers.into_iter().next().map(|(sample, _)| sample));
        let next = self.later.as_mut().zip(self.spans.last());
        let next = next.and_then(|(later, span)| later.next(span));
        let Some((start, drawn, has_later)) = next else {
            let spans = std::mem::take(&mut self.spans);
            return Written::Ended(vec![Answered { spans, score: None }]);
        };
        self.current = begin(self.search, start, drawn, place, has_later);
        Written::Running(Vec::new())
    }
}

impl Later {
    /// The beginning of the next mask's answer behind this one, how many tokens were drawn before it, and whether
    /// more masks come after it.
    fn next(&mut self, span: &Sample) -> Option<(Start, u32, bool)> {
        self.begun.mask_position = self.masks.pop_front()?;
        self.drawn += span.token_ids.len() as u32;
        let has_ending = span.finish_reason == FinishReason::Stop;
        let kept = span.token_ids.len() - usize::from(has_ending);
        let history = &mut self.begun.history;
        let start_token = history.last().copied();
        history.extend_from_slice(&span.token_ids[..kept]);
        history.extend(start_token);
        Some((self.begun.clone(), self.drawn, !self.masks.is_empty()))
    }
}

/// An answer, or a search for it, that goes on from a place.
fn begin(
    search: Option<BeamSearch>,
    start: Start,
    drawn: u32,
    place: usize,
    has_later: bool,
) -> Current {
    match search {
        Some(search) => Current::Beams(Beams::at(place, search, start, has_later)),
        None => Current::One {
            answer: Answer::after(drawn, start),
            place,
        },
    }
}

/// Positions of the masks in a context, left to right.
pub fn mask_positions(context: &[u32], masks: &[u32]) -> Vec<u32> {
    let is_mask = |(_, id): &(u32, &u32)| masks.contains(id);
    let found = (0..).zip(context).filter(is_mask);
    found.map(|(position, _)| position).collect()
}

/// A text with its masks replaced by texts, left to right; `None` where there are not as many of them.
pub fn fill(text: &str, masks: &[&str], spans: &[Sample]) -> Option<String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    let mut spans = spans.iter();
    while let Some((at, mask)) = first_mask(rest, masks) {
        filled.push_str(&rest[..at]);
        filled.push_str(&spans.next()?.text);
        rest = &rest[at + mask.len()..];
    }
    filled.push_str(rest);
    spans.next().is_none().then_some(filled)
}

fn first_mask<'a>(text: &str, masks: &[&'a str]) -> Option<(usize, &'a str)> {
    let found = masks
        .iter()
        .filter_map(|&mask| Some((text.find(mask)?, mask)));
    found.min_by_key(|(at, _)| *at)
}

#[cfg(test)]
mod tests;
