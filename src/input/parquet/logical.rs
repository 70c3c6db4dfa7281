//! What Parquet says of a column beyond its Arrow type: marks on the fields of a schema.
//!
//! Arrow has no type of its own for a UUID, a JSON text, a time in UTC, a variant or an interval with months.
//! A mark is in the metadata of the field, at every depth: JSON and the parts are written by it.
//! ENUM and INTERVAL are read as what they are stored as, text and 12 bytes, since the decoder would give
//! bytes for the one and drop the months of the other.
//!
//! Jobs that began under the first rule for types have no marks, and their schema says so.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use arrow_array::{IntervalMonthDayNanoArray, RecordBatch, RecordBatchOptions};
use arrow_buffer::IntervalMonthDayNano;
use arrow_cast::cast;
use arrow_cast::display::array_value_to_string;
use arrow_schema::ArrowError;
use arrow_schema::{DataType, Field, FieldRef, Fields, Schema};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::basic::{ConvertedType, LogicalType};
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    FileMetaData, ParquetMetaData, ParquetMetaDataBuilder, ParquetMetaDataReader,
};
use parquet::schema::types::{SchemaDescPtr, SchemaDescriptor, Type, TypePtr};

use super::nested::{children, with_children};

/// Key of a field's metadata that holds its mark.
const MARK: &str = "glm-batch.logical";

/// Bytes of an interval: months, days and milliseconds.
const INTERVAL_BYTES: i32 = 12;

/// What a column is in Parquet that its Arrow type does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logical {
    /// 16 bytes that are a UUID.
    Uuid,
    /// Text that is JSON.
    Json,
    /// Bytes that are BSON.
    Bson,
    /// 12 bytes that are months, days and milliseconds.
    Interval,
    /// A time of day in UTC.
    UtcTime,
    /// A struct that is a variant.
    Variant,
}

impl Logical {
    const NAMES: [(Self, &str); 6] = [
        (Self::Uuid, "uuid"),
        (Self::Json, "json"),
        (Self::Bson, "bson"),
        (Self::Interval, "interval"),
        (Self::UtcTime, "utc-time"),
        (Self::Variant, "variant"),
    ];

    /// The mark of a field.
    pub(crate) fn of(field: &Field) -> Option<Self> {
        let mark = field.metadata().get(MARK)?;
        let known = Self::NAMES.iter().find(|(_, name)| name == mark);
        known.map(|(logical, _)| *logical)
    }

    /// What a Parquet type is marked as.
    fn of_parquet(kind: &Type) -> Option<Self> {
        let info = kind.get_basic_info();
        match (info.logical_type_ref(), info.converted_type()) {
            (Some(LogicalType::Uuid), _) => Some(Self::Uuid),
            (Some(LogicalType::Json), _) | (None, ConvertedType::JSON) => Some(Self::Json),
            (Some(LogicalType::Bson), _) | (None, ConvertedType::BSON) => Some(Self::Bson),
            (Some(LogicalType::Time(time)), _) if time.is_adjusted_to_u_t_c => Some(Self::UtcTime),
            (Some(LogicalType::Variant(_)), _) => Some(Self::Variant),
            (None, ConvertedType::INTERVAL) => Some(Self::Interval),
            _ => None,
        }
    }

    fn mark(self, field: &Field) -> Field {
        let names = Self::NAMES.iter();
        let name = names
            .filter(|(known, _)| *known == self)
            .map(|(_, name)| *name);
        let mut metadata = field.metadata().clone();
        metadata.extend(name.map(|name| (MARK.to_owned(), name.to_owned())));
        field.clone().with_metadata(metadata)
    }
}

/// How the bytes of a marked field are written as text; `None` where they are only bytes.
pub(super) fn text_of(field: &Field) -> Option<fn(&[u8]) -> String> {
    match Logical::of(field)? {
        Logical::Uuid => Some(uuid_text),
        Logical::Interval => Some(interval_text),
        _ => None,
    }
}

fn uuid_text(bytes: &[u8]) -> String {
    let places = bytes.iter().enumerate();
    let digits = places.map(|(place, byte)| match place {
        4 | 6 | 8 | 10 => format!("-{byte:02x}"),
        _ => format!("{byte:02x}"),
    });
    digits.collect()
}

