//! Column types that the decoder would stop at without saying which column it is.
//!
//! Writers keep the schema that they had in memory beside Parquet's own. A type in it that arrow does not have,
//! such as an integer of 128 bits, makes the decoder refuse, or panic over, the whole file.

use arrow_ipc::{Field, Type, root_as_message};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parquet::arrow::ARROW_SCHEMA_META_KEY;
use parquet::file::metadata::ParquetMetaData;

/// Marks a length before the schema, which older writers leave out.
const CONTINUATION: [u8; 4] = [0xFF; 4];

/// Levels of nesting that are looked at.
const MAX_DEPTH: u32 = 32;

/// The first column of a type that cannot be read, with its type in words.
pub(super) fn unknown_type(metadata: &ParquetMetaData) -> Option<(String, String)> {
    let entries = metadata.file_metadata().key_value_metadata()?;
    let entry = entries
        .iter()
        .find(|entry| entry.key == ARROW_SCHEMA_META_KEY)?;
    let bytes = STANDARD.decode(entry.value.as_deref()?).ok()?;
    let bytes = match bytes.strip_prefix(&CONTINUATION) {
        Some(rest) => rest.get(4..)?,
        None => &bytes,
    };
    let message = root_as_message(bytes).ok()?;
    let fields = message.header_as_schema()?.fields()?;
    fields.iter().find_map(|field| {
        let kind = unknown(&field, 0)?;
        Some((field.name().unwrap_or_default().to_owned(), kind))
    })
}

/// The type in words of the field, or of one inside it, where it is not known.
fn unknown(field: &Field<'_>, depth: u32) -> Option<String> {
    if depth > MAX_DEPTH {
        return None;
    }
    let kind = field.type_type();
    if kind == Type::Int {
        let int = field.type_as_int()?;
        let bits = int.bitWidth();
        let sign = if int.is_signed() { "int" } else { "uint" };
        return (!matches!(bits, 8 | 16 | 32 | 64)).then(|| format!("{sign}{bits}"));
    }
    if kind.variant_name().is_none() {
        return Some(format!("number {} of Arrow's types", kind.0));
    }
    let children = field.children()?;
    children.iter().find_map(|child| unknown(&child, depth + 1))
}
