//! What the phases found of a window to the pairs of its rows.
//!
//! Invariant: the pairs of a window follow from the committed windows of the phases and the input alone.

use std::collections::BTreeMap;

use super::counts::{self, Noted, Sifting};
use super::feed::RowEncoder;
use super::phase_results::{PhaseResults, PhaseRows, SampledRow};
use super::prepare::Prepared;
use crate::checkpoint::{Example, Totals};
use crate::error::Result;
use crate::fsio::FsError;
use crate::ids::RowId;
use crate::input::{InputRow, InputWindow, WindowSpan};
use crate::job::{JobSpec, Phase, PreferenceSpec, Rank};
use crate::outcome::{BadRow, Outcome};
use crate::tasks::preference::{Contender, NoPair, row_result, row_without};
use crate::tokenize::GlmTokenizer;

/// Makes the pairs of a job, window by window.
pub(super) struct PairMaker<'a> {
    prepared: &'a Prepared,
    preference: &'a PreferenceSpec,
    tokenizer: &'a GlmTokenizer,
    /// Puts examples before the prompts, as the samples have them.
    encoder: Option<RowEncoder<'a>>,
    samples: PhaseResults,
    /// Where a reward model ranks.
    rewards: Option<PhaseResults>,
}

/// A window with its pairs.
pub(super) struct PairedWindow {
    pub(super) window: InputWindow,
    pub(super) outcomes: BTreeMap<RowId, Outcome>,
    pub(super) totals: Totals,
    pub(super) examples: Vec<Example>,
}

impl<'a> PairMaker<'a> {
    /// Looks at what the phases have committed; `None` where nothing is left to do, so that no model was looked at.
    /// `sampled` is the job of the samples.
    pub(super) fn new(prepared: &'a Prepared, sampled: &'a JobSpec) -> Result<Option<Self>> {
        let spec = &prepared.record.spec;
        let (Some(model), Some(preference)) = (&prepared.model, &spec.preference) else {
            return Ok(None);
        };
        let open = |phase| PhaseResults::open(phase, &prepared.folder.phase(phase));
        Ok(Some(Self {
            prepared,
            preference,
            tokenizer: &model.tokenizer,
            encoder: prepared
                .examples
                .as_deref()
                .map(|examples| {
                    RowEncoder::new(sampled, model, prepared.record.rules, Some(examples))
                })
                .transpose()?,
            samples: open(Phase::Samples)?,
            rewards: (preference.rank == Rank::Reward)
                .then(|| open(Phase::Rewards))
                .transpose()?,
        }))
    }

    /// Reads a window and makes its pairs.
    pub(super) fn window(&self, span: &WindowSpan) -> Result<PairedWindow> {
        let spec = &self.prepared.record.spec;
        let may_show = |position| counts::may_show(position, span.rows as usize);
        let mut window = self.prepared.source.read_rows(span, &|position, row| {
            if !spec.output.prompt && !may_show(position) {
                row.release();
            } else if let Some(encoder) = &self.encoder {
                // A row that fails here keeps its prompt as it is; the results of its samples say why it failed.
                let _ = encoder.encode(row, &mut Noted::default());
            }
        })?;
        let sifted = window.sift()?;
        let sifting = Sifting {
            left_out: sifted.left_out,
            may_show: sifted.of((0..span.rows as usize).map(may_show).collect()),
            ..Sifting::default()
        };
        let samples = self.samples.samples(span.id)?;
        let rewards = match &self.rewards {
            Some(rewards) => rewards.rewards(span.id)?,
            None => PhaseRows::new(),
        };
        let mut outcomes = BTreeMap::new();
        for row in &window.rows {
            let outcome = match &row.outcome {
                Err(bad) => Outcome::Failed(bad.clone()),
                Ok(_) => self.outcome(row, &samples, &rewards)?,
            };
            outcomes.insert(row.row, outcome);
        }
        let (mut totals, examples) =
            counts::of_window(spec, self.tokenizer, &window, &outcomes, &sifting)
                .map_err(|cause| FsError::new("read", self.prepared.folder.root(), cause))?;
        self.take_over(&mut totals, span)?;
        Ok(PairedWindow {
            window,
            outcomes,
            totals,
            examples,
        })
    }

