//! `[report]`: what the summary and the card say of the results.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Section;
use crate::job::flaw::{Checked, not_empty};

/// What the summary and the card say of the results.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReportSpec {
    /// Input column whose values split the metrics into groups.
    pub by: Option<String>,
}

impl ReportSpec {
    /// Whether it says nothing: `job.json` has no such section then, as before there was one.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Section for ReportSpec {
    const NAME: &'static str = "report";

    fn check(&mut self, _: &Path) -> Checked<()> {
        not_empty("by", self.by.as_deref())
    }
}
