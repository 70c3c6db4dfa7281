//! Two types of a column to the one that holds both.
//!
//! What is one type in Parquet is one type here, at every depth, however a writer laid it out in memory: the
//! kinds of text, bytes and lists, a dictionary and its values, units of time. Numbers meet in int64 or
//! float64; whether a value fits is for [`super::fit`] to say. Types that were equal, or that jobs of the first
//! rule could already join, come out as they did.

use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, Fields, TimeUnit};

use super::layout::{is_bytes, is_text};
use super::nested::list_item;

/// Decimal digits that 128 bits hold.
const DIGITS_OF_128_BITS: u8 = 38;

/// The type that holds both, by the rules of today.
pub(super) fn common(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::{Date32, Date64, Dictionary, Map, Null, Struct};
    match (a, b) {
        _ if a == b => Some(a.clone()),
        (Null, other) | (other, Null) => Some(other.clone()),
        _ if is_text(a) && is_text(b) => Some(DataType::Utf8),
        _ if is_bytes(a) && is_bytes(b) => Some(DataType::Binary),
        (Dictionary(_, value), other) | (other, Dictionary(_, value)) => common(value, other),
        _ if is_number(a) && is_number(b) => common_number(a, b),
        (Date32 | Date64, Date32 | Date64) => Some(Date32),
        (Struct(a), Struct(b)) => common_struct(a, b),
        (Map(a, a_sorted), Map(b, b_sorted)) => {
            let entries = common_entries(a, b)?;
            Some(Map(entries, *a_sorted && *b_sorted))
        }
        _ => common_time(a, b)
            .or_else(|| common_decimal(a, b))
            .or_else(|| common_list(a, b)),
    }
}

fn is_number(kind: &DataType) -> bool {
    kind.is_integer() || kind.is_floating()
}

fn common_number(a: &DataType, b: &DataType) -> Option<DataType> {
    match (a, b) {
        (DataType::UInt64, other) | (other, DataType::UInt64) if other.is_integer() => None,
        _ if a.is_integer() && b.is_integer() => Some(DataType::Int64),
        _ => Some(DataType::Float64),
    }
}

/// The finer unit: the coarser values keep all their digits in it.
fn common_time(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::{Duration, Time32, Time64, Timestamp};
    match (a, b) {
        (Timestamp(a, a_zone), Timestamp(b, b_zone)) => {
            let zone = match (a_zone, b_zone) {
                _ if a_zone == b_zone => a_zone.clone(),
                // Parquet keeps instants; the zone is only for showing them.
                (Some(_), Some(_)) => Some("UTC".into()),
                _ => return None,
            };
            Some(Timestamp(finer(*a, *b), zone))
        }
        (Duration(a), Duration(b)) => Some(Duration(finer(*a, *b))),
        (Time32(a) | Time64(a), Time32(b) | Time64(b)) => Some(match finer(*a, *b) {
            unit @ (TimeUnit::Second | TimeUnit::Millisecond) => Time32(unit),
            unit => Time64(unit),
        }),
        _ => None,
    }
}

/// The units are declared from the coarsest on.
fn finer(a: TimeUnit, b: TimeUnit) -> TimeUnit {
    a.max(b)
}

fn common_decimal(a: &DataType, b: &DataType) -> Option<DataType> {
    let ((digits, scale), other) = (decimal(a)?, decimal(b)?);
    if (digits, scale) != other {
        return None;
    }
    Some(if digits <= DIGITS_OF_128_BITS {
        DataType::Decimal128(digits, scale)
    } else {
        DataType::Decimal256(digits, scale)
    })
}

fn decimal(kind: &DataType) -> Option<(u8, i8)> {
    match kind {
        DataType::Decimal32(digits, scale)
        | DataType::Decimal64(digits, scale)
        | DataType::Decimal128(digits, scale)
        | DataType::Decimal256(digits, scale) => Some((*digits, *scale)),
        _ => None,
    }
}

fn common_list(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::{FixedSizeList, LargeList, List};
    let kind = common(list_item(a)?.data_type(), list_item(b)?.data_type())?;
    let item = Arc::new(Field::new("item", kind, true));
    Some(match (a, b) {
        (LargeList(_), LargeList(_)) => LargeList(item),
        (FixedSizeList(_, a), FixedSizeList(_, b)) if a == b => FixedSizeList(item, *a),
        _ => List(item),
    })
}

/// Fields are matched by name. Where a name comes twice they are matched by position, and the names must
/// agree there.
fn common_struct(a: &Fields, b: &Fields) -> Option<DataType> {
    if a.len() != b.len() {
        return None;
    }
    let fields = a.iter().enumerate().map(|(place, field)| {
        let other = &b[counterpart(a, place, b)?];
        let kind = common(field.data_type(), other.data_type())?;
        Some(Field::new(field.name(), kind, true))
    });
    fields.collect::<Option<Fields>>().map(DataType::Struct)
}

/// The field of `from` that is the one at `place` of `of`.
pub(super) fn counterpart(of: &Fields, place: usize, from: &Fields) -> Option<usize> {
    let name = of[place].name();
    if from.get(place).is_some_and(|field| field.name() == name) {
        return Some(place);
    }
    let mut named = (0..from.len()).filter(|&at| from[at].name() == name);
    let found = named.next()?;
    let is_single = named.next().is_none();
    let is_single = is_single && of.iter().filter(|field| field.name() == name).count() == 1;
    is_single.then_some(found)
}

