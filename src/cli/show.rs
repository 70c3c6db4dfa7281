//! `show`: result rows in readable form, in order of the input: those of parts, and those of windows that are still
//! open, from their journals.

use std::collections::BTreeMap;
use std::fmt::Write;

use minijinja::Value as Row;
use minijinja::value::Serde;
use serde_json::{Map, Value};

use super::args::ShowArgs;
use super::error::CliResult;
use super::exit::Exit;
use super::job::output_of;
use crate::checkpoint::{
    self, CheckpointError, CommittedWindow, JobRecord, OutputFolder, StoredJob,
};
use crate::error::Error;
use crate::ids::{RowId, WindowId};
use crate::input::{self, Filter, WrongFilter};
use crate::job::{Phase, nearest};
use crate::report::{counted, first, on_one_line, print_data, print_json_line, say};
use crate::run::{OpenRows, Prompts};
use crate::sink::{self, ResultRow};
use crate::stop::StopFlag;
use crate::tasks;

pub(super) fn show(args: &ShowArgs) -> CliResult<Exit> {
    let folder = OutputFolder::existing(&output_of(&args.output)?)?;
    let folder = match args.phase {
        Some(phase) => of_phase(&folder, phase)?,
        None => folder,
    };
    let record = JobRecord::load(&folder)?;
    let record = record.ok_or_else(|| {
        Error::from(CheckpointError::NoJob {
            path: args.output.clone(),
        })
    })?;
    let filter = args
        .filter
        .as_deref()
        .map(|text| compile("--where", text, &columns(&record, args.failed)?))
        .transpose()?;
    let is_kept = record.spec.output.prompt && !args.failed;
    let prompts = if args.prompt && !is_kept {
        Some(Prompts::new(&record)?)
    } else {
        None
    };
    let committed = checkpoint::committed_windows(&folder)?;
    let committed: BTreeMap<WindowId, CommittedWindow> = committed
        .into_iter()
        .map(|window| (window.window, window))
        .collect();
    // Looked at after the manifests: a window that is committed meanwhile is shown once.
    let mut open = OpenRows::new(&folder)?;
    let mut shown = Shown::new(args, filter.as_ref(), prompts);
    for span in &record.input.windows {
        let is_enough = if let Some(window) = committed.get(&span.id) {
            show_committed(&mut shown, &folder, window)?
        } else {
            let rows = open.rows(span, args.failed)?.into_iter();
            shown.show(rows.map(Ok::<_, Error>), false)?
        };
        if is_enough {
            let rows = first(shown.rows as u64, "row");
            say(&format!("{rows}; `--limit 0` shows all"));
            break;
        }
    }
    if shown.open > 0 {
        say(&open_note(shown.open, open.reason_without_columns()));
    }
    if shown.rows == 0 {
        say(&nothing_shown(
            args,
            committed.len(),
            record.input.windows.len(),
        ));
        if let Some(first) = record.spec.phases().first()
            && committed.is_empty()
        {
            let name = first.name();
            say(&format!(
                "`--phase {name}` shows what the first phase has found so far"
            ));
        }
    }
    Ok(Exit::Printed)
}

/// The folder of a phase that the job has, and that has begun.
fn of_phase(folder: &OutputFolder, phase: Phase) -> Result<OutputFolder, Error> {
    let place = folder.root().display();
    let phases = JobRecord::load(folder)?.map(|record| record.spec.phases());
    let phases = phases.unwrap_or_default();
    if !phases.contains(&phase) {
        let cure = match phases.as_slice() {
            [] => "only jobs of the task `preference` have phases".to_owned(),
            known => {
                let names: Vec<_> = known.iter().map(|phase| phase.name()).collect();
                format!("it has the phase `{}`", names.join("` and the phase `"))
            }
        };
        let name = phase.name();
        return Err(Error::Usage(format!(
            "the job in `{place}` has no phase `{name}`\nhint: {cure}"
        )));
    }
    let of_phase = folder.phase(phase);
    let is_made_of = || checkpoint::committed_windows(folder).map(|windows| !windows.is_empty());
    if of_phase.job_file().is_file() || of_phase.first_work()?.is_some() || is_made_of()? {
        // Without its record it is damaged.
        StoredJob::existing(&of_phase)?;
        return Ok(of_phase);
    }
    Err(Error::Usage(format!(
        "the phase `{}` of the job in `{place}` has not begun\nhint: `glm-batch status` says how far the job has come",
        phase.name()
    )))
}

