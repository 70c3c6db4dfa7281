//! BLEU of many rows together, from counts that add up.
//!
//! # Source
//!
//! `sacrebleu/metrics/bleu.py`, `BLEU`, at its defaults: runs of up to four tokens, exponential smoothing.

use super::Language;
use super::texts::{bleu_characters, bleu_words, grams};
use crate::outcome::Sums;

/// Tokens of the longest runs that are compared.
const ORDERS: usize = 4;

/// What BLEU needs to know of some rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Bleu {
    /// By length: runs of the answers that a reference has too.
    correct: [f64; ORDERS],
    /// By length: runs of the answers.
    total: [f64; ORDERS],
    /// Tokens of the answers.
    answer: f64,
    /// Tokens of the references, of several the one nearest in length.
    reference: f64,
}

impl Bleu {
    /// The counts of one row.
    pub(super) fn of(language: Language, answer: &str, references: &[&str]) -> Self {
        let tokens = |text: &str| match language {
            Language::Han => bleu_characters(text),
            Language::Other => bleu_words(text),
        };
        let answer = tokens(answer);
        let references: Vec<Vec<String>> = references.iter().map(|text| tokens(text)).collect();
        let lengths = references.iter().map(Vec::len);
        let nearest = lengths.min_by_key(|&length| (length.abs_diff(answer.len()), length));
        let mut counts = Self {
            answer: answer.len() as f64,
            reference: nearest.unwrap_or_default() as f64,
            ..Self::default()
        };
        for order in 1..=ORDERS {
            let given = grams(order, &answer);
            let right: Vec<_> = references.iter().map(|r| grams(order, r)).collect();
            for (gram, count) in given {
                let most = right.iter().filter_map(|grams| grams.get(gram)).max();
                counts.total[order - 1] += count as f64;
                counts.correct[order - 1] += count.min(most.copied().unwrap_or_default()) as f64;
            }
        }
        counts
    }

    /// Adds the counts to sums.
    pub(super) fn add_to(&self, language: Language, sums: &mut Sums) {
        let mut add = |name: &str, value| sums.add(&sum_name(language, name), value);
        add("answer", self.answer);
        add("reference", self.reference);
        for order in 0..ORDERS {
            add(&format!("correct{}", order + 1), self.correct[order]);
            add(&format!("total{}", order + 1), self.total[order]);
        }
    }

    /// The counts that sums have.
    pub(super) fn from_sums(language: Language, sums: &Sums) -> Self {
        let get = |name: &str| sums.get(&sum_name(language, name));
        let mut counts = Self {
            answer: get("answer"),
            reference: get("reference"),
            ..Self::default()
        };
        for order in 0..ORDERS {
            counts.correct[order] = get(&format!("correct{}", order + 1));
            counts.total[order] = get(&format!("total{}", order + 1));
        }
        counts
    }

    /// BLEU, from 0 to 100.
    pub(super) fn score(&self) -> f64 {
        if self.correct.iter().all(|&correct| correct == 0.0) {
            return 0.0;
        }
        let mut smooth = 1.0;
        let mut logarithms = 0.0;
        for (&correct, &total) in self.correct.iter().zip(&self.total) {
            // No answer is that long: the reference takes the precision for nothing then.
            if total == 0.0 {
                return 0.0;
            }
            let precision: f64 = if correct == 0.0 {
                smooth *= 2.0;
                100.0 / (smooth * total)
            } else {
                100.0 * correct / total
            };
            logarithms += precision.ln();
        }
        let brevity = if self.answer < self.reference {
            (1.0 - self.reference / self.answer).exp()
        } else {
            1.0
        };
        brevity * (logarithms / ORDERS as f64).exp()
    }
}

fn sum_name(language: Language, name: &str) -> String {
    format!("metrics.bleu.{}.{name}", language.name())
}
