//! Folders named `column=value` to columns, as Spark, Hive and pyarrow write them.
//!
//! Only folders below the one that the job names count, or below the part of a glob that has no wildcards. A
//! column that the rows have themselves is read from the rows. A column is a whole number where all values are
//! (without leading zeros), else text; `__HIVE_DEFAULT_PARTITION__` is null.

use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, StringViewArray};
use arrow_schema::ArrowError;
use arrow_schema::{DataType, Field, Schema};
use serde_json::value::RawValue;

use super::parquet::Shared;
use super::types::{ColumnKind, InputColumn, InputFile, InputFormat, Partition};

/// What Hive and Spark name the folder of null.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// The columns that the folders between `root` and a file give.
pub(super) fn partition(root: &Path, file: &Path) -> Vec<Partition> {
    let folders = file
        .parent()
        .and_then(|folder| folder.strip_prefix(root).ok());
    let mut found: Vec<Partition> = Vec::new();
    for folder in folders.into_iter().flatten() {
        let Some((name, value)) = folder.to_str().and_then(|name| name.split_once('=')) else {
            continue;
        };
        if name.is_empty() {
            continue;
        }
        let one = Partition {
            name: decoded(name),
            value: (value != NULL).then(|| decoded(value)),
        };
        found.retain(|outer| outer.name != one.name);
        found.push(one);
    }
    found
}

/// A name with `%2F` and the like read as the signs that they mean; one that gives no text is left alone.
fn decoded(name: &str) -> String {
    let bytes = name.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let byte = digits
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8(out).unwrap_or_else(|_| name.to_owned())
}

/// A column that folders give.
#[derive(Clone)]
pub(super) struct PartitionColumn {
    pub(super) name: String,
    is_integer: bool,
}

/// The columns that the folders of these files give, in order of first appearance.
pub(super) fn columns<'a>(files: impl Iterator<Item = &'a [Partition]>) -> Vec<PartitionColumn> {
    // Whether a value was seen, and whether all of them were whole numbers.
    let mut found: Vec<(&str, bool, bool)> = Vec::new();
    for one in files.flatten() {
        let is_integer = one.value.as_deref().map(is_integer);
        match found.iter_mut().find(|(name, ..)| *name == one.name) {
            None => found.push((&one.name, is_integer.is_some(), is_integer != Some(false))),
            Some((_, seen, all)) => {
                *seen |= is_integer.is_some();
                *all &= is_integer != Some(false);
            }
        }
    }
    let column = |(name, seen, all): (&str, bool, bool)| PartitionColumn {
        name: name.to_owned(),
        is_integer: seen && all,
    };
    found.into_iter().map(column).collect()
}

/// Whether a value has the digits that a whole number of 64 bits is written with.
fn is_integer(value: &str) -> bool {
    value
        .parse::<i64>()
        .is_ok_and(|number| number.to_string() == value)
}

impl PartitionColumn {
    /// The entry of an index.
    pub(super) fn input_column(&self, format: InputFormat) -> InputColumn {
        InputColumn {
            name: self.name.clone(),
            kind: match (format, self.is_integer) {
                (InputFormat::Parquet, _) => ColumnKind::Arrow(self.data_type().to_string()),
                (InputFormat::Jsonl, true) => ColumnKind::Int64,
                (InputFormat::Jsonl, false) => ColumnKind::String,
            },
            mixed_at: None,
        }
    }

    fn data_type(&self) -> DataType {
        if self.is_integer {
            DataType::Int64
        } else {
            DataType::Utf8
        }
    }

    /// The value of a file as JSON; `None` where no folder gives the column to it.
    fn json(&self, file: &InputFile) -> Option<Box<RawValue>> {
        let one = file.partition.iter().find(|one| one.name == self.name)?;
        let text = match &one.value {
            None => "null".to_owned(),
            Some(value) if self.is_integer => value.clone(),
            Some(value) => serde_json::Value::from(value.as_str()).to_string(),
        };
        RawValue::from_string(text).ok()
    }

