//! `task = "score"`: the log-likelihood of given texts, one forward pass a row.
//!
//! ```text
//! target      [CLS] prompt [SEP] prefix [MASK] <|endoftext|>  sop t1 t2 ... tn          asks for t1 ... tn, eop
//!                                                             sop u1 ... um             a branch a target
//! whole-text  [CLS] prompt <|endoftext|>                      asks for every token of the text
//! ```
//!
//! # Source
//!
//! `build_inputs_for_generation` of the reference's tokenizer: a target is cut to its first n - 1 ids, and the ending
//! token follows always. We fail such a row instead, unless `score.target_overflow = "cut"`. Whole texts are read as
//! `eval_pretrain.py` reads them; it takes the softmax twice, we take it once.

use crate::engine::{Found, Reading, Want, Work};
use crate::ids::RowId;
use crate::input::{Prompt, Reference};
use crate::job::{ColumnNames, JobSpec, SampleLayout, ScoreMethod, ScoreSpec, TargetOverflow};
use crate::model::{Sight, TokenChance};
use crate::numbers::{counted, grouped};
use crate::outcome::{BadRow, Cell, Measured, RowResult, Sums};
use crate::sink::{Column, Form, Kind, When};
use crate::tokenize::Encoded;

use super::chances::{Branches, Likelihood, each_token, split};
use super::few_shot::with_answers;
use super::{Fact, JobTask, RowTask, TaskError, TaskJob, TaskKind, bad_text, unexpected};

/// The task.
pub(crate) static TASK: Score = Score;

/// `task = "score"`.
#[derive(Debug)]
pub(crate) struct Score;

/// Places of the values that the sums need.
const LOGPROB: usize = 0;
const IS_GREEDY: usize = 3;
const TARGET_TOKENS: usize = 4;

static COLUMNS: &[Column] = &[
    Column::of_sample("logprob", LOGPROB, Kind::Float32),
    Column::of_sample("mean_logprob", 1, Kind::Float32),
    Column::of_sample("perplexity", 2, Kind::Float32),
    Column::of_sample("is_greedy", IS_GREEDY, Kind::Bool),
    Column::PROMPT_TOKENS,
    Column::of_sample("target_tokens", TARGET_TOKENS, Kind::Int32),
    Column::of_sample("token_logprobs", 5, Kind::Float32List).only(When::asked(
        "with `score.token_logprobs`",
        has_token_logprobs,
    )),
];

fn has_token_logprobs(form: &Form<'_>) -> bool {
    let score = form.spec.score.as_ref();
    score.is_some_and(|score| score.token_logprobs)
}

impl TaskKind for Score {
    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    /// Targets of several columns are lists in the order of the columns: a line each would lose which is which.
    fn is_nested(&self, spec: &JobSpec) -> bool {
        let has_several = matches!(spec.input.columns.target, Some(ColumnNames::Several(_)));
        has_several || spec.output.samples == SampleLayout::Nested
    }

    fn open<'a>(&self, job: &TaskJob<'a>) -> Result<Box<dyn JobTask + 'a>, TaskError> {
        let score = job.spec.score.clone().unwrap_or_default();
        let max_length = job.lengths.max_length;
        let most = score.max_target_tokens.unwrap_or(max_length / 2).max(1);
        let most_target = most.min(job.lengths.max_sequence_length);
        let kept = if job.spec.prompt.reserve {
            most_target
        } else {
            1
        };
        let context_limit = match score.method {
            ScoreMethod::Target => job.lengths.limit_beside(kept),
            ScoreMethod::WholeText => job.lengths.limit_beside(0),
        };
        let context_limit = context_limit.ok_or_else(|| TaskError::Key {
            key: "score.max_target_tokens",
            reason: format!(
                "is {most} and leaves no room for the prompt in `prompt.max_length` ({max_length})"
            ),
            cure: "lower it, or raise `prompt.max_length`".to_owned(),
        })?;
        Ok(Box::new(Scoring {
            job: *job,
            score,
            most_target,
            context_limit,
        }))
    }

    /// The prompt with its first target, or the text that is scored.
    fn solved(
        &self,
        _: &JobSpec,
        prompt: &Prompt,
        _: Option<&Reference>,
    ) -> Result<String, String> {
        match prompt.following.first() {
            Some(target) => with_answers(prompt, &[target]),
            None => Ok(prompt.text.clone()),
        }
    }

    fn count(&self, result: &RowResult, sums: &mut Sums) {
        let RowResult::Measured(measured) = result else {
            return;
        };
        for cells in &measured.samples {
            if let (Some(Cell::Float(logprob)), Some(Cell::Int(tokens))) =
                (cells.get(LOGPROB), cells.get(TARGET_TOKENS))
            {
                sums.add("targets", 1.0);
                sums.add("logprob", f64::from(*logprob));
                sums.add("target_tokens", f64::from(*tokens));
                let is_greedy = cells.get(IS_GREEDY) == Some(&Cell::Bool(true));
                sums.add("greedy", f64::from(u8::from(is_greedy)));
            }
        }
    }

    fn summary(&self, sums: &Sums) -> Vec<Fact> {
        let (targets, tokens) = (sums.get("targets"), sums.get("target_tokens"));
        if tokens < 1.0 {
            return Vec::new();
        }
        let mean = sums.get("logprob") / tokens;
        let greedy = sums.get("greedy");
        vec![
            Fact {
                name: "scored".to_owned(),
                text: format!(
                    "{} of {}, {} of them what greedy decoding gives",
                    counted(targets as u64, "text"),
                    counted(tokens as u64, "token"),
                    grouped(greedy as u64),
                ),
            },
            Fact {
                name: "likelihood".to_owned(),
                text: format!(
                    "mean log-probability {mean:.4} a token, perplexity {:.4}",
                    (-mean).exp()
                ),
            },
        ]
    }
}

