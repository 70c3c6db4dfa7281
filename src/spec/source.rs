//! Job text, `--set` arguments and the environment to one tree of values.
//!
//! Each node knows its line or its `--set` argument, so that later steps can say where a value
//! stands. Tables keep the order of the text, so that the first error is the topmost one. [`super::de`]
//! reads the tree into structs; [`super::check`] asks it for places.

use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::de::shown;
use super::error::{Hint, Place, SpecError};
use super::suggest::join;

/// Deepest table or list; a job needs four levels.
const MAX_DEPTH: usize = 16;

/// A value and where it stands; rows have no place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) place: Option<Place>,
    pub(super) value: Value,
    /// The text of a `--set` value that also reads as a number, a list, ...: a key that takes a
    /// string takes this, as in `--set name=2024` or `--set prompt.mask=[gMASK]`.
    pub(super) raw: Option<String>,
}

/// A TOML or JSON value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Boolean(bool),
    Integer(i128),
    Float(f64),
    String(String),
    Datetime(String),
    Array(Vec<Node>),
    Table(Vec<Entry>),
}

/// A key of a table and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Option<Place>,
    pub(super) node: Node,
}

impl Node {
    fn new(place: Option<Place>, value: Value) -> Self {
        Self {
            place,
            value,
            raw: None,
        }
    }

