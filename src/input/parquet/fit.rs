//! Batches of one file to the schema of all files.
//!
//! Invariant: a value is either itself afterwards or null and named. Integers beyond 2^53 may not fit float64, far
//! dates may not fit nanoseconds; such a value is never rounded. Jobs of the first rule round, as they began to.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{
    Array, ArrayRef, BooleanArray, FixedSizeListArray, GenericListArray, MapArray, OffsetSizeTrait,
    RecordBatch, RecordBatchOptions, StructArray, UInt64Array, new_null_array,
};
use arrow_cast::cast;
use arrow_ord::cmp::not_distinct;
use arrow_schema::ArrowError;
use arrow_schema::{DataType, FieldRef, Fields, SchemaRef};
use arrow_select::nullif::nullif;
use arrow_select::take::take;

use super::common::counterpart;
use super::json::value_text;
use super::nested::list_item;

/// A value that the common type of the files cannot hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Misfit {
    /// Row in the batch.
    pub(super) row: usize,
    /// Column in the common schema.
    pub(super) column: usize,
    /// The value in words.
    pub(super) value: String,
    /// The type that cannot hold it.
    pub(super) kind: String,
}

/// A place among the values of one array, the value and the type.
type Lost = Vec<(usize, String, String)>;

/// A batch of one file in the schema of all files; where `exact`, what does not fit is null and named.
pub(super) fn fit(
    batch: &RecordBatch,
    schema: &SchemaRef,
    exact: bool,
) -> Result<(RecordBatch, Vec<Misfit>), ArrowError> {
    let mut misfits = Vec::new();
    let mut columns = Vec::with_capacity(schema.fields().len());
    for (number, field) in schema.fields().iter().enumerate() {
        let Some(array) = batch.column_by_name(field.name()) else {
            columns.push(new_null_array(field.data_type(), batch.num_rows()));
            continue;
        };
        let mut lost = exact.then(Vec::new);
        columns.push(fit_array(array, field.data_type(), &mut lost)?);
        let found = lost.into_iter().flatten();
        misfits.extend(found.map(|(row, value, kind)| Misfit {
            row,
            column: number,
            value,
            kind,
        }));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let batch = RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?;
    Ok((batch, misfits))
}

/// Rows of nulls.
pub(super) fn nulls(schema: &SchemaRef, rows: usize) -> Result<RecordBatch, ArrowError> {
    let columns = schema.fields().iter();
    let columns = columns.map(|field| new_null_array(field.data_type(), rows));
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns.collect(), &options)
}

fn fit_array(
    array: &ArrayRef,
    to: &DataType,
    lost: &mut Option<Lost>,
) -> Result<ArrayRef, ArrowError> {
    if array.data_type() == to {
        return Ok(Arc::clone(array));
    }
    match (array.data_type(), to) {
        (DataType::Null, _) => Ok(new_null_array(to, array.len())),
        (DataType::Struct(_), DataType::Struct(fields)) => {
            Ok(Arc::new(fit_struct(array.as_struct(), fields, lost)?))
        }
        (DataType::Map(..), DataType::Map(entries, sorted)) => {
            fit_map(array.as_map(), entries, *sorted, lost)
        }
        (from, _) if list_item(from).is_some() && list_item(to).is_some() => {
            fit_list(array, to, lost)
        }
        _ => fit_leaf(array, to, lost),
    }
}

fn fit_struct(
    array: &StructArray,
    fields: &Fields,
    lost: &mut Option<Lost>,
) -> Result<StructArray, ArrowError> {
    let mut columns = Vec::with_capacity(fields.len());
    for (place, field) in fields.iter().enumerate() {
        let mut inner = lost.is_some().then(Vec::new);
        columns.push(match counterpart(fields, place, array.fields()) {
            Some(from) => fit_array(array.column(from), field.data_type(), &mut inner)?,
            None => new_null_array(field.data_type(), array.len()),
        });
        extend(lost, inner, |row| array.is_valid(row).then_some(row));
    }
    StructArray::try_new_with_length(fields.clone(), columns, array.nulls().cloned(), array.len())
}

fn fit_map(
    array: &MapArray,
    entries: &FieldRef,
    sorted: bool,
    lost: &mut Option<Lost>,
) -> Result<ArrayRef, ArrowError> {
    let DataType::Struct(pair) = entries.data_type() else {
        return cast(array, &DataType::Map(Arc::clone(entries), sorted));
    };
    let mut inner = lost.is_some().then(Vec::new);
    let keys = fit_array(array.keys(), pair[0].data_type(), &mut inner)?;
    let odd: Vec<usize> = inner.iter().flatten().map(|(at, ..)| *at).collect();
    if !odd.is_empty() {
        // A key cannot be null: the whole map is.
        let odd = odd.into_iter();
        let odd: BTreeSet<_> = odd
            .filter_map(|at| holder(array.offsets(), array, at))
            .collect();
        extend(lost, inner, |at| holder(array.offsets(), array, at));
        let rows = 0..array.len();
        let rows =
            rows.map(|row| (array.is_valid(row) && !odd.contains(&row)).then_some(row as u64));
        let rest = take(array, &rows.collect::<UInt64Array>(), None)?;
        return fit_map(rest.as_map(), entries, sorted, lost);
    }
    let values = fit_array(array.values(), pair[1].data_type(), &mut inner)?;
    extend(lost, inner, |at| holder(array.offsets(), array, at));
    let pairs = StructArray::try_new(pair.clone(), vec![keys, values], None)?;
    let (offsets, nulls) = (array.offsets().clone(), array.nulls().cloned());
    let map = MapArray::try_new(Arc::clone(entries), offsets, pairs, nulls, sorted)?;
    Ok(Arc::new(map))
}

