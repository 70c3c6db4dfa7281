//! An output folder to a report of what is wrong in it: every checksum computed again.
//!
//! It reads only, so a running job may be verified: what its writers replace meanwhile is complete before
//! and after.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::ids::{ShardId, WindowId};
use crate::input::WindowSpan;
use crate::outcome::LeftOutRows;
use crate::stop::StopFlag;

use super::manifest::{CommittedWindow, FileEntry, Manifest};
use super::steps::{self, Step};
use super::strays::{Listing, stray_manifests};
use super::{CheckpointError, JobFingerprint, OutputFolder, StoredJob, committed, journal};

/// What is wrong with a file that names another job.
const STRANGER: &str =
    "it belongs to another job than `job.json` (`glm-batch run --restart` begins anew)";

/// What the files of a job are like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Windows of the job.
    pub windows: u64,
    /// Windows that are committed and sound.
    pub sound_windows: u64,
    /// Rows in them, but those that are left out.
    pub rows: u64,
    /// Rows that the job leaves out; those behind its last window only once all of them are sound.
    pub left_out: LeftOutRows,
    /// Rows in sound journal lines of open windows.
    pub journalled_rows: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What an interrupted run has left: worth saying, and not damage.
    pub notes: Vec<String>,
    /// Each phase of the job by its name, in order; `problems` and `notes` have theirs too.
    pub phases: Vec<(String, VerifyReport)>,
}

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// What it belongs to.
    pub kind: ProblemKind,
    /// What is wrong.
    pub reason: String,
}

