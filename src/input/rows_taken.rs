//! Which rows a job takes: `input.skip`, `input.limit` and `input.where`, and of an earlier job's results those that
//! have one.

use minijinja::Value;

use super::cell::{Cell, Record};
use super::error::InputError;
use super::filter::Filter;
use super::template::to_value;
use crate::ids::RowId;
use crate::job::InputSpec;
use crate::outcome::LeftOut;

/// The column of results that says how a row ended, and what it says of one without a result.
const STATUS: &str = "status";
const FAILED: &str = "failed";

/// What to do about an expression that fails for some rows.
const CURE: &str = "write it so that it holds for every row, as in `x is defined and x > 5`";

/// Which rows a job takes.
pub(super) struct RowsTaken {
    skip: u64,
    limit: Option<u64>,
    filter: Option<Filter>,
    /// Whether the input has results of an earlier job.
    has_results: bool,
}

impl RowsTaken {
    /// Compiles the expression.
    ///
    /// # Errors
    ///
    /// [`InputError::Where`].
    pub(super) fn new(input: &InputSpec) -> Result<Self, InputError> {
        let filter = input.filter.as_deref().map(Filter::new).transpose();
        Ok(Self {
            skip: input.skip,
            limit: input.limit,
            has_results: false,
            filter: filter.map_err(|wrong| InputError::Where {
                reason: wrong.reason,
                cure: wrong.cure.unwrap_or_else(|| {
                    "columns go by their names, as in `where = \"difficulty > 3 and subject == 'law'\"`".to_owned()
                }),
            })?,
        })
    }

    /// The columns that the expression names.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.filter.iter().flat_map(Filter::names)
    }

    /// Columns that decide whether a row is taken.
    pub(super) fn used_columns(&self) -> impl Iterator<Item = &str> {
        self.names().chain(self.has_results.then_some(STATUS))
    }

    /// Says that the input has results of an earlier job.
    pub(super) fn expect_results(&mut self) {
        self.has_results = true;
    }

    /// Why a row is left out, where its number tells.
    pub(super) fn by_number(&self, row: RowId) -> Option<LeftOut> {
        let Some(place) = row.0.checked_sub(self.skip) else {
            return Some(LeftOut::Skip);
        };
        let is_over = self.limit.is_some_and(|limit| place >= limit);
        is_over.then_some(LeftOut::Limit)
    }

    /// Why a row is left out, where its columns tell.
    ///
    /// # Errors
    ///
    /// The reason of a bad row: the expression fails for it.
    pub(super) fn by_columns(
        &self,
        record: &dyn Record,
        is_result: bool,
    ) -> Result<Option<LeftOut>, String> {
        if is_result && record.cell(STATUS) == Cell::Text(FAILED.into()) {
            return Ok(Some(LeftOut::Failed));
        }
        let Some(filter) = &self.filter else {
            return Ok(None);
        };
        let mut columns = Vec::new();
        for name in filter.names() {
            let value = record.json(name);
            let value = value.map_err(|reason| format!("column `{name}`: {reason}"))?;
            columns.push((name, to_value(value.unwrap_or_default())));
        }
        match filter.matches(Value::from_pairs(columns)) {
            Ok(true) => Ok(None),
            Ok(false) => Ok(Some(LeftOut::Where)),
            Err(wrong) => Err(format!(
                "`input.where` fails for this row: {}; {}",
                wrong.reason,
                wrong.cure.as_deref().unwrap_or(CURE)
            )),
        }
    }
}
