//! One line to its fields, strictly: RFC 8259 JSON, UTF-8, one object, nothing after it.
//!
//! Values stay text ([`RawValue`]) until someone needs them. Of equal keys the last value counts, at
//! the first one's position. Top-level texts and keys are checked to decode (no lone surrogate), and
//! nested ones are mended, so that what is written later loads everywhere. The parser does not recurse:
//! depth has no limit.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::cell::{Cell, Record};
use super::lines::BOM;
use super::surrogates;
use super::types::ColumnKind;
use crate::ids::RowId;
use crate::job::Rules;

/// Over this many keys, equal ones are looked for by hash.
const MANY_KEYS: usize = 24;

/// The fields of a line, borrowed from it where nothing had to be mended.
#[derive(Debug)]
pub(super) struct Fields<'a>(pub(super) Vec<(Cow<'a, str>, Cow<'a, RawValue>)>);

impl<'a> Fields<'a> {
    /// Parses a line; the error is the reason for the bad row. By the second rule for types, half a surrogate
    /// pair inside a nested value becomes U+FFFD.
    pub(super) fn parse(line: &'a [u8], rules: Rules) -> Result<Self, String> {
        let text = std::str::from_utf8(line)
            .map_err(|error| format!("invalid UTF-8 at byte {}", error.valid_up_to() + 1))?;
        let start = text.trim_start_matches([' ', '\t', '\r']);
        if !start.starts_with('{') {
            return Err(not_an_object(start));
        }
        let mut fields: Self = serde_json::from_str(text).map_err(|error| broken(&error))?;
        for (name, value) in &mut fields.0 {
            check_text(name, value)?;
            if rules.types > 1
                && let Some(mended) = surrogates::mended(value.get())
            {
                let mended = RawValue::from_string(mended).map_err(|error| broken(&error))?;
                *value = Cow::Owned(mended);
            }
        }
        Ok(fields)
    }
}

impl<'a> Fields<'a> {
    /// Adds fields that the line does not have.
    pub(super) fn add(&mut self, more: &'a [(String, Box<RawValue>)]) {
        for (name, value) in more {
            if !self.0.iter().any(|(known, _)| known == name) {
                self.0.push((Cow::Borrowed(name), Cow::Borrowed(&**value)));
            }
        }
    }
}

fn check_text(name: &str, value: &RawValue) -> Result<(), String> {
    let text = value.get();
    if text.starts_with('"') && text.contains('\\') {
        serde_json::from_str::<Cow<'_, str>>(text)
            .map_err(|error| format!("broken text in field `{name}`: {}", cause(&error)))?;
    }
    Ok(())
}

fn broken(error: &serde_json::Error) -> String {
    format!("broken JSON at byte {}: {}", error.column(), cause(error))
}

/// The message without its position.
fn cause(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ")
        .map_or(text.as_str(), |(message, _)| message)
        .to_owned()
}

fn not_an_object(text: &str) -> String {
    if text.as_bytes().starts_with(BOM) {
        return "a byte order mark in front of a line that is not the file's first".to_owned();
    }
    match serde_json::from_str::<&RawValue>(text) {
        Ok(value) => format!("the line holds {}, not an object", kind_words(value.get())),
        Err(_) if text.starts_with('[') => {
            "the line begins an array, not an object; write one object a line".to_owned()
        }
        Err(error) => broken(&error),
    }
}

/// What a JSON text holds, in words.
fn kind_words(text: &str) -> &'static str {
    match text.as_bytes().first() {
        Some(b'"') => "a text",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields: Vec<(Cow<'de, str>, Cow<'de, RawValue>)> = Vec::with_capacity(8);
        let mut places: HashMap<Cow<'de, str>, usize> = HashMap::new();
        while let Some(Key(key)) = map.next_key()? {
            let value: Cow<'de, RawValue> = Cow::Borrowed(map.next_value()?);
            if fields.len() == MANY_KEYS {
                places = fields
                    .iter()
                    .enumerate()
                    .map(|(i, (k, _))| (k.clone(), i))
                    .collect();
            }
            let earlier = if fields.len() < MANY_KEYS {
                fields.iter().position(|(known, _)| *known == key)
            } else {
                places.get(&key).copied()
            };
            if let Some(place) = earlier {
                fields[place].1 = value;
                continue;
            }
            if fields.len() >= MANY_KEYS {
                places.insert(key.clone(), fields.len());
            }
            fields.push((key, value));
        }
        Ok(Fields(fields))
    }
}