fn interval_text(bytes: &[u8]) -> String {
    let part = |place: usize| {
        let bytes = bytes
            .get(place..place + 4)
            .and_then(|part| part.try_into().ok());
        bytes.map_or(0, u32::from_le_bytes)
    };
    let nanoseconds = i64::from(part(8)) * 1_000_000;
    let value = IntervalMonthDayNano::new(part(0) as i32, part(4) as i32, nanoseconds);
    array_value_to_string(&IntervalMonthDayNanoArray::from(vec![value]), 0)
        .expect("an interval is always printed")
}

/// The footer in which ENUM is text and INTERVAL is bytes.
pub(super) fn readable(footer: ParquetMetaData) -> Result<ParquetMetaData, ParquetError> {
    let file = footer.file_metadata();
    let schema = file.schema_descr().root_schema_ptr();
    let plain = plain(&schema)?;
    if Arc::ptr_eq(&plain, &schema) {
        return Ok(footer);
    }
    let file = FileMetaData::new(
        file.version(),
        file.num_rows(),
        file.created_by().map(str::to_owned),
        file.key_value_metadata().cloned(),
        Arc::new(SchemaDescriptor::new(plain)),
        file.column_orders().cloned(),
    );
    Ok(ParquetMetaDataBuilder::new(file)
        .set_row_groups(footer.row_groups().to_vec())
        .build())
}

/// The type with other annotations where those of Parquet mislead the decoder; itself where none does.
fn plain(kind: &TypePtr) -> Result<TypePtr, ParquetError> {
    let info = kind.get_basic_info();
    let Type::GroupType { fields, .. } = kind.as_ref() else {
        return Ok(match (info.logical_type_ref(), info.converted_type()) {
            (Some(LogicalType::Enum), _) | (None, ConvertedType::ENUM) => {
                annotated(kind, Some(LogicalType::String), ConvertedType::UTF8)?
            }
            (None, ConvertedType::INTERVAL) => annotated(kind, None, ConvertedType::NONE)?,
            _ => Arc::clone(kind),
        });
    };
    let plain_fields = fields.iter().map(plain).collect::<Result<Vec<_>, _>>()?;
    let mut pairs = plain_fields.iter().zip(fields);
    if pairs.all(|(plain, field)| Arc::ptr_eq(plain, field)) {
        return Ok(Arc::clone(kind));
    }
    Ok(Arc::new(Type::GroupType {
        basic_info: info.clone(),
        fields: plain_fields,
    }))
}

/// A primitive type with other annotations.
fn annotated(
    kind: &Type,
    logical: Option<LogicalType>,
    converted: ConvertedType,
) -> Result<TypePtr, ParquetError> {
    let Type::PrimitiveType {
        basic_info,
        physical_type,
        type_length,
        ..
    } = kind
    else {
        return Err(ParquetError::General(format!(
            "`{}` is a group",
            kind.name()
        )));
    };
    Type::primitive_type_builder(kind.name(), *physical_type)
        .with_repetition(basic_info.repetition())
        .with_id(basic_info.has_id().then(|| basic_info.id()))
        .with_length(*type_length)
        .with_logical_type(logical)
        .with_converted_type(converted)
        .build()
        .map(Arc::new)
}

/// The rows of a file with their marks, so many at a time.
///
/// # Errors
///
/// A file that is not Parquet; each batch may fail on its own.
pub(crate) fn marked_batches(
    file: File,
    rows: usize,
) -> Result<impl Iterator<Item = Result<RecordBatch, ArrowError>>, ParquetError> {
    let footer = ParquetMetaDataReader::new().parse_and_finish(&file)?;
    let mut marks = Marks::default();
    marks.add(footer.file_metadata());
    let batches = plain_batches(file, footer, rows)?;
    Ok(batches.map(move |batch| marks.apply_to(&batch?)))
}

/// The rows of a file without their marks, so many at a time, and its own schema, which has them.
///
/// # Errors
///
/// As [`marked_batches`].
pub(crate) fn stored_batches(
    file: File,
    rows: usize,
) -> Result<(ParquetRecordBatchReader, SchemaDescPtr), ParquetError> {
    let footer = ParquetMetaDataReader::new().parse_and_finish(&file)?;
    let schema = footer.file_metadata().schema_descr_ptr();
    Ok((plain_batches(file, footer, rows)?, schema))
}

fn plain_batches(
    file: File,
    footer: ParquetMetaData,
    rows: usize,
) -> Result<ParquetRecordBatchReader, ParquetError> {
    let footer = Arc::new(readable(footer)?);
    let footer = ArrowReaderMetadata::try_new(footer, ArrowReaderOptions::new())?;
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, footer);
    reader.with_batch_size(rows).build()
}

