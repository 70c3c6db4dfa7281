//! `--set key=value` arguments into the tree of a job.
//!
//! Keys and values are read by the TOML parser; what is not TOML is a bare word. Comes after
//! [`super::parse`] has read the file, before the environment is put in.

use toml::de::{DeTable, DeValue};

use super::{Entry, Node, Value, node};
use crate::job::error::{Hint, Place, SpecError};
use crate::job::hint::join;
use crate::job::problem::shown;

/// Puts `key=value` of `--set` into the tree, over the value that is there.
pub(in crate::job) fn apply_override(root: &mut Node, argument: &str) -> Result<(), SpecError> {
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
    } else if let Some(rest) = behind_quotes(text) {
        return Err(SpecError::Syntax {
            place: place.clone(),
            message: format!(
                "the value goes on with `{}` behind its quotation mark",
                shown(rest)
            ),
            hint: Hint::some(
                "put an expression in brackets, as in `--set \"input.where=('law' in subject)\"`, and a text with quotation marks in it between others",
            ),
        });
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

/// What comes after the text in quotation marks that a value begins with.
fn behind_quotes(text: &str) -> Option<&str> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let (_, rest) = text[1..].split_once(quote)?;
    let rest = rest.trim();
    (!rest.is_empty()).then_some(rest)
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

#[cfg(test)]
mod tests {
    use super::*;

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
        let message = |text: &str| set_value(text, &place).unwrap_err().to_string();
        assert!(message("\"a").contains("is not closed"));
        assert!(message("'x' in y").contains("goes on with `in y`"));
        assert!(message("'x' in y").contains("brackets"));
        assert_eq!(read("('x' in y)").value, Value::String("('x' in y)".into()));
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
}
