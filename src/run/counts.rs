//! What a run counts: rows with their outcomes, times, and a few answers beside their references.
//!
//! `shard` writes the counts and `summary` reads them, so that neither needs the other.

use std::io;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::checkpoint::{Example, GroupTotals, Totals};
use crate::engine::EngineStatistics;
use crate::input::{DuplicateIds, InputRow, InputWindow, Reference};
use crate::job::JobSpec;
use crate::metrics;
use crate::outcome::{LeftOutRows, Outcome, Outcomes, Stage};
use crate::tasks::{self, TaskKind};
use crate::tokenize::GlmTokenizer;

/// Rows that the first window of a shard keeps for the table, spread over it.
const KEPT_EXAMPLES: usize = 8;

/// Rows of a window that are counted before they are added up: the sums of one row take much memory, because each carries
/// its name.
const ROWS_AT_ONCE: usize = 256;

/// What a job counts of its prompts.
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is counted on its own, and a prompt may have any of them"
)]
pub(super) struct Noted {
    /// Whether the prompt has more than one mask.
    pub(super) has_several_masks: bool,
    /// Whether two of the choices are the same text.
    pub(super) has_equal_choices: bool,
    /// Whether the request has keys that say nothing of the answer.
    pub(super) has_passed_over: bool,
    /// Whether examples were left out, because the prompt would have been too long with them.
    pub(super) drops_shots: bool,
    /// Whether the file of examples has fewer for the row than the job asks for.
    pub(super) has_few_shots: bool,
}

/// What a run has done so far, apart from what the manifests say: all of its shards together.
pub(super) struct Counts {
    started: Instant,
    pub(super) duplicates: DuplicateIds,
    pub(super) rows_now: u64,
    pub(super) failed_now: u64,
    /// Answer tokens of the rows that this run finished; an answer that rows share counts for each of them.
    pub(super) tokens_written: u64,
    /// Rows whose own settings for drawing do nothing.
    pub(super) idle_rows: u64,
    /// Committed files that were looked at before the work.
    pub(super) checked_files: u64,
    /// Finished rows of windows that were still open when the last shard's work ended.
    pub(super) unfinished: Totals,
    pub(super) load_seconds: f64,
    pub(super) read_seconds: f64,
    pub(super) tokenize_seconds: f64,
    pub(super) write_seconds: f64,
}

impl Counts {
    /// Those of a run that begins now, after so many seconds of looking at the model.
    pub(super) fn new(load_seconds: f64) -> Self {
        Self {
            started: Instant::now(),
            duplicates: DuplicateIds::new(),
            rows_now: 0,
            failed_now: 0,
            tokens_written: 0,
            idle_rows: 0,
            checked_files: 0,
            unfinished: Totals::default(),
            load_seconds,
            read_seconds: 0.0,
            tokenize_seconds: 0.0,
            write_seconds: 0.0,
        }
    }

