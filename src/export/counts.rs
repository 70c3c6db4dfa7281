//! What was left out, by reason.

use std::collections::BTreeMap;

use crate::report::grouped;

/// Why something is not in the file; the order is that in which reasons are told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// A line for which `--where` is not true.
    Where,
    /// A row without a result.
    Failed,
    /// A row that has no pair, for this reason.
    NoPair(String),
    /// An answer under `--min-logprob`.
    Logprob,
    /// An answer over `--max-completion-tokens`.
    Tokens,
    /// An answer that ended otherwise than `--finish` says.
    Finish,
    /// An answer without text.
    Empty,
    /// A row without a prompt.
    NoPrompt,
    /// An answer to a conversation that the format cannot hold.
    Turns,
    /// A pair of two equal texts.
    Equal,
    /// An answer with the score of another of its row.
    Tie,
    /// An answer with the text of a better one of its row.
    SameText,
    /// An answer that another pair of its row has given.
    Repeated,
    /// An answer that is the better one of a pair and the worse one of another.
    BothLabels,
    /// An answer of which nothing says whether it is right.
    Unlabelled,
    /// A repetition.
    Duplicate,
}

impl Reason {
    /// Reason and number in words.
    fn words(&self, count: u64) -> String {
        let one = count == 1;
        let of = |one_word: &'static str, many: &'static str| if one { one_word } else { many };
        let what = match self {
            Self::Where => of("line by `--where`", "lines by `--where`").to_owned(),
            Self::Failed => of("row that failed", "rows that failed").to_owned(),
            Self::NoPair(why) => format!("{} without a pair ({why})", of("row", "rows")),
            Self::Logprob => {
                of("answer by `--min-logprob`", "answers by `--min-logprob`").to_owned()
            }
            Self::Tokens => format!("{} by `--max-completion-tokens`", of("answer", "answers")),
            Self::Finish => of("answer by `--finish`", "answers by `--finish`").to_owned(),
            Self::Empty => of("empty answer", "empty answers").to_owned(),
            Self::NoPrompt => of("row without a prompt", "rows without a prompt").to_owned(),
            Self::Turns => format!(
                "{} to a conversation in which user and assistant do not take turns",
                of("answer", "answers")
            ),
            Self::Equal => of("pair of equal texts", "pairs of equal texts").to_owned(),
            Self::Tie => format!(
                "{} with the score of another one of the row",
                of("answer", "answers")
            ),
            Self::SameText => format!(
                "{} with the text of a better one of the row",
                of("answer", "answers")
            ),
            Self::Repeated => format!(
                "{} that an earlier pair of the row has given",
                of("answer", "answers")
            ),
            Self::BothLabels => format!(
                "{} the better one of a pair and the worse one of another",
                of("answer that is", "answers that are")
            ),
            Self::Unlabelled => of("answer without a label", "answers without a label").to_owned(),
            Self::Duplicate => of("duplicate by `--dedup`", "duplicates by `--dedup`").to_owned(),
        };
        format!("{} {what}", grouped(count))
    }
}

/// How much was left out.
#[derive(Clone, Debug, Default)]
pub(super) struct LeftOut(BTreeMap<Reason, u64>);

impl LeftOut {
    pub(super) fn add(&mut self, reason: Reason) {
        *self.0.entry(reason).or_default() += 1;
    }

    /// An entry a reason.
    pub(super) fn in_words(&self) -> Vec<String> {
        let each = self.0.iter();
        each.map(|(reason, count)| reason.words(*count)).collect()
    }

    #[cfg(test)]
    pub(super) fn of(&self, reason: &Reason) -> u64 {
        self.0.get(reason).copied().unwrap_or_default()
    }
}
