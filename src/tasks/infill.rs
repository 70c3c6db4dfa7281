//! `task = "infill"`: fills every mask of the prompt, left to right.
//!
//! ```text
//! [CLS] ... [MASK] ... [sMASK] ... <|endoftext|>  sop first text  sop second text  ...
//!           first      second                     at the first    at the second mask's position
//! ```
//!
//! # Source
//!
//! `generate_samples` in `generate_samples.py` of THUDM/GLM: each mask has a start token of its own, and sees the context
//! and all that was filled before. There a prompt without a mask gets one; here such a row fails, as does one whose mask
//! was cut away.

use crate::engine::{Found, Generation, Work};
use crate::generate::{fill, mask_positions};
use crate::ids::RowId;
use crate::input::{Prompt, Reference};
use crate::job::{GenerationSpec, JobSpec};
use crate::outcome::{BadRow, Completion, RowResult, Sample, Span};
use crate::sink::{Column, SampleValue};
use crate::tokenize::Encoded;

use super::few_shot::with_answers;
use super::generate::{
    COMPLETION, COMPLETION_TOKENS, LOGPROB, RowSettings, TOKEN_IDS, TOKEN_LOGPROBS,
};
use super::{JobTask, RowTask, TaskError, TaskJob, TaskKind, bad_input, bad_text, unexpected};

/// The task.
pub(crate) static TASK: Infill = Infill;

/// `task = "infill"`.
#[derive(Debug)]
pub(crate) struct Infill;

static COLUMNS: &[Column] = &[
    COMPLETION,
    Column::of_answer("spans", SampleValue::TextList(texts)),
    Column::of_answer("finish_reasons", SampleValue::TextList(finish_reasons)),
    Column::PROMPT_TOKENS,
    COMPLETION_TOKENS,
    LOGPROB,
    TOKEN_LOGPROBS,
    TOKEN_IDS,
];

fn texts(sample: &Sample) -> Vec<&str> {
    let spans = sample.spans.iter();
    spans.map(|span| span.text.as_str()).collect()
}

fn finish_reasons(sample: &Sample) -> Vec<&str> {
    let spans = sample.spans.iter();
    spans.map(|span| span.finish_reason.as_str()).collect()
}

impl TaskKind for Infill {
    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn open<'a>(&self, job: &TaskJob<'a>) -> Result<Box<dyn JobTask + 'a>, TaskError> {
        let asked = job.spec.infill.clone().unwrap_or_default();
        let most = asked.max_new_tokens;
        let filling = Filling {
            job: *job,
            settings: RowSettings::new(job)?,
            most: most.min(job.lengths.max_sequence_length),
        };
        filling.context_limit(1).map_err(|_| TaskError::Key {
            key: "infill.max_new_tokens",
            reason: format!(
                "is {most} and leaves no room for the prompt in `prompt.max_length` ({})",
                job.lengths.max_length
            ),
            cure: "lower it, or raise `prompt.max_length`".to_owned(),
        })?;
        filling
            .settings
            .check_room(filling.most, "infill.max_new_tokens")?;
        Ok(Box::new(filling))
    }

    /// Each mask with what the reference says of it.
    fn solved(
        &self,
        _: &JobSpec,
        prompt: &Prompt,
        reference: Option<&Reference>,
    ) -> Result<String, String> {
        let reference = reference.ok_or("the example has no answer")?;
        let others = reference.others().iter().map(String::as_str);
        let answers = std::iter::once(&*reference.text).chain(others);
        with_answers(prompt, &answers.collect::<Vec<_>>())
    }

    /// A reference that is one text is the whole text, or the text for its only mask. A list has a text for each mask.
    /// A filled text holds its own prompt, so metrics of it would measure little of what was filled.
    fn answers<'a>(&self, _: &'a RowResult) -> Vec<&'a str> {
        Vec::new()
    }

    fn matches(
        &self,
        result: &RowResult,
        reference: &Reference,
        written: &dyn Fn(&str) -> String,
    ) -> bool {
        let RowResult::Generated(Completion { samples, .. }) = result else {
            return false;
        };
        let Some(Sample { text, spans, .. }) = samples.first() else {
            return false;
        };
        let others = reference.others();
        let texts = others.iter().map(String::as_str);
        let expected = std::iter::once(&*reference.text).chain(texts);
        let at_masks = spans.len() == 1 + others.len()
            && spans
                .iter()
                .zip(expected)
                .all(|(span, expected)| span.text.trim() == written(expected));
        at_masks || (others.is_empty() && written(text) == written(reference))
    }
}

/// The task as a job has it.
struct Filling<'a> {
    job: TaskJob<'a>,
    settings: RowSettings<'a>,
    /// Most tokens of a mask's text.
    most: u32,
}

