//! Token limits of context and answer, once the model's sizes are known.
//!
//! Turns `prompt.max_length` and `max_new_tokens` into the limits of one row. Context and answer
//! count independently in the model: `max_sequence_length + 1` and `max_sequence_length` tokens.

use super::error::SpecError;
use super::sections::generation::{GenerationSpec, MaxNewTokens};
use super::sections::prompt::PromptSpec;
use super::spec::JobSpec;
use super::tasks::Task;

/// Context plus answer where the job says nothing.
const DEFAULT_MAX_LENGTH: u32 = 512;

/// The limits that all rows of a job share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lengths {
    /// Context plus answer, tokens.
    pub max_length: u32,
    /// The model's own limit, tokens.
    pub max_sequence_length: u32,
    /// Whether the most that an answer may have is kept free behind the prompt.
    pub reserves: bool,
}

impl Lengths {
    /// Settles the limits of a job for a model of this `max_sequence_length`.
    ///
    /// # Errors
    ///
    /// [`SpecError::Lengths`] where the answer would leave no room for a context.
    pub(crate) fn new(
        prompt: &PromptSpec,
        generation: &GenerationSpec,
        max_sequence_length: u32,
    ) -> Result<Self, SpecError> {
        let default = DEFAULT_MAX_LENGTH.min(max_sequence_length);
        let max_length = prompt.max_length.unwrap_or(default);
        let lengths = Self {
            max_length,
            max_sequence_length,
            reserves: prompt.reserve,
        };
        let reserved = lengths.reserved(generation);
        if reserved < max_length {
            return Ok(lengths);
        }
        Err(SpecError::Lengths {
            max_new_tokens: reserved,
            max_length,
            origin: match prompt.max_length {
                Some(_) => "set by the job".into(),
                None => format!("the default, with the model's limit of {max_sequence_length}"),
            },
            cure: lengths.cure(reserved),
        })
    }

    /// The limits of a job by its task. Only a task that generates keeps room that the whole job shares; others say
    /// by [`Lengths::limit_beside`] what they keep.
    ///
    /// # Errors
    ///
    /// As [`Lengths::new`].
    pub(crate) fn of_job(spec: &JobSpec, max_sequence_length: u32) -> Result<Self, SpecError> {
        if matches!(spec.task, Task::Generate | Task::Preference) {
            return Self::new(&spec.prompt, &spec.generation, max_sequence_length);
        }
        let rest = GenerationSpec {
            max_new_tokens: Some(MaxNewTokens::Rest),
            ..GenerationSpec::default()
        };
        Self::new(&spec.prompt, &rest, max_sequence_length)
    }

    /// Most tokens of a context beside so many others; `None` where they leave no room for one.
    pub(crate) fn limit_beside(&self, others: u32) -> Option<u32> {
        let left = self
            .max_length
            .checked_sub(others)
            .filter(|left| *left > 0)?;
        Some(left.min(self.max_sequence_length.saturating_add(1)))
    }

    /// What helps where the answer leaves no room for a context.
    fn cure(self, reserved: u32) -> String {
        let model = self.max_sequence_length;
        if reserved > model {
            // A longer `max_length` would only keep room free that no answer can fill.
            format!(
                "lower `generation.max_new_tokens`: an answer of this model has at most {model} tokens"
            )
        } else {
            "lower `generation.max_new_tokens`, or raise `prompt.max_length`; with `prompt.reserve = false` an \
             answer gets what its prompt leaves"
                .to_owned()
        }
    }

    /// What counts where the job allows more than the model has.
    pub(crate) fn note(&self, prompt: &PromptSpec, generation: &GenerationSpec) -> Option<String> {
        let asked = prompt.max_length?;
        let context = self.max_sequence_length.saturating_add(1);
        let left = asked.saturating_sub(self.reserved(generation));
        (left > context).then(|| {
            format!(
                "`prompt.max_length` is {asked}, more than this model has: a context has at most {context} tokens \
                 and an answer {}",
                self.max_sequence_length
            )
        })
    }

    /// Most tokens of a row's context.
    ///
    /// # Errors
    ///
    /// The reason of a failed row: its own `max_new_tokens` leave no room for a context, and the job keeps room
    /// for them.
    pub(crate) fn context_limit(&self, generation: &GenerationSpec) -> Result<u32, String> {
        let reserved = self.reserved(generation);
        if reserved >= self.max_length {
            return Err(format!(
                "`max_new_tokens` ({reserved}) leaves no room for the prompt in `max_length` ({})",
                self.max_length
            ));
        }
        Ok((self.max_length - reserved).min(self.max_sequence_length.saturating_add(1)))
    }

    /// Most answer tokens of a row whose context has `context_tokens`; the start token is not
    /// counted. Never above the model's limit.
    pub(crate) fn max_new_tokens(&self, generation: &GenerationSpec, context_tokens: u32) -> u32 {
        let rest = self.max_length.saturating_sub(context_tokens);
        let wanted = self.wanted(generation).unwrap_or(rest);
        let allowed = if self.reserves {
            wanted
        } else {
            wanted.min(rest)
        };
        allowed.min(self.max_sequence_length)
    }

