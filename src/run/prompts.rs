//! Rows of a finished or running job to the prompts that their answers were made from, read again from the input.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_schema::SchemaRef;

use crate::checkpoint::JobRecord;
use crate::error::{Error, Result};
use crate::ids::{RowId, WindowId};
use crate::input::{self, InputIndex, OpenOptions, Prompt, PromptSource};

/// Prompts of a job by row. One window is held at a time, so rows cost least in their order.
pub(crate) struct Prompts {
    index: Arc<InputIndex>,
    source: Box<dyn PromptSource>,
    window: Option<(WindowId, BTreeMap<RowId, Prompt>)>,
}

impl Prompts {
    /// Opens the input of a job.
    ///
    /// # Errors
    ///
    /// An input that cannot be opened any more; a trial, whose rows are not those of its windows.
    pub(crate) fn new(record: &JobRecord) -> Result<Self> {
        if record.trial.is_some() {
            return Err(Error::Usage(
                "the prompts of a trial cannot be made again from its input\nhint: run the trial with `--set output.prompt=true`, which keeps them in the results".to_owned(),
            ));
        }
        let spec = &record.spec;
        let mut read = spec.input.clone();
        if record.rules.rows == 1 {
            // Such a job began when lines had no limit.
            read.max_row_bytes = u64::MAX;
        }
        let options = OpenOptions {
            input: &read,
            prompt: &spec.prompt,
            choices: spec.template_choices(),
            carried: &spec.output.columns,
            rules: record.rules,
        };
        let index = Arc::new(record.input.clone());
        Ok(Self {
            source: input::open(&options, Arc::clone(&index))?,
            index,
            window: None,
        })
    }

    /// The types of the input's columns, where it is Parquet.
    pub(crate) fn arrow_schema(&self) -> Option<SchemaRef> {
        self.source.arrow_schema()
    }

    /// The prompt of a row; `None` where the row failed before it had one.
    ///
    /// # Errors
    ///
    /// An input that is not what the job has read.
    pub(crate) fn of(&mut self, row: RowId) -> Result<Option<&Prompt>> {
        let windows = &self.index.windows;
        let place = windows.partition_point(|span| span.first_row <= row);
        let Some(span) = place.checked_sub(1).and_then(|place| windows.get(place)) else {
            return Ok(None);
        };
        let prompts = match self.window.take() {
            Some((id, prompts)) if id == span.id => prompts,
            _ => {
                let rows = self.source.read_window(span)?.rows.into_iter();
                rows.filter_map(|row| Some((row.row, row.outcome.ok()?)))
                    .collect()
            }
        };
        let (_, prompts) = self.window.insert((span.id, prompts));
        Ok(prompts.get(&row))
    }
}