    /// Takes over what only the samples tell.
    fn take_over(&self, totals: &mut Totals, span: &WindowSpan) -> Result<()> {
        let sampled = &self.samples.window(span.id)?.totals;
        *totals = Totals {
            truncated: sampled.truncated,
            several_masks: sampled.several_masks,
            shots_dropped: sampled.shots_dropped,
            passed_over: sampled.passed_over,
            prompt_tokens: sampled.prompt_tokens,
            completion_tokens: sampled.completion_tokens,
            referenced: sampled.referenced,
            exact: sampled.exact,
            ..std::mem::take(totals)
        };
        totals.sums += &sampled.sums;
        // The rows of a group are counted once; what is said of their answers comes from the samples.
        for (group, sampled) in &sampled.groups {
            if let Some(paired) = totals.groups.get_mut(group) {
                paired.referenced = sampled.referenced;
                paired.exact = sampled.exact;
                paired.sums += &sampled.sums;
            }
        }
        Ok(())
    }

    fn outcome(
        &self,
        row: &InputRow,
        samples: &PhaseRows<SampledRow>,
        rewards: &PhaseRows<Vec<Option<f32>>>,
    ) -> Result<Outcome> {
        let sampled = match samples.get(&row.row) {
            Some(Ok(sampled)) => sampled,
            Some(Err(bad)) => return Ok(Outcome::Failed(bad.clone())),
            None => return Err(self.samples.lacks(row.row).into()),
        };
        let texts = sampled.answers.iter();
        let fit = texts.filter(|answer| !answer.text.trim().is_empty());
        let has_two = fit.count() > 1;
        let scores = match self.scores(row, sampled, rewards)? {
            Ok(scores) => scores,
            // Without two answers there was nothing to judge.
            Err(Unscored::Failed(bad)) if has_two => return Ok(Outcome::Failed(bad)),
            Err(Unscored::Failed(_)) => vec![None; sampled.answers.len()],
            Err(Unscored::Without(reason)) => {
                return Ok(Outcome::Ok(row_without(sampled.prompt_tokens, reason)));
            }
        };
        let answers = sampled.answers.iter().zip(scores);
        let contenders: Vec<Contender> = answers
            .map(|(answer, score)| Contender {
                text: answer.text.clone(),
                score,
            })
            .collect();
        Ok(Outcome::Ok(row_result(
            sampled.prompt_tokens,
            &contenders,
            self.preference,
        )))
    }

    /// What ranks the samples of a row.
    fn scores(
        &self,
        row: &InputRow,
        sampled: &SampledRow,
        rewards: &PhaseRows<Vec<Option<f32>>>,
    ) -> Result<std::result::Result<Vec<Option<f32>>, Unscored>> {
        let answers = sampled.answers.iter();
        Ok(match self.preference.rank {
            Rank::Logprob => Ok(answers
                .map(|answer| {
                    let mean = f64::from(answer.logprob?) / f64::from(answer.tokens.max(1));
                    Some(mean as f32)
                })
                .collect()),
            Rank::Reference => match &row.reference {
                None => Err(Unscored::Without(NoPair::NoReference)),
                Some(reference) => {
                    let written = |text| counts::as_the_model_writes(self.tokenizer, text);
                    let right: Vec<String> = reference.texts().map(written).collect();
                    let is_right = |answer: &str| right.iter().any(|right| right == answer);
                    Ok(answers
                        .map(|answer| Some(f32::from(u8::from(is_right(answer.text.trim())))))
                        .collect())
                }
            },
            Rank::Reward => {
                let Some(phase) = &self.rewards else {
                    return Ok(Ok(vec![None; sampled.answers.len()]));
                };
                match rewards.get(&row.row) {
                    Some(Ok(rewards)) if rewards.len() == sampled.answers.len() => {
                        Ok(rewards.clone())
                    }
                    Some(Err(bad)) => Err(Unscored::Failed(bad.clone())),
                    // Fewer or more are those of other samples.
                    Some(Ok(_)) | None => return Err(phase.lacks(row.row).into()),
                }
            }
        })
    }
}

/// Why the samples of a row have no scores.
enum Unscored {
    /// The row failed when they were judged.
    Failed(BadRow),
    /// The row has nothing that they could be compared with.
    Without(NoPair),
}
