//! The lines of a row in a part back to the result that they were written from, as far as they hold it.
//!
//! What is in no column, such as the ids of an answer that the job did not ask for, is not there any more.

use crate::outcome::{Cell, Completion, FinishReason, Measured, RowResult, Sample, Span};

use super::columns::{Column, Form, Kind, Value};
use super::read::ResultRow;

/// The result of a row from all its lines; `None` where it has none.
pub(crate) fn result_of(form: &Form<'_>, lines: &[ResultRow]) -> Option<RowResult> {
    let first = lines.first()?;
    if first.get("status")? != "ok" {
        return None;
    }
    let prompt_tokens = first.get("prompt_tokens").and_then(json_u32);
    let lines = flat(form, lines);
    let columns = form.results();
    let is_cell =
        |column: &&Column| matches!(column.value, Value::RowCell(..) | Value::SampleCell(..));
    let prompt_tokens = prompt_tokens.unwrap_or_default();
    Some(if columns.iter().any(is_cell) {
        let cells = |line: &ResultRow, of_sample: bool| cells(&columns, line, of_sample);
        RowResult::Measured(Measured {
            prompt_tokens,
            truncated: 0,
            row: lines.first().map(|line| cells(line, false))?,
            samples: lines.iter().map(|line| cells(line, true)).collect(),
        })
    } else {
        RowResult::Generated(Completion {
            prompt_tokens,
            truncated: 0,
            samples: lines.iter().map(sample).collect(),
        })
    })
}

/// A line a sample, whether the lines are so or hold lists.
fn flat(form: &Form<'_>, lines: &[ResultRow]) -> Vec<ResultRow> {
    let names: Vec<&str> = form.sample_names().collect();
    let Some(line) = lines.first().filter(|_| form.is_nested) else {
        return lines.to_vec();
    };
    let entries = |name: &&str| Some(line.get(*name)?.as_array()?.len());
    // A task whose values are all of the row has no lists.
    let Some(samples) = names.iter().find_map(entries) else {
        return lines.to_vec();
    };
    let of_sample = |at: usize| {
        let mut row = line.clone();
        for name in &names {
            if let Some(serde_json::Value::Array(all)) = line.get(*name) {
                let entry = all.get(at).cloned().unwrap_or_default();
                row.insert((*name).to_owned(), entry);
            }
        }
        row
    };
    (0..samples).map(of_sample).collect()
}

/// The values of a line by their places.
fn cells(columns: &[&Column], line: &ResultRow, of_sample: bool) -> Vec<Cell> {
    let mut cells = Vec::new();
    for column in columns {
        let (place, kind) = match column.value {
            Value::RowCell(place, kind) if !of_sample => (place, kind),
            Value::SampleCell(place, kind) if of_sample => (place, kind),
            _ => continue,
        };
        if cells.len() <= place {
            cells.resize(place + 1, Cell::Null);
        }
        let value = line.get(column.name);
        cells[place] = value.map_or(Cell::Null, |value| cell(value, kind));
    }
    cells
}

/// A value of a column of that kind; a float beyond JSON was written as null.
fn cell(value: &serde_json::Value, kind: Kind) -> Cell {
    let item = match kind {
        Kind::Float32List => Kind::Float32,
        Kind::TextList => Kind::Text,
        kind => kind,
    };
    if let (serde_json::Value::Array(items), true) = (value, item != kind) {
        return Cell::List(items.iter().map(|value| cell(value, item)).collect());
    }
    let read = match kind {
        Kind::Bool => value.as_bool().map(Cell::Bool),
        Kind::Int32 => value
            .as_i64()
            .and_then(|number| i32::try_from(number).ok())
            .map(Cell::Int),
        // The shortest digits of an f32 lead back to it through an f64.
        Kind::Float32 => value.as_f64().map(|number| Cell::Float(number as f32)),
        Kind::Text => value.as_str().map(|text| Cell::Text(text.to_owned())),
        Kind::Float32List | Kind::TextList => None,
    };
    read.unwrap_or(Cell::Null)
}

/// The texts of an answer.
fn sample(line: &ResultRow) -> Sample {
    let text = line.get("completion").and_then(serde_json::Value::as_str);
    let spans = line.get("spans").and_then(serde_json::Value::as_array);
    let spans = spans.into_iter().flatten();
    let span = |text: &str| Span {
        text: text.to_owned(),
        finish_reason: FinishReason::default(),
    };
    Sample {
        text: text.unwrap_or_default().to_owned(),
        spans: spans
            .map(|text| span(text.as_str().unwrap_or_default()))
            .collect(),
        ..Sample::default()
    }
}

fn json_u32(value: &serde_json::Value) -> Option<u32> {
    value.as_u64()?.try_into().ok()
}
