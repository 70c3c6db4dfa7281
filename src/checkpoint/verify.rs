//! An output folder to a report of what is wrong in it: every checksum computed again.
//!
//! It reads only, so a running job may be verified: what its writers replace meanwhile is complete before
//! and after.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::fsio;
use crate::ids::{ShardId, WindowId};
use crate::input::WindowSpan;

use super::manifest::{CommittedWindow, FileEntry, Manifest};
use super::{CheckpointError, JobRecord, OutputFolder, journal};

/// What the files of a job are like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Windows of the job.
    pub windows: u64,
    /// Windows that are committed and sound.
    pub sound_windows: u64,
    /// Rows in them.
    pub rows: u64,
    /// Rows in sound journal lines of open windows.
    pub journalled_rows: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What is no damage but worth saying: an unfinished last journal line.
    pub notes: Vec<String>,
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
    /// A shard's manifest.
    Manifest(ShardId),
    /// A part or a file of failed rows that the manifest names.
    Committed(WindowId),
    /// A journal; the bytes before the first wrong line are sound.
    Journal {
        /// Bytes before the first wrong line.
        sound_bytes: u64,
    },
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

/// Checks every file of a job against its checksum.
///
/// # Errors
///
/// [`CheckpointError::NoJob`]; [`CheckpointError::Fs`], where a file cannot be read; damage is no error but
/// stands in the report.
pub fn verify(folder: &OutputFolder) -> Result<VerifyReport, CheckpointError> {
    let mut report = VerifyReport::default();
    let record = match JobRecord::load(folder) {
        Ok(Some(record)) => record,
        Ok(None) => {
            return Err(CheckpointError::NoJob {
                path: folder.root().to_path_buf(),
            });
        }
        Err(CheckpointError::Damaged { path, reason, .. }) => {
            report.problems.push(Problem {
                path,
                kind: ProblemKind::Job,
                reason,
            });
            return Ok(report);
        }
        Err(error) => return Err(error),
    };
    let windows = &record.input.windows;
    report.windows = windows.len() as u64;
    for shard in (0..record.spec.shards).map(ShardId) {
        let manifest = match Manifest::load_or_new(folder, shard, record.spec.shards) {
            Ok(manifest) => manifest,
            Err(CheckpointError::Damaged { path, reason, .. }) => {
                report.problems.push(Problem {
                    path,
                    kind: ProblemKind::Manifest(shard),
                    reason,
                });
                Manifest::new(shard, record.spec.shards)
            }
            Err(error) => return Err(error),
        };
        for window in manifest.windows().values() {
            report.check_window(folder, window, windows)?;
        }
        for span in manifest.remaining(windows) {
            let rows = match record.trial {
                None => span.first_row.0..span.first_row.0 + span.rows,
                Some(_) => rows_of_trial(span, windows),
            };
            report.check_journal(folder, span.id, rows)?;
        }
    }
    Ok(report)
}

/// Numbers that the rows of a trial's window may have: its rows need not follow one another.
fn rows_of_trial(span: &WindowSpan, windows: &[WindowSpan]) -> Range<u64> {
    let next = windows.iter().find(|later| later.id > span.id);
    span.first_row.0..next.map_or(u64::MAX, |next| next.first_row.0)
}

impl VerifyReport {
    fn check_window(
        &mut self,
        folder: &OutputFolder,
        window: &CommittedWindow,
        windows: &[WindowSpan],
    ) -> Result<(), CheckpointError> {
        let problems = self.problems.len();
        for file in [Some(&window.part), window.failed.as_ref()]
            .into_iter()
            .flatten()
        {
            self.check_file(folder, window.window, file)?;
        }
        let span = windows.binary_search_by_key(&window.window, |span| span.id);
        let span = span.ok().map(|at| &windows[at]);
        if span.is_none_or(|s| (s.first_row.0, s.rows) != (window.first_row, window.rows)) {
            self.problems.push(Problem {
                path: folder.entry(&window.part.name),
                kind: ProblemKind::Committed(window.window),
                reason: "its rows are not those of its window in `job.json`".to_owned(),
            });
        }
        if self.problems.len() == problems {
            self.sound_windows += 1;
            self.rows += window.rows;
        }
        Ok(())
    }

    fn check_file(
        &mut self,
        folder: &OutputFolder,
        window: WindowId,
        file: &FileEntry,
    ) -> Result<(), CheckpointError> {
        let path = folder.entry(&file.name);
        let reason = match fsio::hash_file(&path) {
            Ok(found) if found == file.digest => return Ok(()),
            Ok(found) if found.bytes != file.digest.bytes => {
                format!(
                    "has {} bytes, was written with {}",
                    found.bytes, file.digest.bytes
                )
            }
            Ok(_) => "its content is not what was written".to_owned(),
            Err(error) if error.cause.kind() == std::io::ErrorKind::NotFound => {
                "is gone".to_owned()
            }
            Err(error) => return Err(error.into()),
        };
        let line = wrong_line(&path).map_or_else(String::new, |line| format!(" (line {line})"));
        let kind = ProblemKind::Committed(window);
        self.problems.push(Problem {
            path,
            kind,
            reason: reason + &line,
        });
        Ok(())
    }

    fn check_journal(
        &mut self,
        folder: &OutputFolder,
        window: WindowId,
        rows: Range<u64>,
    ) -> Result<(), CheckpointError> {
        let path = folder.journal(window);
        let content = journal::read(&path, window, rows)?;
        self.journalled_rows += content.outcomes.len() as u64;
        match content.wrong {
            None => {}
            Some(cut) if cut.is_tail => self.notes.push(format!(
                "`{}`: line {} is incomplete, its row will be computed again",
                path.display(),
                cut.line
            )),
            Some(cut) => self.problems.push(Problem {
                path,
                kind: ProblemKind::Journal {
                    sound_bytes: content.sound_bytes,
                },
                reason: format!("line {} is wrong: {}", cut.line, cut.reason),
            }),
        }
        Ok(())
    }
}

/// First line of a JSON lines file that is no JSON, as a first place to look at.
fn wrong_line(path: &Path) -> Option<usize> {
    if path.extension()? != "jsonl" {
        return None;
    }
    let lines = BufReader::new(File::open(path).ok()?).split(b'\n');
    let is_wrong = |line: &[u8]| serde_json::from_slice::<serde::de::IgnoredAny>(line).is_err();
    lines
        .map_while(Result::ok)
        .position(|line| is_wrong(&line))
        .map(|at| at + 1)
}

/// Reads one file's lines; used by `status` too.
pub(super) fn count_lines(path: &Path) -> u64 {
    let Ok(file) = File::open(path) else { return 0 };
    let (mut reader, mut count) = (BufReader::new(file), 0);
    loop {
        let Ok(buffer) = reader.fill_buf() else {
            return count;
        };
        if buffer.is_empty() {
            return count;
        }
        count += buffer.split(|&byte| byte == b'\n').count() as u64 - 1;
        let length = buffer.len();
        reader.consume(length);
    }
}
