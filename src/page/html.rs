//! What was gathered of a job to HTML.

use maud::{Markup, PreEscaped, html};

use super::charts;
use super::gather::{Gathered, ShownRow};
use crate::report::{self, counted, grouped};

const STYLE: &str = include_str!("style.css");

/// The page, without its doctype.
pub(super) fn page(of: &Gathered) -> Markup {
    let spec = &of.record.spec;
    html! {
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="generator" content="glm-batch";
                title { (spec.name) ": " (spec.task.name()) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (spec.name) }
                p.lead { (lead(of)) }
                (figures(of))
                @for note in &of.notes { p.note { (note) } }
                (facts(of))
                @if of.metrics.has_table() {
                    h2 { "Agreement with the references" }
                    (metrics(of))
                }
                (failures(of))
                h2 { "Speed" }
                (speed(of))
                @if !of.numbers.is_empty() {
                    h2 { "Distributions" }
                    div.charts { (distributions(of)) }
                }
                @if !of.shown.is_empty() {
                    h2 { (counted(of.shown.len() as u64, "row")) " side by side" }
                    (rows(&of.shown))
                }
                h2 { "Settings" }
                (settings(of))
            }
        }
    }
}

fn lead(of: &Gathered) -> String {
    let (spec, resolved) = (&of.record.spec, &of.record.resolved);
    let model = spec.model.path.file_name().unwrap_or_default();
    let state = if of.is_finished {
        "finished"
    } else {
        "not finished"
    };
    format!(
        "Task {} with {}, {} on {}: {state}.",
        spec.task.name(),
        model.to_string_lossy(),
        resolved.dtype,
        resolved.device
    )
}

/// The counts, large.
fn figures(of: &Gathered) -> Markup {
    let totals = &of.totals;
    let mut figures = vec![
        ("rows of the job", grouped(of.rows)),
        ("rows done", grouped(totals.taken())),
        ("with a result", grouped(totals.ok)),
        ("failed", grouped(totals.failed + totals.bad)),
        ("prompts cut to fit", grouped(totals.truncated)),
        ("tokens read", grouped(totals.prompt_tokens)),
    ];
    if !totals.left_out.is_empty() {
        figures.push(("rows left out", totals.left_out.to_string()));
    }
    if of.record.spec.task.generates() {
        figures.push(("tokens written", grouped(totals.completion_tokens)));
    }
    html! {
        div.figures {
            @for (name, value) in figures {
                div { strong { (value) } span { (name) } }
            }
        }
    }
}

/// What the task says of the results, a line each.
fn facts(of: &Gathered) -> Markup {
    html! {
        @if !of.metrics.facts().is_empty() {
            dl.facts {
                @for fact in of.metrics.facts() {
                    dt { (fact.name) }
                    dd { (fact.text) }
                }
            }
        }
    }
}

fn metrics(of: &Gathered) -> Markup {
    let lines = of.metrics.lines();
    let head = lines.first();
    html! {
        div.wide { table {
            @if let Some(head) = head {
                thead { tr { @for cell in head { th { (cell) } } } }
            }
            tbody {
                @for line in lines.iter().skip(1) {
                    tr { @for cell in line { td { (cell) } } }
                }
            }
        } }
    }
}

fn failures(of: &Gathered) -> Markup {
    if of.failures.is_empty() {
        return html! {};
    }
    html! {
        h2 { "Rows without a result" }
        table {
            thead { tr { th { "rows" } th { "stage" } th { "reason" } } }
            tbody {
                @for failure in &of.failures {
                    tr {
                        td.number { (grouped(failure.rows)) }
                        td { (failure.stage) }
                        td { (failure.reason) }
                    }
                }
            }
        }
    }
}

