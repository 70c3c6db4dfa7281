//! Arrow values to JSON text: as arrow-json writes them, but binary as base64. NaN is null.
//!
//! The sinks write single columns by the same [`json_options`], so that a value has one JSON form.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, FieldRef};
use arrow::error::ArrowError;
use arrow::json::writer::{
    Encoder, EncoderFactory, EncoderOptions, LineDelimited, NullableEncoder, WriterBuilder,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// How values are written: nulls inside structs too, so that all rows have the same fields.
pub fn json_options() -> EncoderOptions {
    EncoderOptions::default()
        .with_explicit_nulls(true)
        .with_encoder_factory(Arc::new(BinaryAsBase64))
}

/// Writes one JSON object a row, each ended by `\n`; nulls stand as `null`, NaN too.
///
/// # Errors
/// A column of a type that arrow-json cannot write.
pub fn json_lines(batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    if batch.num_columns() == 0 {
        return Ok(b"{}\n".repeat(batch.num_rows()));
    }
    let mut out = Vec::new();
    let mut writer = WriterBuilder::new()
        .with_explicit_nulls(true)
        .with_encoder_factory(Arc::new(BinaryAsBase64))
        .build::<_, LineDelimited>(&mut out);
    writer.write(batch)?;
    writer.finish()?;
    drop(writer);
    Ok(out)
}

#[derive(Debug)]
struct BinaryAsBase64;

impl EncoderFactory for BinaryAsBase64 {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let value: ValueAt<'a> = match array.data_type() {
            DataType::Binary => {
                let array = array.as_binary::<i32>();
                Box::new(move |row| array.value(row))
            }
            DataType::LargeBinary => {
                let array = array.as_binary::<i64>();
                Box::new(move |row| array.value(row))
            }
            DataType::BinaryView => {
                let array = array.as_binary_view();
                Box::new(move |row| array.value(row))
            }
            DataType::FixedSizeBinary(_) => {
                let array = array.as_fixed_size_binary();
                Box::new(move |row| array.value(row))
            }
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(
            Box::new(Base64(value)),
            array.nulls().cloned(),
        )))
    }
}

type ValueAt<'a> = Box<dyn Fn(usize) -> &'a [u8] + 'a>;

struct Base64<'a>(ValueAt<'a>);

impl Encoder for Base64<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        out.push(b'"');
        out.extend_from_slice(STANDARD.encode((self.0)(row)).as_bytes());
        out.push(b'"');
    }
}
