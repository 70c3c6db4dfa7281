//! Reads a tree into serde structs and says where it failed.
//!
//! The derived code reports what it expected; the innermost node that fails adds its place, its
//! dotted key and what was found. The errors of `deny_unknown_fields` and of unknown enum words
//! carry the known words, from which the hint is made. Reads [`super::source::Node`]; used for
//! the whole file and for one setting of a row.

use std::fmt;

use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Expected, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::error::{Hint, Place, SpecError};
use super::schema::job_keys;
use super::source::{Entry, Node, Value};
use super::suggest::{any_of, join, key_hint, nearest_word};

/// Longest text that a message repeats, in characters.
const MAX_SHOWN: usize = 60;

/// Why a tree does not fit, with the place once it is known.
#[derive(Debug)]
pub(super) struct Problem {
    kind: Kind,
    key: Option<String>,
    place: Option<Place>,
    found: Option<String>,
}

#[derive(Debug)]
enum Kind {
    UnknownKey {
        field: String,
        known: &'static [&'static str],
    },
    WrongType {
        expected: String,
    },
    Missing {
        field: &'static str,
    },
    Other(String),
}

impl Problem {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            key: None,
            place: None,
            found: None,
        }
    }

    /// Adds the place and the key, unless an inner node has done so.
    fn locate(mut self, node: &Node, key: &str) -> Self {
        if self.key.is_none() {
            self.key = Some(key.into());
            self.place.clone_from(&node.place);
            self.found = Some(describe(node));
        }
        self
    }

    /// The error of a job file.
    pub(super) fn into_error(self) -> SpecError {
        let place = self.place.unwrap_or_else(Place::unknown);
        let here = self.key.unwrap_or_default();
        let found = self.found.unwrap_or_default();
        match self.kind {
            Kind::UnknownKey { field, known } => SpecError::UnknownKey {
                place,
                hint: Hint::some(key_hint(&here, &field, known, job_keys())),
                key: join(&here, &shown(&field)),
            },
            Kind::WrongType { expected } => {
                let hint = value_hint(&expected, &found);
                SpecError::WrongType {
                    place,
                    key: here,
                    expected,
                    found,
                    hint,
                }
            }
            Kind::Missing { field } => {
                let key = join(&here, field);
                SpecError::Missing {
                    place,
                    hint: missing_hint(&key),
                    key,
                }
            }
            Kind::Other(reason) => SpecError::Invalid {
                place,
                key: here,
                reason,
                hint: Hint(None),
            },
        }
    }

    /// The reason in one line, as a failed row carries it.
    pub(super) fn into_reason(self) -> String {
        let here = self.key.unwrap_or_default();
        let found = self.found.unwrap_or_default();
        match self.kind {
            Kind::WrongType { expected } => format!("`{here}`: expected {expected}, found {found}"),
            Kind::UnknownKey { field, .. } => format!("`{here}`: unknown key `{field}`"),
            Kind::Missing { field } => format!("`{here}`: `{field}` is missing"),
            Kind::Other(reason) => format!("`{here}` {reason}"),
        }
    }
}

/// The cure for a wrong value, made from the two sides of its message.
fn value_hint(expected: &str, found: &str) -> Hint {
    let text = found
        .strip_prefix("string ")
        .or(found.strip_prefix("number "))
        .unwrap_or(found);
    let text = text
        .strip_prefix('`')
        .and_then(|text| text.strip_suffix('`'))
        .unwrap_or("");
    if found.starts_with("string") && (text.parse::<f64>().is_ok() || is_boolean(text)) {
        return Hint::some(format!("write it without quotes: `{text}`"));
    }
    if expected == "a string" && found.starts_with("number") {
        return Hint::some(format!("write it in quotes: `\"{text}\"`"));
    }
    if expected == "a list" && found.starts_with("string") && !text.contains(['"', '[', '\\']) {
        return Hint::some(format!("write it in brackets: `[\"{text}\"]`"));
    }
    // The words that would be right stand in backticks.
    let words = expected
        .split('`')
        .skip(1)
        .step_by(2)
        .map(|word| word.trim_matches('"'));
    match nearest_word(text, words) {
        Some(word) => Hint::some(format!("did you mean `{word}`?")),
        None => Hint(None),
    }
}

fn is_boolean(text: &str) -> bool {
    text == "true" || text == "false"
}

fn missing_hint(key: &str) -> Hint {
    let text = match key {
        "version" => "write `version = 1` at the top of the job file",
        "model" | "model.path" => {
            "name the model's folder: `path = \"models/glm-350M-chinese\"` under `[model]`"
        }
        "input" | "input.path" => {
            "name the input: `path = [\"questions/*.parquet\"]` under `[input]`"
        }
        "output" | "output.path" => {
            "name the folder for the results: `path = \"out/answers\"` under `[output]`"
        }
        _ => return Hint(None),
    };
    Hint::some(text)
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)
    }
}

impl std::error::Error for Problem {}

impl de::Error for Problem {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(Kind::Other(message.to_string()))
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(Kind::WrongType {
            expected: plain(&expected.to_string()),
        })
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(_: &str, known: &'static [&'static str]) -> Self {
        Self::new(Kind::WrongType {
            expected: any_of(known),
        })
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        Self::new(Kind::UnknownKey {
            field: field.into(),
            known,
        })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(Kind::Missing { field })
    }
}

