//! The texts that a task reads behind the prompt: those of one column, which may hold lists, or of several columns.

use serde_json::Value;

use super::cell::{Cell, Record};
use super::error::InputError;
use super::nested::Named;
use super::types::{ColumnKind, InputIndex};
use crate::job::ColumnNames;

/// The columns that hold such texts.
pub(super) struct Following {
    /// What a text is called in messages.
    role: &'static str,
    key: &'static str,
    columns: Columns,
    /// Whether one column must hold lists: one text is not enough.
    are_lists: bool,
}

enum Columns {
    /// One, of texts or of lists of them.
    One(Named),
    /// Several, each of texts.
    Several(Vec<Named>),
}

impl Columns {
    fn of(names: &ColumnNames) -> Self {
        match names {
            ColumnNames::One(name) => Self::One(Named::new(name)),
            ColumnNames::Several(names) => {
                Self::Several(names.iter().map(|name| Named::new(name)).collect())
            }
        }
    }
}

impl Following {
    /// The targets of the task `score`.
    pub(super) fn targets(names: &ColumnNames) -> Self {
        Self {
            role: "target",
            key: "input.columns.target",
            columns: Columns::of(names),
            are_lists: false,
        }
    }

    /// The choices of the task `choose`.
    pub(super) fn choices(names: &ColumnNames) -> Self {
        Self {
            role: "choice",
            key: "input.columns.choices",
            columns: Columns::of(names),
            are_lists: true,
        }
    }

    /// The answers of the task `reward`.
    pub(super) fn answers(name: &str) -> Self {
        Self {
            role: "answer",
            key: "input.columns.answer",
            columns: Columns::One(Named::new(name)),
            are_lists: false,
        }
    }

    /// The columns, each with its key.
    pub(super) fn named(&self) -> impl Iterator<Item = (&'static str, &Named)> {
        let columns = match &self.columns {
            Columns::One(named) => std::slice::from_ref(named),
            Columns::Several(columns) => columns,
        };
        columns.iter().map(|named| (self.key, named))
    }

    pub(super) fn columns_mut(&mut self) -> &mut [Named] {
        match &mut self.columns {
            Columns::One(named) => std::slice::from_mut(named),
            Columns::Several(columns) => columns,
        }
    }

    /// Refuses columns whose type no text can have; what a path leads to has no type that is known before.
    pub(super) fn check(&self, index: &InputIndex) -> Result<(), InputError> {
        for (key, named) in self.named().filter(|(_, named)| named.path().is_none()) {
            let mut columns = index.columns.iter();
            let Some(column) = columns.find(|column| column.name == named.column()) else {
                continue;
            };
            if let Some(kind) = other_kind(&column.kind) {
                return Err(InputError::NeitherTextNorList {
                    key,
                    column: column.name.clone(),
                    kind,
                });
            }
            let is_one = matches!(&self.columns, Columns::One(_));
            if is_one && self.are_lists && holds_texts(&column.kind) {
                return Err(InputError::NoLists {
                    key,
                    column: column.name.clone(),
                });
            }
        }
        Ok(())
    }

    /// The texts of a row, none of them empty.
    ///
    /// # Errors
    ///
    /// The reason of a bad row.
    pub(super) fn texts(&self, record: &dyn Record) -> Result<Vec<String>, String> {
        match &self.columns {
            Columns::Several(columns) => columns
                .iter()
                .map(|named| self.text(named, record))
                .collect(),
            Columns::One(named) => match named.cell(record) {
                Cell::Other(_) => match named.json(record) {
                    Ok(Some(Value::Array(items))) => self.items(named, items),
                    _ => self.text(named, record).map(|text| vec![text]),
                },
                Cell::Text(_) if self.are_lists => Err(format!(
                    "{} column `{}` holds a text, not a list of them",
                    self.role,
                    named.name()
                )),
                _ => self.text(named, record).map(|text| vec![text]),
            },
        }
    }

    fn text(&self, named: &Named, record: &dyn Record) -> Result<String, String> {
        let (role, name) = (self.role, named.name());
        Err(match named.cell(record) {
            Cell::Text(text) if !text.is_empty() => return Ok(text.into_owned()),
            Cell::Text(_) => format!("{role} column `{name}` is empty"),
            Cell::Absent => format!("the row has no {role} column `{name}`"),
            Cell::Null => format!("{role} column `{name}` is null"),
            Cell::Number(number) => {
                format!("{role} column `{name}` holds the number {number}, not a text")
            }
            Cell::Other(kind) => format!("{role} column `{name}` holds {kind}, not a text"),
        })
    }

    /// The texts of a list; lists of answers with their scores are data sets' own form.
    fn items(&self, named: &Named, items: Vec<Value>) -> Result<Vec<String>, String> {
        let (role, name) = (self.role, named.name());
        if items.is_empty() {
            return Err(format!("{role} column `{name}` holds an empty list"));
        }
        let text = |(at, item): (usize, Value)| {
            let what = match item {
                Value::Object(mut fields) => match fields.remove("answer") {
                    Some(answer) => what_of(answer),
                    None => Err("an object without `answer`"),
                },
                item => what_of(item),
            };
            what.map_err(|what| {
                format!("{role} column `{name}` holds {what} as item {at} of its list, not a text")
            })
        };
        items.into_iter().enumerate().map(text).collect()
    }
}

/// What a column holds where that is neither text nor something that may be a list.
fn other_kind(kind: &ColumnKind) -> Option<String> {
    const NUMBERS_AND_TIMES: [&str; 9] = [
        "Bool", "Int", "UInt", "Float", "Decimal", "Date", "Time", "Duration", "Interval",
    ];
    match kind {
        ColumnKind::Bool => Some("true and false".to_owned()),
        ColumnKind::Int64 | ColumnKind::Float64 => Some("numbers".to_owned()),
        ColumnKind::String | ColumnKind::Json => None,
        ColumnKind::Arrow(kind) => {
            let is_other = NUMBERS_AND_TIMES.iter().any(|name| kind.starts_with(name));
            is_other.then(|| kind.clone())
        }
    }
}

/// Whether no value of a column is a list: all are texts or null.
fn holds_texts(kind: &ColumnKind) -> bool {
    match kind {
        ColumnKind::String => true,
        ColumnKind::Arrow(kind) => ["Utf8", "LargeUtf8", "Utf8View"].contains(&kind.as_str()),
        ColumnKind::Bool | ColumnKind::Int64 | ColumnKind::Float64 | ColumnKind::Json => false,
    }
}

/// A text that is not empty, else what it is instead.
fn what_of(value: Value) -> Result<String, &'static str> {
    match value {
        Value::String(text) if !text.is_empty() => Ok(text),
        Value::String(_) => Err("an empty text"),
        Value::Null => Err("null"),
        Value::Number(_) => Err("a number"),
        Value::Bool(_) => Err("a boolean"),
        Value::Array(_) => Err("a list"),
        Value::Object(_) => Err("an object"),
    }
}
