//! `task = "generate"`: answers the prompt.

use std::sync::Arc;

use serde_json::Value;

use crate::engine::{Found, Generation, Work};
use crate::generate::Choices;
use crate::ids::RowId;
use crate::input::Prompt;
use crate::job::{GenerationSpec, LengthOver, Task};
use crate::outcome::{BadRow, RowResult, Sample};
use crate::sink::{Column, SampleValue, When};
use crate::tokenize::{GlmTokenizer, Unwritable};

use super::{JobTask, RowTask, TaskError, TaskJob, TaskKind, bad_input, bad_text, unexpected};

/// The task.
pub(crate) static TASK: Generate = Generate;

/// `task = "generate"`.
#[derive(Debug)]
pub(crate) struct Generate;

/// The rule of jobs that began before stop strings were compared as the tokenizer writes them.
pub(crate) const FIRST_TEXT_RULE: u32 = 1;

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
        let settings = RowSettings::new(job)?;
        // No context is shorter than one token, so no answer has more room than behind that.
        let most = job.lengths.max_new_tokens(&settings.of_job.settings, 1);
        settings.check_room(most, "generation.max_new_tokens")?;
        Ok(Box::new(Answering {
            job: *job,
            settings,
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
pub(crate) fn written(
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
        let of_row = self.settings.of(prompt).map_err(bad_input)?;
        let settings = &of_row.settings;
        let limit = lengths.context_limit(settings).map_err(bad_input)?;
        let encoded = tokenizer
            .encode_prompt(
                &prompt.text,
                prompt.prefix.as_deref(),
                spec.prompt.mask,
                limit,
                spec.prompt.overflow,
            )
            .map_err(bad_text)?;
        let max_new_tokens = lengths.max_new_tokens(settings, encoded.ids.len() as u32);
        of_row.check_room(max_new_tokens).map_err(bad_input)?;
        Ok(RowTask {
            has_idle_settings: RowSettings::are_idle(prompt, settings),
            work: Work::Generate(Generation {
                encoded,
                later_masks: Vec::new(),
                settings: of_row.settings,
                choices: of_row.choices,
                max_new_tokens,
            }),
            finish: Box::new(|found| match found {
                Found::Generated(completion) => Ok(RowResult::Generated(completion)),
                other => Err(unexpected(&other)),
            }),
        })
    }
}

/// The settings that answers are generated by.
#[derive(Clone)]
pub(super) struct Settings {
    /// As the rule of text has them.
    pub settings: Arc<GenerationSpec>,
    /// The choices that they name, if any.
    pub choices: Option<Arc<Choices>>,
}

impl Settings {
    /// Why an answer of so many tokens, its ending token included, has no room for each of the choices.
    pub(super) fn check_room(&self, most: u32) -> Result<(), String> {
        let longest = self.choices.as_ref().map_or(0, |choices| choices.longest());
        if longest <= most as usize {
            return Ok(());
        }
        Err(format!(
            "the longest of `choices` has {longest} tokens, the ending token included, and the answer has room for {most}"
        ))
    }
}

/// What makes a list of choices unfit: what is wrong, read after the key, and what helps.
struct UnfitChoices {
    reason: String,
    cure: String,
}

/// The choices that settings name; `None` where they name none.
fn choices_of(
    settings: &GenerationSpec,
    tokenizer: &GlmTokenizer,
) -> Result<Option<Arc<Choices>>, UnfitChoices> {
    if settings.choices.is_empty() {
        return Ok(None);
    }
    for choice in &settings.choices {
        tokenizer.written(choice).map_err(|error| UnfitChoices {
            reason: format!(
                "holds `{}`, which no answer can hold: {}",
                choice.escape_debug(),
                error.reason
            ),
            cure: error.cure,
        })?;
    }
    if settings
        .choices
        .iter()
        .any(|choice| choice.trim().is_empty())
    {
        return Err(UnfitChoices {
            reason: "holds a text that is only space".to_owned(),
            cure: "take it out of the list".to_owned(),
        });
    }
    let choices = Choices::new(&settings.choices, tokenizer);
    let choices = choices.map_err(|reason| UnfitChoices {
        reason: format!("cannot be used: {reason}"),
        cure: "take it out of the list".to_owned(),
    })?;
    Ok(Some(Arc::new(choices)))
}

/// Lets the length of a beam be that of the mask's text where masks are filled, as the reference of that task has it.
fn count_pieces(settings: &mut GenerationSpec, task: Task) {
    if task == Task::Infill && settings.length_penalty_over == LengthOver::Sequence {
        settings.length_penalty_over = LengthOver::Piece;
    }
}

/// The settings of generation: the job's, with those of a row in their place.
pub(super) struct RowSettings<'a> {
    job: TaskJob<'a>,
    /// Those of the job alone.
    of_job: Settings,
}

impl<'a> RowSettings<'a> {
    /// Those of a job.
    ///
    /// # Errors
    ///
    /// A stop string or a choice that no answer can hold.
    pub(super) fn new(job: &TaskJob<'a>) -> Result<Self, TaskError> {
        let settings = written(job.spec.generation.clone(), job.tokenizer, job.rules.text);
        let mut settings = settings.map_err(|(stop, error)| TaskError::Stop { stop, error })?;
        count_pieces(&mut settings, job.spec.task);
        let choices = choices_of(&settings, job.tokenizer);
        let choices = choices.map_err(|UnfitChoices { reason, cure }| TaskError::Key {
            key: "generation.choices",
            reason,
            cure,
        })?;
        Ok(Self {
            job: *job,
            of_job: Settings {
                settings: Arc::new(settings),
                choices,
            },
        })
    }

    /// Refuses the job where no answer, of at most so many tokens by `key`, has room for the longest of its choices.
    pub(super) fn check_room(&self, most: u32, key: &str) -> Result<(), TaskError> {
        self.of_job
            .check_room(most)
            .map_err(|reason| TaskError::Key {
                key: "generation.choices",
                reason: format!("needs more room: {reason}"),
                cure: format!("raise `{key}`, or take the longest choices out"),
            })
    }

    /// Those of a row, or why it can have none.
    pub(super) fn of(&self, prompt: &Prompt) -> Result<Settings, String> {
        if prompt.overrides.is_empty() {
            return Ok(self.of_job.clone());
        }
        let TaskJob {
            spec,
            tokenizer,
            rules,
            ..
        } = self.job;
        let settings = spec
            .generation
            .with_overrides(&prompt.overrides, rules)
            .map_err(|flaw| match rules.rows {
                1 => flaw.reason,
                _ => flaw.to_string(),
            })?;
        let mut settings = written(settings, tokenizer, rules.text).map_err(|(stop, error)| {
            let (stop, reason) = (stop.escape_debug(), error.reason);
            format!("`stop` holds `{stop}`, which no answer can hold: {reason}")
        })?;
        count_pieces(&mut settings, spec.task);
        let choices = if settings.choices == self.of_job.settings.choices {
            self.of_job.choices.clone()
        } else {
            choices_of(&settings, tokenizer)
                .map_err(|unfit| format!("`choices` {}", unfit.reason))?
        };
        Ok(Settings {
            settings: Arc::new(settings),
            choices,
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