/// Rust's words for what serde expects, in the user's.
fn plain(expected: &str) -> String {
    match expected {
        "f64" | "f32" => "a number".into(),
        "u32" => format!("a whole number from 0 to {}", u32::MAX),
        "u64" => "a whole number, 0 or more".into(),
        "a boolean" => "`true` or `false`".into(),
        "a sequence" => "a list".into(),
        "a map" => "a table".into(),
        text if text.starts_with("struct ") => "a table".into(),
        text => text.into(),
    }
}

/// A value as messages repeat it.
fn describe(node: &Node) -> String {
    match &node.value {
        Value::Null => "null".into(),
        Value::Boolean(value) => format!("`{value}`"),
        Value::Integer(value) => format!("number `{value}`"),
        Value::Float(value) => format!("number `{value}`"),
        Value::String(text) => format!("string `{}`", shown(text)),
        Value::Datetime(text) => format!("date `{text}`"),
        Value::Array(_) | Value::Table(_) if node.raw.is_some() => {
            format!("`{}`", shown(node.raw.as_deref().unwrap_or_default()))
        }
        Value::Array(_) => "a list".into(),
        Value::Table(_) => "a table".into(),
    }
}

/// A text in one line and cut to a readable length.
pub(super) fn shown(text: &str) -> String {
    let mut line: String = text
        .chars()
        .take(MAX_SHOWN)
        .flat_map(char::escape_debug)
        .collect();
    line = line.replace("\\'", "'").replace("\\\"", "\"");
    if text.chars().count() > MAX_SHOWN {
        line.push('…');
    }
    line
}

/// Reads a whole tree.
pub(super) fn read<'de, T: Deserialize<'de>>(node: &'de Node) -> Result<T, Problem> {
    read_at(node, "")
}

/// Reads a value that stands under `key`.
pub(super) fn read_at<'de, T: Deserialize<'de>>(node: &'de Node, key: &str) -> Result<T, Problem> {
    let reader = Reader {
        node,
        key: key.into(),
    };
    T::deserialize(reader).map_err(|problem| problem.locate(node, key))
}

struct Reader<'a> {
    node: &'a Node,
    key: String,
}

impl<'de> Reader<'de> {
    fn visit<V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Problem> {
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Boolean(value) => visitor.visit_bool(*value),
            Value::Integer(value) => match (u64::try_from(*value), i64::try_from(*value)) {
                (Ok(value), _) => visitor.visit_u64(value),
                (_, Ok(value)) => visitor.visit_i64(value),
                _ => Err(de::Error::invalid_value(
                    Unexpected::Other("number"),
                    &visitor,
                )),
            },
            Value::Float(value) => visitor.visit_f64(*value),
            Value::String(text) => visitor.visit_str(text),
            Value::Datetime(_) => Err(de::Error::invalid_type(Unexpected::Other("date"), &visitor)),
            Value::Array(items) => visitor.visit_seq(Items {
                items: items.iter().enumerate(),
                key: &self.key,
            }),
            Value::Table(entries) => visitor.visit_map(Fields {
                entries: entries.iter(),
                value: None,
                key: &self.key,
            }),
        }
    }

    fn text(&self) -> Option<&'de str> {
        self.node.raw.as_deref().or_else(|| self.node.as_str())
    }
}

impl<'de> de::Deserializer<'de> for Reader<'de> {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.visit(visitor)
            .map_err(|problem| problem.locate(self.node, &self.key))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.text() {
            Some(text) => visitor.visit_str(text),
            None => self.visit(visitor),
        }
        .map_err(|problem| problem.locate(self.node, &self.key))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        match self.text() {
            Some(word) => {
                let word: StrDeserializer<'_, Problem> = word.into_deserializer();
                visitor.visit_enum(word)
            }
            None => Err(de::Error::unknown_variant("", known)),
        }
        .map_err(|problem| problem.locate(self.node, &self.key))
    }

    // Derived structs also read lists, by position: no job is written so.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        if let Value::Array(_) = self.node.value {
            let problem: Problem = de::Error::invalid_type(Unexpected::Seq, &visitor);
            return Err(problem.locate(self.node, &self.key));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
        seq tuple tuple_struct map identifier ignored_any
    }
}

struct Items<'de, 'k> {
    items: std::iter::Enumerate<std::slice::Iter<'de, Node>>,
    key: &'k str,
}

impl<'de> de::SeqAccess<'de> for Items<'de, '_> {
    type Error = Problem;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Problem> {
        let Some((index, node)) = self.items.next() else {
            return Ok(None);
        };
        seed.deserialize(Reader {
            node,
            key: format!("{}[{index}]", self.key),
        })
        .map(Some)
    }
}

struct Fields<'de, 'k> {
    entries: std::slice::Iter<'de, Entry>,
    value: Option<&'de Entry>,
    key: &'k str,
}

impl<'de> de::MapAccess<'de> for Fields<'de, '_> {
    type Error = Problem;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Problem> {
        let Some(entry) = self.entries.next() else {
            return Ok(None);
        };
        self.value = Some(entry);
        let key: StrDeserializer<'_, Problem> = entry.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|mut problem| {
            // The key itself is wrong: its own line counts, and its section is the key so far.
            problem.key = Some(self.key.into());
            problem.place.clone_from(&entry.place);
            problem
        })
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Problem> {
        let Some(entry) = self.value.take() else {
            return Err(de::Error::custom("has a value without a key"));
        };
        let key = join(self.key, &entry.key);
        let reader = Reader {
            node: &entry.node,
            key: key.clone(),
        };
        // What a type refuses after its value was read has no place yet.
        seed.deserialize(reader)
            .map_err(|problem| problem.locate(&entry.node, &key))
    }
}
