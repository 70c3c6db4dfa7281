//! Which rows a job takes: `input.skip`, `input.limit` and `input.where`, and of an earlier job's results those that
//! have one.

use minijinja::Value;

use super::cell::{Cell, Record};
use super::error::InputError;
use super::filter::{Filter, WrongFilter, check_asks};
use super::template::to_value;
use crate::ids::RowId;
use crate::job::{InputSpec, Rules};
use crate::outcome::LeftOut;

/// The column of results that says how a row ended, and what it says of one without a result.
const STATUS: &str = "status";
const FAILED: &str = "failed";

/// What to do about an expression that fails for some rows.
const CURE: &str = "write it so that it holds for every row, as in `x is defined and x > 5`";

/// The last version of the rules of rows by which anything that is not empty, zero or null is true.
const LAX_ROWS: u32 = 5;

/// Which rows a job takes.
pub(super) struct RowsTaken {
    skip: u64,
    limit: Option<u64>,
    filter: Option<Filter>,
    /// Whether what the expression gives must be true or false: not in a job that began when anything would do.
    is_strict: bool,
    /// Whether the input has results of an earlier job.
    has_results: bool,
}

impl RowsTaken {
    /// Compiles the expression.
    ///
    /// # Errors
    ///
    /// [`InputError::Where`].
    pub(super) fn new(input: &InputSpec, rules: Rules) -> Result<Self, InputError> {
        let is_strict = rules.rows > LAX_ROWS;
        let compile = |text: &str| -> Result<Filter, WrongFilter> {
            let filter = Filter::new(text)?;
            if is_strict {
                check_asks(text)?;
            }
            Ok(filter)
        };
        let filter = input.filter.as_deref().map(compile).transpose();
        Ok(Self {
            skip: input.skip,
            limit: input.limit,
            has_results: false,
            is_strict,
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
        let row = Value::from_pairs(columns);
        let answer = if self.is_strict {
            filter.is_true(row)
        } else {
            filter.matches(row)
        };
        match answer {
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