    /// The value of a file as many times as it has rows here, in the layout in which rows are held.
    fn array(&self, file: &InputFile, rows: usize) -> ArrayRef {
        let one = file.partition.iter().find(|one| one.name == self.name);
        let value = one.and_then(|one| one.value.as_deref());
        if self.is_integer {
            let number = value.and_then(|value| value.parse().ok());
            Arc::new(std::iter::repeat_n(number, rows).collect::<Int64Array>())
        } else {
            Arc::new(std::iter::repeat_n(value, rows).collect::<StringViewArray>())
        }
    }
}

/// The fields that folders add to every row of a file.
pub(super) type Fields = Vec<(String, Box<RawValue>)>;

/// JSON lines: the fields that folders add, by file.
pub(super) fn fields(files: &[InputFile]) -> Vec<Fields> {
    let columns = columns(files.iter().map(|file| file.partition.as_slice()));
    let of_file = |file| {
        columns
            .iter()
            .filter_map(|column| Some((column.name.clone(), column.json(file)?)))
            .collect()
    };
    files.iter().map(of_file).collect()
}

/// Parquet: the columns that folders add to batches.
pub(super) struct ArrowPartitions(Vec<PartitionColumn>);

impl ArrowPartitions {
    pub(super) fn new(files: &[InputFile]) -> Self {
        Self(columns(files.iter().map(|file| file.partition.as_slice())))
    }

    /// The columns of the files with these behind them.
    pub(super) fn add_to(&self, files: Shared) -> Shared {
        if self.0.is_empty() {
            return files;
        }
        let own = files.schema.fields().iter().cloned();
        let added = self
            .0
            .iter()
            .map(|column| Arc::new(Field::new(&column.name, column.data_type(), true)));
        let fields: Vec<_> = own.chain(added).collect();
        let metadata = files.schema.metadata().clone();
        Shared::new(Schema::new_with_metadata(fields, metadata))
    }

    /// Puts the values that the folders of `file` give into the batch of its rows.
    pub(super) fn fill(
        &self,
        batch: &RecordBatch,
        file: &InputFile,
    ) -> Result<RecordBatch, ArrowError> {
        let (schema, rows) = (batch.schema(), batch.num_rows());
        let mut columns = batch.columns().to_vec();
        for column in &self.0 {
            columns[schema.index_of(&column.name)?] = column.array(file, rows);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(schema, columns, &options)
    }
}

#[cfg(test)]
mod tests {
    use super::{Partition, Path, columns, decoded, partition};

    #[test]
    fn folders_below_the_root_give_columns() {
        let found = partition(
            Path::new("/data/a=0"),
            Path::new(
                "/data/a=0/lang=zh/x/year=2024/=1/b=c=d/n=__HIVE_DEFAULT_PARTITION__/lang=en/e=5.jsonl",
            ),
        );
        let found: Vec<(&str, Option<&str>)> = found
            .iter()
            .map(|one| (one.name.as_str(), one.value.as_deref()))
            .collect();
        assert_eq!(
            found,
            [
                ("year", Some("2024")),
                ("b", Some("c=d")),
                ("n", None),
                ("lang", Some("en")),
            ]
        );
        assert!(partition(Path::new("/other"), Path::new("/data/a=0/x.jsonl")).is_empty());
    }

    #[test]
    fn names_are_percent_decoded() {
        for (name, text) in [
            ("a%2Fb%3d%20c", "a/b= c"),
            ("%E4%B8%AD", "中"),
            ("100%", "100%"),
            ("%+1x", "%+1x"),
            ("%FF", "%FF"),
        ] {
            assert_eq!(decoded(name), text);
        }
    }

    #[test]
    fn a_column_is_a_number_where_all_values_are() {
        let one = |name: &str, value: Option<&str>| Partition {
            name: name.to_owned(),
            value: value.map(str::to_owned),
        };
        let files = [
            vec![
                one("n", Some("-3")),
                one("zeros", Some("01")),
                one("none", None),
            ],
            vec![
                one("n", None),
                one("zeros", Some("2")),
                one("big", Some("9223372036854775808")),
            ],
        ];
        let found = columns(files.iter().map(Vec::as_slice));
        let found: Vec<(&str, bool)> = found
            .iter()
            .map(|column| (column.name.as_str(), column.is_integer))
            .collect();
        assert_eq!(
            found,
            [
                ("n", true),
                ("zeros", false),
                ("none", false),
                ("big", false)
            ]
        );
    }
}
