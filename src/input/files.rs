//! The paths of a job to the list of files, in reading order.
//!
//! The list is in the job's order; inside a glob or a folder it is by path bytes. A file that two
//! entries reach is read once, where it came first. Hidden files, files without a known ending and the
//! output folder (with its `.trial` and `.old-N` neighbours) are left out of globs and folders, never a
//! file that is named; one that is named without a known ending must look like JSON lines or Parquet.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::error::InputError;
use super::lines::first_byte;
use super::types::InputFormat;
use crate::spec::{InputSpec, nearest};

/// Endings of the files that are taken from globs and folders.
const KNOWN_ENDINGS: [&str; 7] = [
    ".jsonl",
    ".jsonl.gz",
    ".jsonl.zst",
    ".ndjson",
    ".ndjson.gz",
    ".ndjson.zst",
    ".parquet",
];

/// First bytes of a Parquet file.
const PARQUET_MAGIC: &[u8] = b"PAR1";

/// Name of the copy of standard input in the output folder.
pub const STDIN_COPY: &str = "input/stdin.jsonl";

/// Turns files, globs and folders into the list of files, in reading order.
///
/// The entry `-` gives the copy of standard input in `output`; see [`InputStream`](super::InputStream).
///
/// # Errors
/// A path that leads nowhere, a glob or folder without input, a file of another format, both formats in
/// one input.
pub fn resolve_files(spec: &InputSpec, output: &Path) -> Result<Vec<PathBuf>, InputError> {
    let excluded = Excluded::new(output);
    let mut files = Vec::new();
    let mut seen = HashSet::new();
    for entry in &spec.path {
        let mut found = resolve_entry(entry, output, &excluded)?;
        // One file may be reached by several names.
        found.retain(|path| seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())));
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
        Ok(_) => {
            refuse_other_formats(path)?;
            Ok(vec![path.to_owned()])
        }
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
    let mut others = 0_usize;
    for found in matches {
        let path = found.map_err(|error| InputError::Io {
            path: error.path().to_owned(),
            source: error.into(),
        })?;
        if path.is_dir() {
            if !excluded.has(&path) {
                walk(&path, excluded, &mut files)?;
            }
        } else if excluded.has(&path) {
            // Results of this job are no input of it.
        } else if has_known_ending(&path) {
            files.push(path);
        } else {
            others += 1;
        }
    }
    let why = match others {
        0 => {
            "nothing matches; a glob is matched from the job file's folder, `**` goes into folders; known endings: "
        }
        _ => {
            "no file that matches has a known ending; name JSON lines of another ending one by one; known endings: "
        }
    };
    sorted_or_empty(Path::new(pattern), files, why)
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

/// Refuses a file whose ending is not known and whose content begins neither as JSON lines nor as Parquet. One that cannot be read is left to the first pass, which names all of them.
fn refuse_other_formats(path: &Path) -> Result<(), InputError> {
    if has_known_ending(path) || is_parquet(path).unwrap_or(true) {
        return Ok(());
    }
    match first_byte(path) {
        Err(_) | Ok(None | Some(b'{')) => Ok(()),
        Ok(Some(byte)) => Err(InputError::OtherFormat {
            path: path.to_owned(),
            cure: conversion(path, byte),
        }),
    }
}

/// What makes an input of a file that is none.
fn conversion(path: &Path, first_byte: u8) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let ending = path.extension().unwrap_or_default();
    if ending.eq_ignore_ascii_case("csv") {
        format!(
            "convert it, for example with pandas: `read_csv('{name}').to_parquet('{stem}.parquet')`"
        )
    } else if first_byte == b'[' {
        format!(
            "a JSON array is not JSON lines; write an object a line, for example with `jq -c '.[]' {name} > {stem}.jsonl`"
        )
    } else {
        format!(
            "convert it to one of {}; JSON lines hold a JSON object in each line",
            KNOWN_ENDINGS.join(", ")
        )
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
    match is_parquet(path) {
        Ok(true) => InputFormat::Parquet,
        _ => InputFormat::Jsonl,
    }
}

/// Whether a file begins as Parquet does.
fn is_parquet(path: &Path) -> io::Result<bool> {
    let mut magic = Vec::with_capacity(PARQUET_MAGIC.len());
    let length = PARQUET_MAGIC.len() as u64;
    File::open(path)?.take(length).read_to_end(&mut magic)?;
    Ok(magic == PARQUET_MAGIC)
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
