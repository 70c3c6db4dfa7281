//! The time left, against simulated runs whose every second is known.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use glm_batch::internals::engine::EngineStatistics;
use glm_batch::internals::ids::RowId;
use glm_batch::internals::plan::{RowLength, order, padded};
use glm_batch::internals::report::{Moment, RowWork, TimeLeft};

/// Seconds of a prefilled token, of a decode step, and of each answer in it: as a model of 350M on two cores.
const PREFILL: f64 = 0.004;
const STEP: f64 = 0.05;
const ANSWER: f64 = 0.015;
const BUCKET: u32 = 8;

/// A row: context, most answer tokens, tokens of its answer.
#[derive(Clone, Copy)]
struct Row(u32, u32, u32);

/// Numbers that look drawn and are the same each time.
struct Dice(u64);

impl Dice {
    fn unit(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

/// Runs rows as the engine does, window by window, longest first; gives the time left that was told and the true one,
/// with the share of the time that had passed.
fn simulated(rows: &[Row], window: usize, slots: usize) -> Vec<(f64, Option<f64>, f64)> {
    simulated_at(rows, window, slots, |_| 1.0)
}

/// As [`simulated`], on a machine that is so many times slower at each share of the rows.
fn simulated_at(
    rows: &[Row],
    window: usize,
    slots: usize,
    slowness: impl Fn(f64) -> f64,
) -> Vec<(f64, Option<f64>, f64)> {
    let mut estimator = TimeLeft::default();
    let mut engine = EngineStatistics::default();
    let mut windows = rows.chunks(window).enumerate();
    let mut unopened = rows.len();
    let (mut waiting, mut running) = (Vec::new(), BinaryHeap::new());
    let (mut now, mut step, mut told) = (0.0, 0_u64, Vec::new());
    let (mut begun, all) = (0.0, rows.len() as f64);
    loop {
        while waiting.len() + running.len() < slots {
            let Some((number, rows)) = windows.next() else {
                break;
            };
            let row = |at: usize| RowId((number * window + at) as u64);
            let length = |(index, row): (usize, &Row)| RowLength {
                index,
                context: row.0,
                reserve: row.1,
                samples: 1,
                places: 1,
                texts: 1,
                longest: row.0,
            };
            let lengths: Vec<RowLength> = rows.iter().enumerate().map(length).collect();
            estimator.opened(
                rows.len() as u64,
                rows.iter().enumerate().map(|(at, r)| RowWork {
                    row: row(at),
                    context: r.0,
                    most: r.1,
                    samples: 1,
                }),
            );
            unopened -= rows.len();
            let opened = order(&lengths, BUCKET).into_iter();
            // Taken from the end.
            waiting.splice(0..0, opened.rev().map(|at| (row(at), rows[at])));
        }
        while running.len() < slots {
            let Some((id, row)) = waiting.pop() else {
                break;
            };
            let seconds = PREFILL * f64::from(padded(row.0, BUCKET)) * slowness(begun / all);
            begun += 1.0;
            engine.prefill_seconds += seconds;
            engine.prompt_tokens += u64::from(row.0);
            engine.completion_tokens += 1;
            now += seconds;
            running.push(Reverse((
                step + u64::from(row.2) - 1,
                id,
                row.2,
                row.2 == row.1,
            )));
        }
        if running.is_empty() {
            break;
        }
        while let Some(&Reverse((end, id, tokens, cut))) = running.peek() {
            if end > step {
                break;
            }
            running.pop();
            estimator.finished(id, [(tokens, cut)]);
        }
        let left = estimator.remaining(&Moment {
            seconds: now,
            engine: &engine,
            engines: 1,
            running: running.len(),
            unopened_rows: unopened as u64,
        });
        told.push((now, left.map(|left| left.as_secs_f64())));
        step += 1;
        engine.decode_steps += 1;
        let seconds = (STEP + ANSWER * running.len() as f64) * slowness(begun / all);
        engine.decode_seconds += seconds;
        engine.completion_tokens += running.len() as u64;
        now += seconds;
    }
    told.into_iter()
        .map(|(at, left)| (at / now, left, now - at))
        .collect()
}

/// Nothing is told much before a tenth, and from then on what is told is right within 30%, or within 2% of the
/// whole run near its end.
#[track_caller]
fn assert_right(what: &str, rows: &[Row], window: usize, slots: usize) {
    let told = simulated(rows, window, slots);
    let whole = told[0].2 / (1.0 - told[0].0);
    let mut first = None;
    for (share, left, truth) in told {
        let Some(left) = left else {
            assert!(share < 0.2, "{what}: nothing is told at {share:.2}");
            continue;
        };
        first.get_or_insert(share);
        if share < 0.1 {
            continue;
        }
        let off = (left - truth).abs();
        assert!(
            off < 0.3 * truth || off < 0.02 * whole,
            "{what}: at {share:.2} {left:.0} s are told, {truth:.0} s are true"
        );
    }
    assert!(first.unwrap() > 0.06, "{what}: told at {first:?}");
}

fn rows(count: usize, seed: u64, row: impl Fn(&mut Dice) -> Row) -> Vec<Row> {
    let mut dice = Dice(seed);
    (0..count).map(|_| row(&mut dice)).collect()
}

fn context(dice: &mut Dice) -> u32 {
    (60.0 * (0.8 * dice.normal()).exp()).clamp(5.0, 400.0) as u32
}

#[test]
fn answers_that_may_end_at_any_token() {
    let row = |dice: &mut Dice| {
        let context = context(dice);
        let tokens = (-40.0 * (1.0 - dice.unit()).ln()) as u32 + 1;
        Row(context, 128, tokens.min(128))
    };
    assert_right("one window", &rows(2000, 1, row), 8192, 32);
    assert_right("many windows", &rows(2000, 2, row), 256, 32);
    assert_right("many slots", &rows(4000, 3, row), 8192, 128);
    assert_right("few slots", &rows(1000, 4, row), 8192, 8);
}

#[test]
fn answers_of_one_length_or_cut_at_their_limit() {
    assert_right(
        "one length",
        &rows(1500, 5, |d| Row(context(d), 256, 30)),
        8192,
        64,
    );
    assert_right(
        "all are cut",
        &rows(1500, 6, |d| Row(context(d), 64, 64)),
        8192,
        64,
    );
    let rest = |dice: &mut Dice| {
        let context = context(dice);
        Row(context, 512 - context, 512 - context)
    };
    assert_right("all the rest", &rows(1000, 7, rest), 8192, 32);
}

#[test]
fn answers_as_long_as_their_questions() {
    let row = |dice: &mut Dice| {
        let context = context(dice);
        let tokens = f64::from(context) / 3.0 * (0.3 * dice.normal()).exp() + 1.0;
        Row(context, 256, tokens.min(256.0) as u32)
    };
    assert_right("one window", &rows(3000, 8, row), 8192, 32);
    assert_right("many windows", &rows(3000, 9, row), 256, 32);
}

/// Another program takes most of the machine for the first quarter of the rows.
#[test]
fn a_machine_that_becomes_faster() {
    let row = |dice: &mut Dice| {
        let context = context(dice);
        let tokens = (-40.0 * (1.0 - dice.unit()).ln()) as u32 + 1;
        Row(context, 128, tokens.min(128))
    };
    let rows = rows(2000, 11, row);
    let told = simulated_at(&rows, 256, 32, |share| if share < 0.25 { 3.0 } else { 1.0 });
    let late = told
        .iter()
        .filter(|(share, ..)| (0.8..0.95).contains(share));
    for &(share, left, truth) in late {
        let left = left.unwrap();
        assert!(
            (left - truth).abs() < 0.3 * truth,
            "at {share:.2} {left:.0} s are told, {truth:.0} s are true"
        );
    }
}

#[test]
fn short_answers_to_short_questions() {
    let row = |dice: &mut Dice| {
        Row(
            8 + (dice.unit() * 20.0) as u32,
            24,
            2 + (dice.unit() * 5.0) as u32,
        )
    };
    assert_right("demo", &rows(399, 10, row), 8192, 16);
}

#[test]
fn nothing_is_told_before_an_answer_has_ended() {
    let engine = EngineStatistics::default();
    let moment = Moment {
        seconds: 1.0,
        engine: &engine,
        engines: 1,
        running: 0,
        unopened_rows: 10,
    };
    assert_eq!(TimeLeft::default().remaining(&moment), None);
}
