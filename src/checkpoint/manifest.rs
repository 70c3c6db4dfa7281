//! What a shard has committed: its windows, their files and totals.
//!
//! Invariant: the manifest names the job that it belongs to, windows belong to the shard and do not overlap; one that does not fit is refused and
//! changes nothing. One writer, the holder of the shard's lock. Every version that was ever written keeps
//! loading; `tests/fixtures/manifests` holds one of each.

use std::collections::BTreeMap;
use std::io::Write;

use serde::{Deserialize, Serialize};

use crate::fsio::{self, FileDigest};
use crate::ids::{ShardId, WindowId};
use crate::input::WindowSpan;

use super::totals::{Example, Totals};
use super::{CheckpointError, JobFingerprint, OutputFolder, StoredJob, seal};

const CURE: &str =
    "`glm-batch verify --repair` moves it away, the next run makes its windows again";

/// Versions of a manifest that can be read. Version 1 names no job and is still written beside a `job.json` of
/// version 1.
const KNOWN_VERSIONS: &[&str] = &["1", "2"];

/// What a shard has committed.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    job: JobFingerprint,
    shard: ShardId,
    shards: u32,
    windows: BTreeMap<WindowId, CommittedWindow>,
    /// Sum over `windows`.
    totals: Totals,
}

/// The manifest as it is read, whichever of the versions it has. Fields with a tag before them would be read into a
/// buffer first, which rounds their numbers.
#[derive(Deserialize)]
struct Stored {
    /// Fingerprint of the job.
    job: Option<String>,
    shard: ShardId,
    shards: u32,
    windows: Vec<CommittedWindow>,
}

/// The manifest as it is written.
#[derive(Serialize)]
#[serde(tag = "version")]
enum Versioned {
    #[serde(rename = "1")]
    V1 {
        shard: ShardId,
        shards: u32,
        windows: Vec<CommittedWindow>,
    },
    #[serde(rename = "2")]
    V2 {
        /// Fingerprint of the job.
        job: String,
        shard: ShardId,
        shards: u32,
        windows: Vec<CommittedWindow>,
    },
}

/// One committed window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommittedWindow {
    /// Its number.
    pub window: WindowId,
    /// Its first row.
    pub first_row: u64,
    /// Number of its rows.
    pub rows: u64,
    /// Its results.
    pub part: FileEntry,
    /// Its bad and failed rows; `None` where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<FileEntry>,
    /// Counts for the summary.
    pub totals: Totals,
    /// A few rows for the summary.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<Example>,
}

/// A committed file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path relative to the output folder, with `/`.
    pub name: String,
    /// Size and hash.
    #[serde(flatten)]
    pub digest: FileDigest,
}

impl Manifest {
    /// A manifest without windows.
    pub fn new(job: &JobFingerprint, shard: ShardId, shards: u32) -> Self {
        Self {
            job: job.clone(),
            shard,
            shards,
            windows: BTreeMap::new(),
            totals: Totals::default(),
        }
    }

    /// Reads a shard's manifest; a shard that has none has committed nothing.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Stranger`], [`CheckpointError::Damaged`], [`CheckpointError::UnknownVersion`],
    /// [`CheckpointError::Fs`].
    pub fn load_or_new(
        folder: &OutputFolder,
        job: &JobFingerprint,
        shard: ShardId,
        shards: u32,
    ) -> Result<Self, CheckpointError> {
        let path = folder.manifest(shard);
        let mut manifest = Self::new(job, shard, shards);
        let Some(stored) = seal::read_file::<Stored>(&path, KNOWN_VERSIONS, CURE)? else {
            return Ok(manifest);
        };
        job.check(&path, stored.job.as_deref())?;
        let damaged = |reason| CheckpointError::Damaged {
            path: path.clone(),
            reason,
            cure: CURE,
        };
        if (stored.shard, stored.shards) != (shard, shards) {
            let reason = format!("it belongs to shard {} of {}", stored.shard, stored.shards);
            return Err(damaged(reason));
        }
        for window in stored.windows {
            manifest
                .check(&window)
                .map_err(|error| damaged(error.to_string()))?;
            manifest.windows.insert(window.window, window);
        }
        manifest.add_up();
        Ok(manifest)
    }

    /// The shard.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Number of shards of the job.
    pub fn shards(&self) -> u32 {
        self.shards
    }

    /// Committed windows by number.
    pub fn windows(&self) -> &BTreeMap<WindowId, CommittedWindow> {
        &self.windows
    }

    /// Whether a window is committed.
    pub fn contains(&self, window: WindowId) -> bool {
        self.windows.contains_key(&window)
    }

