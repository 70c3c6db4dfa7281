//! `task = "reward"`: the values that a reward model gives to answers, one forward pass a row.
//!
//! ```text
//! [CLS] prompt [SEP] prefix [MASK] <|endoftext|>  sop a1 a2 ... an eop     the value at eop
//!                                                 sop b1 ... bm eop        a branch an answer
//! ```
//!
//! Invariant: equal answers of a row are read once, so their values have equal bits.
//!
//! # Source
//!
//! `PairwiseDataset` and `RewardModel` of sunzeyeah/RLHF. The published `RewardModel.forward` takes the value at the first
//! padding token; that id is also the context's ending token, so it reads the mask, and finds one value for all answers. We
//! read at the ending token of the answer, which its loss is about. The data set cuts a long answer; here its row fails.

use crate::engine::{Found, Reading, Want, Work};
use crate::ids::RowId;
use crate::input::{Prompt, Reference};
use crate::job::JobSpec;
use crate::model::Sight;
use crate::numbers::{counted, grouped};
use crate::outcome::{BadRow, Cell, Measured, RowResult, Sums};
use crate::sink::{Column, Kind};
use crate::tokenize::Encoded;

use super::chances::distinct;
use super::few_shot::with_answers;
use super::{Fact, JobTask, RowTask, TaskError, TaskJob, TaskKind, bad_text, unexpected};

/// The task.
pub(crate) static TASK: Reward = Reward;

/// `task = "reward"`.
#[derive(Debug)]
pub(crate) struct Reward;

/// Place of the value.
const REWARD: usize = 0;

static COLUMNS: &[Column] = &[
    Column::of_sample("reward", REWARD, Kind::Float32),
    Column::PROMPT_TOKENS,
];

impl TaskKind for Reward {
    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn needs_value_head(&self) -> bool {
        true
    }

    fn open<'a>(&self, job: &TaskJob<'a>) -> Result<Box<dyn JobTask + 'a>, TaskError> {
        Ok(Box::new(Rewarding { job: *job }))
    }

    /// The prompt with its first answer, which is the best one in the files of trainers.
    fn solved(
        &self,
        _: &JobSpec,
        prompt: &Prompt,
        _: Option<&Reference>,
    ) -> Result<String, String> {
        let answer = prompt
            .following
            .first()
            .ok_or("the example has no answer")?;
        with_answers(prompt, &[answer])
    }

    fn count(&self, result: &RowResult, sums: &mut Sums) {
        let RowResult::Measured(measured) = result else {
            return;
        };
        let cells = measured.samples.iter().map(|cells| cells.get(REWARD));
        let values = cells.filter_map(|cell| match cell {
            Some(Cell::Float(value)) => Some(f64::from(*value)),
            _ => None,
        });
        let values: Vec<f64> = values.collect();
        let (Some(worst), Some(best)) = (
            values.iter().copied().reduce(f64::min),
            values.iter().copied().reduce(f64::max),
        ) else {
            return;
        };
        sums.add("rows", 1.0);
        for value in &values {
            sums.add("answers", 1.0);
            sums.add("reward", *value);
        }
        sums.lowest("reward", worst);
        sums.highest("reward", best);
        if values.len() > 1 {
            sums.add("compared", 1.0);
            sums.add("margin", best - worst);
        }
    }

    fn summary(&self, sums: &Sums) -> Vec<Fact> {
        let (answers, rows) = (sums.get("answers"), sums.get("rows"));
        let (Some(worst), Some(best)) = (sums.get_lowest("reward"), sums.get_highest("reward"))
        else {
            return Vec::new();
        };
        let mean = sums.get("reward") / answers;
        let mut facts = vec![Fact {
            name: "rewards".to_owned(),
            text: format!(
                "{} of {}: mean {mean:.4}, lowest {worst:.4}, highest {best:.4}",
                counted(answers as u64, "answer"),
                counted(rows as u64, "row"),
            ),
        }];
        let compared = sums.get("compared");
        if compared > 0.0 {
            facts.push(Fact {
                name: "margin".to_owned(),
                text: format!(
                    "{:.4} on average from the worst to the best answer (rows with several: {})",
                    sums.get("margin") / compared,
                    grouped(compared as u64),
                ),
            });
        }
        facts
    }
}

/// The task as a job has it.
struct Rewarding<'a> {
    job: TaskJob<'a>,
}

impl JobTask for Rewarding<'_> {
    fn work(&self, _: RowId, prompt: &Prompt) -> Result<RowTask, BadRow> {
        self.answers(prompt).map_err(bad_text)
    }
}

