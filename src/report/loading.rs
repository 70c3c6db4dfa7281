//! The calls that load the results of a job, as text that can be copied.
//!
//! Parquet says itself which types it has. Readers of JSON lines guess them from the first rows, where a
//! column may be null throughout, so their calls name the types.

use std::fmt;

use arrow_schema::{DataType, TimeUnit};

use crate::job::OutputFormat;
use crate::sink::ResultColumn;

/// Bytes that pyarrow reads at once: a line must fit.
const BLOCK_BYTES: &str = "1 << 26";

/// A library and the expression that loads all results with it; printed, it is a line of Python that can be pasted.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Loading {
    /// Name of the Python library.
    pub library: String,
    /// The modules that the expression needs.
    pub modules: String,
    /// The expression.
    pub call: String,
}

impl fmt::Display for Loading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "import {}; rows = {}", self.modules, self.call)
    }
}

/// One call a library for the results in a folder.
pub(crate) fn loading(
    folder: &str,
    format: OutputFormat,
    columns: &[ResultColumn],
) -> Vec<Loading> {
    let file = |name: &str| quoted(&format!("{folder}/{name}"));
    let pattern = |name: &str| quoted(&format!("{}/{name}", plain_pattern(folder)));
    let calls = match format {
        OutputFormat::Parquet => [
            (
                "polars",
                format!("polars.read_parquet({})", pattern("parts/*.parquet")),
            ),
            ("pandas", format!("pandas.read_parquet({})", file("parts"))),
            (
                "pyarrow",
                format!("pyarrow.parquet.read_table({})", file("parts")),
            ),
        ],
        OutputFormat::Jsonl => {
            let files = pattern("parts/*.jsonl");
            [
                ("polars", polars_json(&files, columns)),
                (
                    "pandas",
                    format!(
                        "pandas.concat((pandas.read_json(path, lines=True, dtype=False) for path in sorted(glob.glob({files}))), ignore_index=True)"
                    ),
                ),
                ("pyarrow", pyarrow_json(&files, columns)),
            ]
        }
    };
    let datasets = (
        "datasets",
        format!("datasets.load_dataset({})", quoted(folder)),
    );
    let calls = std::iter::once(datasets).chain(calls);
    calls
        .map(|(library, call)| Loading {
            library: library.to_owned(),
            modules: modules(library, format).to_owned(),
            call,
        })
        .collect()
}

fn modules(library: &'static str, format: OutputFormat) -> &'static str {
    match (library, format) {
        ("pyarrow", OutputFormat::Parquet) => "pyarrow.parquet",
        ("pyarrow", OutputFormat::Jsonl) => "glob, os, pyarrow, pyarrow.json",
        ("pandas", OutputFormat::Jsonl) => "glob, pandas",
        (library, _) => library,
    }
}

/// A pattern that matches this path alone: signs of patterns in its own names mean themselves.
fn plain_pattern(path: &str) -> String {
    let signs = path.chars().map(|c| match c {
        '[' | '*' | '?' => format!("[{c}]"),
        c => c.to_string(),
    });
    signs.collect()
}

fn polars_json(files: &str, columns: &[ResultColumn]) -> String {
    let fields = columns.iter().map(|column| {
        let kind = column
            .kind
            .as_ref()
            .map_or_else(|| "polars.String".to_owned(), polars_type);
        format!("{}: {kind}", quoted(&column.name))
    });
    let fields: Vec<String> = fields.collect();
    format!(
        "polars.read_ndjson({files}, schema={{{}}})",
        fields.join(", ")
    )
}

/// A column without a type is left out: pyarrow finds the type itself where there is one.
fn pyarrow_json(files: &str, columns: &[ResultColumn]) -> String {
    let fields = columns.iter().filter_map(|column| {
        let kind = pyarrow_type(column.kind.as_ref()?);
        Some(format!("{}: {kind}", quoted(&column.name)))
    });
    let fields: Vec<String> = fields.collect();
    format!(
        "pyarrow.concat_tables((pyarrow.json.read_json(path, pyarrow.json.ReadOptions(block_size={BLOCK_BYTES}), \
         pyarrow.json.ParseOptions(explicit_schema=pyarrow.schema({{{}}}))) for path in sorted(glob.glob({files})) if os.path.getsize(path)), \
         promote_options=\"permissive\")",
        fields.join(", ")
    )
}

fn polars_type(kind: &DataType) -> String {
    let name = match kind {
        DataType::Boolean => "Boolean",
        // It reads no smaller ones from JSON.
        DataType::Int8 | DataType::Int16 | DataType::Int32 => "Int32",
        DataType::Int64 => "Int64",
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => "UInt32",
        DataType::UInt64 => "UInt64",
        DataType::Float32 => "Float32",
        DataType::Float64 => "Float64",
        DataType::Date32 => "Date",
        DataType::Timestamp(unit, zone) => {
            let unit = match unit {
                TimeUnit::Second | TimeUnit::Millisecond => "ms",
                TimeUnit::Microsecond => "us",
                TimeUnit::Nanosecond => "ns",
            };
            let zone = zone
                .as_ref()
                .map_or_else(String::new, |zone| format!(", {}", quoted(zone)));
            return format!("polars.Datetime({}{zone})", quoted(unit));
        }
        DataType::List(item) => return format!("polars.List({})", polars_type(item.data_type())),
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| {
                format!(
                    "{}: {}",
                    quoted(field.name()),
                    polars_type(field.data_type())
                )
            });
            let fields: Vec<String> = fields.collect();
            return format!("polars.Struct({{{}}})", fields.join(", "));
        }
        _ => "String",
    };
    format!("polars.{name}")
}

