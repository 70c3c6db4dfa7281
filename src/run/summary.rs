//! Outcomes to counts, counts of all shards to the report.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use super::prepare::Prepared;
use super::shard::Worker;
use crate::checkpoint::{self, Example, Totals};
use crate::error::Result;
use crate::fsio;
use crate::ids::{RowId, ShardId};
use crate::input::InputWindow;
use crate::outcome::{Completion, Outcome, Stage};
use crate::report::{CheckedFiles, FailureReason, RunReport, RunTimes, peak_memory_bytes};
use crate::sink;
use crate::tokenize::GlmTokenizer;

/// Rows that the first window of a shard keeps for the table, spread over it.
const KEPT_EXAMPLES: usize = 8;

/// Failed rows whose reasons are counted; of more, the first.
const COUNTED_FAILURES: usize = 1_000_000;

/// Counts of the rows of a window that have an outcome, and a few of them beside their references.
pub(super) fn of_window(
    prepared: &Prepared,
    tokenizer: &GlmTokenizer,
    window: &InputWindow,
    outcomes: &BTreeMap<RowId, Outcome>,
) -> (Totals, Vec<Example>) {
    let mut totals = Totals::default();
    let mut examples = Vec::new();
    let shows = window.id.0 < prepared.record.spec.shards;
    for (position, row) in window.rows.iter().enumerate() {
        let Some(outcome) = outcomes.get(&row.row) else {
            continue;
        };
        totals.rows += 1;
        count(&mut totals, outcome);
        let Some(reference) = &row.reference else {
            continue;
        };
        totals.referenced += 1;
        let (Ok(prompt), Outcome::Ok(completion)) = (&row.outcome, outcome) else {
            continue;
        };
        let answer = completion
            .samples
            .first()
            .map_or("", |sample| sample.text.trim());
        totals.exact += u64::from(answer == as_the_model_writes(tokenizer, reference));
        if shows && may_show(position, window.rows.len()) {
            examples.push(Example {
                question: prompt.text.clone(),
                completion: answer.to_owned(),
                reference: reference.clone(),
            });
        }
    }
    (totals, examples)
}

/// Whether the row at a place of a window with so many rows may be among the examples.
pub(super) fn may_show(position: usize, rows: usize) -> bool {
    position.is_multiple_of(rows.div_ceil(KEPT_EXAMPLES).max(1))
}

fn count(totals: &mut Totals, outcome: &Outcome) {
    match outcome {
        Outcome::Ok(completion) => {
            totals.ok += 1;
            totals.truncated += u64::from(completion.truncated > 0);
            totals.prompt_tokens += u64::from(completion.prompt_tokens);
            totals.completion_tokens += completion_tokens(completion);
        }
        Outcome::Failed(bad) if bad.stage == Stage::Generate => totals.failed += 1,
        Outcome::Failed(_) => totals.bad += 1,
    }
}

fn completion_tokens(completion: &Completion) -> u64 {
    completion
        .samples
        .iter()
        .map(|sample| sample.token_ids.len() as u64)
        .sum()
}

/// A reference as it would come back from the model: the tokenizer turns `，` into `,`, say.
fn as_the_model_writes(tokenizer: &GlmTokenizer, reference: &str) -> String {
    tokenizer
        .decode(&tokenizer.encode(reference), true)
        .trim()
        .to_owned()
}

/// The report of a run: the whole job's counts, this run's times.
pub(super) fn report(
    prepared: &Prepared,
    worker: &Worker<'_>,
    wall: Duration,
) -> Result<RunReport> {
    let shards: Vec<ShardId> = prepared.shards().collect();
    let mut report = of_shards(prepared, worker, &shards)?;
    report.times.wall = wall.as_secs_f64();
    if report.totals.failed + report.totals.bad > 0 {
        report.failures = reasons(prepared);
    }
    Ok(report)
}

