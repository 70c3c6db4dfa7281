//! `show`: result rows in readable form.

use std::io::Write;
use std::path::PathBuf;

use minijinja::value::Serde;
use minijinja::{Environment, Expression};
use serde_json::{Map, Value};

use super::args::ShowArgs;
use super::exit::Exit;
use super::output::say;
use crate::checkpoint::{self, CommittedWindow, OutputFolder};
use crate::error::Error;
use crate::sink;

/// Columns that a row's heading shows.
const HEADING: [&str; 4] = ["row", "id", "sample", "status"];

pub(super) fn show(args: &ShowArgs) -> anyhow::Result<Exit> {
    let folder = OutputFolder::existing(&args.output).map_err(Error::from)?;
    let environment = Environment::new();
    let filter = args
        .filter
        .as_deref()
        .map(|text| {
            environment
                .compile_expression(text)
                .map_err(|error| wrong_filter(text, &error))
        })
        .transpose()?;
    let mut out = std::io::stdout().lock();
    let mut shown = 0;
    for path in files(&folder, args.failed)? {
        for row in sink::read_part(&path).map_err(Error::from)? {
            let row = row.map_err(Error::from)?;
            if !wanted(args, filter.as_ref(), &row)? {
                continue;
            }
            if args.limit > 0 && shown == args.limit {
                say(&format!("the first {shown} rows; `--limit 0` shows all"));
                return Ok(Exit::Printed);
            }
            shown += 1;
            print(&mut out, &row, args.json)?;
        }
    }
    if shown == 0 {
        say("no such row");
    }
    Ok(Exit::Printed)
}

fn wrong_filter(text: &str, error: &minijinja::Error) -> Error {
    Error::Usage(format!(
        "`--where {text}`: {error}\nhint: for example `--where 'completion_tokens > 100'`"
    ))
}

/// Paths of the committed parts, in order of their rows, or of the failed rows, which hold those too
/// that have no line in a part.
fn files(folder: &OutputFolder, failed: bool) -> Result<Vec<PathBuf>, Error> {
    let committed = checkpoint::committed_windows(folder)?;
    let file = |window: &CommittedWindow| {
        if failed {
            window.failed.clone()
        } else {
            Some(window.part.clone())
        }
    };
    let entries = committed.iter().filter_map(file);
    Ok(entries.map(|entry| folder.entry(&entry.name)).collect())
}

fn wanted(
    args: &ShowArgs,
    filter: Option<&Expression<'_, '_>>,
    row: &Map<String, Value>,
) -> anyhow::Result<bool> {
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
            let value = filter
                .eval(Serde(row))
                .map_err(|error| wrong_filter(text, &error))?;
            Ok(value.is_true())
        }
        None => Ok(true),
    }
}

fn print(out: &mut impl Write, row: &Map<String, Value>, json: bool) -> std::io::Result<()> {
    if json {
        serde_json::to_writer(&mut *out, row)?;
        return out.write_all(b"\n");
    }
    let heading = HEADING
        .iter()
        .filter_map(|&name| Some((name, row.get(name)?)));
    let heading: Vec<String> = heading
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| format!("{name} {}", text(value)))
        .collect();
    writeln!(out, "--- {}", heading.join(", "))?;
    for (name, value) in row {
        if !HEADING.contains(&name.as_str()) && !value.is_null() {
            writeln!(out, "{name}: {}", text(value))?;
        }
    }
    Ok(())
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
