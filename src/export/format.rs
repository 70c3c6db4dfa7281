//! The formats: their names, and which task can give them.

use crate::job::{ChooseMethod, ColumnNames, JobSpec, ScoreMethod};

/// Form of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// The result rows as JSON lines.
    Jsonl,
    /// The result rows as Parquet.
    Parquet,
    /// The result rows, separated by commas.
    Csv,
    /// The result rows, separated by tabs.
    Tsv,
    /// What the reference's trainers read: a prompt with its answers by falling score.
    Rlhf,
    /// A prompt and what follows it.
    TrlPromptCompletion,
    /// A prompt, a better and a worse answer.
    TrlPreference,
    /// A prompt, an answer, and whether it is a good one.
    TrlUnpaired,
    /// `instruction`, `input`, `output`.
    Alpaca,
    /// `conversations` of `from` and `value`.
    Sharegpt,
    /// `messages` of `role` and `content`.
    Messages,
    /// The output lines of the batch API.
    OpenaiBatch,
}

impl Format {
    /// All of them.
    pub(crate) const ALL: &'static [Self] = &[
        Self::Jsonl,
        Self::Parquet,
        Self::Csv,
        Self::Tsv,
        Self::Rlhf,
        Self::TrlPromptCompletion,
        Self::TrlPreference,
        Self::TrlUnpaired,
        Self::Alpaca,
        Self::Sharegpt,
        Self::Messages,
        Self::OpenaiBatch,
    ];

    /// Its name on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Parquet => "parquet",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Rlhf => "rlhf",
            Self::TrlPromptCompletion => "trl-prompt-completion",
            Self::TrlPreference => "trl-preference",
            Self::TrlUnpaired => "trl-unpaired",
            Self::Alpaca => "alpaca",
            Self::Sharegpt => "sharegpt",
            Self::Messages => "messages",
            Self::OpenaiBatch => "openai-batch",
        }
    }

    /// Whether its lines are the result rows themselves.
    pub(super) const fn is_rows(self) -> bool {
        matches!(self, Self::Jsonl | Self::Parquet | Self::Csv | Self::Tsv)
    }

    /// Whether it is one of TRL's.
    pub(super) const fn is_trl(self) -> bool {
        matches!(
            self,
            Self::TrlPromptCompletion | Self::TrlPreference | Self::TrlUnpaired
        )
    }

    /// Whether its lines hold one text for prompt and prefix, which a template may make.
    pub(super) const fn has_prompt_text(self) -> bool {
        self.is_trl() || matches!(self, Self::Alpaca | Self::Sharegpt | Self::Messages)
    }
}

/// What the results of a job hold, as far as formats differ by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Generate,
    Infill,
    Choose,
    Reward,
    /// Likelihoods of texts.
    Score,
    /// Likelihoods of two columns, which are a pair.
    ScoredPair,
    Preference,
}

impl Source {
    /// The source that a job's task is; `None` for a task that has only its rows to give.
    pub(super) fn of(spec: &JobSpec) -> Option<Self> {
        let is_pair =
            |names: &ColumnNames| matches!(names, ColumnNames::Several(names) if names.len() == 2);
        let reads_whole_texts = (spec.choose.as_ref())
            .is_some_and(|choose| choose.method == ChooseMethod::WholeText)
            || (spec.score.as_ref()).is_some_and(|score| score.method == ScoreMethod::WholeText);
        // The text that was judged is no prompt with an answer behind it.
        if reads_whole_texts {
            return None;
        }
        Some(match spec.task.name() {
            "generate" => Self::Generate,
            "infill" => Self::Infill,
            "choose" => Self::Choose,
            // The rewards of a `preference` job are judged from its samples, and no input has their texts.
            "reward" if spec.input.columns.answer.is_some() => Self::Reward,
            "score" if spec.input.columns.target.as_ref().is_some_and(is_pair) => Self::ScoredPair,
            "score" => Self::Score,
            "preference" => Self::Preference,
            _ => return None,
        })
    }

    /// Whether it can give a format.
    pub(super) fn gives(self, format: Format) -> bool {
        match format {
            Format::Jsonl | Format::Parquet | Format::Csv | Format::Tsv => true,
            Format::Rlhf => matches!(self, Self::Generate | Self::Reward | Self::Preference),
            Format::TrlPromptCompletion => !matches!(self, Self::Infill | Self::Reward),
            Format::TrlPreference => matches!(self, Self::Preference | Self::ScoredPair),
            Format::TrlUnpaired => !matches!(self, Self::Infill | Self::Reward),
            Format::Alpaca | Format::Sharegpt | Format::Messages | Format::OpenaiBatch => {
                self == Self::Generate
            }
        }
    }

    /// Whether its answers lie in the input alone, and not in the results.
    pub(super) fn reads_texts(self) -> bool {
        matches!(self, Self::Reward | Self::Score | Self::ScoredPair)
    }
}
