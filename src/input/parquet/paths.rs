//! Paths into columns, checked against the types of the files.

use std::collections::BTreeSet;

use arrow_schema::{DataType, Schema};

use super::nested::list_item;
use crate::input::error::InputError;
use crate::input::nested::{Named, instead, list_index};

/// Refuses a path into a column that no row can have.
pub(super) fn check<'n>(
    schema: &Schema,
    named: impl Iterator<Item = (&'static str, &'n Named)>,
) -> Result<(), InputError> {
    for (key, named) in named {
        let (column, Some(path)) = (named.column(), named.path()) else {
            continue;
        };
        let Ok(field) = schema.field_with_name(column) else {
            continue;
        };
        if let Err(known) = walk(field.data_type(), column, path) {
            return Err(InputError::UnknownColumn {
                key,
                column: named.name().to_owned(),
                cure: instead(named.name(), &known),
            });
        }
    }
    Ok(())
}

/// Follows a path through types. The error has the paths that there are at the step that leads nowhere.
fn walk(kind: &DataType, column: &str, path: &str) -> Result<(), BTreeSet<String>> {
    let (mut kind, mut walked) = (kind, column.to_owned());
    for step in path.split('.') {
        kind = match kind {
            DataType::Struct(fields) => {
                let Some(field) = fields.iter().find(|field| field.name() == step) else {
                    let names = fields.iter().map(|field| field.name());
                    return Err(names.map(|name| format!("{walked}.{name}")).collect());
                };
                field.data_type()
            }
            // Its keys are values.
            DataType::Map(..) => return Ok(()),
            other => match list_item(other) {
                Some(item) if list_index(step).is_some() => item.data_type(),
                Some(_) => return Err([format!("{walked}.0")].into()),
                None => return Err(BTreeSet::new()),
            },
        };
        walked = format!("{walked}.{step}");
    }
    Ok(())
}
