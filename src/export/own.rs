//! Which columns of a line the job has made. A column of the input may have the name of a result that this job lacks,
//! such as `score`, and is never taken for it.

use std::collections::BTreeSet;

use serde_json::{Number, Value};

use crate::sink::{Form, ResultRow};

/// The columns that a job has made.
pub(super) struct OwnColumns {
    names: BTreeSet<&'static str>,
    /// Those with an entry for each sample, where results are nested.
    of_samples: BTreeSet<&'static str>,
    is_nested: bool,
}

impl OwnColumns {
    pub(super) fn new(form: &Form<'_>) -> Self {
        Self {
            names: form.names().collect(),
            of_samples: form.sample_names().collect(),
            is_nested: form.is_nested,
        }
    }

    /// Columns of these names, in flat results.
    #[cfg(test)]
    pub(super) fn flat_of(names: impl IntoIterator<Item = &'static str>) -> Self {
        Self {
            names: names.into_iter().collect(),
            of_samples: BTreeSet::new(),
            is_nested: false,
        }
    }

    /// Whether the job has made a column.
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Whether a line of the results holds lists over the answers of its row.
    pub(super) fn is_nested(&self) -> bool {
        self.is_nested
    }

    /// A line as the job has made it; `at` is its place among those of its row, once they are flat.
    pub(super) fn of<'a>(&'a self, row: &'a ResultRow, at: u64) -> Line<'a> {
        Line { own: self, row, at }
    }

    /// The lines of a row in flat form: a nested one becomes one for each of its samples.
    pub(super) fn flat(&self, line: ResultRow) -> Vec<ResultRow> {
        let entries = |name: &&str| Some(line.get(*name)?.as_array()?.len());
        let Some(entries) = self.of_samples.iter().find_map(entries) else {
            return vec![line];
        };
        if !self.is_nested {
            return vec![line];
        }
        let of_sample = |at: usize| {
            let mut row = ResultRow::new();
            for (name, value) in &line {
                let entry = match value {
                    Value::Array(all) if self.of_samples.contains(name.as_str()) => {
                        all.get(at).cloned().unwrap_or_default()
                    }
                    value => value.clone(),
                };
                row.insert(name.clone(), entry);
            }
            // Expressions may ask for it; a column of the input of that name stays what it is.
            row.entry("sample").or_insert_with(|| at.into());
            row
        };
        (0..entries).map(of_sample).collect()
    }
}

/// A line of the results, of which only the columns that the job has made are seen.
pub(super) struct Line<'a> {
    own: &'a OwnColumns,
    pub(super) row: &'a ResultRow,
    at: u64,
}

impl Line<'_> {
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.row.get(name).filter(|_| self.own.has(name))
    }

    /// Its number among the samples of its row.
    pub(super) fn sample(&self) -> u64 {
        if self.own.is_nested {
            return self.at;
        }
        self.whole("sample").unwrap_or_default()
    }

    pub(super) fn text(&self, name: &str) -> String {
        let text = self.get(name).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    }

    pub(super) fn whole(&self, name: &str) -> Option<u64> {
        self.get(name)?.as_u64()
    }

    pub(super) fn number(&self, name: &str) -> Option<Number> {
        match self.get(name)? {
            Value::Number(number) => Some(number.clone()),
            _ => None,
        }
    }
}