    /// The shard's windows that are not committed yet, in order.
    pub fn remaining<'a>(
        &'a self,
        windows: &'a [WindowSpan],
    ) -> impl Iterator<Item = &'a WindowSpan> + 'a {
        windows
            .iter()
            .filter(|span| span.id.shard(self.shards) == self.shard && !self.contains(span.id))
    }

    /// Sum over the committed windows.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    fn add_up(&mut self) {
        self.totals = Totals::default();
        for window in self.windows.values() {
            self.totals += &window.totals;
        }
    }

    /// Adds a window and makes it durable: from here on it counts as done.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Foreign`], [`CheckpointError::Overlap`], or why it could not be written; the manifest
    /// is as before then.
    pub fn commit(
        &mut self,
        folder: &OutputFolder,
        window: CommittedWindow,
    ) -> Result<(), CheckpointError> {
        self.check(&window)?;
        let id = window.window;
        self.windows.insert(id, window);
        let saved = self.save(folder).inspect_err(|_| {
            self.windows.remove(&id);
        });
        self.add_up();
        saved
    }

    /// Takes windows out and makes that durable: they will be made again.
    pub(super) fn take_out(
        &mut self,
        folder: &OutputFolder,
        windows: &[WindowId],
    ) -> Result<(), CheckpointError> {
        self.windows.retain(|id, _| !windows.contains(id));
        self.add_up();
        self.save(folder)
    }

    fn check(&self, window: &CommittedWindow) -> Result<(), CheckpointError> {
        let id = window.window;
        if id.shard(self.shards) != self.shard {
            return Err(CheckpointError::Foreign {
                window: id,
                shard: self.shard,
            });
        }
        let before = self
            .windows
            .range(..=id)
            .next_back()
            .map(|(_, window)| window);
        let after = self.windows.range(id..).next().map(|(_, window)| window);
        let overlaps = |other: &&CommittedWindow| {
            other.window == id
                || (other.window < id && other.first_row + other.rows > window.first_row)
                || (other.window > id && window.first_row + window.rows > other.first_row)
        };
        match before.into_iter().chain(after).find(overlaps) {
            Some(other) => Err(CheckpointError::Overlap {
                window: id,
                other: other.window,
            }),
            None => Ok(()),
        }
    }

    fn save(&self, folder: &OutputFolder) -> Result<(), CheckpointError> {
        let path = folder.manifest(self.shard);
        let windows = self.windows.values().cloned().collect();
        let (shard, shards) = (self.shard, self.shards);
        let stored = match self.job.as_deref() {
            None => Versioned::V1 {
                shard,
                shards,
                windows,
            },
            Some(job) => Versioned::V2 {
                job: job.to_owned(),
                shard,
                shards,
                windows,
            },
        };
        let text =
            seal::seal_file(&stored).map_err(|error| CheckpointError::read(&path, error.into()))?;
        fsio::write_atomic(&path, |out| out.write_all(text.as_bytes()))?;
        Ok(())
    }
}

/// Committed windows of all shards of a job, in order of their rows.
///
/// # Errors
///
/// [`CheckpointError::NoJob`]; those of [`Manifest::load_or_new`].
pub fn committed_windows(folder: &OutputFolder) -> Result<Vec<CommittedWindow>, CheckpointError> {
    let StoredJob {
        record,
        fingerprint,
    } = StoredJob::existing(folder)?;
    let shards = record.spec.shards;
    let mut committed = Vec::new();
    for shard in (0..shards).map(ShardId) {
        committed.extend(
            Manifest::load_or_new(folder, &fingerprint, shard, shards)?
                .windows
                .into_values(),
        );
    }
    committed.sort_by_key(|window| window.window);
    Ok(committed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(id: u32, first_row: u64, rows: u64) -> CommittedWindow {
        let digest = FileDigest {
            bytes: 0,
            blake3: String::new(),
        };
        CommittedWindow {
            window: WindowId(id),
            first_row,
            rows,
            part: FileEntry {
                name: format!("parts/part-{id:06}.jsonl"),
                digest,
            },
            failed: None,
            totals: Totals {
                rows,
                ok: rows,
                ..Totals::default()
            },
            examples: Vec::new(),
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let folder = OutputFolder::open(parent.path()).unwrap();
        let mut manifest = Manifest::new(&JobFingerprint::NONE, ShardId(0), 2);
        manifest.commit(&folder, window(2, 20, 10)).unwrap();
        let bytes = std::fs::read(folder.manifest(ShardId(0))).unwrap();
        let before = manifest.clone();
        for (wrong, expected) in [
            (window(1, 10, 10), "window 1 does not belong to shard 0"),
            (
                window(2, 20, 10),
                "window 2 overlaps window 2, which is committed already",
            ),
            (
                window(0, 15, 10),
                "window 0 overlaps window 2, which is committed already",
            ),
            (
                window(4, 29, 10),
                "window 4 overlaps window 2, which is committed already",
            ),
        ] {
            let error = manifest.commit(&folder, wrong).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
        assert_eq!(manifest, before);
        assert_eq!(std::fs::read(folder.manifest(ShardId(0))).unwrap(), bytes);
        manifest.commit(&folder, window(0, 0, 10)).unwrap();
        assert_eq!(manifest.totals().rows, 20);
        assert_eq!(
            Manifest::load_or_new(&folder, &JobFingerprint::NONE, ShardId(0), 2).unwrap(),
            manifest
        );
    }

    #[test]
    fn a_manifest_that_cannot_be_written_stays_as_it_was() {
        let parent = tempfile::tempdir().unwrap();
        let folder = OutputFolder::at(&parent.path().join("gone"));
        let mut manifest = Manifest::new(&JobFingerprint::NONE, ShardId(0), 1);
        assert!(manifest.commit(&folder, window(0, 0, 1)).is_err());
        assert_eq!(
            manifest,
            Manifest::new(&JobFingerprint::NONE, ShardId(0), 1)
        );
    }

    #[test]
    fn the_manifest_of_another_shard_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let folder = OutputFolder::open(parent.path()).unwrap();
        Manifest::new(&JobFingerprint::NONE, ShardId(0), 2)
            .commit(&folder, window(0, 0, 1))
            .unwrap();
        let error =
            Manifest::load_or_new(&folder, &JobFingerprint::NONE, ShardId(0), 3).unwrap_err();
        assert!(
            error.to_string().contains("it belongs to shard 0 of 2"),
            "{error}"
        );
    }
}