fn pyarrow_type(kind: &DataType) -> String {
    let name = match kind {
        DataType::Boolean => "bool_",
        DataType::Int8 => "int8",
        DataType::Int16 => "int16",
        DataType::Int32 => "int32",
        DataType::Int64 => "int64",
        DataType::UInt8 => "uint8",
        DataType::UInt16 => "uint16",
        DataType::UInt32 => "uint32",
        DataType::UInt64 => "uint64",
        DataType::Float32 => "float32",
        DataType::Float64 => "float64",
        DataType::Timestamp(unit, zone) => {
            let zone = zone
                .as_ref()
                .map_or_else(String::new, |zone| format!(", {}", quoted(zone)));
            return format!("pyarrow.timestamp({}{zone})", quoted(unit_name(*unit)));
        }
        DataType::List(item) => {
            return format!("pyarrow.list_({})", pyarrow_type(item.data_type()));
        }
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| {
                format!(
                    "({}, {})",
                    quoted(field.name()),
                    pyarrow_type(field.data_type())
                )
            });
            let fields: Vec<String> = fields.collect();
            return format!("pyarrow.struct([{}])", fields.join(", "));
        }
        // It reads dates from JSON only as numbers.
        _ => "string",
    };
    format!("pyarrow.{name}()")
}

/// A unit of time as Python libraries name it.
pub(super) fn unit_name(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    }
}

/// A text in quotes, as JSON, YAML and Python all read it: on one line, nothing in it that cannot be printed.
pub(super) fn quoted(text: &str) -> String {
    let escaped = text.chars().map(|c| match c {
        '"' | '\\' => format!("\\{c}"),
        '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => escape(c),
        c if c.is_control() => escape(c),
        c => c.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

fn escape(c: char) -> String {
    format!("\\u{:04x}", u32::from(c))
}

#[cfg(test)]
mod tests {
    use super::{loading, quoted};
    use crate::job::OutputFormat;

    #[test]
    fn signs_of_patterns_in_a_folder_mean_themselves() {
        let calls = loading("/data/o[1]*?", OutputFormat::Parquet, &[]);
        let call = |library: &str| {
            let found = calls.iter().find(|call| call.library == library);
            found.unwrap().call.clone()
        };
        assert_eq!(
            call("polars"),
            r#"polars.read_parquet("/data/o[[]1][*][?]/parts/*.parquet")"#
        );
        assert_eq!(
            call("pandas"),
            r#"pandas.read_parquet("/data/o[1]*?/parts")"#
        );
    }

    #[test]
    fn a_quoted_text_is_one_line_that_json_reads_back() {
        for text in [
            "plain",
            "a\"b\\c",
            "line\nend\r",
            "\u{85}\u{2028}\u{7f}\u{1b}",
            "问题",
        ] {
            let quoted = quoted(text);
            assert!(!quoted.chars().any(char::is_control), "{quoted}");
            assert_eq!(serde_json::from_str::<String>(&quoted).unwrap(), text);
        }
    }
}
