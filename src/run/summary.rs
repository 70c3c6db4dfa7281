//! Counts of this run and of all manifests to the report.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use super::counts::Counts;
use super::measure_again::is_unmeasured;
use super::prepare::Prepared;
use crate::checkpoint::{self, CheckpointError, OutputFolder, ShardLock};
use crate::engine::EngineStatistics;
use crate::error::Result;
use crate::fsio;
use crate::ids::ShardId;
use crate::metrics::Metrics;
use crate::report::{
    CheckedFiles, FailureReason, Observer, RunReport, RunTimes, groups, peak_memory_bytes,
};
use crate::shell::shell_word;
use crate::sink;
use crate::stop::StopFlag;
use crate::tasks;

/// Failed rows whose reasons are counted; of more, the first.
const COUNTED_FAILURES: usize = 1_000_000;

/// The report of a run: the whole job's counts, this run's times.
pub(super) fn report(
    prepared: &Prepared,
    counts: &Counts,
    engine: EngineStatistics,
    wall: Duration,
    observer: &mut dyn Observer,
) -> Result<RunReport> {
    let shards: Vec<ShardId> = prepared.shards().collect();
    let mut report = of_shards(prepared, counts, engine, &shards)?;
    report.times.wall = wall.as_secs_f64();
    if report.totals.failed + report.totals.bad > 0 {
        let (failures, unread) = failure_reasons(&prepared.folder);
        report.failures = failures;
        for error in unread {
            observer.note(&format!("warning: {error}"));
        }
    }
    Ok(report)
}

/// Why rows failed, the most frequent reason first, from the files of failed rows. Reasons that differ in numbers alone
/// count as one. It is a help: a file that cannot be read, or is not as it was written, is passed over; the errors say
/// which those are.
pub(crate) fn failure_reasons(folder: &OutputFolder) -> (Vec<FailureReason>, Vec<CheckpointError>) {
    let windows = checkpoint::committed_windows(folder).unwrap_or_default();
    let files = windows.iter().filter_map(|window| window.failed.as_ref());
    let mut unread = Vec::new();
    let files = files.filter_map(|file| {
        let found = checkpoint::unchanged(folder, file, &StopFlag::default());
        found.map_err(|error| unread.push(error)).ok()
    });
    let rows = files
        .filter_map(|path| sink::read_part(&path).ok())
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
    (reasons, unread)
}

/// Writes what this run did for a shard to `report/shard-i.json`, unless another process has taken the shard over.
pub(super) fn write_shard(
    prepared: &Prepared,
    counts: &Counts,
    engine: EngineStatistics,
    lock: &ShardLock,
    shard: ShardId,
) -> Result<()> {
    if let Err(CheckpointError::TakenOver { .. }) = lock.ensure_mine() {
        // The new owner has a report of its own.
        return Ok(());
    }
    let report = of_shards(prepared, counts, engine, &[shard])?;
    fsio::write_atomic(&prepared.folder.report(shard), |out| {
        serde_json::to_writer_pretty(&mut *out, &report)?;
        out.write_all(b"\n")
    })?;
    Ok(())
}

fn of_shards(
    prepared: &Prepared,
    counts: &Counts,
    engine: EngineStatistics,
    shards: &[ShardId],
) -> Result<RunReport> {
    let mut totals = counts.unfinished.clone();
    let mut examples = Vec::new();
    let mut rows = 0;
    let mut has_unmeasured = false;
    let mut finished = true;
    let mut windows = BTreeMap::new();
    for &shard in shards {
        let manifest = prepared.manifest(shard)?;
        finished &= manifest.remaining(&prepared.index.windows).next().is_none();
        rows += prepared.shard_rows(shard);
        windows.extend(manifest.windows().clone());
    }
    if shards.len() == prepared.shards().count() {
        let behind = prepared.index.rows_behind();
        rows += behind;
        totals.add_behind(behind);
    }
    // In the order of the windows, so that sums are the same whatever the number of shards.
    for window in windows.into_values() {
        has_unmeasured |= is_unmeasured(&window.totals);
        totals += &window.totals;
        examples.extend(window.examples);
    }
    let spec = &prepared.record.spec;
    Ok(RunReport {
        job: spec.name.clone(),
        job_fingerprint: prepared.job.as_deref().map(str::to_owned),
        program: prepared.record.program.clone(),
        results: format!(
            "{} ({})",
            shell_word(&prepared.folder.parts().to_string_lossy()),
            prepared.sink.extension()
        ),
        folder: prepared.folder.root().display().to_string(),
        failures: Vec::new(),
        loading: Vec::new(),
        card: None,
        trial: prepared.record.trial.as_ref().map(|_| {
            "a trial: a run without `--limit` and `--sample` takes all rows of the job, and writes to `output.path`"
                .to_owned()
        }),
        finished,
        job_rows: rows,
        facts: tasks::of(spec.task).summary(&totals.sums),
        metrics: Metrics::of(&totals.sums),
        has_unmeasured,
        groups: groups(spec.task, &totals),
        totals,
        checked: CheckedFiles::default(),
        rows_now: counts.rows_now,
        tokens_written: counts.tokens_written,
        duplicate_ids: counts.duplicates.duplicates(),
        duplicates_counted_to: counts.duplicates.stopped_after(),
        times: times(prepared, counts, &engine),
        foretold_seconds: foretold_seconds(prepared, &engine),
        engine,
        peak_memory_bytes: peak_memory_bytes(),
        compares: spec.input.columns.reference.is_some(),
        examples,
        notice: prepared.notice(),
    })
}

fn foretold_seconds(prepared: &Prepared, engine: &EngineStatistics) -> Option<f64> {
    let model = prepared.model.as_ref()?;
    let calibration = model.calibration()?;
    let devices = model.devices.len() as f64;
    let seconds = calibration.seconds(
        engine.prompt_tokens,
        engine.completion_tokens,
        match engine.completion_tokens {
            0 => 1,
            _ => engine.slots_in_use().round() as usize,
        },
    )?;
    Some(seconds / devices)
}

fn times(prepared: &Prepared, counts: &Counts, engine: &EngineStatistics) -> RunTimes {
    RunTimes {
        wall: counts.elapsed().as_secs_f64(),
        scan: prepared.scan_seconds,
        load: counts.load_seconds,
        read: counts.read_seconds,
        tokenize: counts.tokenize_seconds,
        prefill: engine.prefill_seconds,
        decode: engine.decode_seconds,
        sampling: engine.sampling_seconds,
        write: counts.write_seconds,
    }
}
