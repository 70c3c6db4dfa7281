//! What Parquet says of a column beyond its Arrow type: marks on the fields of a schema.
//!
//! Arrow has no type of its own for a UUID, a JSON text, a time in UTC, a variant or an interval with months.
//! A mark stands in the metadata of the field, at every depth: JSON and the parts are written by it.
//! ENUM and INTERVAL are read as what they are stored as, text and 12 bytes, since the decoder would give
//! bytes for the one and drop the months of the other.
//!
//! Jobs that began under the first rule for types have no marks, and their schema says so.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use arrow::array::{IntervalMonthDayNanoArray, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, IntervalMonthDayNano, Schema};
use arrow::error::ArrowError;
use arrow::util::display::array_value_to_string;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::{ConvertedType, LogicalType};
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    FileMetaData, ParquetMetaData, ParquetMetaDataBuilder, ParquetMetaDataReader,
};
use parquet::schema::types::{SchemaDescriptor, Type, TypePtr};

/// Key of a field's metadata under which its mark stands.
const MARK: &str = "glm-batch.logical";

/// Bytes of an interval: months, days and milliseconds.
const INTERVAL_BYTES: i32 = 12;

/// What a column is in Parquet that its Arrow type does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logical {
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
    pub fn of(field: &Field) -> Option<Self> {
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

/// How the bytes of a marked field are written as text; `None` where they are mere bytes.
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
/// A file that is no Parquet; each batch may fail on its own.
pub fn marked_batches(
    file: File,
    rows: usize,
) -> Result<impl Iterator<Item = Result<RecordBatch, ArrowError>>, ParquetError> {
    let footer = ParquetMetaDataReader::new().parse_and_finish(&file)?;
    let mut marks = Marks::default();
    marks.add(footer.file_metadata());
    let footer = Arc::new(readable(footer)?);
    let footer = ArrowReaderMetadata::try_new(footer, ArrowReaderOptions::new())?;
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, footer);
    let batches = reader.with_batch_size(rows).build()?;
    Ok(batches.map(move |batch| marks.apply_to(&batch?)))
}

/// The marks of a file, or of all files.
#[derive(Clone, Default)]
pub(super) struct Marks(BTreeMap<String, Column>);

/// What the files say of one column.
#[derive(Clone, PartialEq)]
struct Column {
    group: Option<Logical>,
    /// The types without others inside, in their order.
    leaves: Vec<Leaf>,
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
            add_leaves(kind, &mut column.leaves);
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

fn add_leaves(kind: &Type, leaves: &mut Vec<Leaf>) {
    if kind.is_group() {
        for field in kind.get_fields() {
            add_leaves(field, leaves);
        }
        return;
    }
    leaves.push(match kind.get_basic_info().logical_type_ref() {
        Some(LogicalType::Unknown) => Leaf::Null,
        _ => Logical::of_parquet(kind).map_or(Leaf::Plain, Leaf::Marked),
    });
}

impl Column {
    fn merge(&mut self, other: &Self) {
        if self.leaves.len() != other.leaves.len() {
            // One of them is all null, or the files are refused.
            let nulls = [Leaf::Null];
            if self.leaves == nulls {
                *self = other.clone();
            } else if other.leaves != nulls {
                self.leaves.clear();
            }
            return;
        }
        if self.group != other.group {
            self.group = None;
        }
        for (known, other) in self.leaves.iter_mut().zip(&other.leaves) {
            *known = match (*known, *other) {
                (Leaf::Null, one) | (one, Leaf::Null) => one,
                (one, other) if one == other => one,
                _ => Leaf::Plain,
            };
        }
    }

    fn apply(&self, field: &FieldRef) -> FieldRef {
        if count_leaves(field.data_type()) != self.leaves.len() {
            return Arc::clone(field);
        }
        let mut marks = self.leaves.iter().map(|leaf| match leaf {
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

/// The fields inside a nested type.
fn children(kind: &DataType) -> &[FieldRef] {
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

fn mark_leaves(field: &FieldRef, marks: &mut impl Iterator<Item = Option<Logical>>) -> FieldRef {
    let mut item = |item: &FieldRef| mark_leaves(item, marks);
    let kind = match field.data_type() {
        DataType::List(inner) => DataType::List(item(inner)),
        DataType::LargeList(inner) => DataType::LargeList(item(inner)),
        DataType::ListView(inner) => DataType::ListView(item(inner)),
        DataType::LargeListView(inner) => DataType::LargeListView(item(inner)),
        DataType::FixedSizeList(inner, size) => DataType::FixedSizeList(item(inner), *size),
        DataType::Map(inner, sorted) => DataType::Map(item(inner), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(item).collect()),
        _ => {
            return match marks.next().flatten() {
                Some(logical) if logical.fits(field.data_type()) => Arc::new(logical.mark(field)),
                _ => Arc::clone(field),
            };
        }
    };
    Arc::new(field.as_ref().clone().with_data_type(kind))
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
