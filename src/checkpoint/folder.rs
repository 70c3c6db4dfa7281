//! The output folder: where everything of a job is kept.
//!
//! Invariant: a file's name tells its window or shard, so that one shard never touches what belongs to
//! another.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::fsio;
use crate::ids::{ShardId, WindowId};
use crate::job::{PHASES_FOLDER, Phase};

use super::CheckpointError;

const JOB_FILE: &str = "job.json";
const KEPT_JOB: &str = "job.toml";
const CARD_FILE: &str = "README.md";
const FOLDERS: [&str; 6] = ["journal", "parts", "failed", "manifest", "report", "locks"];

/// What to do about a phase whose record is gone or damaged.
pub(super) const PHASE_CURE: &str = "`glm-batch verify` with `--repair` mends the phase, or takes out what was made of it; then run the job again";

/// How often folders are made that another process takes away meanwhile.
const MAKES: usize = 10;

/// Folders that hold nothing before there is a record of the job, in it or in the folders of its phases.
const WORK_FOLDERS: [&str; 5] = ["manifest", "journal", "parts", "failed", PHASES_FOLDER];

/// Paths of one job's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputFolder {
    root: PathBuf,
}

impl OutputFolder {
    /// Makes the folder and those in it, and tries whether it can be written.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Unwritable`]; [`CheckpointError::DiskFull`].
    pub fn open(root: &Path) -> Result<Self, CheckpointError> {
        // A run that is refused takes away what it has made, maybe at this moment.
        let is_gone = |made: &Result<Self, CheckpointError>| match made {
            Err(CheckpointError::Unwritable { cause, .. }) => cause.kind() == ErrorKind::NotFound,
            _ => false,
        };
        let made = (0..MAKES)
            .map(|_| Self::make(root))
            .find(|made| !is_gone(made));
        made.unwrap_or_else(|| Self::make(root))
    }

    fn make(root: &Path) -> Result<Self, CheckpointError> {
        let folder = Self::at(root);
        for name in FOLDERS {
            let path = root.join(name);
            fsio::create_dir_all(&path).map_err(|cause| unwritable(root, cause))?;
        }
        folder.probe()?;
        Ok(folder)
    }

