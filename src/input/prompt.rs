//! One record's columns to its id and its [`Prompt`], or the reason why the row is bad.
//!
//! JSON lines and Parquet rows come through the same [`Record`], so that equal rows give equal
//! prompts. The rules for each column are in the [module documentation](super).

mod columns;
mod own_settings;
mod reference;

use serde_json::Value;

pub(super) use self::columns::DEFAULT_ID;
pub use self::columns::id_column;
use self::columns::{Columns, columns_cure};
use self::own_settings::OwnSettings;
use self::reference::references;
use super::built::{Built, bad};
use super::cell::{Cell, Record};
use super::conversation::{Conversation, turn};
use super::error::InputError;
use super::following::Following;
use super::nested::Named;
use super::rows_taken::RowsTaken;
use super::suggested_template::template_for;
use super::template::{Template, is_blank};
use super::types::{InputIndex, Label, Prompt, Reference};
use crate::ids::RowId;
use crate::job::{InputSpec, PromptSpec, RowForm, Rules};
use crate::outcome::{BadRow, LeftOut};
use crate::stop::StopFlag;

/// Where requests for completions have their prompt.
const BODY_PROMPT: &str = "body.prompt";

/// What of a job makes a prompt of a record.
pub(super) struct Wanted<'a> {
    /// The key whose value `prompt.template` is, for messages.
    pub(super) template_key: &'static str,
    pub(super) input: &'a InputSpec,
    pub(super) prompt: &'a PromptSpec,
    /// Column whose values split the metrics into groups.
    pub(super) group: Option<&'a str>,
    /// Where the template is filled once for each choice: the choices of rows without their own.
    pub(super) choices: Option<&'a [String]>,
    pub(super) rules: Rules,
}

/// Makes prompts from records.
pub(super) struct PromptBuilder {
    rows_taken: RowsTaken,
    columns: Columns,
    template_key: &'static str,
    template: Option<Template>,
    conversation: Option<Conversation>,
    /// Makes the text before the first example.
    intro: Option<Template>,
    prefix: Option<String>,
    form: RowForm,
    /// Where a request has its prompt if it has no messages.
    completion: Option<Named>,
    /// Where the template is filled once for each choice: the choices of rows without their own.
    choices: Option<Vec<String>>,
    rules: Rules,
    /// Whether a prompt keeps the conversation that it was made of.
    keeps_turns: bool,
    /// Set where the run is to stop: rows are not looked at any more, and nothing is made of them.
    stop: StopFlag,
}

impl PromptBuilder {
    /// Compiles the template and keeps what the job says about columns.
    pub(super) fn new(wanted: &Wanted<'_>) -> Result<Self, InputError> {
        let Wanted {
            template_key,
            input,
            prompt,
            group,
            choices,
            rules,
        } = *wanted;
        let columns = &input.columns;
        let rows_taken = RowsTaken::new(input, rules)?;
        let template = prompt.template.as_deref();
        let template = template
            .map(|source| Template::new(template_key, source, rules, choices.is_some()))
            .transpose()?;
        let conversation = columns.messages.as_deref();
        let conversation = conversation
            .map(|column| Conversation::new(column, prompt.turns.as_deref(), rules))
            .transpose()?;
        let few_shot = prompt.few_shot.as_ref();
        let intro = few_shot.and_then(|few_shot| few_shot.intro.as_deref());
        let intro = intro
            .map(|source| Template::new("prompt.few_shot.intro", source, rules, false))
            .transpose()?;
        let names_choice = template.as_ref().is_some_and(Template::names_choice);
        if choices.is_some() && !names_choice {
            return Err(InputError::NoChoice);
        }
        if template.is_none() && conversation.is_none() && columns.prompt.is_none() {
            return Err(InputError::NoPrompt);
        }
        Ok(Self {
            rows_taken,
            columns: Columns::new(columns, prompt, group),
            template_key,
            template,
            conversation,
            intro,
            prefix: prompt.prefix.clone(),
            form: input.format,
            completion: input.may_lack_messages().then(|| Named::new(BODY_PROMPT)),
            choices: choices.map(<[String]>::to_vec),
            rules,
            keeps_turns: false,
            stop: StopFlag::default(),
        })
    }

    /// Keeps conversations beside their prompts.
    pub(super) fn keep_turns(&mut self) {
        self.keeps_turns = true;
    }

    /// Leaves rows unread once `stop` is set.
    pub(super) fn stop_with(&mut self, stop: &StopFlag) {
        self.stop = stop.clone();
    }

    /// Set where the run is to stop.
    pub(super) fn stop(&self) -> &StopFlag {
        &self.stop
    }

