//! Job text to a tree of values that know where they come from.
//!
//! Each node knows its line or its `--set` argument, so that later steps can say where a value
//! comes from. Tables keep the order of the text, so that the first error is the topmost one. `set` puts the
//! arguments of `--set` in, `environment` the variables, and `reader` reads the tree into structs.

pub(super) mod environment;
pub(super) mod reader;
pub(super) mod set;

use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::job::error::{Hint, Place, SpecError};

/// Deepest table or list; a job needs four levels.
const MAX_DEPTH: usize = 16;

/// A value and where it comes from; rows have no place.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::job) struct Node {
    pub(in crate::job) place: Option<Place>,
    pub(in crate::job) value: Value,
    /// The text of a `--set` value that also reads as a number, a list, ...: a key that takes a
    /// string takes this, as in `--set name=2024` or `--set prompt.mask=[gMASK]`.
    pub(in crate::job) raw: Option<String>,
}

/// A TOML or JSON value.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::job) enum Value {
    Null,
    Boolean(bool),
    Integer(i128),
    Float(f64),
    String(String),
    Datetime(String),
    Array(Vec<Node>),
    Table(Vec<Entry>),
}

/// A key of a table and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::job) struct Entry {
    pub(in crate::job) key: String,
    pub(in crate::job) place: Option<Place>,
    pub(in crate::job) node: Node,
}

impl Node {
    pub(in crate::job) fn new(place: Option<Place>, value: Value) -> Self {
        Self {
            place,
            value,
            raw: None,
        }
    }

    /// The node under a dotted key, with the place of the key itself.
    pub(in crate::job) fn entry(&self, key: &str) -> Option<&Entry> {
        let (first, rest) = match key.split_once('.') {
            Some((first, rest)) => (first, Some(rest)),
            None => (key, None),
        };
        let Value::Table(entries) = &self.value else {
            return None;
        };
        let entry = entries.iter().find(|entry| entry.key == first)?;
        rest.map_or(Some(entry), |rest| entry.node.entry(rest))
    }

    /// The value under a dotted key.
    pub(in crate::job) fn find(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// The place of a dotted key; where it is absent, that of its section, or else the file.
    pub(in crate::job) fn place_of(&self, key: &str) -> Option<Place> {
        match (self.entry(key), key.rsplit_once('.')) {
            (Some(entry), _) => entry.place.clone(),
            (None, Some((section, _))) => self.place_of(section),
            (None, None) => self.place.clone(),
        }
    }

    /// The value, if it is a string.
    pub(in crate::job) fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// A value of a row: whole numbers written as floats (`50.0`, as a column with nulls gives
    /// them) count as whole.
    pub(in crate::job) fn from_json(value: &Json) -> Self {
        let value = match value {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Boolean(*value),
            Json::Number(number) => number_from_json(number),
            Json::String(text) => Value::String(text.clone()),
            Json::Array(items) => Value::Array(items.iter().map(Self::from_json).collect()),
            Json::Object(map) => Value::Table(
                map.iter()
                    .map(|(key, value)| Entry {
                        key: key.clone(),
                        place: None,
                        node: Self::from_json(value),
                    })
                    .collect(),
            ),
        };
        Self::new(None, value)
    }
}

fn number_from_json(number: &serde_json::Number) -> Value {
    // Above 2^53 a float no longer says which whole number was meant.
    const WHOLE: f64 = 9_007_199_254_740_992.0;
    if let Some(whole) = number.as_i128() {
        return Value::Integer(whole);
    }
    let float = number.as_f64().unwrap_or(f64::NAN);
    if float.fract() == 0.0 && float.abs() <= WHOLE {
        return Value::Integer(float as i128);
    }
    Value::Float(float)
}

/// The line of a byte, from 1.
pub(in crate::job) fn line_at(text: &[u8], byte: usize) -> usize {
    let before = &text[..byte.min(text.len())];
    before.split(|byte| *byte == b'\n').count()
}

/// Reads TOML into a tree.
pub(in crate::job) fn parse(text: &str, source: &str) -> Result<Node, SpecError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let line = |byte| Place::Line {
        source: source.into(),
        line: line_at(text.as_bytes(), byte),
    };
    let table = DeTable::parse(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let here = line_at(text.as_bytes(), start);
        let words = text.lines().nth(here - 1).unwrap_or_default();
        syntax_error(error.message(), line(start), words)
    })?;
    let entries = entries(table.into_inner(), &line, 0)?;
    Ok(Node::new(
        Some(Place::File {
            source: source.into(),
        }),
        Value::Table(entries),
    ))
}

