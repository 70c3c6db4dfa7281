//! Finished rows of an open window to a file that survives anything: a sealed JSON line that names the job,
//! then one a row.
//!
//! The results of a window are read from here when its part is written, so that none is held in memory meanwhile.
//!
//! Journals of a job whose `job.json` has version 1 have no line above their rows.
//!
//! Invariant: the sound lines before the first wrong or incomplete one are exactly the rows that were
//! synced, each once; opening cuts the rest off, so that what follows is never read by mistake.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::fsio;
use crate::ids::{RowId, WindowId};
use crate::input::WindowSpan;
use crate::outcome::Outcome;

use super::{CheckpointError, JobFingerprint, OutputFolder, line, seal};

/// Bytes of pending lines that are written before their time, so that a fast model does not gather megabytes.
const MAX_PENDING: usize = 256 << 10;

/// Journal of one open window.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    job: JobFingerprint,
    file: File,
    /// Bytes of synced lines.
    length: u64,
    /// Lines that are not written yet.
    pending: Vec<u8>,
    places: Places,
    /// Held while the file is read, which has one position.
    reading: Mutex<()>,
}

/// Where the line of each row begins, and its bytes without the line end.
type Places = BTreeMap<RowId, (u64, u32)>;

/// A journal, the rows in it, and what was cut off.
pub(super) type OpenedJournal = (Journal, BTreeMap<RowId, Outcome>, Option<Cut>);

/// Lines that were cut off a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The journal.
    pub path: PathBuf,
    /// Number of the first line that was cut, from 1.
    pub line: u64,
    /// What was wrong with it.
    pub reason: String,
    /// Bytes that were cut.
    pub bytes: u64,
    /// Whether it was the unfinished last line, as a process that is killed leaves it.
    pub is_tail: bool,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            line,
            reason,
            bytes,
            ..
        } = self;
        write!(
            f,
            "journal `{}`: line {line} is wrong ({reason}); {bytes} bytes from there on are cut and their rows computed again",
            path.display()
        )
    }
}

/// What a journal holds.
pub(super) struct Content {
    pub(super) outcomes: BTreeMap<RowId, Outcome>,
    places: Places,
    pub(super) sound_bytes: u64,
    pub(super) wrong: Option<Cut>,
}

impl Journal {
    /// Opens the journal of a window, or makes it, and gives the rows in it and what was cut.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Stranger`], [`CheckpointError::Fs`], [`CheckpointError::DiskFull`].
    pub fn open(
        folder: &OutputFolder,
        job: &JobFingerprint,
        window: &WindowSpan,
    ) -> Result<OpenedJournal, CheckpointError> {
        let path = folder.journal(window.id);
        let rows = window.first_row.0..window.first_row.0 + window.rows;
        let content = read(&path, job, window.id, rows)?;
        let mut file = fsio::open_append(&path)?;
        if content.wrong.is_some() {
            fsio::truncate_synced(&mut file, &path, content.sound_bytes)?;
        }
        let journal = Self {
            path,
            job: job.clone(),
            file,
            length: content.sound_bytes,
            pending: Vec::new(),
            places: content.places,
            reading: Mutex::new(()),
        };
        Ok((journal, content.outcomes, content.wrong))
    }

    /// Adds a row, which is durable after the next [`Journal::sync`].
    ///
    /// # Errors
    ///
    /// [`CheckpointError::DoubledRow`], where the journal has it already.
    pub fn append(&mut self, row: RowId, outcome: &Outcome) -> Result<(), CheckpointError> {
        if self.has(row) {
            return Err(CheckpointError::DoubledRow {
                row,
                path: self.path.clone(),
            });
        }
        let is_empty = self.length == 0 && self.pending.is_empty();
        if let Some(job) = self.job.as_deref().filter(|_| is_empty) {
            let header = line::write_header(job);
            self.add(header)?;
        }
        let start = self.length + self.pending.len() as u64;
        self.add(line::write(row, outcome))?;
        let end = self.length + self.pending.len() as u64;
        self.places.insert(row, (start, (end - start - 1) as u32));
        Ok(())
    }

    /// Rows.
    pub(crate) fn rows(&self) -> usize {
        self.places.len()
    }

    /// Whether a row was added.
    pub(crate) fn has(&self, row: RowId) -> bool {
        self.places.contains_key(&row)
    }

    /// How a row ended that was added; `None` where none was.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or does not hold any more what was written.
    pub fn outcome(&self, row: RowId) -> io::Result<Option<Outcome>> {
        let Some(&(start, bytes)) = self.places.get(&row) else {
            return Ok(None);
        };
        let wrong = |reason: &str| {
            let path = self.path.display();
            let text = format!("journal `{path}`: row {row} cannot be read again: {reason}");
            io::Error::new(ErrorKind::InvalidData, text)
        };
        let line = self.line(start, bytes as usize);
        let (found, outcome) = line::read(&line.map_err(|error| wrong(&error.to_string()))?)
            .map_err(|reason| wrong(&reason))?;
        if found != row {
            return Err(wrong("another row is in its place"));
        }
        Ok(Some(outcome))
    }

