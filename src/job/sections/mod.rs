//! The sections of a job, one file each: keys, types, defaults, ranges and what editors show of them.
//!
//! One struct is a section in the job file, in `job.json` and in the program. Its doc comments and
//! attributes make the JSON Schema, its `Default` or field defaults fill in what a job leaves out, and
//! [`Section::check`] refuses what a type cannot. The struct is read from a job file by
//! [`super::tree`], and from `job.json` by `serde_json`.
//!
//! A new key is a new field: `CONTRIBUTING.md` has the steps.

pub(super) mod batch;
pub(super) mod beams;
pub(super) mod checkpoint;
pub(super) mod choose;
pub(super) mod few_shot;
pub(super) mod generation;
pub(super) mod infill;
pub(super) mod input;
pub(super) mod model;
pub(super) mod output;
pub(super) mod preference;
pub(super) mod prompt;
pub(super) mod report;
pub(super) mod reward;
pub(super) mod score;

use std::path::Path;

use super::flaw::Checked;

/// A section of a job.
pub(super) trait Section: Sized {
    /// Its name in the job file.
    const NAME: &'static str;

    /// Refuses values out of range, and makes paths absolute; relative ones start at `base`.
    fn check(&mut self, base: &Path) -> Checked<()>;

    /// The section with its values in range; a flaw names the whole key.
    fn checked(mut self, base: &Path) -> Checked<Self> {
        self.check(base).map_err(|flaw| flaw.under(Self::NAME))?;
        Ok(self)
    }
}
