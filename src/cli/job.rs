//! The job that a command line asks for: by a job file, or by flags in its place.
//!
//! Also the output folder that a command means where it is given a job file.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::args::JobArgs;
use crate::checkpoint::OutputFolder;
use crate::error::{Error, Result};
use crate::input::{self, HeadColumns, InputError, NoChoice, PROMPT_NAMES};
use crate::job::{self, FlagJob, JobFlags, JobSpec, Rules};
use crate::report::say;

/// A job, and what its output folder keeps of it.
pub(super) struct AskedJob {
    pub(super) spec: JobSpec,
    /// The job file that the output folder keeps, where it keeps one.
    pub(super) kept: Option<String>,
    asked: Asked,
}

enum Asked {
    File { path: PathBuf, set: Vec<String> },
    Flags(Box<FlagJob>),
}

impl AskedJob {
    /// Reads the job; with flags, looks at the beginning of its input too.
    pub(super) fn load(args: &JobArgs, quiet: bool) -> Result<Self> {
        match &args.job {
            Some(path) => Self::of_file(path, &args.overrides),
            None => Self::of_flags(args, quiet),
        }
    }

    fn of_file(path: &Path, set: &[String]) -> Result<Self> {
        let spec = job::load(path, set)?;
        // `--restart` moves the folder away, and its job file must come back.
        let lies_in_output = || {
            let kept = OutputFolder::at(&spec.output.path).kept_job();
            Some(path.canonicalize().ok()? == kept.canonicalize().ok()?)
        };
        let kept = if lies_in_output() == Some(true) {
            fs::read_to_string(path)
                .ok()
                .filter(|text| job::is_kept(text))
        } else {
            None
        };
        Ok(Self {
            spec,
            kept,
            asked: Asked::File {
                path: path.to_path_buf(),
                set: set.to_vec(),
            },
        })
    }

    fn of_flags(args: &JobArgs, quiet: bool) -> Result<Self> {
        let here = std::env::current_dir()
            .map_err(|error| Error::Usage(format!("the current folder cannot be read: {error}")))?;
        let flags = JobFlags {
            model: args.model.clone().unwrap_or_default(),
            inputs: args.input.clone(),
            output: args.output.clone().unwrap_or_default(),
            prompt_column: args.prompt_column.clone(),
        };
        let mut asked = FlagJob::new(&flags, &args.overrides, &here)?;
        check_input(&mut asked, quiet)?;
        let spec = asked.spec()?;
        refuse_other_job_file(&spec.output.path)?;
        let kept = asked.text(&spec.output.path)?;
        Ok(Self {
            spec,
            kept: Some(kept),
            asked: Asked::Flags(Box::new(asked)),
        })
    }

    /// The error, with the place of the value that it is about.
    pub(super) fn placed(&self, error: Error) -> Error {
        let place = |key| match &self.asked {
            Asked::File { path, set } => job::place_of(path, set, key),
            Asked::Flags(flags) => flags.place_of(key),
        };
        match error.key().and_then(place) {
            Some(place) => Error::Placed {
                place,
                source: Box::new(error),
            },
            None => error,
        }
    }
}

/// Looks at the beginning of the input: whether it is there, whether it has the column of prompts, and which that
/// is where the command does not say.
fn check_input(asked: &mut FlagJob, quiet: bool) -> Result<()> {
    let (input, output) = asked.paths()?;
    if input.path == ["-"] {
        return if asked.lacks_prompt() {
            Err(Error::Usage(
                "standard input cannot be looked at first\nhint: name the column that holds the prompts, as in `--prompt-column question`".to_owned(),
            ))
        } else {
            Ok(())
        };
    }
    let files = crate::run::input_files(&input, &output, Rules::CURRENT).map_err(of_flag)?;
    let head = input::head_columns(&files.files, input.max_row_bytes)?;
    if asked.lacks_prompt() {
        let column = head.prompt().map_err(no_prompt)?;
        asked.set_prompt_column(column);
        if !quiet {
            say(&format!(
                "note: prompts come from the column `{column}`; `--prompt-column` names another"
            ));
            note_unused(&head, &asked.spec()?);
        }
        return Ok(());
    }
    let spec = asked.spec()?;
    if !quiet {
        note_unused(&head, &spec);
    }
    let column = spec.input.columns.prompt.as_deref();
    match column.filter(|column| spec.prompt.template.is_none() && !head.has(column)) {
        None => Ok(()),
        Some(column) => check_all_rows(&spec, column),
    }
}

