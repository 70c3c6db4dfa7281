//! The first pass: rows, windows, fingerprints and columns of the whole input.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use super::build::PromptBuilder;
use super::error::{FileProblem, InputError};
use super::files::format_of;
use super::jsonl::{Columns, FirstPass};
use super::parquet;
use super::types::{BadRow, InputFile, InputFormat, InputIndex, Place};
use super::windows::Windows;
use crate::spec::{InputSpec, OnBadRow, PromptSpec, Rules};

/// Bytes of unpacked lines that a window holds at most, unless one row alone has more.
pub const MAX_WINDOW_BYTES: u64 = 64 << 20;

/// What the first pass needs to know.
pub struct ScanOptions<'a> {
    /// `[input]`
    pub spec: &'a InputSpec,
    /// `[prompt]`
    pub prompt: &'a PromptSpec,
    /// Files in reading order, from [`resolve_files`](super::resolve_files).
    pub files: &'a [PathBuf],
    /// The rules that the job goes by.
    pub rules: Rules,
    /// Most rows of a window.
    pub window_rows: u32,
    /// Most bytes of a window; see [`MAX_WINDOW_BYTES`].
    pub max_window_bytes: u64,
    /// An earlier index: what it knows of a file holds while path, size and time agree.
    pub previous: Option<&'a InputIndex>,
    /// Says that reading should end.
    pub is_interrupted: &'a dyn Fn() -> bool,
}

/// What the first pass found.
#[derive(Debug)]
pub struct Scan {
    /// The whole input.
    pub index: InputIndex,
    /// With `on_bad_row = "stop"`: the first row that the first pass can tell is bad. Parquet is read
    /// by its footers alone, so its bad rows are met later.
    pub first_bad: Option<(Place, BadRow)>,
}

/// Path, size and time of a file before it is read.
struct Stat {
    path: PathBuf,
    bytes: u64,
    modified_ns: u64,
}

impl Stat {
    fn of(path: &Path) -> std::io::Result<Self> {
        let found = std::fs::metadata(path)?;
        let modified = found
            .modified()?
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let modified_ns = u64::try_from(modified.as_nanos()).unwrap_or(u64::MAX);
        Ok(Self {
            path: std::path::absolute(path)?,
            bytes: found.len(),
            modified_ns,
        })
    }

    fn is(&self, known: &InputFile) -> bool {
        (&self.path, self.bytes, self.modified_ns) == (&known.path, known.bytes, known.modified_ns)
    }

    fn file(self, fingerprint: String, rows: u64) -> InputFile {
        let Self {
            path,
            bytes,
            modified_ns,
        } = self;
        InputFile {
            path,
            bytes,
            modified_ns,
            fingerprint,
            rows,
        }
    }
}

/// Reads the whole input once.
///
/// Where every file is still the one that `previous` knows, nothing is read.
///
/// # Errors
/// [`InputError::Broken`] names all files that cannot be read; [`InputError::SchemaClash`],
/// [`InputError::MixedFormats`]; [`InputError::Interrupted`]; with `on_bad_row = "stop"` also what the prompt settings get wrong.
pub fn scan(options: &ScanOptions<'_>) -> Result<Scan, InputError> {
    let stats = stat_all(options.files)?;
    if let Some(index) = unchanged(options, &stats) {
        return Ok(Scan {
            index,
            first_bad: None,
        });
    }
    let windows = Windows::new(options.window_rows, options.max_window_bytes);
    match options.files.first().map(|path| format_of(path)) {
        Some(InputFormat::Parquet) => scan_parquet(options, stats, windows),
        Some(InputFormat::Jsonl) | None => scan_jsonl(options, stats, windows),
    }
}