/// What a damaged file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProblemKind {
    /// `job.json`; nothing else can be checked then.
    Job,
    /// `job.json` of a phase, which can be written again from that of the job.
    PhaseJob,
    /// A shard's manifest.
    Manifest(ShardId),
    /// A part or a file of failed rows that the manifest names.
    Committed(WindowId),
    /// A journal; the bytes before the first wrong line are sound.
    Journal {
        /// Bytes before the first wrong line.
        sound_bytes: u64,
    },
    /// A file that does not belong to the job.
    Stray,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}`: {}", self.path.display(), self.reason)
    }
}

/// The report in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Soundness {
    /// All windows are committed and sound.
    Finished,
    /// What is there is sound, and more is to come.
    SoFar,
    /// Something is wrong.
    Damaged,
}

impl VerifyReport {
    /// The report in a word.
    pub fn soundness(&self) -> Soundness {
        if !self.problems.is_empty() {
            Soundness::Damaged
        } else if self.sound_windows == self.windows {
            Soundness::Finished
        } else {
            Soundness::SoFar
        }
    }
}

/// Checks every file of a job against its checksum, and looks for files that are not the job's.
///
/// # Errors
///
/// [`CheckpointError::NoJob`]; [`CheckpointError::Fs`], where a file cannot be read; damage is not an error:
/// the report has it.
pub fn verify(folder: &OutputFolder) -> Result<VerifyReport, CheckpointError> {
    verify_shards(folder, None, &StopFlag::default())
}

/// As [`verify`], for the files of one shard where one is given.
///
/// # Errors
///
/// As [`verify`]; [`CheckpointError::Interrupted`].
pub fn verify_shards(
    folder: &OutputFolder,
    only: Option<ShardId>,
    stop: &StopFlag,
) -> Result<VerifyReport, CheckpointError> {
    let mut report = VerifyReport::default();
    let job = match StoredJob::existing(folder) {
        Ok(job) => job,
        Err(CheckpointError::Damaged { path, reason, .. }) => {
            report.add(path, ProblemKind::Job, reason);
            return Ok(report);
        }
        Err(error) => return Err(error),
    };
    report.check_files(folder, &job, only, stop)?;
    for phase in job.record.spec.phases() {
        let step = Step::phase(folder, &job, phase)?;
        let found = verify_step(&step, only, stop)?;
        report.problems.extend(found.problems.iter().cloned());
        report.notes.extend(found.notes.iter().cloned());
        report.phases.push((step.name.to_owned(), found));
    }
    let steps = steps::of_job(folder, job)?;
    for (at, lost) in steps::problems(&steps, only)?.into_iter().enumerate() {
        if let Some((_, phase)) = report.phases.get_mut(at) {
            phase.problems.extend(lost.iter().cloned());
        }
        report.problems.extend(lost);
    }
    Ok(report)
}

/// As [`verify_shards`], for one step of a job alone.
pub(super) fn verify_step(
    step: &Step,
    only: Option<ShardId>,
    stop: &StopFlag,
) -> Result<VerifyReport, CheckpointError> {
    let mut report = VerifyReport::default();
    report.problems.extend(step.problem());
    report.check_files(&step.folder, &step.job, only, stop)?;
    Ok(report)
}

/// Numbers that the rows of a trial's window may have: its rows need not follow one another.
fn rows_of_trial(span: &WindowSpan, windows: &[WindowSpan]) -> Range<u64> {
    let next = windows.iter().find(|later| later.id > span.id);
    span.first_row.0..next.map_or(u64::MAX, |next| next.first_row.0)
}

impl VerifyReport {
    fn add(&mut self, path: PathBuf, kind: ProblemKind, reason: String) {
        self.problems.push(Problem { path, kind, reason });
    }

    /// Checks the files of a folder, but for its record.
    fn check_files(
        &mut self,
        folder: &OutputFolder,
        job: &StoredJob,
        only: Option<ShardId>,
        stop: &StopFlag,
    ) -> Result<(), CheckpointError> {
        let listing = Listing::new(folder)?;
        let shards = job.record.spec.shards;
        self.windows = job.record.input.windows.len() as u64;
        for shard in (0..shards).map(ShardId) {
            if only.is_none_or(|only| only == shard) {
                self.check_shard(folder, job, &listing, shard, stop)?;
            }
        }
        for path in stray_manifests(folder, shards) {
            self.add(path, ProblemKind::Stray, STRANGER.to_owned());
        }
        if self.sound_windows == self.windows {
            self.left_out.limit += job.record.input.rows_behind();
        }
        Ok(())
    }

    fn check_shard(
        &mut self,
        folder: &OutputFolder,
        job: &StoredJob,
        listing: &Listing,
        shard: ShardId,
        stop: &StopFlag,
    ) -> Result<(), CheckpointError> {
        let StoredJob {
            record,
            fingerprint,
        } = job;
        let (shards, windows) = (record.spec.shards, &record.input.windows);
        let manifest = match Manifest::load_or_new(folder, fingerprint, shard, shards) {
            Ok(manifest) => {
                for window in manifest.windows().values() {
                    self.check_window(folder, window, windows, stop)?;
                }
                self.check_unnamed(folder, job, listing, &manifest);
                manifest
            }
            // What it names is not known: no file is called a stray.
            Err(CheckpointError::Damaged { path, reason, .. }) => {
                self.add(path, ProblemKind::Manifest(shard), reason);
                Manifest::new(fingerprint, shard, shards)
            }
            Err(CheckpointError::Stranger { path }) => {
                self.add(path, ProblemKind::Manifest(shard), STRANGER.to_owned());
                for path in listing.of_shard(shard, shards) {
                    self.add(path.clone(), ProblemKind::Stray, STRANGER.to_owned());
                }
                Manifest::new(fingerprint, shard, shards)
            }
            Err(error) => return Err(error),
        };
        for span in manifest.remaining(windows) {
            let rows = match record.trial {
                None => span.first_row.0..span.first_row.0 + span.rows,
                Some(_) => rows_of_trial(span, windows),
            };
            self.check_journal(folder, fingerprint, span.id, rows)?;
        }
        self.check_report(folder.report(shard), fingerprint);
        Ok(())
    }

    /// Files that the manifest does not name.
    fn check_unnamed(
        &mut self,
        folder: &OutputFolder,
        job: &StoredJob,
        listing: &Listing,
        manifest: &Manifest,
    ) {
        let record = &job.record;
        let extension = record.spec.output.format.extension();
        let unnamed = listing.unnamed(folder, extension, &record.input.windows, manifest);
        for path in unnamed.strays {
            let reason = "it belongs to no window of the job".to_owned();
            self.add(path, ProblemKind::Stray, reason);
        }
        for path in unnamed.unfinished {
            self.notes.push(format!(
                "`{}` is not committed, it will be written again",
                path.display()
            ));
        }
    }

    /// A report has no checksum: one that cannot be read is replaced by the next run, as any other is.
    fn check_report(&mut self, path: PathBuf, job: &JobFingerprint) {
        #[derive(serde::Deserialize)]
        struct Named {
            job_fingerprint: Option<String>,
        }
        let text = std::fs::read(&path).unwrap_or_default();
        let named = serde_json::from_slice::<Named>(&text).map(|report| report.job_fingerprint);
        if named.is_ok_and(|named| named.as_deref() != job.as_deref()) {
            self.add(path, ProblemKind::Stray, STRANGER.to_owned());
        }
    }

    fn check_window(
        &mut self,
        folder: &OutputFolder,
        window: &CommittedWindow,
        windows: &[WindowSpan],
        stop: &StopFlag,
    ) -> Result<(), CheckpointError> {
        let problems = self.problems.len();
        for file in [Some(&window.part), window.failed.as_ref()]
            .into_iter()
            .flatten()
        {
            self.check_file(folder, window.window, file, stop)?;
        }
        let span = windows.binary_search_by_key(&window.window, |span| span.id);
        let span = span.ok().map(|at| &windows[at]);
        if span.is_none_or(|s| (s.first_row.0, s.rows) != (window.first_row, window.rows)) {
            self.add(
                folder.entry(&window.part.name),
                ProblemKind::Committed(window.window),
                "its rows are not those of its window in `job.json`".to_owned(),
            );
        }
        if self.problems.len() == problems {
            self.sound_windows += 1;
            self.rows += window.totals.taken();
            self.left_out += window.totals.left_out;
        }
        Ok(())
    }

    fn check_file(
        &mut self,
        folder: &OutputFolder,
        window: WindowId,
        file: &FileEntry,
        stop: &StopFlag,
    ) -> Result<(), CheckpointError> {
        let path = folder.entry(&file.name);
        if let Some(reason) = committed::difference(&path, file, stop)? {
            let line = wrong_line(&path).map_or_else(String::new, |line| format!(" (line {line})"));
            self.add(path, ProblemKind::Committed(window), reason + &line);
        }
        Ok(())
    }

    fn check_journal(
        &mut self,
        folder: &OutputFolder,
        job: &JobFingerprint,
        window: WindowId,
        rows: Range<u64>,
    ) -> Result<(), CheckpointError> {
        let path = folder.journal(window);
        let content = match journal::read(&path, job, window, rows) {
            Err(CheckpointError::Stranger { path }) => {
                self.add(path, ProblemKind::Stray, STRANGER.to_owned());
                return Ok(());
            }
            content => content?,
        };
        self.journalled_rows += content.outcomes.len() as u64;
        match content.wrong {
            None => {}
            Some(cut) if cut.is_tail => self.notes.push(format!(
                "`{}`: line {} is incomplete, its row will be computed again",
                path.display(),
                cut.line
            )),
            Some(cut) => {
                let kind = ProblemKind::Journal {
                    sound_bytes: content.sound_bytes,
                };
                let reason = format!("line {} is wrong: {}", cut.line, cut.reason);
                self.add(path, kind, reason);
            }
        }
        Ok(())
    }
}

/// First line of a JSON lines file that is not JSON, as a first place to look at.
fn wrong_line(path: &Path) -> Option<usize> {
    // A pipe would be waited for.
    if path.extension()? != "jsonl" || !path.is_file() {
        return None;
    }
    let lines = BufReader::new(File::open(path).ok()?).split(b'\n');
    let is_wrong = |line: &[u8]| serde_json::from_slice::<serde::de::IgnoredAny>(line).is_err();
    lines
        .map_while(Result::ok)
        .position(|line| is_wrong(&line))
        .map(|at| at + 1)
}
