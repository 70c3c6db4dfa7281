//! Statistics of footers to integers that float64 does not hold, before any row is read.

use std::path::{Path, PathBuf};

use arrow_schema::DataType;
use parquet::file::statistics::Statistics;

use super::footer::Footer;
use super::schema::Shared;
use crate::input::error::InputError;

/// An integer that a file has and float64 does not hold.
struct Integer {
    column: String,
    value: i128,
    file: PathBuf,
    row_group: usize,
}

/// Integers that float64 does not hold, as far as footers tell: one for each column of a file.
#[derive(Default)]
pub(super) struct OddIntegers(Vec<Integer>);

impl OddIntegers {
    /// Looks at the smallest and the largest value of each row group.
    pub(super) fn add(&mut self, path: &Path, footer: &Footer) {
        let leaves = footer.metadata().file_metadata().schema_descr();
        for (leaf, descriptor) in leaves.columns().iter().enumerate() {
            let [name] = descriptor.path().parts() else {
                continue;
            };
            let Ok(field) = footer.schema.field_with_name(name) else {
                continue;
            };
            let kind = field.data_type();
            if !matches!(kind, DataType::Int64 | DataType::UInt64) {
                continue;
            }
            let groups = footer.metadata().row_groups().iter().enumerate();
            let odd = groups.filter_map(|(group, found)| {
                let value = odd_bound(found.column(leaf).statistics()?, kind)?;
                Some((group, value))
            });
            self.0.extend(odd.take(1).map(|(row_group, value)| Integer {
                column: name.clone(),
                value,
                file: path.to_owned(),
                row_group,
            }));
        }
    }

    /// Refuses the first one whose column is carried as float64.
    pub(super) fn check(
        self,
        shared: &Shared,
        is_carried: impl Fn(&str) -> bool,
    ) -> Result<(), InputError> {
        let is_float = |name: &str| {
            let field = shared.schema.field_with_name(name);
            field.is_ok_and(|field| *field.data_type() == DataType::Float64)
        };
        let mut found = self.0.into_iter();
        let refused = found.find(|odd| is_float(&odd.column) && is_carried(&odd.column));
        match refused {
            None => Ok(()),
            Some(odd) => Err(InputError::OddInteger {
                column: odd.column,
                value: odd.value.to_string(),
                path: odd.file,
                row_group: odd.row_group,
            }),
        }
    }
}

fn odd_bound(statistics: &Statistics, kind: &DataType) -> Option<i128> {
    let Statistics::Int64(bounds) = statistics else {
        return None;
    };
    let number = |&bits: &i64| match kind {
        DataType::UInt64 => i128::from(bits as u64),
        _ => i128::from(bits),
    };
    let bounds = [bounds.min_opt(), bounds.max_opt()];
    let mut numbers = bounds.into_iter().flatten().map(number);
    numbers.find(|&number| (number as f64) as i128 != number)
}
