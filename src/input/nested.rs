//! The name of a job's column to its value in a row: a column of that name, or a path into one.
//!
//! ```text
//! answers.0.answer
//! ^ column        a column whose own name holds the dots wins, the longest such name first
//!         ^ step  a number walks into a list, any step into an object
//! ```
//!
//! Both formats walk JSON text, so that equal rows give equal values.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use serde_json::value::RawValue;

use super::cell::{Cell, Record};
use super::fields::cell_of;
use super::types::InputIndex;
use crate::job::nearest;

/// Names that are gathered where a path leads nowhere.
const MOST_NAMES: usize = 50;

/// A column as the job names it.
#[derive(Clone, Debug)]
pub(super) struct Named {
    name: String,
    /// Bytes of `name` that are the column's own name; `None` until the columns of the input are known.
    column: Option<usize>,
}

impl Named {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            column: None,
        }
    }

    /// The name as the job has it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Decides which part of the name is the column's, for all rows alike; false where the input has none of
    /// them.
    pub(super) fn resolve(&mut self, index: &InputIndex) -> bool {
        let is_column = |name: &str| index.columns.iter().any(|column| column.name == name);
        self.column = splits(&self.name)
            .find(|(column, _)| is_column(column))
            .map(|(column, _)| column.len());
        self.column.is_some()
    }

    /// The column that the value is in.
    pub(super) fn column(&self) -> &str {
        &self.name[..self.column.unwrap_or(self.name.len())]
    }

    /// The path into the column, where the name is one.
    pub(super) fn path(&self) -> Option<&str> {
        self.name.get(self.column? + 1..)
    }

    /// The column and the path into it. Before the columns of the input are known, those of the row decide.
    fn split(&self, record: &dyn Record) -> (&str, Option<&str>) {
        match self.column {
            Some(end) => (&self.name[..end], self.name.get(end + 1..)),
            None => splits(&self.name)
                .find(|(column, _)| record.cell(column) != Cell::Absent)
                .unwrap_or((&self.name, None)),
        }
    }

    /// The value in a row.
    pub(super) fn cell<'r>(&self, record: &'r dyn Record) -> Cell<'r> {
        let (column, Some(path)) = self.split(record) else {
            return record.cell(self.column());
        };
        match record.raw(column) {
            Ok(None) => Cell::Absent,
            Ok(Some(value)) => {
                walk(value.get(), path).map_or(Cell::Absent, |found| owned(cell_of(found)))
            }
            Err(_) => Cell::Other("a value that cannot be read"),
        }
    }

    /// The value in a row as JSON; `None` where the row does not have it.
    pub(super) fn json(&self, record: &dyn Record) -> Result<Option<Value>, String> {
        let (column, Some(path)) = self.split(record) else {
            return record.json(self.column());
        };
        let Some(value) = record.raw(column)? else {
            return Ok(None);
        };
        let found = walk(value.get(), path).map(serde_json::from_str);
        found.transpose().map_err(|error| error.to_string())
    }
}

/// The ways to read a name as a column and a path into it, the longest column first.
fn splits(name: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let dots = name.rmatch_indices('.');
    let paths = dots.map(|(at, _)| (&name[..at], Some(&name[at + 1..])));
    std::iter::once((name, None)).chain(paths)
}

/// A cell that borrows from nothing.
fn owned(cell: Cell<'_>) -> Cell<'static> {
    match cell {
        Cell::Absent => Cell::Absent,
        Cell::Null => Cell::Null,
        Cell::Text(text) => Cell::Text(Cow::Owned(text.into_owned())),
        Cell::Number(number) => Cell::Number(Cow::Owned(number.into_owned())),
        Cell::Other(kind) => Cell::Other(match kind {
            "an object" => "an object",
            "an array" => "an array",
            "a boolean" => "a boolean",
            _ => "a value of another kind",
        }),
    }
}

/// The JSON text at a path below another one.
fn walk<'t>(text: &'t str, path: &str) -> Option<&'t str> {
    let mut steps = path.split('.');
    steps.try_fold(text, |text, step| match Inside::of(text) {
        Inside::Object(mut fields) => fields.remove(step),
        Inside::List(items) => items.get(list_index(step)?).copied(),
        Inside::Nothing => None,
    })
}

/// What a step may walk into.
enum Inside<'t> {
    Object(BTreeMap<String, &'t str>),
    List(Vec<&'t str>),
    Nothing,
}

impl<'t> Inside<'t> {
    fn of(text: &'t str) -> Self {
        match text.as_bytes().first() {
            Some(b'{') => serde_json::from_str::<BTreeMap<String, &'t RawValue>>(text).map_or(
                Self::Nothing,
                |fields| {
                    let fields = fields.into_iter();
                    Self::Object(fields.map(|(name, value)| (name, value.get())).collect())
                },
            ),
            Some(b'[') => serde_json::from_str::<Vec<&'t RawValue>>(text)
                .map_or(Self::Nothing, |items| {
                    Self::List(items.into_iter().map(RawValue::get).collect())
                }),
            _ => Self::Nothing,
        }
    }
}

