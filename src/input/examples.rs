//! The file of `prompt.few_shot` to solved rows, which tasks make examples of.
//!
//! It is read as an input is: the same formats, columns and rules. All of its rows are in memory.

use std::path::Path;
use std::sync::Arc;

use super::error::InputError;
use super::types::{InputFile, InputIndex, InputRow, Place, Prompt, Reference};
use super::{
    FoundFile, MAX_WINDOW_BYTES, OpenOptions, PromptSource, ScanOptions, open, open_with, scan,
};
use crate::job::{
    CarriedColumns, ColumnSpec, FewShotSpec, InputSpec, JobSpec, OnBadRow, PromptSpec, RowForm,
    Rules, Unfinished,
};
use crate::stop::StopFlag;

/// What is read, and how.
pub(crate) struct ExampleOptions<'a> {
    /// The job, which has `prompt.few_shot`.
    pub spec: &'a JobSpec,
    /// The rules that the job goes by.
    pub rules: Rules,
    /// Says that reading should end.
    pub stop: &'a StopFlag,
}

/// A file of examples.
pub(crate) struct ExampleFile {
    /// What identifies its content.
    pub file: InputFile,
    /// Its rows in their order, at least one.
    pub rows: Vec<SolvedRow>,
}

/// A row that may become an example.
pub(crate) struct SolvedRow {
    /// Its place, in words.
    pub place: String,
    /// What the job makes of it as of a row of its own, or the text that the template of examples gives.
    pub prompt: Prompt,
    /// The expected answer.
    pub reference: Option<Reference>,
    /// What the job would ask if it were a row of its own: text and prefix. `None` where it cannot be one.
    pub question: Option<(String, Option<String>)>,
}

/// Reads the file of examples.
///
/// # Errors
///
/// [`InputError::Examples`] with what is wrong: a file that cannot be read, no rows, a column that no row has, a row
/// that cannot be an example; [`InputError::Interrupted`].
pub(crate) fn read_examples(
    few_shot: &FewShotSpec,
    options: &ExampleOptions<'_>,
) -> Result<ExampleFile, InputError> {
    read(few_shot, options).map_err(|error| match error {
        InputError::Interrupted => InputError::Interrupted,
        error => InputError::Examples {
            path: few_shot.path.clone(),
            source: Box::new(error),
        },
    })
}

fn read(few_shot: &FewShotSpec, options: &ExampleOptions<'_>) -> Result<ExampleFile, InputError> {
    let spec = options.spec;
    let ExampleInput {
        input,
        prompt,
        choices,
    } = ExampleInput::new(few_shot, spec);
    let files = [FoundFile::from(one_file(&few_shot.path)?)];
    let index = scan(&ScanOptions {
        spec: &input,
        prompt: &prompt,
        choices,
        files: &files,
        rules: options.rules,
        window_rows: u32::MAX,
        shards: 1,
        max_window_bytes: MAX_WINDOW_BYTES,
        previous: None,
        stop: options.stop,
    })?
    .index;
    let Some(file) = index.files.first().filter(|_| index.rows > 0).cloned() else {
        return Err(InputError::NoExamples);
    };
    let index = Arc::new(index);
    let opening = OpenOptions {
        input: &input,
        prompt: &prompt,
        group: None,
        choices,
        carried: &CarriedColumns::None,
        rules: options.rules,
    };
    let key = match few_shot.template {
        Some(_) => "prompt.few_shot.template",
        None => "prompt.template",
    };
    let source = open_with(key, &opening, Arc::clone(&index))?;
    let mut rows = solved(rows_of(source, &index, options.stop)?)?;
    if few_shot.template.is_some() {
        // Whether a row would see itself is told by its prompt, which no row of the file need give.
        let own = InputSpec {
            columns: asked_columns(&spec.input.columns),
            ..input.clone()
        };
        let opening = OpenOptions {
            input: &own,
            prompt: &spec.prompt,
            choices: spec.template_choices(),
            ..opening
        };
        let source = open(&opening, Arc::clone(&index)).ok();
        let asked = source.map(|source| rows_of(source, &index, options.stop));
        let asked = asked.transpose()?.unwrap_or_default();
        for (row, asked) in rows.iter_mut().zip(asked) {
            row.question = asked
                .outcome
                .ok()
                .map(|prompt| question(prompt.into_inner()));
        }
    } else {
        for row in &mut rows {
            row.question = Some(question(row.prompt.clone()));
        }
    }
    Ok(ExampleFile { file, rows })
}

