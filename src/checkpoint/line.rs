//! One row's outcome to a journal line and back, every float bit for bit; and the line above all rows, which
//! names the job.
//!
//! The fields are those of [`Outcome`]'s own JSON form, so that the journal reads like the results.
//! Floats are parsed as the 32-bit numbers they are, and those that JSON cannot hold are strings.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::ids::RowId;
use crate::outcome::{BadRow, Completion, FinishReason, Outcome, Sample, Stage};

use super::seal;

/// First line of a journal.
#[derive(Serialize, Deserialize)]
struct Header {
    /// Fingerprint of the job.
    job: String,
}

/// The first line of a journal of this job, without its end.
pub(super) fn write_header(job: &str) -> serde_json::Result<String> {
    seal::seal_line(&Header {
        job: job.to_owned(),
    })
}

/// The job that a sound first line names; `None` where it is a row's line.
pub(super) fn read_header(line: &[u8]) -> Option<String> {
    let header: Header = serde_json::from_slice(line).ok()?;
    Some(header.job)
}

/// A journal line, without its end.
pub(super) fn write(row: RowId, outcome: &Outcome) -> serde_json::Result<String> {
    seal::seal_line(&Line::new(row, outcome))
}

/// Reads a journal line; the error says what is wrong with it.
pub(super) fn read(line: &[u8]) -> Result<(RowId, Outcome), String> {
    if !seal::is_sound_line(line) {
        return Err("its checksum does not fit its content".to_owned());
    }
    let line: Line = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let row = line.row;
    line.outcome()
        .map(|outcome| (row, outcome))
        .ok_or_else(|| "a field is missing".to_owned())
}

#[derive(Serialize, Deserialize)]
struct Line {
    row: RowId,
    status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prompt_tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    truncated: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    samples: Option<Vec<SampleLine>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stage: Option<Stage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Failed,
}

#[derive(Serialize, Deserialize)]
struct SampleLine {
    text: String,
    finish_reason: FinishReason,
    token_ids: Vec<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    token_logprobs: Vec<ExactFloat>,
}

impl Line {
    fn new(row: RowId, outcome: &Outcome) -> Self {
        let empty = Self {
            row,
            status: Status::Ok,
            prompt_tokens: None,
            truncated: None,
            samples: None,
            stage: None,
            reason: None,
        };
        match outcome {
            Outcome::Ok(completion) => Self {
                prompt_tokens: Some(completion.prompt_tokens),
                truncated: Some(completion.truncated).filter(|&count| count > 0),
                samples: Some(completion.samples.iter().map(SampleLine::new).collect()),
                ..empty
            },
            Outcome::Failed(bad) => Self {
                status: Status::Failed,
                stage: Some(bad.stage),
                reason: Some(bad.reason.clone()),
                ..empty
            },
        }
    }

    fn outcome(self) -> Option<Outcome> {
        Some(match self.status {
            Status::Ok => Outcome::Ok(Completion {
                prompt_tokens: self.prompt_tokens?,
                truncated: self.truncated.unwrap_or(0),
                samples: self.samples?.into_iter().map(SampleLine::sample).collect(),
            }),
            Status::Failed => Outcome::Failed(BadRow {
                stage: self.stage?,
                reason: self.reason?,
            }),
        })
    }
}

impl SampleLine {
    fn new(sample: &Sample) -> Self {
        Self {
            text: sample.text.clone(),
            finish_reason: sample.finish_reason,
            token_ids: sample.token_ids.clone(),
            token_logprobs: sample
                .token_logprobs
                .iter()
                .copied()
                .map(ExactFloat)
                .collect(),
        }
    }

    fn sample(self) -> Sample {
        Sample {
            text: self.text,
            finish_reason: self.finish_reason,
            token_ids: self.token_ids,
            token_logprobs: self
                .token_logprobs
                .into_iter()
                .map(|float| float.0)
                .collect(),
        }
    }
}

/// `serde_json` reads a number as a 64-bit float that may be a bit off and rounds it again; the standard
/// library reads the shortest form of a 32-bit float exactly.
struct ExactFloat(f32);

impl Serialize for ExactFloat {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() {
            serializer.serialize_f32(self.0)
        } else {
            serializer.collect_str(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for ExactFloat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text: &RawValue = Deserialize::deserialize(deserializer)?;
        text.get()
            .trim_matches('"')
            .parse()
            .map(Self)
            .map_err(D::Error::custom)
    }
}
