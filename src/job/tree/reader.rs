//! Reads a tree into serde structs and says where it failed.
//!
//! The derived code reports what it expected; the innermost node that fails adds its place, its
//! dotted key and what was found, and makes it a [`Problem`]. Reads [`super::Node`]; used
//! for the whole file and for one setting of a row.

use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::{Entry, Node, Value};
use crate::job::hint::join;
use crate::job::problem::Problem;

/// Reads a whole tree.
pub(in crate::job) fn read<'de, T: Deserialize<'de>>(node: &'de Node) -> Result<T, Problem> {
    read_at(node, "")
}

/// Reads the value of `key`.
pub(in crate::job) fn read_at<'de, T: Deserialize<'de>>(
    node: &'de Node,
    key: &str,
) -> Result<T, Problem> {
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
        seed.deserialize(key)
            .map(Some)
            .map_err(|problem| problem.of_key(self.key, entry))
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