    /// Tokens behind the context that are kept free for the answer; at least one.
    fn reserved(self, generation: &GenerationSpec) -> u32 {
        match self.wanted(generation) {
            Some(wanted) if self.reserves => wanted,
            _ => 1,
        }
    }

    /// Most answer tokens by the settings alone; `None` is "rest".
    fn wanted(self, generation: &GenerationSpec) -> Option<u32> {
        match generation.max_new_tokens {
            Some(MaxNewTokens::Count(count)) => Some(count),
            Some(MaxNewTokens::Rest) => None,
            None => Some((self.max_length / 2).max(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(max_length: Option<u32>) -> PromptSpec {
        PromptSpec {
            max_length,
            ..PromptSpec::default()
        }
    }

    fn generation(max_new_tokens: Option<MaxNewTokens>) -> GenerationSpec {
        GenerationSpec {
            max_new_tokens,
            ..GenerationSpec::default()
        }
    }

    #[test]
    fn defaults_come_from_the_model() {
        let half = generation(None);
        let lengths = Lengths::new(&prompt(None), &half, 1024).unwrap();
        assert_eq!(lengths.max_length, 512);
        assert_eq!(lengths.context_limit(&half), Ok(256));
        assert_eq!(lengths.max_new_tokens(&half, 256), 256);
        let small = Lengths::new(&prompt(None), &half, 64).unwrap();
        assert_eq!((small.max_length, small.context_limit(&half)), (64, Ok(32)));
    }

    #[test]
    fn context_and_answer_never_pass_the_model() {
        let some = generation(Some(MaxNewTokens::Count(200)));
        let lengths = Lengths::new(&prompt(Some(1000)), &some, 64).unwrap();
        assert_eq!(lengths.context_limit(&some), Ok(65));
        assert_eq!(lengths.max_new_tokens(&some, 65), 64);
    }

    #[test]
    fn rest_is_what_the_context_leaves() {
        let rest = generation(Some(MaxNewTokens::Rest));
        let lengths = Lengths::new(&prompt(Some(100)), &rest, 256).unwrap();
        assert_eq!(lengths.context_limit(&rest), Ok(99));
        assert_eq!(lengths.max_new_tokens(&rest, 30), 70);
        assert_eq!(lengths.max_new_tokens(&rest, 99), 1);
        assert_eq!(lengths.max_new_tokens(&rest, 200), 0);
    }

    #[test]
    fn without_reserve_the_prompt_comes_first() {
        let soft = |max_length| PromptSpec {
            reserve: false,
            ..prompt(Some(max_length))
        };
        let some = generation(Some(MaxNewTokens::Count(24)));
        let lengths = Lengths::new(&soft(64), &some, 64).unwrap();
        assert_eq!(lengths.context_limit(&some), Ok(63));
        assert_eq!(lengths.max_new_tokens(&some, 40), 24);
        assert_eq!(lengths.max_new_tokens(&some, 41), 23);
        assert_eq!(lengths.max_new_tokens(&some, 63), 1);
        let many = generation(Some(MaxNewTokens::Count(500)));
        let lengths = Lengths::new(&soft(64), &many, 64).unwrap();
        assert_eq!(lengths.context_limit(&many), Ok(63));
        assert_eq!(lengths.max_new_tokens(&many, 10), 54);
        let lengths = Lengths::new(&soft(1000), &many, 64).unwrap();
        assert_eq!(lengths.context_limit(&many), Ok(65));
        assert_eq!(lengths.max_new_tokens(&many, 65), 64);
    }

    #[test]
    fn a_limit_beyond_the_model_is_noted() {
        let some = generation(Some(MaxNewTokens::Count(10)));
        for (max_length, is_noted) in [(None, false), (Some(75), false), (Some(76), true)] {
            let prompt = prompt(max_length);
            let lengths = Lengths::new(&prompt, &some, 64).unwrap();
            let note = lengths.note(&prompt, &some);
            assert_eq!(note.is_some(), is_noted, "{note:?}");
        }
        let beyond = prompt(Some(1000));
        let lengths = Lengths::new(&beyond, &some, 64).unwrap();
        assert_eq!(
            lengths.note(&beyond, &some).unwrap(),
            "`prompt.max_length` is 1000, more than this model has: a context has at most 65 tokens and an answer 64"
        );
    }

    #[test]
    fn no_room_for_a_prompt_is_refused() {
        let many = generation(Some(MaxNewTokens::Count(64)));
        let error = Lengths::new(&prompt(None), &many, 64).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`generation.max_new_tokens` (64) leaves no room for the prompt in \
             `prompt.max_length` (64, the default, with the model's limit of 64)\n\
             hint: lower `generation.max_new_tokens`, or raise `prompt.max_length`; with `prompt.reserve = false` \
             an answer gets what its prompt leaves"
        );
        let more = generation(Some(MaxNewTokens::Count(65)));
        let error = Lengths::new(&prompt(None), &more, 64).unwrap_err();
        assert!(
            error.to_string().ends_with(
                "\nhint: lower `generation.max_new_tokens`: an answer of this model has at most 64 tokens"
            ),
            "{error}"
        );
        let job = generation(None);
        let lengths = Lengths::new(&prompt(Some(64)), &job, 64).unwrap();
        assert!(
            lengths
                .context_limit(&many)
                .unwrap_err()
                .contains("no room")
        );
    }
}
