//! What became of a row: its result, or the stage that refused it and the reason.
//!
//! Reading, generation, the results and the journal share these types, so this file imports nothing of ours but
//! the numbers of rows and windows. A line of a journal is the JSON form of an [`Outcome`] with the row's number
//! before it and a checksum behind it:
//!
//! ```text
//! {"row":8,"status":"ok","prompt_tokens":16,"samples":[{"text":"北京","finish_reason":"stop","token_ids":[7,2]}],"crc":"..."}
//!          ^ Outcome     ^ RowResult, without a tag of its own
//! {"row":8,"status":"ok","kind":"measured","prompt_tokens":16,"samples":[[-2.5,false,3]],"crc":"..."}
//!          ^ Outcome     ^ RowResult, by its tag
//! {"row":9,"status":"failed","stage":"generate","reason":"no room","crc":"..."}
//!          ^ Outcome         ^ BadRow
//! ```
//!
//! A task that generates has a [`Completion`]. Every other task has a [`Measured`]: values whose names and types
//! its file in `tasks/` lists, so a new task needs nothing here.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::ops::AddAssign;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;

use crate::ids::RowId;

mod cell;
mod exact_floats;
mod left_out;

pub use cell::Cell;
pub use left_out::{LeftOut, LeftOutRows};

/// How one row ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum Outcome {
    /// The row has its result.
    Ok(RowResult),
    /// The row has none, and this is why.
    Failed(BadRow),
}

impl Outcome {
    /// Why the row has no result; `None` where it has one.
    pub fn failure(&self) -> Option<&BadRow> {
        self.result().err()
    }

    /// The result, or why there is none.
    ///
    /// # Errors
    ///
    /// The reason, where the row failed.
    pub fn result(&self) -> Result<&RowResult, &BadRow> {
        match self {
            Self::Ok(result) => Ok(result),
            Self::Failed(bad) => Err(bad),
        }
    }
}

/// How rows ended, wherever that is held.
pub trait Outcomes: Sync {
    /// Whether the row has ended.
    fn has(&self, row: RowId) -> bool;

    /// Why the row has no result; `None` where it has one, or has not ended.
    fn failure(&self, row: RowId) -> Option<&BadRow>;

    /// How the row ended; `None` where it has not.
    ///
    /// # Errors
    ///
    /// What holds it cannot be read.
    fn outcome(&self, row: RowId) -> io::Result<Option<Cow<'_, Outcome>>>;
}

impl Outcomes for BTreeMap<RowId, Outcome> {
    fn has(&self, row: RowId) -> bool {
        self.contains_key(&row)
    }

    fn failure(&self, row: RowId) -> Option<&BadRow> {
        self.get(&row)?.failure()
    }

    fn outcome(&self, row: RowId) -> io::Result<Option<Cow<'_, Outcome>>> {
        Ok(self.get(&row).map(Cow::Borrowed))
    }
}

/// The tag of an [`Outcome`] in JSON.
#[derive(Deserialize)]
struct Tag {
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Failed,
}

/// Reads the tag first and then the same text again as what the tag says. The way that serde derives holds the
/// fields in memory until it has seen the tag, with every number as an f64, and log-probabilities would lose bits.
impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&RawValue>::deserialize(deserializer)?;
        let Tag { status } = read(text)?;
        Ok(match status {
            Status::Ok => Self::Ok(read(text)?),
            Status::Failed => Self::Failed(read(text)?),
        })
    }
}

fn read<'de, T: Deserialize<'de>, E: de::Error>(text: &'de RawValue) -> Result<T, E> {
    serde_json::from_str(text.get()).map_err(E::custom)
}

/// The result of one row.
#[derive(Clone, Debug, PartialEq)]
pub enum RowResult {
    /// Generated answers.
    Generated(Completion),
    /// Values that the job's task lists as its columns.
    Measured(Measured),
}

/// The tag of a [`RowResult`] in JSON. Journals have always held generated answers without one.
#[derive(Deserialize)]
struct KindTag {
    #[serde(default)]
    kind: Kind,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    Generated,
    Measured,
}

impl Serialize for RowResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Tagged<'a> {
            kind: Kind,
            #[serde(flatten)]
            measured: &'a Measured,
        }
        match self {
            Self::Generated(completion) => completion.serialize(serializer),
            Self::Measured(measured) => Tagged {
                kind: Kind::Measured,
                measured,
            }
            .serialize(serializer),
        }
    }
}

