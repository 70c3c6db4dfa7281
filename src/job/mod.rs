//! Job TOML to a validated [`JobSpec`].
//!
//! Text becomes a tree whose values know their place (`tree`), with `--set` and `${NAME}` worked in.
//! Keys of later versions are answered (`later`), the tree is read into the structs of `sections`, and
//! these are checked, alone and together (`spec`): every range kept, every path absolute. The same
//! structs give the JSON Schema (`schema`), the form of `job.json` and, through `row`, the settings of
//! one row. Invariant: no text, however broken, panics; every error names the place, the key and,
//! where there is one, the cure.
//!
//! Neighbours: imports nothing of ours; every later stage reads [`JobSpec`].

mod difference;
mod error;
mod flags;
mod flaw;
mod hint;
mod later;
mod lengths;
mod paths;
mod phases;
mod problem;
mod row;
mod rules;
mod schema;
mod sections;
mod spec;
mod tasks;
mod tree;
mod values;

use std::path::Path;

pub(crate) use difference::differences;
pub use error::{Hint, Place, SpecError};
pub(crate) use flags::{FlagJob, JobFlags, is_kept};
pub(crate) use hint::nearest;
pub(crate) use lengths::Lengths;
pub(crate) use problem::{read_word, shown};

pub(crate) use phases::PHASES_FOLDER;
pub use phases::Phase;
pub use rules::Rules;
pub use schema::{job_keys, json_schema};
pub use sections::batch::BatchSpec;
pub use sections::beams::{EarlyStopping, LengthOver};
pub use sections::checkpoint::CheckpointSpec;
pub(crate) use sections::choose::{ChooseMethod, ChooseSpec, LabelForm, Normalize};
pub use sections::few_shot::{FewShotSpec, ShotOrder};
pub use sections::generation::{GenerationSpec, MaxNewTokens};
pub use sections::infill::InfillSpec;
pub use sections::input::{ColumnNames, ColumnSpec, InputSpec, OnBadRow, RowForm, Unfinished};
pub use sections::model::ModelSpec;
pub use sections::output::{CarriedColumns, OutputFormat, OutputSpec, SampleLayout};
pub use sections::preference::{Pairs, PreferenceSpec, Rank};
pub(crate) use sections::prompt::DEFAULT_TURNS;
pub use sections::prompt::{MaskToken, Overflow, PromptSpec};
pub use sections::reward::RewardSpec;
pub use sections::score::{ScoreMethod, ScoreSpec, TargetOverflow};
pub use spec::JobSpec;
pub use tasks::Task;

/// Reads a job file.
///
/// `overrides` are the `key=value` arguments of `--set`. Relative paths are taken from the
/// folder of the job file, `${NAME}` from the environment.
///
/// # Errors
///
/// [`SpecError`] names the file and line (or the `--set` argument), the key and the cure.
pub fn load(path: &Path, overrides: &[String]) -> Result<JobSpec, SpecError> {
    let read = |source| SpecError::Read {
        path: path.to_path_buf(),
        source,
    };
    let bytes = std::fs::read(path).map_err(read)?;
    let source = path.display().to_string();
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        SpecError::Syntax {
            place: Place::Line {
                source: source.as_str().into(),
                line: tree::line_at(valid, valid.len()),
            },
            message: "the text is not UTF-8".into(),
            hint: Hint::some("save the job file as UTF-8"),
        }
    })?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let base = folder
        .unwrap_or(Path::new("."))
        .canonicalize()
        .map_err(read)?;
    parse(&text, &source, &base, overrides)
}

/// Says where a key of a job, or its section, is written: for a value that only a later stage finds wrong.
/// `None` where the file cannot be read any more.
pub(crate) fn place_of(path: &Path, overrides: &[String], key: &str) -> Option<Place> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut tree = tree::parse(&text, &path.display().to_string()).ok()?;
    for argument in overrides {
        tree::set::apply_override(&mut tree, argument).ok()?;
    }
    tree.place_of(key)
}

/// Reads a job from its text; messages give `source` as the file's name, and relative paths start from the
/// folder `base`.
///
/// # Errors
///
/// Those of [`load`], except those of reading the file.
///
/// # Examples
///
/// ```
/// let text = r#"
///     version = 1
///     model.path = "models/glm"
///     input.path = "questions.jsonl"
///     input.columns.prompt = "question"
///     output.path = "out"
/// "#;
/// let set = ["generation.max_new_tokens=64".to_string()];
/// let job = glm_batch::parse_job(text, "job.toml", "/data".as_ref(), &set)?;
/// assert_eq!(job.input.path, ["/data/questions.jsonl"]);
/// # Ok::<(), glm_batch::SpecError>(())
/// ```
pub fn parse(
    text: &str,
    source: &str,
    base: &Path,
    overrides: &[String],
) -> Result<JobSpec, SpecError> {
    parse_with(text, source, base, overrides, &|name| {
        std::env::var(name).ok()
    })
}

/// [`parse`] with the environment passed in.
fn parse_with(
    text: &str,
    source: &str,
    base: &Path,
    overrides: &[String],
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<JobSpec, SpecError> {
    let mut tree = tree::parse(text, source)?;
    for argument in overrides {
        tree::set::apply_override(&mut tree, argument)?;
    }
    tree::environment::expand_environment(&mut tree, environment)?;
    later::refuse(&tree)?;
    let file: spec::JobFile = tree::reader::read(&tree).map_err(problem::Problem::into_error)?;
    let origin = spec::Origin {
        source,
        base,
        is_kept: is_kept(text),
    };
    file.check(&tree, &origin)
}

#[cfg(test)]
mod tests;
