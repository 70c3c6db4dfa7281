//! An output folder to the progress of its job, from the files alone.

use serde::Serialize;

use crate::ids::ShardId;

use super::manifest::{Manifest, Totals};
use super::owner::{self, Owner};
use super::{CheckpointError, OutputFolder, StoredJob, journal};

/// Progress of a job.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// Name of the job.
    pub name: String,
    /// Input rows.
    pub rows: u64,
    /// Windows of the job.
    pub windows: u64,
    /// Whether all windows are committed.
    pub is_finished: bool,
    /// Counts of the committed windows of all shards.
    pub totals: Totals,
    /// Rows in the journals of open windows of all shards.
    pub journalled_rows: u64,
    /// Each shard.
    pub shards: Vec<ShardStatus>,
}

/// Progress of a shard.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShardStatus {
    /// Its number.
    pub shard: ShardId,
    /// Its input rows.
    pub rows: u64,
    /// Its windows.
    pub windows: u64,
    /// Windows that are committed.
    pub windows_done: u64,
    /// Counts of the committed windows.
    pub totals: Totals,
    /// Rows in the journals of its open windows.
    pub journalled_rows: u64,
    /// Who writes it.
    pub owner: Option<OwnerStatus>,
}

/// The writer of a shard.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OwnerStatus {
    /// Name of its machine.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// When it took the shard, milliseconds since the epoch.
    pub started_ms: u64,
    /// Time since its last heartbeat.
    pub heartbeat_age_seconds: f64,
}

/// Reads the progress of a job.
///
/// # Errors
///
/// [`CheckpointError::NoJob`], [`CheckpointError::Stranger`], [`CheckpointError::Damaged`],
/// [`CheckpointError::UnknownVersion`], [`CheckpointError::Fs`].
pub fn status(folder: &OutputFolder) -> Result<Status, CheckpointError> {
    let job = StoredJob::existing(folder)?;
    let record = &job.record;
    let shards = (0..record.spec.shards)
        .map(|shard| shard_status(folder, &job, ShardId(shard)))
        .collect::<Result<Vec<_>, _>>()?;
    let mut totals = Totals::default();
    for shard in &shards {
        totals += shard.totals;
    }
    Ok(Status {
        name: record.spec.name.clone(),
        rows: record.input.rows,
        windows: record.input.windows.len() as u64,
        is_finished: shards
            .iter()
            .all(|shard| shard.windows_done == shard.windows),
        totals,
        journalled_rows: shards.iter().map(|shard| shard.journalled_rows).sum(),
        shards,
    })
}

fn shard_status(
    folder: &OutputFolder,
    job: &StoredJob,
    shard: ShardId,
) -> Result<ShardStatus, CheckpointError> {
    let StoredJob {
        record,
        fingerprint,
    } = job;
    let manifest = Manifest::load_or_new(folder, fingerprint, shard, record.spec.shards)?;
    let spans = record.input.windows.iter();
    let own: Vec<_> = spans
        .filter(|span| span.id.shard(record.spec.shards) == shard)
        .collect();
    let mut journalled_rows = 0;
    for span in manifest.remaining(&record.input.windows) {
        journalled_rows += journal::count_rows(&folder.journal(span.id), fingerprint, u64::MAX)?;
    }
    Ok(ShardStatus {
        shard,
        rows: own.iter().map(|span| span.rows).sum(),
        windows: own.len() as u64,
        windows_done: manifest.windows().len() as u64,
        totals: manifest.totals(),
        journalled_rows,
        owner: Owner::read(&folder.owner(shard))
            .ok()
            .flatten()
            .map(OwnerStatus::new),
    })
}

impl OwnerStatus {
    fn new(owner: Owner) -> Self {
        let age = owner::now_ms().saturating_sub(owner.heartbeat_ms);
        Self {
            host: owner.host,
            pid: owner.pid,
            started_ms: owner.started_ms,
            heartbeat_age_seconds: age as f64 / 1000.0,
        }
    }
}
