//! One row's beam search: logits of the running beams in, which of them go on and with which token out.
//!
//! A search knows nothing of caches. It numbers the *places* that its caller keeps a cache in, and says which
//! place is to be copied to which before the next step; a beam that goes on keeps its parent's place.
//!
//! ```text
//! search     settings, and what a length counts
//! candidates logits -> the best continuations of all beams
//! hypotheses answers that have ended, and whether better ones can come
//! places     which cache goes where
//! ```
//!
//! # Source
//!
//! `BeamSearchScorer.process` and `finalize` in `generation/beam_search.py` of transformers 4.25.1 and, for
//! [`LengthOver::Generated`] and [`EarlyStopping::Never`], 4.40.2. Sums are f32 and scores f64, as there.
//! Departures: a barred id never continues a beam (there it does, at negative infinity, where nothing else is
//! left), the copies of the first beam at -1e9 are left out, and a stop string ends an answer as an ending token
//! does.

mod candidates;
mod hypotheses;
mod places;
mod search;

use std::sync::Arc;

use crate::model::DecodeRow;
use crate::outcome::{FinishReason, Sample};

use super::answer::{Start, earliest};
use super::choose::{log_probability, nothing_allowed};
use super::codec::TextCodec;
use super::rules::Rules;
use candidates::{Candidate, candidates};
use hypotheses::{Hypotheses, Hypothesis};
use search::Lengths;

pub use search::{BeamSearch, EarlyStopping, LengthOver};

/// A cache to copy from one place to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// Place that holds the cache.
    pub from: usize,
    /// Place that takes it; what it held is not needed any more.
    pub to: usize,
}

/// An answer with its score.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// The answer.
    pub sample: Sample,
    /// Sum of its log-probabilities by its length to the power of the penalty.
    pub score: f32,
}

/// What a step made of a search.
#[derive(Debug)]
pub enum Searched {
    /// It goes on once these caches are copied, in any order.
    Running(Vec<Fork>),
    /// It has ended.
    Ended {
        /// The best answers, best first: `num_return_sequences` of them.
        answers: Vec<Scored>,
        /// The place whose cache holds the best answer without its last token.
        place: usize,
    },
    /// It cannot go on, and why.
    Failed(String),
}

/// A running beam.
#[derive(Clone, Debug)]
struct Beam {
    /// Context, start token and answer.
    history: Vec<u32>,
    /// Sum of the answer's log-probabilities after the processors.
    sum: f32,
    token_logprobs: Vec<f32>,
    place: usize,
}

/// The beam search of one row.
#[derive(Debug)]
pub struct Beams {
    search: BeamSearch,
    rules: Arc<Rules>,
    mask_position: u32,
    max_new_tokens: usize,
    /// Where answers begin in a history.
    first_token: usize,
    /// The best first; one before the first step.
    running: Vec<Beam>,
    hypotheses: Hypotheses,
    /// Whether the best answer's cache must outlive the step in which it ended.
    keeps_best: bool,
    /// The place that is kept for it.
    best_place: Option<usize>,
}

impl Beams {
    /// A search whose first logits are those after the start token in place 0.
    ///
    /// It uses the places below `num_beams`.
    pub fn new(search: BeamSearch, start: Start) -> Self {
        Self::at(0, search, start, false)
    }

    /// As [`Self::new`], with the context and the start token in `place`.
    ///
    /// With `keeps_best` the cache of the best answer stays until the search ends, in a place of its own: it uses
    /// the places up to `num_beams`.
    pub(super) fn at(place: usize, search: BeamSearch, start: Start, keeps_best: bool) -> Self {
        let first_token = start.history.len();
        let most = start.max_new_tokens as usize;
        let lengths = Lengths::new(search.length_over, first_token, most);
        Self {
            search,
            rules: start.rules,
            mask_position: start.mask_position,
            max_new_tokens: most,
            first_token,
            running: vec![Beam {
                history: start.history,
                sum: 0.0,
                token_logprobs: Vec::new(),
                place,
            }],
            hypotheses: Hypotheses::new(search, lengths),
            keeps_best,
            best_place: None,
        }
    }

    /// Beams that run: so many rows of logits the next step takes.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Answer tokens so far; all beams have equally many.
    fn answered(&self) -> usize {
        let first = self.running.first();
        first.map_or(0, |beam| beam.history.len() - self.first_token)
    }

    /// The last token of each beam, to be fed to its place's slot, in the order of the logits that
    /// [`Self::advance`] takes.
    ///
    /// # Panics
    ///
    /// Where `slots` names none for a place, or the search began without a start token.
    pub fn decode_rows<'a>(&'a self, slots: &'a [usize]) -> impl Iterator<Item = DecodeRow> + 'a {
        // The start token has 1, the first answer token 2.
        let block_position = self.answered() as u32 + 1;
        self.running.iter().map(move |beam| DecodeRow {
            slot: slots[beam.place],
            id: *beam
                .history
                .last()
                .expect("a history begins with the start token"),
            mask_position: self.mask_position,
            block_position,
        })
    }

