//! The pipeline: the only place that wires the stages together.
//!
//! ```text
//! prepare   job file, input index, tokenizer, job.json        once
//!           read: the input; rerun: this run beside the record
//! earlier   folders of other jobs' results -> their parts     read, plan ask it
//! phase     phases of a job, each a job of its own            before the shards, where the task has any
//!           phase_results: a committed window -> rows; sampled: input and samples -> source; pairs: -> results
//! feed      window -> prompts -> encoded requests             its own thread, rayon inside
//! shard     requests -> engine -> journal -> part -> manifest the calling thread
//! deadline  lengths of the answers so far -> when to stop     shard asks it
//! counts    what a run has done so far                        shard writes, summary reads
//! summary   manifests and counts -> RunReport                 once
//! open_rows journals -> rows, for `show`                  on demand
//! measure_again  parts and input -> metrics, for `report` on demand
//! card      a finished job -> README.md of the output folder  once
//! ```

mod card;
mod counts;
mod deadline;
mod earlier;
mod encode;
mod ended;
mod feed;
mod load;
mod measure_again;
mod model_facts;
mod open_rows;
mod options;
mod pairs;
mod phase;
mod phase_results;
mod plan;
mod prepare;
mod prompts;
mod read;
mod rerun;
mod sampled;
mod shard;
mod summary;
mod texts;
mod trim;

use std::collections::BTreeMap;
use std::time::Instant;

pub(crate) use earlier::input_files;
pub(crate) use encode::JobEncoder;
pub(crate) use measure_again::{Columns, measured};
pub(crate) use open_rows::OpenRows;
pub use options::{RunEnd, RunOptions};
pub(crate) use plan::check_columns;
pub use plan::{PhasePlan, PlanReport, plan};
pub(crate) use prompts::{Prompts, input_types};
pub(crate) use summary::failure_reasons;

use crate::checkpoint::{
    self, CheckpointError, Fresh, LockOptions, Manifest, OutputFolder, Problem, ProblemKind,
    ShardLock,
};
use crate::error::{Error, Result};
use crate::ids::ShardId;
use crate::job::JobSpec;
use crate::report::{CheckedFiles, Observer, RunReport, counted};
use crate::shell::shell_word;
use crate::stop::StopFlag;

use prepare::Prepared;
use shard::{ShardEnd, ShardRows, Worker};

/// Files that are named where there are many.
const NAMED_FILES: usize = 5;

/// Runs a job, or goes on with it.
///
/// # Errors
///
/// Any stage's error. Whatever it is, the checkpoint stays valid.
pub fn run(
    spec: &JobSpec,
    options: &RunOptions,
    stop: &StopFlag,
    observer: &mut dyn Observer,
) -> Result<(RunReport, RunEnd)> {
    let started = Instant::now();
    check_shard(spec, options)?;
    let folder = empty_folder(spec, options, stop, observer)?;
    if options.verify {
        check_contents(&folder, options, stop)?;
    }
    check_phases(&folder, options)?;
    let fresh = Fresh::look(&folder);
    let prepared = match Prepared::new(spec, options, folder, stop, observer) {
        Ok(prepared) => prepared,
        Err(error) => {
            fresh.take_back();
            return Err(error);
        }
    };
    warn_of_strays(&prepared, options, observer)?;
    let shards = asked_shards(&prepared, options);
    let phased = phase::run(&prepared, options, &shards, stop, observer)?;
    let mut worker = Worker::new(&prepared, spec, stop, options, observer);
    let end = match phased.end {
        Some(end) if phased.shards.is_empty() => Ok(end),
        _ => run_shards(&prepared, options, &mut worker, &phased.shards),
    };
    worker.note_idle_rows();
    worker.observer.finish();
    let end = match (end?, phased.end) {
        (RunEnd::Finished { .. }, Some(earlier)) => earlier,
        (end, _) => end,
    };
    let mut engine = phased.done.engine.clone();
    engine.follow(&worker.engine_statistics());
    worker.counts.add_phases(&phased.done);
    let wall = started.elapsed();
    let observer = &mut *worker.observer;
    let mut report = summary::report(&prepared, &worker.counts, engine, wall, observer)?;
    report.checked = CheckedFiles {
        files: worker.counts.checked_files,
        content: options.verify,
    };
    if report.finished && report.job_rows > 0 && report.totals.taken() == 0 {
        worker
            .observer
            .note("warning: `input.where`, `input.skip` and `input.limit` leave no row to work on");
    }
    if report.finished {
        card::finish(&prepared, &mut report, worker.observer);
    }
    Ok((report, end))
}