fn fit_list(
    array: &ArrayRef,
    to: &DataType,
    lost: &mut Option<Lost>,
) -> Result<ArrayRef, ArrowError> {
    let (Some(from), Some(wanted)) = (list_item(array.data_type()), list_item(to)) else {
        return cast(array, to);
    };
    let made: ArrayRef = match array.data_type() {
        DataType::List(_) => Arc::new(fit_items::<i32>(array.as_list(), wanted, lost)?),
        DataType::LargeList(_) => Arc::new(fit_items::<i64>(array.as_list(), wanted, lost)?),
        DataType::FixedSizeList(_, size) => {
            let list = array.as_fixed_size_list();
            let mut inner = lost.is_some().then(Vec::new);
            let values = fit_array(list.values(), wanted.data_type(), &mut inner)?;
            let width = (*size).max(1) as usize;
            extend(lost, inner, |at| {
                Some(at / width).filter(|&row| list.is_valid(row))
            });
            let nulls = list.nulls().cloned();
            Arc::new(FixedSizeListArray::try_new(
                Arc::clone(wanted),
                *size,
                values,
                nulls,
            )?)
        }
        _ => {
            let plain = cast(array, &DataType::LargeList(Arc::clone(from)))?;
            return fit_array(&plain, to, lost);
        }
    };
    if made.data_type() == to {
        Ok(made)
    } else {
        cast(&made, to)
    }
}

fn fit_items<O: OffsetSizeTrait>(
    list: &GenericListArray<O>,
    wanted: &FieldRef,
    lost: &mut Option<Lost>,
) -> Result<GenericListArray<O>, ArrowError> {
    let mut inner = lost.is_some().then(Vec::new);
    let values = fit_array(list.values(), wanted.data_type(), &mut inner)?;
    extend(lost, inner, |at| holder(list.offsets(), list, at));
    let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
    GenericListArray::try_new(Arc::clone(wanted), offsets, values, nulls)
}

/// The row whose list holds the item at `at`; none where no visible row does.
fn holder<O: OffsetSizeTrait>(offsets: &[O], list: &dyn Array, at: usize) -> Option<usize> {
    let after = offsets.partition_point(|offset| offset.as_usize() <= at);
    let row = after.checked_sub(1)?;
    (row < list.len() && list.is_valid(row)).then_some(row)
}

/// Takes what inner values lost, under the row that holds them.
fn extend(lost: &mut Option<Lost>, inner: Option<Lost>, row_of: impl Fn(usize) -> Option<usize>) {
    let Some(lost) = lost else { return };
    let rows = inner.into_iter().flatten();
    lost.extend(rows.filter_map(|(at, value, kind)| Some((row_of(at)?, value, kind))));
}

/// Values that come back as they were are held; the others are lost.
fn fit_leaf(
    array: &ArrayRef,
    to: &DataType,
    lost: &mut Option<Lost>,
) -> Result<ArrayRef, ArrowError> {
    let fitted = cast(array, to)?;
    let Some(lost) = lost else { return Ok(fitted) };
    if !is_measured(array.data_type()) {
        return Ok(fitted);
    }
    let back = cast(&fitted, array.data_type())?;
    let same = not_distinct(&back, array)?;
    if same.true_count() == same.len() {
        return Ok(fitted);
    }
    let kind = type_words(to);
    for row in (0..same.len()).filter(|&row| !same.value(row)) {
        lost.push((row, value_text(array, row), kind.clone()));
    }
    let differs = BooleanArray::new(!same.values(), same.nulls().cloned());
    nullif(&fitted, &differs)
}

/// Whether values are numbers or times; text and bytes of one kind hold those of another.
fn is_measured(kind: &DataType) -> bool {
    kind.is_numeric() || kind.is_temporal()
}

