//! The first pass over Parquet: footers alone.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_schema::{Schema, SchemaRef};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::decoder::guarded;
use super::encrypted::encrypted_columns;
use super::layout::layout;
use super::logical::{self, Marks};
use super::schema::{Shared, Unifier, by_parquet};
use super::times;
use super::unknown::unknown_type;
use crate::input::error::{FileProblem, InputError, one_line};
use crate::input::types::{ColumnKind, InputColumn};
use crate::input::windows::{Start, Windows};
use crate::job::Rules;

/// Length of the footer and magic number at the end of a file.
const TAIL_BYTES: u64 = 8;

/// Magic number at the end of a file.
const MAGIC: &[u8] = b"PAR1";

/// Magic number of a file whose footer is encrypted.
const ENCRYPTED_MAGIC: &[u8] = b"PARE";

/// What the footers say.
pub(crate) struct Footers {
    pub(crate) columns: Vec<InputColumn>,
    /// Rows of every file.
    pub(crate) rows: Vec<u64>,
}

/// Reads the footer of every file; all that cannot be read are named in one error.
pub(crate) fn first_pass(
    files: &[PathBuf],
    windows: &mut Windows,
    rules: Rules,
) -> Result<Footers, InputError> {
    let mut unifier = Unifier::new(rules);
    let mut problems = Vec::new();
    let mut found = Vec::with_capacity(files.len());
    for (number, path) in files.iter().enumerate() {
        match open_footer(path, rules) {
            Err(reason) => problems.push(FileProblem {
                path: path.clone(),
                reason,
            }),
            Ok(footer) => {
                if problems.is_empty() {
                    unifier.add(path, &footer.schema, footer.rows())?;
                }
                found.push(push_groups(footer.metadata(), number as u32, windows));
            }
        }
    }
    if !problems.is_empty() {
        return Err(InputError::Broken { problems });
    }
    Ok(Footers {
        columns: columns(&unifier.finish().schema),
        rows: found,
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
            mixed_at: None,
        })
        .collect()
}

/// The footer of one file.
#[derive(Clone)]
pub(super) struct Footer {
    /// The columns as the file has them.
    pub(super) schema: SchemaRef,
    /// What the file says of its columns beyond their Arrow types; nothing under the first rule for types.
    pub(super) marks: Marks,
    /// The footer for a reader of rows in the layout in which they are held.
    pub(super) held: ArrowReaderMetadata,
    /// For columns of times that may be finer than they are held: the footer for a reader of the finer ones.
    pub(super) finer: Option<times::Finer>,
}

impl Footer {
    /// What Parquet says of the file.
    pub(super) fn metadata(&self) -> &ParquetMetaData {
        self.held.metadata()
    }

    /// Rows in the file.
    pub(super) fn rows(&self) -> u64 {
        self.metadata().file_metadata().num_rows().max(0) as u64
    }
}

/// The footer of a file; the error is one line.
pub(super) fn open_footer(path: &Path, rules: Rules) -> Result<Footer, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    if length < TAIL_BYTES + 4 {
        return Err(format!(
            "no Parquet footer: the file has {length} bytes; it is cut short"
        ));
    }
    let bytes = footer_bytes(&file).map_err(|error| error.to_string())?;
    if bytes.ends_with(ENCRYPTED_MAGIC) {
        return Err("the file is encrypted; write it without encryption".to_owned());
    }
    let metadata = guarded(|| {
        ParquetMetaDataReader::new()
            .parse_and_finish(&file)
            .map_err(|error| error.to_string())
    })
    .map_err(|reason| no_footer(&reason).to_string())?;
    check_counts(&metadata)?;
    if let Some(column) = encrypted_columns(&bytes).first() {
        return Err(format!(
            "the column `{column}` is encrypted; write the file without encryption, or without the column"
        ));
    }
    if let Some((column, kind)) = unknown_type(&metadata) {
        return Err(format!(
            "the column `{column}` is of the type {kind}, which cannot be read; cast it to another type, such as text"
        ));
    }
    read_as(metadata, rules)
}

