//! INT96 timestamps to the unit in which they are held.
//!
//! INT96 has nanoseconds over more years than 64 bits of nanoseconds reach: read so, the year 9999 becomes another
//! one. It is read in microseconds, which reach all years; a value that is finer than that is looked for with a
//! second reader, and named. A file that keeps its own schema says which unit it was written from, and is read in
//! that one.

use std::cell::Cell;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::nullif;
use arrow::datatypes::{
    DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType, TimestampNanosecondType,
};
use arrow::error::ArrowError;
use arrow::util::display::array_value_to_string;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::{ARROW_SCHEMA_META_KEY, ProjectionMask};
use parquet::basic::Type as Physical;

use super::fit::Misfit;
use super::layout::{map_type, with_type};

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
    pub(super) fn new(plain: &ArrowReaderMetadata, held: &Schema) -> Option<Self> {
        let fields = plain.schema().fields().iter().zip(held.fields());
        let roots: Vec<usize> = fields
            .enumerate()
            .filter(|(_, (fine, held))| {
                fine.data_type().is_temporal() && fine.data_type() != held.data_type()
            })
            .map(|(place, _)| place)
            .collect();
        if roots.is_empty() {
            return None;
        }
        let descriptor = plain.metadata().file_metadata().schema_descr();
        let projection = ProjectionMask::roots(descriptor, roots);
        let options = ArrowReaderOptions::new();
        let metadata = ArrowReaderMetadata::try_new(Arc::clone(plain.metadata()), options).ok()?;
        Some(Self {
            metadata,
            projection,
        })
    }
}

/// Nulls the times that are finer than they are held, and names them by their place in `schema`.
pub(super) fn without_finer(
    held: &RecordBatch,
    fine: &RecordBatch,
    schema: &Schema,
) -> Result<(RecordBatch, Vec<Misfit>), ArrowError> {
    let mut columns = held.columns().to_vec();
    let mut misfits = Vec::new();
    for (field, fine) in fine.schema_ref().fields().iter().zip(fine.columns()) {
        let place = held.schema_ref().index_of(field.name())?;
        let Some(fine) = fine.as_primitive_opt::<TimestampNanosecondType>() else {
            continue;
        };
        let Some(whole) = columns[place].as_primitive_opt::<TimestampMicrosecondType>() else {
            continue;
        };
        let differs: BooleanArray = (0..fine.len())
            .map(|row| {
                // Both wrap where the nanoseconds do, so that the rest is exact.
                let whole = whole.value(row).wrapping_mul(NANOSECONDS);
                fine.is_valid(row) && fine.value(row).wrapping_sub(whole) != 0
            })
            .map(Some)
            .collect();
        if differs.true_count() == 0 {
            continue;
        }
        let column = schema.index_of(field.name())?;
        for row in (0..fine.len()).filter(|&row| differs.value(row)) {
            misfits.push(Misfit {
                row,
                column,
                value: array_value_to_string(fine, row)?,
                kind: "a timestamp in microseconds".to_owned(),
            });
        }
        columns[place] = nullif(&columns[place], &differs)?;
    }
    let fields = held.schema_ref().fields().iter();
    let nullable = fields.map(|field| Field::clone(field).with_nullable(true));
    let schema = Arc::new(Schema::new(nullable.collect::<Vec<_>>()));
    Ok((RecordBatch::try_new(schema, columns)?, misfits))
}