/// Says which columns of texts have a name that means something to a job, and are not used by this one.
fn note_unused(head: &HeadColumns, spec: &JobSpec) {
    let columns = &spec.input.columns;
    let compares = spec.task.generates() && columns.reference.is_none();
    for (name, key, does, is_free) in [
        (
            "prefix",
            "input.columns.prefix",
            "begins the answers with it",
            columns.prefix.is_none(),
        ),
        (
            "answer",
            "input.columns.reference",
            "compares the answers with it",
            compares,
        ),
    ] {
        let template = spec.prompt.template.as_deref().unwrap_or_default();
        let is_named = columns.named().any(|(_, named)| named == name);
        if is_free && !is_named && !template.contains(name) && head.has_texts(name) {
            say(&format!(
                "note: the column `{name}` is not used; `--set {key}={name}` {does}"
            ));
        }
    }
}

/// Reads the whole input, where its first rows lack the column of prompts, so that nothing is written for a name
/// that is wrong.
fn check_all_rows(spec: &JobSpec, column: &str) -> Result<()> {
    crate::run::check_columns(spec).map_err(|error| match error {
        Error::Input(InputError::UnknownColumn {
            key: "input.columns.prompt",
            cure,
            ..
        }) => Error::Usage(format!(
            "no row has the column `{column}` that `--prompt-column` names\nhint: {cure}"
        )),
        error => error,
    })
}

/// A path that is not there, in the words of the flag.
fn of_flag(error: InputError) -> Error {
    match error {
        InputError::Missing { path, cure } => Error::Input(InputError::Missing {
            path,
            cure: cure.replace(
                "check `input.path`; relative paths start at the job file's folder",
                "check `--input`",
            ),
        }),
        error => error.into(),
    }
}

fn no_prompt(why: NoChoice) -> Error {
    let list = |names: &[String]| format!("`{}`", names.join("`, `"));
    Error::Usage(match why {
        NoChoice::NoRows => {
            "no row of the input tells which column holds the prompts: it is empty, or none of its first lines is a JSON object\nhint: look at it; where later rows have the column, name it, as in `--prompt-column question`".to_owned()
        }
        NoChoice::NoTexts(names) => format!(
            "no column of the input holds texts; it has {}\nhint: name the column of prompts with `--prompt-column`, or make a text of several with `--set 'prompt.template=...'`",
            list(&names)
        ),
        NoChoice::Several(names) => format!(
            "several columns of the input may hold the prompts: {}\nhint: name one, as in `--prompt-column {}`; without it, the only column of texts is taken, or the only one named {}",
            list(&names),
            names[0],
            list(&PROMPT_NAMES.map(str::to_owned))
        ),
    })
}

/// Refuses a folder with a `job.toml` that no run has put there: it would be written over.
fn refuse_other_job_file(output: &Path) -> Result<()> {
    let kept = OutputFolder::at(output).kept_job();
    match fs::read_to_string(&kept) {
        // A file in place of a folder is refused with its own words later.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(())
        }
        Ok(text) if job::is_kept(&text) => Ok(()),
        _ => Err(Error::Usage(format!(
            "`{}` is there already, and no run has written it\nhint: run it with `glm-batch run`, or give another `--output`",
            kept.display()
        ))),
    }
}

/// The output folder that a path means: itself, or that of the job file which it is.
pub(super) fn output_of(path: &Path) -> Result<PathBuf> {
    if !path.is_file() {
        return Ok(path.to_path_buf());
    }
    match job::load(path, &[]) {
        Ok(spec) => Ok(spec.output.path),
        Err(error) => {
            let beside = path
                .parent()
                .filter(|folder| OutputFolder::existing(folder).is_ok());
            let cure = match beside {
                Some(folder) if folder.as_os_str().is_empty() => "give the folder `.`".to_owned(),
                Some(folder) => format!("give the folder `{}`", folder.display()),
                None => "give the folder that `output.path` of the job names".to_owned(),
            };
            Err(Error::Usage(format!(
                "`{}` is a file, and no job file whose output folder could be looked at: {}\nhint: {cure}",
                path.display(),
                first_line(&error.to_string())
            )))
        }
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
