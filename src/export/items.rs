//! One row's result lines to what formats are made of: answers with what is known of them, or pairs.
//!
//! Values are taken by the names of the columns, which `docs/RESULTS.md` lists, so that this file needs to know no task.

use serde_json::{Number, Value};

use super::counts::{LeftOut, Reason};
use super::format::Source;
use super::prompts::Texts;
use super::{Result, Test};
use crate::sink::ResultRow;

/// Columns that hold one entry for each sample in nested results.
const PER_SAMPLE: &[&str] = &[
    "completion",
    "spans",
    "finish_reason",
    "finish_reasons",
    "completion_tokens",
    "score",
    "logprob",
    "mean_logprob",
    "perplexity",
    "is_greedy",
    "target_tokens",
    "token_logprobs",
    "token_ids",
    "reward",
];

/// What one row has to offer.
pub(super) struct Items {
    /// Number of the row in the whole input.
    pub(super) row: u64,
    /// Its identifier.
    pub(super) id: String,
    /// Its prompt and its prefix.
    pub(super) texts: Texts,
    /// Tokens of its context.
    pub(super) prompt_tokens: u64,
    /// Its answers, in the order of its lines.
    pub(super) answers: Vec<Answer>,
    /// Its pairs.
    pub(super) pairs: Vec<Pair>,
    /// The first of its lines, for templates.
    pub(super) line: ResultRow,
}

/// An answer, and what is known of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Answer {
    pub(super) text: String,
    /// Its number among those of its row.
    pub(super) sample: u64,
    /// What it is ranked by, as the results have it.
    pub(super) score: Option<Number>,
    /// Mean log-probability of its tokens.
    pub(super) mean_logprob: Option<f64>,
    /// Its tokens.
    pub(super) tokens: Option<u64>,
    /// How it ended; of several masks the first that ended otherwise than the others would have it.
    pub(super) finishes: Vec<String>,
    /// Whether it is a good one.
    pub(super) label: Option<bool>,
}

/// A better and a worse answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Pair {
    pub(super) chosen: Answer,
    pub(super) rejected: Answer,
    /// What lies between their scores.
    pub(super) margin: Option<Number>,
    /// Their log-probabilities.
    pub(super) logprobs: Option<(Number, Number)>,
}

/// The lines of a row in flat form: a nested one becomes one for each of its samples.
pub(super) fn flat(line: ResultRow) -> Vec<ResultRow> {
    let is_list = |name: &&&str| line.get(**name).is_some_and(Value::is_array);
    let main = ["completion", "reward", "logprob"];
    let Some(Value::Array(entries)) = main.iter().find(is_list).and_then(|name| line.get(*name))
    else {
        return vec![line];
    };
    let of_sample = |at: usize| {
        let mut row = ResultRow::new();
        for (name, value) in &line {
            let entry = match value {
                Value::Array(all) if PER_SAMPLE.contains(&name.as_str()) => all.get(at).cloned(),
                value => Some(value.clone()),
            };
            row.insert(name.clone(), entry.unwrap_or_default());
        }
        row.insert("sample".to_owned(), at.into());
        row
    };
    (0..entries.len()).map(of_sample).collect()
}

/// Whether a line has no result.
pub(super) fn has_failed(row: &ResultRow) -> bool {
    row.get("status").and_then(Value::as_str) == Some("failed")
}

/// What a line says of its prompt and of itself, once for the row.
pub(super) fn items(
    source: Source,
    lines: &[ResultRow],
    texts: Texts,
    label: Option<&Test<'_>>,
    left_out: &mut LeftOut,
) -> Result<Items> {
    let first = lines.first().cloned().unwrap_or_default();
    let mut items = Items {
        row: whole(&first, "row").unwrap_or_default(),
        id: text(&first, "id"),
        prompt_tokens: whole(&first, "prompt_tokens").unwrap_or_default(),
        answers: Vec::new(),
        pairs: Vec::new(),
        texts,
        line: first,
    };
    for line in lines {
        match source {
            Source::Preference => match pair(line) {
                Some(pair) => items.pairs.push(pair),
                None => left_out.add(Reason::NoPair(text(line, "no_pair"))),
            },
            _ => items.answers.push(Answer {
                label: match label {
                    Some(test) => Some((test.matches)(line)?),
                    None => line.get("correct").and_then(Value::as_bool),
                },
                ..answer(source, line, &items.texts)
            }),
        }
    }
    if source == Source::ScoredPair {
        items.pairs.extend(scored_pair(lines, &mut items.answers));
    }
    Ok(items)
}

fn answer(source: Source, line: &ResultRow, texts: &Texts) -> Answer {
    let sample = whole(line, "sample").unwrap_or_default();
    let tokens = whole(line, "completion_tokens");
    let mean = || Some(number(line, "logprob")?.as_f64()? / tokens.filter(|&n| n > 0)? as f64);
    let finishes = match line.get("finish_reasons") {
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
        _ => Vec::from_iter(line.get("finish_reason").and_then(Value::as_str)),
    };
    Answer {
        text: match source {
            Source::Choose => text(line, "choice_text"),
            source if source.reads_texts() => {
                let text = texts.following.get(sample as usize);
                text.cloned().unwrap_or_default()
            }
            _ => text(line, "completion"),
        },
        sample,
        score: number(line, "score").or_else(|| number(line, "reward")),
        mean_logprob: match number(line, "mean_logprob") {
            Some(mean) => mean.as_f64(),
            None => mean(),
        },
        tokens,
        finishes: finishes.into_iter().map(str::to_owned).collect(),
        label: None,
    }
}

/// The pair of a line; `None` where it has none.
fn pair(line: &ResultRow) -> Option<Pair> {
    let side = |text: &str, score: &str, sample: &str, label: bool| {
        Some(Answer {
            text: line.get(text)?.as_str()?.to_owned(),
            sample: whole(line, sample).unwrap_or_default(),
            score: number(line, score),
            label: Some(label),
            ..Answer::default()
        })
    };
    Some(Pair {
        chosen: side("chosen", "chosen_score", "chosen_sample", true)?,
        rejected: side("rejected", "rejected_score", "rejected_sample", false)?,
        margin: number(line, "margin"),
        logprobs: None,
    })
}

/// The pair of two scored columns: the first is the better one.
fn scored_pair(lines: &[ResultRow], answers: &mut [Answer]) -> Option<Pair> {
    let ([first, second], [chosen, rejected]) = (lines, answers) else {
        return None;
    };
    chosen.label = chosen.label.or(Some(true));
    rejected.label = rejected.label.or(Some(false));
    Some(Pair {
        chosen: chosen.clone(),
        rejected: rejected.clone(),
        margin: None,
        logprobs: number(first, "logprob").zip(number(second, "logprob")),
    })
}

fn text(row: &ResultRow, name: &str) -> String {
    let text = row.get(name).and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}

fn whole(row: &ResultRow, name: &str) -> Option<u64> {
    row.get(name)?.as_u64()
}

fn number(row: &ResultRow, name: &str) -> Option<Number> {
    match row.get(name)? {
        Value::Number(number) => Some(number.clone()),
        _ => None,
    }
}
