//! Folders and the matches of globs to the files that are read, and to notes about those that are not.
//!
//! Left out are hidden names, names that begin with `_` (Spark's and Hive's own), unless they hold `=`, files
//! of other endings and the output folder (with its `.trial` and `.old-N` neighbours). A plain `.json` beside
//! input of another ending is mostly a description of it, and is left out too, unless its name begins with
//! `part-`, as Spark's do. A folder with a table's own metadata is
//! refused: it says which of its files count.

use std::fs::FileType;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::error::InputError;
use super::formats::{has_known_ending, has_table_ending, lower_name};
use super::found::ResultFolders;
use crate::job::Rules;

/// Names that a note gives.
const NAMED: usize = 3;

/// Folders that are not walked through.
pub(super) struct Folders<'a> {
    pub(super) excluded: &'a Excluded,
    pub(super) results: &'a dyn ResultFolders,
}

/// What was found in a folder or matched a glob.
pub(super) struct Gathered {
    pub(super) rules: Rules,
    /// Whether every `.json` is meant.
    pub(super) takes_all_json: bool,
    /// Whether CSV and TSV files are meant.
    pub(super) takes_tables: bool,
    taken: Vec<PathBuf>,
    /// Files that end in `.json` alone.
    json: Vec<PathBuf>,
    /// Names that begin with `_`, except marks such as `_SUCCESS`.
    underscores: Vec<String>,
    other_endings: Vec<String>,
    /// CSV and TSV files that are not meant.
    tables: Vec<String>,
    /// Names that are neither file nor folder.
    no_files: Vec<String>,
    /// Names of input that are links to nothing.
    dangling: Vec<String>,
}

impl Gathered {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            takes_all_json: false,
            takes_tables: false,
            taken: Vec::new(),
            json: Vec::new(),
            underscores: Vec::new(),
            other_endings: Vec::new(),
            tables: Vec::new(),
            no_files: Vec::new(),
            dangling: Vec::new(),
        }
    }

    /// Refuses a folder that is a table or lies in one. By the first rules no folder was looked at so.
    pub(super) fn refuse_tables(&self, folder: &Path) -> Result<(), InputError> {
        match self.rules.rows {
            1 => Ok(()),
            _ => refuse_tables(folder),
        }
    }

    /// Whether the ending says that a file is input. By the first rules `.json` did not.
    fn is_input(&self, path: &Path) -> bool {
        let name = lower_name(path);
        let is_json = [".json", ".json.gz", ".json.zst"]
            .iter()
            .any(|ending| name.ends_with(ending));
        let is_table = self.takes_tables && has_table_ending(path);
        is_table || (has_known_ending(path) && (self.rules.rows > 1 || !is_json))
    }

    /// Takes a folder and all below it.
    pub(super) fn walk(&mut self, root: &Path, folders: &Folders<'_>) -> Result<(), InputError> {
        let mut entries = WalkDir::new(root)
            .follow_links(true)
            .sort_by_file_name()
            .into_iter();
        while let Some(entry) = entries.next() {
            if let Some(path) = entry.as_ref().err().and_then(dangling) {
                self.leave_out_dangling(path);
                continue;
            }
            let entry = entry.map_err(|error| InputError::Io {
                path: error.path().unwrap_or(root).to_owned(),
                source: error.into(),
            })?;
            let is_folder = entry.file_type().is_dir();
            let name = Path::new(entry.file_name());
            let is_out = entry.depth() > 0 && (is_hidden(name) || self.leaves_out(name, is_folder));
            if is_out || (is_folder && folders.excluded.has(entry.path())) {
                if is_folder {
                    entries.skip_current_dir();
                }
            } else if is_folder {
                if folders.results.is_one(entry.path()) {
                    return Err(InputError::InnerResults {
                        inner: entry.path().to_owned(),
                    });
                }
                if self.rules.rows > 1 {
                    refuse_table(entry.path())?;
                }
            } else {
                let kind = entry.file_type();
                self.consider(entry.into_path(), kind)?;
            }
        }
        Ok(())
    }

    /// Whether a component of a path begins with `_` and is not a partition.
    pub(super) fn leaves_out(&mut self, below: &Path, is_folder: bool) -> bool {
        let names: Vec<_> = below.iter().map(|name| name.to_string_lossy()).collect();
        let leaves_out = self.rules.rows > 1;
        let is_own = |name: &str| leaves_out && name.starts_with('_') && !name.contains('=');
        let Some(at) = names.iter().position(|name| is_own(name)) else {
            return false;
        };
        let name = names[at].as_ref();
        let is_file = at + 1 == names.len() && !is_folder;
        let is_mark = is_file && !has_known_ending(below);
        if !is_mark && !self.underscores.iter().any(|known| known == name) {
            self.underscores.push(name.to_owned());
        }
        true
    }

    /// Notes a link to nothing that would be input.
    pub(super) fn leave_out_dangling(&mut self, path: &Path) {
        let name = path.file_name().unwrap_or_default();
        if !is_hidden(Path::new(name)) && self.is_input(path) {
            self.dangling.push(name.to_string_lossy().into_owned());
        }
    }

    /// Takes a file, where its ending is known.
    pub(super) fn consider(&mut self, path: PathBuf, kind: FileType) -> Result<(), InputError> {
        let shown = || {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        };
        if !kind.is_file() {
            self.no_files.push(shown());
        } else if !self.is_input(&path) && has_table_ending(&path) {
            self.tables.push(shown());
        } else if !self.is_input(&path) {
            self.other_endings.push(shown());
        } else if path.to_str().is_none() {
            return Err(InputError::NotText { path });
        } else if is_plain_json(&path) && !lower_name(&path).starts_with("part-") {
            self.json.push(path);
        } else {
            self.taken.push(path);
        }
        Ok(())
    }

    /// A CSV or TSV file that was left out.
    pub(super) fn first_table(&self) -> Option<&str> {
        self.tables.iter().min().map(String::as_str)
    }

    /// The files to read, and a line about each kind of name that is left out.
    pub(super) fn finish(mut self, shown: &Path) -> (Vec<PathBuf>, Vec<String>) {
        let mut left_json = Vec::new();
        if self.takes_all_json || self.taken.iter().all(|path| is_plain_json(path)) {
            self.taken.append(&mut self.json);
        } else {
            let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_owned();
            left_json.extend(
                self.json
                    .iter()
                    .map(|path| name(path).to_string_lossy().into_owned()),
            );
        }
        let notes = [
            (self.other_endings, "their endings are not read"),
            (
                self.tables,
                "CSV and TSV files of a folder mostly describe its rows; name them in `input.path` if they hold some, as in `*.csv`",
            ),
            (
                left_json,
                "`.json` beside input of another ending is mostly no rows; name them in `input.path` if they hold some",
            ),
            (
                self.underscores,
                "names that begin with `_` belong to the program that wrote the folder",
            ),
            (self.no_files, "they are neither files nor folders"),
            (self.dangling, "they are links to files that do not exist"),
        ];
        let notes = notes
            .into_iter()
            .filter(|(names, _)| !names.is_empty())
            .map(|(names, why)| {
                let (list, count) = (listed(names), shown.display());
                format!("left out of `{count}`: {list}: {why}")
            })
            .collect();
        (self.taken, notes)
    }
}

