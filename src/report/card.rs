//! A finished job to its card: the `README.md` of the output folder.
//!
//! The front matter lets `datasets.load_dataset` read the folder, the rest is for people. Invariant: the text
//! depends on the job, its input, its model and its counts alone, so that every run of the job writes the same;
//! it names no time, no machine and no absolute path.

use std::fmt::{self, Write as _};
use std::path::Path;

use crate::checkpoint::{JobRecord, Totals};
use crate::job::{JobSpec, OutputFormat, Task};
use crate::metrics::Metrics;
use crate::sink::ResultColumn;
use crate::tasks;

use super::features::write_features;
use super::groups::MetricsReport;
use super::loading::{loading, quoted};
use super::{counted, grouped};

/// The line by which a card is known as ours.
pub(crate) const CARD_MARK: &str =
    "<!-- glm-batch keeps this file up to date; without this line it leaves the file alone -->";

/// Digits of the parts' fingerprint that name the results.
const NAMED_DIGITS: usize = 16;

/// Input files that are listed by name.
const LISTED_FILES: usize = 20;

/// What a card tells of.
pub(crate) struct Card<'a> {
    /// The job as its last run saw it.
    pub record: &'a JobRecord,
    /// Name of the output folder.
    pub folder: &'a str,
    /// What should be known of columns that hold texts beside other values, where there are any.
    pub kinds: Option<&'a str>,
    /// Columns of the results.
    pub columns: &'a [ResultColumn],
    /// Counts of all shards.
    pub totals: &'a Totals,
    /// Fingerprint of all parts, in hex.
    pub parts: &'a str,
}

impl fmt::Display for Card<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.front_matter(f)?;
        let name = plain(&self.record.spec.name);
        writeln!(f, "\n# {name}\n\n{CARD_MARK}\n")?;
        self.introduction(f)?;
        self.calls(f)?;
        self.job(f)?;
        self.counts(f)?;
        self.input(f)?;
        self.settings(f)
    }
}