/// A key that borrows from the line where it has no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(KeyVisitor)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Key<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E: de::Error>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Key(Cow::Borrowed(key)))
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Key(Cow::Owned(key.to_owned())))
    }
}

impl Record for Fields<'_> {
    fn cell(&self, name: &str) -> Cell<'_> {
        let Some((_, value)) = self.0.iter().find(|(known, _)| known == name) else {
            return Cell::Absent;
        };
        cell_of(value.get())
    }

    fn json(&self, name: &str) -> Result<Option<serde_json::Value>, String> {
        let Some((_, value)) = self.0.iter().find(|(known, _)| known == name) else {
            return Ok(None);
        };
        serde_json::from_str(value.get())
            .map(Some)
            .map_err(|error| cause(&error))
    }

    fn raw(&self, name: &str) -> Result<Option<Cow<'_, RawValue>>, String> {
        let field = self.0.iter().find(|(known, _)| known == name);
        Ok(field.map(|(_, value)| Cow::Borrowed(&**value)))
    }
}

/// A JSON text as prompts see it.
pub(super) fn cell_of(text: &str) -> Cell<'_> {
    match text.as_bytes().first() {
        Some(b'n') => Cell::Null,
        Some(b'"') => match text_of(text) {
            Ok(text) => Cell::Text(text),
            Err(_) => Cell::Other("a broken text"),
        },
        Some(b'{' | b'[' | b't' | b'f') => Cell::Other(kind_words(text)),
        _ => Cell::Number(Cow::Borrowed(text)),
    }
}

fn text_of(text: &str) -> Result<Cow<'_, str>, serde_json::Error> {
    let inner = &text[1..text.len() - 1];
    if inner.contains('\\') {
        serde_json::from_str(text).map(Cow::Owned)
    } else {
        Ok(Cow::Borrowed(inner))
    }
}

/// Which JSON types a column has had so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    bits: u8,
    /// First rows with a text, and with another value.
    first_text: Option<RowId>,
    first_other: Option<RowId>,
}

impl Seen {
    const BOOL: u8 = 1;
    const INT: u8 = 2;
    const FLOAT: u8 = 4;
    const TEXT: u8 = 8;
    /// Nested values, and numbers that neither an int64 nor a float64 holds.
    const OTHER: u8 = 16;
    /// Beside [`INT`](Self::INT): some of them no float64 holds.
    const ODD: u8 = 32;

    /// Adds the value of a row; rows come in order.
    pub(super) fn add(&mut self, row: RowId, value: &RawValue) {
        let bit = Self::bit(value.get());
        self.bits |= bit;
        match bit {
            0 => {}
            Self::TEXT => _ = self.first_text.get_or_insert(row),
            _ => _ = self.first_other.get_or_insert(row),
        }
    }

    /// Adds what later rows hold.
    pub(super) fn merge(&mut self, later: Self) {
        self.bits |= later.bits;
        self.first_text = self.first_text.or(later.first_text);
        self.first_other = self.first_other.or(later.first_other);
    }

    /// The first row with which the column holds texts beside other values.
    pub(super) fn mixed_at(self) -> Option<RowId> {
        Some(self.first_text?.max(self.first_other?))
    }

    fn bit(text: &str) -> u8 {
        match text.as_bytes().first() {
            Some(b'n') => 0,
            Some(b't' | b'f') => Self::BOOL,
            Some(b'"') => Self::TEXT,
            Some(b'{' | b'[') => Self::OTHER,
            _ if text.contains(['.', 'e', 'E']) => {
                if text.parse::<f64>().is_ok_and(f64::is_finite) {
                    Self::FLOAT
                } else {
                    Self::OTHER
                }
            }
            _ => match text.parse::<i64>() {
                Ok(value) if (value as f64) as i128 == i128::from(value) => Self::INT,
                Ok(_) => Self::INT | Self::ODD,
                Err(_) => Self::OTHER,
            },
        }
    }

    /// The type that holds all of them; where `exact`, none of them rounded.
    pub(super) fn kind(self, exact: bool) -> ColumnKind {
        const INT_AND_FLOAT: u8 = Seen::INT | Seen::FLOAT;
        let is_odd = self.bits & Self::ODD != 0;
        match self.bits & !Self::ODD {
            INT_AND_FLOAT if is_odd && exact => ColumnKind::Json,
            0 | Self::TEXT => ColumnKind::String,
            Self::BOOL => ColumnKind::Bool,
            Self::INT => ColumnKind::Int64,
            Self::FLOAT | INT_AND_FLOAT => ColumnKind::Float64,
            _ => ColumnKind::Json,
        }
    }
}