    /// Names a folder without touching it.
    pub fn at(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
        }
    }

    /// Names the folder of a job that has been started.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::NoJob`]; [`CheckpointError::NoRecord`], where it holds work but no record of its job.
    pub fn existing(root: &Path) -> Result<Self, CheckpointError> {
        let folder = Self::at(root);
        if folder.job_file().is_file() {
            return Ok(folder);
        }
        Err(match folder.first_work()? {
            Some(path) => CheckpointError::NoRecord { path },
            None => CheckpointError::NoJob {
                path: root.to_path_buf(),
            },
        })
    }

    /// The folder of a phase of the job.
    #[must_use]
    pub fn phase(&self, phase: Phase) -> Self {
        Self::at(&self.root.join(PHASES_FOLDER).join(phase.name()))
    }

    /// The folder of the results that this one belongs to: itself, or for the folder of a phase that of the job.
    pub(crate) fn results(&self) -> &Path {
        let name = self.root.file_name().and_then(OsStr::to_str);
        let is_phase = Phase::ALL.iter().any(|phase| Some(phase.name()) == name);
        let above = self.root.parent().filter(|_| is_phase);
        let phases = above.filter(|above| above.file_name() == Some(OsStr::new(PHASES_FOLDER)));
        let job = phases.and_then(Path::parent);
        let is_job = |root: &&Path| Self::at(root).job_file().is_file();
        match job.filter(is_job) {
            // From inside the folder of the job, which a command has to name too.
            Some(job) if job.as_os_str().is_empty() => Path::new("."),
            Some(job) => job,
            None => &self.root,
        }
    }

    /// Whether it is the folder of a phase of a job.
    pub(super) fn is_phase(&self) -> bool {
        self.results() != self.root
    }

    /// This folder, and those of the phases that it has.
    pub(super) fn with_phases(&self) -> Vec<Self> {
        let phases = Phase::ALL.map(|phase| self.phase(phase));
        let there = phases.into_iter().filter(|phase| phase.root.is_dir());
        std::iter::once(self.clone()).chain(there).collect()
    }

    /// The folders that every job has in it.
    pub(super) fn own_folders(&self) -> Vec<PathBuf> {
        FOLDERS.iter().map(|name| self.root.join(name)).collect()
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `job.json`
    pub fn job_file(&self) -> PathBuf {
        self.root.join(JOB_FILE)
    }

    /// The job file, where the job was given by flags.
    pub fn kept_job(&self) -> PathBuf {
        self.root.join(KEPT_JOB)
    }

    /// The page that `report` writes.
    pub(crate) fn page(&self) -> PathBuf {
        self.root.join("report.html")
    }

    /// Card of a finished job.
    pub fn card(&self) -> PathBuf {
        self.root.join(CARD_FILE)
    }

    /// Half-written cards, left by a process that was killed.
    pub fn temporary_cards(&self) -> Vec<PathBuf> {
        let names = names(&self.root).into_iter();
        names
            .filter(|name| fsio::temporary_target(name) == Some(CARD_FILE))
            .map(|name| self.root.join(name))
            .collect()
    }

    /// Copy of standard input.
    pub fn standard_input(&self) -> PathBuf {
        self.root.join("input").join("stdin.jsonl")
    }

    /// Journal of an open window.
    pub fn journal(&self, window: WindowId) -> PathBuf {
        self.journals()
            .join(format!("window-{:06}.jsonl", window.0))
    }

    /// Folder of the journals.
    pub fn journals(&self) -> PathBuf {
        self.root.join("journal")
    }

    /// Results of a window.
    pub fn part(&self, window: WindowId, extension: &str) -> PathBuf {
        self.parts()
            .join(format!("part-{:06}.{extension}", window.0))
    }

    /// Folder of the results.
    pub fn parts(&self) -> PathBuf {
        self.root.join("parts")
    }

    /// Folder of the failed rows.
    pub fn failures(&self) -> PathBuf {
        self.root.join("failed")
    }

    /// Bad and failed rows of a window.
    pub fn failed(&self, window: WindowId) -> PathBuf {
        self.root
            .join("failed")
            .join(format!("window-{:06}.jsonl", window.0))
    }

    /// What a shard has committed.
    pub fn manifest(&self, shard: ShardId) -> PathBuf {
        self.root
            .join("manifest")
            .join(format!("shard-{shard}.json"))
    }

    /// A shard's times, tokens and waste.
    pub fn report(&self, shard: ShardId) -> PathBuf {
        self.root.join("report").join(format!("shard-{shard}.json"))
    }

    /// Folder of the locks.
    pub fn locks(&self) -> PathBuf {
        self.root.join("locks")
    }

    /// File that is locked while a shard is written.
    pub fn shard_lock(&self, shard: ShardId) -> PathBuf {
        self.locks().join(format!("shard-{shard}"))
    }

    /// File that says who writes a shard.
    pub fn owner(&self, shard: ShardId) -> PathBuf {
        self.locks().join(format!("shard-{shard}.json"))
    }

    /// File that is locked while the job is set up.
    pub fn job_lock(&self) -> PathBuf {
        self.locks().join("job")
    }

    /// The first file, in order of folders and names, that only a job with a record can have left. Other files may
    /// be anybody's: other programs have folders of these names too.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Fs`], where a folder cannot be listed.
    pub fn first_work(&self) -> Result<Option<PathBuf>, CheckpointError> {
        let is_work = |name: &OsStr| name.to_str().is_some_and(is_work);
        let own = WORK_FOLDERS.map(|name| self.root.join(name));
        let phases = Phase::ALL.map(|phase| self.phase(phase).root);
        let of_phases = phases
            .iter()
            .flat_map(|root| WORK_FOLDERS.map(|name| root.join(name)));
        for folder in own.into_iter().chain(of_phases) {
            let first = match std::fs::read_dir(&folder) {
                Ok(entries) => {
                    let work = entries.flatten().filter(|one| is_work(&one.file_name()));
                    work.map(|entry| entry.path()).min()
                }
                Err(cause) if cause.kind() == ErrorKind::NotFound => None,
                Err(cause) => return Err(CheckpointError::read(&folder, cause)),
            };
            if first.is_some() {
                return Ok(first);
            }
        }
        Ok(None)
    }

    /// Whether a job has marked the folder as its own: it makes these folders before anything else.
    pub(super) fn is_marked(&self) -> bool {
        let folders = [self.locks(), self.parts(), self.journals()];
        folders.iter().all(|path| path.is_dir())
    }

    /// Whether the folder holds only the empty folders of a job, and what a kill left of its record.
    pub(super) fn is_untouched(&self) -> bool {
        let is_ours = |name: &String| {
            FOLDERS.contains(&name.as_str())
                || name == "input"
                || fsio::temporary_target(name) == Some(JOB_FILE)
        };
        names(&self.root).iter().all(is_ours) && fsio::is_empty_or_absent(&self.parts())
    }

    /// What `glm-batch verify --repair` took out.
    pub fn damaged(&self) -> PathBuf {
        self.root.join("damaged")
    }

    /// Path of a file that a manifest names, relative to the folder and with `/`.
    pub(crate) fn entry(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Name under which a manifest knows a file of this folder.
    pub(super) fn name_of(&self, path: &Path) -> String {
        let relative = path.strip_prefix(&self.root).unwrap_or(path);
        relative.to_string_lossy().replace('\\', "/")
    }

    /// The window that a file is named after; `None` where its name is none of ours.
    pub(super) fn window_of(path: &Path) -> Option<WindowId> {
        let name = path.file_name()?.to_str()?;
        let number = number(name, "part-").or_else(|| number(name, "window-"))?;
        Some(WindowId(number))
    }

    /// Shards that have, or had, a writer.
    pub(super) fn locked_shards(&self) -> Vec<ShardId> {
        shards(&self.locks())
    }

    /// Shards that have a manifest.
    pub(super) fn shards_with_manifest(&self) -> Vec<ShardId> {
        shards(&self.root.join("manifest"))
    }

    /// Windows that have a journal, in order.
    pub(crate) fn journalled_windows(&self) -> Vec<WindowId> {
        let mut windows: Vec<WindowId> = names(&self.journals())
            .iter()
            .filter_map(|name| number(name, "window-"))
            .map(WindowId)
            .collect();
        windows.sort_unstable();
        windows
    }

    /// Half-written files of one shard, left by a process that was killed.
    pub(super) fn temporary_files(&self, shard: ShardId, shards: u32) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for folder in FOLDERS.map(|name| self.root.join(name)) {
            for name in names(&folder) {
                let Some(target) = fsio::temporary_target(&name) else {
                    continue;
                };
                let window = number(target, "part-").or_else(|| number(target, "window-"));
                let owner = window
                    .map(|window| WindowId(window).shard(shards))
                    .or_else(|| number(target, "shard-").map(ShardId));
                if owner == Some(shard) {
                    found.push(folder.join(name));
                }
            }
        }
        found
    }

    /// Half-written `job.json` files.
    pub(super) fn temporary_job_files(&self) -> Vec<PathBuf> {
        named(&self.root, |name| {
            fsio::temporary_target(name) == Some(JOB_FILE)
        })
    }

    /// Files that belong to no shard, left by a process that was killed: copies of standard input, kept damage
    /// and trials of whether the folder can be written. The holder of the job's lock may remove them, and
    /// half-written `job.json` files too once there is a complete one.
    pub(super) fn job_leftovers(&self) -> Vec<PathBuf> {
        let is_temporary = |name: &str| fsio::temporary_target(name).is_some();
        let mut found = named(&self.root.join("input"), is_temporary);
        found.extend(named(&self.damaged(), is_temporary));
        found.extend(named(&self.locks(), is_probe));
        if self.job_file().exists() {
            found.extend(self.temporary_job_files());
        }
        found.extend(named(&self.root, |name| {
            fsio::temporary_target(name) == Some(KEPT_JOB)
        }));
        found
    }

    /// Tries whether files can be made, without a name that could stay.
    fn probe(&self) -> Result<(), CheckpointError> {
        fsio::check_writable(&self.job_lock()).map_err(|error| match error {
            error if error.is_full() => CheckpointError::DiskFull(error),
            error => unwritable(&self.root, error.cause),
        })
    }
}

