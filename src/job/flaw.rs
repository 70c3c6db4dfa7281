//! A wrong value before its place is known, and the checks that find the plain ones.
//!
//! The checks of [`super::sections`] name keys only; a job file adds the place, a row makes a one-line
//! reason of it.

use super::error::{Hint, Place, SpecError};
use super::row::RowFlaw;
use super::tree::Node;

/// A key whose value is wrong, before its place is known.
#[derive(Debug, PartialEq)]
pub(super) struct Flaw {
    key: String,
    reason: String,
    hint: Option<String>,
}

/// A checked value, or what is wrong with it.
pub(super) type Checked<T> = Result<T, Flaw>;

impl Flaw {
    pub(super) fn new(key: &str, reason: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            reason: reason.into(),
            hint: None,
        }
    }

    pub(super) fn hint(mut self, text: impl Into<String>) -> Self {
        self.hint = Some(text.into());
        self
    }

    /// The same flaw, named from the section above.
    pub(super) fn under(mut self, section: &str) -> Self {
        self.key = format!("{section}.{}", self.key);
        self
    }

    /// The reason of a failed row.
    pub(super) fn into_row_flaw(self) -> RowFlaw {
        RowFlaw {
            reason: format!("`{}` {}", self.key, self.reason),
            cure: self.hint,
        }
    }

    /// The error of a job file, with the place of the key.
    pub(super) fn into_error(self, tree: &Node) -> SpecError {
        let place = tree.place_of(&self.key).or_else(|| tree.place.clone());
        let place = place.unwrap_or_else(Place::unknown);
        let (key, hint) = (self.key, Hint(self.hint.map(Into::into)));
        SpecError::Invalid {
            place,
            key,
            reason: self.reason,
            hint,
        }
    }
}

/// Refuses 0.
pub(super) fn at_least_one(key: &str, value: impl Into<u64>) -> Checked<()> {
    if value.into() > 0 {
        Ok(())
    } else {
        Err(Flaw::new(key, "must be at least 1, and is 0"))
    }
}

/// Refuses an empty text.
pub(super) fn not_empty(key: &str, text: Option<&str>) -> Checked<()> {
    match text {
        Some("") => Err(Flaw::new(key, "is empty")),
        _ => Ok(()),
    }
}
