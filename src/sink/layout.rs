//! Job and input to the columns of the results: those of the table and the input's, clashes refused.
//!
//! Invariant: no two result columns of a [`Layout`] have one name. Pure: no files, no values.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::ids::RowId;
use crate::input::{ColumnKind, InputColumn, InputIndex};
use crate::job::{CarriedColumns, nearest};

use super::SinkError;
use super::columns::{Column, Form, KEYS};

/// Which columns a line has, in the order in which they are written.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// Input columns, between [`KEYS`] and `results`.
    pub(super) carried: Vec<CarriedColumn>,
    /// Our own columns after them.
    pub(super) results: Vec<&'static Column>,
    /// A line a row with lists over the samples, instead of a line a sample.
    pub(super) nested: bool,
    /// Whether the prompts are written.
    pub(super) prompts: bool,
}

/// One input column as it is carried through.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct CarriedColumn {
    /// Name in the input.
    pub(super) source: String,
    /// Name in the results.
    pub(super) name: String,
    /// Type in the input.
    pub(super) kind: ColumnKind,
    /// First row whose value is a text and those before are not, or the other way round.
    pub(super) mixed_at: Option<RowId>,
}

impl Layout {
    /// Selects, renames and checks the columns of a job.
    pub(super) fn new(
        form: &Form<'_>,
        index: &InputIndex,
        id_column: Option<&str>,
    ) -> Result<Self, SinkError> {
        let output = &form.spec.output;
        let mut layout = Self {
            carried: Vec::new(),
            results: form.results(),
            nested: form.is_nested,
            prompts: output.prompt,
        };
        for name in selected(&output.columns, index)? {
            if Some(name) != id_column {
                layout.carried.push(carried(name, index, &output.rename)?);
            }
        }
        check_renames(&output.rename, &layout.carried, index, id_column)?;
        layout.check_names()?;
        Ok(layout)
    }

    /// Names of all columns.
    pub(super) fn names(&self) -> Vec<String> {
        let keys = KEYS.iter().map(|column| column.name);
        let carried = self.carried.iter().map(|column| column.name.as_str());
        let results = self.results.iter().map(|column| column.name);
        let names = keys.chain(carried).chain(results);
        names.map(str::to_owned).collect()
    }

    /// The columns whose names differ in case alone, in words.
    pub(super) fn case_note(&self) -> Option<String> {
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        let mut pairs = Vec::new();
        for name in self.names() {
            match seen.entry(name.to_lowercase()) {
                Entry::Vacant(entry) => {
                    entry.insert(name);
                }
                Entry::Occupied(first) => pairs.push(format!("`{}` and `{name}`", first.get())),
            }
        }
        (!pairs.is_empty()).then(|| {
            format!(
                "the result columns {} differ in case alone: DuckDB and Spark cannot tell them apart; `output.rename` gives a column another name",
                pairs.join(", ")
            )
        })
    }

    /// The columns that hold texts and values of other kinds, in words.
    pub(super) fn kinds_note(&self) -> Option<String> {
        let mixed = self.carried.iter().filter_map(|column| {
            let row = column.mixed_at?;
            Some(format!("`{}` (of another kind in row {row})", column.name))
        });
        let mixed: Vec<String> = mixed.collect();
        let (columns, hold) = match mixed.len() {
            0 => return None,
            1 => ("column", "holds"),
            _ => ("columns", "hold"),
        };
        Some(format!(
            "the {columns} {} {hold} texts beside other values: in Parquet every value is its JSON text, a text with its quotes; `output.format = \"jsonl\"` keeps the values as they are",
            mixed.join(", ")
        ))
    }

    fn check_names(&self) -> Result<(), SinkError> {
        let ours = KEYS.iter().chain(self.results.iter().copied());
        let ours: Vec<&Column> = ours.collect();
        let mut seen = BTreeMap::new();
        for column in &self.carried {
            if let Some(our) = ours.iter().find(|our| our.name == column.name) {
                return Err(SinkError::Clash {
                    column: column.name.clone(),
                    source_column: column.source.clone(),
                    key: our.key(),
                });
            }
            if let Some(first) = seen.insert(&column.name, &column.source) {
                return Err(SinkError::TwoOfOneName {
                    column: column.name.clone(),
                    first: first.clone(),
                    second: column.source.clone(),
                });
            }
        }
        Ok(())
    }
}

fn selected<'a>(
    columns: &'a CarriedColumns,
    index: &'a InputIndex,
) -> Result<Vec<&'a str>, SinkError> {
    match columns {
        CarriedColumns::All => Ok(index
            .columns
            .iter()
            .map(|column| column.name.as_str())
            // What an earlier job has made is no column of its rows.
            .filter(|name| !index.is_result(name))
            .collect()),
        CarriedColumns::None => Ok(Vec::new()),
        CarriedColumns::Names(names) => names
            .iter()
            .map(|name| column(name, index, "output.columns").map(|_| name.as_str()))
            .collect(),
    }
}

fn carried(
    name: &str,
    index: &InputIndex,
    rename: &[(String, String)],
) -> Result<CarriedColumn, SinkError> {
    let column = column(name, index, "output.columns")?;
    let renamed = rename.iter().find(|(from, _)| from == name);
    let renamed = renamed.map(|(_, to)| to.clone());
    let own = || {
        // Results of this job have such names too.
        let prefix = if index.is_result(name) { "source_" } else { "" };
        format!("{prefix}{name}")
    };
    Ok(CarriedColumn {
        source: name.to_owned(),
        name: renamed.unwrap_or_else(own),
        kind: column.kind.clone(),
        mixed_at: column.mixed_at,
    })
}

fn check_renames(
    rename: &[(String, String)],
    carried: &[CarriedColumn],
    index: &InputIndex,
    id_column: Option<&str>,
) -> Result<(), SinkError> {
    for (from, _) in rename {
        column(from, index, "output.rename")?;
        if Some(from.as_str()) == id_column {
            return Err(SinkError::IdRenamed {
                column: from.clone(),
            });
        }
        if !carried.iter().any(|column| column.source == *from) {
            return Err(SinkError::NotCarried {
                column: from.clone(),
            });
        }
    }
    Ok(())
}

fn column<'a>(
    name: &str,
    index: &'a InputIndex,
    key: &'static str,
) -> Result<&'a InputColumn, SinkError> {
    if let Some(column) = index.columns.iter().find(|column| column.name == name) {
        return Ok(column);
    }
    let known = || index.columns.iter().map(|column| column.name.as_str());
    Err(SinkError::UnknownColumn {
        key,
        column: name.to_owned(),
        nearest: nearest(name, known()).map(str::to_owned),
        known: known().map(str::to_owned).collect(),
    })
}
