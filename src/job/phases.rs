//! A job of the task `preference` to the jobs of its phases, whose results the pairs are made of.
//!
//! ```text
//! JobSpec of `preference` -> Samples: a job of `generate`, n answers a row
//!                            Rewards: a job of `reward` over these answers, where a reward model ranks them
//! ```
//!
//! Invariant: every key that decides the windows and shards is the same in all of them.

use super::sections::input::OnBadRow;
use super::sections::model::ModelSpec;
use super::sections::output::{CarriedColumns, OutputSpec, SampleLayout};
use super::sections::preference::Rank;
use super::spec::JobSpec;
use super::tasks::Task;

/// The folder, in that of the results, that holds the folders of the phases.
pub(crate) const PHASES_FOLDER: &str = "phases";

/// A phase whose results the pairs are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The answers.
    Samples,
    /// What the reward model says of them.
    Rewards,
}

impl Phase {
    /// All of them, in their order.
    pub const ALL: [Self; 2] = [Self::Samples, Self::Rewards];

    /// Its name, and that of its folder.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Samples => "samples",
            Self::Rewards => "rewards",
        }
    }
}

impl JobSpec {
    /// The phases of the job, in their order; none where the task has none.
    pub fn phases(&self) -> Vec<Phase> {
        let has_reward = self.reward.is_some();
        match self.task {
            Task::Preference if has_reward => vec![Phase::Samples, Phase::Rewards],
            Task::Preference => vec![Phase::Samples],
            _ => Vec::new(),
        }
    }

    /// The job of a phase. That of the rewards keeps the key `preference`, which tells it from a job of its own.
    pub(crate) fn of_phase(&self, phase: Phase) -> Self {
        let path = self.output.path.join(PHASES_FOLDER).join(phase.name());
        let mut spec = self.clone();
        spec.name = format!("{}: {}", self.name, phase.name());
        spec.reward = None;
        spec.output = OutputSpec {
            path,
            // A line a sample, and nothing but what the next phase needs.
            samples: SampleLayout::Flat,
            columns: CarriedColumns::None,
            rename: Vec::new(),
            prompt: false,
            ..self.output.clone()
        };
        match phase {
            Phase::Samples => {
                spec.task = Task::Generate;
                let ranks = self.preference.as_ref().map(|preference| preference.rank);
                spec.preference = None;
                spec.generation.logprobs |= ranks == Some(Rank::Logprob);
            }
            Phase::Rewards => {
                spec.task = Task::Reward;
                spec.model = self.judge();
                // A row without answers to judge is none that the user could mend.
                spec.input.on_bad_row = OnBadRow::Record;
                spec.output.max_failed = None;
                // The answers are as long as they are: the prompt gives way.
                spec.prompt.reserve = true;
            }
        }
        spec
    }

    /// The reward model, on the device and in the precision of the other one.
    fn judge(&self) -> ModelSpec {
        let mut model = self.model.clone();
        if let Some(reward) = &self.reward {
            model.path.clone_from(&reward.model);
            model.overlay.clone_from(&reward.overlay);
        }
        model
    }
}
