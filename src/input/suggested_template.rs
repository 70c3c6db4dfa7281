//! A value that is not a text to a template that makes one of it, for the reason of a bad row.

use serde_json::Value;

/// Fields that hold the text of a chat message, as their writers name them.
const TEXT_FIELDS: [&str; 3] = ["content", "value", "text"];

/// How writers of chats mark the messages of who asks: the field and its value.
const ASKING: [(&str, &str); 2] = [("role", "user"), ("from", "human")];

/// A template that prints the texts in a column's value; `None` where there is none to suggest.
pub(super) fn template_for(column: &str, value: &Value) -> Option<String> {
    if !is_name(column) {
        return None;
    }
    match value {
        Value::Array(items) => match items.first()? {
            Value::String(_) => Some(format!("{{{{ {column} | join(' ') }}}}")),
            Value::Object(first) => {
                let field = text_field(items.first()?)?;
                let asks = ASKING
                    .iter()
                    .find(|(role, _)| first.get(*role).is_some_and(Value::is_string));
                // The whole conversation would give the model the answer that it is asked for.
                Some(match asks {
                    Some((role, name)) => format!(
                        "{{{{ ({column} | selectattr('{role}', 'equalto', '{name}') | list | last).{field} }}}}"
                    ),
                    None => format!("{{{{ {column} | map(attribute='{field}') | join(' ') }}}}"),
                })
            }
            _ => None,
        },
        Value::Object(_) => Some(format!("{{{{ {column}.{} }}}}", named_field(value)?)),
        _ => None,
    }
}

/// The field of an object that holds its text: one that is named so, else the first.
fn text_field(object: &Value) -> Option<&str> {
    let fields = object.as_object()?;
    named_field(object).or_else(|| {
        let texts = fields.iter().filter(|(_, value)| value.is_string());
        texts.map(|(key, _)| key.as_str()).find(|key| is_name(key))
    })
}

/// The field of an object that is named as one that holds its text.
fn named_field(object: &Value) -> Option<&'static str> {
    TEXT_FIELDS
        .into_iter()
        .find(|name| object.get(name).is_some_and(Value::is_string))
}

/// Whether a template can name a column so.
fn is_name(text: &str) -> bool {
    let is_start = |c: char| c == '_' || c.is_ascii_alphabetic();
    text.starts_with(is_start) && text.chars().all(|c| is_start(c) || c.is_ascii_digit())
}
