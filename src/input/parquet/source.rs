//! Windows of Parquet rows.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use rayon::prelude::*;

use super::cells::Cells;
use super::footer::{open_footer, shared_schema};
use super::group::GroupReader;
use super::schema::nulls;
use crate::ids::RowId;
use crate::input::PromptSource;
use crate::input::build::{Built, PromptBuilder};
use crate::input::error::{FileProblem, InputError, one_line};
use crate::input::types::{Carried, InputIndex, InputRow, InputWindow, Place, WindowSpan};
use crate::spec::{GenerationSpec, Rules, nearest};

/// Readers that wait for the window after their last one.
const KEPT_READERS: usize = 2;

/// A row group of a file.
type GroupId = (u32, u32);

/// Reads windows of Parquet rows.
pub(crate) struct ParquetSource {
    index: Arc<InputIndex>,
    builder: PromptBuilder,
    schema: SchemaRef,
    rules: Rules,
    /// The footer used last.
    footer: Mutex<Option<(u32, ArrowReaderMetadata)>>,
    /// Row groups that were decoded whole, with the damage found.
    checked: Mutex<HashMap<GroupId, Option<String>>>,
    /// Readers with the row that they stand before.
    kept: Mutex<Vec<(GroupId, u64, GroupReader)>>,
}

/// Some rows of one row group.
struct Slice {
    id: GroupId,
    first: u64,
    rows: u64,
    damage: Option<String>,
}

impl ParquetSource {
    pub(crate) fn new(
        index: Arc<InputIndex>,
        builder: PromptBuilder,
        generation: Option<&str>,
        rules: Rules,
    ) -> Result<Self, InputError> {
        let schema = shared_schema(index.files.iter().map(|file| file.path.clone()), rules)?;
        check_settings(&schema, generation)?;
        Ok(Self {
            index,
            builder,
            schema,
            rules,
            footer: Mutex::new(None),
            checked: Mutex::new(HashMap::new()),
            kept: Mutex::new(Vec::new()),
        })
    }

    fn path(&self, file: u32) -> PathBuf {
        self.index
            .files
            .get(file as usize)
            .map(|file| file.path.clone())
            .unwrap_or_default()
    }