/// Keys and values of a map are matched by position: writers name them in several ways.
fn common_entries(a: &FieldRef, b: &FieldRef) -> Option<FieldRef> {
    let (DataType::Struct(a_pair), DataType::Struct(b_pair)) = (a.data_type(), b.data_type())
    else {
        return None;
    };
    let pair = a_pair.iter().zip(b_pair).enumerate();
    let pair = pair.map(|(place, (a, b))| {
        let kind = common(a.data_type(), b.data_type())?;
        // A value that the type cannot hold becomes null.
        let is_value = place > 0;
        let is_nullable = is_value || a.is_nullable() || b.is_nullable();
        Some(Field::new(a.name(), kind, is_nullable))
    });
    let pair = DataType::Struct(pair.collect::<Option<Fields>>()?);
    Some(Arc::new(Field::new(a.name(), pair, false)))
}

/// The type that holds both by the first rule: nested types must be laid out alike.
pub(super) fn common_by_layout(a: &DataType, b: &DataType) -> Option<DataType> {
    match (a, b) {
        _ if a == b => Some(a.clone()),
        (DataType::Null, other) | (other, DataType::Null) => Some(other.clone()),
        _ if is_text(a) && is_text(b) => Some(DataType::LargeUtf8),
        _ if is_number(a) && is_number(b) => common_number(a, b),
        _ => {
            let plain = without_metadata(a);
            (plain == without_metadata(b)).then_some(plain)
        }
    }
}

/// A nested type without metadata and the names of list items, everything nullable.
fn without_metadata(kind: &DataType) -> DataType {
    let item = |field: &FieldRef| {
        let kind = without_metadata(field.data_type());
        Arc::new(Field::new("item", kind, true))
    };
    match kind {
        DataType::List(field) => DataType::List(item(field)),
        DataType::LargeList(field) => DataType::LargeList(item(field)),
        DataType::FixedSizeList(field, size) => DataType::FixedSizeList(item(field), *size),
        DataType::Struct(fields) => DataType::Struct(
            fields
                .iter()
                .map(|f| Field::new(f.name(), without_metadata(f.data_type()), true))
                .collect(),
        ),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_schema::{DataType, Field, TimeUnit};

    use super::{common, common_by_layout};

    fn list(item: DataType) -> DataType {
        DataType::List(Arc::new(Field::new("element", item, true)))
    }

    fn fields(fields: &[(&str, DataType)]) -> DataType {
        let field = |(name, kind): &(&str, DataType)| Field::new(*name, kind.clone(), false);
        DataType::Struct(fields.iter().map(field).collect())
    }

    #[test]
    fn types_meet_in_the_wider_one() {
        use DataType::{Float32, Float64, Int32, Int64, LargeUtf8, Null, UInt64, Utf8, Utf8View};
        for meet in [common, common_by_layout] {
            assert_eq!(meet(&Int32, &Int64), Some(Int64));
            assert_eq!(meet(&Int64, &Float32), Some(Float64));
            assert_eq!(meet(&Null, &Utf8), Some(Utf8));
            assert_eq!(meet(&Int64, &Utf8), None);
            assert_eq!(meet(&Int64, &UInt64), None);
            assert_eq!(meet(&DataType::Boolean, &Int32), None);
        }
        assert_eq!(common(&Utf8, &Utf8View), Some(Utf8));
        assert_eq!(common_by_layout(&Utf8, &Utf8View), Some(LargeUtf8));
    }

    #[test]
    fn nested_types_meet_at_every_depth() {
        use DataType::{Int32, Int64, LargeUtf8, Null, Utf8};
        let large = DataType::LargeList(Arc::new(Field::new("item", LargeUtf8, true)));
        assert_eq!(common_by_layout(&large, &list(Utf8)), None);
        let plain = DataType::List(Arc::new(Field::new("item", Utf8, true)));
        assert_eq!(common(&large, &list(Utf8)), Some(plain.clone()));
        assert_eq!(common(&list(Null), &list(Utf8)), Some(plain));
        let found = common(
            &fields(&[("a", Int32), ("b", Null)]),
            &fields(&[("b", Utf8), ("a", Int64)]),
        );
        let DataType::Struct(found) = found.unwrap() else {
            panic!("a struct")
        };
        assert_eq!(
            (found[0].data_type(), found[1].data_type()),
            (&Int64, &Utf8)
        );
        assert_eq!(
            common(&fields(&[("a", Int32)]), &fields(&[("b", Int32)])),
            None
        );
        assert_eq!(common(&fields(&[("a", Int32)]), &fields(&[])), None);
        let twice = fields(&[("a", Int32), ("a", Utf8)]);
        assert_eq!(common(&twice, &fields(&[("a", Utf8), ("a", Int32)])), None);
    }

    #[test]
    fn times_meet_in_the_finer_unit() {
        let stamp = |unit, zone: Option<&str>| DataType::Timestamp(unit, zone.map(Into::into));
        let (micro, nano) = (TimeUnit::Microsecond, TimeUnit::Nanosecond);
        let finer = common(&stamp(nano, None), &stamp(micro, None));
        assert_eq!(finer, Some(stamp(nano, None)));
        let zones = common(&stamp(micro, Some("+00:00")), &stamp(micro, Some("UTC")));
        assert_eq!(zones, Some(stamp(micro, Some("UTC"))));
        assert_eq!(
            common(&stamp(micro, Some("UTC")), &stamp(micro, None)),
            None
        );
        let times = common(
            &DataType::Time32(TimeUnit::Millisecond),
            &DataType::Time64(micro),
        );
        assert_eq!(times, Some(DataType::Time64(micro)));
    }
}