impl Card<'_> {
    fn format(&self) -> OutputFormat {
        self.record.spec.output.format
    }

    fn front_matter(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ending = match self.format() {
            OutputFormat::Parquet => "parquet",
            OutputFormat::Jsonl => "jsonl",
        };
        let (name, files) = (self.configuration(), quoted(&format!("parts/*.{ending}")));
        writeln!(
            f,
            "---\nconfigs:\n- config_name: {name}\n  data_files:\n  - split: train\n    path: {files}"
        )?;
        writeln!(f, "dataset_info:\n  config_name: {name}\n  features:")?;
        write_features(self.columns, self.format(), f)?;
        writeln!(f, "---")
    }

    /// A name that no other results have: `datasets` keeps what it has loaded under the name of the folder and
    /// what the front matter says, and would give the rows of another job.
    fn configuration(&self) -> String {
        let parts = self.parts.get(..NAMED_DIGITS).unwrap_or(self.parts);
        quoted(&format!("results-{parts}"))
    }

    fn introduction(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (model, rows) = (self.model(), counted(self.totals.taken(), "row"));
        let task = self.record.spec.task;
        if task == Task::Generate {
            writeln!(f, "Answers of `{model}` to {rows}, written by glm-batch.")?;
        } else {
            let task = task.name();
            writeln!(
                f,
                "What the task `{task}` found with `{model}` for {rows}, written by glm-batch."
            )?;
        }
        let phases = self.record.spec.phases();
        if !phases.is_empty() {
            let folders: Vec<String> = phases
                .iter()
                .map(|phase| format!("`phases/{}`", phase.name()))
                .collect();
            let folders = folders.join(" and ");
            writeln!(f, "What the pairs were made of is in {folders}.")?;
        }
        let failed = self.totals.failed + self.totals.bad;
        if failed == 0 {
            return Ok(());
        }
        write!(f, "Without a result: {}. ", counted(failed, "row"))?;
        match self.totals.broken {
            0 => writeln!(f, "There `error` says why, and `failed/` has the records."),
            broken if broken == failed => writeln!(
                f,
                "No record could be read there, so that the parts have no line of them: `failed/` says why and has the raw lines."
            ),
            broken => writeln!(
                f,
                "There `error` says why, and `failed/` has the records. No record could be read of {broken} of them, \
                 such as a broken line: these are in `failed/` alone, and the parts have no line of them.",
                broken = grouped(broken)
            ),
        }
    }

    fn calls(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls = loading(self.folder, self.format(), self.columns);
        writeln!(
            f,
            "\n## Loading\n\nOne of these, run beside this folder:\n\n```python"
        )?;
        for call in &calls {
            writeln!(f, "{call}")?;
        }
        writeln!(f, "```")?;
        if self.columns.iter().any(|column| column.kind.is_none()) {
            writeln!(
                f,
                "\nColumns whose values are of several kinds: {}. datasets gives them as they stand, polars as \
                 text; pyarrow reads them only where all values are of one kind.",
                self.mixed_columns()
            )?;
        }
        if let Some(note) = self.kinds {
            // Data is in it: the names of columns.
            let note: String = note.chars().filter(|c| !c.is_control()).collect();
            writeln!(f, "\nNote: {note}.")?;
        }
        Ok(())
    }

    fn mixed_columns(&self) -> String {
        let mixed = self.columns.iter().filter(|column| column.kind.is_none());
        let names: Vec<String> = mixed
            .map(|column| format!("`{}`", code(&column.name)))
            .collect();
        names.join(", ")
    }

    fn job(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let resolved = &self.record.resolved;
        writeln!(f, "\n## Job\n\n| | |\n| --- | --- |")?;
        let mut row = |what: &str, value: &str| writeln!(f, "| {what} | {value} |");
        row("model", &format!("`{}`", self.model()))?;
        if let Some(overlay) = &self.record.spec.model.overlay {
            row("overlay", &format!("`{}`", file_name(overlay)))?;
        }
        row("weights", &format!("`{}`", code(&resolved.weights)))?;
        if let (Some(model), Some(of_reward)) = (&self.record.spec.reward, &self.record.reward) {
            row("reward model", &format!("`{}`", file_name(&model.model)))?;
            if let Some(overlay) = &model.overlay {
                row(
                    "overlay of the reward model",
                    &format!("`{}`", file_name(overlay)),
                )?;
            }
            let weights = code(&of_reward.weights);
            row("weights of the reward model", &format!("`{weights}`"))?;
        }
        row("tokenizer", &format!("`{}`", code(&resolved.tokenizer)))?;
        row(
            "precision",
            &format!("{} on {}", resolved.dtype, resolved.device),
        )?;
        row(
            "context and answer",
            &format!(
                "at most {}",
                counted(u64::from(resolved.max_length), "token")
            ),
        )
    }

    fn counts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let totals = self.totals;
        writeln!(f, "\n## Counts\n\n| | |\n| --- | ---: |")?;
        let mut row = |what: &str, value: String| writeln!(f, "| {what} | {value} |");
        row("rows", grouped(totals.rows))?;
        let left_out = totals.left_out.named();
        for (rows, why) in left_out.iter().filter(|(rows, _)| *rows > 0) {
            row(&format!("rows left out {why}"), grouped(*rows))?;
        }
        row("rows with a result", grouped(totals.ok))?;
        row("rows that failed before generation", grouped(totals.bad))?;
        if totals.broken > 0 {
            row(
                "of these without a line in the parts",
                grouped(totals.broken),
            )?;
        }
        let task = self.record.spec.task;
        let by_the_model = if task.generates() {
            "rows that failed in generation"
        } else {
            "rows that failed in the model"
        };
        row(by_the_model, grouped(totals.failed))?;
        row("prompts cut to fit", grouped(totals.truncated))?;
        if totals.several_masks > 0 {
            let rows = grouped(totals.several_masks);
            row("prompts with more than one mask, the first answered", rows)?;
        }
        if totals.equal_choices > 0 {
            row(
                "rows with the same choice twice",
                grouped(totals.equal_choices),
            )?;
        }
        if totals.passed_over > 0 {
            let requests = grouped(totals.passed_over);
            row("requests with keys that change no answer", requests)?;
        }
        if totals.shots_dropped > 0 {
            let rows = grouped(totals.shots_dropped);
            row("prompts that lost examples to fit", rows)?;
        }
        row("prompt tokens", grouped(totals.prompt_tokens))?;
        row("prompt tokens a row", mean(totals.prompt_tokens, totals.ok))?;
        if task.generates() {
            row("answer tokens", grouped(totals.completion_tokens))?;
            row(
                "answer tokens a row",
                mean(totals.completion_tokens, totals.ok),
            )?;
        }
        for fact in tasks::of(task).summary(&totals.sums) {
            row(&fact.name, fact.text)?;
        }
        if totals.referenced > 0 {
            row("rows with a reference", grouped(totals.referenced))?;
            row("answers that match it", grouped(totals.exact))?;
        }
        for (name, value) in Metrics::of(&totals.sums).iter().flat_map(Metrics::named) {
            row(&name, value)?;
        }
        self.groups(f)
    }

    /// The metrics of each group.
    fn groups(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spec = &self.record.spec;
        let Some(by) = &spec.report.by else {
            return Ok(());
        };
        let metrics = MetricsReport::new(spec.task, Some(by.clone()), self.totals);
        writeln!(f, "\n## By `{}`\n", code(by))?;
        for (at, cells) in metrics.lines().iter().enumerate() {
            let cells: Vec<String> = cells.iter().map(|cell| plain(cell)).collect();
            writeln!(f, "| {} |", cells.join(" | "))?;
            if at == 0 {
                writeln!(f, "| --- |{}", " ---: |".repeat(cells.len() - 1))?;
            }
        }
        Ok(())
    }

    fn input(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = &self.record.input.files;
        writeln!(
            f,
            "\n## Input\n\n| file | rows | fingerprint |\n| --- | ---: | --- |"
        )?;
        for file in files.iter().take(LISTED_FILES) {
            let (name, rows) = (file_name(&file.path), grouped(file.rows));
            writeln!(f, "| `{name}` | {rows} | `{}` |", code(&file.fingerprint))?;
        }
        let more = files.len().saturating_sub(LISTED_FILES);
        if more > 0 {
            let more = counted(more as u64, "file");
            writeln!(f, "\nAnd {more} more, listed in `job.json`.")?;
        }
        for (number, job) in (0..).zip(&self.record.input.earlier) {
            let parts = files.iter().filter(|file| file.earlier == Some(number));
            let (parts, job) = (
                counted(parts.count() as u64, "file"),
                file_name(&job.folder),
            );
            writeln!(f, "\nResults of the earlier job `{job}`: {parts}.")?;
        }
        Ok(())
    }

    fn settings(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = settings(&self.record.spec);
        // A line of it never begins with a backtick.
        writeln!(f, "\n## Settings\n\n```json\n{settings:#}\n```")
    }

    fn model(&self) -> String {
        file_name(&self.record.spec.model.path)
    }
}

