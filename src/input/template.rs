//! A row's columns through `prompt.template` to the prompt text.
//!
//! Printing an undefined or null value fails the row, and so does joining or looking into a column
//! that is either; `default` replaces both, and `if` and `is none` look without failing. A null column
//! and one that the row does not have are both undefined, and so are nulls inside a column, so that
//! JSON lines and Parquet agree.

use std::sync::Arc;

use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value, escape_formatter};

use super::cell::Record;
use super::error::{InputError, one_line};
use super::printed_names::printed_names;
use super::roomy::{Roomy, fill, needs_room};
use super::tags::check_nesting;
use crate::job::Rules;
use crate::outcome::{BadRow, Stage};

/// Steps that filling a template may take. The engine counts an instruction as one, and every 64 bytes of text
/// that the template makes, so that this bounds the time, the memory and the prompt of a row.
pub(super) const TEMPLATE_STEPS: u64 = 1_000_000;

/// Name of the only template; without an ending that would turn escaping on.
const NAME: &str = "prompt";

/// What a template that is filled once for each choice calls it.
pub(super) const CHOICE: &str = "choice";

/// A compiled template and the columns that it names.
pub(super) struct Template {
    environment: Arc<Environment<'static>>,
    names: Vec<String>,
    /// Whether it names [`CHOICE`], where that is no column.
    names_choice: bool,
    /// Those of `names` that no row can do without.
    required: Vec<String>,
    /// Fills it where its values may nest deeper than an ordinary stack has room for.
    roomy: Option<Roomy>,
}

impl Template {
    /// Compiles the template of a key. One of the first rules is bounded in nothing. Where it is filled
    /// `for_each_choice`, [`CHOICE`] is no column.
    pub(super) fn new(
        key: &'static str,
        source: &str,
        rules: Rules,
        for_each_choice: bool,
    ) -> Result<Self, InputError> {
        let mut environment = Environment::new();
        if rules.rows > 1 {
            check_nesting(source).map_err(|reason| InputError::Template { key, reason })?;
            environment.set_fuel(Some(TEMPLATE_STEPS));
        }
        environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        environment.set_formatter(|out, state, value| {
            if value.is_none() || value.is_undefined() {
                return Err(Error::new(
                    ErrorKind::UndefinedError,
                    "an undefined or null value is printed",
                ));
            }
            escape_formatter(out, state, value)
        });
        environment.add_filter("default", default_filter);
        environment.add_filter("d", default_filter);
        environment.add_test("none", |value: &Value| {
            value.is_none() || value.is_undefined()
        });
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|error| InputError::Template {
                key,
                reason: describe(&error),
            })?;
        let template = environment
            .get_template(NAME)
            .map_err(|error| InputError::Template {
                key,
                reason: describe(&error),
            })?;
        let mut names: Vec<String> = template.undeclared_variables(false).into_iter().collect();
        names.sort_unstable();
        let names_choice = for_each_choice && names.iter().any(|name| name == CHOICE);
        if names_choice {
            names.retain(|name| name != CHOICE);
        }
        let is_global = |name: &str| environment.globals().any(|(known, _)| known == name);
        let required = printed_names(source)
            .into_iter()
            .filter(|name| names.iter().any(|known| known == name) && !is_global(name))
            .map(str::to_owned)
            .collect();
        let environment = Arc::new(environment);
        let roomy = needs_room(source).then(|| Roomy::start(&environment, NAME));
        Ok(Self {
            environment,
            names,
            names_choice,
            required,
            roomy: roomy.transpose().map_err(InputError::NoThread)?,
        })
    }

    /// Columns without which a row fails, in the template's order.
    pub(super) fn required_names(&self) -> impl Iterator<Item = &str> {
        self.required.iter().map(String::as_str)
    }

    /// Columns that the template names.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Whether it names the choice that it is filled with.
    pub(super) fn names_choice(&self) -> bool {
        self.names_choice
    }

    /// Fills the template with a row, and with a choice where it names one; a blank text makes the row bad.
    pub(super) fn render(
        &self,
        record: &dyn Record,
        choice: Option<&str>,
    ) -> Result<String, BadRow> {
        let text = self.fill(record, choice)?;
        if is_blank(&text) {
            return Err(bad("the template gives an empty prompt".to_owned()));
        }
        Ok(text)
    }

    /// [`render`](Self::render), where the text may be blank.
    pub(super) fn fill(&self, record: &dyn Record, choice: Option<&str>) -> Result<String, BadRow> {
        let mut columns = Vec::with_capacity(self.names.len() + 1);
        if let Some(choice) = choice.filter(|_| self.names_choice) {
            columns.push((CHOICE, Value::from(choice)));
        }
        for name in &self.names {
            match record.json(name) {
                Ok(None | Some(serde_json::Value::Null)) => {}
                Ok(Some(value)) => columns.push((name.as_str(), to_value(value))),
                Err(reason) => return Err(bad(format!("column `{name}`: {reason}"))),
            }
        }
        let empty: Vec<&str> = self
            .names()
            .filter(|name| !columns.iter().any(|(known, _)| known == name))
            .filter(|name| !self.environment.globals().any(|(known, _)| known == *name))
            .collect();
        let columns = Value::from_pairs(columns);
        let filled = match &self.roomy {
            Some(roomy) => roomy.fill(columns),
            None => fill(&self.environment, NAME, columns),
        };
        filled.map_err(|error| bad(with_empty(&error, &empty)))
    }
}

/// Whether a prompt has nothing to answer.
pub(super) fn is_blank(text: &str) -> bool {
    text.chars().all(char::is_whitespace)
}

/// `default`, for null values too.
fn default_filter(value: &Value, other: Option<Value>, lax: Option<bool>) -> Value {
    let missing = value.is_undefined() || value.is_none();
    if missing || (lax.unwrap_or(false) && !value.is_true()) {
        other.unwrap_or_else(|| Value::from(""))
    } else {
        value.clone()
    }
}

fn with_empty(error: &Error, empty: &[&str]) -> String {
    if error.kind() == ErrorKind::OutOfFuel {
        return format!(
            "the template takes more than {TEMPLATE_STEPS} steps with this row: it loops too long, or its text grows too large"
        );
    }
    let mut reason = describe(error);
    if error.kind() == ErrorKind::UndefinedError && !empty.is_empty() {
        let list: Vec<String> = empty.iter().map(|name| format!("`{name}`")).collect();
        reason.push_str("; this row has no ");
        reason.push_str(&list.join(", "));
        reason.push_str(", use `default` or `if` where that may be");
    }
    reason
}

fn describe(error: &Error) -> String {
    let message = match error.detail() {
        Some(detail) => one_line(detail),
        None => error.kind().to_string(),
    };
    match error.line() {
        Some(line) => format!("line {line} of the template: {message}"),
        None => message,
    }
}

/// A null inside a column is undefined as the column itself would be: joined with `~`, a plain null
/// would be printed as `none`.
pub(super) fn to_value(value: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match value {
        Json::Null => Value::UNDEFINED,
        Json::Bool(value) => Value::from(value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => Value::from(value),
            (_, Some(value)) => Value::from(value),
            _ => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text),
        Json::Array(values) => values.into_iter().map(to_value).collect(),
        Json::Object(map) => Value::from_pairs(map.into_iter().map(|(k, v)| (k, to_value(v)))),
    }
}

fn bad(reason: String) -> BadRow {
    BadRow {
        stage: Stage::Template,
        reason,
    }
}
