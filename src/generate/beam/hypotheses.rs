//! The answers that a beam search has found: the best `num_beams` so far.
//!
//! # Source
//!
//! `BeamHypotheses` in `generation/beam_search.py` of transformers 4.25.1; the length of the answer alone and the
//! stop at `"never"` from 4.40.2.

use crate::outcome::FinishReason;

use super::search::{BeamSearch, EarlyStopping, Lengths};

/// An answer that has ended.
#[derive(Clone, Debug)]
pub(super) struct Hypothesis {
    /// Sum of log-probabilities by the length to the power of the penalty.
    pub(super) score: f64,
    /// Every answer id, the ending token included.
    pub(super) ids: Vec<u32>,
    pub(super) token_logprobs: Vec<f32>,
    pub(super) finish_reason: FinishReason,
    /// The place whose cache holds it, without its last token; only the best one's place stays true.
    pub(super) place: usize,
}

/// The best answers so far, in the order in which they ended.
#[derive(Debug)]
pub(super) struct Hypotheses {
    search: BeamSearch,
    lengths: Lengths,
    kept: Vec<Hypothesis>,
    worst: f64,
}

impl Hypotheses {
    pub(super) fn new(search: BeamSearch, lengths: Lengths) -> Self {
        Self {
            search,
            lengths,
            kept: Vec::new(),
            worst: f64::INFINITY,
        }
    }

    /// The score of so large a sum of log-probabilities at a length.
    fn score(&self, sum: f32, length: usize) -> f64 {
        f64::from(sum) / (length as f64).powf(self.search.length_penalty)
    }

    /// Takes an answer with its sum of log-probabilities, unless it is worse than all of a full list.
    pub(super) fn add(&mut self, sum: f32, hypothesis: Hypothesis) {
        let has_ending = hypothesis.finish_reason == FinishReason::Stop;
        let length = self.lengths.of_answer(hypothesis.ids.len(), has_ending);
        let score = self.score(sum, length);
        let is_full = self.kept.len() >= self.search.num_beams;
        if is_full && score <= self.worst {
            return;
        }
        self.kept.push(Hypothesis {
            score,
            ..hypothesis
        });
        if is_full && let Some(worst) = self.worst_index() {
            self.kept.remove(worst);
        }
        let scores = self.kept.iter().map(|kept| kept.score);
        self.worst = scores.fold(f64::INFINITY, f64::min);
    }

    /// The worst; of equals the one that ended first.
    fn worst_index(&self) -> Option<usize> {
        let kept = self.kept.iter().enumerate();
        let worst = kept.min_by(|(_, a), (_, b)| a.score.total_cmp(&b.score))?;
        Some(worst.0)
    }

    /// The best; of equals the one that ended last.
    pub(super) fn best(&mut self) -> Option<&mut Hypothesis> {
        let by_score = |a: &&mut Hypothesis, b: &&mut Hypothesis| a.score.total_cmp(&b.score);
        self.kept.iter_mut().max_by(by_score)
    }

    /// Whether the search can stop; `sum` is that of the best candidate after `tokens` answer tokens.
    pub(super) fn is_done(&self, sum: f32, tokens: usize) -> bool {
        if self.kept.len() < self.search.num_beams {
            return false;
        }
        let length = match self.search.early_stopping {
            EarlyStopping::Always => return true,
            EarlyStopping::Never if self.search.length_penalty > 0.0 => self.lengths.longest(),
            EarlyStopping::Likely | EarlyStopping::Never => self.lengths.of_running(tokens),
        };
        self.worst >= self.score(sum, length)
    }

    /// All of them, the best first; of equals the one that ended last comes first.
    pub(super) fn take(&mut self) -> Vec<Hypothesis> {
        let mut kept = std::mem::take(&mut self.kept);
        kept.sort_by(|a, b| a.score.total_cmp(&b.score));
        kept.reverse();
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::LengthOver;

    fn hypotheses(
        early_stopping: EarlyStopping,
        length_penalty: f64,
        over: LengthOver,
    ) -> Hypotheses {
        let search = BeamSearch {
            num_beams: 2,
            num_return_sequences: 1,
            length_penalty,
            length_over: over,
            early_stopping,
        };
        Hypotheses::new(search, Lengths::new(over, 6, 14))
    }

    fn answer(tokens: usize, finish_reason: FinishReason) -> Hypothesis {
        Hypothesis {
            score: 0.0,
            ids: vec![7; tokens],
            token_logprobs: Vec::new(),
            finish_reason,
            place: tokens,
        }
    }

    fn lengths(hypotheses: &mut Hypotheses) -> Vec<usize> {
        let all = hypotheses.take();
        all.iter().map(|hypothesis| hypothesis.ids.len()).collect()
    }

    #[test]
    fn the_worst_goes_and_of_equals_the_one_that_ended_first() {
        let mut found = hypotheses(EarlyStopping::Likely, 0.0, LengthOver::Sequence);
        for (sum, tokens) in [(-3.0, 1), (-2.0, 2), (-2.0, 3), (-4.0, 4), (-2.0, 5)] {
            found.add(sum, answer(tokens, FinishReason::Stop));
        }
        assert_eq!(found.best().map(|best| best.place), Some(3));
        assert_eq!(
            lengths(&mut found),
            [3, 2],
            "the last does not pass a full list of equals"
        );
    }

    #[test]
    fn each_definition_counts_its_own_tokens() {
        let score = |over, reason| {
            let mut found = hypotheses(EarlyStopping::Likely, 1.0, over);
            found.add(-12.0, answer(4, reason));
            found.take()[0].score
        };
        assert_eq!(score(LengthOver::Sequence, FinishReason::Stop), -12.0 / 9.0);
        assert_eq!(score(LengthOver::Sequence, FinishReason::StopString), -1.2);
        assert_eq!(score(LengthOver::Sequence, FinishReason::Length), -1.2);
        assert_eq!(score(LengthOver::Piece, FinishReason::Stop), -3.0);
        assert_eq!(score(LengthOver::Piece, FinishReason::Length), -2.4);
        assert_eq!(score(LengthOver::Generated, FinishReason::Stop), -3.0);
        assert_eq!(score(LengthOver::Generated, FinishReason::Length), -3.0);
    }

    #[test]
    fn a_full_list_stops_by_what_may_still_come() {
        use EarlyStopping::{Always, Likely, Never};
        use LengthOver::{Generated, Sequence};
        let is_done = |early_stopping, penalty, over, sum| {
            let mut found = hypotheses(early_stopping, penalty, over);
            found.add(-8.0, answer(4, FinishReason::Stop));
            assert!(!found.is_done(-99.0, 4), "not full");
            found.add(-9.0, answer(4, FinishReason::Stop));
            found.is_done(sum, 4)
        };
        assert!(is_done(Always, 1.0, Sequence, -0.1));
        // The worst has -1 of nine tokens; a running beam counts nine, or twenty at the end.
        assert!(is_done(Likely, 1.0, Sequence, -9.0) && !is_done(Likely, 1.0, Sequence, -8.9));
        assert!(is_done(Never, 1.0, Sequence, -20.0) && !is_done(Never, 1.0, Sequence, -19.9));
        assert!(is_done(Never, 0.0, Sequence, -9.0) && !is_done(Never, 0.0, Sequence, -8.9));
        // The worst has -2.25 of four tokens; a running beam counts four, or fourteen at the end.
        assert!(is_done(Likely, 1.0, Generated, -9.0) && !is_done(Likely, 1.0, Generated, -8.9));
        assert!(is_done(Never, 1.0, Generated, -31.5) && !is_done(Never, 1.0, Generated, -31.4));
    }
}
