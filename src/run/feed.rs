//! Windows to requests, beside the engine: reading, templates, encoding.
//!
//! A window's rows are encoded in parallel, each as soon as it is read; the channel holds one window, so that the
//! engine never waits for the next and memory never holds more than three.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crossbeam_channel::Sender;

use super::facts::ModelFacts;
use super::prepare::Prepared;
use super::{StopFlag, summary};
use crate::checkpoint::{Cut, Journal};
use crate::error::Result;
use crate::generate::{Outcome, Request};
use crate::ids::RowId;
use crate::input::{BadRow, InputRow, InputWindow, Prompt, PromptSource, Stage, WindowSpan};
use crate::spec::{GenerationSpec, Lengths, OnBadRow, PromptSpec};
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
        let fed = feed_window(prepared, model, span);
        let failed = fed.is_err();
        if sender.send(fed.map(Box::new)).is_err() || failed {
            return;
        }
    }
}

fn feed_window(prepared: &Prepared, model: &ModelFacts, span: &WindowSpan) -> Result<FedWindow> {
    let (journal, outcomes, cut) = Journal::open(&prepared.folder, span)?;
    let started = Instant::now();
    let spec = &prepared.record.spec;
    let encoder = RowEncoder {
        tokenizer: &model.tokenizer,
        lengths: model.lengths,
        prompt: &spec.prompt,
        settings: Arc::new(spec.generation.clone()),
    };
    let read = encoder.read(
        prepared.source.as_ref(),
        span,
        &|row| !outcomes.contains_key(&row.row),
        &|position| summary::may_show(position, span.rows as usize),
    )?;
    let EncodedWindow {
        window,
        rows,
        tokenize_seconds,
    } = read;
    let mut fed = FedWindow {
        span: span.clone(),
        recovered: outcomes.len(),
        window,
        journal,
        outcomes,
        requests: Vec::with_capacity(rows.len()),
        stop_at: None,
        cut,
        read_seconds: started.elapsed().as_secs_f64() - tokenize_seconds,
        tokenize_seconds,
    };
    for (position, row) in rows.into_iter().enumerate() {
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
    Ok(fed)
}

/// A row's request, or why it has none.
pub(super) type Encoded = std::result::Result<Request, BadRow>;

/// A window and its rows as requests.
pub(super) struct EncodedWindow {
    pub(super) window: InputWindow,
    /// By place in the window; `None` where the row was not wanted.
    pub(super) rows: Vec<Option<Encoded>>,
    pub(super) tokenize_seconds: f64,
}

/// Prompts to requests under the job's settings.
pub(super) struct RowEncoder<'a> {
    pub(super) tokenizer: &'a GlmTokenizer,
    pub(super) lengths: Lengths,
    pub(super) prompt: &'a PromptSpec,
    pub(super) settings: Arc<GenerationSpec>,
}

impl RowEncoder<'_> {
    /// Reads a window and encodes the wanted rows. A row's prompt is let go of as soon as it is encoded, unless
    /// `keeps` says otherwise for its place.
    pub(super) fn read(
        &self,
        source: &dyn PromptSource,
        span: &WindowSpan,
        wants: &(dyn Fn(&InputRow) -> bool + Sync),
        keeps: &(dyn Fn(usize) -> bool + Sync),
    ) -> Result<EncodedWindow> {
        let encoded: Vec<OnceLock<Encoded>> = (0..span.rows).map(|_| OnceLock::new()).collect();
        let nanoseconds = AtomicU64::new(0);
        let window = source.read_rows(span, &|position, row| {
            if wants(row) {
                let started = Instant::now();
                encoded[position].get_or_init(|| self.encode(row));
                let spent = started.elapsed().as_nanos() as u64;
                nanoseconds.fetch_add(spent, Ordering::Relaxed);
            }
            if !keeps(position) {
                row.release();
            }
        })?;
        let threads = rayon::current_num_threads() as f64;
        Ok(EncodedWindow {
            window,
            rows: encoded.into_iter().map(OnceLock::into_inner).collect(),
            tokenize_seconds: nanoseconds.into_inner() as f64 / 1e9 / threads,
        })
    }

    fn encode(&self, row: &InputRow) -> Encoded {
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
        self.settings
            .with_overrides(&prompt.overrides)
            .map(Arc::new)
    }
}