fn check_shard(spec: &JobSpec, options: &RunOptions) -> Result<()> {
    let Some((shard, shards)) = options.shard else {
        return Ok(());
    };
    if shards != spec.shards {
        return Err(Error::Usage(format!(
            "`--shard {shard}/{shards}` does not fit a job with `shards = {}`\nhint: set `shards = {shards}` in the job file before its first run",
            spec.shards
        )));
    }
    if shard >= shards {
        return Err(Error::Usage(format!(
            "`--shard {shard}/{shards}`: shards count from 0 to {}",
            shards - 1
        )));
    }
    if options.restart && shards > 1 {
        return Err(Error::Usage(
            "`--restart` with `--shard` would take the results of the other shards away\nhint: run `--restart` once without `--shard`".to_owned(),
        ));
    }
    Ok(())
}

/// The output folder, emptied where the options ask for that.
fn empty_folder(
    spec: &JobSpec,
    options: &RunOptions,
    stop: &StopFlag,
    observer: &mut dyn Observer,
) -> Result<OutputFolder> {
    let locks = LockOptions {
        break_lock: options.break_lock,
        stop: stop.clone(),
        ..LockOptions::default()
    };
    let path = &spec.output.path;
    if options.trial.is_some() {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".trial");
        let trial = path.with_file_name(name);
        checkpoint::discard(&trial, &locks)?;
        return Ok(OutputFolder::at(&trial));
    }
    if options.restart
        && let Some(old) = checkpoint::restart(path, &locks)?
    {
        observer.note(&format!("the old results are in `{}` now", old.display()));
    }
    Ok(OutputFolder::at(path))
}

/// Refuses files that are not as they were written.
fn check_contents(folder: &OutputFolder, options: &RunOptions, stop: &StopFlag) -> Result<()> {
    if !folder.job_file().is_file() {
        return Ok(());
    }
    let only = options.shard.map(|(shard, _)| ShardId(shard));
    let problems = checkpoint::verify_shards(folder, only, stop)?.problems;
    if problems.is_empty() {
        return Ok(());
    }
    Err(unsound(folder, &problems))
}

/// Refuses a job whose phases have lost what the results are made of: a run takes nothing out that is committed.
fn check_phases(folder: &OutputFolder, options: &RunOptions) -> Result<()> {
    let only = options.shard.map(|(shard, _)| ShardId(shard));
    let problems = checkpoint::check_phases(folder, only)?;
    if problems.is_empty() {
        return Ok(());
    }
    Err(unsound(folder, &problems))
}

fn unsound(folder: &OutputFolder, problems: &[Problem]) -> Error {
    let is_lost = problems
        .iter()
        .any(|problem| problem.kind == ProblemKind::Job);
    let lines = named(problems.iter().map(ToString::to_string).collect());
    let path = shell_word(&folder.root().to_string_lossy());
    let error = CheckpointError::Unsound {
        folder: folder.root().to_path_buf(),
        problems: lines.join("\n  "),
        cure: if is_lost {
            "begin anew with `glm-batch run --restart`; everything that is there is kept beside"
                .to_owned()
        } else {
            format!(
                "`glm-batch verify {path} --repair` mends what can be mended and takes the rest out; then run the job again"
            )
        },
    };
    error.into()
}

