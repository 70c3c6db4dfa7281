//! A list of answers to the expected one.

use serde_json::Value;

use crate::input::types::Reference;

/// The text that a list of answers begins with; `None` where there is none. The error is what it begins with.
pub(super) fn references(items: &[Value]) -> Result<Option<Reference>, &'static str> {
    let Some((first, others)) = items.split_first() else {
        return Ok(None);
    };
    let others = others.iter().filter_map(|item| answer(item).ok().flatten());
    let text = answer(first)?;
    Ok(text.map(|text| Reference::first_of(text, others.collect(), first.is_object())))
}

/// The text of a list's item, or what else it is.
fn answer(item: &Value) -> Result<Option<String>, &'static str> {
    match item {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        Value::Object(fields) => match fields.get("answer") {
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Null) => Ok(None),
            _ => Err("another object"),
        },
        Value::Number(_) => Err("a number"),
        Value::Bool(_) => Err("a boolean"),
        Value::Array(_) => Err("a list"),
    }
}
