//! What a record comes to: a prompt, the reason why there is none, or that the job leaves it out.

use super::types::{Prompt, Reference};
use crate::ids::RowId;
use crate::outcome::{BadRow, LeftOut, Stage};

/// A record as the job's columns see it.
pub(super) struct Built {
    /// The row's id, else its number.
    pub(super) id: String,
    /// The expected answer; a row that is bad otherwise has it too.
    pub(super) reference: Option<Reference>,
    /// The group that the row is counted in.
    pub(super) group: Option<Box<str>>,
    /// Why the row is left out.
    pub(super) left_out: Option<LeftOut>,
    /// The prompt, or why there is none.
    pub(super) outcome: Result<Prompt, BadRow>,
}

impl Built {
    /// A row that could not be read.
    pub(super) fn bad(row: RowId, reason: String) -> Self {
        Self {
            id: row.to_string(),
            reference: None,
            group: None,
            left_out: None,
            outcome: Err(bad(reason)),
        }
    }

    /// A row that the job leaves out.
    pub(super) fn left_out(row: RowId, why: LeftOut) -> Self {
        Self {
            left_out: Some(why),
            ..Self::bad(row, "the job leaves it out".to_owned())
        }
    }
}

/// A row that the input itself makes bad.
pub(super) fn bad(reason: String) -> BadRow {
    BadRow {
        stage: Stage::Input,
        reason,
    }
}