/// The marks of a file, or of all files.
#[derive(Clone, Default)]
pub(super) struct Marks(BTreeMap<String, Column>);

/// What the files say of one column.
#[derive(Clone, PartialEq)]
struct Column {
    group: Option<Logical>,
    /// The types without others inside, in their order, each with its path.
    leaves: Vec<(Vec<String>, Leaf)>,
    /// Whether one of those files has rows.
    has_rows: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Leaf {
    /// Nothing but nulls.
    Null,
    Plain,
    Marked(Logical),
}

impl Marks {
    /// Adds a file. A leaf on which two files do not agree has no mark; a file without rows contradicts none.
    pub(super) fn add(&mut self, file: &FileMetaData) {
        let has_rows = file.num_rows() > 0;
        for kind in file.schema_descr().root_schema().get_fields() {
            let mut column = Column {
                group: Logical::of_parquet(kind).filter(|_| kind.is_group()),
                leaves: Vec::new(),
                has_rows,
            };
            add_leaves(kind, &[], false, &mut column.leaves);
            self.merge_column(kind.name(), column);
        }
    }

    /// Adds the marks of other files.
    pub(super) fn merge(&mut self, other: &Self) {
        for (name, column) in &other.0 {
            self.merge_column(name, column.clone());
        }
    }

    fn merge_column(&mut self, name: &str, column: Column) {
        match self.0.get_mut(name) {
            Some(known) if known.has_rows && column.has_rows => known.merge(&column),
            Some(known) if known.has_rows => {}
            _ => {
                self.0.insert(name.to_owned(), column);
            }
        }
    }

    /// Marks the fields of a batch.
    pub(super) fn apply_to(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let schema = Arc::new(self.apply(batch.schema_ref()));
        let columns = batch.columns().iter().zip(schema.fields());
        // Inside another value a mark is part of the type.
        let columns = columns.map(|(column, field)| cast(column, field.data_type()));
        let columns = columns.collect::<Result<_, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(schema, columns, &options)
    }

    /// Marks the fields of a schema.
    pub(super) fn apply(&self, schema: &Schema) -> Schema {
        let field = |field: &FieldRef| match self.0.get(field.name()) {
            Some(column) => column.apply(field),
            None => Arc::clone(field),
        };
        Schema::new(schema.fields().iter().map(field).collect::<Fields>())
    }
}

/// A path has the names of fields that are matched by name: those of structs. The names of what lists and maps are
/// made of differ from writer to writer.
fn add_leaves(kind: &Type, path: &[String], in_map: bool, leaves: &mut Vec<(Vec<String>, Leaf)>) {
    if kind.is_group() {
        let info = kind.get_basic_info();
        let is_map = !in_map
            && (info.logical_type_ref() == Some(&LogicalType::Map)
                || matches!(
                    info.converted_type(),
                    ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE
                ));
        let fields = kind.get_fields();
        for (place, field) in fields.iter().enumerate() {
            let mut path = path.to_vec();
            if in_map {
                path.push(place.to_string());
            } else if fields.len() > 1 {
                path.push(field.name().to_owned());
            }
            add_leaves(field, &path, is_map, leaves);
        }
        return;
    }
    let leaf = match kind.get_basic_info().logical_type_ref() {
        Some(LogicalType::Unknown) => Leaf::Null,
        _ => Logical::of_parquet(kind).map_or(Leaf::Plain, Leaf::Marked),
    };
    leaves.push((path.to_vec(), leaf));
}

impl Column {
    fn merge(&mut self, other: &Self) {
        if self.leaves.len() != other.leaves.len() {
            // One of them is all null, or the files are refused.
            if self.is_null() {
                *self = other.clone();
            } else if !other.is_null() {
                self.leaves.clear();
            }
            return;
        }
        if self.group != other.group {
            self.group = None;
        }
        for (place, (path, known)) in self.leaves.iter_mut().enumerate() {
            *known = match (*known, other.leaf(place, path)) {
                (Leaf::Null, one) | (one, Leaf::Null) => one,
                (one, other) if one == other => one,
                _ => Leaf::Plain,
            };
        }
    }

    fn is_null(&self) -> bool {
        matches!(self.leaves[..], [(_, Leaf::Null)])
    }

