//! The beginning of an input to the column that holds its prompts, where the command line names none.
//!
//! Looks at the footers of Parquet and at the first rows of JSON lines, so that it takes no time however large the
//! input is. A column holds texts where half of the rows have one in it. The rule: the only column of texts is the one, where `id` does not count; of several, the one with a
//! name that says so ([`PROMPT_NAMES`]), if there is one such column. Runs before anything is written.

use std::collections::BTreeSet;
use std::path::Path;

use super::error::InputError;
use super::fields::Fields;
use super::formats::format_of;
use super::found::FoundFile;
use super::lines::Lines;
use super::parquet;
use super::prompt::DEFAULT_ID;
use super::sniff::refuse_other_format;
use super::types::{ColumnKind, InputFormat};
use super::windows::Windows;
use crate::job::Rules;
use crate::stop::StopFlag;

/// Rows of JSON lines that are looked at.
const HEAD_ROWS: usize = 100;

/// Names that a column of prompts has in common data sets; case does not count.
pub(crate) const PROMPT_NAMES: [&str; 6] = [
    "prompt",
    "question",
    "query",
    "instruction",
    "input",
    "text",
];

/// Types of Parquet columns that hold texts, as Arrow calls them.
const TEXT_TYPES: [&str; 3] = ["Utf8", "LargeUtf8", "Utf8View"];

/// The columns of the first rows of an input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeadColumns {
    /// All of them.
    names: Vec<String>,
    /// Those of texts, `id` and the results of earlier jobs aside.
    texts: Vec<String>,
}

/// Why the column of prompts cannot be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoChoice {
    /// There are no rows, or none that can be read.
    NoRows,
    /// No column holds texts; these are there.
    NoTexts(Vec<String>),
    /// Several columns hold texts, and their names do not tell.
    Several(Vec<String>),
}

/// Reads the columns of the first rows.
///
/// # Errors
///
/// A file that cannot be read, or is neither Parquet nor JSON lines.
pub(crate) fn head_columns(
    files: &[FoundFile],
    max_row_bytes: u64,
) -> Result<HeadColumns, InputError> {
    let mut columns = HeadColumns::default();
    let Some(first) = files.first() else {
        return Ok(columns);
    };
    let format = format_of(&first.path);
    let jobs = files.iter().filter_map(|file| file.results.as_ref());
    let results: BTreeSet<&str> = jobs
        .flat_map(|part| part.job.results.iter().map(String::as_str))
        .collect();
    refuse_other_format(&first.path, format)?;
    match format {
        InputFormat::Parquet => {
            let paths: Vec<_> = files.iter().map(|file| file.path.clone()).collect();
            let mut windows = Windows::new(u32::MAX, u64::MAX);
            for column in parquet::first_pass(&paths, &mut windows, Rules::CURRENT)?.columns {
                let is_text = |kind: &str| TEXT_TYPES.contains(&kind) || is_category(kind);
                let is_text = matches!(&column.kind, ColumnKind::Arrow(kind) if is_text(kind));
                columns.add(
                    &column.name,
                    is_text && !results.contains(column.name.as_str()),
                );
            }
        }
        InputFormat::Jsonl => {
            let mut head = Head::default();
            for file in files {
                let read = head.add_lines(&file.path, max_row_bytes);
                read.map_err(|source| InputError::Io {
                    path: file.path.clone(),
                    source,
                })?;
            }
            for (name, values) in &head.columns {
                columns.add(
                    name,
                    head.holds_texts(values) && !results.contains(name.as_str()),
                );
            }
        }
    }
    for partition in files.iter().flat_map(|file| &file.partition) {
        columns.add(&partition.name, false);
    }
    Ok(columns)
}

/// Whether a type is that of categories that are texts.
fn is_category(kind: &str) -> bool {
    let values = kind
        .strip_prefix("Dictionary(")
        .and_then(|rest| rest.split_once(", "));
    values.is_some_and(|(_, values)| TEXT_TYPES.iter().any(|text| values == format!("{text})")))
}

impl HeadColumns {
    /// Whether one of the rows has a column, or the column that a path begins with.
    pub(crate) fn has(&self, name: &str) -> bool {
        let leads = |known: &str| match name.strip_prefix(known) {
            Some(rest) => rest.is_empty() || rest.starts_with('.'),
            None => false,
        };
        self.names.iter().any(|known| leads(known))
    }

    /// Whether a column holds texts that the rows themselves have.
    pub(crate) fn has_texts(&self, name: &str) -> bool {
        self.texts.iter().any(|known| known == name)
    }

