//! Which answers are left out: by their likelihood, their length, how they ended, and repetitions.

use std::collections::HashSet;

use super::counts::{LeftOut, Reason};
use super::format::Source;
use super::items::{Answer, Items};
use super::own::OwnColumns;
use super::{Result, refused};

/// Bytes of a text's hash that `--dedup` keeps: two of 2^64 texts would be taken for one by chance.
const KEPT_BYTES: usize = 16;

/// The endings that an answer can have.
const FINISHES: [&str; 3] = ["stop", "length", "stop_string"];

/// Which answers are wanted; the default wants all.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Filters {
    /// Least mean log-probability of a token.
    pub min_logprob: Option<f64>,
    /// Most tokens.
    pub max_completion_tokens: Option<u64>,
    /// How an answer must have ended.
    pub finish: Option<String>,
    /// Whether repetitions are left out.
    pub dedup: bool,
}

impl Filters {
    /// Whether any answer can be left out.
    pub(super) fn are_set(&self) -> bool {
        *self != Self::default()
    }

    /// Refuses filters by what the results do not have.
    pub(super) fn check(&self, source: Option<Source>, own: &OwnColumns) -> Result<()> {
        if source.is_none() && self.are_set() {
            return Err(refused(
                "these results hold no answers that could be left out\nhint: `--where` can look at any column".to_owned(),
            ));
        }
        if self.min_logprob.is_some_and(f64::is_nan) {
            return Err(refused(
                "`--min-logprob` is no number\nhint: give a number below 0, as in `--min-logprob -2`"
                    .to_owned(),
            ));
        }
        let generates = matches!(source, Some(Source::Generate | Source::Infill));
        let is_scored = matches!(source, Some(Source::Score | Source::ScoredPair));
        if self.min_logprob.is_some() && !(is_scored || generates && own.has("logprob")) {
            let cure = if generates {
                "run the job with `generation.logprobs = true`"
            } else {
                "this task has none for its answers; `--where` can look at any column"
            };
            return Err(refused(format!(
                "`--min-logprob` needs the log-probabilities of the answers, which these results do not have\nhint: {cure}"
            )));
        }
        let tokens = self
            .max_completion_tokens
            .map(|_| "`--max-completion-tokens`");
        let finish = self.finish.as_ref().map(|_| "`--finish`");
        if let Some(flag) = tokens.or(finish).filter(|_| !generates) {
            return Err(refused(format!(
                "{flag} looks at answers that the job has generated, and these results have none\nhint: leave it out; `--where` can look at any column"
            )));
        }
        match &self.finish {
            Some(finish) if !FINISHES.contains(&finish.as_str()) => Err(refused(format!(
                "`--finish {finish}`: no answer ends so\nhint: one of `{}`",
                FINISHES.join("`, `")
            ))),
            _ => Ok(()),
        }
    }

    /// Settings in words, for the card.
    pub(super) fn in_words(&self) -> Vec<String> {
        let logprob = self
            .min_logprob
            .map(|least| format!("--min-logprob {least}"));
        let tokens = self.max_completion_tokens;
        let tokens = tokens.map(|most| format!("--max-completion-tokens {most}"));
        let finish = self.finish.as_ref().map(|end| format!("--finish {end}"));
        let dedup = self.dedup.then(|| "--dedup".to_owned());
        [logprob, tokens, finish, dedup]
            .into_iter()
            .flatten()
            .collect()
    }

    /// Why an answer is left out.
    fn refuse(&self, answer: &Answer) -> Option<Reason> {
        if let Some(least) = self.min_logprob
            && answer.mean_logprob.is_none_or(|mean| mean < least)
        {
            return Some(Reason::Logprob);
        }
        if let Some(most) = self.max_completion_tokens
            && answer.tokens.is_none_or(|tokens| tokens > most)
        {
            return Some(Reason::Tokens);
        }
        let finish = self.finish.as_ref()?;
        let is_other = answer.finishes.iter().any(|one| one != finish);
        (is_other || answer.finishes.is_empty()).then_some(Reason::Finish)
    }
}