/// Says which files readers of the results would take for results of the job.
fn warn_of_strays(
    prepared: &Prepared,
    options: &RunOptions,
    observer: &mut dyn Observer,
) -> Result<()> {
    let Prepared {
        folder,
        job,
        record,
        ..
    } = prepared;
    let strays = checkpoint::strays(folder, job, record, &asked_shards(prepared, options))?;
    let warnings = strays.iter().map(|path| {
        format!(
            "warning: `{}` belongs to no window of the job, and readers of the folder take it for results; `glm-batch verify {} --repair` moves it away",
            path.display(),
            folder.root().display()
        )
    });
    for warning in named(warnings.collect()) {
        observer.note(&warning);
    }
    Ok(())
}

/// The first lines of many, and how many more there are.
fn named(mut lines: Vec<String>) -> Vec<String> {
    let more = lines.len().saturating_sub(NAMED_FILES);
    lines.truncate(NAMED_FILES);
    if more > 0 {
        lines.push(format!("and {}", counted(more as u64, "more file")));
    }
    lines
}

/// The shards that the options ask for.
fn asked_shards(prepared: &Prepared, options: &RunOptions) -> Vec<ShardId> {
    match options.shard {
        Some((shard, _)) => vec![ShardId(shard)],
        None => prepared.shards().collect(),
    }
}

fn run_shards(
    prepared: &Prepared,
    options: &RunOptions,
    worker: &mut Worker<'_>,
    shards: &[ShardId],
) -> Result<RunEnd> {
    let mut already = true;
    let mut waiting = shards.to_vec();
    let of_shard = |&shard: &ShardId| (shard, rows_of(prepared, shard));
    let mut rows: BTreeMap<ShardId, ShardRows> = shards.iter().map(of_shard).collect();
    // A shard that another process held may be free, or finished, by the time the others are done.
    for _ in 0..2 {
        let mut held = Vec::new();
        for shard in waiting {
            worker.elsewhere = elsewhere(&rows, shard);
            match run_shard(prepared, options, worker, shard) {
                Ok(ShardEnd::AlreadyFinished) => {}
                Ok(ShardEnd::Finished) => {
                    already = false;
                    rows.insert(shard, rows_of(prepared, shard));
                }
                Ok(ShardEnd::Stopped(end)) => return Ok(end),
                Err(Error::Checkpoint(CheckpointError::Locked { .. }))
                    if options.shard.is_none() && prepared.record.spec.shards > 1 =>
                {
                    // Another process does its rows, so that this one need not say how long they take.
                    rows.remove(&shard);
                    held.push(shard);
                }
                Err(error) => return Err(error),
            }
        }
        waiting = held;
    }
    Ok(
        match (waiting.first(), prepared.shard_that_all_failed(shards)?) {
            (Some(&shard), _) => RunEnd::Locked(shard),
            (None, Some(shard)) => RunEnd::AllFailed(shard),
            (None, None) => RunEnd::Finished { already },
        },
    )
}

/// The rows of a shard, and how many of them are committed by now.
fn rows_of(prepared: &Prepared, shard: ShardId) -> ShardRows {
    // A manifest that cannot be read stops the run at its shard: those before it are done first.
    let manifest = prepared.manifest(shard).ok();
    let totals = manifest.as_ref().map(Manifest::totals);
    ShardRows {
        rows: prepared.shard_rows(shard),
        committed: totals.map_or(0, |totals| totals.rows),
        left_out: totals.map_or(0, |totals| totals.left_out.total()),
    }
}

/// The rows of all shards but one.
fn elsewhere(rows: &BTreeMap<ShardId, ShardRows>, shard: ShardId) -> ShardRows {
    let mut all = ShardRows::default();
    for (_, rows) in rows.iter().filter(|(other, _)| **other != shard) {
        all.rows += rows.rows;
        all.committed += rows.committed;
        all.left_out += rows.left_out;
    }
    all
}

