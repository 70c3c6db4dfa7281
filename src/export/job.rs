//! The job whose results are exported: what they hold, and which exports they can give.

use std::path::PathBuf;

use arrow_schema::{DataType, Field, Schema, SchemaRef};

use super::format::{Format, Source};
use super::own::OwnColumns;
use super::prompts::{confirmed, in_words};
use super::{ExportOptions, Result, refused};
use crate::checkpoint::{self, CheckpointError, CommittedWindow, JobRecord, OutputFolder};
use crate::error::Error;
use crate::input::{self, InputError, InputFormat};
use crate::run::input_types;
use crate::sink;
use crate::stop::StopFlag;
use crate::tasks;

/// A job, as far as exports need to know it.
pub(super) struct Job<'a> {
    pub(super) folder: &'a OutputFolder,
    pub(super) record: &'a JobRecord,
    pub(super) source: Option<Source>,
    /// Names of the columns of the results, with those of the input.
    pub(super) columns: Vec<String>,
    /// Those of them that the job has made.
    pub(super) own: OwnColumns,
    pub(super) windows: Vec<CommittedWindow>,
}

impl<'a> Job<'a> {
    pub(super) fn new(folder: &'a OutputFolder, record: &'a JobRecord) -> Result<Self> {
        let id = input::id_column(&record.spec.input.columns, &record.input);
        let form = tasks::form(&record.spec);
        let columns = sink::result_columns(&form, &record.input, id.as_deref())?;
        let windows = checkpoint::committed_windows(folder)?;
        if windows.is_empty() {
            return Err(refused(format!(
                "`{}` has no committed rows yet\nhint: `glm-batch status` tells how far the job has come; each window is committed when its last row is done",
                folder.root().display()
            )));
        }
        Ok(Self {
            folder,
            record,
            source: Source::of(&record.spec),
            columns,
            own: OwnColumns::new(&form),
            windows,
        })
    }

    /// The part of a window, if it is still what the job has written. The rows are read right after it, from the memory
    /// of the system.
    pub(super) fn part(&self, window: &CommittedWindow, stop: &StopFlag) -> Result<PathBuf> {
        match checkpoint::unchanged(self.folder, &window.part, stop) {
            Err(CheckpointError::Interrupted) => Err(Error::Interrupted.into()),
            found => Ok(found?),
        }
    }

    /// Refuses what does not go together.
    pub(super) fn check(&self, options: &ExportOptions<'_>) -> Result<()> {
        let format = options.format;
        self.check_format(format)?;
        for (is_set, flag, fits, formats) in [
            (
                options.conversational,
                "--conversational",
                format.is_trl(),
                "the formats of TRL",
            ),
            (
                options.prompt_template.is_some(),
                "--prompt-template",
                format.has_prompt_text(),
                "the formats of TRL, `alpaca`, `sharegpt` and `messages`",
            ),
            (
                options.margin,
                "--margin",
                format == Format::TrlPreference,
                "`trl-preference`",
            ),
            (
                options.label.is_some(),
                "--label",
                format == Format::TrlUnpaired,
                "`trl-unpaired`",
            ),
        ] {
            if is_set && !fits {
                return Err(refused(format!(
                    "`{flag}` does nothing for `{}`\nhint: it is for {formats}",
                    format.name()
                )));
            }
        }
        if options.margin && !self.own.has("margin") {
            return Err(refused(
                "`--margin` needs the column `margin`, which these results do not have\nhint: `preference` has it".to_owned(),
            ));
        }
        self.check_label(options)?;
        options.filters.check(self.source, &self.own)?;
        if format.is_rows() && options.filters.are_set() && self.own.is_nested() {
            return Err(refused(
                "a line of these results holds all answers of its row, and is not divided\nhint: leave the filters of answers out and use `--where`, or export to a format of single answers".to_owned(),
            ));
        }
        Ok(())
    }

