//! A row's settings to [`Rules`], and rules to what they do to the logits before a token is chosen.
//!
//! # Source
//!
//! `generation/logits_process.py` of transformers 4.25 to 4.30, in the order in which `generate` applies them:
//! `RepetitionPenaltyLogitsProcessor`, `NoRepeatNGramLogitsProcessor`, `NoBadWordsLogitsProcessor` and
//! `MinNewTokensLengthLogitsProcessor`. All but the last look at the whole sequence: prompt, special tokens, start
//! token and answer. Departures: `<|endoftext|>` ends an answer too, so the minimum answer bars it as
//! well, and a bad word that is only an ending token is dropped for both. A bad word is a text here, which the
//! codec turns into every sequence that it may have: transformers takes ids and leaves that to the caller.

use std::sync::Arc;

use crate::job::GenerationSpec;

use super::bad_words::BadWords;
use super::beam::BeamSearch;
use super::choices::Choices;
use super::endings::Endings;
use super::warp::Warp;

/// What one row's settings mean, ready to be applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// Ids that end an answer.
    pub endings: Endings,
    /// Answers that are allowed; `None` is all. They bar before anything else does.
    pub choices: Option<Arc<Choices>>,
    /// Logits of ids in the sequence are divided (positive) or multiplied (negative) by this.
    pub repetition_penalty: f32,
    /// No n-gram of this size twice; 0 is off.
    pub no_repeat_ngram_size: usize,
    /// What is never chosen; rows with the same words share it.
    pub bad_words: Arc<BadWords>,
    /// Ending ids are barred before this many answer tokens.
    pub min_new_tokens: usize,
    /// How to draw; `None` takes the likeliest.
    pub warp: Option<Warp>,
    /// How to search with beams; `None` writes one token after another.
    pub beams: Option<BeamSearch>,
    /// Seed of the draw.
    pub seed: u64,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// Whether log-probabilities are kept.
    pub logprobs: bool,
}

impl Rules {
    /// The rules of these settings, of which the bad words have become ids.
    pub fn new(settings: &GenerationSpec, bad_words: Arc<BadWords>, endings: Endings) -> Self {
        Self {
            endings,
            choices: None,
            repetition_penalty: settings.repetition_penalty as f32,
            no_repeat_ngram_size: settings.no_repeat_ngram_size as usize,
            bad_words,
            min_new_tokens: settings.min_new_tokens as usize,
            warp: settings.do_sample.then(|| Warp::new(settings)),
            beams: BeamSearch::new(settings),
            seed: settings.seed,
            stop: settings
                .stop
                .iter()
                .filter(|text| !text.is_empty())
                .cloned()
                .collect(),
            logprobs: settings.logprobs,
        }
    }

    /// The same rules, held to choices.
    #[must_use]
    pub fn held_to(self, choices: Arc<Choices>) -> Self {
        Self {
            choices: Some(choices),
            ..self
        }
    }

    /// Whether both do the same where nothing is drawn.
    pub fn same_but_for_seed(&self, other: &Self) -> bool {
        *self
            == Self {
                seed: self.seed,
                ..other.clone()
            }
    }

    /// Whether the token after this many answer tokens is the likeliest one, and nothing else is wanted of the logits.
    pub fn takes_likeliest(&self, answered: usize) -> bool {
        self.warp.is_none()
            && self.beams.is_none()
            && !self.logprobs
            && !self.changes_logits(answered)
    }

    /// Whether [`process`] would change logits after this many answer tokens.
    pub fn changes_logits(&self, answered: usize) -> bool {
        self.choices.is_some()
            || self.repetition_penalty != 1.0
            || self.no_repeat_ngram_size > 0
            || !self.bad_words.ids.is_empty()
            || !self.bad_words.sequences.is_empty()
            || answered < self.min_new_tokens
    }
}

/// Applies a row's rules to its logits; what may not be chosen becomes negative infinity.
///
/// `history` is the whole sequence: context, start token and the `answered` answer tokens.
pub fn process(rules: &Rules, history: &[u32], answered: usize, logits: &mut [f32]) {
    if let Some(choices) = &rules.choices {
        let answer = &history[history.len() - answered..];
        choices.hold(answer, rules.endings, logits);
    }
    if rules.repetition_penalty != 1.0 {
        penalize(history, rules.repetition_penalty, logits);
    }
    if rules.no_repeat_ngram_size > 0 {
        bar_repeated(history, rules.no_repeat_ngram_size, logits);
    }
    for &id in &rules.bad_words.ids {
        bar(id, logits);
    }
    for sequence in &rules.bad_words.sequences {
        if let Some((&last, before)) = sequence.split_last()
            && history.ends_with(before)
        {
            bar(last, logits);
        }
    }
    if answered < rules.min_new_tokens {
        bar(rules.endings.eop, logits);
        bar(rules.endings.eos, logits);
    }
}

fn bar(id: u32, logits: &mut [f32]) {
    if let Some(logit) = logits.get_mut(id as usize) {
        *logit = f32::NEG_INFINITY;
    }
}

/// Each distinct id once, however often the sequence has it.
fn penalize(history: &[u32], penalty: f32, logits: &mut [f32]) {
    let mut seen = history.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit = if *logit < 0.0 {
                *logit * penalty
            } else {
                *logit / penalty
            };
        }
    }
}

