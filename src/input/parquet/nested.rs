//! The one walk over types that have others inside.
//!
//! Everything that looks into lists, structs and maps uses these functions, so a new kind of list in Arrow is added
//! in one place.

use arrow_schema::{DataType, FieldRef};

/// The fields inside a type; empty for any type but a list, a struct or a map.
pub(super) fn children(kind: &DataType) -> &[FieldRef] {
    match kind {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => std::slice::from_ref(item),
        DataType::Struct(fields) => fields,
        _ => &[],
    }
}

/// The type with each field inside it changed; itself where it has none.
pub(crate) fn with_children(
    kind: &DataType,
    mut change: impl FnMut(&FieldRef) -> FieldRef,
) -> DataType {
    match kind {
        DataType::List(item) => DataType::List(change(item)),
        DataType::LargeList(item) => DataType::LargeList(change(item)),
        DataType::ListView(item) => DataType::ListView(change(item)),
        DataType::LargeListView(item) => DataType::LargeListView(change(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(change(item), *size),
        DataType::Map(entries, sorted) => DataType::Map(change(entries), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(change).collect()),
        other => other.clone(),
    }
}

/// The items of a list of any kind.
pub(crate) fn list_item(kind: &DataType) -> Option<&FieldRef> {
    children(kind).first().filter(|_| kind.is_list())
}