fn stat_all(files: &[PathBuf]) -> Result<Vec<Stat>, InputError> {
    let mut problems = Vec::new();
    let mut stats = Vec::with_capacity(files.len());
    for path in files {
        // Opening tells what only reading would: a file without permission.
        match std::fs::File::open(path).and_then(|_| Stat::of(path)) {
            Ok(stat) => stats.push(stat),
            Err(error) => {
                problems.push(FileProblem {
                    path: path.clone(),
                    reason: error.to_string(),
                });
            }
        }
    }
    if problems.is_empty() {
        Ok(stats)
    } else {
        Err(InputError::Broken { problems })
    }
}

/// The earlier index, where it still describes the input.
fn unchanged(options: &ScanOptions<'_>, stats: &[Stat]) -> Option<InputIndex> {
    let previous = options.previous?;
    let same_files = previous.files.len() == stats.len()
        && previous
            .files
            .iter()
            .zip(stats)
            .all(|(known, stat)| stat.is(known));
    let fits = previous
        .windows
        .iter()
        .all(|span| span.rows <= u64::from(options.window_rows));
    (same_files && fits).then(|| previous.clone())
}

fn scan_parquet(
    options: &ScanOptions<'_>,
    stats: Vec<Stat>,
    mut windows: Windows,
) -> Result<Scan, InputError> {
    let footers = parquet::first_pass(options.files, &mut windows, options.rules)?;
    let files = stats
        .into_iter()
        .zip(footers.files)
        .map(|(stat, (rows, fingerprint))| stat.file(fingerprint, rows))
        .collect();
    let index = InputIndex {
        format: InputFormat::Parquet,
        files,
        rows: windows.rows(),
        windows: windows.finish(),
        columns: footers.columns,
    };
    Ok(Scan {
        index,
        first_bad: None,
    })
}

fn scan_jsonl(
    options: &ScanOptions<'_>,
    stats: Vec<Stat>,
    windows: Windows,
) -> Result<Scan, InputError> {
    let builder = match options.spec.on_bad_row {
        OnBadRow::Stop => Some(PromptBuilder::new(&options.spec.columns, options.prompt)?),
        OnBadRow::Record => None,
    };
    let mut pass = FirstPass {
        windows,
        columns: Columns::default(),
        builder: builder.as_ref(),
        rules: options.rules,
        first_bad: None,
        is_interrupted: options.is_interrupted,
    };
    let mut problems = Vec::new();
    let mut files = Vec::with_capacity(stats.len());
    for (number, stat) in stats.into_iter().enumerate() {
        if (options.is_interrupted)() {
            return Err(InputError::Interrupted);
        }
        let known = known_fingerprint(options.previous, &stat);
        let hasher = known
            .is_none()
            .then(|| Arc::new(Mutex::new(blake3::Hasher::new())));
        match pass.file(&stat.path, number as u32, hasher.clone()) {
            Ok(rows) => {
                let hashed = hasher.map(|hasher| {
                    let hasher = hasher.lock().unwrap_or_else(PoisonError::into_inner);
                    hasher.finalize().to_hex().to_string()
                });
                files.push(stat.file(known.or(hashed).unwrap_or_default(), rows));
            }
            Err(error) => {
                problems.push(FileProblem {
                    reason: read_reason(&error),
                    path: stat.path,
                });
            }
        }
    }
    if (options.is_interrupted)() {
        return Err(InputError::Interrupted);
    }
    if !problems.is_empty() {
        return Err(InputError::Broken { problems });
    }
    let first_bad = builder.as_ref().and(pass.first_bad);
    let index = InputIndex {
        format: InputFormat::Jsonl,
        files,
        rows: pass.windows.rows(),
        windows: pass.windows.finish(),
        columns: pass.columns.finish(),
    };
    Ok(Scan { index, first_bad })
}

fn known_fingerprint(previous: Option<&InputIndex>, stat: &Stat) -> Option<String> {
    let known = previous?.files.iter().find(|known| stat.is(known))?;
    Some(known.fingerprint.clone())
}

fn read_reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "the packed stream is cut short".to_owned(),
        _ => error.to_string(),
    }
}
