//! A value that is no text to a template that makes one of it, for the reason of a bad row.

use serde_json::Value;

/// Fields that hold the text of a chat message, as their writers name them.
const TEXT_FIELDS: [&str; 3] = ["content", "value", "text"];

/// A template that prints the texts in a column's value; `None` where there is none to suggest.
pub(super) fn template_for(column: &str, value: &Value) -> Option<String> {
    if !is_name(column) {
        return None;
    }
    match value {
        Value::Array(items) => match items.first()? {
            Value::String(_) => Some(format!("{{{{ {column} | join(' ') }}}}")),
            Value::Object(_) => {
                let field = text_field(items.first()?)?;
                Some(format!(
                    "{{{{ {column} | map(attribute='{field}') | join(' ') }}}}"
                ))
            }
            _ => None,
        },
        Value::Object(_) => Some(format!("{{{{ {column}.{} }}}}", text_field(value)?)),
        _ => None,
    }
}

/// The field of an object that holds its text: one that is named so, else the first.
fn text_field(object: &Value) -> Option<&str> {
    let fields = object.as_object()?;
    let texts = || fields.iter().filter(|(_, value)| value.is_string());
    let named = TEXT_FIELDS
        .into_iter()
        .find(|name| texts().any(|(key, _)| key == name));
    named.or_else(|| {
        texts()
            .map(|(key, _)| key.as_str())
            .find(|key| is_name(key))
    })
}

/// Whether a template can name a column so.
fn is_name(text: &str) -> bool {
    let is_start = |c: char| c == '_' || c.is_ascii_alphabetic();
    text.starts_with(is_start) && text.chars().all(|c| is_start(c) || c.is_ascii_digit())
}
