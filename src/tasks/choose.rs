//! `task = "choose"`: picks one of given choices, one forward pass a row.
//!
//! ```text
//! target      [CLS] prompt [SEP] prefix [MASK] <|endoftext|>  sop c1 ... cm    asks for c1 ... cm, a branch a choice
//! next-token  [CLS] prompt <|endoftext|>                      asks there for the one token of each choice
//! whole-text  [CLS] template with the choice <|endoftext|>    asks for every token of the text, one text a choice
//! ```
//!
//! Invariant: what is equal is read once, so equal choices have equal bits, and the lowest index wins.
//!
//! # Source
//!
//! `GLMForMultipleChoice` (`target`: the sum over a choice's tokens, no ending token), and `eval_pretrain.py`: C-Eval and
//! MMLU (`next-token`: no mask, no start token, causal), CLUE (`whole-text`; it takes the softmax twice, we take it once).

use crate::engine::{Found, Reading, Want, Work};
use crate::ids::RowId;
use crate::input::{Label, Prompt, Reference};
use crate::job::{ChooseMethod, ChooseSpec, JobSpec, LabelForm};
use crate::model::{Asked, Sight};
use crate::numbers::{counted, grouped};
use crate::outcome::{BadRow, Cell, Measured, RowResult, Sums};
use crate::sink::{Column, Kind};
use crate::tokenize::Encoded;

use super::chances::{Branches, Likelihood, distinct, each_token, split};
use super::few_shot::with_answers;
use super::labels::right_choice;
use super::picked::{COMPARED, CORRECT, LOGPROBS, Picked};
use super::{
    Fact, JobTask, RowTask, TaskError, TaskJob, TaskKind, bad_input, bad_text, unexpected,
};

/// The task.
pub(crate) static TASK: Choose = Choose;

/// `task = "choose"`.
#[derive(Debug)]
pub(crate) struct Choose;

static COLUMNS: &[Column] = &[
    Column::of_row("choice", 0, Kind::Int32),
    Column::of_row("choice_text", 1, Kind::Text),
    Column::of_row("choice_logprobs", LOGPROBS, Kind::Float32List),
    Column::of_row("correct", CORRECT, Kind::Bool),
    Column::PROMPT_TOKENS,
];

impl TaskKind for Choose {
    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn open<'a>(&self, job: &TaskJob<'a>) -> Result<Box<dyn JobTask + 'a>, TaskError> {
        let choosing = Choosing {
            job: *job,
            choose: job.spec.choose.clone().unwrap_or_default(),
        };
        choosing.check_choices()?;
        Ok(Box::new(choosing))
    }

    /// The right choice behind the prompt, or the template filled with it.
    fn solved(
        &self,
        spec: &JobSpec,
        prompt: &Prompt,
        _: Option<&Reference>,
    ) -> Result<String, String> {
        let choose = spec.choose.clone().unwrap_or_default();
        let choices = choices_of(prompt, &choose);
        let label = prompt.label.as_ref().ok_or("the example has no label")?;
        let right = labelled(spec, label, choose.label, choices)?;
        match choose.method {
            ChooseMethod::WholeText => {
                let text = prompt.filled.get(right).cloned();
                text.ok_or_else(|| "the example has no such choice".to_owned())
            }
            ChooseMethod::Target | ChooseMethod::NextToken => {
                with_answers(prompt, &[&choices[right]])
            }
        }
    }

    fn count(&self, result: &RowResult, sums: &mut Sums) {
        let RowResult::Measured(measured) = result else {
            return;
        };
        sums.add("rows", 1.0);
        let at = |place: usize| match measured.row.get(place) {
            Some(Cell::Bool(is_right)) => Some(f64::from(u8::from(*is_right))),
            _ => None,
        };
        if let Some(right) = at(CORRECT) {
            sums.add("labelled", 1.0);
            sums.add("right", right);
        }
        for (word, _, place) in COMPARED {
            if let Some(right) = at(place) {
                sums.add(&format!("{word}_labelled"), 1.0);
                sums.add(&format!("{word}_right"), right);
            }
        }
    }

    fn restore(&self, spec: &JobSpec, prompt: &Prompt, result: &mut RowResult) {
        let (Some(choose), RowResult::Measured(measured)) = (&spec.choose, result) else {
            return;
        };
        let choices = choices_of(prompt, choose);
        let label = prompt.label.as_ref();
        let label = label.and_then(|label| labelled(spec, label, choose.label, choices).ok());
        Picked::new(choices, label, choose).restore(&mut measured.row);
    }

    fn summary(&self, sums: &Sums) -> Vec<Fact> {
        let (rows, labelled) = (sums.get("rows"), sums.get("labelled"));
        if rows < 1.0 {
            return Vec::new();
        }
        let mut facts = vec![Fact {
            name: "chosen".to_owned(),
            text: format!(
                "{}, {} of them with a label",
                counted(rows as u64, "choice"),
                grouped(labelled as u64),
            ),
        }];
        if labelled > 0.0 {
            let accuracy = accuracies(sums);
            facts.push(Fact {
                name: "accuracy".to_owned(),
                text: if accuracy.is_empty() {
                    share(sums.get("right"), labelled)
                } else {
                    accuracy.join(", ")
                },
            });
        }
        facts
    }
}

