//! `[generation]`: how answers are made. Also the effective settings of one row.
//!
//! [`crate::job::row`] reads the settings of a row over those of the job, and checks them by the same
//! [`check_generation`].

use std::borrow::Cow;
use std::path::Path;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Section;
use super::beams::{EarlyStopping, LengthOver};
use crate::job::flaw::{Checked, Flaw, at_least_one};
use crate::job::problem::Problem;
use crate::job::tree::Node;
use crate::job::tree::reader::read_at;
use crate::job::values::NumberOrVisitor;

/// Most samples a row: the context is kept once, each sample has its own cache.
const MAX_SAMPLES: u32 = 65_536;

/// Most beams a row: all of them run at once, however small the batch is.
const MAX_BEAMS: u32 = 1024;

/// How answers are made; meaning and order of the processors as in transformers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GenerationSpec {
    /// Draw tokens instead of taking the likeliest.
    pub do_sample: bool,
    /// Logits are divided by this.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub temperature: f64,
    /// Only this many likeliest tokens; 0 is all.
    pub top_k: u32,
    /// Only the likeliest tokens whose probabilities sum to this.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
    pub top_p: f64,
    /// Only tokens at least this share as likely as the likeliest.
    #[schemars(range(min = 0, max = 1))]
    pub min_p: f64,
    /// Logits of tokens seen before are divided (positive) or multiplied (negative) by this.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub repetition_penalty: f64,
    /// No n-gram of this size twice; 0 is off.
    pub no_repeat_ngram_size: u32,
    /// The ending tokens are barred before this many answer tokens.
    pub min_new_tokens: u32,
    /// Most answer tokens; default: half of `prompt.max_length`; `rest`: all that the context
    /// leaves of it.
    pub max_new_tokens: Option<MaxNewTokens>,
    /// Answers a row; more than one needs `do_sample`, or as many beams.
    #[schemars(range(min = 1, max = MAX_SAMPLES))]
    pub num_return_sequences: u32,
    /// Beams of a beam search: unfinished answers that it keeps at each step; 1 turns the search off.
    #[serde(skip_serializing_if = "is_one_beam")]
    #[schemars(!skip_serializing_if, range(min = 1, max = MAX_BEAMS))]
    pub num_beams: u32,
    /// A beam's score is the sum of its log-probabilities divided by its length to this power.
    #[serde(skip_serializing_if = "is_unit")]
    #[schemars(!skip_serializing_if)]
    pub length_penalty: f64,
    /// What a beam's length counts: prompt and answer (transformers to 4.35), or the answer alone (from 4.36).
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(!skip_serializing_if)]
    pub length_penalty_over: LengthOver,
    /// When beams stop, once `num_beams` answers have ended: at once, when better ones are unlikely (`false`), or only
    /// when there can be none (`"never"`).
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(!skip_serializing_if)]
    pub early_stopping: EarlyStopping,
    /// Texts whose token sequences are barred.
    pub bad_words: Vec<String>,
    /// Texts that end an answer; it is cut before them.
    pub stop: Vec<String>,
    /// Texts of which an answer is one; without any it is free.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(!skip_serializing_if)]
    pub choices: Vec<String>,
    /// Seed of the draw.
    pub seed: u64,
    /// Also write log-probabilities; a setting of the job, never of a row.
    pub logprobs: bool,
}

impl Default for GenerationSpec {
    fn default() -> Self {
        Self {
            do_sample: false,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            no_repeat_ngram_size: 0,
            min_new_tokens: 0,
            max_new_tokens: None,
            num_return_sequences: 1,
            num_beams: 1,
            length_penalty: 1.0,
            length_penalty_over: LengthOver::default(),
            early_stopping: EarlyStopping::default(),
            bad_words: Vec::new(),
            stop: Vec::new(),
            choices: Vec::new(),
            seed: 42,
            logprobs: false,
        }
    }
}

/// Most answer tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxNewTokens {
    /// This many.
    Count(u32),
    /// All that `max_length` leaves after the context.
    Rest,
}

macro_rules! row_keys {
    ($($key:ident),* $(,)?) => {
        /// Keys that a row may set.
        pub(in crate::job) const ROW_KEYS: &[&str] = &[$(stringify!($key)),*];

        /// Sets one key from a row's value; `false`: a row has no such key.
        pub(in crate::job) fn set(
            settings: &mut GenerationSpec,
            key: &str,
            node: &Node,
        ) -> Result<bool, Problem> {
            $(
                if key == stringify!($key) {
                    settings.$key = read_at(node, key)?;
                    return Ok(true);
                }
            )*
            Ok(false)
        }
    };
}

