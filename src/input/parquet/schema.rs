//! The schemas of several files to the one that all parts have.
//!
//! Columns by name, in order of first appearance; missing is null; what two files have is joined by
//! [`super::common`]; any other clash is refused. Everything is nullable and carries no metadata, so that a row
//! without readable columns can be read as nulls.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef};

use super::common::{common, common_by_layout};
use super::layout::{layout, map_type};
use crate::input::error::InputError;
use crate::job::Rules;

/// Version of the rule of types from which on a type is what it is in Parquet.
const BY_PARQUET: u32 = 2;

/// Key of a schema's metadata: the rule for types that its job goes by, where it is the first one.
const RULE: &str = "glm-batch.types";
const FIRST_RULE: &str = "1";

/// Whether types are compared by what they are in Parquet.
pub(in crate::input) fn by_parquet(rules: Rules) -> bool {
    rules.types >= BY_PARQUET
}

/// Whether a schema is that of a job which goes by the first rule for types.
pub(crate) fn is_first_rule(schema: &Schema) -> bool {
    let rule = schema.metadata().get(RULE);
    rule.is_some_and(|rule| rule == FIRST_RULE)
}

/// What all files share.
#[derive(Clone)]
pub(in crate::input) struct Shared {
    /// The types that the results have.
    pub(in crate::input) schema: SchemaRef,
    /// The same columns in the layout in which rows are held.
    pub(in crate::input) layout: SchemaRef,
}

impl Shared {
    pub(in crate::input) fn new(schema: Schema) -> Self {
        Self {
            layout: layout(&schema),
            schema: Arc::new(schema),
        }
    }
}

/// One column so far.
struct Column {
    name: String,
    kind: DataType,
    /// The file that has this type.
    file: PathBuf,
    /// Whether a file with rows has it: others contradict nothing.
    has_rows: bool,
}

/// Gathers the schemas of files.
pub(super) struct Unifier {
    by_parquet: bool,
    columns: Vec<Column>,
}

impl Unifier {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            by_parquet: by_parquet(rules),
            columns: Vec::new(),
        }
    }

    /// Takes the schema of a file with this many rows.
    pub(super) fn add(
        &mut self,
        path: &Path,
        schema: &Schema,
        rows: u64,
    ) -> Result<(), InputError> {
        let has_rows = rows > 0 || !self.by_parquet;
        for field in schema.fields() {
            let kind = self.widen_keys(field.data_type());
            let known = self.columns.iter_mut().find(|c| c.name == *field.name());
            let Some(known) = known else {
                self.columns.push(Column {
                    name: field.name().clone(),
                    kind,
                    file: path.to_owned(),
                    has_rows,
                });
                continue;
            };
            if !has_rows {
                continue;
            }
            if !known.has_rows {
                (known.kind, known.has_rows) = (kind, true);
                path.clone_into(&mut known.file);
                continue;
            }
            let join = if self.by_parquet {
                common
            } else {
                common_by_layout
            };
            known.kind = join(&known.kind, &kind).ok_or_else(|| InputError::SchemaClash {
                column: known.name.clone(),
                first: known.file.clone(),
                first_type: known.kind.to_string(),
                second: path.to_owned(),
                second_type: field.data_type().to_string(),
            })?;
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Shared {
        let columns = self.columns.into_iter();
        let fields: Vec<Field> = columns
            .map(|column| Field::new(column.name, column.kind, true))
            .collect();
        let rule = (!self.by_parquet).then(|| (RULE.to_owned(), FIRST_RULE.to_owned()));
        let metadata: HashMap<_, _> = rule.into_iter().collect();
        Shared::new(Schema::new_with_metadata(fields, metadata))
    }

    /// Dictionary keys of 8 and 16 bits overflow where row groups with their own dictionaries meet.
    fn widen_keys(&self, kind: &DataType) -> DataType {
        let widen = |kind: &DataType| match kind {
            DataType::Dictionary(key, value)
                if matches!(
                    **key,
                    DataType::Int8 | DataType::Int16 | DataType::UInt8 | DataType::UInt16
                ) =>
            {
                Some(DataType::Dictionary(
                    Box::new(DataType::Int32),
                    value.clone(),
                ))
            }
            _ => None,
        };
        if self.by_parquet {
            map_type(kind, &widen)
        } else {
            widen(kind).unwrap_or_else(|| kind.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{DataType, Field, Path, Rules, Schema, Unifier};
    use crate::input::InputError;

    fn schema(kind: DataType) -> Schema {
        Schema::new(vec![Field::new("x", kind, false)])
    }

    #[test]
    fn a_clash_names_both_files() {
        let mut unifier = Unifier::new(Rules::CURRENT);
        unifier
            .add(Path::new("a.parquet"), &schema(DataType::Int64), 1)
            .unwrap();
        let error = unifier
            .add(Path::new("b.parquet"), &schema(DataType::Utf8), 1)
            .unwrap_err();
        assert!(matches!(error, InputError::SchemaClash { .. }));
        assert_eq!(
            error.to_string(),
            "column `x` is Int64 in `a.parquet` and Utf8 in `b.parquet`\nhint: write the files with one type, or read them in two jobs"
        );
    }

    #[test]
    fn a_file_without_rows_contradicts_nothing() {
        let join = |rules, first: (DataType, u64), second: (DataType, u64)| {
            let mut unifier = Unifier::new(rules);
            unifier.add(Path::new("a"), &schema(first.0), first.1)?;
            unifier.add(Path::new("b"), &schema(second.0), second.1)?;
            Ok::<_, InputError>(unifier.finish().schema.field(0).data_type().clone())
        };
        let (text, float) = (DataType::Utf8, DataType::Float64);
        for (first, second) in [(1, 0), (0, 1)] {
            let kinds = if first == 1 {
                (text.clone(), float.clone())
            } else {
                (float.clone(), text.clone())
            };
            let found = join(
                Rules::CURRENT,
                (kinds.0.clone(), first),
                (kinds.1.clone(), second),
            );
            assert_eq!(found.unwrap(), text);
            assert!(join(Rules::FIRST, (kinds.0, first), (kinds.1, second)).is_err());
        }
        let only = join(Rules::CURRENT, (float.clone(), 0), (text, 0));
        assert_eq!(only.unwrap(), float);
    }
}
