//! The schemas of several files to the one that all parts have, and batches into it.
//!
//! Columns by name, in order of first appearance; missing is null; int32 and int64 give int64; int and
//! float give float64; the encodings of text are one type; any other clash is refused. Everything is
//! nullable and carries no metadata, so that a row without readable columns can stand as nulls.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;

use crate::input::error::InputError;

/// Gathers the schemas of files.
#[derive(Default)]
pub(super) struct Unifier {
    /// Name, type so far, and the file that had the column first.
    columns: Vec<(String, DataType, PathBuf)>,
}

impl Unifier {
    pub(super) fn add(&mut self, path: &Path, schema: &Schema) -> Result<(), InputError> {
        for field in schema.fields() {
            let kind = widen_keys(field.data_type());
            match self
                .columns
                .iter_mut()
                .find(|(name, ..)| name == field.name())
            {
                None => self
                    .columns
                    .push((field.name().clone(), kind, path.to_owned())),
                Some((name, known, first)) => {
                    *known = merge(known, &kind).ok_or_else(|| InputError::SchemaClash {
                        column: name.clone(),
                        first: first.clone(),
                        first_type: known.to_string(),
                        second: path.to_owned(),
                        second_type: field.data_type().to_string(),
                    })?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> SchemaRef {
        let fields: Vec<Field> = self
            .columns
            .into_iter()
            .map(|(name, kind, _)| Field::new(name, kind, true))
            .collect();
        Arc::new(Schema::new(fields))
    }
}

/// Dictionary keys of 8 and 16 bits overflow where row groups with their own dictionaries meet.
fn widen_keys(kind: &DataType) -> DataType {
    match kind {
        DataType::Dictionary(key, value)
            if matches!(
                **key,
                DataType::Int8 | DataType::Int16 | DataType::UInt8 | DataType::UInt16
            ) =>
        {
            DataType::Dictionary(Box::new(DataType::Int32), value.clone())
        }
        other => other.clone(),
    }
}

/// The type that holds both.
fn merge(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::{Float64, Int64, LargeUtf8, Null, UInt64};
    match (a, b) {
        _ if a == b => Some(a.clone()),
        (Null, other) | (other, Null) => Some(other.clone()),
        _ if is_text(a) && is_text(b) => Some(LargeUtf8),
        (UInt64, other) | (other, UInt64) if other.is_integer() => None,
        _ if a.is_integer() && b.is_integer() => Some(Int64),
        _ if is_number(a) && is_number(b) => Some(Float64),
        _ => {
            let plain = normal(a);
            (plain == normal(b)).then_some(plain)
        }
    }
}

fn is_number(kind: &DataType) -> bool {
    kind.is_integer() || kind.is_floating()
}

/// Whether values are text, however they are laid out.
pub(super) fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, value) => is_text(value),
        _ => false,
    }
}

/// A nested type without metadata and the names of list items, everything nullable.
fn normal(kind: &DataType) -> DataType {
    let item = |field: &FieldRef| Arc::new(Field::new("item", normal(field.data_type()), true));
    match kind {
        DataType::List(field) => DataType::List(item(field)),
        DataType::LargeList(field) => DataType::LargeList(item(field)),
        DataType::FixedSizeList(field, size) => DataType::FixedSizeList(item(field), *size),
        DataType::Struct(fields) => DataType::Struct(
            fields
                .iter()
                .map(|f| Field::new(f.name(), normal(f.data_type()), true))
                .collect(),
        ),
        other => other.clone(),
    }
}

/// A batch of one file in the schema of all files.
pub(super) fn fit(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = schema
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
            Some(column) => cast(column, field.data_type()),
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        })
        .collect::<Result<Vec<_>, _>>()?;
    with_rows(schema, columns, batch.num_rows())
}

/// Rows of nulls.
pub(super) fn nulls(schema: &SchemaRef, rows: usize) -> Result<RecordBatch, ArrowError> {
    let columns = schema
        .fields()
        .iter()
        .map(|f| new_null_array(f.data_type(), rows))
        .collect();
    with_rows(schema, columns, rows)
}

fn with_rows(
    schema: &SchemaRef,
    columns: Vec<arrow::array::ArrayRef>,
    rows: usize,
) -> Result<RecordBatch, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

#[cfg(test)]
mod tests {
    use super::{DataType, Field, Path, Schema, Unifier, merge};
    use crate::input::InputError;

    #[test]
    fn types_meet_in_the_wider_one() {
        use DataType::{Float32, Float64, Int32, Int64, LargeUtf8, Null, UInt64, Utf8, Utf8View};
        assert_eq!(merge(&Int32, &Int64), Some(Int64));
        assert_eq!(merge(&Int64, &Float32), Some(Float64));
        assert_eq!(merge(&Utf8, &Utf8View), Some(LargeUtf8));
        assert_eq!(merge(&Null, &Utf8), Some(Utf8));
        assert_eq!(merge(&Int64, &Utf8), None);
        assert_eq!(merge(&Int64, &UInt64), None);
        assert_eq!(merge(&DataType::Boolean, &Int32), None);
    }

    #[test]
    fn a_clash_names_both_files() {
        let schema = |kind| Schema::new(vec![Field::new("x", kind, false)]);
        let mut unifier = Unifier::default();
        unifier
            .add(Path::new("a.parquet"), &schema(DataType::Int64))
            .unwrap();
        let error = unifier
            .add(Path::new("b.parquet"), &schema(DataType::Utf8))
            .unwrap_err();
        assert!(matches!(error, InputError::SchemaClash { .. }));
        assert_eq!(
            error.to_string(),
            "column `x` is Int64 in `a.parquet` and Utf8 in `b.parquet`\nhint: write the files with one type, or read them in two jobs"
        );
    }
}