/// The one file that the path names.
fn one_file(path: &Path) -> Result<std::path::PathBuf, InputError> {
    let other = |what| InputError::NoExampleFile {
        what,
        cure: "name one file of JSON lines or Parquet",
    };
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() => Ok(path.to_owned()),
        Ok(found) if found.is_dir() => Err(other("is a folder")),
        Ok(_) => Err(other("is neither a file nor a folder")),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => {
            Err(InputError::NoExampleFile {
                what: "does not exist",
                cure: "a relative path starts at the folder of the job file",
            })
        }
        Err(source) => Err(InputError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

/// The file of examples as an input of its own.
struct ExampleInput<'a> {
    input: InputSpec,
    prompt: PromptSpec,
    choices: Option<&'a [String]>,
}

impl<'a> ExampleInput<'a> {
    fn new(few_shot: &FewShotSpec, spec: &'a JobSpec) -> Self {
        // The intro is that of the row which is asked.
        let few_shot = FewShotSpec {
            intro: None,
            ..few_shot.clone()
        };
        let input = |columns| InputSpec {
            format: RowForm::Rows,
            path: vec![few_shot.path.to_string_lossy().into_owned()],
            columns,
            on_bad_row: OnBadRow::Record,
            filter: None,
            skip: 0,
            limit: None,
            unfinished: Unfinished::default(),
            max_row_bytes: spec.input.max_row_bytes,
        };
        if few_shot.template.is_some() {
            return Self {
                input: input(ColumnSpec::default()),
                prompt: PromptSpec {
                    template: few_shot.template.clone(),
                    few_shot: Some(few_shot),
                    ..PromptSpec::default()
                },
                choices: None,
            };
        }
        Self {
            input: input(ColumnSpec {
                id: None,
                generation: None,
                ..spec.input.columns.clone()
            }),
            prompt: PromptSpec {
                few_shot: Some(few_shot),
                ..spec.prompt.clone()
            },
            choices: spec.template_choices(),
        }
    }
}

/// The columns that a prompt is made of.
fn asked_columns(columns: &ColumnSpec) -> ColumnSpec {
    ColumnSpec {
        prompt: columns.prompt.clone(),
        messages: columns.messages.clone(),
        prefix: columns.prefix.clone(),
        choices: columns.choices.clone(),
        ..ColumnSpec::default()
    }
}

fn rows_of(
    mut source: Box<dyn PromptSource>,
    index: &InputIndex,
    stop: &StopFlag,
) -> Result<Vec<InputRow>, InputError> {
    source.stop_with(stop);
    let mut rows = Vec::new();
    for span in &index.windows {
        rows.extend(source.read_window(span)?.rows);
        if stop.is_requested() {
            return Err(InputError::Interrupted);
        }
    }
    Ok(rows)
}

/// Rows that all have a prompt, or the first one that has none.
fn solved(rows: Vec<InputRow>) -> Result<Vec<SolvedRow>, InputError> {
    let solved = |row: InputRow| {
        let place = match row.place {
            Place::Line { line, .. } => format!("line {line}"),
            Place::RowGroup { row_group, row, .. } => format!("row group {row_group}, row {row}"),
        };
        match row.outcome {
            Ok(prompt) => Ok(SolvedRow {
                place,
                prompt: prompt.into_inner(),
                reference: row.reference,
                question: None,
            }),
            Err(bad) => Err(InputError::BadExample {
                place,
                reason: bad.reason,
            }),
        }
    };
    rows.into_iter().map(solved).collect()
}

fn question(prompt: Prompt) -> (String, Option<String>) {
    (prompt.text, prompt.prefix)
}
