//! Rows that are read in one pass, through the engine: groups, memory that runs out, numbers that are not finite.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use glm_batch::internals::engine::{Engine, Found, Reading, Request, Want, Work};
use glm_batch::internals::ids::{RowId, WindowId};
use glm_batch::internals::model::{
    Asked, DecodeRow, Logits, ModelError, PrefillRow, ReadRow, Sight, TextModel, TokenChance,
};
use glm_batch::internals::outcome::BadRow;
use glm_batch::internals::plan::{Budget, SlotSizes};
use glm_batch::internals::tokenize::Encoded;

use crate::engine::Bytes;

/// A token whose chances are not finite.
const BROKEN: u32 = 99;

/// Reads rows of up to so many tokens at once, and says which groups it was given.
struct Reader {
    most_tokens: usize,
    groups: Arc<Mutex<Vec<Vec<usize>>>>,
}

impl Reader {
    fn take(&self, rows: &[ReadRow<'_>]) -> Result<(), ModelError> {
        let lengths: Vec<usize> = rows.iter().map(ReadRow::tokens).collect();
        let all: usize = lengths.iter().sum();
        self.groups.lock().unwrap().push(lengths);
        if all > self.most_tokens {
            return Err(ModelError::OutOfMemory);
        }
        Ok(())
    }
}

impl TextModel for Reader {
    fn vocab_size(&self) -> usize {
        100
    }

