//! Tests of what may be drawn: the rules one by one, and all of them against a full sort.

use super::*;

const OPEN: Warp = Warp {
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
};

fn top(logits: &[f32]) -> f32 {
    logits.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

fn kept(warp: Warp, logits: &[f32]) -> Vec<u32> {
    warp.keep(logits, top(logits), &mut Buffers::default())
        .candidates
        .iter()
        .map(|candidate| candidate.id)
        .collect()
}

/// Logits whose softmax is these probabilities.
fn logits(probabilities: &[f64]) -> Vec<f32> {
    probabilities.iter().map(|p| p.ln() as f32).collect()
}

#[test]
fn top_k_keeps_what_is_level_with_the_last() {
    let warp = Warp { top_k: 2, ..OPEN };
    assert_eq!(kept(warp, &[1.0, 3.0, 2.0, 2.0, 0.0]), [1, 2, 3]);
    assert_eq!(kept(Warp { top_k: 9, ..OPEN }, &[1.0, 3.0]), [0, 1]);
    assert_eq!(
        kept(warp, &[f32::NEG_INFINITY, 3.0, f32::NEG_INFINITY]),
        [1]
    );
}

#[test]
fn top_p_keeps_the_token_that_passes_it() {
    let logits = logits(&[0.1, 0.4, 0.2, 0.3]);
    assert_eq!(kept(Warp { top_p: 0.6, ..OPEN }, &logits), [1, 3]);
    assert_eq!(
        kept(
            Warp {
                top_p: 0.75,
                ..OPEN
            },
            &logits
        ),
        [1, 2, 3]
    );
    assert_eq!(
        kept(
            Warp {
                top_p: 1e-12,
                ..OPEN
            },
            &logits
        ),
        [1],
        "at least one"
    );
    assert_eq!(
        kept(
            Warp {
                top_p: 0.999_999,
                ..OPEN
            },
            &logits
        ),
        [0, 1, 2, 3]
    );
}

#[test]
fn level_tokens_stay_by_lowest_id() {
    assert_eq!(kept(Warp { top_p: 0.5, ..OPEN }, &[1.0; 4]), [0, 1]);
    assert_eq!(
        kept(
            Warp {
                top_p: 0.51,
                ..OPEN
            },
            &[1.0; 4]
        ),
        [0, 1, 2]
    );
}

#[test]
fn both_zeros_are_level() {
    let mut logits = vec![-1.0; 32];
    (logits[0], logits[16]) = (-0.0, 0.0);
    for top_p in [0.05, 0.1, 0.2, 0.9] {
        assert_same(Warp { top_p, ..OPEN }, &logits);
    }
    assert_eq!(kept(Warp { top_p: 0.1, ..OPEN }, &logits), [0, 16]);
}

#[test]
fn min_p_is_relative_to_the_likeliest() {
    let logits = logits(&[0.1, 0.4, 0.2, 0.3]);
    assert_eq!(kept(Warp { min_p: 0.4, ..OPEN }, &logits), [1, 2, 3]);
    assert_eq!(kept(Warp { min_p: 1.0, ..OPEN }, &logits), [1]);
}

#[test]
fn top_p_sees_what_top_k_left() {
    let logits = logits(&[0.1, 0.4, 0.2, 0.3]);
    // Of 0.4 and 0.3 the first has 0.57: alone it reaches 0.5, where of all four it does not.
    assert_eq!(
        kept(
            Warp {
                top_k: 2,
                top_p: 0.5,
                ..OPEN
            },
            &logits
        ),
        [1]
    );
    assert_eq!(kept(Warp { top_p: 0.5, ..OPEN }, &logits), [1, 3]);
}

#[test]
fn a_tiny_temperature_is_the_likeliest_token() {
    // The inverse of the second is no f64.
    for temperature in [1e-300, 1e-310] {
        let warp = Warp {
            temperature,
            ..OPEN
        };
        let logits = [1.0, 30.0, 29.0];
        assert_eq!(probabilities(&warp, &logits), [0.0, 1.0, 0.0]);
        assert_same(warp, &logits);
    }
}

#[test]
fn the_kth_largest_is_that_of_a_sort() {
    let all: Vec<f32> = (0..9000_u32).map(|i| (i * 7919 % 1013) as f32).collect();
    let mut sorted = all.clone();
    sorted.sort_by(|a, b| b.total_cmp(a));
    for k in [1, 7, 1000, 3000, 9000] {
        let found = kth_largest(all.iter().copied(), k, &mut Vec::new());
        assert_eq!(found, sorted[k - 1], "{k}");
    }
    assert_eq!(
        kth_largest(all.iter().copied(), 9001, &mut Vec::new()),
        f32::NEG_INFINITY
    );
}

/// The rule as it reads: everything sorted, sums in the order of likelihood, rounded after each token.
fn by_full_sort(warp: Warp, logits: &[f32]) -> Vec<Candidate> {
    let mut descending = logits.to_vec();
    descending.sort_by(|a, b| b.total_cmp(a));
    let least = match warp.top_k {
        0 => f32::NEG_INFINITY,
        k => descending.get(k - 1).copied().unwrap_or(f32::NEG_INFINITY),
    };
    let top = f64::from(descending[0]);
    let open = (0..).zip(logits).filter(|(_, logit)| **logit >= least);
    let mut kept: Vec<Candidate> = open
        .filter(|(_, logit)| **logit != f32::NEG_INFINITY)
        .map(|(id, &logit)| Candidate {
            id,
            logit,
            weight: ((f64::from(logit) - top) / warp.temperature).exp(),
        })
        .collect();
    if warp.top_p < 1.0 {
        let limit = warp.top_p * kept.iter().map(|candidate| candidate.weight).sum::<f64>();
        kept.sort_by(likeliest_first);
        let mut likelier = 0.0;
        let first_out = kept.iter().position(|candidate| {
            let is_out = likelier >= limit && likelier > 0.0;
            likelier += candidate.weight;
            is_out
        });
        kept.truncate(first_out.unwrap_or(kept.len()));
        kept.sort_by_key(|candidate| candidate.id);
    }
    kept.retain(|candidate| warp.min_p == 0.0 || candidate.weight >= warp.min_p);
    kept
}

fn assert_same(warp: Warp, logits: &[f32]) {
    let mut buffers = Buffers::default();
    let kept = warp.keep(logits, top(logits), &mut buffers);
    let expected = by_full_sort(warp, logits);
    assert_eq!(kept.candidates, expected, "{warp:?}");
    let total: f64 = expected.iter().map(|candidate| candidate.weight).sum();
    assert_eq!(kept.total.to_bits(), total.to_bits(), "{warp:?}");

    let expected = Kept {
        candidates: &expected,
        total,
    };
    let borders = expected.candidates.iter().scan(0.0, |sum, candidate| {
        *sum += candidate.weight;
        Some(*sum / total)
    });
    // At a border between two tokens only the rule's own sum knows the side.
    let step = expected.candidates.len() / 16 + 1;
    let uniforms: Vec<f64> = borders
        .step_by(step)
        .filter(|border| *border < 1.0)
        .chain((0..8).map(|eighth| f64::from(eighth) / 8.0))
        .collect();
    for uniform in uniforms {
        let drawn = warp.draw(logits, top(logits), uniform, &mut buffers);
        assert_eq!(drawn, expected.at(uniform), "{warp:?} at {uniform}");
    }
}

/// Numbers from 0 to 1 that look drawn.
pub(crate) fn scattered(count: u64, seed: u64) -> impl Iterator<Item = f32> {
    (0..count).map(move |at| {
        let bits = (at + seed)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(31);
        (bits.wrapping_mul(0xd134_2543_de82_ef95) >> 40) as f32 / (1 << 24) as f32
    })
}

proptest::proptest! {
    #[test]
    fn nothing_is_kept_otherwise_than_by_a_full_sort(
        (count, seed) in (1_u64..3000, 0_u64..1_000_000),
        spread in proptest::sample::select(vec![0.0_f32, 1e-6, 0.3, 3.0, 40.0, 3e5]),
        // Few levels give many ties.
        levels in proptest::sample::select(vec![1.0_f32, 7.0, 300.0, 1e7]),
        outlier in proptest::sample::select(vec![None, Some(f32::NEG_INFINITY), Some(-1e30), Some(60.0)]),
        temperature in proptest::sample::select(vec![0.01, 0.7, 1.0, 3.0, 1e6]),
        top_k in proptest::sample::select(vec![0_usize, 0, 1, 50, 2500]),
        top_p in proptest::sample::select(vec![1e-9, 0.05, 0.25, 0.5, 0.9, 0.999, 1.0 - 1e-12, 1.0]),
        min_p in proptest::sample::select(vec![0.0, 0.0, 1e-305, 0.001, 0.5, 1.0]),
    ) {
        let mut logits: Vec<f32> = scattered(count, seed)
            .map(|uniform| (uniform * levels).floor() / levels * spread - 2.0)
            .collect();
        if let Some(outlier) = outlier
            && count > 1
        {
            logits[seed as usize % count as usize] = outlier;
        }
        assert_same(Warp { temperature, top_k, top_p, min_p }, &logits);
    }
}

#[test]
fn a_whole_vocabulary_is_kept_as_by_a_full_sort() {
    let flat: Vec<f32> = scattered(50_048, 3).map(|uniform| uniform * 9.0).collect();
    let level = vec![1.5; 50_048];
    let halves: Vec<f32> = flat
        .iter()
        .map(|logit| (logit * 4.0).round() / 4.0)
        .collect();
    for logits in [flat, level, halves] {
        for top_p in [0.1, 0.5, 0.9, 0.99, 0.999_999] {
            for temperature in [0.5, 1.0, 3.0] {
                assert_same(
                    Warp {
                        temperature,
                        top_p,
                        ..OPEN
                    },
                    &logits,
                );
            }
        }
    }
}

#[test]
fn a_draw_is_hardly_ever_in_doubt() {
    let mut buffers = estimate::Buffers::default();
    for warp in [
        OPEN,
        Warp { top_p: 0.9, ..OPEN },
        Warp {
            min_p: 0.01,
            ..OPEN
        },
        Warp {
            min_p: 1.0,
            top_k: 50,
            ..OPEN
        },
    ] {
        for seed in 0..50 {
            let logits: Vec<f32> = scattered(50_048, seed)
                .map(|uniform| uniform * 9.0)
                .collect();
            let uniform = (seed as f64 + 0.5) / 50.0;
            let warp = Warp {
                temperature: 3.0,
                ..warp
            };
            let least = warp.least(&logits, &mut Vec::new());
            let drawn = estimate::draw(&warp, &logits, least, top(&logits), uniform, &mut buffers);
            assert!(drawn.is_some(), "{warp:?}");
        }
    }
}

#[test]
fn the_inverse_of_the_distribution_is_in_id_order() {
    let candidates = [(4, 0.25), (7, 1.0), (9, 0.75)].map(|(id, weight)| Candidate {
        id,
        logit: 0.0,
        weight,
    });
    let kept = Kept {
        candidates: &candidates,
        total: 2.0,
    };
    let taken = [0.0, 0.124, 0.126, 0.624, 0.626, 0.999].map(|uniform| kept.at(uniform));
    assert_eq!(taken, [4, 4, 7, 7, 9, 9].map(Some));
    let nothing = Kept {
        candidates: &[],
        total: 0.0,
    };
    assert_eq!(nothing.at(0.5), None);
}
