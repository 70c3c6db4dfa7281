//! Windows to requests, beside the engine: reading, templates, encoding.
//!
//! A window's rows are encoded in parallel, each as soon as it is read; the channel holds one window, so that the
//! engine never waits for the next and memory never holds more than three.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crossbeam_channel::Sender;

use super::model_facts::ModelFacts;
use super::prepare::Prepared;
use super::{counts, texts};
use crate::checkpoint::{Cut, Journal, ShardLock};
use crate::engine::Request;
use crate::error::Result;
use crate::ids::RowId;
use crate::input::{InputRow, InputWindow, Prompt, PromptSource, WindowSpan};
use crate::job::{GenerationSpec, JobSpec, Lengths, OnBadRow, PromptSpec, Rules};
use crate::outcome::{BadRow, Outcome, Stage};
use crate::stop::StopFlag;
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
    /// By place in the window, whether the prompt has more than one mask.
    pub(super) several_masks: Vec<bool>,
    /// The first bad row, where the job stops at it.
    pub(super) stop_at: Option<usize>,
    pub(super) cut: Option<Cut>,
    pub(super) read_seconds: f64,
    pub(super) tokenize_seconds: f64,
}

/// Reads and encodes the given windows in order, until all are sent or the receiver is gone.
pub(super) fn feed(
    prepared: &Prepared,
    model: &ModelFacts,
    lock: &ShardLock,
    windows: &[WindowSpan],
    stop: &StopFlag,
    sender: &Sender<Result<Box<FedWindow>>>,
) {
    for span in windows {
        if stop.is_requested() {
            return;
        }
        let Some(fed) = feed_window(prepared, model, lock, span, stop).transpose() else {
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
    lock: &ShardLock,
    span: &WindowSpan,
    stop: &StopFlag,
) -> Result<Option<FedWindow>> {
    // Opening a journal cuts off its last line where that is not whole: a new owner may be writing it.
    lock.ensure_mine()?;
    let (journal, outcomes, cut) = Journal::open(&prepared.folder, &prepared.job, span)?;
    let started = Instant::now();
    let spec = &prepared.record.spec;
    let encoder = RowEncoder::new(spec, model, prepared.record.rules)?;
    let read = encoder.read(
        prepared.source.as_ref(),
        span,
        &|row| !outcomes.contains_key(&row.row) && !stop.is_requested(),
        // The results take the prompts from the rows when the window is written.
        &|position| spec.output.prompt || counts::may_show(position, span.rows as usize),
    );
    // Reading ends early then.
    if stop.is_requested() {
        return Ok(None);
    }
    let EncodedWindow {
        window,
        rows,
        idle_rows,
        several_masks,
        tokenize_seconds,
    } = read?;
    let mut fed = FedWindow {
        idle_rows,
        several_masks,
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
    Ok(Some(fed))
}

/// A row's request, or why it has none.
pub(super) type EncodedRow = std::result::Result<Request, BadRow>;

/// A window and its rows as requests.
pub(super) struct EncodedWindow {
    pub(super) window: InputWindow,
    /// By place in the window; `None` where the row was not wanted.
    pub(super) rows: Vec<Option<EncodedRow>>,
    /// Rows whose own settings for drawing do nothing.
    pub(super) idle_rows: u64,
    /// By place in the window, whether the prompt has more than one mask; of rows that were not wanted too.
    pub(super) several_masks: Vec<bool>,
    pub(super) tokenize_seconds: f64,
}

/// Prompts to requests under the job's settings.
pub(super) struct RowEncoder<'a> {
    tokenizer: &'a GlmTokenizer,
    lengths: Lengths,
    prompt: &'a PromptSpec,
    /// The job's settings as the rule of text has them.
    settings: Arc<GenerationSpec>,
    /// Its settings as they are written.
    job: &'a GenerationSpec,
    rules: Rules,
}

impl<'a> RowEncoder<'a> {
    /// An encoder of the job's rows.
    ///
    /// # Errors
    ///
    /// [`Error::Stop`](crate::error::Error::Stop) for a stop string of the job that no answer can hold.
    pub(super) fn new(spec: &'a JobSpec, model: &'a ModelFacts, rules: Rules) -> Result<Self> {
        let tokenizer = &*model.tokenizer;
        Ok(Self {
            tokenizer,
            lengths: model.lengths,
            prompt: &spec.prompt,
            settings: texts::of_job(&spec.generation, tokenizer, rules.text)?,
            job: &spec.generation,
            rules,
        })
    }

    /// Reads a window and encodes the wanted rows. A row's prompt is let go of as soon as it is encoded, unless
    /// `keeps` says otherwise for its place.
    pub(super) fn read(
        &self,
        source: &dyn PromptSource,
        span: &WindowSpan,
        wants: &(dyn Fn(&InputRow) -> bool + Sync),
        keeps: &(dyn Fn(usize) -> bool + Sync),
    ) -> Result<EncodedWindow> {
        let encoded: Vec<OnceLock<EncodedRow>> = (0..span.rows).map(|_| OnceLock::new()).collect();
        let (idle_rows, nanoseconds) = (AtomicU64::new(0), AtomicU64::new(0));
        let several_masks: Vec<AtomicBool> =
            (0..span.rows).map(|_| AtomicBool::default()).collect();
        let window = source.read_rows(span, &|position, row| {
            several_masks[position].store(self.has_several_masks(row), Ordering::Relaxed);
            if wants(row) {
                let started = Instant::now();
                let request = encoded[position].get_or_init(|| self.encode(row));
                idle_rows.fetch_add(is_idle(row, request).into(), Ordering::Relaxed);
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
            idle_rows: idle_rows.into_inner(),
            several_masks: several_masks
                .into_iter()
                .map(AtomicBool::into_inner)
                .collect(),
            tokenize_seconds: nanoseconds.into_inner() as f64 / 1e9 / threads,
        })
    }

    fn has_several_masks(&self, row: &InputRow) -> bool {
        let Ok(prompt) = &row.outcome else {
            return false;
        };
        let texts = [Some(prompt.text.as_str()), prompt.prefix.as_deref()];
        let masks = texts
            .into_iter()
            .flatten()
            .map(|text| self.tokenizer.masks(text));
        masks.sum::<usize>() > 1
    }

    /// The request of a row, or why it has none.
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
        let settings =
            self.job
                .with_overrides(&prompt.overrides)
                .map_err(|flaw| match self.rules.rows {
                    1 => flaw.reason,
                    _ => flaw.to_string(),
                })?;
        texts::written(settings, self.tokenizer, self.rules.text)
            .map(Arc::new)
            .map_err(|(stop, error)| {
                let (stop, reason) = (stop.escape_debug(), error.reason);
                format!("`stop` holds `{stop}`, which no answer can hold: {reason}")
            })
    }
}

/// Whether a row sets what only drawing uses, and is not drawn.
fn is_idle(row: &InputRow, encoded: &EncodedRow) -> bool {
    let (Ok(prompt), Ok(request)) = (&row.outcome, encoded) else {
        return false;
    };
    let mut set = prompt
        .overrides
        .iter()
        .filter(|(_, value)| !value.is_null());
    let drawing = |key: &String| GenerationSpec::DRAWING_KEYS.contains(&key.as_str());
    !request.settings.do_sample && set.any(|(key, _)| drawing(key))
}