fn bar_repeated(history: &[u32], size: usize, logits: &mut [f32]) {
    if history.len() + 1 < size {
        return;
    }
    let current = &history[history.len() + 1 - size..];
    for ngram in history.windows(size) {
        if &ngram[..size - 1] == current {
            bar(ngram[size - 1], logits);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::generate::codec::TextCodec;

    /// Letters a to z are 0 to 25; 26 and up are special and decode to nothing.
    pub(crate) struct Letters;

    impl TextCodec for Letters {
        fn decode(&self, ids: &[u32]) -> Result<String, String> {
            let letters = ids.iter().filter(|&&id| id < 26);
            Ok(letters.map(|&id| char::from(b'a' + id as u8)).collect())
        }
        fn encode_plain(&self, text: &str) -> Vec<u32> {
            text.bytes()
                .map(|byte| {
                    if byte == b'#' {
                        31
                    } else {
                        u32::from(byte - b'a')
                    }
                })
                .collect()
        }
        fn sop(&self) -> u32 {
            30
        }
        fn eop(&self) -> u32 {
            31
        }
        fn eos(&self) -> u32 {
            29
        }
    }

    /// The rules of settings over letters.
    pub(crate) fn rules_of(settings: &GenerationSpec) -> Rules {
        let bad_words = Arc::new(BadWords::new(&settings.bad_words, &Letters));
        Rules::new(settings, bad_words, Endings::of(&Letters))
    }

    fn rules(change: impl FnOnce(&mut GenerationSpec)) -> Rules {
        let mut settings = GenerationSpec::default();
        change(&mut settings);
        rules_of(&settings)
    }

    fn barred(rules: &Rules, history: &[u32], answered: usize) -> Vec<usize> {
        let mut logits = vec![0.5; 32];
        process(rules, history, answered, &mut logits);
        (0..32)
            .filter(|&id| logits[id] == f32::NEG_INFINITY)
            .collect()
    }

    #[test]
    fn default_settings_leave_logits_alone() {
        let rules = rules(|_| {});
        assert!(!rules.changes_logits(0));
        assert_eq!(barred(&rules, &[1, 2, 30], 0), Vec::<usize>::new());
    }

    #[test]
    fn the_penalty_counts_an_id_once_and_turns_with_the_sign() {
        let rules = rules(|settings| settings.repetition_penalty = 2.0);
        let mut logits = vec![1.0, -1.0, 3.0, 0.0];
        process(&rules, &[0, 1, 0, 1, 3, 99], 0, &mut logits);
        assert_eq!(logits, [0.5, -2.0, 3.0, 0.0]);
    }

    #[test]
    fn ngrams_are_looked_for_in_the_whole_sequence() {
        let two = rules(|settings| settings.no_repeat_ngram_size = 2);
        assert_eq!(barred(&two, &[5, 6, 7, 5, 8, 5], 0), [6, 8]);
        let three = rules(|settings| settings.no_repeat_ngram_size = 3);
        assert_eq!(barred(&three, &[5, 6, 7, 5, 6], 0), [7]);
        assert_eq!(barred(&three, &[5], 0), Vec::<usize>::new());
        let one = rules(|settings| settings.no_repeat_ngram_size = 1);
        assert_eq!(barred(&one, &[5, 6], 0), [5, 6]);
    }

    #[test]
    fn bad_words_are_ids_or_sequences_and_never_an_ending() {
        let rules = rules(|settings| {
            settings.bad_words = ["c", "abd", "", "#"].map(str::to_owned).to_vec();
        });
        assert_eq!(barred(&rules, &[7], 0), [2]);
        assert_eq!(barred(&rules, &[7, 0, 1], 0), [2, 3]);
        assert_eq!(barred(&rules, &[0, 1, 7], 0), [2]);
        assert_eq!(
            barred(&rules, &[1], 0),
            [2],
            "a sequence longer than the history"
        );
    }

    #[test]
    fn choices_bar_before_the_other_rules() {
        let rules = rules(|settings| {
            settings.repetition_penalty = 2.0;
            settings.bad_words = vec!["b".into()];
        });
        let texts = ["ab", "ac", "a"].map(str::to_owned);
        let choices = Arc::new(Choices::new(&texts, &Letters).unwrap());
        let rules = rules.held_to(choices);
        assert!(rules.changes_logits(9));
        let left = |history: &[u32], answered| {
            let barred = barred(&rules, history, answered);
            (0..32)
                .filter(|id| !barred.contains(id))
                .collect::<Vec<_>>()
        };
        assert_eq!(left(&[7, 30], 0), [0]);
        assert_eq!(
            left(&[7, 30, 0], 1),
            [2, 31],
            "`ab` is barred as a bad word"
        );
        assert_eq!(left(&[7, 30, 0, 2], 2), [31]);
    }

    #[test]
    fn the_minimum_bars_both_endings() {
        let rules = rules(|settings| settings.min_new_tokens = 2);
        assert_eq!(barred(&rules, &[7], 1), [29, 31]);
        assert_eq!(barred(&rules, &[7], 2), Vec::<usize>::new());
        assert!(rules.changes_logits(1) && !rules.changes_logits(2));
    }
}
