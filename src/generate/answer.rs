//! One running answer: logits in, a token on its history, and whether it has ended.
//!
//! Ends in this order: an ending token, a stop string, the longest answer. The text is decoded whole
//! where there are stop strings, and not piece by piece: clean-up and joins of the decoder reach back
//! over token borders, and only so is what is searched what is written.

use std::sync::Arc;

use crate::model::DecodeRow;
use crate::outcome::{FinishReason, Sample};

use super::choose::{Scratch, choose, log_probability};
use super::codec::TextCodec;
use super::philox::Draw;
use super::rules::Rules;

/// What an answer needs to know of its row.
#[derive(Clone, Debug)]
pub struct Start {
    /// Context and start token.
    pub history: Vec<u32>,
    /// Position of the mask that is answered.
    pub mask_position: u32,
    /// What the row's settings mean.
    pub rules: Arc<Rules>,
    /// Most answer tokens; at least 1.
    pub max_new_tokens: u32,
    /// Number of the row in the whole input.
    pub row: u64,
    /// Sample of the row.
    pub sample: u32,
}

/// A running answer.
#[derive(Debug)]
pub(crate) struct Answer {
    start: Start,
    /// Where the answer begins in the history: behind context and start token.
    first_token: usize,
    /// Tokens that were drawn for earlier masks of the same sample.
    drawn: u32,
    token_logprobs: Vec<f32>,
}

/// What a token made of an answer.
#[derive(Debug)]
pub(crate) enum Progress {
    /// It goes on.
    Running,
    /// It has ended.
    Ended(Sample),
    /// It cannot go on, and why.
    Failed(String),
}

impl Answer {
    /// An answer that begins after so many tokens were drawn for earlier masks.
    pub(super) fn after(drawn: u32, start: Start) -> Self {
        let first_token = start.history.len();
        Self {
            start,
            first_token,
            drawn,
            token_logprobs: Vec::new(),
        }
    }

    fn ids(&self) -> &[u32] {
        &self.start.history[self.first_token..]
    }

    /// The last token, to be fed to `slot`.
    pub(crate) fn decode_row(&self, slot: usize) -> DecodeRow {
        let last = self.start.history.last().copied();
        DecodeRow {
            slot,
            id: last.expect("a history begins with the start token"),
            mask_position: self.start.mask_position,
            // The start token has 1, the first answer token 2.
            block_position: self.ids().len() as u32 + 1,
        }
    }

    /// Whether the next token is the likeliest one, and nothing else is wanted of the logits.
    pub(crate) fn takes_likeliest(&self) -> bool {
        self.start.rules.takes_likeliest(self.ids().len())
    }

    /// Chooses the next token from the logits after the last one.
    pub(crate) fn advance(
        &mut self,
        logits: &[f32],
        codec: &dyn TextCodec,
        scratch: &mut Scratch,
    ) -> Progress {
        let Start {
            history,
            rules,
            row,
            sample,
            ..
        } = &self.start;
        let answered = self.ids().len();
        let draw = Draw {
            seed: rules.seed,
            row: *row,
            sample: *sample,
            step: self.drawn + answered as u32,
        };
        let id = match choose(rules, history, answered, logits, draw, scratch) {
            Ok(id) => id,
            Err(reason) => return Progress::Failed(reason),
        };
        if rules.logprobs {
            self.token_logprobs.push(log_probability(logits, id));
        }
        self.take(id, codec)
    }

    /// Takes the next token.
    pub(crate) fn take(&mut self, id: u32, codec: &dyn TextCodec) -> Progress {
        self.start.history.push(id);
        match self.ended(id, codec) {
            Ok(None) => Progress::Running,
            Ok(Some(sample)) => Progress::Ended(sample),
            Err(reason) => Progress::Failed(reason),
        }
    }

    fn ended(&mut self, id: u32, codec: &dyn TextCodec) -> Result<Option<Sample>, String> {
        let rules = &self.start.rules;
        if rules.endings.contains(id) {
            let text = codec.decode(self.ids())?;
            return Ok(Some(self.sample_of(text, FinishReason::Stop)));
        }
        if !rules.stop.is_empty() {
            let mut text = codec.decode(self.ids())?;
            if let Some(end) = earliest(&text, &rules.stop) {
                text.truncate(end);
                return Ok(Some(self.sample_of(text, FinishReason::StopString)));
            }
        }
        if self.ids().len() < self.start.max_new_tokens as usize {
            return Ok(None);
        }
        let text = codec.decode(self.ids())?;
        Ok(Some(self.sample_of(text, FinishReason::Length)))
    }