impl JobTask for Filling<'_> {
    fn work(&self, _: RowId, prompt: &Prompt) -> Result<RowTask, BadRow> {
        let of_row = self.settings.of(prompt).map_err(bad_input)?;
        check(prompt, &of_row.settings).map_err(bad_input)?;
        let (encoded, masks) = self.encoded(prompt).map_err(bad_text)?;
        let max_new_tokens = self.max_new_tokens(&encoded, masks.len() as u32);
        of_row.check_room(max_new_tokens).map_err(bad_input)?;
        let text = match &prompt.prefix {
            Some(prefix) => format!("{}\n{prefix}", prompt.text),
            None => prompt.text.clone(),
        };
        let names = self.job.tokenizer.mask_names();
        let count = masks.len();
        Ok(RowTask {
            has_idle_settings: RowSettings::are_idle(prompt, &of_row.settings),
            work: Work::Generate(Generation {
                encoded,
                later_masks: masks[1..].to_vec(),
                settings: of_row.settings,
                choices: of_row.choices,
                max_new_tokens,
            }),
            finish: Box::new(move |found| {
                let completion = match found {
                    Found::Generated(completion) => completion,
                    other => return Err(unexpected(&other)),
                };
                let samples = completion.samples.chunks(count);
                let samples: Option<Vec<Sample>> =
                    samples.map(|spans| filled(&text, &names, spans)).collect();
                let samples = samples.ok_or_else(|| {
                    bad_text("the text has not as many masks as its tokens".to_owned())
                })?;
                Ok(RowResult::Generated(Completion {
                    samples,
                    ..completion
                }))
            }),
        })
    }
}

/// Settings that a row of this task cannot have.
fn check(prompt: &Prompt, settings: &GenerationSpec) -> Result<(), String> {
    let most = prompt.overrides.get("max_new_tokens");
    if most.is_some_and(|most| !most.is_null()) {
        return Err(
            "`max_new_tokens` is none of a row's settings here: `infill.max_new_tokens` of the job counts"
                .to_owned(),
        );
    }
    if settings.num_beams > 1 && settings.num_return_sequences > 1 {
        return Err(
            "`num_return_sequences` must be 1 with `num_beams`: each mask goes on from the best text of the one before"
                .to_owned(),
        );
    }
    Ok(())
}

impl Filling<'_> {
    /// Most tokens of a context with so many masks.
    fn context_limit(&self, masks: u32) -> Result<u32, String> {
        let lengths = self.job.lengths;
        let each = if lengths.reserves { self.most } else { 1 };
        let limit = lengths.limit_beside(each.saturating_mul(masks));
        limit.ok_or_else(|| {
            format!(
                "{each} tokens for each of the {masks} masks leave no room for the prompt in `max_length` ({}); a \
                 smaller `infill.max_new_tokens` may fit",
                lengths.max_length
            )
        })
    }

    /// Most tokens of each mask's text behind a context.
    fn max_new_tokens(&self, encoded: &Encoded, masks: u32) -> u32 {
        let lengths = self.job.lengths;
        if lengths.reserves {
            return self.most;
        }
        let left = lengths.max_length.saturating_sub(encoded.ids.len() as u32);
        self.most.min(left / masks).max(1)
    }

    /// The context, and the positions of its masks, of which there is one at least.
    fn encoded(&self, prompt: &Prompt) -> Result<(Encoded, Vec<u32>), String> {
        let tokenizer = self.job.tokenizer;
        let prefix = prompt.prefix.as_deref();
        let masks = tokenizer.masks(&prompt.text) + prefix.map_or(0, |text| tokenizer.masks(text));
        if masks == 0 {
            let names = tokenizer.mask_names();
            return Err(format!(
                "the prompt has no mask token to fill: write {} where a text is missing",
                names
                    .iter()
                    .map(|name| format!("`{name}`"))
                    .collect::<Vec<_>>()
                    .join(" or ")
            ));
        }
        let encoded = tokenizer.encode_prompt(
            &prompt.text,
            prefix,
            self.job.spec.prompt.mask,
            self.context_limit(masks as u32)?,
            self.job.spec.prompt.overflow,
        )?;
        let positions = mask_positions(&encoded.ids, &tokenizer.mask_ids());
        if positions.len() < masks {
            return Err(format!(
                "the prompt had to be cut, and {} of its {masks} mask tokens were in the part that was cut",
                masks - positions.len()
            ));
        }
        Ok((encoded, positions))
    }
}

/// The answers at the masks of a text as one sample; `None` where there are not as many of them.
fn filled(text: &str, names: &[&str], answers: &[Sample]) -> Option<Sample> {
    let spans = answers.iter().map(|answer| Span {
        text: answer.text.clone(),
        finish_reason: answer.finish_reason,
    });
    let each = answers.iter();
    Some(Sample {
        text: fill(text, names, answers)?,
        finish_reason: answers.last()?.finish_reason,
        token_ids: each.clone().flat_map(|a| a.token_ids.clone()).collect(),
        token_logprobs: each.flat_map(|a| a.token_logprobs.clone()).collect(),
        score: None,
        spans: spans.collect(),
    })
}
