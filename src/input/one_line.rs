//! Lines that come from no file of the input, read as the job reads its own.

use super::InputError;
use super::built::Built;
use super::fields::Fields;
use super::prompt::{PromptBuilder, Wanted};
use super::types::{HeldPrompt, InputRow, Place};
use crate::ids::RowId;
use crate::job::{InputSpec, JobSpec, Rules};

/// Reads single lines of JSON with the columns of a job's input.
pub(crate) struct LineReader {
    builder: PromptBuilder,
    rules: Rules,
}

impl LineReader {
    /// Compiles the template of a job.
    ///
    /// # Errors
    ///
    /// [`InputError::NoPrompt`], [`InputError::Template`].
    pub(crate) fn new(spec: &JobSpec, rules: Rules) -> Result<Self, InputError> {
        // A line that is given is looked at, whatever the job would leave out.
        let input = InputSpec {
            filter: None,
            skip: 0,
            limit: None,
            ..spec.input.clone()
        };
        Ok(Self {
            builder: PromptBuilder::new(&Wanted {
                template_key: "prompt.template",
                input: &input,
                prompt: &spec.prompt,
                group: spec.report.by.as_deref(),
                choices: spec.template_choices(),
                rules,
            })?,
            rules,
        })
    }

    /// The row of a line.
    pub(crate) fn read(&self, row: RowId, line: &[u8]) -> InputRow {
        let (built, is_record) = match Fields::parse(line, self.rules) {
            Ok(fields) => (self.builder.build(row, &fields, false), true),
            Err(reason) => (Built::bad(row, reason), false),
        };
        InputRow {
            row,
            place: Place::Line {
                file: 0,
                line: row.0 + 1,
            },
            id: built.id,
            reference: built.reference,
            group: built.group,
            is_record,
            left_out: None,
            outcome: built.outcome.map(HeldPrompt::from),
        }
    }
}
