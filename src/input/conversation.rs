//! A row's conversation through `prompt.turns` to the prompt text.
//!
//! A conversation is a list of messages, each with the texts `role` and `content`; a text may hold one as JSON. The
//! template sees it as `messages`, whatever its column is called, beside the other columns of the row.

use std::borrow::Cow;

use serde_json::Value;
use serde_json::value::RawValue;

use super::cell::{Cell, Record};
use super::error::InputError;
use super::nested::Named;
use super::template::{Template, is_blank};
use super::types::Turn;
use crate::job::{DEFAULT_TURNS, Rules};
use crate::outcome::BadRow;

use super::built::bad;

/// What the template calls a conversation.
const MESSAGES: &str = "messages";

const ROLES: [&str; 3] = ["system", "user", "assistant"];

/// The column of conversations, and the template that makes a prompt of one.
pub(super) struct Conversation {
    pub(super) named: Named,
    template: Template,
}

impl Conversation {
    pub(super) fn new(column: &str, turns: Option<&str>, rules: Rules) -> Result<Self, InputError> {
        let source = turns.unwrap_or(DEFAULT_TURNS);
        Ok(Self {
            named: Named::new(column),
            template: Template::new("prompt.turns", source, rules, false)?,
        })
    }

    /// Columns that the template names beside the conversation.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.template.names().filter(|name| *name != MESSAGES)
    }

    /// Those of them that no row can do without.
    pub(super) fn required_names(&self) -> impl Iterator<Item = &str> {
        let names = self.template.required_names();
        names.filter(|name| *name != MESSAGES)
    }

    /// The prompt of a row, and the messages that it is made of.
    pub(super) fn text(&self, record: &dyn Record) -> Result<(String, Vec<Value>), BadRow> {
        let messages = self.messages(record).map_err(|what| {
            let column = self.named.name();
            bad(format!("messages column `{column}` {what}"))
        })?;
        let record = WithMessages { record, messages };
        let text = self.template.render(&record, None)?;
        Ok((text, record.messages))
    }

    /// The conversation of a row, which ends with a question.
    fn messages(&self, record: &dyn Record) -> Result<Vec<Value>, String> {
        let value = match self.named.cell(record) {
            Cell::Absent => return Err("is not in this row".to_owned()),
            Cell::Null => return Err("is null".to_owned()),
            Cell::Number(number) => {
                return Err(format!("holds the number {number}, not a list of messages"));
            }
            Cell::Text(text) => serde_json::from_str(&text)
                .map_err(|_| "holds a text, not a list of messages".to_owned())?,
            Cell::Other(_) => self.named.json(record)?.unwrap_or_default(),
        };
        let Value::Array(messages) = value else {
            return Err(format!("holds {}, not a list of messages", kind(&value)));
        };
        for (at, message) in messages.iter().enumerate() {
            check(message).map_err(|what| format!("holds a list whose message {at} {what}"))?;
        }
        let last = messages.last().ok_or("holds no messages")?;
        if last["role"] != "user" {
            return Err(format!(
                "ends with a message of the role {}, and only one of the role \"user\" is answered",
                last["role"]
            ));
        }
        if last["content"].as_str().is_none_or(is_blank) {
            return Err("ends with a message whose `content` is empty".to_owned());
        }
        Ok(messages)
    }
}

/// A message that was checked.
pub(super) fn turn(message: &Value) -> Turn {
    let text = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
    Turn {
        role: text("role"),
        content: text("content"),
    }
}

/// What keeps a value from being a message, to be read after its place.
fn check(message: &Value) -> Result<(), String> {
    let Value::Object(fields) = message else {
        let kind = kind(message);
        return Err(format!(
            "is {kind}, not an object with `role` and `content`"
        ));
    };
    for key in ["role", "content"] {
        match fields.get(key) {
            Some(Value::String(_)) => {}
            None => return Err(format!("has no `{key}`")),
            Some(other) => {
                let kind = kind(other);
                return Err(format!("has {kind} as `{key}`, not a text"));
            }
        }
    }
    let role = message["role"].as_str().unwrap_or_default();
    if ROLES.contains(&role) {
        return Ok(());
    }
    let role = role.escape_debug();
    Err(format!(
        "has the role `{role}`, and not `system`, `user` or `assistant`"
    ))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A row whose conversation goes by the name that templates have for it.
struct WithMessages<'r> {
    record: &'r dyn Record,
    messages: Vec<Value>,
}

impl Record for WithMessages<'_> {
    fn cell(&self, name: &str) -> Cell<'_> {
        self.record.cell(name)
    }

    fn json(&self, name: &str) -> Result<Option<Value>, String> {
        match name {
            MESSAGES => Ok(Some(Value::Array(self.messages.clone()))),
            _ => self.record.json(name),
        }
    }

    fn raw(&self, name: &str) -> Result<Option<Cow<'_, RawValue>>, String> {
        self.record.raw(name)
    }
}