    /// Continues the beams by the logits after the last token of each.
    pub fn advance(&mut self, logits: &[&[f32]], codec: &dyn TextCodec) -> Searched {
        match self.step(logits, codec) {
            Ok(searched) => searched,
            Err(reason) => Searched::Failed(reason),
        }
    }

    fn step(&mut self, logits: &[&[f32]], codec: &dyn TextCodec) -> Result<Searched, String> {
        let num_beams = self.search.num_beams;
        let answered = self.answered();
        let candidates = candidates(&self.rules, &self.running, answered, logits, num_beams)?;
        let mut going: Vec<Beam> = Vec::with_capacity(num_beams);
        for (rank, candidate) in candidates.iter().enumerate() {
            let beam = self.continued(candidate, logits[candidate.parent]);
            match self.ending(&beam.history[self.first_token..], codec)? {
                None => going.push(beam),
                // The reference lets an ending token pass only from among the first.
                Some(reason) if rank < num_beams => self.end(beam, reason),
                Some(_) => {}
            }
            if going.len() == num_beams {
                break;
            }
        }
        let best = candidates.first().map(|candidate| candidate.sum);
        let is_done = best.is_some_and(|best| self.hypotheses.is_done(best, answered + 1));
        if !is_done && !going.is_empty() && answered + 1 < self.max_new_tokens {
            return Ok(Searched::Running(self.go_on(going)));
        }
        if !is_done {
            for beam in going {
                self.end(beam, FinishReason::Length);
            }
        }
        self.finish(codec)
    }

    /// A beam with one more token; its place is still its parent's.
    fn continued(&self, candidate: &Candidate, logits: &[f32]) -> Beam {
        let parent = &self.running[candidate.parent];
        let mut beam = parent.clone();
        beam.history.push(candidate.id);
        beam.sum = candidate.sum;
        if self.rules.logprobs {
            let logprob = log_probability(logits, candidate.id);
            beam.token_logprobs.push(logprob);
        }
        beam
    }

    /// Why an answer ends with its last token; `None` where it goes on.
    fn ending(&self, ids: &[u32], codec: &dyn TextCodec) -> Result<Option<FinishReason>, String> {
        if ids
            .last()
            .is_some_and(|&id| self.rules.endings.contains(id))
        {
            return Ok(Some(FinishReason::Stop));
        }
        if self.rules.stop.is_empty() {
            return Ok(None);
        }
        let found = earliest(&codec.decode(ids)?, &self.rules.stop);
        Ok(found.map(|_| FinishReason::StopString))
    }

    fn end(&mut self, beam: Beam, finish_reason: FinishReason) {
        let hypothesis = Hypothesis {
            score: 0.0,
            ids: beam.history[self.first_token..].to_vec(),
            token_logprobs: beam.token_logprobs,
            finish_reason,
            place: beam.place,
        };
        self.hypotheses.add(beam.sum, hypothesis);
    }

    /// Gives the beams that go on their places. Returns what must be copied.
    fn go_on(&mut self, mut going: Vec<Beam>) -> Vec<Fork> {
        let mut wants: Vec<usize> = going.iter().map(|beam| beam.place).collect();
        let best = self.hypotheses.best().filter(|_| self.keeps_best);
        let is_new = |best: &&mut Hypothesis| Some(best.place) != self.best_place;
        let new_best = best.filter(is_new);
        let taken = self.best_place.filter(|_| new_best.is_none());
        wants.extend(new_best.as_ref().map(|best| best.place));
        let (places, forks) = places::assign(&wants, taken);
        for (beam, &place) in going.iter_mut().zip(&places) {
            beam.place = place;
        }
        if let Some(best) = new_best {
            best.place = places[going.len()];
            self.best_place = Some(best.place);
        }
        self.running = going;
        forks
    }

    fn finish(&mut self, codec: &dyn TextCodec) -> Result<Searched, String> {
        let found = self.hypotheses.take();
        let (count, wanted) = (found.len(), self.search.num_return_sequences);
        let place = found
            .first()
            .ok_or_else(|| nothing_allowed(&self.rules))?
            .place;
        if count < wanted {
            return Err(format!(
                "the rules allow only {count} different answers, and `num_return_sequences` asks for {wanted}"
            ));
        }
        let answers = found.into_iter().take(wanted);
        let answers: Result<Vec<Scored>, String> =
            answers.map(|answer| self.scored(answer, codec)).collect();
        let answers = answers?;
        Ok(Searched::Ended { answers, place })
    }

    fn scored(&self, answer: Hypothesis, codec: &dyn TextCodec) -> Result<Scored, String> {
        let mut text = codec.decode(&answer.ids)?;
        if answer.finish_reason == FinishReason::StopString
            && let Some(end) = earliest(&text, &self.rules.stop)
        {
            text.truncate(end);
        }
        Ok(Scored {
            score: answer.score as f32,
            sample: Sample {
                text,
                finish_reason: answer.finish_reason,
                token_ids: answer.ids,
                token_logprobs: answer.token_logprobs,
                score: None,
                spans: Vec::new(),
            },
        })
    }
}

#[cfg(test)]
mod tests;