fn run_shard(
    prepared: &Prepared,
    options: &RunOptions,
    worker: &mut Worker<'_>,
    shard: ShardId,
) -> Result<ShardEnd> {
    let manifest = prepared.manifest(shard)?;
    if manifest.remaining(&prepared.index.windows).next().is_none() {
        worker.counts.checked_files += checkpoint::check_sizes(&prepared.folder, &manifest)?;
        checkpoint::clean_finished(&prepared.folder, &manifest);
        let totals = manifest.totals();
        let failed = totals.failed + totals.bad;
        return Ok(match worker.max_failed() {
            Some(allowed) if failed > allowed => {
                ShardEnd::Stopped(RunEnd::TooManyFailed { failed, allowed })
            }
            _ => ShardEnd::AlreadyFinished,
        });
    }
    let stop = worker.stop.clone();
    let lock = LockOptions {
        break_lock: options.break_lock,
        stop: stop.clone(),
        ..LockOptions::default()
    };
    if let Some(wait) = ShardLock::awaits(&prepared.folder, shard, &lock) {
        worker.observer.note(&wait);
    }
    let lock = ShardLock::acquire(&prepared.folder, shard, &lock)?;
    if let Some(note) = lock.note() {
        worker.observer.note(note);
    }
    if let Some(warning) = lock.warning() {
        worker.observer.note(&format!("warning: {warning}"));
    }
    let end = run_locked(prepared, worker, &lock, shard);
    end.map_err(|error| taken_over(&lock, error))
}

fn run_locked(
    prepared: &Prepared,
    worker: &mut Worker<'_>,
    lock: &ShardLock,
    shard: ShardId,
) -> Result<ShardEnd> {
    // While the lock was not ours another process may have begun anew, or committed windows.
    prepared.job.ensure_current(&prepared.folder)?;
    let manifest = prepared.manifest(shard)?;
    worker.counts.checked_files += checkpoint::check_sizes(&prepared.folder, &manifest)?;
    checkpoint::check_journals(&prepared.folder, &prepared.job, &manifest)?;
    checkpoint::clean_leftovers(&prepared.folder, &manifest)?;
    worker.run(lock, manifest, shard)
}

/// Why the work on a shard ended early: what goes wrong after a takeover is the doing of the new owner,
/// which clears away what this process is writing.
fn taken_over(lock: &ShardLock, error: Error) -> Error {
    match lock.ensure_mine() {
        Err(taken @ CheckpointError::TakenOver { .. }) => taken.into(),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_wrong_after_a_takeover_is_its_doing() {
        let parent = tempfile::tempdir().unwrap();
        let folder = OutputFolder::open(parent.path()).unwrap();
        let lock = ShardLock::acquire(&folder, ShardId(0), &LockOptions::default()).unwrap();
        let gone = || {
            let cause = std::io::ErrorKind::NotFound.into();
            Error::Fs(crate::fsio::FsError::new("read", parent.path(), cause))
        };
        assert!(!taken_over(&lock, gone()).is_temporary());
        let other = r#"{"host":"elsewhere","pid":3,"started_ms":1,"heartbeat_ms":1,"beats":0}"#;
        std::fs::write(folder.owner(ShardId(0)), other).unwrap();
        let error = taken_over(&lock, gone());
        assert!(error.is_temporary(), "{error}");
        // It may have finished, and given the shard back, by then.
        std::fs::remove_file(folder.owner(ShardId(0))).unwrap();
        assert!(taken_over(&lock, gone()).is_temporary());
    }

    #[test]
    fn many_files_are_named_in_part() {
        let lines = named((0..7).map(|at| at.to_string()).collect());
        assert_eq!(lines, ["0", "1", "2", "3", "4", "and 2 more files"]);
        assert_eq!(named(vec!["a".to_owned()]), ["a"]);
    }
}