/// The footer with the types in which its rows are read.
fn read_as(metadata: ParquetMetaData, rules: Rules) -> Result<Footer, String> {
    let mut marks = Marks::default();
    let plain = guarded(|| {
        let mut metadata = metadata;
        if by_parquet(rules) {
            marks.add(metadata.file_metadata());
            metadata = logical::readable(metadata).map_err(|error| error.to_string())?;
        }
        ArrowReaderMetadata::try_new(Arc::new(metadata), ArrowReaderOptions::new())
            .map_err(|error| error.to_string())
    })
    .map_err(|reason| format!("the types of its columns cannot be read: {reason}"))?;
    let mut schema = Arc::clone(plain.schema());
    if by_parquet(rules) {
        check_names(&schema)?;
        schema = times::in_microseconds(&plain);
    }
    let held = with_types(&plain, layout(&schema), rules)?;
    let finer = times::Finer::new(&plain, &schema)?;
    Ok(Footer {
        schema,
        marks,
        held,
        finer,
    })
}

/// The footer for a reader that gives the columns these types. Jobs of the first rule read what has no such reader
/// as it is, and cast it later.
fn with_types(
    plain: &ArrowReaderMetadata,
    types: SchemaRef,
    rules: Rules,
) -> Result<ArrowReaderMetadata, String> {
    let options = ArrowReaderOptions::new().with_schema(types);
    match ArrowReaderMetadata::try_new(Arc::clone(plain.metadata()), options) {
        Ok(held) => Ok(held),
        Err(_) if !by_parquet(rules) => Ok(plain.clone()),
        Err(error) => Err(format!(
            "the types of its columns cannot be read: {}",
            one_line(&error.to_string())
        )),
    }
}

/// Refuses two columns of one name: one of them would be lost.
fn check_names(schema: &Schema) -> Result<(), String> {
    for (place, field) in schema.fields().iter().enumerate() {
        let name = field.name();
        if schema.index_of(name).is_ok_and(|first| first < place) {
            return Err(format!(
                "two columns are named `{name}`; give them different names"
            ));
        }
    }
    Ok(())
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

/// blake3 of size and footer, in hex: what identified a file in earlier versions.
pub(crate) fn footer_fingerprint(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&file.metadata()?.len().to_le_bytes());
    hasher.update(&footer_bytes(&file)?);
    Ok(hasher.finalize().to_hex().to_string())
}

fn no_footer(reason: &str) -> io::Error {
    let text = format!("no Parquet footer: {reason}; the file is cut short or no Parquet");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// The footer with its length and the magic number behind.
fn footer_bytes(mut file: &File) -> io::Result<Vec<u8>> {
    let bytes = file.metadata()?.len();
    file.seek(SeekFrom::End(-(TAIL_BYTES as i64)))?;
    let mut tail = [0; TAIL_BYTES as usize];
    file.read_exact(&mut tail)?;
    // Without the magic number the length is any four bytes, and what it names may be gigabytes.
    if ![MAGIC, ENCRYPTED_MAGIC].contains(&&tail[4..]) {
        return Err(no_footer("its last bytes are not those of Parquet"));
    }
    let length = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    let Some(start) = bytes.checked_sub(TAIL_BYTES + length) else {
        return Err(no_footer(&format!(
            "it states {length} bytes of footer, the file has {bytes}"
        )));
    };
    file.seek(SeekFrom::Start(start))?;
    let mut footer = Vec::new();
    file.read_to_end(&mut footer)?;
    Ok(footer)
}

/// The schema that all files share; each footer is shown to `each`.
pub(super) fn shared_schema(
    files: impl Iterator<Item = PathBuf>,
    rules: Rules,
    mut each: impl FnMut(&Path, &Footer),
) -> Result<Shared, InputError> {
    let mut unifier = Unifier::new(rules);
    let mut marks = Marks::default();
    let mut problems = Vec::new();
    for path in files {
        match open_footer(&path, rules) {
            Ok(footer) => {
                unifier.add(&path, &footer.schema, footer.rows())?;
                marks.merge(&footer.marks);
                each(&path, &footer);
            }
            Err(reason) => problems.push(FileProblem { path, reason }),
        }
    }
    if !problems.is_empty() {
        return Err(InputError::Broken { problems });
    }
    let shared = unifier.finish();
    Ok(if by_parquet(rules) {
        Shared::new(marks.apply(&shared.schema))
    } else {
        shared
    })
}
