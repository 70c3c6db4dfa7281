//! How much of two texts is the same: F1 and ROUGE, each from 0 to 1.

use std::collections::{BTreeMap, BTreeSet};

use super::Language;
use super::texts::{cmrc_segments, grams, squad_words};

/// F1 over the longest run of segments that both texts have.
///
/// # Source
///
/// `cmrc2018_evaluate.py`, `calc_f1_score`.
pub(super) fn character_f1(answer: &str, reference: &str) -> f64 {
    let (answer, reference) = (cmrc_segments(answer), cmrc_segments(reference));
    let same = longest_run(&reference, &answer);
    f1(same, answer.len(), reference.len())
}

/// F1 over the words that both texts have, each as often as both have it.
///
/// # Source
///
/// `evaluate-v1.1.py` of `SQuAD`, `f1_score`.
pub(super) fn word_f1(answer: &str, reference: &str) -> f64 {
    let (answer, reference) = (squad_words(answer), squad_words(reference));
    let same = in_both(&grams(1, &answer), &grams(1, &reference));
    f1(same, answer.len(), reference.len())
}

/// F1 over the runs of `n` tokens.
///
/// # Source
///
/// `rouge_score.py`, `rouge_n`, of `rouge-chinese`, which counts each run once; `rouge_scorer.py`, `_score_ngrams`, of
/// `rouge-score`, which counts it as often as both texts have it.
pub(super) fn rouge_n(
    language: Language,
    n: usize,
    answer: &[String],
    reference: &[String],
) -> f64 {
    match language {
        Language::Han => {
            let different = |tokens| grams(n, tokens).into_keys().collect::<BTreeSet<_>>();
            let (answer, reference) = (different(answer), different(reference));
            let same = answer.intersection(&reference).count();
            smoothed_f1(same, answer.len(), reference.len())
        }
        Language::Other => {
            let (answer, reference) = (grams(n, answer), grams(n, reference));
            let total = |grams: &BTreeMap<&[String], usize>| grams.values().sum();
            f1(
                in_both(&answer, &reference),
                total(&answer),
                total(&reference),
            )
        }
    }
}

/// F1 over the longest common subsequence of tokens.
///
/// # Source
///
/// `rouge_score.py`, `rouge_l_summary_level`, of `rouge-chinese`; `rouge_scorer.py`, `_score_lcs`, of `rouge-score`.
pub(super) fn rouge_l(language: Language, answer: &[String], reference: &[String]) -> f64 {
    let same = longest_subsequence(answer, reference);
    match language {
        Language::Han => smoothed_f1(same, answer.len(), reference.len()),
        Language::Other => f1(same, answer.len(), reference.len()),
    }
}

fn f1(same: usize, answer: usize, reference: usize) -> f64 {
    if same == 0 {
        return 0.0;
    }
    let (precision, recall) = (same as f64 / answer as f64, same as f64 / reference as f64);
    2.0 * precision * recall / (precision + recall)
}

/// F1 with the small number below the line that `rouge-chinese` has against a division by zero.
fn smoothed_f1(same: usize, answer: usize, reference: usize) -> f64 {
    let share = |of: usize| same as f64 / of.max(1) as f64;
    let (precision, recall) = (share(answer), share(reference));
    2.0 * (precision * recall / (precision + recall + 1e-8))
}

fn in_both(one: &BTreeMap<&[String], usize>, other: &BTreeMap<&[String], usize>) -> usize {
    let least = |(gram, &count): (&&[String], &usize)| count.min(*other.get(gram).unwrap_or(&0));
    one.iter().map(least).sum()
}

/// Tokens as numbers that are equal where the tokens are: the longest runs are looked for by many comparisons.
fn numbered(one: &[String], other: &[String]) -> [Vec<u32>; 2] {
    let mut numbers: BTreeMap<String, u32> = BTreeMap::new();
    [one, other].map(|tokens| {
        let number = |token: &String| {
            let next = numbers.len() as u32;
            *numbers.entry(token.clone()).or_insert(next)
        };
        tokens.iter().map(number).collect()
    })
}

/// Length of the longest run of tokens that both have.
fn longest_run(one: &[String], other: &[String]) -> usize {
    let [one, other] = numbered(one, other);
    let mut longest = 0;
    let mut before = vec![0; other.len() + 1];
    let mut here = before.clone();
    for a in &one {
        for (at, b) in other.iter().enumerate() {
            here[at + 1] = if a == b { before[at] + 1 } else { 0 };
            longest = longest.max(here[at + 1]);
        }
        std::mem::swap(&mut before, &mut here);
    }
    longest
}

/// Length of the longest common subsequence.
fn longest_subsequence(one: &[String], other: &[String]) -> usize {
    let [one, other] = numbered(one, other);
    let mut before = vec![0; other.len() + 1];
    let mut here = before.clone();
    for a in &one {
        for (at, b) in other.iter().enumerate() {
            here[at + 1] = if a == b {
                before[at] + 1
            } else {
                before[at + 1].max(here[at])
            };
        }
        std::mem::swap(&mut before, &mut here);
    }
    before.last().copied().unwrap_or_default()
}