    /// Columns that [`build`](Self::build) looks at; not all of them need exist.
    pub(super) fn used_columns(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.named().map(|(_, named)| named.column()).collect();
        if self.columns.id.is_none() {
            names.push(DEFAULT_ID);
        }
        names.extend(self.rows_taken.used_columns());
        let templates = self.template.iter().chain(&self.intro);
        names.extend(templates.flat_map(Template::names));
        names.extend(self.conversation.iter().flat_map(Conversation::names));
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The columns that the job names, each with its key.
    pub(super) fn named(&self) -> impl Iterator<Item = (&'static str, &Named)> {
        let columns = &self.columns;
        let prompt = columns.prompt.as_ref();
        // Requests for completions have no messages.
        let conversation = self.conversation.as_ref();
        let conversation = conversation.filter(|_| self.completion.is_none());
        [
            ("input.columns.id", columns.id.as_ref()),
            (
                "input.columns.prompt",
                prompt.filter(|_| self.template.is_none()),
            ),
            (
                "input.columns.messages",
                conversation.map(|turns| &turns.named),
            ),
            ("input.columns.prefix", columns.prefix.as_ref()),
            ("input.columns.reference", columns.reference.as_ref()),
            ("report.by", columns.metrics_by.as_ref()),
            ("input.columns.generation", columns.generation.as_ref()),
            ("input.columns.label", columns.label.as_ref()),
            ("prompt.few_shot.by", columns.examples_by.as_ref()),
        ]
        .into_iter()
        .filter_map(|(key, named)| Some((key, named?)))
        .chain(columns.following.iter().flat_map(Following::named))
    }

    /// Finds the columns that the job names among those of the input.
    ///
    /// # Errors
    /// [`InputError::UnknownColumn`] for a column that no row has, [`InputError::NeitherTextNorList`].
    pub(super) fn resolve(&mut self, index: &InputIndex) -> Result<(), InputError> {
        if !index.has_own_columns() {
            // No rows, or broken ones alone: there is nothing to compare with.
            return Ok(());
        }
        if !index.earlier.is_empty() {
            self.rows_taken.expect_results();
        }
        if let Some(named) = &mut self.completion {
            named.resolve(index);
        }
        let columns = &mut self.columns;
        let all = [
            &mut columns.id,
            &mut columns.prompt,
            &mut columns.prefix,
            &mut columns.reference,
            &mut columns.metrics_by,
            &mut columns.generation,
            &mut columns.label,
            &mut columns.examples_by,
        ];
        let conversation = self.conversation.iter_mut().map(|turns| &mut turns.named);
        let mut missing = Vec::new();
        let following = columns.following.iter_mut();
        let following = following.flat_map(Following::columns_mut);
        for named in all
            .into_iter()
            .flatten()
            .chain(conversation)
            .chain(following)
        {
            if !named.resolve(index) {
                missing.push(named.name().to_owned());
            }
        }
        let is_unknown = |name: &&str| !index.columns.iter().any(|column| column.name == **name);
        let unknown = self
            .named()
            .map(|(key, named)| (key, named.name()))
            .find(|(_, name)| missing.iter().any(|one| one == name))
            .or_else(|| self.in_templates().find(|(_, name)| is_unknown(name)))
            .or_else(|| Some(("input.where", self.rows_taken.names().find(is_unknown)?)));
        match unknown {
            None => match &self.columns.following {
                Some(following) => following.check(index),
                None => Ok(()),
            },
            Some((key, name)) => Err(InputError::UnknownColumn {
                key,
                column: name.to_owned(),
                cure: columns_cure(name, index),
            }),
        }
    }

    /// Why a row is left out, where its number tells.
    pub(super) fn left_out(&self, row: RowId) -> Option<LeftOut> {
        self.rows_taken.by_number(row)
    }

    /// The columns without which a template fails, each with the key of the template.
    fn in_templates(&self) -> impl Iterator<Item = (&'static str, &str)> {
        fn of<'a>(
            key: &'static str,
            template: Option<&'a Template>,
        ) -> impl Iterator<Item = (&'static str, &'a str)> {
            let names = template.into_iter().flat_map(Template::required_names);
            names.map(move |name| (key, name))
        }
        let turns = self.conversation.iter();
        let turns = turns.flat_map(Conversation::required_names);
        of(self.template_key, self.template.as_ref())
            .chain(turns.map(|name| ("prompt.turns", name)))
            .chain(of("prompt.few_shot.intro", self.intro.as_ref()))
    }

