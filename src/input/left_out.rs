//! A window as read to one without the rows that the job leaves out.
//!
//! Rows that stay keep their numbers; nothing after this stage knows of the others but their count.

use arrow_array::UInt64Array;
use arrow_schema::ArrowError;
use arrow_select::take::take_record_batch;

use super::error::{FileProblem, InputError, one_line};
use super::parquet::compact;
use super::types::{Carried, InputWindow};
use crate::outcome::LeftOutRows;

/// What [`InputWindow::sift`] has taken away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sifted {
    /// Places in the window, as it was read, of the rows that stay; `None` where all do.
    kept: Option<Vec<u64>>,
    /// How many rows are gone.
    pub(crate) left_out: LeftOutRows,
}

impl Sifted {
    /// Takes from values, one a row of the window as it was read, those of the rows that stay.
    pub(crate) fn of<T>(&self, values: Vec<T>) -> Vec<T> {
        match &self.kept {
            None => values,
            Some(kept) => pick(values, kept).collect(),
        }
    }
}

impl InputWindow {
    /// Takes away the rows that the job leaves out, with their columns.
    ///
    /// # Errors
    ///
    /// An array operation that fails, which no input should make happen.
    pub(crate) fn sift(&mut self) -> Result<Sifted, InputError> {
        let mut sifted = Sifted::default();
        let mut kept = Vec::with_capacity(self.rows.len());
        for (row, place) in self.rows.iter().zip(0..) {
            match row.left_out {
                Some(why) => sifted.left_out.add(why),
                None => kept.push(place),
            }
        }
        if kept.len() < self.rows.len() {
            self.keep(&kept).map_err(|error| InputError::Broken {
                problems: vec![FileProblem {
                    path: format!("window {}", self.id).into(),
                    reason: one_line(&error.to_string()),
                }],
            })?;
            sifted.kept = Some(kept);
        }
        Ok(sifted)
    }

    fn keep(&mut self, places: &[u64]) -> Result<(), ArrowError> {
        self.rows = pick(std::mem::take(&mut self.rows), places).collect();
        match &mut self.carried {
            Carried::Json(lines) => *lines = lines.taken(places),
            Carried::Arrow(batch) => {
                // What is left out must not be held by what stays.
                let taken = take_record_batch(batch, &UInt64Array::from(places.to_vec()))?;
                *batch = compact(&taken)?;
            }
        }
        Ok(())
    }
}

/// The values at `places`, which ascend.
pub(super) fn pick<T>(values: Vec<T>, places: &[u64]) -> impl Iterator<Item = T> {
    let mut wanted = places.iter().copied().peekable();
    values
        .into_iter()
        .zip(0..)
        .filter(move |(_, place)| wanted.next_if_eq(place).is_some())
        .map(|(value, _)| value)
}