fn speed(of: &Gathered) -> Markup {
    let chart = charts::line(&of.progress);
    html! {
        @if let Some(chart) = chart {
            figure {
                (PreEscaped(chart))
                figcaption { "rows committed, by seconds since the job began; a level stretch is a window at work, or a pause" }
            }
        }
        @if !of.runs.is_empty() {
            div.wide { table {
                thead { tr {
                    th { "last run" } th { "rows" } th { "time" } th { "tokens read/s" } th { "tokens written/s" }
                    th { "padding" } th { "slots in use" } th { "rows at once" } th { "peak memory" }
                } }
                tbody {
                    @for (of_what, run) in &of.runs {
                        @let engine = &run.engine;
                        tr {
                            td { (of_what) }
                            td.number { (grouped(run.rows_now)) }
                            td.number { (format!("{:.1} s", run.times.wall)) }
                            td.number { (per_second(engine.prompt_tokens, run.times.prefill)) }
                            td.number { (per_second(engine.completion_tokens, run.times.decode)) }
                            td.number { (percent(engine.padding_share())) }
                            td.number { (percent(1.0 - engine.idle_share())) }
                            td.number { (engine.peak_slots) }
                            td.number { (memory(run.peak_memory_bytes)) }
                        }
                    }
                }
            } }
        }
    }
}

fn per_second(tokens: u64, seconds: f64) -> String {
    match seconds {
        seconds if seconds > 0.0 => format!("{:.0}", tokens as f64 / seconds),
        _ => "-".to_owned(),
    }
}

fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

fn memory(bytes: Option<u64>) -> String {
    bytes.map_or_else(
        || "-".to_owned(),
        |bytes| format!("{} MiB", grouped(bytes >> 20)),
    )
}

fn distributions(of: &Gathered) -> Markup {
    html! {
        @for (name, what, numbers) in &of.numbers {
            @if let Some(chart) = charts::bars(&numbers.bars()) {
                figure {
                    (PreEscaped(chart))
                    figcaption { code { (name) } ", " (what) ": " (numbers.summary()) }
                }
            }
        }
    }
}

fn rows(shown: &[ShownRow]) -> Markup {
    let has_reference = shown.iter().any(|row| row.reference.is_some());
    html! {
        div.wide { table.rows {
            thead { tr {
                th { "row" } th { "prompt" }
                @if has_reference { th { "reference" } }
                th { "results" }
            } }
            tbody {
                @for row in shown {
                    tr {
                        td.number { (row.row) @if row.id != row.row.to_string() { br; small { (row.id) } } }
                        td.text { (row.prompt.as_deref().unwrap_or_default()) }
                        @if has_reference { td.text { (row.reference.as_deref().unwrap_or_default()) } }
                        td { (results(row)) }
                    }
                }
            }
        } }
    }
}

/// The lines of a row: a long text on its own, the rest behind it in small letters.
fn results(row: &ShownRow) -> Markup {
    html! {
        @for line in &row.lines {
            div.line {
                @for (name, value) in line {
                    @if is_long(name) {
                        div.text { @if name != "completion" { small { (name) } " " } (value) }
                    }
                }
                small {
                    @for (name, value) in line {
                        @if !is_long(name) { span.pair { (name) " " (value) } " " }
                    }
                }
            }
        }
    }
}

/// Without its folder, which says nothing to those that the page is sent to.
fn file_name(path: &std::path::Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Whether a column holds texts of the model or of the input.
fn is_long(name: &str) -> bool {
    matches!(
        name,
        "completion" | "spans" | "choice_text" | "chosen" | "rejected" | "error" | "no_pair"
    )
}

fn settings(of: &Gathered) -> Markup {
    let record = &of.record;
    let keys = format!("{:#}", report::settings(&record.spec));
    html! {
        dl {
            dt { "program" } dd { "glm-batch " (record.program) }
            dt { "weights" } dd { code { (record.resolved.weights) } }
            dt { "tokenizer" } dd { code { (record.resolved.tokenizer) } }
            dt { "input" } dd {
                @for file in record.input.files.iter().take(20) {
                    div { code { (file_name(&file.path)) } " " (counted(file.rows, "row")) }
                }
                @if record.input.files.len() > 20 { div { "and " (record.input.files.len() - 20) " more" } }
            }
        }
        details { summary { "what decides the answers" } pre { (keys) } }
    }
}