/// Reads the tag first, as [`Outcome`] does.
impl<'de> Deserialize<'de> for RowResult {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&RawValue>::deserialize(deserializer)?;
        let KindTag { kind } = read(text)?;
        Ok(match kind {
            Kind::Generated => Self::Generated(read(text)?),
            Kind::Measured => Self::Measured(read(text)?),
        })
    }
}

impl RowResult {
    /// What the row adds to the counts of its job.
    pub fn counts(&self) -> RowCounts {
        match self {
            Self::Generated(completion) => RowCounts {
                is_truncated: completion.truncated > 0,
                prompt_tokens: u64::from(completion.prompt_tokens),
                completion_tokens: completion
                    .samples
                    .iter()
                    .map(|sample| sample.token_ids.len() as u64)
                    .sum(),
            },
            Self::Measured(measured) => RowCounts {
                is_truncated: measured.truncated > 0,
                prompt_tokens: u64::from(measured.prompt_tokens),
                completion_tokens: 0,
            },
        }
    }

    /// The text that is compared with a reference; `None` where there is none.
    pub fn answer(&self) -> Option<&str> {
        match self {
            Self::Generated(completion) => {
                let first = completion.samples.first()?;
                Some(&first.text)
            }
            Self::Measured(_) => None,
        }
    }

    /// Tokens of the row's context.
    pub fn prompt_tokens(&self) -> u32 {
        match self {
            Self::Generated(completion) => completion.prompt_tokens,
            Self::Measured(measured) => measured.prompt_tokens,
        }
    }

    /// How many samples it has: answers, targets, or whatever the job's task counts so.
    pub fn samples(&self) -> usize {
        match self {
            Self::Generated(completion) => completion.samples.len(),
            Self::Measured(measured) => measured.samples.len(),
        }
    }
}

/// The values of one row by the columns of its task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Tokens of the context.
    pub prompt_tokens: u32,
    /// Tokens cut from the prompt's left to make it fit.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub truncated: u32,
    /// Values that a row has once, by their place in the task's list. In a journal's line `row` is the row's number.
    #[serde(rename = "values", default, skip_serializing_if = "Vec::is_empty")]
    pub row: Vec<Cell>,
    /// One entry a sample, in order: its values, by their place in the task's list.
    pub samples: Vec<Vec<Cell>>,
}

/// Sums over rows that a task counts, by a name of its own; and the lowest and the highest of some values. What is read
/// from JSON is what was written, bit for bit, so that a run that goes on ends with the sums of an unbroken one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sums(#[serde(with = "exact_floats::sums")] BTreeMap<String, f64>);

/// What the keys of lowest and highest values begin with; no sum has a colon in its name.
const LOWEST: &str = "lowest:";
const HIGHEST: &str = "highest:";

impl Sums {
    /// Adds to one sum.
    pub fn add(&mut self, name: &str, value: f64) {
        match self.0.get_mut(name) {
            Some(sum) => *sum += value,
            None => {
                self.0.insert(name.to_owned(), value);
            }
        }
    }

    /// A sum; 0 where nothing was added.
    pub fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// Keeps a value if it is the lowest of that name so far.
    pub fn lowest(&mut self, name: &str, value: f64) {
        self.merge(&format!("{LOWEST}{name}"), value);
    }

    /// Keeps a value if it is the highest of that name so far.
    pub fn highest(&mut self, name: &str, value: f64) {
        self.merge(&format!("{HIGHEST}{name}"), value);
    }

    /// The lowest value of that name; `None` where there was none.
    pub fn get_lowest(&self, name: &str) -> Option<f64> {
        self.0.get(&format!("{LOWEST}{name}")).copied()
    }

    /// The highest value of that name; `None` where there was none.
    pub fn get_highest(&self, name: &str) -> Option<f64> {
        self.0.get(&format!("{HIGHEST}{name}")).copied()
    }

    /// Takes a value in as the key says.
    fn merge(&mut self, key: &str, value: f64) {
        match self.0.get_mut(key) {
            Some(kept) if key.starts_with(LOWEST) => *kept = kept.min(value),
            Some(kept) if key.starts_with(HIGHEST) => *kept = kept.max(value),
            _ => self.add(key, value),
        }
    }