    fn line(&self, start: u64, bytes: usize) -> io::Result<Vec<u8>> {
        if let Some(start) = start.checked_sub(self.length) {
            let start = start as usize;
            return Ok(self.pending[start..start + bytes].to_vec());
        }
        let mut line = vec![0; bytes];
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = &self.file;
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut line)?;
        Ok(line)
    }

    fn add(&mut self, line: serde_json::Result<String>) -> Result<(), CheckpointError> {
        let line = line.map_err(|error| CheckpointError::read(&self.path, error.into()))?;
        self.pending.extend_from_slice(line.as_bytes());
        self.pending.push(b'\n');
        Ok(())
    }

    /// Makes all rows durable that were added.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Fs`], [`CheckpointError::DiskFull`]: the rows stay pending, so that a later call can
    /// still make them durable.
    pub fn sync(&mut self) -> Result<(), CheckpointError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        fsio::append_synced(&mut self.file, &self.path, self.length, &self.pending)?;
        self.length += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// Whether rows are pending.
    pub fn is_dirty(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether the pending rows take so much memory that they should not wait.
    pub(crate) fn is_full(&self) -> bool {
        self.pending.len() >= MAX_PENDING
    }
}

/// Reads a journal up to its first wrong line; one that is not there is empty.
pub(super) fn read(
    path: &Path,
    job: &JobFingerprint,
    window: WindowId,
    rows: Range<u64>,
) -> Result<Content, CheckpointError> {
    let mut content = Content {
        outcomes: BTreeMap::new(),
        places: Places::new(),
        sound_bytes: 0,
        wrong: None,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(content),
        Err(cause) => return Err(CheckpointError::read(path, cause)),
    };
    let size = file
        .metadata()
        .map_err(|cause| CheckpointError::read(path, cause))?
        .len();
    let mut reader = BufReader::new(file);
    let mut text = Vec::new();
    for number in 1.. {
        text.clear();
        let length = reader
            .read_until(b'\n', &mut text)
            .map_err(|cause| CheckpointError::read(path, cause))?;
        if length == 0 {
            break;
        }
        if number == 1 && names_its_job(&text, path, job)? {
            content.sound_bytes += length as u64;
            continue;
        }
        if let Err((reason, is_tail)) = take(&text, window, &rows, &mut content) {
            content.wrong = Some(Cut {
                path: path.to_path_buf(),
                line: number,
                reason,
                bytes: size.saturating_sub(content.sound_bytes),
                is_tail,
            });
            break;
        }
        content.sound_bytes += length as u64;
    }
    Ok(content)
}

/// The rows that the journal of a window holds now; a writer may add to it meanwhile.
///
/// # Errors
///
/// [`CheckpointError::Stranger`], [`CheckpointError::Fs`].
pub(crate) fn journalled_rows(
    folder: &OutputFolder,
    job: &JobFingerprint,
    window: &WindowSpan,
) -> Result<BTreeMap<RowId, Outcome>, CheckpointError> {
    let rows = window.first_row.0..window.first_row.0 + window.rows;
    Ok(read(&folder.journal(window.id), job, window.id, rows)?.outcomes)
}

/// Whether the first line of a journal is the one that names its job; another job's is refused. A line that is
/// not sound says nothing of the kind.
fn names_its_job(text: &[u8], path: &Path, job: &JobFingerprint) -> Result<bool, CheckpointError> {
    let Some(line) = text
        .strip_suffix(b"\n")
        .filter(|line| seal::is_sound_line(line))
    else {
        return Ok(false);
    };
    let named = line::read_header(line);
    job.check(path, named.as_deref())?;
    Ok(named.is_some())
}

/// Refuses the journal of another job; one that is not there names none.
pub(super) fn check_job(path: &Path, job: &JobFingerprint) -> Result<(), CheckpointError> {
    count_rows(path, job, 1).map(drop)
}

/// Counts the rows of a journal by its line ends, in no more than `lines` lines.
pub(super) fn count_rows(
    path: &Path,
    job: &JobFingerprint,
    lines: u64,
) -> Result<u64, CheckpointError> {
    let read_error = |cause| CheckpointError::read(path, cause);
    let mut reader = match File::open(path) {
        Ok(file) => BufReader::new(file),
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(0),
        Err(cause) => return Err(read_error(cause)),
    };
    let (mut rows, mut text) = (0, Vec::new());
    for number in 1..=lines {
        text.clear();
        reader.read_until(b'\n', &mut text).map_err(read_error)?;
        if text.last() != Some(&b'\n') {
            break;
        }
        rows += u64::from(number > 1 || !names_its_job(&text, path, job)?);
    }
    Ok(rows)
}

/// Takes a line's row, or says what is wrong and whether the line has no end.
fn take(
    text: &[u8],
    window: WindowId,
    rows: &Range<u64>,
    content: &mut Content,
) -> Result<(), (String, bool)> {
    let line = text
        .strip_suffix(b"\n")
        .ok_or_else(|| ("it is incomplete".to_owned(), true))?;
    let (row, outcome) = line::read(line).map_err(|reason| (reason, false))?;
    if !rows.contains(&row.0) {
        return Err((format!("row {row} is not in window {window}"), false));
    }
    if content.outcomes.contains_key(&row) {
        return Err((format!("row {row} stands above already"), false));
    }
    content.outcomes.insert(row, outcome);
    let place = (content.sound_bytes, line.len() as u32);
    content.places.insert(row, place);
    Ok(())
}