    /// The row's id and reference, and its prompt or the reason why it has none; `is_result` where it is a line of
    /// an earlier job's results.
    pub(super) fn build(&self, row: RowId, record: &dyn Record, is_result: bool) -> Built {
        if self.stop.is_requested() {
            return Built::bad(row, "interrupted".to_owned());
        }
        let failed = match self.rows_taken.by_columns(record, is_result) {
            Ok(Some(why)) => return Built::left_out(row, why),
            Ok(None) => None,
            Err(reason) => Some(bad(reason)),
        };
        let id = self.id(row, record);
        let reference = self.reference(record);
        let (id, outcome) = match id {
            Ok(id) => (id, self.prompt(record)),
            Err(bad) => (row.to_string(), Err(bad)),
        };
        let outcome = failed.map_or(outcome, Err);
        let (reference, outcome) = match reference {
            Ok(reference) => (reference, outcome),
            Err(bad) => (None, outcome.and(Err(bad))),
        };
        Built {
            id,
            reference,
            group: self.metrics_group(record),
            left_out: None,
            outcome,
        }
    }

    fn id(&self, row: RowId, record: &dyn Record) -> Result<String, BadRow> {
        let (name, cell) = match &self.columns.id {
            Some(named) => (named.name(), named.cell(record)),
            None => (DEFAULT_ID, record.cell(DEFAULT_ID)),
        };
        match cell {
            Cell::Absent | Cell::Null => Ok(row.to_string()),
            Cell::Text(id) if id.is_empty() => Ok(row.to_string()),
            Cell::Text(id) | Cell::Number(id) => Ok(id.into_owned()),
            Cell::Other(kind) => Err(bad(format!(
                "id column `{name}` holds {kind}, not a text or a number"
            ))),
        }
    }

    fn prompt(&self, record: &dyn Record) -> Result<Prompt, BadRow> {
        let (mut filled, mut turns) = (Vec::new(), Vec::new());
        let text = match (&self.template, &self.conversation, &self.columns.prompt) {
            (Some(template), ..) if self.choices.is_some() => {
                filled = self.filled(template, record)?;
                filled.first().cloned().unwrap_or_default()
            }
            (Some(template), ..) => template.render(record, None)?,
            (None, Some(conversation), _) => {
                if let Some(prompt) = self.completed(record)? {
                    self.required_text(prompt, record)?
                } else {
                    let (text, messages) = conversation.text(record)?;
                    if self.keeps_turns {
                        turns = messages.iter().map(turn).collect();
                    }
                    text
                }
            }
            (None, None, Some(named)) => self.required_text(named, record)?,
            (None, None, None) => return Err(bad("the job names no prompt column".to_owned())),
        };
        let own_prefix = Self::optional("prefix", self.columns.prefix.as_ref(), record)?;
        let own = OwnSettings::of(self.columns.generation.as_ref(), self.form, record)?;
        Ok(Prompt {
            text,
            prefix: own_prefix.or_else(|| self.prefix.clone()),
            overrides: own.overrides,
            has_passed_over: own.has_passed_over,
            following: self.following(record)?,
            label: self.label(record)?,
            group: self.examples_group(record)?,
            intro: self.intro(record)?,
            filled,
            turns,
        })
    }

    /// The prompt of a request for a completion, which has no messages.
    fn completed(&self, record: &dyn Record) -> Result<Option<&Named>, BadRow> {
        let (Some(prompt), Some(conversation)) = (&self.completion, &self.conversation) else {
            return Ok(None);
        };
        let has = |named: &Named| !matches!(named.cell(record), Cell::Absent | Cell::Null);
        match (has(&conversation.named), has(prompt)) {
            (true, _) => Ok(None),
            (false, true) => Ok(Some(prompt)),
            (false, false) => Err(bad(
                "the request's `body` has neither `messages` nor `prompt`".to_owned(),
            )),
        }
    }

    fn following(&self, record: &dyn Record) -> Result<Vec<String>, BadRow> {
        let texts = self.columns.following.as_ref();
        texts.map_or(Ok(Vec::new()), |texts| texts.texts(record).map_err(bad))
    }

    /// The template filled with each choice of the row.
    fn filled(&self, template: &Template, record: &dyn Record) -> Result<Vec<String>, BadRow> {
        let own = self.following(record)?;
        let choices = match own.as_slice() {
            [] => self.choices.as_deref().unwrap_or_default(),
            own => own,
        };
        let filled = choices
            .iter()
            .map(|choice| template.render(record, Some(choice)));
        filled.collect()
    }

