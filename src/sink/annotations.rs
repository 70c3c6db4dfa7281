//! The marks of carried columns to the annotations of the parts' Parquet schema.
//!
//! Invariant: only annotations change. The tree, its names and what is stored stay as arrow lays them out.

use std::sync::Arc;

use ::parquet::basic::{ConvertedType, LogicalType};
use ::parquet::errors::ParquetError;
use ::parquet::schema::types::{SchemaDescriptor, Type, TypePtr};
use arrow_schema::{DataType, Field};

use crate::input::{Logical, list_item};

/// Version of the variant encoding, the only one there is.
const VARIANT_VERSION: i8 = 1;

/// A Parquet schema with the annotations that the marked fields, one a column, ask for.
///
/// # Errors
///
/// An annotation that does not fit what is stored.
pub(super) fn annotate(
    schema: &SchemaDescriptor,
    marked: &[Field],
) -> Result<SchemaDescriptor, ParquetError> {
    let root = schema.root_schema();
    let fields = root.get_fields().iter().zip(marked);
    let fields = fields
        .map(|(kind, field)| annotate_field(kind, field))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(SchemaDescriptor::new(with_fields(root, fields)))
}

fn annotate_field(kind: &TypePtr, field: &Field) -> Result<TypePtr, ParquetError> {
    let logical = Logical::of(field);
    if kind.is_primitive() {
        return match logical {
            Some(logical) => annotate_leaf(kind, logical),
            None => Ok(Arc::clone(kind)),
        };
    }
    let inside = kind.get_fields();
    Ok(match (field.data_type(), inside) {
        (DataType::Struct(fields), _) => {
            let fields = inside.iter().zip(fields);
            let fields = fields
                .map(|(kind, field)| annotate_field(kind, field))
                .collect::<Result<Vec<_>, _>>()?;
            match logical {
                Some(Logical::Variant) => variant(kind, fields)?,
                _ => with_fields(kind, fields),
            }
        }
        (DataType::Map(entries, _), [repeated]) => {
            with_fields(kind, vec![annotate_field(repeated, entries)?])
        }
        (list, [repeated]) => match (list_item(list), repeated.get_fields()) {
            (Some(item), [element]) => {
                let element = annotate_field(element, item)?;
                with_fields(kind, vec![with_fields(repeated, vec![element])])
            }
            _ => Arc::clone(kind),
        },
        _ => Arc::clone(kind),
    })
}

fn with_fields(group: &Type, fields: Vec<TypePtr>) -> TypePtr {
    Arc::new(Type::GroupType {
        basic_info: group.get_basic_info().clone(),
        fields,
    })
}

fn variant(group: &Type, fields: Vec<TypePtr>) -> Result<TypePtr, ParquetError> {
    Type::group_type_builder(group.name())
        .with_repetition(group.get_basic_info().repetition())
        .with_fields(fields)
        .with_logical_type(Some(LogicalType::variant(Some(VARIANT_VERSION))))
        .build()
        .map(Arc::new)
}

fn annotate_leaf(kind: &TypePtr, logical: Logical) -> Result<TypePtr, ParquetError> {
    let Type::PrimitiveType {
        basic_info,
        physical_type,
        type_length,
        ..
    } = kind.as_ref()
    else {
        return Ok(Arc::clone(kind));
    };
    let (annotation, converted) = match (logical, basic_info.logical_type_ref()) {
        (Logical::Uuid, _) => (Some(LogicalType::Uuid), ConvertedType::NONE),
        (Logical::Json, _) => (Some(LogicalType::Json), ConvertedType::JSON),
        (Logical::Bson, _) => (Some(LogicalType::Bson), ConvertedType::BSON),
        (Logical::Interval, _) => (None, ConvertedType::INTERVAL),
        (Logical::UtcTime, Some(LogicalType::Time(time))) => (
            Some(LogicalType::time(true, time.unit)),
            ConvertedType::NONE,
        ),
        (Logical::UtcTime | Logical::Variant, _) => return Ok(Arc::clone(kind)),
    };
    Type::primitive_type_builder(kind.name(), *physical_type)
        .with_repetition(basic_info.repetition())
        .with_length(*type_length)
        .with_logical_type(annotation)
        .with_converted_type(converted)
        .build()
        .map(Arc::new)
}
