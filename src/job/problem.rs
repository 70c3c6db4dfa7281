//! Why a tree does not fit the structs, and the cure.
//!
//! The errors of `deny_unknown_fields` and of unknown enum words carry the known words, from
//! which the hint is made. [`super::tree::reader`] adds places; a job file makes a [`SpecError`] of it, a
//! row a one-line reason.

use std::fmt;

use serde::de::{self, DeserializeOwned, Expected, IntoDeserializer, Unexpected};

use super::error::{Hint, Place, SpecError};
use super::hint::{any_of, join, key_hint, nearest_word};
use super::row::RowFlaw;
use super::schema::job_keys;
use super::tree::{Entry, Node, Value};

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
    pub(super) fn locate(mut self, node: &Node, key: &str) -> Self {
        if self.key.is_none() {
            self.key = Some(key.into());
            self.place.clone_from(&node.place);
            self.found = Some(describe(node));
        }
        self
    }

    /// Sets the place of a wrong key: its own line, and its section.
    pub(super) fn of_key(mut self, section: &str, entry: &Entry) -> Self {
        self.key = Some(section.into());
        self.place.clone_from(&entry.place);
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
                let hint = value_hint(&here, &expected, &found);
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

    /// The message for a word of the command line.
    fn into_word_message(self, word: &str) -> String {
        let Kind::WrongType { expected } = self.kind else {
            return self.into_row_flaw().reason;
        };
        let hint = value_hint("", &expected, &format!("string `{}`", shown(word)));
        format!("expected {expected}{hint}")
    }

    /// The reason of a failed row.
    pub(super) fn into_row_flaw(self) -> RowFlaw {
        let here = self.key.unwrap_or_default();
        let found = self.found.unwrap_or_default();
        let mut cure = None;
        let reason = match self.kind {
            Kind::WrongType { expected } => {
                cure = negative_cure(&here, &found).map(str::to_owned);
                format!("`{here}`: expected {expected}, found {found}")
            }
            Kind::UnknownKey { field, .. } => format!("`{here}`: unknown key `{field}`"),
            Kind::Missing { field } => format!("`{here}`: `{field}` is missing"),
            Kind::Other(reason) => format!("`{here}` {reason}"),
        };
        RowFlaw { reason, cure }
    }
}

/// Reads a value that is one word in a job file, such as `cpu` for `model.device`.
///
/// # Errors
///
/// What would have been right, and the nearest of it as a hint.
pub(crate) fn read_word<T: DeserializeOwned>(word: &str) -> Result<T, String> {
    let read: Result<T, Problem> = T::deserialize(word.into_deserializer());
    read.map_err(|problem| problem.into_word_message(word))
}

/// What other tools mean by a number below 0, in the words of this job file.
fn negative_cure(key: &str, found: &str) -> Option<&'static str> {
    if !found.starts_with("number `-") {
        return None;
    }
    Some(match key.rsplit('.').next().unwrap_or(key) {
        "top_k" => "`top_k = 0` is off",
        "no_repeat_ngram_size" => "`no_repeat_ngram_size = 0` is off",
        "min_new_tokens" => "`min_new_tokens = 0` is off",
        "max_new_tokens" => "`max_new_tokens = \"rest\"` is all that the context leaves",
        "seed" => "give any whole number from 0; the same one draws the same answers again",
        _ => return None,
    })
}

/// The cure for a wrong value, made from its key and the two sides of its message.
fn value_hint(key: &str, expected: &str, found: &str) -> Hint {
    if let Some(cure) = negative_cure(key, found) {
        return Hint::some(cure);
    }
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
    // The words that would be right are in backticks.
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
        "path string" => "a string".into(),
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
pub(crate) fn shown(text: &str) -> String {
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
