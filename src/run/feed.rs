//! Windows to work, beside the engine: reading, templates, encoding.
//!
//! A window's rows are encoded in parallel, each as soon as it is read. A window is read when it is asked for, so that
//! memory holds no more than three, and mostly two.

use std::collections::HashSet;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};

use super::counts::{self, Noted, Sifting};
use super::ended::Ended;
use super::model_facts::ModelFacts;
use super::prepare::Prepared;
use super::trim;
use crate::checkpoint::{Cut, Journal, ShardLock};
use crate::engine::Request;
use crate::error::Result;
use crate::ids::RowId;
use crate::input::{self, InputRow, InputWindow, PromptSource, WindowSpan};
use crate::job::{JobSpec, OnBadRow, RowForm, Rules, Task};
use crate::outcome::{BadRow, Outcomes};
use crate::stop::StopFlag;
use crate::tasks::{self, Examples, Finish, JobTask, RowTask, TaskJob};
use crate::tokenize::GlmTokenizer;

/// A window that is ready for the engine.
pub(super) struct FedWindow {
    pub(super) span: WindowSpan,
    pub(super) window: InputWindow,
    /// Rows that have an outcome already: from the journal, or bad.
    pub(super) ended: Ended,
    /// Rows of `ended` that came from the journal.
    pub(super) recovered: usize,
    pub(super) requests: Vec<Request>,
    /// What becomes of what the model finds, by row in their order; `None` once it was found.
    pub(super) pending: Vec<(RowId, Option<Finish>)>,
    /// Rows whose own settings for drawing do nothing.
    pub(super) idle_rows: u64,
    pub(super) sifting: Sifting,
    /// The first bad row, where the job stops at it.
    pub(super) stop_at: Option<usize>,
    pub(super) cut: Option<Cut>,
    pub(super) read_seconds: f64,
    pub(super) tokenize_seconds: f64,
}

/// What the feeder sends.
pub(super) type Fed = Result<Box<FedWindow>>;

/// The feeder's ends of the channels.
pub(super) struct Feed {
    /// Says that one more window is to be read.
    pub(super) asked: Receiver<()>,
    /// Takes what was read.
    pub(super) sender: Sender<Fed>,
}