/// The parser's message in our form, with a cure for the common ones.
fn syntax_error(message: &str, place: Place, line: &str) -> SpecError {
    let unquoted = message.starts_with("string values must be quoted");
    let (what, hint) = if unquoted && line.trim_end().ends_with('=') {
        ("key without a value".into(), None)
    } else if unquoted {
        let hint = "texts stand in quotes: `name = \"text\"`";
        ("texts must be quoted".into(), Some(hint))
    } else {
        (message.trim().replace('\n', ", "), syntax_hint(message))
    };
    SpecError::Syntax {
        place,
        message: format!("not valid TOML: {what}"),
        hint: Hint(hint.map(Into::into)),
    }
}

fn syntax_hint(message: &str) -> Option<&'static str> {
    [
        (
            "duplicate key",
            "a key or section may stand only once; put all keys of a section under one header",
        ),
        (
            "invalid boolean",
            "write `true` or `false`, in small letters",
        ),
        (
            "invalid basic string",
            "a text begins and ends with `\"` in one line",
        ),
        (
            "between array elements",
            "a list ends with `]`, and commas stand between its items",
        ),
        (
            "key with no value",
            "a key and its value: `name = \"text\"`",
        ),
        (
            "invalid key-value pair",
            "a job file holds lines such as `version = 1` and `[model]`",
        ),
    ]
    .iter()
    .find(|(part, _)| message.contains(part))
    .map(|(_, hint)| *hint)
}

/// Gives the place of a byte of the text.
pub(in crate::job) type Lines<'a> = &'a dyn Fn(usize) -> Place;

fn entries(table: DeTable<'_>, line: Lines<'_>, depth: usize) -> Result<Vec<Entry>, SpecError> {
    let mut read = Vec::with_capacity(table.len());
    for (key, value) in table {
        let start = key.span().start;
        let key = key.into_inner().into_owned();
        read.push((
            start,
            Entry {
                key,
                place: Some(line(start)),
                node: node(value, line, depth)?,
            },
        ));
    }
    read.sort_by_key(|(start, _)| *start);
    Ok(read.into_iter().map(|(_, entry)| entry).collect())
}

/// A value of the TOML parser, with its place.
pub(in crate::job) fn node(
    value: Spanned<DeValue<'_>>,
    line: Lines<'_>,
    depth: usize,
) -> Result<Node, SpecError> {
    let place = line(value.span().start);
    if depth > MAX_DEPTH {
        let message = format!("nested more than {MAX_DEPTH} levels deep");
        return Err(SpecError::Syntax {
            place,
            message,
            hint: Hint(None),
        });
    }
    let invalid = |place: &Place, what: &str, text: &str| SpecError::Syntax {
        place: place.clone(),
        message: format!("{what} `{text}` is too large"),
        hint: Hint(None),
    };
    let value = match value.into_inner() {
        DeValue::String(text) => Value::String(text.into_owned()),
        DeValue::Boolean(value) => Value::Boolean(value),
        DeValue::Datetime(value) => Value::Datetime(value.to_string()),
        DeValue::Integer(value) => i128::from_str_radix(value.as_str(), value.radix())
            .map(Value::Integer)
            .map_err(|_| invalid(&place, "number", value.as_str()))?,
        DeValue::Float(value) => value
            .as_str()
            .parse()
            .map(Value::Float)
            .map_err(|_| invalid(&place, "number", value.as_str()))?,
        DeValue::Array(items) => {
            let items = items.into_iter().map(|item| node(item, line, depth + 1));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => Value::Table(entries(table, line, depth + 1)?),
    };
    Ok(Node::new(Some(place), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_from_one() {
        let root = parse(
            "\u{feff}a = 1\r\n\r\n[b]\r\nc = [\r\n 1,\r\n 2]\r\n",
            "job.toml",
        )
        .unwrap();
        let line = |key: &str| root.place_of(key).map(|place| place.to_string());
        assert_eq!(line("a").as_deref(), Some("job.toml:1"));
        assert_eq!(line("b.c").as_deref(), Some("job.toml:4"));
        assert_eq!(line("b.missing").as_deref(), Some("job.toml:3"));
        assert_eq!(line("missing").as_deref(), Some("job.toml"));
    }
}
