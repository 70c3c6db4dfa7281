//! Rows of a finished or running job to the prompts that their answers were made from, read again from the input.

use arrow_schema::SchemaRef;

use super::counts::Noted;
use super::feed::RowEncoder;
use super::model_facts::ModelFacts;
use super::read::source_of;
use crate::checkpoint::JobRecord;
use crate::error::{Error, Result};
use crate::ids::{RowId, WindowId};
use crate::input::{InputRow, Prompt, PromptSource, WindowSpan};
use crate::job::{JobSpec, Rules};
use crate::stop::StopFlag;
use crate::tasks::Examples;

/// Prompts of a job by row. One window is held at a time, so rows cost least in their order.
pub(crate) struct Prompts {
    windows: Vec<WindowSpan>,
    source: Box<dyn PromptSource>,
    window: Option<(WindowId, Vec<(RowId, Prompt)>)>,
    /// Puts examples before the prompts, where the job has them.
    shots: Option<Shots>,
}

/// What says how many examples fit before a prompt.
struct Shots {
    spec: JobSpec,
    rules: Rules,
    model: ModelFacts,
    examples: Examples,
}

impl Shots {
    fn new(record: &JobRecord) -> Result<Option<Self>> {
        let (spec, rules) = (&record.spec, record.rules);
        let examples = Examples::read(spec, rules, &StopFlag::default())?;
        let (Some(mut examples), Some(first)) = (examples, &record.few_shot) else {
            return Ok(None);
        };
        if examples.file().fingerprint != first.fingerprint {
            return Err(Error::Usage(format!(
                "the prompts cannot be made again: `{}` is not the file of examples that the job has read\nhint: put the file back as it was; with `output.prompt = true` a job keeps its prompts in the results",
                examples.file().path.display()
            )));
        }
        examples.beside(&record.input);
        Ok(Some(Self {
            model: ModelFacts::load(spec, rules)?,
            spec: spec.clone(),
            rules,
            examples,
        }))
    }

    /// Gives each row the prompt that it was asked with.
    fn put_before(&self, rows: &mut [InputRow]) -> Result<()> {
        let examples = Some(&self.examples);
        let encoder = RowEncoder::new(&self.spec, &self.model, self.rules, examples)?;
        for row in rows {
            // A row that fails has its prompt all the same.
            let _ = encoder.encode(row, &mut Noted::default());
        }
        Ok(())
    }
}

/// The types of the columns of a job's input, where it is Parquet.
///
/// # Errors
///
/// An input that cannot be opened any more.
pub(crate) fn input_types(record: &JobRecord) -> Result<Option<SchemaRef>> {
    Ok(source_of(record, None)?.arrow_schema())
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
        let mut source = source_of(record, None)?;
        source.keep_turns();
        Ok(Self {
            source,
            windows: record.input.windows.clone(),
            window: None,
            shots: Shots::new(record)?,
        })
    }

    /// The prompt of a row; `None` where the row failed before it had one.
    ///
    /// # Errors
    ///
    /// An input that is not what the job has read.
    pub(crate) fn of(&mut self, row: RowId) -> Result<Option<&Prompt>> {
        let windows = &self.windows;
        let place = windows.partition_point(|span| span.first_row <= row);
        let Some(span) = place.checked_sub(1).and_then(|place| windows.get(place)) else {
            return Ok(None);
        };
        if self.window.as_ref().is_none_or(|(id, _)| *id != span.id) {
            // The prompts of one window go before the next ones come.
            self.window = None;
            self.window = Some((span.id, self.read(span)?));
        }
        let prompts = self.window.as_ref().map(|(_, prompts)| prompts.as_slice());
        let prompts = prompts.unwrap_or_default();
        let place = prompts.binary_search_by_key(&row, |(row, _)| *row);
        Ok(place.ok().map(|place| &prompts[place].1))
    }

    /// The prompts of a window, in the order of the rows.
    fn read(&self, span: &WindowSpan) -> Result<Vec<(RowId, Prompt)>> {
        let mut prompts = Vec::new();
        let Some(shots) = &self.shots else {
            let mut take = |row, prompt| prompts.push((row, prompt));
            self.source.read_prompts(span, &mut take)?;
            return Ok(prompts);
        };
        let mut rows = self.source.read_window(span)?.rows;
        shots.put_before(&mut rows)?;
        let rows = rows.into_iter();
        prompts.extend(rows.filter_map(|row| Some((row.row, row.outcome.ok()?.into_inner()))));
        Ok(prompts)
    }
}
