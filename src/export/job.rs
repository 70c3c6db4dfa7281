//! The job whose results are exported: what they hold, and which exports they can give.

use arrow_schema::{DataType, Field, Schema};

use super::format::{Format, Source};
use super::{ExportOptions, Result, refused};
use crate::checkpoint::{self, CommittedWindow, JobRecord, OutputFolder};
use crate::input;
use crate::run::Prompts;
use crate::sink;
use crate::tasks;

/// A job, as far as exports need to know it.
pub(super) struct Job<'a> {
    pub(super) folder: &'a OutputFolder,
    pub(super) record: &'a JobRecord,
    pub(super) source: Option<Source>,
    /// Names of the result columns.
    pub(super) columns: Vec<String>,
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
            windows,
        })
    }

    pub(super) fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|name| name == column)
    }

    /// Whether a line of the results holds lists over the answers of its row.
    fn is_nested(&self) -> bool {
        tasks::form(&self.record.spec).is_nested
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
        if options.margin && !self.has("margin") {
            return Err(refused(
                "`--margin` needs the column `margin`, which these results do not have\nhint: `preference` has it".to_owned(),
            ));
        }
        let labels = self.has("correct")
            || matches!(self.source, Some(Source::Preference | Source::ScoredPair));
        if format == Format::TrlUnpaired && options.label.is_none() && !labels {
            return Err(refused(
                "nothing in these results says which answers are good ones\nhint: say it with `--label`, as in `--label \"finish_reason == 'stop'\"`".to_owned(),
            ));
        }
        options.filters.check(self.source, &self.columns)?;
        if format.is_rows() && options.filters.are_set() && self.is_nested() {
            return Err(refused(
                "a line of these results holds all answers of its row, and is not divided\nhint: leave the filters of answers out and use `--where`, or export to a format of single answers".to_owned(),
            ));
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

    /// The types of the result rows, for parts that do not tell them.
    pub(super) fn schema(&self) -> Result<Schema> {
        let spec = &self.record.spec;
        let id = input::id_column(&spec.input.columns, &self.record.input);
        let of_input = |schema: Option<&Schema>| {
            sink::result_types(
                &tasks::form(spec),
                &self.record.input,
                id.as_deref(),
                schema,
            )
        };
        // Types of Parquet are in the input alone. Where it is gone, values of such columns are written as texts.
        let schema = Prompts::new(self.record)
            .ok()
            .and_then(|input| input.arrow_schema());
        let columns = of_input(schema.as_deref())?;
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
        Ok(Schema::new(fields.collect::<Vec<_>>()))
    }
}