/// A few of these names, and how many more there are.
fn listed(mut names: Vec<String>) -> String {
    names.sort_unstable();
    let few: Vec<String> = names
        .iter()
        .take(NAMED)
        .map(|name| format!("`{name}`"))
        .collect();
    let few = few.join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => few,
        more => format!("{few} and {more} more"),
    }
}

/// The link to nothing below its root that a walk failed at.
pub(super) fn dangling(error: &walkdir::Error) -> Option<&Path> {
    let is_missing = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    let path = error.path().filter(|path| path.is_symlink())?;
    (error.depth() > 0 && error.io_error().is_some_and(is_missing)).then_some(path)
}

fn is_plain_json(path: &Path) -> bool {
    path.extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("json"))
}

fn is_hidden(name: &Path) -> bool {
    name.as_os_str().as_encoded_bytes().starts_with(b".")
}

/// Refuses a folder that is a table or lies in one.
fn refuse_tables(folder: &Path) -> Result<(), InputError> {
    let mut folder = folder;
    refuse_table(folder)?;
    while folder
        .file_name()
        .is_some_and(|name| name == "data" || name.to_string_lossy().contains('='))
        && let Some(parent) = folder.parent()
    {
        refuse_table(parent)?;
        folder = parent;
    }
    Ok(())
}

/// Refuses the folder of a table: files of its older versions lie beside those that count.
fn refuse_table(folder: &Path) -> Result<(), InputError> {
    let is_folder = |name: &str| folder.join(name).is_dir();
    let (kind, scan) = if is_folder("_delta_log") {
        ("a Delta table", Some("delta_scan"))
    } else if is_folder("metadata") && is_folder("data") && has_iceberg_metadata(folder) {
        ("an Iceberg table", Some("iceberg_scan"))
    } else if is_folder(".hoodie") {
        ("a Hudi table", None)
    } else {
        return Ok(());
    };
    let example = scan.map(|scan| {
        let path = folder.display();
        format!(
            ", for example with DuckDB: `copy (select * from {scan}('{path}')) to 'rows.parquet'`"
        )
    });
    Err(InputError::Table {
        path: folder.to_owned(),
        kind,
        cure: format!(
            "write the rows that you mean to Parquet{}",
            example.unwrap_or_default()
        ),
    })
}

fn has_iceberg_metadata(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder.join("metadata")) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| lower_name(&entry.path()).contains(".metadata.json"))
}

/// The output folder and the folders that runs put beside it.
pub(super) struct Excluded {
    parent: PathBuf,
    name: String,
    /// Where the output folder's name leads, which may be a link.
    target: Option<PathBuf>,
}

impl Excluded {
    pub(super) fn new(output: &Path) -> Self {
        let parent = output.parent().unwrap_or(Path::new(""));
        Self {
            parent: parent.canonicalize().unwrap_or_else(|_| parent.to_owned()),
            name: output
                .file_name()
                .map(|n| n.to_string_lossy().into_owned())
                .unwrap_or_default(),
            target: output.canonicalize().ok(),
        }
    }

    pub(super) fn has(&self, path: &Path) -> bool {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if self
            .target
            .as_ref()
            .is_some_and(|target| path.starts_with(target))
        {
            return true;
        }
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
