//! Windows to requests, beside the engine: reading, templates, encoding.
//!
//! A window's rows are encoded in parallel; the channel holds one window, so that the engine never
//! waits for the next and memory never holds more than three.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Sender;
use rayon::prelude::*;

use super::StopFlag;
use super::facts::ModelFacts;
use super::prepare::Prepared;
use super::texts;
use crate::checkpoint::{Cut, Journal};
use crate::error::Result;
use crate::generate::{Outcome, Request};
use crate::ids::RowId;
use crate::input::{BadRow, InputRow, InputWindow, Prompt, Stage, WindowSpan};
use crate::spec::{GenerationSpec, JobSpec, Lengths, OnBadRow, PromptSpec};
use crate::tokenize::GlmTokenizer;

/// A window that is ready for the engine.
pub(super) struct FedWindow {
    pub(super) span: WindowSpan,
    pub(super) window: InputWindow,
    pub(super) journal: Journal,
    /// Rows that have an outcome already: from the journal, or bad.
    pub(super) outcomes: BTreeMap<RowId, Outcome>,
    /// Rows of `outcomes` that came from the journal.
    pub(super) recovered: usize,
    pub(super) requests: Vec<Request>,
    /// Rows whose own settings for drawing do nothing.
    pub(super) idle_rows: u64,
    /// The first bad row, where the job stops at it.
    pub(super) stop_at: Option<usize>,
    pub(super) cut: Option<Cut>,
    pub(super) read_seconds: f64,
    pub(super) tokenize_seconds: f64,
}

/// Reads and encodes the given windows in order, until all are sent or nobody listens.
pub(super) fn feed(
    prepared: &Prepared,
    model: &ModelFacts,
    windows: &[WindowSpan],
    stop: &StopFlag,
    sender: &Sender<Result<Box<FedWindow>>>,
) {
    for span in windows {
        if stop.is_requested() {
            return;
        }
        let Some(fed) = feed_window(prepared, model, span, stop).transpose() else {
            return;
        };
        let failed = fed.is_err();
        if sender.send(fed.map(Box::new)).is_err() || failed {
            return;
        }
    }
}

/// A window with its rows encoded; `None` where a stop is requested meanwhile: it may have rows then that
/// were not looked at.
fn feed_window(
    prepared: &Prepared,
    model: &ModelFacts,
    span: &WindowSpan,
    stop: &StopFlag,
) -> Result<Option<FedWindow>> {
    let (journal, outcomes, cut) = Journal::open(&prepared.folder, &prepared.job, span)?;
    let started = Instant::now();
    let window = prepared.source.read_window(span)?;
    let read_seconds = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let spec = &prepared.record.spec;
    let encoder = RowEncoder::new(spec, model, prepared.record.rules.text)?;
    let encoded: Vec<Option<EncodedRow>> = window
        .rows
        .par_iter()
        .map(|row| {
            let is_wanted = !outcomes.contains_key(&row.row) && !stop.is_requested();
            is_wanted.then(|| encoder.encode(row))
        })
        .collect();
    if stop.is_requested() {
        return Ok(None);
    }
    let mut fed = FedWindow {
        idle_rows: count_idle(&window.rows, &encoded),
        span: span.clone(),
        recovered: outcomes.len(),
        window,
        journal,
        outcomes,
        requests: Vec::with_capacity(encoded.len()),
        stop_at: None,
        cut,
        read_seconds,
        tokenize_seconds: 0.0,
    };
    for (position, row) in encoded.into_iter().enumerate() {
        match row {
            Some(Ok(request)) => fed.requests.push(request),
            Some(Err(bad)) => {
                if spec.input.on_bad_row == OnBadRow::Stop {
                    fed.stop_at.get_or_insert(position);
                }
                fed.outcomes
                    .insert(fed.window.rows[position].row, Outcome::Failed(bad));
            }
            None => {}
        }
    }
    fed.tokenize_seconds = started.elapsed().as_secs_f64();
    Ok(Some(fed))
}

/// A row's request, or why it has none.
pub(super) type EncodedRow = std::result::Result<Request, BadRow>;

/// Prompts to requests under the job's settings.
pub(super) struct RowEncoder<'a> {
    tokenizer: &'a GlmTokenizer,
    lengths: Lengths,
    prompt: &'a PromptSpec,
    /// The job's settings as the rule of text has them.
    settings: Arc<GenerationSpec>,
    /// Its settings as they are written.
    job: &'a GenerationSpec,
    text_rule: u32,
}

impl<'a> RowEncoder<'a> {
    /// An encoder of the job's rows.
    ///
    /// # Errors
    ///
    /// [`Error::Stop`](crate::error::Error::Stop) for a stop string of the job that no answer can hold.
    pub(super) fn new(spec: &'a JobSpec, model: &'a ModelFacts, text_rule: u32) -> Result<Self> {
        let tokenizer = &*model.tokenizer;
        Ok(Self {
            tokenizer,
            lengths: model.lengths,
            prompt: &spec.prompt,
            settings: texts::of_job(&spec.generation, tokenizer, text_rule)?,
            job: &spec.generation,
            text_rule,
        })
    }

    /// A row's request, or why it has none.
    pub(super) fn encode(&self, row: &InputRow) -> EncodedRow {
        let prompt = row.outcome.as_ref().map_err(Clone::clone)?;
        let input = |reason| BadRow {
            stage: Stage::Input,
            reason,
        };
        let settings = self.settings_of(prompt).map_err(input)?;
        let limit = self.lengths.context_limit(&settings).map_err(input)?;
        let encoded = self
            .tokenizer
            .encode_prompt(
                &prompt.text,
                prompt.prefix.as_deref(),
                self.prompt.mask,
                limit,
                self.prompt.overflow,
            )
            .map_err(|reason| BadRow {
                stage: Stage::Tokenize,
                reason,
            })?;
        let max_new_tokens = self
            .lengths
            .max_new_tokens(&settings, encoded.ids.len() as u32);
        Ok(Request {
            row: row.row,
            encoded,
            settings,
            max_new_tokens,
        })
    }

    fn settings_of(&self, prompt: &Prompt) -> std::result::Result<Arc<GenerationSpec>, String> {
        if prompt.overrides.is_empty() {
            return Ok(Arc::clone(&self.settings));
        }
        let settings = self.job.with_overrides(&prompt.overrides)?;
        texts::written(settings, self.tokenizer, self.text_rule)
            .map(Arc::new)
            .map_err(|(stop, error)| {
                let (stop, reason) = (stop.escape_debug(), error.reason);
                format!("`stop` holds `{stop}`, which no answer can hold: {reason}")
            })
    }
}

/// How many of these rows set what only drawing uses, and are not drawn.
pub(super) fn count_idle(rows: &[InputRow], encoded: &[Option<EncodedRow>]) -> u64 {
    let is_idle = |(row, encoded): &(&InputRow, &Option<EncodedRow>)| {
        let (Ok(prompt), Some(Ok(request))) = (&row.outcome, encoded) else {
            return false;
        };
        let mut set = prompt
            .overrides
            .iter()
            .filter(|(_, value)| !value.is_null());
        let drawing = |key: &String| GenerationSpec::DRAWING_KEYS.contains(&key.as_str());
        !request.settings.do_sample && set.any(|(key, _)| drawing(key))
    };
    rows.iter().zip(encoded).filter(is_idle).count() as u64
}
