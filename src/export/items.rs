//! One row's result lines to what formats are made of: answers with what is known of them, or pairs.
//!
//! Values are taken by the names of the columns that the job has made, which `docs/RESULTS.md` lists, so that this file
//! needs to know no task.

use serde_json::{Number, Value};

use super::counts::{LeftOut, Reason};
use super::format::Source;
use super::own::{Line, OwnColumns};
use super::prompts::Texts;
use super::{Result, Test};
use crate::sink::ResultRow;

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

/// Whether a line has no result.
pub(super) fn has_failed(row: &ResultRow) -> bool {
    row.get("status").and_then(Value::as_str) == Some("failed")
}

/// How the lines of a row are read.
pub(super) struct Reading<'a> {
    pub(super) source: Source,
    pub(super) own: &'a OwnColumns,
    /// Which answers are good ones, where the command says it.
    pub(super) label: Option<&'a Test<'a>>,
}

/// What the lines of a row say of its prompt and of themselves.
///
/// # Errors
///
/// A label that fails for a line.
pub(super) fn items(
    reading: &Reading<'_>,
    lines: &[ResultRow],
    texts: Texts,
    left_out: &mut LeftOut,
) -> Result<Items> {
    let Reading { source, own, label } = *reading;
    let first = lines.first().cloned().unwrap_or_default();
    let of_row = own.of(&first, 0);
    let mut items = Items {
        row: of_row.whole("row").unwrap_or_default(),
        id: of_row.text("id"),
        prompt_tokens: of_row.whole("prompt_tokens").unwrap_or_default(),
        answers: Vec::new(),
        pairs: Vec::new(),
        texts,
        line: first,
    };
    let lines: Vec<Line<'_>> = (0..)
        .zip(lines)
        .map(|(at, line)| own.of(line, at))
        .collect();
    for line in &lines {
        match source {
            Source::Preference => match pair(line) {
                Some(pair) => items.pairs.push(pair),
                None => left_out.add(Reason::NoPair(line.text("no_pair"))),
            },
            _ => items.answers.push(Answer {
                label: match label {
                    Some(test) => Some((test.matches)(line.row)?),
                    None => line.get("correct").and_then(Value::as_bool),
                },
                ..answer(source, line, &items.texts)
            }),
        }
    }
    if source == Source::ScoredPair {
        items.pairs.extend(scored_pair(&lines, &mut items.answers));
    }
    Ok(items)
}

fn answer(source: Source, line: &Line<'_>, texts: &Texts) -> Answer {
    let sample = line.sample();
    let tokens = line.whole("completion_tokens");
    let mean = || Some(line.number("logprob")?.as_f64()? / tokens.filter(|&n| n > 0)? as f64);
    let finishes = match line.get("finish_reasons") {
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
        _ => Vec::from_iter(line.get("finish_reason").and_then(Value::as_str)),
    };
    Answer {
        text: match source {
            Source::Choose => line.text("choice_text"),
            source if source.reads_texts() => {
                let text = texts.following.get(sample as usize);
                text.cloned().unwrap_or_default()
            }
            _ => line.text("completion"),
        },
        sample,
        score: line.number("score").or_else(|| line.number("reward")),
        mean_logprob: match line.number("mean_logprob") {
            Some(mean) => mean.as_f64(),
            None => mean(),
        },
        tokens,
        finishes: finishes.into_iter().map(str::to_owned).collect(),
        label: None,
    }
}

/// The pair of a line; `None` where it has none.
fn pair(line: &Line<'_>) -> Option<Pair> {
    let side = |text: &str, score: &str, sample: &str, label: bool| {
        Some(Answer {
            text: line.get(text)?.as_str()?.to_owned(),
            sample: line.whole(sample).unwrap_or_default(),
            score: line.number(score),
            label: Some(label),
            ..Answer::default()
        })
    };
    Some(Pair {
        chosen: side("chosen", "chosen_score", "chosen_sample", true)?,
        rejected: side("rejected", "rejected_score", "rejected_sample", false)?,
        margin: line.number("margin"),
        logprobs: None,
    })
}

/// The pair of two scored columns: the first is the better one.
fn scored_pair(lines: &[Line<'_>], answers: &mut [Answer]) -> Option<Pair> {
    let ([first, second], [chosen, rejected]) = (lines, answers) else {
        return None;
    };
    chosen.label = chosen.label.or(Some(true));
    rejected.label = rejected.label.or(Some(false));
    Some(Pair {
        chosen: chosen.clone(),
        rejected: rejected.clone(),
        margin: None,
        logprobs: first.number("logprob").zip(second.number("logprob")),
    })
}
