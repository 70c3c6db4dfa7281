//! Answers and their references to metrics: normalised match, F1, ROUGE, BLEU, votes and passes.
//!
//! ```text
//! answers and references of a row -> count -> Sums, merged in the order of windows -> Metrics::of
//! ```
//!
//! Every metric is a mean or a ratio of sums over rows, so windows can be counted apart and merged. Texts in Chinese and
//! in other languages are cut into tokens in different ways; both are counted for every row, and [`Metrics::of`] gives
//! those that fit: the Chinese ones where any reference has a Han character.
//!
//! The first answer of a row is measured; votes and passes take all of its samples. Of several references, the one that
//! fits best counts, as in the packages that these metrics follow.

mod bleu;
mod overlap;
mod texts;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::outcome::Sums;

use bleu::Bleu;
use overlap::{character_f1, rouge_l, rouge_n, word_f1};
use texts::{characters, has_han, normalised, rouge_words};

/// What the names of all sums here begin with.
const ROWS: &str = "metrics.rows";
const HAN: &str = "metrics.han";
const SAME: &str = "metrics.same";
const CHARACTER_F1: &str = "metrics.f1.characters";
const WORD_F1: &str = "metrics.f1.words";
const SAMPLED: &str = "metrics.sampled";
const VOTE: &str = "metrics.vote";
const PASS: &str = "metrics.pass@";

/// How a text is cut into tokens, and what the sums of it are named by.
#[derive(Clone, Copy)]
enum Language {
    Han,
    Other,
}

impl Language {
    const BOTH: [Self; 2] = [Self::Han, Self::Other];

    fn name(self) -> &'static str {
        match self {
            Self::Han => "zh",
            Self::Other => "other",
        }
    }
}

/// Says that rows are measured, also where none of them can be.
pub(crate) fn begin(sums: &mut Sums) {
    sums.add(ROWS, 0.0);
}

/// Adds a row to the sums: its answers in the order of the samples, and the texts that are right.
///
/// A row without answers or without references adds nothing.
pub(crate) fn count(answers: &[&str], references: &[&str], sums: &mut Sums) {
    let (Some(answer), false) = (answers.first(), references.is_empty()) else {
        return;
    };
    sums.add(ROWS, 1.0);
    sums.add(
        HAN,
        flag(references.iter().any(|reference| has_han(reference))),
    );
    let right: Vec<String> = references.iter().map(|text| normalised(text)).collect();
    let given: Vec<String> = answers.iter().map(|text| normalised(text)).collect();
    let is_right = |answer: &String| right.contains(answer);
    sums.add(SAME, flag(is_right(&given[0])));
    sums.add(CHARACTER_F1, best(references, |r| character_f1(answer, r)));
    sums.add(WORD_F1, best(references, |r| word_f1(answer, r)));
    for language in Language::BOTH {
        count_rouge(language, answer, references, sums);
        Bleu::of(language, answer, references).add_to(language, sums);
    }
    if given.len() > 1 {
        sums.add(SAMPLED, 1.0);
        sums.add(VOTE, flag(is_right(most_frequent(&given))));
        let correct = given.iter().filter(|answer| is_right(answer)).count();
        for k in passes(given.len()) {
            sums.add(&format!("{PASS}{k}"), pass_at(k, given.len(), correct));
            sums.add(&format!("{PASS}{k}.rows"), 1.0);
        }
    }
}

/// Whether rows were measured; an earlier version did not.
pub(crate) fn has(sums: &Sums) -> bool {
    sums.iter().any(|(name, _)| name == ROWS)
}

fn count_rouge(language: Language, answer: &str, references: &[&str], sums: &mut Sums) {
    let tokens = |text: &str| match language {
        Language::Han => characters(text),
        Language::Other => rouge_words(text),
    };
    let answer = tokens(answer);
    let references: Vec<Vec<String>> = references.iter().map(|text| tokens(text)).collect();
    let mut add = |name: &str, value: f64| sums.add(&rouge_name(name, language), value);
    add("1", best(&references, |r| rouge_n(language, 1, &answer, r)));
    add("2", best(&references, |r| rouge_n(language, 2, &answer, r)));
    add("L", best(&references, |r| rouge_l(language, &answer, r)));
}

fn rouge_name(which: &str, language: Language) -> String {
    format!("metrics.rouge{which}.{}", language.name())
}