    /// What examples are told apart by; a row without it would be asked without examples.
    fn examples_group(&self, record: &dyn Record) -> Result<Option<String>, BadRow> {
        let Some(named) = &self.columns.examples_by else {
            return Ok(None);
        };
        let what = match named.cell(record) {
            Cell::Text(text) if text.is_empty() => "is empty",
            Cell::Text(value) | Cell::Number(value) => return Ok(Some(value.into_owned())),
            Cell::Absent => "is not in this row",
            Cell::Null => "is null",
            Cell::Other(_) => "holds neither a text nor a number",
        };
        let name = named.name();
        Err(bad(format!(
            "column `{name}`, which `prompt.few_shot.by` compares, {what}"
        )))
    }

    /// What goes before the first example; `None` where the template gives nothing.
    fn intro(&self, record: &dyn Record) -> Result<Option<String>, BadRow> {
        let filled = self.intro.iter().map(|intro| intro.fill(record, None));
        let text = filled.collect::<Result<String, BadRow>>();
        let text = text.map_err(|bad| BadRow {
            reason: format!("`prompt.few_shot.intro`: {}", bad.reason),
            ..bad
        })?;
        Ok(Some(text).filter(|text| !is_blank(text)))
    }

    fn label(&self, record: &dyn Record) -> Result<Option<Label>, BadRow> {
        let Some(named) = &self.columns.label else {
            return Ok(None);
        };
        match named.cell(record) {
            Cell::Absent | Cell::Null => Ok(None),
            Cell::Text(text) => Ok(Some(Label::Text(text.into_owned()))),
            Cell::Number(digits) => Ok(Some(Label::Number(digits.into_owned()))),
            Cell::Other(kind) => Err(bad(format!(
                "label column `{}` holds {kind}, not a text or a number",
                named.name()
            ))),
        }
    }

    /// The expected answer. Data sets have several answers to a question, the best one first.
    fn reference(&self, record: &dyn Record) -> Result<Option<Reference>, BadRow> {
        let named = self.columns.reference.as_ref();
        if let Some(named) = named.filter(|_| self.rules.rows > 2)
            && let Cell::Other(_) = named.cell(record)
            && let Ok(Some(Value::Array(items))) = named.json(record)
        {
            return references(&items).map_err(|what| {
                let name = named.name();
                bad(format!(
                    "reference column `{name}` holds a list that begins with {what}, not with a text or an object with the text `answer`"
                ))
            });
        }
        let text = Self::optional("reference", named, record)?;
        Ok(text.map(Reference::new))
    }

    /// The value of the column that splits the metrics: a text as it is, anything else as JSON has it.
    fn metrics_group(&self, record: &dyn Record) -> Option<Box<str>> {
        let named = self.columns.metrics_by.as_ref()?;
        match named.cell(record) {
            Cell::Absent | Cell::Null => None,
            Cell::Text(text) | Cell::Number(text) => Some(text.into()),
            Cell::Other(_) => Some(named.json(record).ok()??.to_string().into()),
        }
    }

    fn optional(
        role: &str,
        named: Option<&Named>,
        record: &dyn Record,
    ) -> Result<Option<String>, BadRow> {
        let Some(named) = named else { return Ok(None) };
        let name = named.name();
        match named.cell(record) {
            Cell::Absent | Cell::Null => Ok(None),
            Cell::Text(text) => Ok(Some(text.into_owned())),
            Cell::Number(number) => Err(bad(format!(
                "{role} column `{name}` holds the number {number}, not a text"
            ))),
            Cell::Other(kind) => Err(bad(format!(
                "{role} column `{name}` holds {kind}, not a text"
            ))),
        }
    }

    fn required_text(&self, named: &Named, record: &dyn Record) -> Result<String, BadRow> {
        let name = named.name();
        match named.cell(record) {
            Cell::Absent => Err(bad(format!("the row has no prompt column `{name}`"))),
            Cell::Null => Err(bad(format!("prompt column `{name}` is null"))),
            Cell::Text(text) if text.is_empty() => {
                Err(bad(format!("prompt column `{name}` is empty")))
            }
            Cell::Text(text) if is_blank(&text) => Err(bad(format!(
                "prompt column `{name}` holds nothing but white space"
            ))),
            Cell::Text(text) => Ok(text.into_owned()),
            Cell::Number(number) => Err(bad(format!(
                "prompt column `{name}` holds the number {number}, not a text"
            ))),
            Cell::Other(kind) => {
                let value = named.json(record).ok().flatten().unwrap_or_default();
                let template = template_for(name, &value).filter(|_| self.rules.rows > 1);
                let cure = template.map_or_else(String::new, |template| {
                    format!("; `prompt.template = \"{template}\"` makes one of it")
                });
                Err(bad(format!(
                    "prompt column `{name}` holds {kind}, not a text{cure}"
                )))
            }
        }
    }
}

#[cfg(test)]
mod tests;
