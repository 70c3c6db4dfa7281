//! The paths of a job to the list of files, in reading order.
//!
//! The list is in the job's order; inside a glob or a folder it is by path bytes. A file that two
//! entries reach is read once, where it came first. What globs and folders leave out is in
//! [`super::folders`]; a file that is named is never left out.

use std::collections::HashSet;
use std::fs::FileType;
use std::io;
use std::path::{Path, PathBuf};

use super::error::InputError;
use super::folders::{Excluded, Folders, Gathered};
use super::formats::{KNOWN_ENDINGS, format_of, has_known_ending, has_table_ending, table_ending};
use super::found::{FoundFile, NoResults, ResultFolders};
use super::partition::partition;
use super::patterns;
use super::types::InputFormat;
use crate::job::{InputSpec, Rules, nearest};

/// Files that a message names where the one that was asked for is not there.
const NAMED_INPUTS: usize = 5;

/// Where systems keep what a process has open.
const OPEN_FILES: [&str; 3] = ["/dev/stdin", "/dev/fd/", "/proc/self/fd/"];

/// Name of the copy of standard input in the output folder.
pub(super) const STDIN_COPY: &str = "input/stdin.jsonl";

/// The files of a job.
#[derive(Clone, Debug, Default)]
pub struct InputFiles {
    /// In reading order.
    pub files: Vec<FoundFile>,
    /// What globs and folders left out that may have been meant: one line each.
    pub notes: Vec<String>,
}

/// Turns files, globs and folders into the list of files, in reading order; an old job's as it was listed then.
///
/// The entry `-` gives the copy of standard input in `output`; see [`InputStream`](super::InputStream).
///
/// # Errors
/// A path that leads nowhere or to no file, a glob or folder without input, a table with metadata of its own, a
/// name that is not text, both formats in one input.
pub fn resolve_files(
    spec: &InputSpec,
    output: &Path,
    rules: Rules,
) -> Result<InputFiles, InputError> {
    resolve_with(spec, output, rules, &NoResults)
}

/// As [`resolve_files`], where a folder that holds a job's results gives its committed parts.
///
/// # Errors
///
/// As [`resolve_files`]; why the results of a job cannot be an input.
pub(crate) fn resolve_with(
    spec: &InputSpec,
    output: &Path,
    rules: Rules,
    results: &dyn ResultFolders,
) -> Result<InputFiles, InputError> {
    let excluded = Excluded::new(output);
    let mut resolved = InputFiles::default();
    let mut seen = HashSet::new();
    for entry in &spec.path {
        let mut found = resolve_entry(
            entry,
            output,
            &Folders {
                excluded: &excluded,
                results,
            },
            rules,
        )?;
        // One file may be reached by several names.
        found.files.retain(|file| {
            let path = &file.path;
            seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone()))
        });
        resolved.files.append(&mut found.files);
        resolved.notes.append(&mut found.notes);
    }
    refuse_mixed(&resolved.files)?;
    Ok(resolved)
}

fn resolve_entry(
    entry: &str,
    output: &Path,
    folders: &Folders<'_>,
    rules: Rules,
) -> Result<InputFiles, InputError> {
    if entry == "-" {
        return Ok(one(output.join(STDIN_COPY)));
    }
    let path = Path::new(entry);
    if OPEN_FILES.iter().any(|open| entry.starts_with(open)) {
        return Err(no_file(path, "a file that this process was given open"));
    }
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() && is_same(path, output) => Err(InputError::OwnOutput {
            path: path.to_owned(),
        }),
        Ok(found) if found.is_dir() && folders.results.is_one(path) => Ok(InputFiles {
            files: folders.results.open(path)?,
            notes: Vec::new(),
        }),
        Ok(found) if found.is_dir() => {
            let mut gathered = Gathered::new(rules);
            gathered.refuse_tables(path)?;
            gathered.walk(path, folders)?;
            in_order(gathered, path, path, "it holds no file that ends in ")
        }
        Ok(found) if !found.is_file() => Err(no_file(path, kind(found.file_type()))),
        Ok(_) => Ok(one(path.to_owned())),
        Err(_) if entry.contains(['*', '?', '[']) => glob_files(entry, folders, rules),
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(InputError::Io {
            path: path.to_owned(),
            source,
        }),
        Err(_) => Err(missing(path)),
    }
}

fn is_same(path: &Path, output: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    real(path).is_some_and(|path| Some(path) == real(output))
}

fn one(path: PathBuf) -> InputFiles {
    InputFiles {
        files: vec![path.into()],
        notes: Vec::new(),
    }
}