    /// Time since the work began.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

/// What the phases of a job did in a run, beside the counts of its last step.
#[derive(Default)]
pub(super) struct Done {
    pub(super) engine: EngineStatistics,
    tokens_written: u64,
    load_seconds: f64,
    read_seconds: f64,
    tokenize_seconds: f64,
    write_seconds: f64,
}

impl Done {
    /// Adds what one more phase did.
    pub(super) fn add(&mut self, counts: &Counts, engine: &EngineStatistics) {
        self.engine.follow(engine);
        self.tokens_written += counts.tokens_written;
        self.load_seconds += counts.load_seconds;
        self.read_seconds += counts.read_seconds;
        self.tokenize_seconds += counts.tokenize_seconds;
        self.write_seconds += counts.write_seconds;
    }
}

impl Counts {
    /// Adds the times and the tokens of the phases before.
    pub(super) fn add_phases(&mut self, done: &Done) {
        self.tokens_written += done.tokens_written;
        self.load_seconds += done.load_seconds;
        self.read_seconds += done.read_seconds;
        self.tokenize_seconds += done.tokenize_seconds;
        self.write_seconds += done.write_seconds;
    }
}

/// Counts of the rows of a window that have an outcome, and a few of them beside their references. The first
/// window of each shard keeps such rows for the table at the end.
///
/// # Errors
///
/// An outcome that cannot be read again.
pub(super) fn of_window(
    spec: &JobSpec,
    tokenizer: &GlmTokenizer,
    window: &InputWindow,
    outcomes: &dyn Outcomes,
    sifting: &Sifting,
) -> io::Result<(Totals, Vec<Example>)> {
    let mut totals = Totals {
        rows: sifting.left_out.total(),
        left_out: sifting.left_out,
        ..Totals::default()
    };
    let task = tasks::of(spec.task);
    // What a job of phases compares with the reference are the samples, in their own phase.
    let compares = spec.input.columns.reference.is_some() && spec.phases().is_empty();
    if compares {
        metrics::begin(&mut totals.sums);
    }
    let shows = window.id.0 < spec.shards;
    let mut examples = Vec::new();
    // Metrics look at pairs of tokens: rows are counted in parallel, and added up in their order.
    for first in (0..window.rows.len()).step_by(ROWS_AT_ONCE) {
        let behind = window.rows.len().min(first + ROWS_AT_ONCE);
        let counted = (first..behind).into_par_iter().map(|place| {
            let row = &window.rows[place];
            let Some(outcome) = outcomes.outcome(row.row)? else {
                return Ok(None);
            };
            let reference = row.reference.as_ref().filter(|_| compares);
            let is_shown = shows && is_set(&sifting.may_show, place);
            let counted = CountedRow::new(task, tokenizer, row, reference, &outcome, is_shown);
            Ok(Some((outcome, counted)))
        });
        let counted: Vec<_> = counted.collect::<io::Result<_>>()?;
        for (place, counted) in (first..).zip(counted) {
            let Some((outcome, counted)) = counted else {
                continue;
            };
            let row = &window.rows[place];
            totals.rows += 1;
            totals.broken += u64::from(!row.is_record);
            count(&mut totals, &outcome);
            if let (Some(noted), Ok(_)) = (sifting.noted.get(place), outcome.result()) {
                totals.several_masks += u64::from(noted.has_several_masks);
                totals.equal_choices += u64::from(noted.has_equal_choices);
                totals.passed_over += u64::from(noted.has_passed_over);
                totals.shots_dropped += u64::from(noted.drops_shots);
            }
            totals.referenced += counted.totals.referenced;
            totals.exact += counted.totals.exact;
            totals.sums += &counted.totals.sums;
            if spec.report.by.is_some() {
                totals.add_to_group(row.group.as_deref().unwrap_or_default(), &counted.totals);
            }
            examples.extend(counted.example);
        }
    }
    Ok((totals, examples))
}

/// What one row adds to the counts.
struct CountedRow {
    totals: GroupTotals,
    /// The row beside its reference or as a pair, where it is to be shown.
    example: Option<Example>,
}

impl CountedRow {
    fn new(
        task: &dyn TaskKind,
        tokenizer: &GlmTokenizer,
        row: &InputRow,
        reference: Option<&Reference>,
        outcome: &Outcome,
        is_shown: bool,
    ) -> Self {
        let mut totals = GroupTotals {
            rows: 1,
            ..GroupTotals::default()
        };
        // A row that failed has not got it right.
        totals.referenced = u64::from(reference.is_some());
        let Ok(result) = outcome.result() else {
            return Self {
                totals,
                example: None,
            };
        };
        totals.ok = 1;
        task.count(result, &mut totals.sums);
        if let Some(reference) = reference {
            let written = |text: &str| as_the_model_writes(tokenizer, text);
            totals.exact = u64::from(task.matches(result, reference, &written));
            let references: Vec<&str> = reference.texts().collect();
            metrics::count(&task.answers(result), &references, &mut totals.sums);
        }
        let example = row.outcome.as_ref().ok().filter(|_| is_shown);
        let example = example.and_then(|prompt| {
            let (completion, reference, rejected) = match (task.example(result), reference) {
                (Some([chosen, rejected]), _) => (chosen, String::new(), Some(rejected)),
                (None, Some(reference)) => {
                    let answer = result.answer().unwrap_or_default().trim();
                    (answer.to_owned(), reference.text.to_string(), None)
                }
                (None, None) => return None,
            };
            Some(Example {
                question: prompt.text.clone(),
                completion,
                reference,
                rejected,
            })
        });
        Self { totals, example }
    }
}

fn is_set(values: &[bool], place: usize) -> bool {
    values.get(place).is_some_and(|value| *value)
}

/// What is known of the rows of a window since it was read, by their place among those that are not left out.
#[derive(Default)]
pub(super) struct Sifting {
    pub(super) left_out: LeftOutRows,
    /// What the job counts of the prompts.
    pub(super) noted: Vec<Noted>,
    /// Whether the row may be among the examples.
    pub(super) may_show: Vec<bool>,
}

/// Whether the row at a place of a window with so many rows may be among the examples.
pub(super) fn may_show(position: usize, rows: usize) -> bool {
    position.is_multiple_of(rows.div_ceil(KEPT_EXAMPLES).max(1))
}

fn count(totals: &mut Totals, outcome: &Outcome) {
    match outcome {
        Outcome::Ok(result) => {
            let row = result.counts();
            totals.ok += 1;
            totals.truncated += u64::from(row.is_truncated);
            totals.prompt_tokens += row.prompt_tokens;
            totals.completion_tokens += row.completion_tokens;
        }
        Outcome::Failed(bad) => match bad.stage {
            Stage::Generate | Stage::Read => totals.failed += 1,
            Stage::Input | Stage::Template | Stage::Tokenize => totals.bad += 1,
        },
    }
}

/// A reference as it would come back from the model: the tokenizer turns `，` into `,`, say.
pub(super) fn as_the_model_writes(tokenizer: &GlmTokenizer, reference: &str) -> String {
    tokenizer
        .decode(&tokenizer.encode(reference), true)
        .trim()
        .to_owned()
}
