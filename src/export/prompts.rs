//! A row to its prompt and prefix: as the results have kept them, else made again from the input.

use std::fmt;

use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value as Context, escape_formatter};
use serde_json::Value;

use super::{ExportError, Result, refused};
use crate::checkpoint::JobRecord;
use crate::error::Error;
use crate::ids::RowId;
use crate::input::{self, InputError, Turn};
use crate::run::Prompts;
use crate::sink::ResultRow;
use crate::stop::StopFlag;

/// What a template may name beside the columns.
const OWN_NAMES: [&str; 2] = ["prompt", "prefix"];

/// Name of the template in its environment.
const NAME: &str = "prompt";

/// Steps that a template may take for a row.
const TEMPLATE_STEPS: u64 = 1_000_000;

/// What the model was given for a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Texts {
    pub(super) prompt: String,
    pub(super) prefix: Option<String>,
    /// Texts of the row that were scored or judged.
    pub(super) following: Vec<String>,
    /// The conversation that the prompt is, where it is one and nothing else.
    pub(super) turns: Vec<Turn>,
}

impl Texts {
    /// The prefix; empty where there is none.
    pub(super) fn prefix(&self) -> &str {
        self.prefix.as_deref().unwrap_or_default()
    }

    /// Prompt and prefix in one text, with a line break between them.
    pub(super) fn whole(&self) -> String {
        match self.prefix() {
            "" => self.prompt.clone(),
            prefix => format!("{}\n{prefix}", self.prompt),
        }
    }
}

/// Where prompts come from.
pub(super) enum Origin {
    /// `rendered_prompt` and `rendered_prefix` of the results.
    Kept,
    /// The input of the job.
    Input(Box<Prompts>),
}

/// What an export needs of its prompts.
pub(super) struct Needs {
    /// Whether the results hold the texts.
    pub(super) is_kept: bool,
    /// Whether conversations are wanted turn by turn, which the results never hold.
    pub(super) turns: bool,
}

impl Origin {
    /// Opens the input, if it is needed; also what is to be known of it.
    pub(super) fn open(
        record: &JobRecord,
        needs: &Needs,
        stop: &StopFlag,
    ) -> Result<(Self, Option<String>)> {
        let prompt = &record.spec.prompt;
        let is_conversation = record.spec.input.columns.messages.is_some()
            && prompt.template.is_none()
            && prompt.few_shot.is_none();
        let has_turns = needs.turns && is_conversation;
        if needs.is_kept && !has_turns {
            return Ok((Self::Kept, None));
        }
        let opened = confirmed(record, stop)
            .map_err(Error::from)
            .and_then(|record| Prompts::new(&record));
        match opened {
            Ok(prompts) => Ok((Self::Input(Box::new(prompts)), None)),
            Err(Error::Interrupted | Error::Input(InputError::Interrupted)) => {
                Err(Error::Interrupted.into())
            }
            Err(error) if needs.is_kept => {
                let what = match error {
                    Error::Input(error) => in_words(&error),
                    error => error.to_string(),
                };
                let what = what.lines().next().unwrap_or_default().to_owned();
                let note = format!(
                    "note: {what}; conversations are written as one text therefore, as the model was asked"
                );
                Ok((Self::Kept, Some(note)))
            }
            Err(Error::Input(error)) => Err(changed(error)),
            Err(error) => Err(error.into()),
        }
    }

    /// The texts of a row; `None` where it has no prompt.
    pub(super) fn of(&mut self, line: &ResultRow) -> Result<Option<Texts>> {
        let text = |name: &str| line.get(name).and_then(Value::as_str).map(str::to_owned);
        let prompts = match self {
            Self::Kept => {
                return Ok(text("rendered_prompt").map(|prompt| Texts {
                    prompt,
                    prefix: text("rendered_prefix"),
                    ..Texts::default()
                }));
            }
            Self::Input(prompts) => prompts,
        };
        let row = line.get("row").and_then(Value::as_u64).unwrap_or_default();
        let prompt = prompts.of(RowId(row)).map_err(|error| match error {
            Error::Input(error) => changed(error),
            error => error.into(),
        })?;
        Ok(prompt.map(|prompt| Texts {
            prompt: prompt.text.clone(),
            prefix: prompt.prefix.clone(),
            following: prompt.following.clone(),
            turns: prompt.turns.clone(),
        }))
    }
}

/// A job whose input is still what it has read, whenever its files were written.
///
/// # Errors
///
/// [`InputError`], where it is gone or has other bytes.
pub(super) fn confirmed(
    record: &JobRecord,
    stop: &StopFlag,
) -> std::result::Result<JobRecord, InputError> {
    let mut record = record.clone();
    input::confirm(&mut record.input, record.rules, stop)?;
    Ok(record)
}

