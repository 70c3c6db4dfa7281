//! `[checkpoint]`: how late a finished row may become durable.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Section;
use crate::job::flaw::{Checked, Flaw};

/// A day: later is never, for a checkpoint.
const MAX_INTERVAL: f64 = 86_400.0;

/// How late a finished row may become durable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointSpec {
    /// Seconds; finished rows are durable at most this late.
    #[schemars(range(min = 0, max = 86_400))]
    pub interval_seconds: f64,
}

impl Default for CheckpointSpec {
    fn default() -> Self {
        Self {
            interval_seconds: 5.0,
        }
    }
}

impl Section for CheckpointSpec {
    const NAME: &'static str = "checkpoint";

    fn check(&mut self, _: &Path) -> Checked<()> {
        let seconds = self.interval_seconds;
        if (0.0..=MAX_INTERVAL).contains(&seconds) {
            return Ok(());
        }
        let reason = format!("must be from 0 to {MAX_INTERVAL}, and is {seconds}");
        Err(Flaw::new("interval_seconds", reason))
    }
}