/// The files that a glob or folder gave; `root` is above the folders that give columns.
fn in_order(
    gathered: Gathered,
    shown: &Path,
    root: &Path,
    why_none: &str,
) -> Result<InputFiles, InputError> {
    let gives_columns = gathered.rules.rows > 1;
    let table = gathered.first_table().map(str::to_owned);
    let (mut files, notes) = gathered.finish(shown);
    if files.is_empty() {
        let cure = match table {
            None => format!("{why_none}{}", KNOWN_ENDINGS.join(", ")),
            Some(name) => format!(
                "`{name}` is read where `input.path` names it, or a glob that ends as it does, such as `*{}`",
                table_ending(Path::new(&name)).unwrap_or_default()
            ),
        };
        return Err(InputError::NoFiles {
            path: shown.to_owned(),
            cure,
        });
    }
    files.sort_by(|a, b| {
        let bytes = |path: &PathBuf| path.as_os_str().as_encoded_bytes().to_owned();
        bytes(a).cmp(&bytes(b))
    });
    files.dedup();
    let files = files
        .into_iter()
        .map(|path| FoundFile {
            partition: if gives_columns {
                partition(root, &path)
            } else {
                Vec::new()
            },
            path,
            results: None,
        })
        .collect();
    Ok(InputFiles { files, notes })
}

fn glob_files(
    pattern: &str,
    folders: &Folders<'_>,
    rules: Rules,
) -> Result<InputFiles, InputError> {
    let (root, matches) = patterns::expand(pattern)?;
    let takes_underscores = patterns::names_underscores(pattern);
    let mut gathered = Gathered::new(rules);
    gathered.takes_all_json = patterns::names_json(pattern);
    gathered.takes_tables = patterns::names_tables(pattern);
    let mut is_any = false;
    for path in matches {
        is_any = true;
        let below = path.strip_prefix(&root).unwrap_or(&path);
        let found = match std::fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                gathered.leave_out_dangling(&path);
                continue;
            }
            found => found.map_err(|source| InputError::Io {
                path: path.clone(),
                source,
            })?,
        };
        let is_out = !takes_underscores && gathered.leaves_out(below, found.is_dir());
        if is_out || folders.excluded.has(&path) {
            continue;
        }
        gathered.refuse_tables(path.parent().unwrap_or(&path))?;
        if found.is_dir() {
            gathered.walk(&path, folders)?;
        } else {
            gathered.consider(path, found.file_type())?;
        }
    }
    let why_none = if is_any {
        "no file that matches has a known ending; name JSON lines of another ending one by one; known endings: "
    } else {
        "nothing matches; a glob is matched from the job file's folder, `**` goes into folders; known endings: "
    };
    in_order(gathered, Path::new(pattern), &root, why_none)
}

/// What can be read only once is refused: a resume reads its input again.
fn no_file(path: &Path, what: &'static str) -> InputError {
    InputError::NoFile {
        path: path.to_owned(),
        what,
        cure: "write `input.path = \"-\"` and send the rows to standard input, which is copied first: `... | glm-batch run JOB`".to_owned(),
    }
}

/// What a path is that is neither file nor folder, in words.
#[cfg(unix)]
fn kind(of: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    if of.is_fifo() {
        "a named pipe"
    } else if of.is_socket() {
        "a socket"
    } else if of.is_char_device() || of.is_block_device() {
        "a device"
    } else {
        "no regular file"
    }
}

/// What a path is that is neither file nor folder, in words.
#[cfg(not(unix))]
fn kind(_of: FileType) -> &'static str {
    "no regular file"
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
    let cure = if let Some(sibling) = nearest(&name, siblings.iter().map(String::as_str)) {
        format!("did you mean `{}`?", path.with_file_name(sibling).display())
    } else {
        let cure = "check `input.path`; relative paths start at the job file's folder";
        cure.to_owned() + &inputs_beside(siblings)
    };
    InputError::Missing {
        path: path.to_owned(),
        cure,
    }
}

/// The first names of a folder that an input may have, for a message.
fn inputs_beside(mut names: Vec<String>) -> String {
    names.retain(|name| has_known_ending(Path::new(name)) || has_table_ending(Path::new(name)));
    names.sort_unstable();
    let more = if names.len() > NAMED_INPUTS {
        ", ..."
    } else {
        ""
    };
    names.truncate(NAMED_INPUTS);
    if names.is_empty() {
        return String::new();
    }
    format!("; that folder has `{}`{more}", names.join("`, `"))
}

fn refuse_mixed(files: &[FoundFile]) -> Result<(), InputError> {
    let first = |format| files.iter().find(|file| format_of(&file.path) == format);
    match (first(InputFormat::Parquet), first(InputFormat::Jsonl)) {
        (Some(parquet), Some(jsonl)) => Err(InputError::MixedFormats {
            parquet: parquet.path.clone(),
            jsonl: jsonl.path.clone(),
        }),
        _ => Ok(()),
    }
}
