//! The rows of a job with the answers that an earlier phase sampled for them, as a source of their own.

use std::sync::Arc;

use arrow_schema::SchemaRef;

use super::phase_results::PhaseResults;
use crate::input::{EachRow, InputError, InputWindow, PromptSource, WindowSpan};
use crate::outcome::{BadRow, Stage};

/// Rows whose texts behind the prompt are their samples, in order. A row without any is bad, as its phase says.
pub(super) struct SampledSource {
    rows: Arc<dyn PromptSource>,
    samples: PhaseResults,
}

impl SampledSource {
    /// The rows of a source with the samples of a phase, which has committed their windows.
    pub(super) fn new(rows: Arc<dyn PromptSource>, samples: PhaseResults) -> Self {
        Self { rows, samples }
    }
}

impl PromptSource for SampledSource {
    fn read_rows(&self, window: &WindowSpan, each: EachRow<'_>) -> Result<InputWindow, InputError> {
        let samples = self.samples.samples(window.id)?;
        self.rows.read_rows(window, &|position, row| {
            if let Ok(prompt) = &mut row.outcome {
                match samples.get(&row.row) {
                    Some(Ok(sampled)) => {
                        let answers = sampled.answers.iter();
                        prompt.following = answers.map(|answer| answer.text.clone()).collect();
                    }
                    Some(Err(bad)) => row.outcome = Err(bad.clone()),
                    None => row.outcome = Err(no_samples()),
                }
            }
            each(position, row);
        })
    }

    fn check_unchanged(&self, window: &WindowSpan) -> Result<(), InputError> {
        self.rows.check_unchanged(window)
    }

    fn arrow_schema(&self) -> Option<SchemaRef> {
        self.rows.arrow_schema()
    }
}

/// A row that its phase does not know, which no run leaves.
fn no_samples() -> BadRow {
    BadRow {
        stage: Stage::Input,
        reason: "the row has no samples".to_owned(),
    }
}
