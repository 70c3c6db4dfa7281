//! A trial: some rows of an input as an input of their own, under their own row numbers.
//!
//! Windows are made of the chosen rows alone. A window holds no more rows than the job's windows, and
//! no more than one window's share of bytes: a row counts as its part of the window that it comes from.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow_array::{RecordBatch, UInt64Array};
use arrow_schema::SchemaRef;
use arrow_select::concat::concat_batches;
use arrow_select::take::take_record_batch;
use serde::{Deserialize, Serialize};

use super::error::{FileProblem, InputError, one_line};
use super::json_rows::JsonRows;
use super::left_out::pick;
use super::parquet::compact;
use super::types::{Carried, InputIndex, InputWindow, WindowSpan};
use super::{EachRow, PromptSource};
use crate::ids::WindowId;
use crate::job::InputSpec;
use crate::stop::StopFlag;

/// Which rows a trial takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Selection {
    /// The first rows.
    First(u64),
    /// Rows drawn without replacement; the same for the same seed and input.
    Sample {
        /// How many.
        rows: u64,
        /// Seed of the draw.
        seed: u64,
    },
}

/// Makes an input of the chosen rows alone, which are among those that `input.skip` and `input.limit` leave.
pub fn select(
    source: Box<dyn PromptSource>,
    index: &InputIndex,
    input: &InputSpec,
    selection: Selection,
    window_rows: u32,
) -> (Box<dyn PromptSource>, InputIndex) {
    let first = input.skip.min(index.rows);
    let rows = (index.rows - first).min(input.limit.unwrap_or(u64::MAX));
    let chosen = Chosen::new(selection, first, rows);
    let (windows, starts) = trial_windows(&chosen, index, u64::from(window_rows.max(1)));
    let trial = InputIndex {
        rows: chosen.len(),
        windows,
        ..index.clone()
    };
    let original = index.windows.clone();
    (
        Box::new(Trial {
            source,
            chosen,
            starts,
            original,
            files: Arc::new(index.clone()),
        }),
        trial,
    )
}

/// Numbers of the chosen rows, ascending.
enum Chosen {
    Following { first: u64, rows: u64 },
    Rows(Vec<u64>),
}

impl Chosen {
    /// A choice among `total` rows from `first` on.
    fn new(selection: Selection, first: u64, total: u64) -> Self {
        match selection {
            Selection::Sample { rows, seed } if rows < total => {
                let drawn = sample(rows, total, seed).into_iter();
                Self::Rows(drawn.map(|row| first + row).collect())
            }
            Selection::First(rows) | Selection::Sample { rows, .. } => Self::Following {
                first,
                rows: rows.min(total),
            },
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::Following { rows, .. } => *rows,
            Self::Rows(rows) => rows.len() as u64,
        }
    }

    fn row(&self, place: u64) -> u64 {
        match self {
            Self::Following { first, .. } => first + place,
            Self::Rows(rows) => rows[place as usize],
        }
    }
}

/// Floyd's draw: each set of `rows` numbers below `total` is equally likely.
fn sample(rows: u64, total: u64, seed: u64) -> Vec<u64> {
    let mut state = seed;
    let mut chosen = BTreeSet::new();
    for last in total - rows..total {
        let drawn = (u128::from(next(&mut state)) * (u128::from(last) + 1)) >> 64;
        if !chosen.insert(drawn as u64) {
            chosen.insert(last);
        }
    }
    chosen.into_iter().collect()
}

/// `SplitMix64`.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// The window of the whole input that a row is in.
fn window_of(row: u64, windows: &[WindowSpan]) -> usize {
    windows
        .partition_point(|span| span.first_row.0 <= row)
        .saturating_sub(1)
}

/// Windows of the chosen rows, and where in the chosen rows each begins.
fn trial_windows(
    chosen: &Chosen,
    index: &InputIndex,
    window_rows: u64,
) -> (Vec<WindowSpan>, Vec<u64>) {
    let mut spans: Vec<WindowSpan> = Vec::new();
    let mut starts = Vec::new();
    let mut share = 0.0;
    for place in 0..chosen.len() {
        let row = chosen.row(place);
        let from = &index.windows[window_of(row, &index.windows)];
        let part = 1.0 / from.rows.max(1) as f64;
        let full = spans
            .last()
            .is_none_or(|s| s.rows >= window_rows || share + part > 1.000_001);
        if full {
            share = 0.0;
            starts.push(place);
            let first_row = crate::ids::RowId(row);
            let id = WindowId(spans.len() as u32);
            spans.push(WindowSpan {
                id,
                first_row,
                rows: 0,
                ..from.clone()
            });
        }
        share += part;
        if let Some(span) = spans.last_mut() {
            span.rows += 1;
        }
    }
    if spans.is_empty() {
        starts.push(0);
        spans.extend(index.windows.first().map(|span| WindowSpan {
            rows: 0,
            ..span.clone()
        }));
    }
    (spans, starts)
}

