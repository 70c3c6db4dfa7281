//! Fields and values to the JSON text of a line; Arrow values as [`crate::input::json_options`] says.

use std::io::Write;

use arrow::array::ArrayRef;
use arrow::datatypes::FieldRef;
use arrow::error::ArrowError;
use arrow::json::writer::{EncoderOptions, NullableEncoder, make_encoder};

/// The values of one column as JSON.
pub(super) struct JsonColumn<'a>(NullableEncoder<'a>);

impl<'a> JsonColumn<'a> {
    pub(super) fn new(
        field: &'a FieldRef,
        array: &'a ArrayRef,
        options: &'a EncoderOptions,
    ) -> Result<Self, ArrowError> {
        make_encoder(field, array, options).map(Self)
    }

    pub(super) fn write(&mut self, position: usize, out: &mut Vec<u8>) {
        if self.0.is_null(position) {
            out.extend_from_slice(b"null");
        } else {
            self.0.encode(position, out);
        }
    }
}

/// Writes a value that serde knows; a `Vec` takes every byte.
fn write_json<T: serde::Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    serde_json::to_writer(&mut *out, value).expect("a Vec takes every byte, and keys are strings");
}

/// Starts the next field of an object, whose `{` or last field stands before.
pub(super) fn write_key(name: &str, out: &mut Vec<u8>) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    write_json(name, out);
    out.push(b':');
}

/// Writes the next field of an object.
pub(super) fn field<T: serde::Serialize + ?Sized>(name: &str, value: &T, out: &mut Vec<u8>) {
    write_key(name, out);
    write_json(value, out);
}

/// Writes a buffered line and empties the buffer.
pub(super) fn end_line(buffer: &mut Vec<u8>, out: &mut dyn Write) -> std::io::Result<()> {
    buffer.extend_from_slice(b"}\n");
    out.write_all(buffer)?;
    buffer.clear();
    Ok(())
}