/// A type as people call it.
pub(super) fn type_words(kind: &DataType) -> String {
    match kind {
        DataType::Timestamp(unit, _) => format!("a timestamp in {unit:?}s").to_lowercase(),
        other => other.to_string().to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::builder::{Int64Builder, MapBuilder};
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Float64Type, Int64Type};
    use arrow_array::{
        Array, ArrayRef, Int64Array, ListArray, RecordBatch, StringArray, TimestampMicrosecondArray,
    };
    use arrow_schema::{DataType, Field, Schema, TimeUnit};

    use super::fit;

    fn fitted(array: ArrayRef, to: DataType) -> (ArrayRef, Vec<(usize, String)>) {
        let batch = RecordBatch::try_from_iter([("x", array)]).unwrap();
        let schema = Arc::new(Schema::new(vec![Field::new("x", to, true)]));
        let (batch, misfits) = fit(&batch, &schema, true).unwrap();
        let lost = misfits.into_iter().map(|found| (found.row, found.value));
        (Arc::clone(batch.column(0)), lost.collect())
    }

    #[test]
    fn an_integer_that_a_float_cannot_hold_is_named_and_null() {
        let odd = (1 << 53) + 1;
        let values = [Some(1 << 60), None, Some(odd), Some(i64::MAX), Some(-7)];
        let (array, lost) = fitted(
            Arc::new(Int64Array::from(values.to_vec())),
            DataType::Float64,
        );
        let floats: Vec<Option<f64>> = array.as_primitive::<Float64Type>().iter().collect();
        let expected = [
            Some(1_152_921_504_606_846_976.0),
            None,
            None,
            None,
            Some(-7.0),
        ];
        assert_eq!(floats, expected);
        let names = [(2, odd.to_string()), (3, i64::MAX.to_string())];
        assert_eq!(lost, names);
    }

    #[test]
    fn a_date_too_far_for_the_finer_unit_is_named_and_null() {
        let year_9999 = 253_370_764_800_000_000;
        let (array, lost) = fitted(
            Arc::new(TimestampMicrosecondArray::from(vec![5, year_9999])),
            DataType::Timestamp(TimeUnit::Nanosecond, None),
        );
        assert!(array.is_valid(0) && array.is_null(1));
        assert_eq!(lost, [(1, "9999-01-01T00:00:00".to_owned())]);
    }

    #[test]
    fn inner_values_are_named_by_their_row() {
        let odd = (1 << 53) + 1;
        let lists: ListArray = ListArray::from_iter_primitive::<Int64Type, _, _>([
            Some(vec![Some(1)]),
            Some(vec![]),
            None,
            Some(vec![Some(2), Some(odd)]),
        ]);
        let item = Arc::new(Field::new("item", DataType::Float64, true));
        let (array, lost) = fitted(Arc::new(lists.slice(1, 3)), DataType::LargeList(item));
        assert_eq!(lost, [(2, odd.to_string())]);
        assert_eq!(array.as_list::<i64>().value(2).null_count(), 1);
    }

    #[test]
    fn lists_of_nulls_hold_texts() {
        let texts = Arc::new(StringArray::from(vec!["a"])) as ArrayRef;
        let item = Arc::new(Field::new("item", DataType::Utf8View, true));
        let (array, lost) = fitted(texts, DataType::Utf8View);
        assert!(lost.is_empty() && array.as_string_view().value(0) == "a");
        let nulls = ListArray::new_null(Arc::new(Field::new("x", DataType::Null, true)), 2);
        let (array, _) = fitted(Arc::new(nulls), DataType::List(Arc::clone(&item)));
        assert_eq!(array.data_type(), &DataType::List(item));
    }

    #[test]
    fn a_map_with_a_key_that_does_not_fit_is_named_and_null() {
        let odd = (1 << 53) + 1;
        let mut maps = MapBuilder::new(None, Int64Builder::new(), Int64Builder::new());
        for entries in [&[(odd, 0)][..], &[(1, 2), (odd, 3)], &[(3, odd)], &[]] {
            for (key, value) in entries {
                maps.keys().append_value(*key);
                maps.values().append_value(*value);
            }
            maps.append(true).unwrap();
        }
        let pair = [
            Field::new("keys", DataType::Float64, false),
            Field::new("values", DataType::Float64, true),
        ];
        let pair = DataType::Struct(pair.into_iter().collect());
        let entries = Arc::new(Field::new("entries", pair, false));
        // The first map, which the slice does not show, has such a key too.
        let maps = maps.finish().slice(1, 3);
        let (array, lost) = fitted(Arc::new(maps), DataType::Map(entries, false));
        assert_eq!(lost, [(0, odd.to_string()), (1, odd.to_string())]);
        let maps = array.as_map();
        assert!(maps.is_null(0) && maps.is_valid(1) && maps.is_valid(2));
        assert_eq!(maps.value(1).column(1).null_count(), 1);
    }

    #[test]
    fn a_date_in_a_named_zone_is_named_in_utc() {
        let zone = |unit| DataType::Timestamp(unit, Some("Asia/Shanghai".into()));
        let times = TimestampMicrosecondArray::from(vec![253_370_764_800_000_000, i64::MAX]);
        let times = times.with_timezone("Asia/Shanghai");
        let (_, lost) = fitted(Arc::new(times), zone(TimeUnit::Nanosecond));
        let expected = ["9999-01-01T00:00:00Z", "a value that has no text"];
        assert_eq!(
            lost,
            [(0, expected[0].to_owned()), (1, expected[1].to_owned())]
        );
    }
}