/// Whether a file in `locks/` was made to find out whether the folder can be written: by this version where files
/// need a name for a moment, or by an earlier one.
fn is_probe(name: &str) -> bool {
    let is_unnamed = name.starts_with(".tmp") && fsio::temporary_target(name).is_none();
    let target = fsio::temporary_target(name).unwrap_or(name);
    is_unnamed || target.starts_with("probe-")
}

/// Whether a name is one that jobs give to their results and to what they know of them.
fn is_work(name: &str) -> bool {
    let is_of = |prefix| name.contains('.') && number(name, prefix).is_some();
    is_of("part-") || is_of("window-") || is_of("shard-")
}

/// Paths of the files in a folder whose names fit.
fn named(folder: &Path, fits: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let names = names(folder).into_iter().filter(|name| fits(name));
    names.map(|name| folder.join(name)).collect()
}

fn unwritable(root: &Path, cause: std::io::Error) -> CheckpointError {
    if fsio::is_full(&cause) {
        return CheckpointError::DiskFull(fsio::FsError::new("create", root, cause));
    }
    CheckpointError::Unwritable {
        path: root.to_path_buf(),
        cause,
    }
}

/// Names in a folder; none where it cannot be read.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Shards that the files of a folder are named after, in order.
fn shards(folder: &Path) -> Vec<ShardId> {
    let mut shards: Vec<ShardId> = names(folder)
        .iter()
        .filter_map(|name| number(name, "shard-"))
        .map(ShardId)
        .collect();
    shards.sort_unstable();
    shards.dedup();
    shards
}

