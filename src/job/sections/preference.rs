//! `[preference]`: how the task `preference` ranks the answers of a row, and which pairs it makes of them.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Section;
use crate::job::flaw::{Checked, Flaw};

/// How answers are ranked, and which pairs are made of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PreferenceSpec {
    /// What ranks the answers of a row.
    pub rank: Rank,
    /// Which pairs are made of them.
    pub pairs: Pairs,
    /// A pair needs a difference of the scores above this.
    #[schemars(range(min = 0))]
    pub margin: f64,
}

/// What ranks the answers of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Rank {
    /// The value that the reward model gives.
    #[default]
    Reward,
    /// The mean log-probability of the answer's tokens.
    Logprob,
    /// 1 where the answer is the reference, else 0.
    Reference,
}

impl Rank {
    /// Its name in a job file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reward => "reward",
            Self::Logprob => "logprob",
            Self::Reference => "reference",
        }
    }
}

/// Which pairs are made of the answers of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Pairs {
    /// One: the best answer and the worst.
    #[default]
    BestWorst,
    /// Each answer and the next one in rank, where its score is larger.
    Adjacent,
    /// Each answer and every one with a smaller score.
    All,
}

impl Section for PreferenceSpec {
    const NAME: &'static str = "preference";

    fn check(&mut self, _: &Path) -> Checked<()> {
        // Written so that NaN fails too.
        if self.margin >= 0.0 && self.margin.is_finite() {
            return Ok(());
        }
        let flaw = Flaw::new(
            "margin",
            format!("must be 0 or more, and is {}", self.margin),
        );
        Err(flaw.hint("`margin = 0.0` takes every pair whose scores differ"))
    }
}
