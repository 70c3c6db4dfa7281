//! The paths of a job to the list of files, in reading order.
//!
//! The list is in the job's order; inside a glob or a folder it is by path bytes. A file that two
//! entries reach is read once, where it came first. Hidden files and the output folder (with its
//! `.trial` and `.old-N` neighbours) are left out of globs and folders, never a file that is named.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::error::InputError;
use super::types::InputFormat;
use crate::spec::{InputSpec, nearest};

/// Endings of the files that are taken from a folder.
const KNOWN_ENDINGS: [&str; 7] = [
    ".jsonl",
    ".jsonl.gz",
    ".jsonl.zst",
    ".ndjson",
    ".ndjson.gz",
    ".ndjson.zst",
    ".parquet",
];

/// Name of the copy of standard input in the output folder.
pub const STDIN_COPY: &str = "input/stdin.jsonl";

/// Turns files, globs and folders into the list of files, in reading order.
///
/// The entry `-` gives the copy of standard input in `output`; see [`copy_stdin`](super::copy_stdin).
///
/// # Errors
/// A path that leads nowhere, a glob or folder without input, both formats in one input.
pub fn resolve_files(spec: &InputSpec, output: &Path) -> Result<Vec<PathBuf>, InputError> {
    let excluded = Excluded::new(output);
    let mut files = Vec::new();
    let mut seen = HashSet::new();
    for entry in &spec.path {
        let mut found = resolve_entry(entry, output, &excluded)?;
        found.retain(|path| seen.insert(path.clone()));
        files.append(&mut found);
    }
    refuse_mixed(&files)?;
    Ok(files)
}

fn resolve_entry(
    entry: &str,
    output: &Path,
    excluded: &Excluded,
) -> Result<Vec<PathBuf>, InputError> {
    if entry == "-" {
        return Ok(vec![output.join(STDIN_COPY)]);
    }
    let path = Path::new(entry);
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            let mut files = Vec::new();
            walk(path, excluded, &mut files)?;
            sorted_or_empty(path, files, "it holds no file that ends in ")
        }
        Ok(_) => Ok(vec![path.to_owned()]),
        Err(_) if entry.contains(['*', '?', '[']) => glob_files(entry, excluded),
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(InputError::Io {
            path: path.to_owned(),
            source,
        }),
        Err(_) => Err(missing(path)),
    }
}

fn sorted_or_empty(
    path: &Path,
    mut files: Vec<PathBuf>,
    why: &str,
) -> Result<Vec<PathBuf>, InputError> {
    if files.is_empty() {
        return Err(InputError::NoFiles {
            path: path.to_owned(),
            cure: format!("{why}{}", KNOWN_ENDINGS.join(", ")),
        });
    }
    files.sort_by(|a, b| {
        a.as_os_str()
            .as_encoded_bytes()
            .cmp(b.as_os_str().as_encoded_bytes())
    });
    files.dedup();
    Ok(files)
}

fn walk(root: &Path, excluded: &Excluded, files: &mut Vec<PathBuf>) -> Result<(), InputError> {
    let entries = WalkDir::new(root)
        .follow_links(true)
        .into_iter()
        .filter_entry(|entry| {
            let hidden =
                entry.depth() > 0 && entry.file_name().as_encoded_bytes().starts_with(b".");
            !(hidden || entry.file_type().is_dir() && excluded.has(entry.path()))
        });
    for entry in entries {
        let entry = entry.map_err(|error| InputError::Io {
            path: error.path().unwrap_or(root).to_owned(),
            source: error.into(),
        })?;
        if entry.file_type().is_file() && has_known_ending(entry.path()) {
            files.push(entry.into_path());
        }
    }
    Ok(())
}

fn glob_files(pattern: &str, excluded: &Excluded) -> Result<Vec<PathBuf>, InputError> {
    let options = glob::MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: true,
    };
    let matches = glob::glob_with(pattern, options).map_err(|error| InputError::Glob {
        pattern: pattern.to_owned(),
        reason: error.to_string(),
    })?;
    let mut files = Vec::new();
    for found in matches {
        let path = found.map_err(|error| InputError::Io {
            path: error.path().to_owned(),
            source: error.into(),
        })?;
        if path.is_dir() {
            if !excluded.has(&path) {
                walk(&path, excluded, &mut files)?;
            }
        } else if !excluded.has(&path) {
            files.push(path);
        }
    }
    sorted_or_empty(
        Path::new(pattern),
        files,
        "nothing matches; a glob is matched from the job file's folder, `**` goes into folders; known endings: ",
    )
}

fn missing(path: &Path) -> InputError {
    let name = path
        .file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default();
    let siblings: Vec<String> = path
        .parent()
        .and_then(|parent| std::fs::read_dir(parent).ok())
        .map(|entries| {
            entries
                .flatten()
                .map(|e| e.file_name().to_string_lossy().into_owned())
                .collect()
        })
        .unwrap_or_default();
    let cure = match nearest(&name, siblings.iter().map(String::as_str)) {
        Some(sibling) => format!("did you mean `{}`?", path.with_file_name(sibling).display()),
        None => "check `input.path`; relative paths start at the job file's folder".to_owned(),
    };
    InputError::Missing {
        path: path.to_owned(),
        cure,
    }
}

fn has_known_ending(path: &Path) -> bool {
    let name = path
        .file_name()
        .map(|n| n.to_string_lossy().to_lowercase())
        .unwrap_or_default();
    KNOWN_ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// Format of a file: by its ending, else by its first bytes.
pub(super) fn format_of(path: &Path) -> InputFormat {
    let name = path
        .file_name()
        .map(|n| n.to_string_lossy().to_lowercase())
        .unwrap_or_default();
    if name.ends_with(".parquet") {
        return InputFormat::Parquet;
    }
    if has_known_ending(path) {
        return InputFormat::Jsonl;
    }
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    if read.is_ok() && &magic == b"PAR1" {
        InputFormat::Parquet
    } else {
        InputFormat::Jsonl
    }
}

fn refuse_mixed(files: &[PathBuf]) -> Result<(), InputError> {
    let first = |format| files.iter().find(|path| format_of(path) == format);
    match (first(InputFormat::Parquet), first(InputFormat::Jsonl)) {
        (Some(parquet), Some(jsonl)) => Err(InputError::MixedFormats {
            parquet: parquet.clone(),
            jsonl: jsonl.clone(),
        }),
        _ => Ok(()),
    }
}

/// The output folder and the folders that runs put beside it.
struct Excluded {
    parent: PathBuf,
    name: String,
}

impl Excluded {
    fn new(output: &Path) -> Self {
        let parent = output.parent().unwrap_or(Path::new(""));
        Self {
            parent: parent.canonicalize().unwrap_or_else(|_| parent.to_owned()),
            name: output
                .file_name()
                .map(|n| n.to_string_lossy().into_owned())
                .unwrap_or_default(),
        }
    }

    fn has(&self, path: &Path) -> bool {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let Ok(below) = path.strip_prefix(&self.parent) else {
            return false;
        };
        let Some(top) = below.components().next() else {
            return false;
        };
        let top = top.as_os_str().to_string_lossy();
        let Some(rest) = top.strip_prefix(self.name.as_str()) else {
            return false;
        };
        let old = rest
            .strip_prefix(".old-")
            .is_some_and(|n| n.parse::<u64>().is_ok());
        !self.name.is_empty() && (rest.is_empty() || rest == ".trial" || old)
    }
}
