//! `${NAME}` in the texts of a job to the value of the environment variable.
//!
//! Every text value is looked at, no key; the environment is passed in, so that tests have their
//! own. Comes after the `--set` arguments, before anything reads the tree.

use super::{Node, Value};
use crate::job::error::{Hint, Place, SpecError};
use crate::job::hint::join;

/// Replaces `${NAME}` in every string by the environment variable; `$${` becomes `${`.
pub(in crate::job) fn expand_environment(
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
}
