//! What a job does with its rows: each task is one file, which no stage below knows of.
//!
//! ```text
//! row's texts ---> JobTask::work ---> Work -> engine -> Found ---> Finish ---> RowResult -> journal, part
//!                       \___ what the row needs at the end ________/
//! ```
//!
//! A task's file has a `TASK` that implements [`TaskKind`]: how a row becomes work, how what the model found becomes the
//! row's result, the columns that the results have, and what the summary says. The lines of
//! [`every_task`](crate::task_list) name the files.

use serde::{Deserialize, Serialize};

use crate::engine::{Found, Work};
use crate::ids::RowId;
use crate::input::{Prompt, Reference};
use crate::job::{JobSpec, Lengths, Rules, SampleLayout, Task};
use crate::outcome::{BadRow, RowResult, Stage, Sums};
use crate::sink::{Column, Form};
use crate::task_list::every_task;
use crate::tokenize::{GlmTokenizer, Unwritable};

mod chances;
mod few_shot;
mod labels;
mod picked;

macro_rules! task_modules {
    ($($module:ident $name:ident $does:literal,)*) => {
        $(pub(crate) mod $module;)*

        /// The task of that name.
        pub(crate) fn of(task: Task) -> &'static dyn TaskKind {
            match task {
                $(Task::$name => &$module::TASK,)*
            }
        }
    };
}

every_task!(task_modules);

pub(crate) use few_shot::Examples;

/// What a task is, whatever the job.
pub(crate) trait TaskKind: Sync {
    /// The columns that its results may have, beside those of all results.
    fn columns(&self) -> &'static [Column];

    /// Whether the results of a row are lists on one line.
    fn is_nested(&self, spec: &JobSpec) -> bool {
        spec.output.samples == SampleLayout::Nested
    }

    /// Whether it reads values: its model is a reward model then, and a GLM without a value head otherwise.
    fn needs_value_head(&self) -> bool {
        false
    }

    /// The task as a job has it.
    ///
    /// # Errors
    ///
    /// What of the job cannot be done with the model's tokenizer or within its limits.
    fn open<'a>(&self, job: &TaskJob<'a>) -> Result<Box<dyn JobTask + 'a>, TaskError>;

    /// Whether a result is what the row's reference expects, of several texts any. `written` gives a text as it would
    /// come back from the model.
    fn matches(
        &self,
        result: &RowResult,
        reference: &Reference,
        written: &dyn Fn(&str) -> String,
    ) -> bool {
        let answer = result.answer().unwrap_or_default().trim();
        reference.texts().any(|text| answer == written(text))
    }

    /// The texts that the metrics compare with the row's reference, in the order of the samples; none where a result has
    /// no such text.
    fn answers<'a>(&self, result: &'a RowResult) -> Vec<&'a str> {
        match result {
            RowResult::Generated(completion) => {
                let samples = completion.samples.iter();
                samples.map(|sample| sample.text.as_str()).collect()
            }
            RowResult::Measured(_) => Vec::new(),
        }
    }

    /// A solved row as an example before other rows' prompts.
    ///
    /// # Errors
    ///
    /// Why the row cannot be one.
    fn solved(
        &self,
        spec: &JobSpec,
        prompt: &Prompt,
        reference: Option<&Reference>,
    ) -> Result<String, String> {
        let _ = spec;
        let reference = reference.ok_or("the example has no answer")?;
        few_shot::with_answers(prompt, &[&reference.text])
    }

    /// Two texts of a result that are shown beside the prompt where that says more than an answer and its reference.
    fn example(&self, result: &RowResult) -> Option<[String; 2]> {
        let _ = result;
        None
    }

    /// Adds a row to the sums that the summary is made of.
    fn count(&self, result: &RowResult, sums: &mut Sums) {
        let _ = (result, sums);
    }

    /// Puts back into a result that was read from a part what the part does not hold and the counts need.
    fn restore(&self, spec: &JobSpec, prompt: &Prompt, result: &mut RowResult) {
        let _ = (spec, prompt, result);
    }

    /// What the summary says of the sums, a line each.
    fn summary(&self, sums: &Sums) -> Vec<Fact> {
        let _ = sums;
        Vec::new()
    }
}

/// The task of one job.
pub(crate) trait JobTask: Send + Sync {
    /// What the model has to do for a row, and what becomes of it.
    ///
    /// # Errors
    ///
    /// Why the row is bad.
    fn work(&self, row: RowId, prompt: &Prompt) -> Result<RowTask, BadRow>;
}

/// What a task makes of a row.
pub(crate) struct RowTask {
    /// What the model has to do.
    pub work: Work,
    /// What becomes of what it finds.
    pub finish: Finish,
    /// Whether the row has settings that do nothing.
    pub has_idle_settings: bool,
}

/// What the model found for a row to the row's result. It holds what the row needs for that.
pub(crate) type Finish = Box<dyn FnOnce(Found) -> Result<RowResult, BadRow> + Send + Sync>;

/// What a task is told of a job.
#[derive(Clone, Copy)]
pub(crate) struct TaskJob<'a> {
    /// The job.
    pub spec: &'a JobSpec,
    /// The model's tokenizer.
    pub tokenizer: &'a GlmTokenizer,
    /// The limits of context and answer.
    pub lengths: Lengths,
    /// The rules that the job goes by.
    pub rules: Rules,
}

/// A line of the summary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// What it is about, in a word or two.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// What of a job its task cannot do.
#[derive(Debug)]
pub enum TaskError {
    /// A stop string that no answer can hold.
    Stop {
        /// The stop string.
        stop: String,
        /// Why.
        error: Unwritable,
    },
    /// A key whose value does not fit the model or another key.
    Key {
        /// The whole key, dotted.
        key: &'static str,
        /// What is wrong, read after the key.
        reason: String,
        /// What helps.
        cure: String,
    },
}

/// The form of a job's results.
pub fn form(spec: &JobSpec) -> Form<'_> {
    let task = of(spec.task);
    Form {
        spec,
        columns: task.columns(),
        is_nested: task.is_nested(spec),
    }
}

/// A row that the input makes bad.
fn bad_input(reason: String) -> BadRow {
    BadRow {
        stage: Stage::Input,
        reason,
    }
}

/// A row whose texts cannot become the model's tokens.
fn bad_text(reason: String) -> BadRow {
    BadRow {
        stage: Stage::Tokenize,
        reason,
    }
}

/// The result of a row whose work was answered by something else: the engine answers by the kind of work.
fn unexpected(found: &Found) -> BadRow {
    let what = match found {
        Found::Generated(_) => "answers",
        Found::Chances(_) => "chances",
        Found::Values(_) => "values",
    };
    BadRow {
        stage: Stage::Read,
        reason: format!("the engine gave {what}, which the task did not ask for"),
    }
}

#[cfg(test)]
mod tests;