impl Rewarding<'_> {
    fn answers(&self, prompt: &Prompt) -> Result<RowTask, String> {
        let answers = prompt.following.iter().enumerate();
        let named = |number: usize, reason: String| match prompt.following.len() {
            1 => format!("the answer {reason}"),
            _ => format!("answer {number} {reason}"),
        };
        // Where samples are ranked, one that cannot be judged is left out, and the others count.
        let leaves_out = self.job.spec.preference.is_some();
        let mut fit = Vec::with_capacity(prompt.following.len());
        let mut places = Vec::with_capacity(prompt.following.len());
        for (number, answer) in answers {
            match self.branch(answer) {
                Ok(branch) => {
                    places.push(Some(fit.len()));
                    fit.push(branch);
                }
                Err(_) if leaves_out => places.push(None),
                Err(reason) => return Err(named(number, reason)),
            }
        }
        let (branches, which) = distinct(fit);
        let which = places.iter().map(|place| place.map(|at| which[at]));
        let which: Vec<Option<usize>> = which.collect();
        // The start token is in none of the limits.
        let longest = branches.iter().map(|branch| branch.len() as u32 - 1).max();
        let longest = longest.ok_or("the row has no answer that can be judged")?;
        Ok(row_task(self.context(prompt, longest)?, branches, which))
    }

    /// An answer between its start and its ending token.
    fn branch(&self, answer: &str) -> Result<Vec<u32>, String> {
        let TaskJob {
            tokenizer, lengths, ..
        } = self.job;
        let ids = tokenizer
            .try_encode(answer)
            .map_err(|reason| format!("cannot be encoded: {reason}"))?;
        if ids.is_empty() {
            return Err("has no tokens".to_owned());
        }
        let special = tokenizer.special();
        let mut branch = Vec::with_capacity(ids.len() + 2);
        branch.push(special.sop);
        branch.extend_from_slice(&ids);
        branch.push(special.eop);
        // The ending token is read too, so it needs a place of its own.
        let places = lengths.max_sequence_length as usize;
        if branch.len() > places {
            return Err(format!(
                "has {} tokens, the ending token included, and this model has places for {}",
                branch.len() - 1,
                places.saturating_sub(1)
            ));
        }
        Ok(branch)
    }

    /// The context beside answers of at most so many tokens.
    fn context(&self, prompt: &Prompt, longest: u32) -> Result<Encoded, String> {
        let TaskJob {
            spec,
            tokenizer,
            lengths,
            ..
        } = self.job;
        let has = format!("the longest answer has {longest} tokens, the ending token included,");
        let max_length = lengths.max_length;
        let kept = if spec.prompt.reserve { longest } else { 1 };
        let limit = lengths.limit_beside(kept).ok_or_else(|| {
            format!(
                "{has} which leave no room for the prompt in `prompt.max_length` ({max_length})"
            )
        })?;
        let encoded = tokenizer.encode_prompt(
            &prompt.text,
            prompt.prefix.as_deref(),
            spec.prompt.mask,
            limit,
            spec.prompt.overflow,
        )?;
        let left = max_length.saturating_sub(encoded.ids.len() as u32);
        if left < longest {
            return Err(format!(
                "{has} and the prompt leaves {left} of `prompt.max_length` ({max_length}); with \
                 `prompt.reserve = true` the prompt is cut"
            ));
        }
        Ok(encoded)
    }
}

/// `which` says for each answer which branch it is; none where it is not judged.
fn row_task(encoded: Encoded, branches: Vec<Vec<u32>>, which: Vec<Option<usize>>) -> RowTask {
    let (prompt_tokens, truncated) = (encoded.ids.len() as u32, encoded.truncated);
    let read = branches.len();
    RowTask {
        has_idle_settings: false,
        work: Work::Read(Reading {
            encoded,
            sight: Sight::Whole,
            branches,
            want: Want::Values,
        }),
        finish: Box::new(move |found| {
            let values = match &found {
                Found::Values(values) if values.len() == read => values,
                _ => return Err(unexpected(&found)),
            };
            let value = |at: usize| Cell::Float(values[at]);
            let samples = which.iter().map(|at| vec![at.map_or(Cell::Null, value)]);
            Ok(RowResult::Measured(Measured {
                prompt_tokens,
                truncated,
                row: Vec::new(),
                samples: samples.collect(),
            }))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(rewards: &[f32]) -> RowResult {
        RowResult::Measured(Measured {
            prompt_tokens: 9,
            truncated: 0,
            row: Vec::new(),
            samples: rewards
                .iter()
                .map(|&value| vec![Cell::Float(value)])
                .collect(),
        })
    }

    #[test]
    fn the_summary_is_that_of_all_shards() {
        let rows: [&[f32]; 4] = [&[-1.0, 3.0], &[-0.5], &[-2.0, -2.5, -4.0], &[-3.0]];
        let mut all = Sums::default();
        for shard in rows.chunks(2) {
            let mut sums = Sums::default();
            for row in shard {
                TASK.count(&measured(row), &mut sums);
            }
            all += &sums;
        }
        let texts: Vec<String> = TASK
            .summary(&all)
            .into_iter()
            .map(|fact| fact.text)
            .collect();
        assert_eq!(
            texts,
            [
                "7 answers of 4 rows: mean -1.4286, lowest -4.0000, highest 3.0000",
                "3.0000 on average from the worst to the best answer (rows with several: 2)",
            ]
        );
        let mut single = Sums::default();
        TASK.count(&measured(&[-3.5]), &mut single);
        let facts = TASK.summary(&single);
        assert_eq!(facts.len(), 1);
        assert!(facts[0].text.contains("lowest -3.5000, highest -3.5000"));
        assert_eq!(TASK.summary(&Sums::default()), []);
    }

    #[test]
    fn equal_answers_are_one_branch() {
        let (different, which) = distinct(vec![vec![1, 2], vec![3], vec![1, 2], vec![3], vec![4]]);
        assert_eq!(different, [vec![1, 2], vec![3], vec![4]]);
        assert_eq!(which, [0, 1, 0, 1, 2]);
    }
}
