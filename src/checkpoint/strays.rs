//! The files in `parts/` and `failed/` to those that belong to the job and those that do not.
//!
//! Invariant: a file that a manifest names, or that an open window may have left, is never a stray. The folders are
//! listed before the manifests are read, so a window that is committed meanwhile is not taken for one either.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::ids::{ShardId, WindowId};
use crate::input::WindowSpan;

use super::manifest::Manifest;
use super::{CheckpointError, JobFingerprint, JobRecord, OutputFolder};

/// The files in `parts/` and `failed/`, in order, each with the window that it is named after.
pub(super) struct Listing(Vec<(PathBuf, Option<WindowId>)>);

/// Files that no manifest names.
#[derive(Default)]
pub(super) struct Unnamed {
    /// They belong to no open window.
    pub(super) strays: Vec<PathBuf>,
    /// Their windows are open: an interrupted run left them, and the next one writes them again.
    pub(super) unfinished: Vec<PathBuf>,
}

impl Listing {
    /// Lists both folders. Hidden files are left out, as readers do; a half-written file is hidden.
    pub(super) fn new(folder: &OutputFolder) -> Result<Self, CheckpointError> {
        let mut paths = Vec::new();
        for listed in [folder.parts(), folder.failures()] {
            let read_error = |cause| CheckpointError::read(&listed, cause);
            let entries = match std::fs::read_dir(&listed) {
                Ok(entries) => entries,
                Err(cause) if cause.kind() == ErrorKind::NotFound => continue,
                Err(cause) => return Err(read_error(cause)),
            };
            for entry in entries {
                let path = entry.map_err(read_error)?.path();
                if !is_hidden(&path) {
                    let window = OutputFolder::window_of(&path);
                    paths.push((path, window));
                }
            }
        }
        paths.sort_unstable();
        Ok(Self(paths))
    }

    /// The files of a shard that its manifest does not name. A file whose name has no window counts for the first
    /// shard.
    pub(super) fn unnamed(
        &self,
        folder: &OutputFolder,
        extension: &str,
        windows: &[WindowSpan],
        manifest: &Manifest,
    ) -> Unnamed {
        let committed: BTreeSet<PathBuf> = manifest
            .windows()
            .values()
            .flat_map(|window| [Some(&window.part), window.failed.as_ref()])
            .flatten()
            .map(|file| folder.entry(&file.name))
            .collect();
        let open: BTreeSet<PathBuf> = manifest
            .remaining(windows)
            .flat_map(|span| [folder.part(span.id, extension), folder.failed(span.id)])
            .collect();
        let mut unnamed = Unnamed::default();
        for path in self.of_shard(manifest.shard(), manifest.shards()) {
            if open.contains(path) {
                unnamed.unfinished.push(path.clone());
            } else if !committed.contains(path) {
                unnamed.strays.push(path.clone());
            }
        }
        unnamed
    }

    /// The files whose names lead to a shard.
    pub(super) fn of_shard(&self, shard: ShardId, shards: u32) -> impl Iterator<Item = &PathBuf> {
        let owner = move |window: &Option<WindowId>| {
            window.map_or(ShardId(0), |window| window.shard(shards))
        };
        let own = self
            .0
            .iter()
            .filter(move |(_, window)| owner(window) == shard);
        own.map(|(path, _)| path)
    }
}

fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Files in `parts/` and `failed/` that belong to no window of these shards, which every reader of the folders
/// would take for results of the job.
///
/// # Errors
///
/// Those of [`Manifest::load_or_new`]; [`CheckpointError::Fs`], where a folder cannot be listed.
pub(crate) fn strays(
    folder: &OutputFolder,
    job: &JobFingerprint,
    record: &JobRecord,
    shards: &[ShardId],
) -> Result<Vec<PathBuf>, CheckpointError> {
    let listing = Listing::new(folder)?;
    let extension = record.spec.output.format.extension();
    let mut strays = Vec::new();
    for &shard in shards {
        let manifest = Manifest::load_or_new(folder, job, shard, record.spec.shards)?;
        let unnamed = listing.unnamed(folder, extension, &record.input.windows, &manifest);
        strays.extend(unnamed.strays);
    }
    Ok(strays)
}

/// Manifests of shards that the job does not have.
pub(super) fn stray_manifests(folder: &OutputFolder, shards: u32) -> Vec<PathBuf> {
    let shards_there = folder.shards_with_manifest();
    let others = shards_there.into_iter().filter(|shard| shard.0 >= shards);
    others.map(|shard| folder.manifest(shard)).collect()
}

/// Refuses the manifest of a shard that the job does not have: another job wrote it.
///
/// # Errors
///
/// [`CheckpointError::Stranger`].
pub(crate) fn check_manifests(folder: &OutputFolder, shards: u32) -> Result<(), CheckpointError> {
    match stray_manifests(folder, shards).into_iter().next() {
        None => Ok(()),
        Some(path) => Err(CheckpointError::Stranger { path }),
    }
}