/// The number in a name like `window-000012.jsonl`.
fn number(name: &str, prefix: &str) -> Option<u32> {
    let rest = name.strip_prefix(prefix)?;
    rest.split_once('.')
        .map_or(rest, |(number, _)| number)
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_numbers() {
        let folder = OutputFolder::at(Path::new("/out"));
        let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(
            name(folder.part(WindowId(12), "parquet")),
            "part-000012.parquet"
        );
        assert_eq!(
            number(&name(folder.journal(WindowId(1_234_567))), "window-"),
            Some(1_234_567)
        );
        assert_eq!(number(&name(folder.owner(ShardId(3))), "shard-"), Some(3));
        assert_eq!(
            folder.name_of(&folder.failed(WindowId(0))),
            "failed/window-000000.jsonl"
        );
    }

    #[test]
    fn a_file_in_the_way_is_named_with_the_cure() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("out");
        std::fs::write(&root, "not a folder").unwrap();
        let error = OutputFolder::open(&root).unwrap_err().to_string();
        assert!(
            error.starts_with("cannot write to the output folder"),
            "{error}"
        );
        assert!(error.contains("\nhint: "), "{error}");
    }

    #[test]
    fn temporary_files_belong_to_one_shard() {
        let parent = tempfile::tempdir().unwrap();
        let folder = OutputFolder::open(parent.path()).unwrap();
        for name in [
            "parts/.part-000003.jsonl.7.tmp",
            "manifest/.shard-1.json.7.tmp",
        ] {
            std::fs::write(folder.root().join(name), "half").unwrap();
        }
        assert_eq!(folder.temporary_files(ShardId(1), 2).len(), 2);
        assert_eq!(folder.temporary_files(ShardId(0), 2), Vec::<PathBuf>::new());
    }
}
