//! Arrow values to JSON text: as arrow-json writes them, with our own answer where it has none.
//!
//! Invariant: every value of every type is written, so that no content can stop a file from being written.
//! What JSON has no form for is null: NaN, infinities, dates outside the years 0 to 9999. Binary is base64; a
//! time with a named zone is written in UTC, which needs no table of zones that could change.
//!
//! All that writes values as JSON comes here, so that a value has one form: the sinks, `failed/`, `show`,
//! templates.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::temporal_conversions::as_datetime;
use arrow_array::timezone::Tz;
use arrow_array::types::{
    ArrowTimestampType, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use arrow_array::{Array, ListLikeArray, PrimitiveArray, RecordBatch};
use arrow_buffer::NullBuffer;
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_json::writer::{Encoder, EncoderFactory, EncoderOptions, NullableEncoder, make_encoder};
use arrow_schema::ArrowError;
use arrow_schema::{DataType, Field, FieldRef, Schema, TimeUnit};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const NULL: &[u8] = b"null";

/// What arrow prints for a duration that it cannot.
const OUT_OF_RANGE: &str = "<invalid>";

/// How the values of a schema are written: nulls inside structs too, so that all rows have the same fields.
pub(crate) fn json_options(schema: &Schema) -> EncoderOptions {
    let factory = Forms {
        writes_errors: super::schema::is_first_rule(schema),
    };
    EncoderOptions::default()
        .with_explicit_nulls(true)
        .with_encoder_factory(Arc::new(factory))
}

/// The values of one column as JSON.
pub(crate) struct JsonColumn<'a>(NullableEncoder<'a>);

impl<'a> JsonColumn<'a> {
    /// Looks at a column once; `options` are those of its schema.
    pub(crate) fn new(
        field: &'a FieldRef,
        array: &'a dyn Array,
        options: &'a EncoderOptions,
    ) -> Self {
        // A Parquet file has no type that is refused here.
        Self(make_encoder(field, array, options).unwrap_or_else(|_| each(None, write_null)))
    }

    /// Writes the value of a row.
    pub(crate) fn write(&mut self, row: usize, out: &mut Vec<u8>) {
        if self.0.is_null(row) {
            out.extend_from_slice(NULL);
        } else {
            self.0.encode(row, out);
        }
    }
}

/// Writes one JSON object a row, each ended by `\n`; nulls are written as `null`.
pub fn json_lines(batch: &RecordBatch) -> Vec<u8> {
    let options = json_options(batch.schema_ref());
    let fields = batch.schema_ref().fields().iter();
    let mut columns: Vec<(Vec<u8>, JsonColumn<'_>)> = fields
        .zip(batch.columns())
        .map(|(field, array)| {
            let mut key = Vec::new();
            write_text(field.name(), &mut key);
            key.push(b':');
            (key, JsonColumn::new(field, array, &options))
        })
        .collect();
    let mut out = Vec::new();
    for row in 0..batch.num_rows() {
        let mut separator = b'{';
        for (key, column) in &mut columns {
            out.push(separator);
            out.extend_from_slice(key);
            column.write(row, &mut out);
            separator = b',';
        }
        if columns.is_empty() {
            out.push(b'{');
        }
        out.extend_from_slice(b"}\n");
    }
    out
}

/// A value in words: its JSON text without quotes.
pub(super) fn value_text(array: &dyn Array, row: usize) -> String {
    let field = Arc::new(Field::new("value", array.data_type().clone(), true));
    let options = EncoderOptions::default().with_encoder_factory(Arc::new(Forms {
        writes_errors: false,
    }));
    let mut text = Vec::new();
    JsonColumn::new(&field, array, &options).write(row, &mut text);
    if text == NULL && array.is_valid(row) {
        return "a value that has no text".to_owned();
    }
    let text = String::from_utf8_lossy(&text);
    text.trim_matches('"').to_owned()
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a Vec takes every byte");
}

fn write_quoted(plain: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(plain.as_bytes());
    out.push(b'"');
}

fn write_null(_row: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(NULL);
}

/// The types that are not left to arrow-json.
#[derive(Debug)]
struct Forms {
    /// Whether a value without a text is written as what the formatter says of it, as the first version did.
    writes_errors: bool,
}

impl EncoderFactory for Forms {
    fn make_default_encoder<'a>(
        &self,
        field: &'a FieldRef,
        array: &'a dyn Array,
        options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let nulls = array.logical_nulls();
        Ok(Some(match array.data_type() {
            DataType::Binary => base64(nulls, move |row| array.as_binary::<i32>().value(row)),
            DataType::LargeBinary => base64(nulls, move |row| array.as_binary::<i64>().value(row)),
            DataType::BinaryView => base64(nulls, move |row| array.as_binary_view().value(row)),
            DataType::FixedSizeBinary(_) => {
                let array = array.as_fixed_size_binary();
                match super::logical::text_of(field) {
                    Some(text) => each(nulls, move |row, out| {
                        write_quoted(&text(array.value(row)), out);
                    }),
                    None => base64(nulls, move |row| array.value(row)),
                }
            }
            DataType::Timestamp(unit, Some(zone)) if !is_offset(zone) => match unit {
                TimeUnit::Second => instants::<TimestampSecondType>(array),
                TimeUnit::Millisecond => instants::<TimestampMillisecondType>(array),
                TimeUnit::Microsecond => instants::<TimestampMicrosecondType>(array),
                TimeUnit::Nanosecond => instants::<TimestampNanosecondType>(array),
            },
            kind if kind.is_temporal() => return self.formatted(array).map(Some),
            DataType::List(item) => list(item, array.as_list::<i32>(), options),
            DataType::LargeList(item) => list(item, array.as_list::<i64>(), options),
            DataType::ListView(item) => list(item, array.as_list_view::<i32>(), options),
            DataType::LargeListView(item) => list(item, array.as_list_view::<i64>(), options),
            DataType::FixedSizeList(item, _) => list(item, array.as_fixed_size_list(), options),
            DataType::Dictionary(..) => dictionary(field, array, options),
            DataType::Map(entries, _) => map(entries, array, options),
            _ => return Ok(None),
        }))
    }
}