    fn sample_of(&mut self, text: String, finish_reason: FinishReason) -> Sample {
        Sample {
            text,
            finish_reason,
            token_ids: self.ids().to_vec(),
            token_logprobs: std::mem::take(&mut self.token_logprobs),
            score: None,
            spans: Vec::new(),
        }
    }
}

/// Where the first of the stop strings begins; always at a character.
pub(super) fn earliest(text: &str, stop: &[String]) -> Option<usize> {
    stop.iter()
        .filter_map(|stop| text.find(stop.as_str()))
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::rules::tests::{Letters, rules_of};
    use crate::job::GenerationSpec;

    fn run(settings: &GenerationSpec, max_new_tokens: u32, ids: &[u32]) -> (usize, Option<Sample>) {
        let start = Start {
            history: vec![28, 0, 30],
            mask_position: 1,
            rules: Arc::new(rules_of(settings)),
            max_new_tokens,
            row: 0,
            sample: 0,
        };
        let mut answer = Answer::after(0, start);
        for (step, &id) in ids.iter().enumerate() {
            let mut logits = vec![0.0; 32];
            logits[id as usize] = 9.0;
            match answer.advance(&logits, &Letters, &mut Scratch::default()) {
                Progress::Running => {}
                Progress::Ended(sample) => return (step + 1, Some(sample)),
                Progress::Failed(reason) => panic!("{reason}"),
            }
            assert_eq!(answer.decode_row(5).block_position as usize, step + 2);
        }
        (ids.len(), None)
    }

    #[test]
    fn both_ending_tokens_end_and_are_counted() {
        for ending in [29, 31] {
            let (_, sample) = run(&GenerationSpec::default(), 9, &[7, 8, ending, 1]);
            let sample = sample.unwrap();
            assert_eq!(
                (sample.text.as_str(), sample.finish_reason),
                ("hi", FinishReason::Stop)
            );
            assert_eq!(sample.token_ids, [7, 8, ending]);
        }
    }

    #[test]
    fn the_longest_answer_ends_with_length() {
        let (steps, sample) = run(&GenerationSpec::default(), 3, &[7, 8, 9, 10]);
        assert_eq!(
            (steps, sample.unwrap().finish_reason),
            (3, FinishReason::Length)
        );
    }

    #[test]
    fn the_text_is_cut_before_the_earliest_stop_string() {
        let settings = GenerationSpec {
            stop: vec!["cd".into(), "bcd".into()],
            ..GenerationSpec::default()
        };
        let (steps, sample) = run(&settings, 9, &[0, 1, 2, 3, 4]);
        let sample = sample.unwrap();
        assert_eq!((steps, sample.text.as_str()), (4, "a"), "it spans tokens");
        assert_eq!(sample.finish_reason, FinishReason::StopString);
        assert_eq!(sample.token_ids, [0, 1, 2, 3], "every token generated");
    }

    #[test]
    fn an_ending_token_wins_over_what_comes_later_and_a_stop_string_over_length() {
        let settings = GenerationSpec {
            stop: vec!["b".into()],
            ..GenerationSpec::default()
        };
        let (_, sample) = run(&settings, 2, &[0, 1]);
        assert_eq!(sample.unwrap().finish_reason, FinishReason::StopString);
        let (_, sample) = run(&settings, 2, &[0, 31]);
        assert_eq!(sample.unwrap().finish_reason, FinishReason::Stop);
    }

    #[test]
    fn stop_strings_begin_at_characters() {
        let stop = ["，".to_owned(), "空".to_owned()];
        assert_eq!(earliest("天空，海", &stop), Some("天".len()));
        assert_eq!(earliest("海", &stop), None);
    }

    #[test]
    fn log_probabilities_are_of_the_raw_logits() {
        let settings = GenerationSpec {
            logprobs: true,
            repetition_penalty: 3.0,
            ..GenerationSpec::default()
        };
        let (_, sample) = run(&settings, 2, &[7, 8]);
        let logprobs = sample.unwrap().token_logprobs;
        let expected = 9.0 - (9.0_f64.exp() + 31.0).ln();
        assert_eq!(logprobs.len(), 2);
        assert!(
            logprobs
                .iter()
                .all(|&p| (f64::from(p) - expected).abs() < 1e-6),
            "{logprobs:?}"
        );
    }
}