/// Why rows failed, the most frequent reason first, from the files of failed rows. Reasons that differ in numbers alone
/// count as one. It is a help: a file that cannot be read is passed over.
fn reasons(prepared: &Prepared) -> Vec<FailureReason> {
    let windows = checkpoint::committed_windows(&prepared.folder).unwrap_or_default();
    let files = windows.iter().filter_map(|window| window.failed.as_ref());
    let rows = files
        .filter_map(|file| sink::read_part(&prepared.folder.entry(&file.name)).ok())
        .flatten()
        .flatten();
    let mut found: BTreeMap<(String, String), FailureReason> = BTreeMap::new();
    for row in rows.take(COUNTED_FAILURES) {
        let text = |key: &str| {
            row.get(key)
                .and_then(|value| value.as_str())
                .unwrap_or_default()
        };
        let (stage, reason) = (text("stage"), text("reason"));
        let kind = reason.replace(|c: char| c.is_ascii_digit(), "");
        let one = found
            .entry((stage.to_owned(), kind))
            .or_insert_with(|| FailureReason {
                rows: 0,
                stage: stage.to_owned(),
                reason: reason.to_owned(),
            });
        one.rows += 1;
    }
    let mut reasons: Vec<_> = found.into_values().collect();
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.rows));
    reasons
}

/// Writes what this run did for a shard to `report/shard-i.json`.
pub(super) fn write_shard(prepared: &Prepared, worker: &Worker<'_>, shard: ShardId) -> Result<()> {
    let report = of_shards(prepared, worker, &[shard])?;
    fsio::write_atomic(&prepared.folder.report(shard), |out| {
        serde_json::to_writer_pretty(&mut *out, &report)?;
        out.write_all(b"\n")
    })?;
    Ok(())
}

fn of_shards(prepared: &Prepared, worker: &Worker<'_>, shards: &[ShardId]) -> Result<RunReport> {
    let mut totals = worker.unfinished;
    let mut examples = Vec::new();
    let mut rows = 0;
    let mut finished = true;
    for &shard in shards {
        let manifest = prepared.manifest(shard)?;
        finished &= manifest.remaining(&prepared.index.windows).next().is_none();
        totals += manifest.totals();
        rows += prepared.shard_rows(shard);
        examples.extend(
            manifest
                .windows()
                .values()
                .flat_map(|window| window.examples.clone()),
        );
    }
    let spec = &prepared.record.spec;
    Ok(RunReport {
        job: spec.name.clone(),
        job_fingerprint: prepared.job.as_deref().map(str::to_owned),
        program: prepared.record.program.clone(),
        results: format!(
            "{} ({})",
            prepared.folder.parts().display(),
            prepared.sink.extension()
        ),
        folder: prepared.folder.root().display().to_string(),
        failures: Vec::new(),
        loading: Vec::new(),
        finished,
        job_rows: rows,
        totals,
        checked: CheckedFiles::default(),
        rows_now: worker.rows_now,
        duplicate_ids: worker.duplicates.duplicates(),
        duplicates_counted_to: worker.duplicates.stopped_after(),
        times: times(prepared, worker),
        engine: worker.engine_statistics(),
        foretold_seconds: foretold_seconds(prepared, worker),
        peak_memory_bytes: peak_memory_bytes(),
        compares: spec.input.columns.reference.is_some(),
        examples,
        notice: prepared.notice(),
    })
}

fn foretold_seconds(prepared: &Prepared, worker: &Worker<'_>) -> Option<f64> {
    let model = prepared.model.as_ref()?;
    let calibration = model.calibration()?;
    let engine = worker.engine_statistics();
    let devices = model.devices.len() as f64;
    let rows = (1.0 - engine.idle_share()) * engine.peak_slots as f64 / devices;
    let seconds = calibration.seconds(
        engine.prompt_tokens,
        engine.completion_tokens,
        rows.round() as usize,
    )?;
    Some(seconds / devices)
}

fn times(prepared: &Prepared, worker: &Worker<'_>) -> RunTimes {
    let engine = worker.engine_statistics();
    RunTimes {
        wall: worker.elapsed().as_secs_f64(),
        scan: prepared.scan_seconds,
        load: worker.load_seconds,
        read: worker.read_seconds,
        tokenize: worker.tokenize_seconds,
        prefill: engine.prefill_seconds,
        decode: engine.decode_seconds,
        sampling: engine.sampling_seconds,
        write: worker.write_seconds,
    }
}