/// What is wrong with an input.
pub(super) fn in_words(error: &InputError) -> String {
    match error {
        InputError::Io { path, source } => {
            format!("the input `{}` cannot be read: {source}", path.display())
        }
        InputError::Changed { path, what } => format!(
            "the input `{}` changed since the job read it: {what}",
            path.display()
        ),
        error => error.to_string(),
    }
}

/// An input that prompts cannot be made of any more, in words that help.
fn changed(error: InputError) -> ExportError {
    if !matches!(error, InputError::Io { .. } | InputError::Changed { .. }) {
        return error.into();
    }
    refused(format!(
        "the results do not have what the rows asked, and {}\nhint: put the file back as it was (the same bytes are the same file); a job with `output.prompt = true` keeps its prompts in the results",
        in_words(&error)
    ))
}

/// Makes the text of a prompt of `prompt`, `prefix` and the columns.
pub(super) struct PromptTemplate(Environment<'static>);

impl fmt::Debug for PromptTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PromptTemplate")
    }
}

impl PromptTemplate {
    /// Compiles a template over the columns of the results.
    pub(super) fn new(text: &str, columns: &[String]) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_fuel(Some(TEMPLATE_STEPS));
        environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        environment.set_formatter(|out, state, value| {
            if value.is_none() || value.is_undefined() {
                let reason = "an undefined or null value is printed";
                return Err(minijinja::Error::new(ErrorKind::UndefinedError, reason));
            }
            escape_formatter(out, state, value)
        });
        environment
            .add_template_owned(NAME, text.to_owned())
            .map_err(|error| wrong(&error, None))?;
        let names = environment
            .get_template(NAME)
            .map(|it| it.undeclared_variables(false));
        let mut names: Vec<String> = names
            .map_err(|error| wrong(&error, None))?
            .into_iter()
            .collect();
        names.sort_unstable();
        let is_known = |name: &String| {
            columns.contains(name)
                || OWN_NAMES.contains(&name.as_str())
                || environment.globals().any(|(known, _)| known == name)
        };
        match names.iter().find(|name| !is_known(name)) {
            None => Ok(Self(environment)),
            Some(name) => Err(refused(format!(
                "`--prompt-template` names the column `{name}`, which these rows do not have\nhint: they have `{}`, and a template also `prompt` and `prefix`",
                columns.join("`, `")
            ))),
        }
    }

    /// The text for a row.
    pub(super) fn render(&self, texts: &Texts, line: &ResultRow) -> Result<String> {
        let mut context = line.clone();
        context.insert("prompt".to_owned(), texts.prompt.clone().into());
        context.insert("prefix".to_owned(), texts.prefix().into());
        let rendered = self
            .0
            .get_template(NAME)
            .and_then(|template| template.render(Context::from(Serde(&context))));
        rendered.map_err(|error| wrong(&error, line.get("row").and_then(Value::as_u64)))
    }
}

fn wrong(error: &minijinja::Error, row: Option<u64>) -> ExportError {
    let place = row.map_or_else(String::new, |row| format!(" for row {row}"));
    let reason = error.to_string();
    let reason: Vec<&str> = reason.split_whitespace().collect();
    refused(format!(
        "`--prompt-template` fails{place}: {}\nhint: it has `prompt`, `prefix` and the columns of the results, as in `--prompt-template '{{{{ prompt }}}} {{{{ prefix }}}}'`",
        reason.join(" ")
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_template_has_prompt_prefix_and_columns() {
        let texts = Texts {
            prompt: "问".to_owned(),
            ..Texts::default()
        };
        let row = json!({"row": 3, "prompt": "hidden", "subject": "历史"});
        let row = row.as_object().unwrap();
        let columns = ["row".to_owned(), "subject".to_owned()];
        let new = |text| PromptTemplate::new(text, &columns);
        let template = new("{{ subject }}：{{ prompt }}{{ prefix }}").unwrap();
        assert_eq!(template.render(&texts, row).unwrap(), "历史：问");
        let message = |error| match error {
            super::super::ExportError::Library(error) => error.to_string(),
            super::super::ExportError::Output(error) => panic!("{error}"),
        };
        let without = json!({"row": 3, "subject": null});
        let error = template.render(&texts, without.as_object().unwrap());
        let error = message(error.unwrap_err());
        assert!(
            error.starts_with("`--prompt-template` fails for row 3: "),
            "{error}"
        );
        let error = message(new("{{ sbject }}").err().unwrap());
        assert!(error.contains("names the column `sbject`"), "{error}");
        assert!(new("{{ prompt").is_err());
    }
}
