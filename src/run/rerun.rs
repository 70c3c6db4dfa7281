//! A run beside the job that has begun in its folder: what is done already, and whether both are one job.
//!
//! Invariant: what `job.json` holds is never changed; a run whose facts differ is refused.

use crate::checkpoint::{
    self, CheckpointError, JobFingerprint, JobRecord, Manifest, ModelFile, OutputFolder, Resolved,
    StoredJob,
};
use crate::error::{Error, Result};
use crate::ids::ShardId;
use crate::job::{self, JobSpec, ModelSpec, Rules};
use crate::report::Observer;

use super::model_facts::model_file;
use super::options::RunOptions;

/// The rules that the job goes by: those of its first run.
pub(super) fn rules_of(first: Option<&JobRecord>, spec: &JobSpec) -> Rules {
    first.map_or_else(|| Rules::of_new(spec), |first| first.rules)
}

/// The job that has begun in the folder. Work without its record may be any job's.
pub(super) fn begun(folder: &OutputFolder) -> Result<Option<StoredJob>> {
    // Work is looked for first: where another host begins the job meanwhile, the record is there before it.
    let work = folder.first_work()?;
    let mut first = StoredJob::load(folder)?;
    if first.is_none() && work.is_some() {
        first = checkpoint::load_again(folder)?;
    }
    match (&first, work) {
        (Some(first), _) => checkpoint::check_manifests(folder, first.record.spec.shards)?,
        (None, Some(path)) => return Err(CheckpointError::NoRecord { path }.into()),
        (None, None) => {}
    }
    Ok(first)
}

/// Whether every asked-for window is committed.
pub(super) fn is_finished(
    options: &RunOptions,
    folder: &OutputFolder,
    first: &StoredJob,
) -> Result<bool> {
    let shards = first.record.spec.shards;
    for shard in (0..shards).filter(|&at| options.shard.is_none_or(|(asked, _)| asked == at)) {
        let manifest = Manifest::load_or_new(folder, &first.fingerprint, ShardId(shard), shards)?;
        let windows = &first.record.input.windows;
        if manifest.remaining(windows).next().is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether no file of the model has changed, so that a finished job need not look at it. One that is gone does
/// not matter any more.
pub(super) fn is_model_unchanged(now: &ModelSpec, first: &ModelSpec, resolved: &Resolved) -> bool {
    let is_unchanged =
        |known: &ModelFile| model_file(&known.path).is_none_or(|file| file.is(known));
    now.path == first.path
        && now.overlay == first.overlay
        && resolved.model_files.iter().all(is_unchanged)
}

/// Writes `job.json`, or holds this run against the one that is there.
pub(super) fn establish(
    folder: &OutputFolder,
    record: JobRecord,
    first: Option<StoredJob>,
    observer: &mut dyn Observer,
) -> Result<(JobRecord, JobFingerprint)> {
    let is_first = first.is_none() && record.create(folder)?;
    let StoredJob {
        record: first,
        fingerprint,
    } = match first {
        Some(first) => first,
        // Another host may have been faster, where locks do not reach from one to the other.
        None => StoredJob::existing(folder)?,
    };
    if is_first {
        return Ok((record, fingerprint));
    }
    let differences = job::differences(&first.spec, &record.spec);
    let differences = differences
        .into_iter()
        .map(|d| (d.key, d.first, d.now))
        .collect();
    let comparison = first.compare(&record, differences);
    for warning in &comparison.warnings {
        observer.note(&format!("warning: {warning}"));
    }
    if comparison.refused.is_empty() {
        // The index keeps the paths of now, the windows and hashes are equal.
        return Ok((record, fingerprint));
    }
    let lines: Vec<String> = comparison
        .refused
        .iter()
        .map(|difference| format!("  {difference}"))
        .collect();
    Err(Error::Refused {
        folder: folder.root().display().to_string(),
        differences: lines.join("\n"),
        cure: "set the values back, choose another `output.path`, or begin anew with `--restart` (the old results are kept beside)",
    })
}
