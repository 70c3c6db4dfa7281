//! A file's name, else its first bytes, to its format.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::types::InputFormat;

/// Endings of the files that are taken from globs and folders.
pub(super) const KNOWN_ENDINGS: [&str; 10] = [
    ".jsonl",
    ".jsonl.gz",
    ".jsonl.zst",
    ".ndjson",
    ".ndjson.gz",
    ".ndjson.zst",
    ".json",
    ".json.gz",
    ".json.zst",
    ".parquet",
];

/// Endings of tables, which are read where a file is named or matched by a glob that names the ending: in folders they mostly
/// describe the rows beside them.
pub(super) const TABLE_ENDINGS: [&str; 6] =
    [".csv", ".csv.gz", ".csv.zst", ".tsv", ".tsv.gz", ".tsv.zst"];

/// First bytes of a Parquet file.
const PARQUET_MAGIC: &[u8] = b"PAR1";

/// Whether a file has one of these endings.
pub(super) fn has_known_ending(path: &Path) -> bool {
    let name = lower_name(path);
    KNOWN_ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// Whether a file's ending says that it is a CSV or TSV file.
pub(super) fn has_table_ending(path: &Path) -> bool {
    table_ending(path).is_some()
}

/// The ending of a CSV or TSV file.
pub(super) fn table_ending(path: &Path) -> Option<&'static str> {
    let name = lower_name(path);
    TABLE_ENDINGS
        .into_iter()
        .find(|ending| name.ends_with(ending))
}

/// Whether the ending says that tabs separate the fields.
pub(super) fn has_tabs(path: &Path) -> bool {
    table_ending(path).is_some_and(|ending| ending.starts_with(".tsv"))
}

/// The name of a file, in which endings are looked for.
pub(super) fn lower_name(path: &Path) -> String {
    path.file_name()
        .map(|n| n.to_string_lossy().to_lowercase())
        .unwrap_or_default()
}

/// Format of a file: by its ending, else by its first bytes.
pub(super) fn format_of(path: &Path) -> InputFormat {
    if lower_name(path).ends_with(".parquet") {
        return InputFormat::Parquet;
    }
    if has_known_ending(path) || has_table_ending(path) {
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
