//! The settings that a row has for itself: those of its column, or of the body of a request.

use serde_json::{Map, Value};

use crate::input::built::bad;
use crate::input::cell::{Cell, Record};
use crate::input::nested::Named;
use crate::input::requests;
use crate::job::RowForm;
use crate::outcome::BadRow;

/// A row's own settings.
pub(super) struct OwnSettings {
    /// By key of `[generation]`, without nulls.
    pub(super) overrides: Map<String, Value>,
    /// Whether the row, a request, has keys that say nothing of the answer.
    pub(super) has_passed_over: bool,
}

impl OwnSettings {
    /// Those in a column, where the job names one.
    pub(super) fn of(
        column: Option<&Named>,
        form: RowForm,
        record: &dyn Record,
    ) -> Result<Self, BadRow> {
        let written = column.map_or_else(|| Ok(Map::new()), |column| written(column, record))?;
        Ok(match form {
            RowForm::Rows => Self {
                overrides: written,
                has_passed_over: false,
            },
            RowForm::OpenaiBatch => Self {
                overrides: requests::settings(&written)
                    .map_err(|what| bad(format!("the request {what}")))?,
                has_passed_over: requests::has_passed_over(&written),
            },
        })
    }
}

/// What the column holds, without nulls.
fn written(column: &Named, record: &dyn Record) -> Result<Map<String, Value>, BadRow> {
    let name = column.name();
    let fail = |what: String| bad(format!("generation column `{name}` {what}"));
    let value = match column.cell(record) {
        Cell::Absent | Cell::Null => return Ok(Map::new()),
        Cell::Text(text) => serde_json::from_str(&text)
            .map_err(|error| fail(format!("holds a string that is not valid JSON: {error}")))?,
        _ => column.json(record).map_err(fail)?.unwrap_or_default(),
    };
    match value {
        Value::Null => Ok(Map::new()),
        Value::Object(mut settings) => {
            settings.retain(|_, value| !value.is_null());
            Ok(settings)
        }
        _ => Err(fail(
            "holds neither an object nor a string with one".to_owned(),
        )),
    }
}
