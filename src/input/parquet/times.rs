//! INT96 timestamps to the unit in which they are held.
//!
//! INT96 has nanoseconds over more years than 64 bits of nanoseconds reach: read so, the year 9999 becomes another
//! one. It is read in microseconds, which reach all years; a value that is finer than that is looked for with a
//! second reader, and named. A file that keeps its own schema says which unit it was written from, and is read in
//! that one.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{TimestampMicrosecondType, TimestampNanosecondType};
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::ArrowError;
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow_select::nullif::nullif;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::{ARROW_SCHEMA_META_KEY, ProjectionMask};
use parquet::basic::Type as Physical;

use super::fit::Misfit;
use super::json::value_text;
use super::layout::{map_type, with_type};
use crate::input::error::one_line;

const NANOSECONDS: i64 = 1000;

/// The schema of a file, INT96 in microseconds where the file does not say better.
pub(super) fn in_microseconds(plain: &ArrowReaderMetadata) -> SchemaRef {
    let leaves = plain.metadata().file_metadata().schema_descr().columns();
    let is_int96 = |leaf: usize| {
        leaves
            .get(leaf)
            .is_some_and(|leaf| leaf.physical_type() == Physical::INT96)
    };
    if has_own_schema(plain) || !(0..leaves.len()).any(is_int96) {
        return Arc::clone(plain.schema());
    }
    // Leaves come in the order of Parquet's own.
    let seen = Cell::new(0);
    let change = |kind: &DataType| {
        if kind.is_nested() {
            return None;
        }
        let leaf = seen.replace(seen.get() + 1);
        match kind {
            DataType::Timestamp(TimeUnit::Nanosecond, zone) if is_int96(leaf) => {
                Some(DataType::Timestamp(TimeUnit::Microsecond, zone.clone()))
            }
            _ => None,
        }
    };
    let fields = plain.schema().fields().iter();
    let fields: Vec<_> = fields
        .map(|field| with_type(field, map_type(field.data_type(), &change)))
        .collect();
    let metadata = plain.schema().metadata().clone();
    Arc::new(Schema::new_with_metadata(fields, metadata))
}

fn has_own_schema(plain: &ArrowReaderMetadata) -> bool {
    let entries = plain.metadata().file_metadata().key_value_metadata();
    entries.is_some_and(|entries| entries.iter().any(|e| e.key == ARROW_SCHEMA_META_KEY))
}

/// Columns that are held in microseconds, to be read in nanoseconds too.
#[derive(Clone)]
pub(super) struct Finer {
    pub(super) metadata: ArrowReaderMetadata,
    pub(super) projection: ProjectionMask,
}

impl Finer {
    /// `None` where `held`, the schema of the file, has all columns of the plain reader's.
    pub(super) fn new(plain: &ArrowReaderMetadata, held: &Schema) -> Result<Option<Self>, String> {
        let fields = plain.schema().fields().iter().zip(held.fields());
        let roots: Vec<usize> = fields
            .enumerate()
            .filter(|(_, (fine, held))| fine.data_type() != held.data_type())
            .map(|(place, _)| place)
            .collect();
        if roots.is_empty() {
            return Ok(None);
        }
        let descriptor = plain.metadata().file_metadata().schema_descr();
        let projection = ProjectionMask::roots(descriptor, roots);
        let options = ArrowReaderOptions::new();
        let metadata = ArrowReaderMetadata::try_new(Arc::clone(plain.metadata()), options);
        let metadata = metadata.map_err(|error| {
            let reason = one_line(&error.to_string());
            format!("its times cannot be read in nanoseconds: {reason}")
        })?;
        Ok(Some(Self {
            metadata,
            projection,
        }))
    }
}

/// Nulls the values that are, or hold, a time finer than it is held, and names that time and the value's place in
/// `schema`.
pub(super) fn without_finer(
    held: &RecordBatch,
    fine: &RecordBatch,
    schema: &Schema,
) -> Result<(RecordBatch, Vec<Misfit>), ArrowError> {
    let mut columns = held.columns().to_vec();
    let mut misfits = Vec::new();
    for (field, fine) in fine.schema_ref().fields().iter().zip(fine.columns()) {
        let place = held.schema_ref().index_of(field.name())?;
        let found = finer_times(&columns[place], fine);
        if found.is_empty() {
            continue;
        }
        let column = schema.index_of(field.name())?;
        let mut differs = vec![false; held.num_rows()];
        for (row, value) in found {
            differs[row] = true;
            misfits.push(Misfit {
                row,
                column,
                value,
                kind: "a timestamp in microseconds".to_owned(),
            });
        }
        columns[place] = nullif(&columns[place], &BooleanArray::from(differs))?;
    }
    let fields = held.schema_ref().fields().iter();
    let nullable = fields.map(|field| Field::clone(field).with_nullable(true));
    let schema = Arc::new(Schema::new(nullable.collect::<Vec<_>>()));
    Ok((RecordBatch::try_new(schema, columns)?, misfits))
}

/// The rows whose values differ, and the first such time of each. Two readers of one column gave both arrays.
fn finer_times(held: &dyn Array, fine: &dyn Array) -> Vec<(usize, String)> {
    if held.data_type() == fine.data_type() {
        return Vec::new();
    }
    if let (Some(held), Some(fine)) = (held.as_struct_opt(), fine.as_struct_opt()) {
        let columns = held.columns().iter().zip(fine.columns());
        let found = columns.flat_map(|(held, fine)| finer_times(held, fine));
        let visible = found.filter(|(row, _)| fine.is_valid(*row));
        // Of two times in one row the first is named.
        let mut first = BTreeMap::new();
        visible.for_each(|(row, value)| {
            first.entry(row).or_insert(value);
        });
        return first.into_iter().collect();
    }
    let inner: Box<dyn Fn(usize) -> Option<(ArrayRef, ArrayRef)>> =
        if let (Some(held), Some(fine)) = (held.as_list_opt::<i32>(), fine.as_list_opt::<i32>()) {
            Box::new(|row| Some((held.value(row), fine.value(row))))
        } else if let (Some(held), Some(fine)) = (held.as_map_opt(), fine.as_map_opt()) {
            Box::new(|row| Some((Arc::new(held.value(row)), Arc::new(fine.value(row)))))
        } else {
            Box::new(|_| None)
        };
    let rows = (0..fine.len()).filter(|&row| fine.is_valid(row));
    let (Some(whole), Some(times)) = (
        held.as_primitive_opt::<TimestampMicrosecondType>(),
        fine.as_primitive_opt::<TimestampNanosecondType>(),
    ) else {
        let first = |row| {
            let (held, fine) = inner(row)?;
            let (_, value) = finer_times(&held, &fine).into_iter().next()?;
            Some((row, value))
        };
        return rows.filter_map(first).collect();
    };
    // Both wrap where the nanoseconds do, so that the rest is exact.
    let rest = |row| {
        let whole: i64 = whole.value(row).wrapping_mul(NANOSECONDS);
        times.value(row).wrapping_sub(whole)
    };
    rows.filter(|&row| rest(row) != 0)
        .map(|row| (row, value_text(fine, row)))
        .collect()
}
