//! An export to its card: what the file holds, where it comes from, what was left out.
//!
//! Invariant: the text depends on the job, the command and the file alone; it names no time and no machine.

use std::fmt::{self, Write as _};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use super::exports::Exports;
use super::job::Job;
use super::target::{Form, Target};
use super::{ExportOptions, ExportReport, Result};
use crate::fsio::{self, FileDigest};
use crate::report::{counted, grouped};
use crate::shell::shell_quoted;

/// The line by which a card is known as one of ours.
pub(super) const MARK: &str =
    "<!-- glm-batch export writes this file; without this line it leaves the file alone -->";

/// What a card calls the hash of its file.
const HASH: &str = "blake3";

/// What a card tells of.
pub(super) struct Card<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) options: &'a ExportOptions<'a>,
    pub(super) target: &'a Target,
    pub(super) report: &'a ExportReport,
    pub(super) digest: &'a FileDigest,
}

impl Card<'_> {
    /// Writes it, and what tells of the folder, unless files of another hand have their names; then that is said.
    pub(super) fn write(&self) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        let (Some(path), Some(file)) = (&self.target.card, &self.target.file) else {
            return Ok(notes);
        };
        if ours(path).is_none() {
            notes.push(format!(
                "note: `{}` is not ours and stays as it is, so this export has no card",
                path.display()
            ));
        } else {
            let text = self.to_string();
            fsio::write_atomic(path, |out| out.write_all(text.as_bytes()))?;
        }
        let Some(path) = &self.target.readme else {
            return Ok(notes);
        };
        if ours(path).is_none() {
            notes.push(format!(
                "note: `{}` is not ours and stays as it is, so it does not tell of this export",
                path.display()
            ));
        } else {
            let text = Exports::with(file, &self.digest.blake3)?.to_string();
            fsio::write_atomic(path, |out| out.write_all(text.as_bytes()))?;
        }
        Ok(notes)
    }

    fn command(&self) -> String {
        let options = self.options;
        let mut command = format!("--to {}", options.format.name());
        let mut flag = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                let _ = write!(command, " {name} {}", shell_quoted(value));
            }
        };
        flag("--where", options.keep.as_ref().map(|test| test.text));
        flag("--label", options.label.as_ref().map(|test| test.text));
        flag("--prompt-template", options.prompt_template.as_deref());
        for (is_set, name) in [
            (options.conversational, "--conversational"),
            (options.margin, "--margin"),
        ] {
            if is_set {
                let _ = write!(command, " {name}");
            }
        }
        for filter in options.filters.in_words() {
            let _ = write!(command, " {filter}");
        }
        command
    }
}

impl fmt::Display for Card<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.job.record;
        let file = self
            .report
            .file
            .as_deref()
            .map_or_else(String::new, name_of);
        let (format, lines) = (
            self.options.format.name(),
            counted(self.report.lines, "line"),
        );
        writeln!(f, "# {}\n\n{MARK}\n", plain(&file))?;
        writeln!(
            f,
            "{lines} in the form `{format}`, written by glm-batch from the results of the job {}.\n",
            code(&record.spec.name)
        )?;
        writeln!(f, "| | |\n| --- | --- |")?;
        let mut row = |what: &str, value: &str| writeln!(f, "| {what} | {} |", cell(value));
        row("task", record.spec.task.name())?;
        row("model", &name_of(&record.spec.model.path))?;
        row("weights", &record.resolved.weights)?;
        row("export", &self.command())?;
        row("bytes", &grouped(self.digest.bytes))?;
        row(HASH, &self.digest.blake3)?;
        writeln!(f, "\n## Left out\n")?;
        if self.report.left_out.is_empty() {
            writeln!(f, "Nothing.")?;
        }
        for reason in &self.report.left_out {
            writeln!(f, "* {}", plain(reason))?;
        }
        for note in &self.report.notes {
            writeln!(f, "\n{}", plain(note))?;
        }
        let reader = self.target.form.reader();
        let separator = if self.target.form == Form::Tabs {
            ", sep=\"\\t\""
        } else {
            ""
        };
        let file = serde_json::Value::from(file);
        writeln!(
            f,
            "\n## Loading\n\n```python\nfrom datasets import load_dataset\n\nrows = load_dataset(\"{reader}\", data_files={file}{separator}, split=\"train\")\n```"
        )
    }
}

/// The text of a card or a list of exports that we have written, empty where there is none; `None` where the file is of
/// another hand.
pub(super) fn ours(path: &Path) -> Option<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => text.contains(MARK).then_some(text),
        Err(error) => (error.kind() == ErrorKind::NotFound).then(String::new),
    }
}

/// The hash that a card tells of its file.
pub(super) fn hash_in(card: &str) -> Option<&str> {
    let is_hash = |line: &'_ str| line.starts_with(&format!("| {HASH} | `"));
    let line = card.lines().find(|line| is_hash(line))?;
    line.split('`').nth(1)
}

/// The last part of a path.
pub(super) fn name_of(path: &Path) -> String {
    path.file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// A text as code inside a line of Markdown, between as many backquotes as it needs.
pub(super) fn code(text: &str) -> String {
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let longest = text.split(|c| c != '`').map(str::len).max();
    let fence = "`".repeat(longest.unwrap_or_default() + 1);
    if text.starts_with('`') || text.ends_with('`') {
        format!("{fence} {text} {fence}")
    } else {
        format!("{fence}{text}{fence}")
    }
}

/// A text as code in a cell of a table, which ends at a bar without a backslash.
pub(super) fn cell(text: &str) -> String {
    code(text).replace('|', "\\|")
}

/// A text of ours for a line of Markdown: it may quote a value.
fn plain(text: &str) -> String {
    let text = text.replace(['\n', '\r'], " ");
    text.replace('<', "\\<")
}
