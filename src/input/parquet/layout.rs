//! Types of columns to the layout in which their values are held, and values to that layout.
//!
//! Text and bytes are views: rows with one value share its bytes, as they do in the file's dictionary, and no
//! offset of 32 bits can overflow. Dictionaries are read as their values for the same reason: the keys of one row
//! group mean nothing in the next. The types of the results are not changed by it.

use std::sync::Arc;

use arrow_array::builder::{BinaryViewBuilder, StringViewBuilder};
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, make_array};
use arrow_data::ArrayData;
use arrow_schema::ArrowError;
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};

use super::nested::with_children;

/// Whether values are text, however they are laid out.
pub(super) fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, value) => is_text(value),
        _ => false,
    }
}

/// Whether values are bytes of any length, however they are laid out.
pub(super) fn is_bytes(kind: &DataType) -> bool {
    match kind {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => true,
        DataType::Dictionary(_, value) => is_bytes(value),
        _ => false,
    }
}

/// A schema in the layout in which its rows are held.
pub(super) fn layout(schema: &Schema) -> SchemaRef {
    let fields: Vec<FieldRef> = schema.fields().iter().map(field_layout).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// A type in the layout in which its values are held.
fn type_layout(kind: &DataType) -> DataType {
    map_type(kind, &|kind| match kind {
        _ if is_text(kind) => Some(DataType::Utf8View),
        _ if is_bytes(kind) => Some(DataType::BinaryView),
        DataType::Dictionary(_, value) => Some(type_layout(value)),
        DataType::RunEndEncoded(_, value) => Some(type_layout(value.data_type())),
        _ => None,
    })
}

fn field_layout(field: &FieldRef) -> FieldRef {
    with_type(field, type_layout(field.data_type()))
}

/// The field with another type.
pub(super) fn with_type(field: &FieldRef, kind: DataType) -> FieldRef {
    if *field.data_type() == kind {
        return Arc::clone(field);
    }
    Arc::new(Field::clone(field).with_data_type(kind))
}

/// A type with some of its parts, or itself, replaced.
pub(super) fn map_type(
    kind: &DataType,
    change: &impl Fn(&DataType) -> Option<DataType>,
) -> DataType {
    if let Some(changed) = change(kind) {
        return changed;
    }
    with_children(kind, |field| {
        with_type(field, map_type(field.data_type(), change))
    })
}

/// Holds equal texts and bytes once and lets go of all that no row shows.
pub(in crate::input) fn compact(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().map(compact_array);
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns.collect::<Result<_, _>>()?, &options)
}

fn compact_array(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match array.data_type() {
        DataType::Utf8View => {
            let mut texts = StringViewBuilder::new().with_deduplicate_strings();
            for text in array.as_string_view() {
                texts.append_option(text);
            }
            Ok(Arc::new(texts.finish()))
        }
        DataType::BinaryView => {
            let mut bytes = BinaryViewBuilder::new().with_deduplicate_strings();
            for value in array.as_binary_view() {
                bytes.append_option(value);
            }
            Ok(Arc::new(bytes.finish()))
        }
        kind if kind.is_nested() => Ok(make_array(compact_children(array.to_data())?)),
        _ => Ok(Arc::clone(array)),
    }
}

fn compact_children(data: ArrayData) -> Result<ArrayData, ArrowError> {
    let children = data.child_data().iter().map(|child| {
        let child = compact_array(&make_array(child.clone()))?;
        Ok(child.to_data())
    });
    let children = children.collect::<Result<Vec<_>, ArrowError>>()?;
    data.into_builder().child_data(children).build()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::cast::AsArray;
    use arrow_array::{Array, ArrayRef, RecordBatch, StringViewArray, StructArray};
    use arrow_schema::{DataType, Field};

    use super::{compact, type_layout};

    #[test]
    fn dictionaries_are_held_as_their_values_at_every_depth() {
        let words = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
        let list = |item| DataType::LargeList(Arc::new(Field::new("item", item, true)));
        assert_eq!(type_layout(&list(words)), list(DataType::Utf8View));
        let years = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Int64));
        assert_eq!(type_layout(&years), DataType::Int64);
    }

    #[test]
    fn equal_texts_are_held_once() {
        let text = "a text of more than twelve bytes".repeat(100);
        let texts = || Arc::new(StringViewArray::from_iter_values(vec![&text; 50])) as ArrayRef;
        let field = Arc::new(Field::new("x", DataType::Utf8View, true));
        let inner = StructArray::from(vec![(field, texts())]);
        let batch = RecordBatch::try_from_iter([
            ("plain", texts()),
            ("nested", Arc::new(inner) as ArrayRef),
        ]);
        let batch = batch.unwrap();
        let small = compact(&batch).unwrap();
        assert_eq!(batch, small);
        let held: usize = small
            .column(0)
            .as_string_view()
            .data_buffers()
            .iter()
            .map(arrow_buffer::Buffer::len)
            .sum();
        assert_eq!(held, text.len());
        assert_eq!(small.column(0).len(), 50);
    }
}