/// What has been let through so far.
pub(super) struct Sieve {
    filters: Filters,
    /// Hashes of all texts that were let through. Nothing ever walks over them.
    seen: HashSet<[u8; KEPT_BYTES]>,
}

impl Sieve {
    pub(super) fn new(filters: Filters) -> Self {
        Self {
            filters,
            seen: HashSet::new(),
        }
    }

    /// Takes out of a row's items what is not wanted, and counts it.
    pub(super) fn sift(&mut self, items: &mut Items, left_out: &mut LeftOut) {
        if !self.filters.are_set() {
            return;
        }
        let answers = std::mem::take(&mut items.answers);
        for answer in answers {
            let texts = [&items.texts.prompt, items.texts.prefix(), &answer.text];
            match self
                .filters
                .refuse(&answer)
                .or_else(|| self.repeated(&texts))
            {
                Some(reason) => left_out.add(reason),
                None => items.answers.push(answer),
            }
        }
        let pairs = std::mem::take(&mut items.pairs);
        for pair in pairs {
            let sides = [&pair.chosen, &pair.rejected];
            // A pair that was made of two answers is kept only with both.
            let refused = sides
                .into_iter()
                .filter(|_| pair.logprobs.is_some())
                .find_map(|side| self.filters.refuse(side));
            let texts = [
                &items.texts.prompt,
                items.texts.prefix(),
                &pair.chosen.text,
                &pair.rejected.text,
            ];
            match refused.or_else(|| self.repeated(&texts)) {
                Some(reason) => left_out.add(reason),
                None => items.pairs.push(pair),
            }
        }
    }

    /// The reason for what has come before.
    fn repeated(&mut self, texts: &[&str]) -> Option<Reason> {
        if !self.filters.dedup {
            return None;
        }
        let mut hasher = blake3::Hasher::new();
        for text in texts {
            hasher.update(normalised(text).as_bytes());
            // No text in UTF-8 holds it.
            hasher.update(&[0xff]);
        }
        let mut hash = [0; KEPT_BYTES];
        hash.copy_from_slice(&hasher.finalize().as_bytes()[..KEPT_BYTES]);
        (!self.seen.insert(hash)).then_some(Reason::Duplicate)
    }
}

/// A text by which equal ones are known: in lower case, with the usual width of full-width signs, and with one space
/// for each run of white space, none at the ends.
fn normalised(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let usual = |c: char| match c {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c),
        c => c,
    };
    for word in text.split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.extend(word.chars().map(usual).flat_map(char::to_lowercase));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_differ_in_case_width_and_spaces_only() {
        assert_eq!(normalised(" Ｐａｒｉｓ\u{3000}是 \n Ａ！ "), "paris 是 a!");
        assert_ne!(normalised("北京"), normalised("北京。"));
        assert_ne!(normalised("a b"), normalised("ab"));
    }

    #[test]
    fn an_answer_is_kept_on_the_limit_and_left_out_behind_it() {
        let filters = Filters {
            min_logprob: Some(-1.5),
            max_completion_tokens: Some(4),
            finish: Some("stop".to_owned()),
            dedup: false,
        };
        let good = Answer {
            mean_logprob: Some(-1.5),
            tokens: Some(4),
            finishes: vec!["stop".to_owned()],
            ..Answer::default()
        };
        assert_eq!(filters.refuse(&good), None);
        for (answer, reason) in [
            (
                Answer {
                    mean_logprob: Some(-1.51),
                    ..good.clone()
                },
                Reason::Logprob,
            ),
            (
                Answer {
                    mean_logprob: None,
                    ..good.clone()
                },
                Reason::Logprob,
            ),
            (
                Answer {
                    tokens: Some(5),
                    ..good.clone()
                },
                Reason::Tokens,
            ),
            (
                Answer {
                    finishes: vec!["stop".to_owned(), "length".to_owned()],
                    ..good.clone()
                },
                Reason::Finish,
            ),
            (
                Answer {
                    finishes: Vec::new(),
                    ..good.clone()
                },
                Reason::Finish,
            ),
        ] {
            assert_eq!(filters.refuse(&answer), Some(reason), "{answer:?}");
        }
    }
}