    /// Refuses a label that is lacking, or has nothing to say.
    fn check_label(&self, options: &ExportOptions<'_>) -> Result<()> {
        let is_given = options.label.is_some();
        if is_given && self.source == Some(Source::Preference) {
            return Err(refused(
                "`--label` does nothing for `preference`, whose pairs say which answers are good ones\nhint: leave it out; `--where` chooses pairs, as in `--where \"margin > 1\"`".to_owned(),
            ));
        }
        let has_labels = self.own.has("correct")
            || matches!(self.source, Some(Source::Preference | Source::ScoredPair));
        if options.format == Format::TrlUnpaired && !is_given && !has_labels {
            let example = if self.own.has("mean_logprob") {
                "mean_logprob > -1"
            } else {
                "finish_reason == 'stop'"
            };
            return Err(refused(format!(
                "nothing in these results says which answers are good ones\nhint: say it with `--label`, as in `--label \"{example}\"`"
            )));
        }
        Ok(())
    }

    fn check_format(&self, format: Format) -> Result<()> {
        let gives = |format: Format| match self.source {
            Some(source) => source.gives(format),
            None => format.is_rows(),
        };
        if gives(format) {
            return Ok(());
        }
        let fitting: Vec<&str> = Format::ALL
            .iter()
            .filter(|format| gives(**format))
            .map(|format| format.name())
            .collect();
        let more = if format == Format::TrlPreference && self.source == Some(Source::Score) {
            "; a pair is scored with `input.columns.target = [\"better\", \"worse\"]`"
        } else {
            ""
        };
        Err(refused(format!(
            "results of `{}` have no columns for `{}`\nhint: they can give `{}`{more}",
            self.record.spec.task.name(),
            format.name(),
            fitting.join("`, `")
        )))
    }

    /// The types of the result rows, for parts that do not tell them, and a note where some are lost.
    ///
    /// # Errors
    ///
    /// An export that is to stop.
    pub(super) fn schema(&self, stop: &StopFlag) -> Result<(Schema, Option<String>)> {
        let spec = &self.record.spec;
        let id = input::id_column(&spec.input.columns, &self.record.input);
        let form = tasks::form(spec);
        let (types, note) = self.input_types(stop)?;
        let types = types.as_deref();
        let columns = sink::result_types(&form, &self.record.input, id.as_deref(), types)?;
        let fields = columns.into_iter().map(|column| {
            let kind = match column.kind {
                // The reader of JSON knows zones by their offset alone.
                Some(DataType::Timestamp(unit, Some(_))) => {
                    DataType::Timestamp(unit, Some("+00:00".into()))
                }
                Some(kind) => kind,
                None => DataType::Utf8,
            };
            Field::new(column.name, kind, true)
        });
        Ok((Schema::new(fields.collect::<Vec<_>>()), note))
    }

    /// The types of the columns of the input: where it is Parquet, it alone knows them.
    fn input_types(&self, stop: &StopFlag) -> Result<(Option<SchemaRef>, Option<String>)> {
        let is_own = |name: &String| self.own.has(name);
        let has_types = self.record.input.format == InputFormat::Parquet;
        if !has_types || self.columns.iter().all(is_own) {
            return Ok((None, None));
        }
        let found = confirmed(self.record, stop).map_err(Error::from);
        match found.and_then(|record| input_types(&record)) {
            Ok(types) => Ok((types, None)),
            Err(Error::Interrupted | Error::Input(InputError::Interrupted)) => {
                Err(Error::Interrupted.into())
            }
            Err(error) => {
                let what = match error {
                    Error::Input(error) => in_words(&error),
                    error => error.to_string(),
                };
                let what = what.lines().next().unwrap_or_default().to_owned();
                Ok((
                    None,
                    Some(format!(
                        "note: {what}; the columns of the input have the types of their JSON therefore, in which dates and times are texts and decimals are float64 or texts"
                    )),
                ))
            }
        }
    }
}
