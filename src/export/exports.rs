//! The exports of one folder to its `README.md`: what `datasets.load_dataset("FOLDER")` can load, by name.
//!
//! Invariant: it follows from the cards in the folder, so that each export is told of, whichever was the last.

use std::fmt;
use std::path::Path;

use super::Result;
use super::card::{MARK, cell, hash_in, name_of, ours};
use super::target::{CARD_ENDING, Form};
use crate::fsio::FsError;

/// Digits of a file's hash in the name of its rows: what was loaded of other bytes is not taken for them.
const NAMED_DIGITS: usize = 16;

/// The exports of a folder, by name.
pub(super) struct Exports(Vec<Export>);

struct Export {
    file: String,
    form: Form,
    /// What its rows are called.
    name: String,
}

impl Export {
    /// An export of this hash; `None` for a file of a form that is not ours.
    fn new(file: &str, hash: &str) -> Option<Self> {
        let (stem, ending) = file.rsplit_once('.')?;
        let known = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
        let stem: String = stem.chars().filter(|c| known(*c)).collect();
        let hash = hash.get(..NAMED_DIGITS).unwrap_or(hash);
        Some(Self {
            file: file.to_owned(),
            form: Form::of_ending(ending)?,
            name: format!("{stem}-{hash}"),
        })
    }
}

impl Exports {
    /// Those that cards tell of, and a new one, whose file has its name afterwards.
    ///
    /// # Errors
    ///
    /// A folder that cannot be read.
    pub(super) fn with(file: &Path, hash: &str) -> Result<Self> {
        let folder = file.parent().unwrap_or_else(|| Path::new("."));
        let failed = |cause| FsError::new("read", folder, cause);
        let new = name_of(file);
        let mut found = Vec::from_iter(Export::new(&new, hash));
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let card = name_of(&path);
            let Some(name) = card.strip_suffix(CARD_ENDING) else {
                continue;
            };
            if name == new || !path.with_file_name(name).is_file() {
                continue;
            }
            let text = ours(&path).unwrap_or_default();
            found.extend(hash_in(&text).and_then(|hash| Export::new(name, hash)));
        }
        found.sort_by(|a, b| a.file.cmp(&b.file));
        Ok(Self(found))
    }

    /// What loads the folder: `datasets` has one reader for all of it.
    fn reader(&self) -> Option<&'static str> {
        let readers = [Form::Json, Form::Parquet, Form::Commas].map(Form::reader);
        let is_there = |reader: &&str| self.0.iter().any(|one| one.form.reader() == *reader);
        readers.into_iter().find(is_there)
    }
}

impl fmt::Display for Exports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reader = self.reader();
        let is_loaded = |one: &&Export| Some(one.form.reader()) == reader;
        writeln!(f, "---\nconfigs:")?;
        for export in self.0.iter().filter(is_loaded) {
            writeln!(
                f,
                "- config_name: \"{}\"\n  data_files:\n  - split: train\n    path: {}",
                export.name,
                serde_json::Value::from(export.file.as_str())
            )?;
            if export.form == Form::Tabs {
                writeln!(f, "  sep: \"\\t\"")?;
            }
        }
        writeln!(f, "---\n\n# Exports\n\n{MARK}\n")?;
        writeln!(
            f,
            "Written by glm-batch. The card of each file tells where it comes from, what was left out, and how it is loaded alone.\n"
        )?;
        writeln!(
            f,
            "| file | card | in `load_dataset(\"FOLDER\", NAME)` |\n| --- | --- | --- |"
        )?;
        for export in &self.0 {
            let file = cell(&export.file);
            let card = cell(&format!("{}{CARD_ENDING}", export.file));
            let name = if is_loaded(&export) {
                format!("`{}`", export.name)
            } else {
                "not: all its files have one reader".to_owned()
            };
            writeln!(f, "| {file} | {card} | {name} |")?;
        }
        if self.0.iter().filter(is_loaded).count() == 1 {
            writeln!(f, "\nNAME may be left out, as long as there is one.")?;
        }
        Ok(())
    }
}
