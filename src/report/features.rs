//! Types of the results to the feature types of the Python library `datasets`, as YAML.
//!
//! With them it need not guess, and it loads what it has no guess for: UUIDs, maps, values of mixed kinds.

use std::fmt;

use arrow_schema::{DataType, Field, FieldRef};

use crate::job::OutputFormat;
use crate::sink::ResultColumn;

use super::loading::{quoted, unit_name};

/// Writes the list of features, each line set in by two spaces.
pub(super) fn write_features(
    columns: &[ResultColumn],
    format: OutputFormat,
    out: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    for column in columns {
        writeln!(out, "  - name: {}", quoted(&column.name))?;
        let feature = match &column.kind {
            Some(kind) => feature(kind, format),
            None => Feature::Json,
        };
        write(&feature, 4, out)?;
    }
    Ok(())
}

enum Feature {
    /// A type by its name.
    Value(String),
    /// Anything that JSON can say.
    Json,
    /// `list` or `large_list`, and how many items where that is fixed.
    List(&'static str, Box<Feature>, Option<i32>),
    Struct(Vec<(String, Feature)>),
}

fn feature(kind: &DataType, format: OutputFormat) -> Feature {
    let item = |item: &FieldRef| Box::new(feature(item.data_type(), format));
    let is_json_lines = format == OutputFormat::Jsonl;
    match kind {
        DataType::List(inner) => Feature::List("list", item(inner), None),
        DataType::LargeList(inner) => Feature::List("large_list", item(inner), None),
        DataType::FixedSizeList(inner, length) => Feature::List("list", item(inner), Some(*length)),
        DataType::Struct(fields) if !fields.is_empty() => {
            let field = |f: &Field| (f.name().clone(), feature(f.data_type(), format));
            Feature::Struct(fields.iter().map(|f| field(f)).collect())
        }
        DataType::Dictionary(_, value) => feature(value, format),
        // From JSON such numbers come as floats, which cannot be turned back.
        DataType::UInt64 if is_json_lines => Feature::Json,
        kind => value(kind).map_or(Feature::Json, Feature::Value),
    }
}

/// Name of a type without other types inside; `None` where the library has none.
fn value(kind: &DataType) -> Option<String> {
    Some(match kind {
        DataType::Null => "null".to_owned(),
        DataType::Boolean => "bool".to_owned(),
        DataType::Utf8 => "string".to_owned(),
        DataType::LargeUtf8 => "large_string".to_owned(),
        DataType::Utf8View => "string_view".to_owned(),
        DataType::Binary => "binary".to_owned(),
        DataType::LargeBinary => "large_binary".to_owned(),
        DataType::BinaryView => "binary_view".to_owned(),
        DataType::FixedSizeBinary(bytes) => format!("fixed_size_binary[{bytes}]"),
        // Stored as months, days and milliseconds.
        DataType::Interval(_) => "fixed_size_binary[12]".to_owned(),
        DataType::Date32 => "date32".to_owned(),
        DataType::Date64 => "date64".to_owned(),
        DataType::Time32(unit) => format!("time32[{}]", unit_name(*unit)),
        DataType::Time64(unit) => format!("time64[{}]", unit_name(*unit)),
        DataType::Duration(unit) => format!("duration[{}]", unit_name(*unit)),
        DataType::Timestamp(unit, None) => format!("timestamp[{}]", unit_name(*unit)),
        DataType::Timestamp(unit, Some(zone)) => {
            format!("timestamp[{}, tz={zone}]", unit_name(*unit))
        }
        DataType::Decimal256(digits, scale) => format!("decimal256({digits}, {scale})"),
        DataType::Decimal32(digits, scale)
        | DataType::Decimal64(digits, scale)
        | DataType::Decimal128(digits, scale) => format!("decimal128({digits}, {scale})"),
        kind if kind.is_integer() || kind.is_floating() => kind.to_string().to_lowercase(),
        _ => return None,
    })
}

/// Writes what describes a feature, one key a line.
fn write(feature: &Feature, indent: usize, out: &mut fmt::Formatter<'_>) -> fmt::Result {
    let space = " ".repeat(indent);
    match feature {
        Feature::Value(name) => writeln!(out, "{space}dtype: {}", quoted(name)),
        Feature::Json => writeln!(out, "{space}dtype: \"json\""),
        Feature::List(kind, item, length) => {
            writeln!(out, "{space}{kind}:")?;
            write(item, indent + 2, out)?;
            match length {
                Some(length) => writeln!(out, "{space}length: {length}"),
                None => Ok(()),
            }
        }
        Feature::Struct(fields) => {
            writeln!(out, "{space}struct:")?;
            for (name, field) in fields {
                writeln!(out, "{space}- name: {}", quoted(name))?;
                write(field, indent + 2, out)?;
            }
            Ok(())
        }
    }
}
