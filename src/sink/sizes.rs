//! Carried values to the bytes that they take once each row has its own copy.
//!
//! Rows may share a long text; the writer's pages do not. Lines are handed to it in pieces by this size.

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_schema::DataType;

/// Bytes of a number, a date and the like, roughly.
const FIXED_BYTES: usize = 8;

/// Bytes of the values from `start` to `end`.
pub(super) fn value_bytes(array: &dyn Array, start: usize, end: usize) -> usize {
    let items =
        |values: &dyn Array, offsets: (usize, usize)| value_bytes(values, offsets.0, offsets.1);
    match array.data_type() {
        DataType::Utf8View => view_bytes(&array.as_string_view().views()[start..end]),
        DataType::BinaryView => view_bytes(&array.as_binary_view().views()[start..end]),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let offsets = list.value_offsets();
            items(
                list.values(),
                (offsets[start] as usize, offsets[end] as usize),
            )
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            let offsets = list.value_offsets();
            items(
                list.values(),
                (offsets[start] as usize, offsets[end] as usize),
            )
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let offsets = map.value_offsets();
            items(
                map.entries(),
                (offsets[start] as usize, offsets[end] as usize),
            )
        }
        DataType::FixedSizeList(_, size) => {
            let size = *size as usize;
            items(
                array.as_fixed_size_list().values(),
                (start * size, end * size),
            )
        }
        DataType::Struct(_) => {
            let columns = array.as_struct().columns().iter();
            columns.map(|column| value_bytes(column, start, end)).sum()
        }
        _ => (end - start) * FIXED_BYTES,
    }
}

/// The low 32 bits of a view are its length.
fn view_bytes(views: &[u128]) -> usize {
    views.iter().map(|&view| view as u32 as usize).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array, ListArray, StringViewArray, StructArray};
    use arrow_buffer::OffsetBuffer;
    use arrow_schema::{DataType, Field};

    use super::value_bytes;

    #[test]
    fn texts_count_at_every_depth() {
        let text = "a text of more than twelve bytes";
        let texts = Arc::new(StringViewArray::from(vec![
            Some(text),
            None,
            Some("b"),
            Some(text),
        ]));
        assert_eq!(value_bytes(texts.as_ref(), 0, 3), text.len() + 1);
        let item = Arc::new(Field::new("item", DataType::Utf8View, true));
        let offsets = OffsetBuffer::from_lengths([1, 0, 3]);
        let lists = Arc::new(ListArray::new(Arc::clone(&item), offsets, texts, None));
        assert_eq!(value_bytes(lists.as_ref(), 1, 3), text.len() + 1);
        let numbers = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let both = StructArray::from(vec![
            (
                Arc::new(Field::new("l", DataType::List(item), true)),
                lists as ArrayRef,
            ),
            (
                Arc::new(Field::new("n", DataType::Int64, true)),
                numbers as ArrayRef,
            ),
        ]);
        assert_eq!(value_bytes(&both, 0, 1), text.len() + 8);
    }
}