    fn prefill(&mut self, _: &[PrefillRow<'_>]) -> Result<Logits, ModelError> {
        panic!("nothing is generated")
    }

    fn fork(&mut self, _: usize, _: usize) -> Result<(), ModelError> {
        panic!("nothing is generated")
    }

    fn decode(&mut self, _: &[DecodeRow]) -> Result<Logits, ModelError> {
        panic!("nothing is generated")
    }

    fn chances(&mut self, rows: &[ReadRow<'_>]) -> Result<Vec<Vec<TokenChance>>, ModelError> {
        self.take(rows)?;
        let chance = |row: &ReadRow<'_>, asked: &Asked| {
            let sum: u32 = row.context.iter().sum();
            TokenChance {
                logprob: match asked.token {
                    BROKEN => f32::NAN,
                    token => -((sum + asked.place + token) as f32),
                },
                is_likeliest: asked.token.is_multiple_of(2),
            }
        };
        let of_row = |row: &ReadRow<'_>| row.asked.iter().map(|asked| chance(row, asked)).collect();
        Ok(rows.iter().map(of_row).collect())
    }

    fn values(&mut self, rows: &[ReadRow<'_>]) -> Result<Vec<Vec<f32>>, ModelError> {
        self.take(rows)?;
        let last = |branch: &&[u32]| *branch.last().unwrap() as f32;
        let of_row = |row: &ReadRow<'_>| row.branches.iter().map(last).collect();
        Ok(rows.iter().map(of_row).collect())
    }

    fn release(&mut self, _: usize) {
        panic!("nothing is generated")
    }
}

/// A row with a context of so many tokens and one branch, which asks for its second token.
fn request(row: u64, context: usize, token: u32) -> Request {
    Request {
        row: RowId(row),
        work: Work::Read(Reading {
            encoded: Encoded {
                ids: vec![row as u32 % 90; context],
                mask_position: 0,
                truncated: 0,
            },
            sight: Sight::Whole,
            branches: vec![vec![1]],
            want: Want::Chances(vec![Asked {
                place: context as u32,
                token,
            }]),
        }),
    }
}

const BUDGET: Budget = Budget {
    max_batch_size: 4,
    max_batch_tokens: 64,
    bucket_tokens: 8,
    slot_sizes: SlotSizes::Exact,
};

type Ends = BTreeMap<RowId, Result<Found, BadRow>>;

/// How each row ended, and the lengths of the groups that the model was given.
fn run(most_tokens: usize, budget: Budget, rows: Vec<Request>) -> (Ends, Vec<Vec<usize>>, Engine) {
    let groups = Arc::default();
    let model = Reader {
        most_tokens,
        groups: Arc::clone(&groups),
    };
    let mut engine = Engine::new(Box::new(model), Arc::new(Bytes), budget);
    let count = rows.len();
    engine.submit(WindowId(3), rows);
    assert_eq!(engine.waiting(), count);
    let mut ends = Ends::new();
    while !engine.is_idle() {
        for finished in engine.step().unwrap() {
            assert_eq!(finished.window, WindowId(3));
            assert!(ends.insert(finished.row, finished.found).is_none());
        }
    }
    assert_eq!(ends.len(), count);
    let groups = groups.lock().unwrap().clone();
    (ends, groups, engine)
}

#[test]
fn rows_are_read_longest_first_in_groups_under_the_budget() {
    let rows: Vec<Request> = [4, 30, 9, 15, 3, 2, 1]
        .into_iter()
        .zip(0..)
        .map(|(context, row)| request(row, context, 5))
        .collect();
    let (ends, groups, engine) = run(1000, BUDGET, rows.clone());
    assert_eq!(groups, [vec![31, 16], vec![10, 5, 4, 3], vec![2]]);
    let statistics = engine.statistics();
    assert_eq!((statistics.rows, statistics.prefill_batches), (7, 3));
    assert_eq!(statistics.prompt_tokens, 71);
    // What is found does not depend on the group.
    let alone = Budget {
        max_batch_size: 1,
        ..BUDGET
    };
    let (again, groups, _) = run(1000, alone, rows);
    assert_eq!(groups.len(), 7);
    assert_eq!(ends, again);
}

#[test]
fn memory_that_runs_out_halves_the_groups_and_fails_only_a_row_that_is_alone() {
    let rows: Vec<Request> = [30, 30, 10, 10]
        .into_iter()
        .zip(0..)
        .map(|(context, row)| request(row, context, 5))
        .collect();
    let (ends, groups, engine) = run(25, BUDGET, rows.clone());
    assert_eq!(groups[0], [31, 31]);
    let failed: Vec<u64> = ends
        .iter()
        .filter(|(_, found)| found.is_err())
        .map(|(row, _)| row.0)
        .collect();
    assert_eq!(failed, [0, 1]);
    let bad = ends[&RowId(0)].as_ref().unwrap_err();
    assert_eq!(bad.stage.to_string(), "read");
    assert!(bad.reason.contains("31 tokens"), "{}", bad.reason);
    assert_eq!(engine.statistics().oom_retries, 1);
    assert!(engine.budget().max_batch_tokens < BUDGET.max_batch_tokens);
    let (enough, ..) = run(1000, BUDGET, rows);
    for row in [2, 3] {
        assert_eq!(ends[&RowId(row)], enough[&RowId(row)]);
    }
}

#[test]
fn a_row_whose_numbers_are_not_finite_fails_alone() {
    let rows = vec![request(0, 4, 5), request(1, 4, BROKEN), request(2, 4, 6)];
    let (ends, ..) = run(1000, BUDGET, rows);
    assert!(ends[&RowId(0)].is_ok() && ends[&RowId(2)].is_ok());
    let bad = ends[&RowId(1)].as_ref().unwrap_err();
    assert!(bad.reason.contains("not finite"), "{}", bad.reason);
}

#[test]
fn values_are_read_apart_from_chances() {
    let mut rows = vec![request(0, 4, 5), request(1, 4, 5), request(2, 4, 5)];
    let Work::Read(reading) = &mut rows[1].work else {
        panic!("a reading")
    };
    reading.want = Want::Values;
    reading.branches = vec![vec![1, 7], vec![1, 8]];
    let (ends, ..) = run(1000, BUDGET, rows);
    assert_eq!(ends[&RowId(1)], Ok(Found::Values(vec![7.0, 8.0])));
    assert!(matches!(ends[&RowId(2)], Ok(Found::Chances(_))));
}

/// A row of several contexts: its chances are in the order of the contexts, whatever group it is in.
#[test]
fn the_contexts_of_a_row_are_read_together() {
    let reading = |row: u64, context: usize, token: u32| match request(row, context, token).work {
        Work::Read(reading) => reading,
        _ => panic!("a reading"),
    };
    let of_three = Request {
        row: RowId(7),
        work: Work::ReadEach(vec![reading(1, 4, 5), reading(2, 9, 6), reading(3, 2, 7)]),
    };
    let rows = vec![request(0, 20, 5), of_three.clone(), request(2, 3, 5)];
    assert_eq!(of_three.work.length(0).context, 4 + 9 + 2 + 3);
    let (ends, groups, engine) = run(1000, BUDGET, rows.clone());
    // Padded to the longest text that is there, four are over the budget beside the first row, and not without it.
    assert_eq!(groups, [vec![21], vec![5, 10, 3, 4]]);
    let expected = [4 + 4 + 5, 18 + 9 + 6, 6 + 2 + 7].map(|sum: i16| -f32::from(sum));
    let Ok(Found::Chances(found)) = &ends[&RowId(7)] else {
        panic!("chances")
    };
    let found: Vec<f32> = found.iter().map(|chance| chance.logprob).collect();
    assert_eq!(found, expected);
    assert_eq!(engine.statistics().prompt_tokens, 21 + 18 + 4);
    let alone = Budget {
        max_batch_size: 1,
        ..BUDGET
    };
    assert_eq!(run(1000, alone, rows).0, ends);
    // Where its contexts do not fit together, or one of its numbers is not finite, the whole row fails.
    let (ends, ..) = run(17, BUDGET, vec![of_three]);
    assert!(
        ends[&RowId(7)]
            .as_ref()
            .unwrap_err()
            .reason
            .contains("18 tokens")
    );
    let broken = Request {
        row: RowId(7),
        work: Work::ReadEach(vec![reading(1, 4, 5), reading(2, 9, BROKEN)]),
    };
    let (ends, ..) = run(1000, BUDGET, vec![broken]);
    assert!(
        ends[&RowId(7)]
            .as_ref()
            .unwrap_err()
            .reason
            .contains("not finite")
    );
}