// A new key of the section is one of a row too; a test compares the two.
row_keys!(
    do_sample,
    temperature,
    top_k,
    top_p,
    min_p,
    repetition_penalty,
    no_repeat_ngram_size,
    min_new_tokens,
    max_new_tokens,
    num_return_sequences,
    num_beams,
    length_penalty,
    length_penalty_over,
    early_stopping,
    bad_words,
    stop,
    choices,
    seed,
);

impl GenerationSpec {
    /// Keys that only beams use.
    pub const BEAM_KEYS: [&str; 3] = ["length_penalty", "length_penalty_over", "early_stopping"];

    /// Keys that only drawing uses.
    pub const DRAWING_KEYS: [&str; 5] = ["temperature", "top_k", "top_p", "min_p", "seed"];

    /// Keys that are not at their default and do nothing, because there are no beams.
    pub fn idle_beam_keys(&self) -> Vec<&'static str> {
        let default = Self::default();
        let is_set = [
            self.length_penalty != default.length_penalty,
            self.length_penalty_over != default.length_penalty_over,
            self.early_stopping != default.early_stopping,
        ];
        let keys = Self::BEAM_KEYS.into_iter().zip(is_set);
        keys.filter(|(_, is_set)| *is_set && self.num_beams <= 1)
            .map(|(key, _)| key)
            .collect()
    }

    /// Keys that are not at their default and do nothing, because nothing is drawn.
    pub fn idle_keys(&self) -> Vec<&'static str> {
        let default = Self::default();
        let is_set = [
            self.temperature != default.temperature,
            self.top_k != default.top_k,
            self.top_p != default.top_p,
            self.min_p != default.min_p,
            self.seed != default.seed,
        ];
        let keys = Self::DRAWING_KEYS.into_iter().zip(is_set);
        keys.filter(|(_, is_set)| *is_set && !self.do_sample)
            .map(|(key, _)| key)
            .collect()
    }
}

impl Section for GenerationSpec {
    const NAME: &'static str = "generation";

    fn check(&mut self, _: &Path) -> Checked<()> {
        check_generation(self)
    }
}

/// Checks `[generation]`, or the effective settings of one row.
pub(in crate::job) fn check_generation(section: &GenerationSpec) -> Checked<()> {
    check_numbers(section)?;
    check_counts(section)?;
    check_samples(section)?;
    check_beams(section)?;
    check_texts(section)?;
    check_choices(section)
}

/// As [`check_generation`], for a row of a job that began when there were no beams: `refuse` says what was said of
/// them.
pub(in crate::job) fn check_before_beams<E: From<Flaw>>(
    section: &GenerationSpec,
    refuse: impl FnOnce(&GenerationSpec) -> Result<(), E>,
) -> Result<(), E> {
    check_numbers(section)?;
    check_counts(section)?;
    refuse(section)?;
    Ok(check_texts(section)?)
}

fn check_numbers(section: &GenerationSpec) -> Checked<()> {
    // Written so that NaN fails too.
    let is_positive = |value: f64| value > 0.0 && value.is_finite();
    let checks = [
        (
            "temperature",
            section.temperature,
            is_positive(section.temperature),
            "above 0",
            if section.temperature == 0.0 {
                "for the likeliest token, write `do_sample = false`"
            } else {
                "`temperature = 1.0` is off"
            },
        ),
        (
            "repetition_penalty",
            section.repetition_penalty,
            is_positive(section.repetition_penalty),
            "above 0",
            "`repetition_penalty = 1.0` is off",
        ),
        (
            "top_p",
            section.top_p,
            section.top_p > 0.0 && section.top_p <= 1.0,
            "above 0 and at most 1",
            "`top_p = 1.0` is off",
        ),
        (
            "min_p",
            section.min_p,
            (0.0..=1.0).contains(&section.min_p),
            "from 0 to 1",
            "`min_p = 0.0` is off",
        ),
    ];
    for (key, value, is_right, range, cure) in checks {
        if !is_right {
            let flaw = Flaw::new(key, format!("must be {range}, and is {value}"));
            return Err(flaw.hint(cure));
        }
    }
    Ok(())
}