/// The sections of a job that decide its answers. None has a path.
pub(crate) fn settings(spec: &JobSpec) -> serde_json::Value {
    let mut settings = serde_json::json!({ "prompt": spec.prompt });
    if let Some(filter) = &spec.input.filter {
        settings["input.where"] = serde_json::json!(filter);
    }
    if let Some(score) = &spec.score {
        settings["score"] = serde_json::json!(score);
    }
    if let Some(choose) = &spec.choose {
        settings["choose"] = serde_json::json!(choose);
    }
    if let Some(infill) = &spec.infill {
        settings["infill"] = serde_json::json!(infill);
    }
    if let Some(preference) = &spec.preference {
        settings["preference"] = serde_json::json!(preference);
    }
    if spec.task.generates() {
        settings["generation"] = serde_json::json!(spec.generation);
    }
    settings
}

fn file_name(path: &Path) -> String {
    code(&path.file_name().unwrap_or_default().to_string_lossy())
}

fn mean(sum: u64, count: u64) -> String {
    match count {
        0 => "-".to_owned(),
        count => format!("{:.1}", sum as f64 / count as f64),
    }
}

/// A text for a line of Markdown.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for c in text.chars() {
        match c {
            c if c.is_control() => plain.push(' '),
            '\\' | '`' | '*' | '_' | '<' | '>' | '[' | ']' | '|' | '#' => {
                let _ = write!(plain, "\\{c}");
            }
            c => plain.push(c),
        }
    }
    plain
}

/// A text for code inside a line or a table of Markdown.
fn code(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            c if c.is_control() => ' ',
            '`' => '\'',
            '|' => '/',
            c => c,
        })
        .collect()
}