    /// The node under a dotted key, with the place of the key itself.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
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
    pub(super) fn find(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// Where a dotted key stands; where it does not, its section; else the file.
    pub(super) fn place_of(&self, key: &str) -> Option<Place> {
        match (self.entry(key), key.rsplit_once('.')) {
            (Some(entry), _) => entry.place.clone(),
            (None, Some((section, _))) => self.place_of(section),
            (None, None) => self.place.clone(),
        }
    }

    /// The string that stands here, if it is one.
    pub(super) fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// A value of a row: whole numbers written as floats (`50.0`, as a column with nulls gives
    /// them) count as whole.
    pub(super) fn from_json(value: &Json) -> Self {
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
pub(super) fn line_at(text: &[u8], byte: usize) -> usize {
    let before = &text[..byte.min(text.len())];
    before.split(|byte| *byte == b'\n').count()
}

/// Reads TOML into a tree.
pub(super) fn parse(text: &str, source: &str) -> Result<Node, SpecError> {
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

type Lines<'a> = &'a dyn Fn(usize) -> Place;

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

fn node(value: Spanned<DeValue<'_>>, line: Lines<'_>, depth: usize) -> Result<Node, SpecError> {
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

/// Puts `key=value` of `--set` into the tree, over what stands there.
pub(super) fn apply_override(root: &mut Node, argument: &str) -> Result<(), SpecError> {
    let place = Place::Set {
        argument: argument.into(),
    };
    let wrong = |message: &str, hint: &str| SpecError::Syntax {
        place: place.clone(),
        message: message.into(),
        hint: Hint::some(hint),
    };
    let (key, text) = split_override(argument).ok_or_else(|| {
        wrong(
            "not `key=value`",
            "for example `--set generation.top_p=0.9`",
        )
    })?;
    let path = key_path(key).ok_or_else(|| {
        wrong(
            "the key is not a dotted key",
            "for example `generation.top_p`",
        )
    })?;
    let node = set_value(text.trim(), &place)?;
    insert(root, &path, node, &place)
}

/// Splits at the first `=` outside quotes: a quoted part of a key may hold one.
fn split_override(argument: &str) -> Option<(&str, &str)> {
    let mut quote = None;
    for (at, char) in argument.char_indices() {
        match (quote, char) {
            (None, '=') => return Some((&argument[..at], &argument[at + 1..])),
            (None, '"' | '\'') => quote = Some(char),
            (Some(open), _) if open == char => quote = None,
            _ => {}
        }
    }
    None
}

/// The parts of a dotted key, read by the TOML parser, so that quoted parts work.
fn key_path(key: &str) -> Option<Vec<String>> {
    let key = key.trim();
    if key.starts_with('[') || key.contains(['\n', '\r']) {
        return None;
    }
    let text = format!("{key} = 0");
    let mut table = DeTable::parse(&text).ok()?.into_inner();
    let mut path = Vec::new();
    loop {
        if table.len() != 1 {
            return None;
        }
        let (key, value) = table.into_iter().next()?;
        path.push(key.into_inner().into_owned());
        match value.into_inner() {
            DeValue::Table(inner) => table = inner,
            DeValue::Integer(_) => return Some(path),
            _ => return None,
        }
    }
}

/// A `--set` value: TOML where it is, else a bare word; in a list bare words too.
fn set_value(text: &str, place: &Place) -> Result<Node, SpecError> {
    let here = |_| place.clone();
    let mut read = if let Ok(value) = DeValue::parse(text) {
        node(value, &here, 0)?
    } else if let Some(items) = bare_list(text) {
        let items = items.map(|item| set_value(item, place));
        Node::new(
            Some(place.clone()),
            Value::Array(items.collect::<Result<_, _>>()?),
        )
    } else if text.starts_with(['"', '\'']) {
        let shell = "put the whole argument in single quotes, so that the shell keeps it";
        return Err(SpecError::Syntax {
            place: place.clone(),
            message: format!("the text `{}` is not closed", shown(text)),
            hint: Hint::some(shell),
        });
    } else {
        Node::new(Some(place.clone()), Value::String(text.to_string()))
    };
    let string = matches!(read.value, Value::String(_));
    read.raw = (!string).then(|| text.to_string());
    Ok(read)
}

/// The items of `[a, b]` without quotes.
fn bare_list(text: &str) -> Option<impl Iterator<Item = &str>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let bare = !inner.contains(['[', ']', '{', '}', '"', '\'']);
    let items = inner
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty());
    bare.then_some(items)
}

fn insert(root: &mut Node, path: &[String], node: Node, place: &Place) -> Result<(), SpecError> {
    let Some((last, sections)) = path.split_last() else {
        return Ok(());
    };
    let mut here = root;
    let mut name = String::new();
    for section in sections {
        let entry = slot(here, section, place).ok_or_else(|| no_table(&name, place))?;
        here = &mut entry.node;
        name = join(&name, section);
    }
    let entry = slot(here, last, place).ok_or_else(|| no_table(&name, place))?;
    entry.place = Some(place.clone());
    entry.node = node;
    Ok(())
}

/// The entry of `key` in a table, made as an empty table where there is none; `None`: no table.
fn slot<'a>(table: &'a mut Node, key: &str, place: &Place) -> Option<&'a mut Entry> {
    let Value::Table(entries) = &mut table.value else {
        return None;
    };
    let at = entries
        .iter()
        .position(|entry| entry.key == key)
        .unwrap_or(entries.len());
    if at == entries.len() {
        let node = Node::new(Some(place.clone()), Value::Table(Vec::new()));
        entries.push(Entry {
            key: key.into(),
            place: Some(place.clone()),
            node,
        });
    }
    Some(&mut entries[at])
}

fn no_table(key: &str, place: &Place) -> SpecError {
    SpecError::Invalid {
        place: place.clone(),
        key: key.into(),
        reason: "has no keys of its own".into(),
        hint: Hint(None),
    }
}

/// Puts environment variables in for `${NAME}` in every string; `$${` stands for `${`.
pub(super) fn expand_environment(
    node: &mut Node,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<(), SpecError> {
    expand_below(node, "", environment)
}

fn expand_below(
    node: &mut Node,
    key: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<(), SpecError> {
    match &mut node.value {
        Value::String(text) if text.contains("${") => {
            *text = expand(text, environment).map_err(|(reason, hint)| SpecError::Invalid {
                place: node.place.clone().unwrap_or_else(Place::unknown),
                key: key.into(),
                reason,
                hint: Hint::some(hint),
            })?;
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                expand_below(item, &format!("{key}[{index}]"), environment)?;
            }
        }
        Value::Table(entries) => {
            for entry in entries {
                expand_below(&mut entry.node, &join(key, &entry.key), environment)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Why a string cannot be expanded, and the cure.
type Flaw = (String, String);

fn expand(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<String, Flaw> {
    let literal = "write `$${` where the text itself holds `${`";
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if let Some(before) = rest[..at].strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let after = &rest[at + 2..];
        let name = after
            .split_once('}')
            .map(|(name, _)| name)
            .filter(|name| is_name(name));
        let Some(name) = name else {
            return Err((
                "holds a `${` without a variable name and `}`".into(),
                literal.into(),
            ));
        };
        let value = environment(name).ok_or_else(|| {
            let reason = format!("needs the environment variable `{name}`, which is not set");
            (reason, format!("set it: `export {name}=...`, or {literal}"))
        })?;
        out.push_str(&value);
        rest = &after[name.len() + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

fn is_name(name: &str) -> bool {
    let first = name.chars().next();
    first.is_some_and(|char| char.is_ascii_alphabetic() || char == '_')
        && name
            .chars()
            .all(|char| char.is_ascii_alphanumeric() || char == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        (name == "DATA").then(|| "/data".to_string())
    }

    #[test]
    fn variables_are_expanded_and_escaped() {
        for (text, expected) in [
            ("${DATA}/x", "/data/x"),
            ("a${DATA}b${DATA}", "a/datab/data"),
            ("$${DATA}", "${DATA}"),
            ("$5 and $DATA", "$5 and $DATA"),
            ("$$${DATA}", "$${DATA}"),
        ] {
            assert_eq!(expand(text, &environment).unwrap(), expected, "{text}");
        }
        for text in ["${", "${}", "${1A}", "${NONE}", "${DATA", "${ DATA }"] {
            assert!(expand(text, &environment).is_err(), "{text}");
        }
    }

    #[test]
    fn set_values_are_toml_or_bare_words() {
        let place = Place::Set {
            argument: "".into(),
        };
        let read = |text: &str| set_value(text, &place).unwrap();
        assert_eq!(read("0.9").value, Value::Float(0.9));
        assert_eq!(read("0x10").value, Value::Integer(16));
        assert_eq!(read("true").value, Value::Boolean(true));
        assert_eq!(read("out/run 1").value, Value::String("out/run 1".into()));
        assert_eq!(read("\"1\"").value, Value::String("1".into()));
        assert_eq!(read("").value, Value::String(String::new()));
        assert_eq!(read("2024").raw.as_deref(), Some("2024"));
        let Value::Array(items) = read("[a.jsonl, b.jsonl]").value else {
            panic!("no list")
        };
        assert_eq!(items[1].value, Value::String("b.jsonl".into()));
        let Value::Array(items) = read("[\"a, b\"]").value else {
            panic!("no list")
        };
        assert_eq!(items[0].value, Value::String("a, b".into()));
        assert_eq!(read("{{ q }}").value, Value::String("{{ q }}".into()));
        assert!(set_value("\"a", &place).is_err());
        assert!(set_value("\"a\"\nb = 1", &place).is_err());
    }

    #[test]
    fn set_keys_may_hold_quoted_parts() {
        let path = key_path("output.rename.\"a.b\"").unwrap();
        assert_eq!(path, ["output", "rename", "a.b"]);
        assert_eq!(split_override("a.\"b=c\"=d"), Some(("a.\"b=c\"", "d")));
        assert_eq!(key_path("a\nb"), None);
        assert_eq!(key_path("a = 1\nb"), None);
        assert_eq!(key_path("[a]\nb"), None);
        assert_eq!(key_path(""), None);
    }

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