fn check_counts(section: &GenerationSpec) -> Checked<()> {
    if let Some(MaxNewTokens::Count(most)) = section.max_new_tokens {
        at_least_one("max_new_tokens", most)?;
        let least = section.min_new_tokens;
        if least > most {
            let reason = format!("is {least}, above `max_new_tokens` ({most})");
            return Err(Flaw::new("min_new_tokens", reason));
        }
    }
    at_least_one("num_return_sequences", section.num_return_sequences)?;
    if section.num_return_sequences > MAX_SAMPLES {
        let reason = format!(
            "must be at most {MAX_SAMPLES}, and is {}",
            section.num_return_sequences
        );
        return Err(Flaw::new("num_return_sequences", reason));
    }
    Ok(())
}

fn check_samples(section: &GenerationSpec) -> Checked<()> {
    if section.num_return_sequences > 1 && section.num_beams <= 1 && !section.do_sample {
        let flaw = Flaw::new(
            "num_return_sequences",
            "above 1 needs `do_sample = true`, or as many `num_beams`",
        );
        return Err(flaw.hint("without them every sample would be the same"));
    }
    Ok(())
}

fn check_beams(section: &GenerationSpec) -> Checked<()> {
    let beams = section.num_beams;
    at_least_one("num_beams", beams)?;
    if beams > MAX_BEAMS {
        let reason = format!("must be at most {MAX_BEAMS}, and is {beams}");
        return Err(Flaw::new("num_beams", reason));
    }
    if !section.length_penalty.is_finite() {
        let reason = format!("must be finite, and is {}", section.length_penalty);
        let flaw = Flaw::new("length_penalty", reason);
        return Err(flaw.hint("`length_penalty = 0.0` leaves the length out of the score"));
    }
    if beams > 1 && section.do_sample {
        let flaw = Flaw::new("num_beams", "above 1 does not go with `do_sample = true`");
        return Err(flaw.hint(
            "a beam search takes the likeliest answers and draws nothing: take one of the two out",
        ));
    }
    let answers = section.num_return_sequences;
    if beams > 1 && answers > beams {
        let reason = format!("is {answers}, above `num_beams` ({beams})");
        let flaw = Flaw::new("num_return_sequences", reason);
        return Err(flaw.hint("a beam search finds one answer a beam"));
    }
    Ok(())
}

fn check_texts(section: &GenerationSpec) -> Checked<()> {
    for (key, texts) in [
        ("bad_words", &section.bad_words),
        ("stop", &section.stop),
        ("choices", &section.choices),
    ] {
        if texts.iter().any(String::is_empty) {
            let flaw = Flaw::new(key, "holds an empty text");
            return Err(flaw.hint(format!("take it out; without any, write `{key} = []`")));
        }
    }
    Ok(())
}

fn check_choices(section: &GenerationSpec) -> Checked<()> {
    if section.choices.is_empty() {
        return Ok(());
    }
    if !section.stop.is_empty() {
        let flaw = Flaw::new("choices", "does not go with `stop`");
        return Err(flaw.hint("an answer ends where its choice ends: write `stop = []`"));
    }
    if section.min_new_tokens > 0 {
        let flaw = Flaw::new("choices", "does not go with `min_new_tokens`");
        return Err(flaw.hint("an answer is as long as its choice: write `min_new_tokens = 0`"));
    }
    Ok(())
}

// What beams and choices add is written only where it is used, so that `job.json` of all other jobs stays as it was.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_one_beam(num_beams: &u32) -> bool {
    *num_beams == 1
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_unit(length_penalty: &f64) -> bool {
    *length_penalty == 1.0
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Serialize for MaxNewTokens {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => serializer.serialize_u32(*count),
            Self::Rest => serializer.serialize_str("rest"),
        }
    }
}

impl<'de> Deserialize<'de> for MaxNewTokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = deserializer.deserialize_any(NumberOrVisitor("rest"))?;
        // More tokens than 32 bits count is more than any model has.
        Ok(read.map_or(Self::Rest, |count| {
            Self::Count(u32::try_from(count).unwrap_or(u32::MAX))
        }))
    }
}

impl JsonSchema for MaxNewTokens {
    fn schema_name() -> Cow<'static, str> {
        "MaxNewTokens".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 1 }, { "const": "rest" }] })
    }
}
