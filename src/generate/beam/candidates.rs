//! Logits of the running beams to the best continuations of all of them.
//!
//! # Source
//!
//! The loop of `GenerationMixin.beam_search` in `generation/utils.py` of transformers 4.25.1: log-softmax, the
//! processors, the beam's own score on top, then the largest over all beams and ids. There are `2 * num_beams`
//! of them there and `(1 + ending ids) * num_beams` in later versions; a search looks at them in order and stops
//! at the `num_beams`-th that goes on, so that more of them change nothing, and with two ending ids fewer may not
//! be enough.
//!
//! # Ties
//!
//! `torch.topk` promises no order among equals. Here the lower beam comes first, and of one beam the lower id.

use rayon::prelude::*;

use crate::generate::choose::{Scratch, log_softmax};
use crate::generate::rules::{Rules, process};

use super::Beam;

/// Scores that are compared side by side.
const LANES: usize = 16;

/// Candidates for each beam: one that goes on, and one for each ending id.
const A_BEAM: usize = 3;

/// A beam with one more token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    /// Which of the running beams it continues.
    pub(super) parent: usize,
    pub(super) id: u32,
    /// Sum of the log-probabilities of all tokens.
    pub(super) sum: f32,
}

/// The best continuations, best first; barred ids are never among them.
///
/// # Errors
///
/// The reason where logits are not numbers.
pub(super) fn candidates(
    rules: &Rules,
    beams: &[Beam],
    answered: usize,
    logits: &[&[f32]],
    num_beams: usize,
) -> Result<Vec<Candidate>, String> {
    let count = A_BEAM * num_beams;
    let of_beam = |(parent, (beam, logits)): (usize, (&Beam, &&[f32]))| {
        Scratch::of_thread(|scratch| {
            let scores = &mut scratch.logits;
            log_softmax(logits, scores)?;
            if rules.changes_logits(answered) {
                process(rules, &beam.history, answered, scores);
            }
            let candidate = |(id, sum)| Candidate { parent, id, sum };
            let largest = largest(scores, beam.sum, count);
            Ok(largest.into_iter().map(candidate).collect())
        })
    };
    let beams: Vec<_> = beams.iter().zip(logits).enumerate().collect();
    let found: Result<Vec<Vec<Candidate>>, String> = beams.into_par_iter().map(of_beam).collect();
    let mut all = found?.concat();
    // A stable sort: of equals the lower beam stays first, and of one beam the lower id.
    all.sort_by(|a, b| b.sum.total_cmp(&a.sum));
    all.truncate(count);
    Ok(all)
}

/// The largest sums of `sum` and a score, with their ids; of equals the lower id is first.
fn largest(scores: &[f32], sum: f32, count: usize) -> Vec<(u32, f32)> {
    let mut found: Vec<(u32, f32)> = Vec::with_capacity(count + 1);
    let mut least = f32::NEG_INFINITY;
    for (chunk, scores) in scores.chunks(LANES).enumerate() {
        // A sum of all lanes becomes vector instructions; a search that stops early would not.
        let above: u32 = scores.iter().map(|s| u32::from(s + sum > least)).sum();
        if above == 0 {
            continue;
        }
        for (lane, &score) in scores.iter().enumerate() {
            let sum = score + sum;
            if sum > least {
                let at = found.partition_point(|&(_, other)| other >= sum);
                found.insert(at, ((chunk * LANES + lane) as u32, sum));
                if found.len() > count {
                    found.pop();
                }
                if found.len() == count {
                    least = found[count - 1].1;
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::warp::tests::scattered;

    #[test]
    fn the_largest_are_those_of_a_sort_and_ties_go_to_the_lower_id() {
        for seed in 0..50 {
            let length = 30 + seed * 7;
            let scores: Vec<f32> = scattered(length, seed)
                .map(|uniform| (uniform * 20.0).floor() - 12.0)
                .map(|score| {
                    if score == -5.0 {
                        f32::NEG_INFINITY
                    } else {
                        score
                    }
                })
                .collect();
            let mut expected: Vec<(u32, f32)> = (0..).zip(scores.iter().map(|s| s - 1.0)).collect();
            expected.retain(|(_, score)| *score > f32::NEG_INFINITY);
            expected.sort_by(|a, b| b.1.total_cmp(&a.1));
            expected.truncate(12);
            assert_eq!(largest(&scores, -1.0, 12), expected);
        }
    }

    #[test]
    fn barred_ids_are_never_taken() {
        let scores = [f32::NEG_INFINITY, -1.0, f32::NEG_INFINITY];
        assert_eq!(largest(&scores, -2.0, 6), [(1, -3.0)]);
    }
}