/// Shows the rows of a committed window; whether there were enough.
fn show_committed(
    shown: &mut Shown<'_>,
    folder: &OutputFolder,
    window: &CommittedWindow,
) -> CliResult<bool> {
    // The failed rows have those too that have no line in a part.
    let file = if shown.args.failed {
        window.failed.as_ref()
    } else {
        Some(&window.part)
    };
    let Some(file) = file else {
        return Ok(false);
    };
    let path = checkpoint::unchanged(folder, file, &StopFlag::default())?;
    let rows = sink::read_part(&path)?;
    shown.show(rows.map(|row| row.map_err(Error::from)), true)
}

/// What has been shown so far.
struct Shown<'a> {
    args: &'a ShowArgs,
    filter: Option<&'a Filter>,
    rows: usize,
    /// Those of them that no part holds yet.
    open: u64,
    /// Gives the prompts of a job that did not keep them.
    prompts: Option<Prompts>,
}

impl<'a> Shown<'a> {
    fn new(args: &'a ShowArgs, filter: Option<&'a Filter>, prompts: Option<Prompts>) -> Self {
        Self {
            args,
            filter,
            rows: 0,
            open: 0,
            prompts,
        }
    }

    /// Shows those rows that are wanted; whether there are more than enough.
    fn show(
        &mut self,
        rows: impl Iterator<Item = Result<ResultRow, Error>>,
        is_committed: bool,
    ) -> CliResult<bool> {
        for row in rows {
            let mut row = row?;
            if !wanted(self.args, self.filter, &row)? {
                continue;
            }
            if self.args.limit > 0 && self.rows == self.args.limit {
                return Ok(true);
            }
            self.rows += 1;
            self.open += u64::from(!is_committed);
            if let Some(prompts) = &mut self.prompts {
                add_prompt(&mut row, prompts)?;
            }
            if self.args.json {
                print_json_line(&row)?;
            } else {
                print_data(&readable(&row, is_committed))?;
            }
        }
        Ok(false)
    }
}

/// What should be known of rows that come from journals.
fn open_note(rows: u64, without_columns: Option<&str>) -> String {
    let are = if rows == 1 { "is" } else { "are" };
    let without = without_columns.map_or_else(String::new, |reason| {
        format!("; they are shown without id and the input's columns: {reason}")
    });
    format!(
        "note: {} of these {are} not committed yet{without}",
        counted(rows, "row")
    )
}

/// Gives a row the columns that `output.prompt` would have given it.
fn add_prompt(row: &mut Map<String, Value>, prompts: &mut Prompts) -> Result<(), Error> {
    let number = row.get("row").and_then(Value::as_u64).unwrap_or_default();
    let prompt = prompts.of(RowId(number))?;
    let [text, prefix] = [
        prompt.map(|prompt| prompt.text.clone()),
        prompt.and_then(|prompt| prompt.prefix.clone()),
    ];
    row.insert("rendered_prompt".to_owned(), text.into());
    row.insert("rendered_prefix".to_owned(), prefix.into());
    Ok(())
}

/// Columns that a row which is shown may have.
pub(super) fn columns(record: &JobRecord, failed: bool) -> Result<Vec<String>, Error> {
    if failed {
        return Ok(sink::FAILED_COLUMNS.map(str::to_owned).into());
    }
    let spec = &record.spec;
    let id = input::id_column(&spec.input.columns, &record.input);
    Ok(sink::result_columns(
        &tasks::form(spec),
        &record.input,
        id.as_deref(),
    )?)
}

/// Compiles an expression whose every name is a column; `flag` is what gave it.
fn compile(flag: &str, text: &str, columns: &[String]) -> Result<Filter, Error> {
    let filter = Filter::new(text).map_err(|wrong| wrong_filter(flag, text, wrong))?;
    let is_known = |name: &str| columns.iter().any(|column| column == name);
    if let Some(name) = filter.names().find(|name| !is_known(name)) {
        return Err(unknown_column(flag, name, columns));
    }
    Ok(filter)
}

