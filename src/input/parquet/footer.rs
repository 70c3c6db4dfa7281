//! The first pass over Parquet: footers alone.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::group::guarded;
use super::logical::{self, Marks};
use super::schema::Unifier;
use crate::input::error::{FileProblem, InputError};
use crate::input::types::{ColumnKind, InputColumn};
use crate::input::windows::{Start, Windows};
use crate::spec::Rules;

/// Length of the footer and magic number at the end of a file.
const TAIL_BYTES: u64 = 8;

/// What the footers say.
pub(crate) struct Footers {
    pub(crate) columns: Vec<InputColumn>,
    /// Rows and fingerprint of every file.
    pub(crate) files: Vec<(u64, String)>,
}

/// Reads the footer of every file; all that cannot be read are named in one error.
pub(crate) fn first_pass(
    files: &[PathBuf],
    windows: &mut Windows,
    rules: Rules,
) -> Result<Footers, InputError> {
    let mut unifier = Unifier::default();
    let mut problems = Vec::new();
    let mut found = Vec::with_capacity(files.len());
    for (number, path) in files.iter().enumerate() {
        match open_footer(path, rules).and_then(|footer| Ok((footer, fingerprint(path)?))) {
            Err(reason) => problems.push(FileProblem {
                path: path.clone(),
                reason,
            }),
            Ok((footer, fingerprint)) => {
                if problems.is_empty() {
                    unifier.add(path, footer.schema())?;
                }
                let rows = push_groups(footer.metadata(), number as u32, windows);
                found.push((rows, fingerprint));
            }
        }
    }
    if !problems.is_empty() {
        return Err(InputError::Broken { problems });
    }
    Ok(Footers {
        columns: columns(&unifier.finish()),
        files: found,
    })
}

fn push_groups(metadata: &ParquetMetaData, file: u32, windows: &mut Windows) -> u64 {
    let mut rows = 0;
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let count = group.num_rows().max(0) as u64;
        let start = Start {
            file,
            row_group: number as u32,
            ..Start::default()
        };
        windows.push(start, count, row_bytes(group.total_byte_size(), count));
        rows += count;
    }
    rows
}

/// Bytes that a row counts for.
pub(super) fn row_bytes(total: i64, rows: u64) -> u64 {
    (total.max(0) as u64).div_ceil(rows.max(1))
}

fn columns(schema: &Schema) -> Vec<InputColumn> {
    schema
        .fields()
        .iter()
        .map(|field| InputColumn {
            name: field.name().clone(),
            kind: ColumnKind::Arrow(field.data_type().to_string()),
        })
        .collect()
}

/// The footer of a file, ready to decode its rows; the error is one line.
pub(super) fn open_footer(path: &Path, rules: Rules) -> Result<ArrowReaderMetadata, String> {
    decodable(read_footer(path)?, rules)
}

/// The footer of a file as it is stored.
fn read_footer(path: &Path) -> Result<ParquetMetaData, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    if length < TAIL_BYTES + 4 {
        return Err(format!(
            "no Parquet footer: the file has {length} bytes; it is cut short"
        ));
    }
    let read = || ParquetMetaDataReader::new().parse_and_finish(&file);
    let footer = guarded(|| read().map_err(|error| error.to_string())).map_err(no_footer)?;
    check_counts(&footer)?;
    Ok(footer)
}

fn decodable(footer: ParquetMetaData, rules: Rules) -> Result<ArrowReaderMetadata, String> {
    let decodable = || {
        let footer = match rules.types {
            1 => footer,
            _ => logical::readable(footer)?,
        };
        ArrowReaderMetadata::try_new(Arc::new(footer), ArrowReaderOptions::new())
    };
    guarded(|| decodable().map_err(|error| error.to_string())).map_err(no_footer)
}

#[expect(clippy::needless_pass_by_value, reason = "it maps an error")]
fn no_footer(reason: String) -> String {
    format!("no Parquet footer: {reason}; the file is cut short or no Parquet")
}

/// Refuses a footer that contradicts itself: its row numbers decide how much is read.
fn check_counts(metadata: &ParquetMetaData) -> Result<(), String> {
    let mut total = 0_i64;
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let rows = group.num_rows();
        // Every row has at least one entry in every column.
        if rows < 0
            || group
                .columns()
                .iter()
                .any(|column| column.num_values() < rows)
        {
            return Err(format!(
                "the Parquet footer is damaged: row group {number} cannot have {rows} rows"
            ));
        }
        total = total.saturating_add(rows);
    }
    let stated = metadata.file_metadata().num_rows();
    if stated == total {
        return Ok(());
    }
    Err(format!(
        "the Parquet footer is damaged: it states {stated} rows and lists {total}"
    ))
}

/// blake3 of size and footer, in hex.
fn fingerprint(path: &Path) -> Result<String, String> {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let bytes = file.metadata()?.len();
        file.seek(SeekFrom::End(-(TAIL_BYTES as i64)))?;
        let mut tail = [0; TAIL_BYTES as usize];
        file.read_exact(&mut tail)?;
        let length = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
        file.seek(SeekFrom::End(-(TAIL_BYTES as i64) - i64::from(length)))?;
        let mut footer = Vec::new();
        file.read_to_end(&mut footer)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes.to_le_bytes());
        hasher.update(&footer);
        Ok(hasher.finalize().to_hex().to_string())
    };
    read().map_err(|error| error.to_string())
}

/// The schema that all files share.
pub(super) fn shared_schema(
    files: impl Iterator<Item = PathBuf>,
    rules: Rules,
) -> Result<SchemaRef, InputError> {
    let mut unifier = Unifier::default();
    let mut marks = Marks::default();
    let mut problems = Vec::new();
    for path in files {
        let stored = read_footer(&path);
        if let Ok(stored) = &stored {
            marks.add(stored.file_metadata());
        }
        match stored.and_then(|stored| decodable(stored, rules)) {
            Ok(footer) => unifier.add(&path, footer.schema())?,
            Err(reason) => problems.push(FileProblem { path, reason }),
        }
    }
    if !problems.is_empty() {
        return Err(InputError::Broken { problems });
    }
    let schema = unifier.finish();
    Ok(match rules.types {
        1 => logical::under_first_rule(&schema),
        _ => marks.apply(&schema),
    })
}