/// Reads and encodes the given windows in order, each when it is asked for, until all are sent or the other end is gone.
pub(super) fn feed(
    prepared: &Prepared,
    model: &ModelFacts,
    lock: &ShardLock,
    windows: &[WindowSpan],
    stop: &StopFlag,
    to: &Feed,
) {
    for span in windows {
        if to.asked.recv().is_err() || stop.is_requested() {
            return;
        }
        // What the window before has left so far, and then what reading has worked with.
        trim::give_back();
        let Some(fed) = feed_window(prepared, model, lock, span, stop).transpose() else {
            return;
        };
        trim::give_back();
        let failed = fed.is_err();
        if to.sender.send(fed.map(Box::new)).is_err() || failed {
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
    let ended = Ended::new(journal, outcomes);
    let started = Instant::now();
    let spec = &prepared.record.spec;
    let examples = prepared.examples.as_deref();
    let encoder = RowEncoder::new(spec, model, prepared.record.rules, examples)?;
    let read = encoder.read(
        prepared.source.as_ref(),
        span,
        &|row| !ended.has(row.row) && !stop.is_requested(),
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
        sifting,
        tokenize_seconds,
    } = read?;
    let mut fed = FedWindow {
        idle_rows,
        sifting,
        span: span.clone(),
        recovered: ended.len(),
        window,
        ended,
        requests: Vec::with_capacity(rows.len()),
        pending: Vec::with_capacity(rows.len()),
        stop_at: None,
        cut,
        read_seconds: started.elapsed().as_secs_f64() - tokenize_seconds,
        tokenize_seconds,
    };
    for (position, row) in rows.into_iter().enumerate() {
        match row {
            Some(Ok(RowTask { work, finish, .. })) => {
                let row = fed.window.rows[position].row;
                fed.requests.push(Request { row, work });
                fed.pending.push((row, Some(finish)));
            }
            Some(Err(bad)) => {
                if spec.input.on_bad_row == OnBadRow::Stop {
                    fed.stop_at.get_or_insert(position);
                }
                fed.ended.refuse(fed.window.rows[position].row, bad);
            }
            None => {}
        }
    }
    Ok(Some(fed))
}

/// What a row asks for, or why it asks for nothing.
pub(super) type PlannedRow = std::result::Result<RowTask, BadRow>;

/// A window and the work of its rows.
pub(super) struct EncodedWindow {
    pub(super) window: InputWindow,
    /// By place in the window; `None` where the row was not wanted.
    pub(super) rows: Vec<Option<PlannedRow>>,
    /// Rows whose own settings for drawing do nothing.
    pub(super) idle_rows: u64,
    /// Of rows that were not wanted too.
    pub(super) sifting: Sifting,
    pub(super) tokenize_seconds: f64,
}

/// Rows to the work that the job's task makes of them.
pub(super) struct RowEncoder<'a> {
    tokenizer: &'a GlmTokenizer,
    task: Box<dyn JobTask + 'a>,
    /// What goes before the prompts.
    examples: Option<&'a Examples>,
    /// Whether the task fills all masks of a prompt, so that several are nothing to tell of.
    fills_masks: bool,
    /// Whether rows are requests, which have names of their own for settings.
    has_requests: bool,
    /// The choices of rows that have none of their own, where the task picks one.
    choices: Option<&'a [String]>,
}

impl<'a> RowEncoder<'a> {
    /// An encoder of the job's rows.
    ///
    /// # Errors
    ///
    /// What the task cannot do: [`Error::Stop`](crate::error::Error::Stop) for a stop string of the job that no answer
    /// can hold, for example.
    pub(super) fn new(
        spec: &'a JobSpec,
        model: &'a ModelFacts,
        rules: Rules,
        examples: Option<&'a Examples>,
    ) -> Result<Self> {
        let tokenizer = &*model.tokenizer;
        let job = TaskJob {
            spec,
            tokenizer,
            lengths: model.lengths,
            rules,
        };
        Ok(Self {
            tokenizer,
            fills_masks: spec.task == Task::Infill,
            has_requests: spec.input.format == RowForm::OpenaiBatch,
            choices: spec.choose.as_ref().map(|choose| choose.choices.as_slice()),
            task: tasks::of(spec.task).open(&job)?,
            examples,
        })
    }

    /// Reads a window without the rows that the job leaves out, and encodes the wanted ones. A row's prompt is let go of as soon as it is encoded, unless
    /// `keeps` says otherwise for its place.
    pub(super) fn read(
        &self,
        source: &dyn PromptSource,
        span: &WindowSpan,
        wants: &(dyn Fn(&InputRow) -> bool + Sync),
        keeps: &(dyn Fn(usize) -> bool + Sync),
    ) -> Result<EncodedWindow> {
        let encoded: Vec<OnceLock<PlannedRow>> = (0..span.rows).map(|_| OnceLock::new()).collect();
        let (idle_rows, nanoseconds) = (AtomicU64::new(0), AtomicU64::new(0));
        let notes: Vec<OnceLock<Noted>> = (0..span.rows).map(|_| OnceLock::new()).collect();
        let mut window = source.read_rows(span, &|position, row| {
            if row.left_out.is_some() {
                return;
            }
            let mut noted = Noted {
                has_several_masks: self.has_several_masks(row),
                has_equal_choices: self.has_equal_choices(row),
                has_passed_over: row.outcome.as_ref().is_ok_and(|row| row.has_passed_over),
                ..Noted::default()
            };
            let is_wanted = wants(row);
            // How many examples fit decides the prompt and the counts of rows that have their result too.
            if is_wanted || self.examples.is_some() {
                let started = Instant::now();
                let planned = self.encode(row, &mut noted);
                if is_wanted {
                    let is_idle = planned.as_ref().is_ok_and(|row| row.has_idle_settings);
                    idle_rows.fetch_add(is_idle.into(), Ordering::Relaxed);
                    encoded[position].get_or_init(|| planned);
                }
                let spent = started.elapsed().as_nanos() as u64;
                nanoseconds.fetch_add(spent, Ordering::Relaxed);
            }
            notes[position].get_or_init(|| noted);
            if !keeps(position) {
                row.release();
            }
        })?;
        let sifted = window.sift()?;
        let places = 0..span.rows as usize;
        let may_show = places.map(|place| counts::may_show(place, span.rows as usize));
        let noted = notes
            .into_iter()
            .map(|noted| noted.into_inner().unwrap_or_default());
        let threads = rayon::current_num_threads() as f64;
        Ok(EncodedWindow {
            window,
            rows: sifted.of(encoded.into_iter().map(OnceLock::into_inner).collect()),
            idle_rows: idle_rows.into_inner(),
            sifting: Sifting {
                left_out: sifted.left_out,
                noted: sifted.of(noted.collect()),
                may_show: sifted.of(may_show.collect()),
            },
            tokenize_seconds: nanoseconds.into_inner() as f64 / 1e9 / threads,
        })
    }

    fn has_several_masks(&self, row: &InputRow) -> bool {
        let Ok(prompt) = &row.outcome else {
            return false;
        };
        if self.fills_masks {
            return false;
        }
        let texts = [Some(prompt.text.as_str()), prompt.prefix.as_deref()];
        let masks = texts
            .into_iter()
            .flatten()
            .map(|text| self.tokenizer.masks(text));
        masks.sum::<usize>() > 1
    }

    fn has_equal_choices(&self, row: &InputRow) -> bool {
        let (Some(of_job), Ok(prompt)) = (self.choices, &row.outcome) else {
            return false;
        };
        let choices = match prompt.following.as_slice() {
            [] => of_job,
            own => own,
        };
        let mut seen = HashSet::new();
        choices.iter().any(|choice| !seen.insert(choice))
    }

    /// The work of a row, or why it has none. As many of its examples as fit go before its prompt.
    pub(super) fn encode(&self, row: &mut InputRow, noted: &mut Noted) -> PlannedRow {
        let planned = self.work(row, noted);
        if !self.has_requests {
            return planned;
        }
        planned.map_err(|bad| BadRow {
            reason: input::in_its_words(&bad.reason),
            ..bad
        })
    }

    fn work(&self, row: &mut InputRow, noted: &mut Noted) -> PlannedRow {
        let prompt = row.outcome.as_mut().map_err(|bad| bad.clone())?;
        let Some(examples) = self.examples else {
            return self.task.work(row.row, prompt);
        };
        let shots = examples.of(row.row, prompt);
        noted.has_few_shots = shots.len() < examples.wanted();
        let mut kept = shots.len();
        loop {
            let whole = shots.before(prompt, kept);
            let planned = self.task.work(row.row, &whole);
            let fits = planned.as_ref().is_ok_and(|row| !row.work.is_truncated());
            if fits || kept == 0 {
                noted.drops_shots = kept < shots.len();
                *prompt = whole.into();
                return planned;
            }
            kept -= 1;
        }
    }
}