/// The task as a job has it.
struct Scoring<'a> {
    job: TaskJob<'a>,
    score: ScoreSpec,
    /// Most tokens of a target, the ending token included.
    most_target: u32,
    context_limit: u32,
}

impl JobTask for Scoring<'_> {
    fn work(&self, _: RowId, prompt: &Prompt) -> Result<RowTask, BadRow> {
        match self.score.method {
            ScoreMethod::Target => self.targets(prompt),
            ScoreMethod::WholeText => self.whole_text(prompt),
        }
        .map_err(bad_text)
    }
}

impl Scoring<'_> {
    fn targets(&self, prompt: &Prompt) -> Result<RowTask, String> {
        let TaskJob {
            spec,
            tokenizer,
            lengths,
            ..
        } = self.job;
        let encoded = tokenizer.encode_prompt(
            &prompt.text,
            prompt.prefix.as_deref(),
            spec.prompt.mask,
            self.context_limit,
            spec.prompt.overflow,
        )?;
        let left = lengths.max_length.saturating_sub(encoded.ids.len() as u32);
        let room = if spec.prompt.reserve {
            self.most_target
        } else {
            self.most_target.min(left)
        };
        let mut branches = Branches::behind(encoded.ids.len());
        for (number, target) in prompt.following.iter().enumerate() {
            let ids =
                self.target_ids(target, room)
                    .map_err(|reason| match prompt.following.len() {
                        1 => format!("the target {reason}"),
                        _ => format!("target {number} {reason}"),
                    })?;
            branches.push(tokenizer.special().sop, &ids);
        }
        if branches.tokens.is_empty() {
            return Err("the row has no target".to_owned());
        }
        Ok(self.row_task(encoded, Sight::Whole, branches))
    }

    /// The tokens of a target that are scored; at least one.
    fn target_ids(&self, target: &str, room: u32) -> Result<Vec<u32>, String> {
        let tokenizer = self.job.tokenizer;
        let mut ids = tokenizer
            .try_encode(target)
            .map_err(|reason| format!("cannot be encoded: {reason}"))?;
        if ids.is_empty() {
            return Err("has no tokens".to_owned());
        }
        // The ending token has its room also where it does not count, so that the other tokens are the same.
        let (tokens, kept) = (ids.len() + 1, (room as usize).saturating_sub(1));
        if ids.len() > kept {
            if self.score.target_overflow == TargetOverflow::Fail {
                return Err(format!(
                    "has {tokens} tokens, the ending token included, over the limit of {room}; \
                     `score.target_overflow = \"cut\"` cuts it, and `score.max_target_tokens` is the limit"
                ));
            }
            ids.truncate(kept);
        }
        if self.score.ending {
            ids.push(tokenizer.special().eop);
        }
        if ids.is_empty() {
            return Err(format!(
                "has no room: the limit is {room}, which the ending token takes"
            ));
        }
        Ok(ids)
    }

    fn whole_text(&self, prompt: &Prompt) -> Result<RowTask, String> {
        let tokenizer = self.job.tokenizer;
        let encoded = tokenizer.encode_text(
            &prompt.text,
            prompt.prefix.as_deref(),
            self.context_limit,
            self.job.spec.prompt.overflow,
        )?;
        let asked = each_token(&encoded.ids, tokenizer.special().eos);
        let mut branches = Branches::behind(encoded.ids.len());
        branches.lengths.push(asked.len());
        branches.asked = asked;
        Ok(self.row_task(encoded, Sight::Whole, branches))
    }

    fn row_task(&self, encoded: Encoded, sight: Sight, branches: Branches) -> RowTask {
        let (prompt_tokens, truncated) = (encoded.ids.len() as u32, encoded.truncated);
        let Branches {
            tokens,
            asked,
            lengths,
            ..
        } = branches;
        let keeps_tokens = self.score.token_logprobs;
        RowTask {
            has_idle_settings: false,
            work: Work::Read(Reading {
                encoded,
                sight,
                branches: tokens,
                want: Want::Chances(asked),
            }),
            finish: Box::new(move |found| {
                let parts = match &found {
                    Found::Chances(chances) => split(chances, &lengths),
                    _ => None,
                };
                let parts = parts.ok_or_else(|| unexpected(&found))?;
                let samples = parts.into_iter().map(|part| cells(part, keeps_tokens));
                Ok(RowResult::Measured(Measured {
                    prompt_tokens,
                    truncated,
                    row: Vec::new(),
                    samples: samples.collect(),
                }))
            }),
        }
    }
}

/// The values of one target, in the order of their places.
fn cells(chances: &[TokenChance], keeps_tokens: bool) -> Vec<Cell> {
    let all = Likelihood::of(chances);
    let mut cells = vec![
        Cell::Float(all.logprob as f32),
        Cell::Float(all.mean() as f32),
        Cell::Float(all.perplexity() as f32),
        Cell::Bool(all.is_greedy),
        Cell::Int(i32::try_from(all.tokens).unwrap_or(i32::MAX)),
    ];
    if keeps_tokens {
        let each = chances.iter().map(|chance| Cell::Float(chance.logprob));
        cells.push(Cell::List(each.collect()));
    }
    cells
}
