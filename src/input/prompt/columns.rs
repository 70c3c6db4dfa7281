//! The columns that a job names, each with the part of its name that is a path.

use crate::input::following::Following;
use crate::input::nested::Named;
use crate::input::types::InputIndex;
use crate::job::{ColumnSpec, PromptSpec, nearest};

/// Column that holds the id where the job names none.
pub(in crate::input) const DEFAULT_ID: &str = "id";

/// The columns that the job names.
pub(super) struct Columns {
    pub(super) id: Option<Named>,
    pub(super) prompt: Option<Named>,
    pub(super) prefix: Option<Named>,
    pub(super) reference: Option<Named>,
    pub(super) generation: Option<Named>,
    pub(super) label: Option<Named>,
    /// What examples are told apart by.
    pub(super) examples_by: Option<Named>,
    /// What the metrics are told apart by.
    pub(super) metrics_by: Option<Named>,
    pub(super) following: Option<Following>,
}

impl Columns {
    pub(super) fn new(spec: &ColumnSpec, prompt: &PromptSpec, metrics_by: Option<&str>) -> Self {
        let few_shot = prompt.few_shot.as_ref();
        let named = |name: &Option<String>| name.as_deref().map(Named::new);
        Self {
            id: named(&spec.id),
            prompt: named(&spec.prompt),
            prefix: named(&spec.prefix),
            reference: named(&spec.reference),
            generation: named(&spec.generation),
            label: named(&spec.label),
            examples_by: few_shot.and_then(|few_shot| named(&few_shot.by)),
            metrics_by: metrics_by.map(Named::new),
            following: match (&spec.target, &spec.choices, &spec.answer) {
                (Some(targets), ..) => Some(Following::targets(targets)),
                (None, Some(choices), _) => Some(Following::choices(choices)),
                (None, None, Some(answers)) => Some(Following::answers(answers)),
                (None, None, None) => None,
            },
        }
    }
}

/// What helps where no row of the input has a column: the nearest one, else the list of them.
pub(super) fn columns_cure(name: &str, index: &InputIndex) -> String {
    let known = || index.columns.iter().map(|column| column.name.as_str());
    if let Some(known) = nearest(name, known()) {
        return format!("did you mean `{known}`?");
    }
    if let Some((column, path)) = name.split_once('.')
        && let Some(known) = nearest(column, known())
    {
        return format!("did you mean `{known}.{path}`?");
    }
    let list: Vec<String> = known().take(20).map(|known| format!("`{known}`")).collect();
    format!("the input has {}", list.join(", "))
}

/// The column that the results take as `id`: the job's, else `id` where the input has it.
pub fn id_column(columns: &ColumnSpec, index: &InputIndex) -> Option<String> {
    let known = index.columns.iter().any(|column| column.name == DEFAULT_ID);
    columns
        .id
        .clone()
        .or_else(|| known.then(|| DEFAULT_ID.to_owned()))
}