/// The place in a list that a step names.
pub(super) fn list_index(step: &str) -> Option<usize> {
    let is_number = !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| step.parse().ok()).flatten()
}

/// A look for a path over all rows.
#[derive(Clone, Debug)]
pub(super) struct Search {
    pub(super) key: &'static str,
    pub(super) named: Named,
    pub(super) seen: Seen,
}

/// What the rows have shown of a path so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// A row has it.
    pub(super) is_found: bool,
    /// Whole paths that the rows have instead, as far as the step that they do not have.
    instead: BTreeSet<String>,
}

impl Seen {
    /// Looks into one row.
    pub(super) fn look(&mut self, named: &Named, record: &dyn Record) {
        if self.is_found {
            return;
        }
        let (column, path) = named.split(record);
        let Some(path) = path else {
            self.is_found = record.cell(column) != Cell::Absent;
            return;
        };
        let Ok(Some(value)) = record.raw(column) else {
            return;
        };
        let (mut text, mut walked) = (value.get(), column.to_owned());
        for step in path.split('.') {
            let next = match Inside::of(text) {
                Inside::Object(mut fields) => match fields.remove(step) {
                    Some(next) => next,
                    None => return self.note(&walked, fields.into_keys()),
                },
                Inside::List(items) => match list_index(step) {
                    Some(place) => match items.get(place) {
                        Some(next) => next,
                        None => return,
                    },
                    None => return self.note(&walked, ["0".to_owned()]),
                },
                Inside::Nothing => return,
            };
            text = next;
            walked = format!("{walked}.{step}");
        }
        self.is_found = true;
    }

    fn note(&mut self, walked: &str, names: impl IntoIterator<Item = String>) {
        for name in names {
            if self.instead.len() < MOST_NAMES {
                self.instead.insert(format!("{walked}.{name}"));
            }
        }
    }

    pub(super) fn merge(&mut self, later: Self) {
        self.is_found |= later.is_found;
        for name in later.instead {
            if self.instead.len() < MOST_NAMES {
                self.instead.insert(name);
            }
        }
    }

    /// What to write instead of a path that no row has.
    pub(super) fn cure(&self, name: &str) -> String {
        instead(name, &self.instead)
    }
}

/// What to write instead of a path: the nearest of those that there are, which end at the step that is missing.
pub(super) fn instead(name: &str, known: &BTreeSet<String>) -> String {
    let steps = |path: &str| path.split('.').count();
    let start = |count: usize| {
        let parts: Vec<&str> = name.split('.').take(count).collect();
        parts.join(".")
    };
    let near = known
        .iter()
        .find(|path| nearest(&start(steps(path)), [path.as_str()]).is_some());
    if let Some(near) = near {
        let rest = name.split('.').skip(steps(near));
        let whole: Vec<&str> = std::iter::once(near.as_str()).chain(rest).collect();
        return format!("did you mean `{}`?", whole.join("."));
    }
    let list: Vec<String> = known.iter().map(|path| format!("`{path}`")).collect();
    if list.is_empty() {
        return "a number walks into a list, a name into an object, as in `answers.0.answer`"
            .to_owned();
    }
    format!("the rows have {}", list.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::fields::Fields;
    use crate::job::Rules;

    fn cell(line: &str, name: &str) -> String {
        let fields = Fields::parse(line.as_bytes(), Rules::CURRENT).unwrap();
        match Named::new(name).cell(&fields) {
            Cell::Text(text) => format!("text {text}"),
            Cell::Number(number) => format!("number {number}"),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn dots_and_numbers_walk_into_objects_and_lists() {
        let line =
            r#"{"a": [{"b": "x", "0": 10000000000000000001}, null], "c": {"0": "y"}, "t": "z"}"#;
        for (name, found) in [
            ("a.0.b", "text x"),
            ("a.0.0", "number 10000000000000000001"),
            ("a.1", "Null"),
            ("a.1.b", "Absent"),
            ("a.2", "Absent"),
            ("a.+0", "Absent"),
            ("a.", "Absent"),
            ("a.b", "Absent"),
            ("c.0", "text y"),
            ("t.0", "Absent"),
            ("a.0", "Other(\"an object\")"),
        ] {
            assert_eq!(cell(line, name), found, "{name}");
        }
    }

    #[test]
    fn a_column_whose_own_name_holds_the_dots_wins() {
        let line = r#"{"a.b": {"c": "long"}, "a": {"b": {"c": "short"}, "d": "e"}, "a.d": "own"}"#;
        assert_eq!(cell(line, "a.b.c"), "text long");
        assert_eq!(cell(line, "a.d"), "text own");
    }

    #[test]
    fn what_stands_instead_is_named() {
        let known = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let answers = known(&["answers.0.answer", "answers.0.score"]);
        assert_eq!(
            instead("answers.0.anwser", &answers),
            "did you mean `answers.0.answer`?"
        );
        assert_eq!(
            instead("question", &answers),
            "the rows have `answers.0.answer`, `answers.0.score`"
        );
    }
}
