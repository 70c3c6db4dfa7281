//! Arrow values to JSON text: as `arrow-json` writes them, binary as base64, NaN as null.

use std::io::Write;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, FieldRef};
use arrow::error::ArrowError;
use arrow::json::writer::{Encoder, EncoderFactory, EncoderOptions, NullableEncoder, make_encoder};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Nulls inside structs are written, so that every line has the same fields.
pub(super) fn options() -> EncoderOptions {
    EncoderOptions::default()
        .with_explicit_nulls(true)
        .with_encoder_factory(std::sync::Arc::new(Base64Factory))
}

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

#[derive(Debug)]
struct Base64Factory;

impl EncoderFactory for Base64Factory {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let value: Value<'a> = match array.data_type() {
            DataType::Binary => Box::new(move |at| array.as_binary::<i32>().value(at)),
            DataType::LargeBinary => Box::new(move |at| array.as_binary::<i64>().value(at)),
            DataType::BinaryView => Box::new(move |at| array.as_binary_view().value(at)),
            DataType::FixedSizeBinary(_) => {
                Box::new(move |at| array.as_fixed_size_binary().value(at))
            }
            _ => return Ok(None),
        };
        let encoder = Box::new(Base64Encoder { value });
        Ok(Some(NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

type Value<'a> = Box<dyn Fn(usize) -> &'a [u8] + 'a>;

struct Base64Encoder<'a> {
    value: Value<'a>,
}

impl Encoder for Base64Encoder<'_> {
    fn encode(&mut self, at: usize, out: &mut Vec<u8>) {
        out.push(b'"');
        out.extend_from_slice(STANDARD.encode((self.value)(at)).as_bytes());
        out.push(b'"');
    }
}

/// Writes a value that serde knows; a `Vec` takes every byte.
pub(super) fn write_json<T: serde::Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
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

/// Writes a buffered line and empties the buffer.
pub(super) fn end_line(buffer: &mut Vec<u8>, out: &mut dyn Write) -> std::io::Result<()> {
    buffer.extend_from_slice(b"}\n");
    out.write_all(buffer)?;
    buffer.clear();
    Ok(())
}