    fn footer(&self, file: u32) -> Result<ArrowReaderMetadata, InputError> {
        let mut last = self.footer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, footer)) = &*last
            && *known == file
        {
            return Ok(footer.clone());
        }
        let path = self.path(file);
        self.check_size(file)?;
        let footer = open_footer(&path, self.rules).map_err(|reason| InputError::Broken {
            problems: vec![FileProblem { path, reason }],
        })?;
        *last = Some((file, footer.clone()));
        Ok(footer)
    }

    /// Refuses a file whose size is not the first pass's.
    fn check_size(&self, file: u32) -> Result<(), InputError> {
        let known = &self.index.files[file as usize];
        let path = || known.path.clone();
        let bytes = match std::fs::metadata(&known.path) {
            Ok(found) => found.len(),
            Err(source) => {
                return Err(InputError::Io {
                    path: path(),
                    source,
                });
            }
        };
        if bytes == known.bytes {
            return Ok(());
        }
        let what = format!("it has {bytes} bytes, it had {}", known.bytes);
        Err(InputError::Changed { path: path(), what })
    }

    /// The window's batch and where its rows stand.
    fn read(&self, span: &WindowSpan) -> Result<(RecordBatch, Vec<Slice>), InputError> {
        let (mut file, mut group, mut row) = (span.file, span.row_group, span.row_in_group);
        let mut missing = span.rows;
        let (mut batches, mut slices) = (Vec::new(), Vec::new());
        while missing > 0 {
            if file as usize >= self.index.files.len() {
                let what = format!("window {} ends before its {} rows", span.id, span.rows);
                return Err(InputError::Changed {
                    path: self.path(span.file),
                    what,
                });
            }
            let footer = self.footer(file)?;
            let Some(size) = footer.metadata().row_groups().get(group as usize) else {
                (file, group, row) = (file + 1, 0, 0);
                continue;
            };
            let left = (size.num_rows().max(0) as u64).saturating_sub(row);
            let rows = left.min(missing);
            if rows > 0 {
                let read = self.read_group(&footer, (file, group), row, rows);
                let (batch, damage) = match read {
                    Ok(batch) => (Ok(batch), None),
                    Err(reason) if is_machine_error(&reason) => {
                        let (path, source) = (self.path(file), io::Error::other(reason));
                        return Err(InputError::Io { path, source });
                    }
                    Err(reason) => (nulls(&self.schema, rows as usize), Some(reason)),
                };
                batches.push(batch.map_err(|error| self.odd(file, &error))?);
                slices.push(Slice {
                    id: (file, group),
                    first: row,
                    rows,
                    damage,
                });
                missing -= rows;
            }
            row += rows;
            if rows == left {
                (group, row) = (group + 1, 0);
            }
        }
        let batch =
            concat_batches(&self.schema, &batches).map_err(|error| self.odd(span.file, &error))?;
        Ok((batch, slices))
    }

    /// Rows of a group, or the damage that fails the whole group.
    fn read_group(
        &self,
        footer: &ArrowReaderMetadata,
        id: GroupId,
        row: u64,
        rows: u64,
    ) -> Result<RecordBatch, String> {
        let path = self.path(id.0);
        let size = footer.metadata().row_group(id.1 as usize).num_rows().max(0) as u64;
        let whole = row == 0 && rows == size;
        if !whole {
            self.check(footer, id, size)?;
        }
        let mut reader = match self.take_kept(id, row) {
            Some(reader) => reader,
            None => GroupReader::open(&path, footer, id.1, row, &self.schema)?,
        };
        let batch = reader.take(rows)?;
        if !whole && row + rows < size {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() >= KEPT_READERS {
                kept.remove(0);
            }
            kept.push((id, row + rows, reader));
        }
        Ok(batch)
    }

    fn take_kept(&self, id: GroupId, row: u64) -> Option<GroupReader> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let place = kept
            .iter()
            .position(|(known, next, _)| *known == id && *next == row)?;
        Some(kept.remove(place).2)
    }

    /// Decodes a whole group once.
    fn check(&self, footer: &ArrowReaderMetadata, id: GroupId, rows: u64) -> Result<(), String> {
        let known = {
            let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
            checked.get(&id).cloned()
        };
        if let Some(damage) = known {
            return damage.map_or(Ok(()), Err);
        }
        let result = GroupReader::open(&self.path(id.0), footer, id.1, 0, &self.schema)
            .and_then(|reader| reader.check(rows));
        if result
            .as_ref()
            .is_err_and(|reason| is_machine_error(reason))
        {
            return result;
        }
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        checked.insert(id, result.clone().err());
        result
    }

    /// An array operation failed that no input should make fail.
    fn odd(&self, file: u32, error: &ArrowError) -> InputError {
        InputError::Broken {
            problems: vec![FileProblem {
                path: self.path(file),
                reason: one_line(&error.to_string()),
            }],
        }
    }

    fn row(&self, cells: &Cells, row: RowId, position: usize, slice: &Slice, at: u64) -> InputRow {
        let (file, row_group) = slice.id;
        let place = Place::RowGroup {
            file,
            row_group,
            row: slice.first + at,
        };
        let Built {
            id,
            reference,
            outcome,
        } = match &slice.damage {
            None => self.builder.build(row, &cells.row(position)),
            Some(damage) => Built::bad(row, format!("row group {row_group} is damaged: {damage}")),
        };
        InputRow {
            row,
            place,
            id,
            reference,
            is_record: slice.damage.is_none(),
            outcome,
        }
    }
}

impl PromptSource for ParquetSource {
    fn read_window(&self, span: &WindowSpan) -> Result<InputWindow, InputError> {
        let (batch, slices) = self.read(span)?;
        let cells = Cells::new(&batch, &self.builder.used_columns())
            .map_err(|error| self.odd(span.file, &error))?;
        let mut places = Vec::with_capacity(batch.num_rows());
        for slice in &slices {
            places.extend((0..slice.rows).map(|at| (slice, at)));
        }
        let rows = places
            .par_iter()
            .enumerate()
            .map(|(position, (slice, at))| {
                let row = RowId(span.first_row.0 + position as u64);
                self.row(&cells, row, position, slice, *at)
            })
            .collect();
        Ok(InputWindow {
            id: span.id,
            rows,
            carried: Carried::Arrow(batch),
        })
    }

    fn arrow_schema(&self) -> Option<SchemaRef> {
        Some(Arc::clone(&self.schema))
    }
}

/// Whether the machine failed and not the bytes: the rows must not fail for it. The decoder passes on
/// nothing but text; the standard library ends errors of the system so.
fn is_machine_error(reason: &str) -> bool {
    reason.contains("(os error ")
}

/// Refuses a struct of settings with a field that is none.
fn check_settings(schema: &SchemaRef, column: Option<&str>) -> Result<(), InputError> {
    let Some(column) = column else { return Ok(()) };
    let Ok(field) = schema.field_with_name(column) else {
        return Ok(());
    };
    let DataType::Struct(fields) = field.data_type() else {
        return Ok(());
    };
    let known = GenerationSpec::ROW_KEYS;
    for inner in fields {
        let name = inner.name().as_str();
        if !known.contains(&name) {
            let cure = match nearest(name, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known keys: {}", known.join(", ")),
            };
            return Err(InputError::UnknownSetting {
                column: column.to_owned(),
                field: name.to_owned(),
                cure,
            });
        }
    }
    Ok(())
}