struct Trial {
    source: Box<dyn PromptSource>,
    chosen: Chosen,
    /// First place in the chosen rows, by trial window.
    starts: Vec<u64>,
    /// Windows of the whole input.
    original: Vec<WindowSpan>,
    files: Arc<InputIndex>,
}

impl PromptSource for Trial {
    fn read_rows(&self, span: &WindowSpan, each: EachRow<'_>) -> Result<InputWindow, InputError> {
        let first = self
            .starts
            .get(span.id.0 as usize)
            .copied()
            .unwrap_or_default();
        let mut gathered = Gathered::default();
        let mut place = first;
        while place < first + span.rows {
            let from = &self.original[window_of(self.chosen.row(place), &self.original)];
            let mut positions = Vec::new();
            while place < first + span.rows {
                let row = self.chosen.row(place);
                if row >= from.first_row.0 + from.rows {
                    break;
                }
                positions.push(row - from.first_row.0);
                place += 1;
            }
            let before = gathered.rows.len();
            let window =
                self.source
                    .read_rows(from, &|position, row| match positions
                        .binary_search(&(position as u64))
                    {
                        Ok(chosen) => each(before + chosen, row),
                        Err(_) => row.release(),
                    })?;
            gathered
                .take(window, &positions)
                .map_err(|error| self.odd(from, &error))?;
        }
        if gathered.carried.is_none() {
            let empty = WindowSpan {
                rows: 0,
                ..self.original[0].clone()
            };
            gathered.carried = Some(self.source.read_window(&empty)?.carried);
        }
        let Gathered { rows, carried } = gathered;
        let none: [&[u8]; 0] = [];
        let carried = carried.unwrap_or_else(|| Carried::Json(JsonRows::of(none)));
        Ok(InputWindow {
            id: span.id,
            rows,
            carried,
        })
    }

    fn keep_turns(&mut self) {
        self.source.keep_turns();
    }

    fn stop_with(&mut self, stop: &StopFlag) {
        self.source.stop_with(stop);
    }

    fn check_unchanged(&self, span: &WindowSpan) -> Result<(), InputError> {
        self.spans_of(span)
            .into_iter()
            .try_for_each(|from| self.source.check_unchanged(from))
    }

    fn arrow_schema(&self) -> Option<SchemaRef> {
        self.source.arrow_schema()
    }
}

impl Trial {
    /// The windows of the whole input that the rows of a trial's window are in.
    fn spans_of(&self, span: &WindowSpan) -> Vec<&WindowSpan> {
        let first = self
            .starts
            .get(span.id.0 as usize)
            .copied()
            .unwrap_or_default();
        let mut numbers: Vec<usize> = (first..first + span.rows)
            .map(|place| window_of(self.chosen.row(place), &self.original))
            .collect();
        numbers.dedup();
        numbers
            .into_iter()
            .map(|number| &self.original[number])
            .collect()
    }

    fn odd(&self, span: &WindowSpan, error: &arrow_schema::ArrowError) -> InputError {
        let path = self
            .files
            .files
            .get(span.file as usize)
            .map(|f| f.path.clone());
        InputError::Broken {
            problems: vec![FileProblem {
                path: path.unwrap_or_default(),
                reason: one_line(&error.to_string()),
            }],
        }
    }
}

#[derive(Default)]
struct Gathered {
    rows: Vec<super::types::InputRow>,
    carried: Option<Carried>,
}

impl Gathered {
    /// Adds the rows of a window at `positions`, which ascend.
    fn take(
        &mut self,
        window: InputWindow,
        positions: &[u64],
    ) -> Result<(), arrow_schema::ArrowError> {
        self.rows.extend(pick(window.rows, positions));
        self.carried = Some(match (self.carried.take(), window.carried) {
            (Some(Carried::Json(mut earlier)), Carried::Json(lines)) => {
                earlier.extend(&lines, positions);
                Carried::Json(earlier)
            }
            (_, Carried::Json(lines)) => Carried::Json(lines.taken(positions)),
            (earlier, Carried::Arrow(batch)) => {
                // What is not chosen must not be held by what is.
                let taken = take_record_batch(&batch, &UInt64Array::from(positions.to_vec()))?;
                let taken = compact(&taken)?;
                Carried::Arrow(match earlier {
                    Some(Carried::Arrow(before)) => joined(&before, &taken)?,
                    _ => taken,
                })
            }
        });
        Ok(())
    }
}

fn joined(
    before: &RecordBatch,
    after: &RecordBatch,
) -> Result<RecordBatch, arrow_schema::ArrowError> {
    concat_batches(&before.schema(), [before, after])
}

#[cfg(test)]
mod tests {
    use super::sample;

    #[test]
    fn a_sample_is_distinct_seeded_and_in_range() {
        let one = sample(50, 1000, 7);
        assert_eq!(one.len(), 50);
        assert!(one.windows(2).all(|pair| pair[0] < pair[1]) && one[49] < 1000);
        assert_eq!(one, sample(50, 1000, 7));
        assert_ne!(one, sample(50, 1000, 8));
    }
}