/// How many picks are right by each way to compare choices of several lengths.
fn accuracies(sums: &Sums) -> Vec<String> {
    let by_each = COMPARED.iter().filter_map(|(word, ..)| {
        let labelled = sums.get(&format!("{word}_labelled"));
        let right = sums.get(&format!("{word}_right"));
        let how = match *word {
            "none" => "as they are".to_owned(),
            word => format!("by {word}"),
        };
        (labelled > 0.0).then(|| format!("{} {how}", share(right, labelled)))
    });
    by_each.collect()
}

fn share(right: f64, all: f64) -> String {
    format!(
        "{} of {} ({:.1}%)",
        grouped(right as u64),
        grouped(all as u64),
        100.0 * right / all
    )
}

/// The row's choices, else the job's.
fn choices_of<'a>(prompt: &'a Prompt, choose: &'a ChooseSpec) -> &'a [String] {
    match prompt.following.as_slice() {
        [] => &choose.choices,
        own => own,
    }
}

/// The place of the choice that a row calls right.
fn labelled(
    spec: &JobSpec,
    label: &Label,
    form: LabelForm,
    choices: &[String],
) -> Result<usize, String> {
    right_choice(label, form, choices).map_err(|reason| {
        let column = spec.input.columns.label.as_deref();
        format!("label column `{}` {reason}", column.unwrap_or_default())
    })
}

/// The task as a job has it.
struct Choosing<'a> {
    job: TaskJob<'a>,
    choose: ChooseSpec,
}

/// What is read for a row, before the model has read it.
struct ToRead {
    work: Work,
    prompt_tokens: u32,
    truncated: u32,
    /// Tokens asked for, for each different choice.
    lengths: Vec<usize>,
    /// Which of these each choice is.
    which: Vec<usize>,
}

impl JobTask for Choosing<'_> {
    fn work(&self, _: RowId, prompt: &Prompt) -> Result<RowTask, BadRow> {
        let choices = choices_of(prompt, &self.choose);
        if choices.len() < 2 {
            let reason = "the row has one choice, and needs at least two";
            return Err(bad_input(reason.to_owned()));
        }
        let label = self.label(prompt, choices).map_err(bad_input)?;
        let to_read = match self.choose.method {
            ChooseMethod::Target => self.targets(prompt, choices),
            ChooseMethod::NextToken => self.next_token(prompt, choices),
            ChooseMethod::WholeText => self.whole_texts(prompt),
        };
        let picked = Picked::new(choices, label, &self.choose);
        Ok(row_task(to_read.map_err(bad_text)?, picked))
    }
}