/// The highest value over the references.
fn best<T>(references: &[T], value: impl Fn(&T) -> f64) -> f64 {
    references.iter().map(value).fold(0.0, f64::max)
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

/// The most frequent of some texts, the first of equally frequent ones.
fn most_frequent(texts: &[String]) -> &String {
    let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
    for text in texts {
        *counts.entry(text).or_default() += 1;
    }
    let mut best = &texts[0];
    for text in texts {
        if counts[text] > counts[best] {
            best = text;
        }
    }
    best
}

/// The numbers of samples that passes are given for: 1, 2, 4, ... and all of them.
fn passes(samples: usize) -> Vec<usize> {
    let mut passes: Vec<usize> = std::iter::successors(Some(1), |k| Some(k * 2))
        .take_while(|&k| k < samples)
        .collect();
    passes.push(samples);
    passes
}

/// The chance that one of `k` of the samples, drawn without putting back, is right.
///
/// # Source
///
/// The unbiased estimator of Chen et al., "Evaluating Large Language Models Trained on Code" (2021), section 2.1.
fn pass_at(k: usize, samples: usize, correct: usize) -> f64 {
    if samples - correct < k {
        return 1.0;
    }
    let all_wrong: f64 = (samples - correct + 1..=samples)
        .map(|n| 1.0 - k as f64 / n as f64)
        .product();
    1.0 - all_wrong
}

/// Metrics of some rows. Shares are from 0 to 1, `bleu` is from 0 to 100, as the packages give them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metrics {
    /// Rows measured: those with a result and a reference.
    pub rows: u64,
    /// Share whose first answer is a reference, case, width, punctuation and spaces aside.
    pub normalised_match: f64,
    /// F1 over characters, where any reference has a Han character.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub character_f1: Option<f64>,
    /// F1 over words, elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub word_f1: Option<f64>,
    /// F1 of ROUGE-1.
    pub rouge_1: f64,
    /// F1 of ROUGE-2.
    pub rouge_2: f64,
    /// F1 of ROUGE-L.
    pub rouge_l: f64,
    /// BLEU of all rows together, up to four tokens in a row.
    pub bleu: f64,
    /// Share of rows whose most frequent answer is right, where rows have several samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub majority_vote: Option<f64>,
    /// By k: the chance that one of k samples is right.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pass_at: BTreeMap<u64, f64>,
}

impl Metrics {
    /// The metrics that sums are of; `None` where no row was measured.
    pub(crate) fn of(sums: &Sums) -> Option<Self> {
        let rows = sums.get(ROWS);
        if rows == 0.0 {
            return None;
        }
        let has_han = sums.get(HAN) > 0.0;
        let language = if has_han {
            Language::Han
        } else {
            Language::Other
        };
        let mean = |name: &str| sums.get(name) / rows;
        let sampled = sums.get(SAMPLED);
        Some(Self {
            rows: rows as u64,
            normalised_match: mean(SAME),
            character_f1: has_han.then(|| mean(CHARACTER_F1)),
            word_f1: (!has_han).then(|| mean(WORD_F1)),
            rouge_1: mean(&rouge_name("1", language)),
            rouge_2: mean(&rouge_name("2", language)),
            rouge_l: mean(&rouge_name("L", language)),
            bleu: Bleu::from_sums(language, sums).score(),
            majority_vote: (sampled > 0.0).then(|| sums.get(VOTE) / sampled),
            pass_at: pass_means(sums),
        })
    }

    /// Names and values for people, in the order of a table.
    pub(crate) fn named(&self) -> Vec<(String, String)> {
        let percent = |value: f64| format!("{:.1}%", 100.0 * value);
        let mut named = vec![(
            "normalised match".to_owned(),
            percent(self.normalised_match),
        )];
        let mut add = |name: &str, value: Option<f64>| {
            named.extend(value.map(|value| (name.to_owned(), percent(value))));
        };
        add("character F1", self.character_f1);
        add("word F1", self.word_f1);
        add("ROUGE-1", Some(self.rouge_1));
        add("ROUGE-2", Some(self.rouge_2));
        add("ROUGE-L", Some(self.rouge_l));
        named.push(("BLEU-4".to_owned(), format!("{:.1}", self.bleu)));
        named.extend(self.of_samples());
        named
    }

    /// Names and values of those that say most: what a summary has room for.
    pub(crate) fn main(&self) -> Vec<(String, String)> {
        let says_much = |name: &str| !matches!(name, "ROUGE-1" | "ROUGE-2");
        let most = self.named().len() - self.of_samples().len();
        let named = self.named().into_iter().take(most);
        named.filter(|(name, _)| says_much(name)).collect()
    }

    /// Names and values of those that look at all samples of a row.
    pub(crate) fn of_samples(&self) -> Vec<(String, String)> {
        let percent = |value: f64| format!("{:.1}%", 100.0 * value);
        let vote = self
            .majority_vote
            .map(|vote| ("majority vote".to_owned(), percent(vote)));
        let passes = self.pass_at.iter();
        let passes = passes.map(|(k, &value)| (format!("pass@{k}"), percent(value)));
        vote.into_iter().chain(passes).collect()
    }
}

/// By k, the mean over the rows that have so many samples.
fn pass_means(sums: &Sums) -> BTreeMap<u64, f64> {
    let of = |(name, sum): (&str, f64)| {
        let k = name.strip_prefix(PASS)?.parse().ok()?;
        Some((k, sum / sums.get(&format!("{name}.rows"))))
    };
    sums.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests;
