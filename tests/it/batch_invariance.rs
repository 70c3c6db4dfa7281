//! A row's logits have the same bits whatever runs beside it, in whatever slot, on however many threads.

use candle_core::Device;
use glm_batch::internals::model::{DecodeRow, Glm, Precision, TextModel};

use crate::nano::{Ids, committed};

/// Answer tokens that are fed.
const STEPS: usize = 3;

struct Row {
    ids: Vec<u32>,
    answer: [u32; STEPS],
}

/// Prompts of 4 to 60 tokens.
fn rows(count: usize) -> Vec<Row> {
    let mut state = 12_345u32;
    let mut next = move |below: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % below
    };
    (0..count)
        .map(|_| {
            let mut ids = vec![502];
            ids.extend((0..=next(56)).map(|_| next(500)));
            ids.extend([503, 500]);
            Row {
                ids,
                answer: [next(500), next(500), next(500)],
            }
        })
        .collect()
}

fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|value| value.to_bits()).collect()
}

/// A precision, and what keys and values are cached as.
type Form = (Precision, Precision);

fn model((precision, cache): Form) -> (Glm, Ids) {
    let nano = committed();
    let glm = Glm::load(&nano.folder, &Device::Cpu, precision).unwrap();
    (glm.cached_as(cache), nano.ids())
}

/// Those whose products or caches differ.
const FORMS: [Form; 6] = [
    (Precision::F32, Precision::F32),
    (Precision::Bf16, Precision::F32),
    (Precision::Q8, Precision::F32),
    (Precision::F32, Precision::F16),
    (Precision::Q8, Precision::Bf16),
    (Precision::Q8, Precision::Q8),
];

/// Logits of each row after the start token and after each answer token.
fn run(model: &mut Glm, ids: Ids, rows: &[(usize, &Row)]) -> Vec<Vec<Vec<u32>>> {
    let prefill: Vec<_> = rows
        .iter()
        .map(|&(slot, row)| ids.prefill(slot, &row.ids, STEPS))
        .collect();
    let logits = model.prefill(&prefill).unwrap();
    let mut all: Vec<_> = (0..rows.len()).map(|i| vec![bits(logits.row(i))]).collect();
    for step in 0..STEPS {
        let logits = model.decode(&step_rows(ids, rows, step)).unwrap();
        for (i, all) in all.iter_mut().enumerate() {
            all.push(bits(logits.row(i)));
        }
    }
    all
}

fn step_rows(ids: Ids, rows: &[(usize, &Row)], step: usize) -> Vec<DecodeRow> {
    rows.iter()
        .map(|&(slot, row)| DecodeRow {
            slot,
            id: row.answer[step],
            mask_position: ids.mask_position(&row.ids),
            block_position: step as u32 + 2,
        })
        .collect()
}

#[test]
fn neighbours_slots_and_reuse_do_not_matter() {
    for form in FORMS {
        let (mut model, ids) = model(form);
        let rows = rows(131);
        let mut alone = Vec::new();
        for row in &rows[..8] {
            alone.push(run(&mut model, ids, &[(0, row)]).remove(0));
            model.release(0);
        }
        for count in [2, 3, 5, 8, 17, 32, 33, 64, 100, 131] {
            // Later slots first, so that each count gives a row another slot, mostly a used one.
            let batch: Vec<_> = rows[..count]
                .iter()
                .enumerate()
                .map(|(i, row)| ((i * 37) % 131, row))
                .collect();
            let together = run(&mut model, ids, &batch);
            for (number, (got, want)) in together.iter().zip(&alone).enumerate() {
                assert!(got == want, "{form:?}, row {number} of {count}");
            }
            for (slot, _) in batch {
                model.release(slot);
            }
        }
    }
}

#[test]
fn each_number_of_rows_gives_the_same_bits_in_a_decode_step() {
    for form in FORMS {
        let (mut model, ids) = model(form);
        let rows = rows(131);
        let batch: Vec<_> = rows.iter().enumerate().collect();
        let prefill: Vec<_> = batch
            .iter()
            .map(|&(slot, row)| ids.prefill(slot, &row.ids, 131 + STEPS))
            .collect();
        model.prefill(&prefill).unwrap();
        let all = step_rows(ids, &batch, 0);
        // A decode step that fails or is repeated on a copy: fork each slot to keep its state.
        for &(slot, _) in &batch {
            model.fork(slot, slot + 200).unwrap();
        }
        let want = model.decode(&all).unwrap();
        for count in 1..131 {
            for &(slot, _) in &batch[..count] {
                model.fork(slot + 200, slot).unwrap();
            }
            let got = model.decode(&all[..count]).unwrap();
            for row in 0..count {
                assert!(
                    bits(got.row(row)) == bits(want.row(row)),
                    "{form:?}, row {row} of {count}"
                );
            }
        }
    }
}

#[test]
fn a_fork_goes_on_like_a_new_prefill() {
    for form in FORMS {
        let (mut model, ids) = model(form);
        let rows = rows(3);
        let want = run(&mut model, ids, &[(0, &rows[0])]).remove(0);
        let other = run(&mut model, ids, &[(4, &rows[1])]).remove(0);
        model
            .prefill(&[ids.prefill(0, &rows[0].ids, STEPS)])
            .unwrap();
        for to in [7, 4, 2] {
            model.fork(0, to).unwrap();
            for (step, want) in want[1..].iter().enumerate() {
                let logits = model
                    .decode(&step_rows(ids, &[(to, &rows[0])], step))
                    .unwrap();
                assert!(bits(logits.row(0)) == *want, "{form:?}");
            }
        }
        assert!(other == run(&mut model, ids, &[(4, &rows[1])])[0]);
        assert!(model.fork(11, 0).is_err());
    }
}

#[test]
fn threads_do_not_matter() {
    for form in FORMS {
        let (mut model, ids) = model(form);
        let rows = rows(40);
        let batch: Vec<_> = rows.iter().enumerate().collect();
        let mut results = Vec::new();
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            results.push(pool.install(|| run(&mut model, ids, &batch)));
        }
        assert!(
            results[0] == results[1] && results[0] == results[2],
            "{form:?}"
        );
    }
}

#[test]
fn calls_that_break_the_rules_are_refused_and_change_nothing() {
    let (mut model, ids) = model(FORMS[0]);
    let rows = rows(2);
    let want = run(&mut model, ids, &[(0, &rows[0])]).remove(0);
    model
        .prefill(&[ids.prefill(0, &rows[0].ids, STEPS)])
        .unwrap();
    let mut step = step_rows(ids, &[(0, &rows[0])], 0);
    step.push(DecodeRow { slot: 9, ..step[0] });
    assert!(
        model
            .decode(&step)
            .unwrap_err()
            .to_string()
            .contains("slot 9 is empty")
    );
    step[1] = step[0];
    assert!(model.decode(&step).is_err());
    step.pop();
    for bad in [
        DecodeRow { id: 512, ..step[0] },
        DecodeRow {
            mask_position: 129,
            ..step[0]
        },
        DecodeRow {
            block_position: 129,
            ..step[0]
        },
    ] {
        assert!(model.decode(&[bad]).is_err());
    }
    let small = glm_batch::internals::model::PrefillRow {
        capacity: 3,
        ..ids.prefill(1, &rows[1].ids, 0)
    };
    assert!(model.prefill(&[small]).is_err());
    let logits = model.decode(&step).unwrap();
    assert!(bits(logits.row(0)) == want[1]);
}
