//! A row as prompts see it: its columns by name, each as a [`Cell`].
//!
//! Lines of JSON and rows of Parquet both come as a [`Record`], so that equal rows give equal prompts.

use std::borrow::Cow;

use serde_json::Value;
use serde_json::value::RawValue;

/// One value of a row, as far as the job's own columns need it.
#[derive(Debug, PartialEq)]
pub(super) enum Cell<'a> {
    /// The row has no such column.
    Absent,
    /// Null.
    Null,
    /// Text.
    Text(Cow<'a, str>),
    /// A number in its own digits.
    Number(Cow<'a, str>),
    /// Anything else, in words.
    Other(&'a str),
}

/// A row's columns by name.
pub(super) trait Record {
    /// The value of a column.
    fn cell(&self, name: &str) -> Cell<'_>;
    /// The value of a column as JSON; `None` where the row has no such column.
    fn json(&self, name: &str) -> Result<Option<Value>, String>;
    /// The JSON text of a column's value; `None` where the row has no such column.
    fn raw(&self, name: &str) -> Result<Option<Cow<'_, RawValue>>, String>;
}
