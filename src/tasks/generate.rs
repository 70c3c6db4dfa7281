//! `task = "generate"`: answers the prompt.

use std::sync::Arc;

use serde_json::Value;

use crate::engine::{Found, Generation, Work};
use crate::ids::RowId;
use crate::input::Prompt;
use crate::job::GenerationSpec;
use crate::outcome::{BadRow, RowResult, Sample};
use crate::sink::{Column, SampleValue, When};
use crate::tokenize::{GlmTokenizer, Unwritable};

use super::{JobTask, RowTask, TaskError, TaskJob, TaskKind, bad_input, bad_text, unexpected};

/// The task.
pub static TASK: Generate = Generate;

/// `task = "generate"`.
#[derive(Debug)]
pub struct Generate;

/// The rule of jobs that began before stop strings were compared as the tokenizer writes them.
pub const FIRST_TEXT_RULE: u32 = 1;

const WITH_BEAMS: When = When::asked("with `generation.num_beams` above 1", |form| {
    form.spec.generation.num_beams > 1
});

const WITH_LOGPROBS: When = When::asked("with `generation.logprobs`", |form| {
    form.spec.generation.logprobs
});

/// The text of an answer.
pub(super) const COMPLETION: Column =
    Column::of_answer("completion", SampleValue::Text(|sample| &sample.text));

/// Its tokens.
pub(super) const COMPLETION_TOKENS: Column = Column::of_answer(
    "completion_tokens",
    SampleValue::Int32(|sample| sample.token_ids.len() as u32),
);

/// The sum of its log-probabilities.
pub(super) const LOGPROB: Column =
    Column::of_answer("logprob", SampleValue::Float32(logprob)).only(WITH_LOGPROBS);

/// Its log-probabilities.
pub(super) const TOKEN_LOGPROBS: Column = Column::of_answer(
    "token_logprobs",
    SampleValue::Float32List(|sample| &sample.token_logprobs),
)
.only(WITH_LOGPROBS);

/// Its ids.
pub(super) const TOKEN_IDS: Column = Column::of_answer(
    "token_ids",
    SampleValue::Int32List(|sample| &sample.token_ids),
)
.only(When::added_by("output.token_ids", |form| {
    form.spec.output.token_ids
}));

static COLUMNS: &[Column] = &[
    COMPLETION,
    Column::of_answer(
        "finish_reason",
        SampleValue::Text(|sample| sample.finish_reason.as_str()),
    ),
    Column::PROMPT_TOKENS,
    COMPLETION_TOKENS,
    Column::of_answer("score", SampleValue::Float32(|sample| sample.score)).only(WITH_BEAMS),
    LOGPROB,
    TOKEN_LOGPROBS,
    TOKEN_IDS,
];

impl TaskKind for Generate {
    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn open<'a>(&self, job: &TaskJob<'a>) -> Result<Box<dyn JobTask + 'a>, TaskError> {
        Ok(Box::new(Answering {
            job: *job,
            settings: RowSettings::new(job)?,
        }))
    }
}

/// Sum of an answer's log-probabilities.
#[expect(
    clippy::unnecessary_wraps,
    reason = "a column's value may be null, and this one never is"
)]
fn logprob(sample: &Sample) -> Option<f32> {
    let each = sample.token_logprobs.iter();
    Some(each.map(|&value| f64::from(value)).sum::<f64>() as f32)
}

/// Settings with their stop strings as answers hold them under a rule.
///
/// # Errors
///
/// The first stop string that no answer can hold, and why.
pub fn written(
    mut settings: GenerationSpec,
    tokenizer: &GlmTokenizer,
    rule: u32,
) -> Result<GenerationSpec, (String, Unwritable)> {
    if rule == FIRST_TEXT_RULE {
        return Ok(settings);
    }
    for stop in &mut settings.stop {
        *stop = tokenizer
            .written(stop)
            .map_err(|error| (stop.clone(), error))?;
    }
    Ok(settings)
}

/// The task as a job has it.
struct Answering<'a> {
    job: TaskJob<'a>,
    settings: RowSettings<'a>,
}

impl JobTask for Answering<'_> {
    fn work(&self, _: RowId, prompt: &Prompt) -> Result<RowTask, BadRow> {
        let TaskJob {
            spec,
            tokenizer,
            lengths,
            ..
        } = self.job;
        let settings = self.settings.of(prompt).map_err(bad_input)?;
        let limit = lengths.context_limit(&settings).map_err(bad_input)?;
        let encoded = tokenizer
            .encode_prompt(
                &prompt.text,
                prompt.prefix.as_deref(),
                spec.prompt.mask,
                limit,
                spec.prompt.overflow,
            )
            .map_err(bad_text)?;
        let max_new_tokens = lengths.max_new_tokens(&settings, encoded.ids.len() as u32);
        Ok(RowTask {
            has_idle_settings: RowSettings::are_idle(prompt, &settings),
            work: Work::Generate(Generation {
                encoded,
                later_masks: Vec::new(),
                settings,
                max_new_tokens,
            }),
            finish: Box::new(|found| match found {
                Found::Generated(completion) => Ok(RowResult::Generated(completion)),
                other => Err(unexpected(&other)),
            }),
        })
    }
}

/// The settings of generation: the job's, with those of a row in their place.
pub(super) struct RowSettings<'a> {
    job: TaskJob<'a>,
    /// The job's, as the rule of text has them.
    settings: Arc<GenerationSpec>,
}

impl<'a> RowSettings<'a> {
    /// Those of a job.
    ///
    /// # Errors
    ///
    /// A stop string that no answer can hold.
    pub(super) fn new(job: &TaskJob<'a>) -> Result<Self, TaskError> {
        let settings = written(job.spec.generation.clone(), job.tokenizer, job.rules.text);
        let settings = settings.map_err(|(stop, error)| TaskError::Stop { stop, error })?;
        Ok(Self {
            job: *job,
            settings: Arc::new(settings),
        })
    }

    /// Those of a row, or why it can have none.
    pub(super) fn of(&self, prompt: &Prompt) -> Result<Arc<GenerationSpec>, String> {
        if prompt.overrides.is_empty() {
            return Ok(Arc::clone(&self.settings));
        }
        let rules = self.job.rules;
        let settings = self
            .job
            .spec
            .generation
            .with_overrides(&prompt.overrides, rules)
            .map_err(|flaw| match rules.rows {
                1 => flaw.reason,
                _ => flaw.to_string(),
            })?;
        written(settings, self.job.tokenizer, rules.text)
            .map(Arc::new)
            .map_err(|(stop, error)| {
                let (stop, reason) = (stop.escape_debug(), error.reason);
                format!("`stop` holds `{stop}`, which no answer can hold: {reason}")
            })
    }

    /// Whether a row sets what only drawing uses, and is not drawn.
    pub(super) fn are_idle(prompt: &Prompt, settings: &GenerationSpec) -> bool {
        let is_set = |(_, value): &(&String, &Value)| !value.is_null();
        let mut set = prompt.overrides.iter().filter(is_set);
        let is_of_drawing = |key: &str| GenerationSpec::DRAWING_KEYS.contains(&key);
        !settings.do_sample && set.any(|(key, _)| is_of_drawing(key))
    }
}