    /// All names and their values, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, &value)| (name.as_str(), value))
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl AddAssign<&Sums> for Sums {
    fn add_assign(&mut self, other: &Sums) {
        for (key, value) in &other.0 {
            self.merge(key, *value);
        }
    }
}

/// What one row adds to the counts of its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowCounts {
    /// Whether its prompt was cut to fit.
    pub is_truncated: bool,
    /// Tokens read.
    pub prompt_tokens: u64,
    /// Tokens generated, over all samples.
    pub completion_tokens: u64,
}

/// The answers of one row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// Tokens of the context, without the start token.
    pub prompt_tokens: u32,
    /// Tokens cut from the prompt's left to make it fit.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub truncated: u32,
    /// One entry a sample, in order; of a beam search the best first.
    pub samples: Vec<Sample>,
}

/// One answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Decoded text, without special tokens, cut before a stop string.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Every generated id, the ending token included.
    pub token_ids: Vec<u32>,
    /// Log-softmax of the model's raw f32 logits at each generated id; empty unless asked for.
    #[serde(default, with = "exact_floats", skip_serializing_if = "Vec::is_empty")]
    pub token_logprobs: Vec<f32>,
    /// What a beam search ranks it by; `None` without one.
    #[serde(
        default,
        with = "exact_floats::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub score: Option<f32>,
    /// The text for each mask, where the task fills them all; `text` is the whole text then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spans: Vec<Span>,
}

/// What was generated for one mask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Decoded text, without special tokens, cut before a stop string.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// An ending token.
    #[default]
    Stop,
    /// `max_new_tokens`, or the model's own limit.
    Length,
    /// A stop string.
    StopString,
}

impl FinishReason {
    /// The name as written in the results.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::StopString => "stop_string",
        }
    }
}

/// Why a row has no result. Data, not an error of the job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRow {
    /// Stage that refused the row.
    pub stage: Stage,
    /// Reason: one line, no full stop, with the cure where there is one.
    pub reason: String,
}

/// Stage of the pipeline at which a row failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Reading.
    Input,
    /// Filling the template.
    Template,
    /// Encoding.
    Tokenize,
    /// Generation.
    Generate,
    /// Reading with the model, by tasks that judge a text.
    Read,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Input => "input",
            Self::Template => "template",
            Self::Tokenize => "tokenize",
            Self::Generate => "generate",
            Self::Read => "read",
        })
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_the_results_are_those_in_the_journal() {
        let name = |value: serde_json::Result<serde_json::Value>| value.unwrap();
        for reason in [
            FinishReason::Stop,
            FinishReason::Length,
            FinishReason::StopString,
        ] {
            assert_eq!(name(serde_json::to_value(reason)), reason.as_str());
        }
        for stage in [
            Stage::Input,
            Stage::Template,
            Stage::Tokenize,
            Stage::Generate,
            Stage::Read,
        ] {
            assert_eq!(name(serde_json::to_value(stage)), stage.to_string());
        }
    }

    #[test]
    fn both_kinds_of_results_come_back_from_a_journal() {
        let generated = r#"{"status":"ok","prompt_tokens":9,"samples":[{"text":"a","finish_reason":"stop","token_ids":[7],"token_logprobs":[-0.5]}]}"#;
        let measured = r#"{"status":"ok","kind":"measured","prompt_tokens":9,"truncated":2,"values":[4],"samples":[[-0.1,false,3],[null,true,0]]}"#;
        for text in [generated, measured] {
            let outcome: Outcome = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&outcome).unwrap(), text);
            let is_measured = matches!(outcome, Outcome::Ok(RowResult::Measured(_)));
            assert_eq!(is_measured, text == measured);
        }
        let unknown = measured.replace("measured", "painted");
        assert!(serde_json::from_str::<Outcome>(&unknown).is_err());
    }

    #[test]
    fn an_outcome_without_its_fields_is_refused() {
        for text in [
            r#"{"prompt_tokens":1,"samples":[]}"#,
            r#"{"status":"ok","samples":[]}"#,
            r#"{"status":"failed","stage":"input"}"#,
            r#"{"status":"half"}"#,
        ] {
            assert!(serde_json::from_str::<Outcome>(text).is_err(), "{text}");
        }
    }
}