    /// The leaf at a path; the one at `place` where several have it, as the fields of structs are matched.
    fn leaf(&self, place: usize, path: &[String]) -> Leaf {
        let mut at_path = self.leaves.iter().filter(|(known, _)| known == path);
        let here = self.leaves.get(place).filter(|(known, _)| known == path);
        here.or_else(|| at_path.next())
            .map_or(Leaf::Plain, |(_, leaf)| *leaf)
    }

    fn apply(&self, field: &FieldRef) -> FieldRef {
        if count_leaves(field.data_type()) != self.leaves.len() {
            return Arc::clone(field);
        }
        let mut marks = self.leaves.iter().map(|(_, leaf)| match leaf {
            Leaf::Marked(logical) => Some(*logical),
            Leaf::Plain | Leaf::Null => None,
        });
        let field = mark_leaves(field, &mut marks);
        match self.group {
            Some(logical) => Arc::new(logical.mark(&field)),
            None => field,
        }
    }
}

fn count_leaves(kind: &DataType) -> usize {
    match children(kind) {
        [] => 1,
        children => children
            .iter()
            .map(|child| count_leaves(child.data_type()))
            .sum(),
    }
}

fn mark_leaves(field: &FieldRef, marks: &mut impl Iterator<Item = Option<Logical>>) -> FieldRef {
    let kind = field.data_type();
    if !children(kind).is_empty() {
        let kind = with_children(kind, |inner| mark_leaves(inner, marks));
        return Arc::new(field.as_ref().clone().with_data_type(kind));
    }
    match marks.next().flatten() {
        Some(logical) if logical.fits(kind) => Arc::new(logical.mark(field)),
        _ => Arc::clone(field),
    }
}

impl Logical {
    /// Whether values of an Arrow type can have this mark: files may have met in another type.
    fn fits(self, kind: &DataType) -> bool {
        match (self, kind) {
            (_, DataType::Dictionary(_, value)) => self.fits(value),
            (Self::Uuid, DataType::FixedSizeBinary(length)) => *length == 16,
            (Self::Interval, DataType::FixedSizeBinary(length)) => *length == INTERVAL_BYTES,
            (Self::Json, kind) => kind.is_string(),
            (Self::Bson, kind) => kind.is_binary(),
            (Self::UtcTime, DataType::Time32(_) | DataType::Time64(_)) => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parquet::arrow::parquet_to_arrow_schema;
    use parquet::file::metadata::FileMetaData;
    use parquet::schema::parser::parse_message_type;
    use parquet::schema::types::SchemaDescriptor;

    use super::{DataType, Logical, Marks};

    fn file(columns: &str) -> FileMetaData {
        let message = format!("message rows {{ {columns} }}");
        let schema = SchemaDescriptor::new(Arc::new(parse_message_type(&message).unwrap()));
        FileMetaData::new(1, 1, None, None, Arc::new(schema), None)
    }

    #[test]
    fn the_marks_of_two_files_meet_by_the_names_of_fields() {
        let uuid = "required fixed_len_byte_array(16) u (UUID);";
        let number = "required int64 n;";
        let entries = |value: &str, names: [&str; 2]| {
            let [key, inner] = names;
            format!(
                "optional group m (MAP) {{ repeated group {inner} {{ required binary {key} (UTF8); \
                 required group {inner} {{ {value} }} }} }}"
            )
        };
        let first = format!("{uuid} {number}");
        let second = format!("{number} {uuid}");
        let structs = |fields: &str| format!("required group s {{ {fields} }}");
        let known = structs(&first) + &entries(&first, ["key", "value"]);
        let known = file(&known);
        let mut marks = Marks::default();
        marks.add(&known);
        marks.add(&file(&(structs(&second) + &entries(&second, ["k", "v"]))));
        let schema = parquet_to_arrow_schema(known.schema_descr(), None).unwrap();
        let schema = marks.apply(&schema);
        let DataType::Struct(fields) = schema.field(0).data_type() else {
            panic!("a struct")
        };
        let found = fields.iter().map(|field| Logical::of(field));
        assert_eq!(found.collect::<Vec<_>>(), [Some(Logical::Uuid), None]);
        let DataType::Map(entries, _) = schema.field(1).data_type() else {
            panic!("a map")
        };
        let DataType::Struct(pair) = entries.data_type() else {
            panic!("a pair")
        };
        let DataType::Struct(fields) = pair[1].data_type() else {
            panic!("a struct")
        };
        assert_eq!(Logical::of(&fields[0]), Some(Logical::Uuid));
    }
}