impl Choosing<'_> {
    /// Refuses choices of the job that no row could be asked about.
    fn check_choices(&self) -> Result<(), TaskError> {
        let choices = self.choose.choices.as_slice();
        let flaw = |reason: String, cure: &str| TaskError::Key {
            key: "choose.choices",
            reason,
            cure: cure.to_owned(),
        };
        if choices.is_empty() || self.choose.method == ChooseMethod::WholeText {
            return Ok(());
        }
        let encoded = self.encoded(choices);
        let encoded =
            encoded.map_err(|reason| flaw(format!("does not fit: {reason}"), "take it out"))?;
        if self.choose.method == ChooseMethod::NextToken {
            return single_tokens(&encoded).map(drop).map_err(|reason| {
                flaw(
                    format!("does not fit: {reason}"),
                    "write letters, or other texts of one token",
                )
            });
        }
        let longest = encoded.iter().map(Vec::len).max().unwrap_or_default() as u32;
        let cure = if longest > self.job.lengths.max_sequence_length {
            "take the longest out"
        } else {
            "take the longest out, or raise `prompt.max_length`"
        };
        self.limit(longest)
            .map(drop)
            .map_err(|reason| flaw(format!("does not fit: {reason}"), cure))
    }

    /// Most tokens of a context beside a choice of so many.
    fn limit(&self, longest: u32) -> Result<u32, String> {
        let lengths = self.job.lengths;
        if longest > lengths.max_sequence_length {
            return Err(format!(
                "the longest choice has {longest} tokens, and this model has places for {}",
                lengths.max_sequence_length
            ));
        }
        lengths.limit_beside(longest).ok_or_else(|| {
            format!(
                "the longest choice has {longest} tokens, which leave no room for the prompt in `prompt.max_length` ({})",
                lengths.max_length
            )
        })
    }

    fn label(&self, prompt: &Prompt, choices: &[String]) -> Result<Option<usize>, String> {
        let Some(label) = &prompt.label else {
            return Ok(None);
        };
        labelled(self.job.spec, label, self.choose.label, choices).map(Some)
    }

    /// A branch for each different choice.
    fn targets(&self, prompt: &Prompt, choices: &[String]) -> Result<ToRead, String> {
        let TaskJob {
            spec, tokenizer, ..
        } = self.job;
        let (different, which) = distinct(self.encoded(choices)?);
        let longest = different.iter().map(Vec::len).max().unwrap_or_default() as u32;
        let limit = self.limit(longest)?;
        let encoded = tokenizer.encode_prompt(
            &prompt.text,
            prompt.prefix.as_deref(),
            spec.prompt.mask,
            limit,
            spec.prompt.overflow,
        )?;
        let mut branches = Branches::behind(encoded.ids.len());
        for ids in &different {
            branches.push(tokenizer.special().sop, ids);
        }
        Ok(ToRead {
            prompt_tokens: encoded.ids.len() as u32,
            truncated: encoded.truncated,
            lengths: branches.lengths,
            which,
            work: Work::Read(Reading {
                encoded,
                sight: Sight::Whole,
                branches: branches.tokens,
                want: Want::Chances(branches.asked),
            }),
        })
    }

    /// The one token of each choice, after the last token of the prompt.
    fn next_token(&self, prompt: &Prompt, choices: &[String]) -> Result<ToRead, String> {
        let tokens = single_tokens(&self.encoded(choices)?)?;
        let encoded = self.whole(&prompt.text, prompt.prefix.as_deref())?;
        let place = encoded.ids.len() as u32 - 1;
        let (different, which) = distinct(tokens);
        let asked = different.iter().map(|&token| Asked { place, token });
        Ok(ToRead {
            prompt_tokens: encoded.ids.len() as u32,
            truncated: encoded.truncated,
            lengths: vec![1; different.len()],
            which,
            work: Work::Read(Reading {
                sight: Sight::Before,
                branches: Vec::new(),
                want: Want::Chances(asked.collect()),
                encoded,
            }),
        })
    }

    /// Each different text that the template gives, every token of it from all others.
    fn whole_texts(&self, prompt: &Prompt) -> Result<ToRead, String> {
        let texts = prompt.filled.iter();
        let encoded = texts.map(|text| self.whole(text, prompt.prefix.as_deref()));
        let (different, which) = distinct(encoded.collect::<Result<Vec<_>, _>>()?);
        let ending = self.job.tokenizer.special().eos;
        let readings: Vec<Reading> = different
            .into_iter()
            .map(|encoded| Reading {
                sight: Sight::Whole,
                branches: Vec::new(),
                want: Want::Chances(each_token(&encoded.ids, ending)),
                encoded,
            })
            .collect();
        let contexts = readings.iter().map(|reading| &reading.encoded);
        let tokens = contexts.clone().map(|context| context.ids.len() as u32);
        Ok(ToRead {
            prompt_tokens: tokens.max().unwrap_or_default(),
            truncated: contexts
                .map(|context| context.truncated)
                .max()
                .unwrap_or_default(),
            lengths: readings.iter().map(Reading::asked).collect(),
            which,
            work: Work::ReadEach(readings),
        })
    }

    /// A text that is read without changes and with nothing behind it.
    fn whole(&self, text: &str, prefix: Option<&str>) -> Result<Encoded, String> {
        let lengths = self.job.lengths;
        let limit = lengths.limit_beside(0).unwrap_or(lengths.max_length);
        let overflow = self.job.spec.prompt.overflow;
        self.job
            .tokenizer
            .encode_text(text, prefix, limit, overflow)
    }

    /// The tokens of each choice; at least one.
    fn encoded(&self, choices: &[String]) -> Result<Vec<Vec<u32>>, String> {
        let encode = |(number, choice): (usize, &String)| {
            let ids = self.job.tokenizer.try_encode(choice);
            match ids {
                Ok(ids) if ids.is_empty() => Err(format!("choice {number} has no tokens")),
                Ok(ids) => Ok(ids),
                Err(reason) => Err(format!("choice {number} cannot be encoded: {reason}")),
            }
        };
        choices.iter().enumerate().map(encode).collect()
    }
}

/// The one token of each choice.
fn single_tokens(choices: &[Vec<u32>]) -> Result<Vec<u32>, String> {
    let single = |(number, ids): (usize, &Vec<u32>)| match ids.as_slice() {
        &[token] => Ok(token),
        ids => Err(format!(
            "choice {number} has {} tokens, and `choose.method = \"next-token\"` needs choices of one",
            ids.len()
        )),
    };
    choices.iter().enumerate().map(single).collect()
}

fn row_task(to_read: ToRead, picked: Picked) -> RowTask {
    let ToRead {
        work,
        prompt_tokens,
        truncated,
        lengths,
        which,
    } = to_read;
    RowTask {
        has_idle_settings: false,
        work,
        finish: Box::new(move |found| {
            let parts = match &found {
                Found::Chances(chances) => split(chances, &lengths),
                _ => None,
            };
            let parts = parts.ok_or_else(|| unexpected(&found))?;
            let likelihoods = which.iter().map(|&at| Likelihood::of(parts[at]));
            Ok(RowResult::Measured(Measured {
                prompt_tokens,
                truncated,
                row: picked.cells(&likelihoods.collect::<Vec<_>>()),
                samples: vec![Vec::new()],
            }))
        }),
    }
}
