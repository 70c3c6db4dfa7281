//! Values that are written in more than one way: `auto` or a number, one text or several, ...
//!
//! Each has the reader that a field of a section names in its attributes, and its schema. Used by
//! [`super::sections`].

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, SeqAccess, Unexpected, Visitor};

/// The word that means "no number".
pub(super) trait Word {
    const TEXT: &'static str;
    /// The least number, as the schema has it.
    const LEAST: u64;
}

/// `auto`: the program chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AutoWord;
/// `all`: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AllWord;

impl Word for AutoWord {
    const TEXT: &'static str = "auto";
    const LEAST: u64 = 1;
}
impl Word for AllWord {
    const TEXT: &'static str = "all";
    const LEAST: u64 = 0;
}

/// The schema of a key that takes a whole number or the word `W`. The value itself is an `Option`: the word is
/// `None`, and null in `job.json`.
pub(super) struct NumberOr<W>(PhantomData<W>);

impl<W: Word> JsonSchema for NumberOr<W> {
    fn schema_name() -> Cow<'static, str> {
        format!("NumberOr_{}", W::TEXT).into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "const": W::TEXT }, { "type": "integer", "minimum": W::LEAST }] })
    }
}

/// Reads a whole number or one word, which becomes `None`.
pub(super) struct NumberOrVisitor(pub(super) &'static str);

impl Visitor<'_> for NumberOrVisitor {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number or `\"{}\"`", self.0)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Some(number))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        if text == self.0 {
            return Ok(None);
        }
        Err(E::invalid_value(Unexpected::Str(text), &self))
    }

    // TOML has no null: this is `job.json`.
    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// Reads `auto`, or a whole number from 1 to `most`, which `T` must be able to hold.
pub(super) fn up_to<'de, T: TryFrom<u64>, D: Deserializer<'de>>(
    most: u64,
    reader: D,
) -> Result<Option<T>, D::Error> {
    let word = AutoWord::TEXT;
    let Some(number) = reader.deserialize_any(NumberOrVisitor(word))? else {
        return Ok(None);
    };
    match T::try_from(number) {
        Ok(fits) if (1..=most).contains(&number) => Ok(Some(fits)),
        _ => Err(de::Error::custom(format!(
            "must be `\"{word}\"` or from 1 to {most}, and is {number}"
        ))),
    }
}

/// Reads `all`, or a whole number.
pub(super) fn all_or_number<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<u64>, D::Error> {
    reader.deserialize_any(NumberOrVisitor(AllWord::TEXT))
}

/// Reads one text or a list of them.
pub(super) fn one_or_several<'de, D: Deserializer<'de>>(
    reader: D,
) -> Result<Vec<String>, D::Error> {
    let visitor = TextsVisitor {
        expecting: "a string or a list of strings",
    };
    Ok(match reader.deserialize_any(visitor)? {
        OneOrMany::One(text) => vec![text],
        OneOrMany::Many(texts) => texts,
    })
}

/// The schema of a key that takes one text or a list of them.
pub(super) struct Texts;

impl JsonSchema for Texts {
    fn schema_name() -> Cow<'static, str> {
        "Texts".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "array", "items": { "type": "string" }, "minItems": 1 },
                { "type": "string" },
            ],
        })
    }
}

/// What a [`TextsVisitor`] found.
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// Reads one text or a list of them.
pub(super) struct TextsVisitor {
    pub(super) expecting: &'static str,
}

impl<'de> Visitor<'de> for TextsVisitor {
    type Value = OneOrMany;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMany, E> {
        Ok(OneOrMany::One(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<OneOrMany, A::Error> {
        let mut texts = Vec::new();
        while let Some(text) = items.next_element()? {
            texts.push(text);
        }
        Ok(OneOrMany::Many(texts))
    }
}