/// An expression as a question about result rows.
pub(super) fn row_test(
    flag: &'static str,
    text: &str,
    columns: &[String],
) -> Result<impl Fn(&ResultRow) -> Result<bool, Error> + use<>, Error> {
    let filter = compile(flag, text, columns)?;
    let text = text.to_owned();
    Ok(move |row: &ResultRow| {
        let is_wanted = filter.is_true(Row::from(Serde(row)));
        is_wanted.map_err(|wrong| wrong_filter(flag, &text, wrong))
    })
}

fn unknown_column(flag: &str, name: &str, columns: &[String]) -> Error {
    let cure = match nearest(name, columns.iter().map(String::as_str)) {
        Some(column) => format!("did you mean `{column}`?"),
        None => format!("these rows have `{}`", columns.join("`, `")),
    };
    Error::Usage(format!(
        "`{flag}` names the column `{name}`, which these rows do not have\nhint: {cure}"
    ))
}

/// Why there was no row to show.
fn nothing_shown(args: &ShowArgs, committed: usize, windows: usize) -> String {
    let asks_for_all = !args.failed && args.id.is_none() && args.filter.is_none();
    if asks_for_all {
        return if committed == windows {
            "the job has no row to show".to_owned()
        } else {
            "no row is finished yet".to_owned()
        };
    }
    let what = if args.failed && args.id.is_none() && args.filter.is_none() {
        "no row has failed"
    } else {
        "no such row"
    };
    let so_far = if committed == windows {
        ""
    } else if committed == 0 {
        " among those finished so far, or no row is finished yet"
    } else {
        " among those finished so far"
    };
    format!("{what}{so_far}")
}

fn wrong_filter(flag: &str, text: &str, wrong: WrongFilter) -> Error {
    let WrongFilter { reason, cure } = wrong;
    let cure = cure.unwrap_or_else(|| format!("for example `{flag} 'completion_tokens > 100'`"));
    Error::Usage(format!("`{flag} {text}`: {reason}\nhint: {cure}"))
}

fn wanted(args: &ShowArgs, filter: Option<&Filter>, row: &Map<String, Value>) -> CliResult<bool> {
    if args
        .id
        .as_deref()
        .is_some_and(|id| row.get("id").and_then(Value::as_str) != Some(id))
    {
        return Ok(false);
    }
    match filter {
        Some(filter) => {
            let text = args.filter.as_deref().unwrap_or_default();
            let is_wanted = filter.is_true(Row::from(Serde(row)));
            Ok(is_wanted.map_err(|wrong| wrong_filter("--where", text, wrong))?)
        }
        None => Ok(true),
    }
}

/// A row with a heading of its own, which no value can have: lines of a value are set in, and the name of a
/// column that begins as a heading does is quoted.
fn readable(row: &Map<String, Value>, is_committed: bool) -> String {
    let of_heading: Vec<&str> = sink::heading_columns().collect();
    let heading = of_heading
        .iter()
        .filter_map(|&name| Some((name, row.get(name)?)));
    let heading: Vec<String> = heading
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| format!("{name} {}", on_one_line(&text(value))))
        .collect();
    let mark = if is_committed {
        ""
    } else {
        ", not committed yet"
    };
    let mut lines = format!("--- {}{mark}\n", heading.join(", "));
    for (name, value) in row {
        if !of_heading.contains(&name.as_str()) && !value.is_null() {
            let name = on_one_line(name);
            let quote = if name.starts_with('-') { "`" } else { "" };
            let value = text(value).replace('\n', "\n    ");
            let _ = writeln!(lines, "{quote}{name}{quote}: {value}");
        }
    }
    lines
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_value_and_no_name_looks_like_a_heading() {
        let row = json!({
            "row": 3,
            "id": "a\n--- row 4",
            "status": "ok",
            "completion": "one\n--- row 5, id b, status ok\ntwo",
            "--- row 6": 7,
            "\n--- row 8": null,
            "x\n--- row 9": [1, "\n"],
        });
        let text = readable(row.as_object().unwrap(), true);
        let headings = text.lines().filter(|line| line.starts_with("---"));
        assert_eq!(headings.count(), 1, "{text}");
        assert_eq!(
            text,
            "--- row 3, id a\\u{a}--- row 4, status ok\n\
             completion: one\n    --- row 5, id b, status ok\n    two\n\
             `--- row 6`: 7\n\
             x\\u{a}--- row 9: [1,\"\\n\"]\n"
        );
    }
}