    /// The column of prompts.
    ///
    /// # Errors
    ///
    /// [`NoChoice`], where there is none, or more than one that may be meant.
    pub(crate) fn prompt(&self) -> Result<&str, NoChoice> {
        let says_so = |name: &&String| PROMPT_NAMES.contains(&name.to_lowercase().as_str());
        let named: Vec<&String> = self.texts.iter().filter(says_so).collect();
        match (self.texts.as_slice(), named.as_slice()) {
            _ if self.names.is_empty() => Err(NoChoice::NoRows),
            ([], _) => Err(NoChoice::NoTexts(self.names.clone())),
            ([one], _) => Ok(one),
            (_, [one]) => Ok(one),
            (several, _) => Err(NoChoice::Several(several.to_vec())),
        }
    }

    fn add(&mut self, name: &str, is_text: bool) {
        if !self.has(name) {
            self.names.push(name.to_owned());
            if is_text && name != DEFAULT_ID {
                self.texts.push(name.to_owned());
            }
        }
    }
}

/// The first rows of JSON lines.
#[derive(Default)]
struct Head {
    /// Lines that were looked at.
    lines: usize,
    /// Those of them that are rows.
    rows: usize,
    /// The columns in the order in which they come.
    columns: Vec<(String, Values)>,
}

/// How many rows have a value in a column.
#[derive(Default)]
struct Values {
    texts: usize,
    /// Neither texts nor nulls.
    others: usize,
}

impl Head {
    /// Adds the columns of a file's first rows, as long as fewer than [`HEAD_ROWS`] lines were looked at.
    fn add_lines(&mut self, path: &Path, most: u64) -> std::io::Result<()> {
        let mut lines = Lines::open(path, None, &StopFlag::default())?;
        let mut arena = Vec::new();
        while self.lines < HEAD_ROWS {
            arena.clear();
            let Some(line) = lines.next_row(&mut arena, most)? else {
                break;
            };
            self.lines += 1;
            let Ok(fields) = Fields::parse(&arena[line.start..line.end], Rules::CURRENT) else {
                continue;
            };
            self.rows += 1;
            for (name, value) in &fields.0 {
                let values = self.column(name);
                match value.get().as_bytes().first() {
                    Some(b'"') => values.texts += 1,
                    Some(b'n') => {}
                    _ => values.others += 1,
                }
            }
        }
        Ok(())
    }

    fn column(&mut self, name: &str) -> &mut Values {
        let known = self.columns.iter().position(|(known, _)| known == name);
        let at = known.unwrap_or_else(|| {
            self.columns.push((name.to_owned(), Values::default()));
            self.columns.len() - 1
        });
        &mut self.columns[at].1
    }

    /// Whether a column is one of texts: a stray row does not make one, and a stray number does not spoil one.
    fn holds_texts(&self, values: &Values) -> bool {
        values.texts > values.others && values.texts * 2 >= self.rows
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make files by hand")]
mod tests {
    use super::*;

    fn chosen(lines: &str) -> Result<String, NoChoice> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.jsonl");
        std::fs::write(&path, lines).unwrap();
        let columns = head_columns(&[path.into()], 1 << 20).unwrap();
        columns.prompt().map(str::to_owned)
    }

    #[test]
    fn the_only_column_of_texts_or_the_one_that_is_named_so() {
        for (lines, column) in [
            ("{\"id\": \"a\", \"body\": \"x\", \"n\": 3}", "body"),
            (
                "{\"id\": \"a\", \"answer\": \"y\", \"Question\": \"x\"}",
                "Question",
            ),
            ("{\"text\": null}\n{\"text\": \"x\"}", "text"),
            ("{\"a\": \"x\", \"b\": \"y\"}\n{\"a\": 1}", "b"),
            ("no json\n\n{\"prompt\": \"x\"}", "prompt"),
            (
                "{\"question\": \"x\"}\n{\"question\": \"y\"}\n{\"question\": 42}\n{\"q\": \"z\"}",
                "question",
            ),
        ] {
            assert_eq!(chosen(lines).as_deref(), Ok(column), "{lines}");
        }
    }

    #[test]
    fn what_is_not_clear_is_not_chosen() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(chosen(""), Err(NoChoice::NoRows));
        assert_eq!(
            chosen("{\"id\": \"x\"}"),
            Err(NoChoice::NoTexts(names(&["id"])))
        );
        assert_eq!(
            chosen("{\"a\": \"x\", \"b\": \"y\"}"),
            Err(NoChoice::Several(names(&["a", "b"])))
        );
        assert_eq!(
            chosen("{\"text\": \"x\", \"question\": \"y\"}"),
            Err(NoChoice::Several(names(&["text", "question"])))
        );
    }

    #[test]
    fn categories_of_texts_are_texts() {
        assert!(is_category("Dictionary(Int32, Utf8)"));
        assert!(!is_category("Dictionary(Int32, Int64)"));
    }
}