impl Forms {
    /// Dates, times and spans, as arrow prints them.
    fn formatted<'a>(&self, array: &'a dyn Array) -> Result<NullableEncoder<'a>, ArrowError> {
        let options = FormatOptions::new().with_display_error(true);
        let formatter = ArrayFormatter::try_new(array, &options)?;
        let writes_errors = self.writes_errors;
        let has_year = matches!(
            array.data_type(),
            DataType::Date32 | DataType::Date64 | DataType::Timestamp(..)
        );
        Ok(each(array.logical_nulls(), move |row, out| {
            let value = formatter.value(row);
            match value.try_to_string() {
                _ if writes_errors => write_quoted(&value.to_string(), out),
                Ok(text) if text == OUT_OF_RANGE || has_year && !is_common_year(&text) => {
                    out.extend_from_slice(NULL);
                }
                Ok(text) => write_quoted(&text, out),
                Err(_) => out.extend_from_slice(NULL),
            }
        }))
    }
}

/// Whether a date is of the years 0 to 9999. RFC 3339 has no others, and many readers none either.
fn is_common_year(date: &str) -> bool {
    !date.starts_with(['+', '-'])
}

/// An encoder from what writes a value that is not null.
fn each<'a>(
    nulls: Option<NullBuffer>,
    write: impl FnMut(usize, &mut Vec<u8>) + 'a,
) -> NullableEncoder<'a> {
    NullableEncoder::new(Box::new(Each(write)), nulls)
}

struct Each<F>(F);

impl<F: FnMut(usize, &mut Vec<u8>)> Encoder for Each<F> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        (self.0)(row, out);
    }
}

fn base64<'a>(
    nulls: Option<NullBuffer>,
    value: impl Fn(usize) -> &'a [u8] + 'a,
) -> NullableEncoder<'a> {
    each(nulls, move |row, out| {
        write_quoted(&STANDARD.encode(value(row)), out);
    })
}

/// Whether a zone is a fixed distance from UTC, which arrow knows without a table of zones.
fn is_offset(zone: &str) -> bool {
    zone.starts_with(['+', '-']) && zone.parse::<Tz>().is_ok()
}

fn instants<T: ArrowTimestampType>(array: &dyn Array) -> NullableEncoder<'_> {
    let array: &PrimitiveArray<T> = array.as_primitive();
    each(array.nulls().cloned(), |row, out| {
        let time = as_datetime::<T>(array.value(row)).map(|time| format!("{time:?}Z"));
        match time.filter(|text| is_common_year(text)) {
            Some(text) => write_quoted(&text, out),
            None => write_null(row, out),
        }
    })
}

fn list<'a>(
    item: &'a FieldRef,
    array: &'a impl ListLikeArray,
    options: &'a EncoderOptions,
) -> NullableEncoder<'a> {
    let mut values = JsonColumn::new(item, array.values(), options);
    each(array.nulls().cloned(), move |row, out| {
        out.push(b'[');
        for (number, at) in array.element_range(row).enumerate() {
            if number > 0 {
                out.push(b',');
            }
            values.write(at, out);
        }
        out.push(b']');
    })
}

fn dictionary<'a>(
    field: &'a FieldRef,
    array: &'a dyn Array,
    options: &'a EncoderOptions,
) -> NullableEncoder<'a> {
    let array = array.as_any_dictionary();
    let keys = array.normalized_keys();
    let mut values = JsonColumn::new(field, array.values(), options);
    each(array.nulls().cloned(), move |row, out| {
        values.write(keys[row], out);
    })
}

/// A map as an object. A key that is not a text is named by its JSON text.
fn map<'a>(
    entries: &'a FieldRef,
    array: &'a dyn Array,
    options: &'a EncoderOptions,
) -> NullableEncoder<'a> {
    let DataType::Struct(fields) = entries.data_type() else {
        return each(None, write_null);
    };
    let array = array.as_map();
    let mut keys = JsonColumn::new(&fields[0], array.keys(), options);
    let mut values = JsonColumn::new(&fields[1], array.values(), options);
    let mut key = Vec::new();
    each(array.nulls().cloned(), move |row, out| {
        let offsets = array.value_offsets();
        let mut separator = b'{';
        for at in offsets[row] as usize..offsets[row + 1] as usize {
            out.push(separator);
            separator = b',';
            key.clear();
            keys.write(at, &mut key);
            match key.first() {
                Some(b'"') => out.extend_from_slice(&key),
                _ => write_text(&String::from_utf8_lossy(&key), out),
            }
            out.push(b':');
            values.write(at, out);
        }
        if separator == b'{' {
            out.push(b'{');
        }
        out.push(b'}');
    })
}
