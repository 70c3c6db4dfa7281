//! Rows of a job to the contexts that a run would give the model, one line at a time, for people to look at.

use serde::Serialize;

use super::counts::Noted;
use super::feed::RowEncoder;
use super::model_facts::ModelFacts;
use crate::error::Result;
use crate::ids::RowId;
use crate::input::{InputRow, LineReader};
use crate::job::{JobSpec, Overflow, Rules};
use crate::outcome::{BadRow, Stage};
use crate::stop::StopFlag;
use crate::tasks::Examples;
use crate::tokenize::Encoded;

/// Encodes rows as a job would.
pub(crate) struct JobEncoder<'a> {
    spec: &'a JobSpec,
    model: ModelFacts,
    lines: LineReader,
    examples: Option<Examples>,
}

/// One row as the model would be given it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct EncodedLine {
    /// The prompt, as the template or the prompt column gave it.
    pub prompt: String,
    /// The prefix of the row, else of the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The context.
    pub ids: Vec<u32>,
    /// The tokens of the context.
    pub tokens: Vec<String>,
    /// The context as text.
    pub decoded: String,
    /// Tokens cut from the prompt's left to make it fit.
    pub truncated: u32,
    /// What was cut, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut: Option<String>,
}

impl<'a> JobEncoder<'a> {
    /// Looks at the model of a job and compiles its template.
    ///
    /// # Errors
    ///
    /// What [`run`](super::run) would refuse in the model's folder, the template or the stop strings.
    pub(crate) fn new(spec: &'a JobSpec) -> Result<Self> {
        let rules = Rules::of_new(spec);
        let model = ModelFacts::load(spec, rules)?;
        RowEncoder::new(spec, &model, rules, None)?;
        let lines = LineReader::new(spec, rules)?;
        let examples = Examples::read(spec, rules, &StopFlag::default())?;
        Ok(Self {
            spec,
            model,
            lines,
            examples,
        })
    }

    /// Encodes a line of JSON with the columns of the job's input; `number` counts lines from 1. The inner error
    /// is why such a row would fail before generation.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub(crate) fn encode(
        &self,
        number: u64,
        line: &[u8],
    ) -> Result<std::result::Result<EncodedLine, BadRow>> {
        let examples = self.examples.as_ref();
        let encoder = RowEncoder::new(self.spec, &self.model, Rules::of_new(self.spec), examples)?;
        let mut row = self.lines.read(RowId(number - 1), line);
        let encoded = encoder
            .encode(&mut row, &mut Noted::default())
            .map(|row| row.work.encoded().cloned().unwrap_or_default());
        Ok(encoded.and_then(|encoded| self.shown(row, encoded)))
    }

    fn shown(&self, row: InputRow, encoded: Encoded) -> std::result::Result<EncodedLine, BadRow> {
        let tokenizer = &self.model.tokenizer;
        let bad = |reason| BadRow {
            stage: Stage::Tokenize,
            reason,
        };
        let prompt = row.outcome?.into_inner();
        let cut = match encoded.truncated as usize {
            0 => None,
            count => {
                let whole = tokenizer.encode_prompt(
                    &prompt.text,
                    prompt.prefix.as_deref(),
                    self.spec.prompt.mask,
                    u32::MAX,
                    Overflow::Truncate,
                );
                // What was cut follows the first token, which opens every context.
                let whole = whole.map_err(bad)?.ids;
                let cut = whole.get(1..=count).unwrap_or_default();
                Some(tokenizer.try_decode(cut, false).map_err(bad)?)
            }
        };
        Ok(EncodedLine {
            tokens: tokenizer.tokens(&encoded.ids),
            decoded: tokenizer.try_decode(&encoded.ids, false).map_err(bad)?,
            ids: encoded.ids,
            truncated: encoded.truncated,
            cut,
            prompt: prompt.text,
            prefix: prompt.prefix,
        })
    }
}
