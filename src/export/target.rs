//! Where an export goes, and in which form: by `--output` and its ending.

use std::path::{Path, PathBuf};

use super::format::Format;
use super::{Result, refused};
use crate::fsio;

/// What the name of a card has after that of its file.
pub(super) const CARD_ENDING: &str = ".card.md";

/// Form of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    Parquet,
    Commas,
    Tabs,
}

impl Form {
    /// The form by the ending of a name.
    pub(super) fn of_ending(ending: &str) -> Option<Self> {
        let all = [Self::Json, Self::Parquet, Self::Commas, Self::Tabs];
        all.into_iter().find(|form| form.ending() == ending)
    }

    /// The name of what loads it for `datasets`.
    pub(super) fn reader(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Parquet => "parquet",
            Self::Commas | Self::Tabs => "csv",
        }
    }

    fn ending(self) -> &'static str {
        match self {
            Self::Json => "jsonl",
            Self::Parquet => "parquet",
            Self::Commas => "csv",
            Self::Tabs => "tsv",
        }
    }
}

/// Where an export goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) form: Form,
    /// The file; `None` is standard output.
    pub(super) file: Option<PathBuf>,
    /// The card beside it.
    pub(super) card: Option<PathBuf>,
    /// What tells of all exports of a folder.
    pub(super) readme: Option<PathBuf>,
    /// Whether the file lies in a folder that the command has named.
    pub(super) in_folder: bool,
}

impl Target {
    /// Decides it; `results` is the folder that is exported.
    pub(super) fn new(format: Format, output: Option<&Path>, results: &Path) -> Result<Self> {
        let form = own_form(format);
        let Some(output) = output else {
            return match form {
                Form::Json => Ok(Self {
                    form,
                    file: None,
                    card: None,
                    readme: None,
                    in_folder: false,
                }),
                form => Err(refused(format!(
                    "standard output takes JSON lines, and `{}` gives others\nhint: name a file, as in `--output rows.{}`",
                    format.name(),
                    form.ending()
                ))),
            };
        };
        let in_folder = output.is_dir() || ends_with_separator(output);
        let target = if in_folder {
            let name = if format.is_rows() {
                "rows"
            } else {
                format.name()
            };
            let file = output.join(format!("{name}.{}", form.ending()));
            Self {
                form,
                card: Some(card_of(&file)),
                file: Some(file),
                readme: Some(output.join("README.md")),
                in_folder,
            }
        } else {
            Self {
                form: form_of(format, output)?,
                file: Some(output.to_path_buf()),
                card: Some(card_of(output)),
                readme: None,
                in_folder,
            }
        };
        target.check(output, results)?;
        Ok(target)
    }

    /// Refuses a file that is there, one among the results, and one that cannot be written.
    fn check(&self, output: &Path, results: &Path) -> Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        if file.symlink_metadata().is_ok() {
            return Err(refused(format!(
                "`{}` is there already, and an export replaces no file\nhint: remove it, or give another `--output`",
                file.display()
            )));
        }
        if lies_in(output, results) {
            return Err(refused(format!(
                "`{}` lies in the results folder, where the job keeps its own files\nhint: give an `--output` outside `{}`",
                output.display(),
                results.display()
            )));
        }
        if !self.in_folder {
            let folder = file.parent().filter(|path| !path.as_os_str().is_empty());
            if let Some(folder) = folder.filter(|folder| !folder.exists()) {
                return Err(refused(format!(
                    "`{}` is to be written in a folder that is not there\nhint: make that folder first, or give `--output {}/`, which makes it",
                    file.display(),
                    folder.display()
                )));
            }
            fsio::check_writable(file)?;
        }
        Ok(())
    }
}

/// Name of the card of a file.
fn card_of(file: &Path) -> PathBuf {
    let mut card = file.as_os_str().to_owned();
    card.push(CARD_ENDING);
    card.into()
}

/// Form of a format where the file does not decide it.
fn own_form(format: Format) -> Form {
    match format {
        Format::Parquet => Form::Parquet,
        Format::Csv => Form::Commas,
        Format::Tsv => Form::Tabs,
        _ => Form::Json,
    }
}

/// Form by a file's ending.
fn form_of(format: Format, file: &Path) -> Result<Form> {
    let ending = file.extension().and_then(|ending| ending.to_str());
    let own = own_form(format);
    let fitting: &[Form] = if format.is_rows() {
        match own {
            Form::Json => &[Form::Json],
            Form::Parquet => &[Form::Parquet],
            Form::Commas => &[Form::Commas],
            Form::Tabs => &[Form::Tabs],
        }
    } else {
        &[Form::Json, Form::Parquet]
    };
    let found = fitting.iter().find(|form| Some(form.ending()) == ending);
    found.copied().ok_or_else(|| {
        let endings: Vec<String> = fitting
            .iter()
            .map(|form| format!("`.{}`", form.ending()))
            .collect();
        refused(format!(
            "`{}` does not end as a file of `{}` does\nhint: let it end in {}; a folder is named by one that is there, or with `/` at its end",
            file.display(),
            format.name(),
            endings.join(" or ")
        ))
    })
}

fn ends_with_separator(path: &Path) -> bool {
    let text = path.as_os_str().to_string_lossy();
    text.ends_with(std::path::MAIN_SEPARATOR) || text.ends_with('/')
}

/// Whether a path is a folder, or would be a file in it or below it.
fn lies_in(path: &Path, folder: &Path) -> bool {
    let Ok(folder) = folder.canonicalize() else {
        return false;
    };
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let there = absolute.ancestors().find_map(|one| one.canonicalize().ok());
    there.is_some_and(|one| one.starts_with(&folder))
}
