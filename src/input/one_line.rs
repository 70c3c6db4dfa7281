//! Lines that come from no file of the input, read as the job reads its own.

use super::InputError;
use super::fields::Fields;
use super::prompt::{Built, PromptBuilder, Wanted};
use super::types::{InputRow, Place};
use crate::ids::RowId;
use crate::job::{JobSpec, Rules};

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
        Ok(Self {
            builder: PromptBuilder::new(&Wanted {
                template_key: "prompt.template",
                columns: &spec.input.columns,
                prompt: &spec.prompt,
                choices: spec.template_choices(),
                rules,
            })?,
            rules,
        })
    }

    /// The row of a line.
    pub(crate) fn read(&self, row: RowId, line: &[u8]) -> InputRow {
        let (built, is_record) = match Fields::parse(line, self.rules) {
            Ok(fields) => (self.builder.build(row, &fields), true),
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
            is_record,
            outcome: built.outcome,
        }
    }
}
