//! What a row has to offer to the lines of a format.
//!
//! No line holds null, and no answer of a line is empty: most loaders make a text of the one and stop at the other.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde_json::{Map, Number, Value, json};

use super::Result;
use super::counts::{LeftOut, Reason};
use super::format::{Format, Source};
use super::items::{Answer, Items, Pair};
use super::prompts::PromptTemplate;
use crate::input::Turn;

/// Who speaks, as the formats name them.
const SYSTEM: &str = "system";
const USER: &str = "user";
const ASSISTANT: &str = "assistant";

/// How lines are made.
pub(super) struct Shape {
    pub(super) format: Format,
    pub(super) source: Source,
    pub(super) conversational: bool,
    pub(super) margin: bool,
    pub(super) template: Option<PromptTemplate>,
    /// Name of the model, for formats that tell it.
    pub(super) model: String,
}

impl Shape {
    /// The lines of a row.
    ///
    /// # Errors
    ///
    /// A template that fails for the row.
    pub(super) fn lines(&self, mut items: Items, left_out: &mut LeftOut) -> Result<Vec<Value>> {
        if self.format == Format::OpenaiBatch {
            return Ok(Vec::from_iter(self.batch_line(&items)));
        }
        if self.format == Format::TrlPreference {
            items.answers.clear();
        } else if self.format == Format::Rlhf {
            items
                .answers
                .extend(ranked(std::mem::take(&mut items.pairs)));
        } else {
            let pairs = std::mem::take(&mut items.pairs);
            items.answers.extend(self.of_pairs(pairs, left_out));
        }
        let answers = std::mem::take(&mut items.answers);
        let answers: Vec<Answer> = answers
            .into_iter()
            .filter(|answer| !is_empty(&answer.text, left_out))
            .collect();
        match self.format {
            Format::Rlhf => Ok(Vec::from_iter(rlhf_line(&items, answers, left_out))),
            Format::TrlPreference => self.preference_lines(&items, left_out),
            _ => self.answer_lines(&items, &answers, left_out),
        }
    }

    /// The answers of pairs: the better ones, and where lines say which is which the worse ones too. An answer of
    /// several pairs comes once; one that is better here and worse there has no label, and is left out.
    fn of_pairs(&self, pairs: Vec<Pair>, left_out: &mut LeftOut) -> Vec<Answer> {
        let mut answers: Vec<Answer> = Vec::new();
        let both = self.format == Format::TrlUnpaired;
        for pair in pairs {
            let sides = [Some(pair.chosen), both.then_some(pair.rejected)];
            for side in sides.into_iter().flatten() {
                let is_known = |one: &Answer| (one.sample, one.label) == (side.sample, side.label);
                if answers.iter().any(is_known) {
                    left_out.add(Reason::Repeated);
                } else {
                    answers.push(side);
                }
            }
        }
        let labelled = |label: bool| -> BTreeSet<u64> {
            let of_label = answers.iter().filter(|one| one.label == Some(label));
            of_label.map(|one| one.sample).collect()
        };
        let mixed = &labelled(true) & &labelled(false);
        for _ in &mixed {
            left_out.add(Reason::BothLabels);
        }
        answers.retain(|answer| !mixed.contains(&answer.sample));
        answers
    }

    /// Whether its lines hold a conversation turn by turn.
    pub(super) fn has_turns(&self) -> bool {
        let is_chat = matches!(self.format, Format::Sharegpt | Format::Messages);
        (is_chat || self.conversational) && self.template.is_none()
    }

    fn asked(&self, items: &Items) -> Result<Asked> {
        let text = match &self.template {
            Some(template) => template.render(&items.texts, &items.line)?,
            None => items.texts.whole(),
        };
        let mut turns = Vec::new();
        if self.has_turns() {
            turns.clone_from(&items.texts.turns);
        }
        match turns.last_mut() {
            // The prefix is part of what was asked.
            Some(last) if !items.texts.prefix().is_empty() => {
                last.content.push('\n');
                last.content.push_str(items.texts.prefix());
            }
            Some(_) => {}
            None => turns.push(Turn {
                role: USER.to_owned(),
                content: text.clone(),
            }),
        }
        Ok(Asked { text, turns })
    }

    /// What was asked, as a text or as a list of messages.
    fn prompt(&self, asked: &Asked) -> Value {
        if self.conversational {
            asked.messages().into()
        } else {
            asked.text.as_str().into()
        }
    }

    /// A text of the model, alone or as a list of messages.
    fn answered(&self, text: &str) -> Value {
        if self.conversational {
            json!([message(ASSISTANT, text)])
        } else {
            text.into()
        }
    }

    fn preference_lines(&self, items: &Items, left_out: &mut LeftOut) -> Result<Vec<Value>> {
        let prompt = self.prompt(&self.asked(items)?);
        let mut lines = Vec::new();
        for pair in &items.pairs {
            let (chosen, rejected) = (&pair.chosen.text, &pair.rejected.text);
            if chosen == rejected {
                left_out.add(Reason::Equal);
                continue;
            }
            if is_empty(chosen, left_out) || is_empty(rejected, left_out) {
                continue;
            }
            let mut line = Map::new();
            line.insert("prompt".to_owned(), prompt.clone());
            line.insert("chosen".to_owned(), self.answered(chosen));
            line.insert("rejected".to_owned(), self.answered(rejected));
            if self.margin {
                line.insert("margin".to_owned(), pair.margin.clone().into());
            }
            if let Some((chosen, rejected)) = &pair.logprobs {
                line.insert("ref_chosen_logps".to_owned(), chosen.clone().into());
                line.insert("ref_rejected_logps".to_owned(), rejected.clone().into());
            }
            lines.push(Value::Object(line));
        }
        Ok(lines)
    }

    fn answer_lines(
        &self,
        items: &Items,
        answers: &[Answer],
        left_out: &mut LeftOut,
    ) -> Result<Vec<Value>> {
        let asked = self.asked(items)?;
        if self.format == Format::Sharegpt && !asked.takes_turns() {
            for _ in answers {
                left_out.add(Reason::Turns);
            }
            return Ok(Vec::new());
        }
        let lines = answers.iter().filter_map(|answer| {
            let line = self.answer_line(items, &asked, answer);
            if line.is_none() {
                left_out.add(Reason::Unlabelled);
            }
            line
        });
        Ok(lines.collect())
    }

    /// The line of an answer; `None` where it needs a label, and has none.
    fn answer_line(&self, items: &Items, asked: &Asked, answer: &Answer) -> Option<Value> {
        let text = &answer.text;
        Some(match self.format {
            Format::Alpaca if self.template.is_none() => {
                let Texts { prompt, prefix } = Texts::of(items);
                json!({"instruction": prompt, "input": prefix, "output": text})
            }
            Format::Alpaca => json!({"instruction": asked.text, "input": "", "output": text}),
            Format::Sharegpt => json!({"conversations": asked.with(text, said_by)}),
            Format::Messages => json!({"messages": asked.with(text, message)}),
            Format::TrlUnpaired => json!({
                "prompt": self.prompt(asked),
                "completion": self.answered(text),
                "label": answer.label?,
            }),
            _ => json!({
                "prompt": self.prompt(asked),
                "completion": self.answered(text),
            }),
        })
    }

    /// The answer of the batch API to one request; `None` where all its answers were left out.
    fn batch_line(&self, items: &Items) -> Option<Value> {
        if items.answers.is_empty() {
            return None;
        }
        let choice = |answer: &Answer| {
            json!({
                "index": answer.sample,
                "message": message(ASSISTANT, &answer.text),
                "logprobs": null,
                "finish_reason": match answer.finishes.first().map(String::as_str) {
                    Some("length") => "length",
                    _ => "stop",
                },
            })
        };
        let completion: u64 = items
            .answers
            .iter()
            .filter_map(|answer| answer.tokens)
            .sum();
        let body = json!({
            "id": format!("chatcmpl-{}", items.row),
            "object": "chat.completion",
            // The same rows give the same bytes, whenever they are exported.
            "created": 0,
            "model": self.model,
            "choices": items.answers.iter().map(choice).collect::<Vec<_>>(),
            "usage": {
                "prompt_tokens": items.prompt_tokens,
                "completion_tokens": completion,
                "total_tokens": items.prompt_tokens + completion,
            },
        });
        Some(json!({
            "id": batch_id(items.row),
            "custom_id": items.id,
            "response": {"status_code": 200, "request_id": batch_id(items.row), "body": body},
            "error": null,
        }))
    }
}

/// What a row asked: one text, and the same turn by turn.
struct Asked {
    text: String,
    /// Never empty; the last one is the user's.
    turns: Vec<Turn>,
}

impl Asked {
    fn messages(&self) -> Vec<Value> {
        let turns = self.turns.iter();
        turns
            .map(|turn| message(&turn.role, &turn.content))
            .collect()
    }

    /// All turns and the answer, each as `form` writes it.
    fn with(&self, answer: &str, form: fn(&str, &str) -> Value) -> Vec<Value> {
        let turns = self.turns.iter();
        let turns = turns.map(|turn| form(&turn.role, &turn.content));
        turns.chain([form(ASSISTANT, answer)]).collect()
    }

    /// Whether user and assistant take turns, behind a message of the system at most.
    fn takes_turns(&self) -> bool {
        let mut turns = self.turns.as_slice();
        if let [first, rest @ ..] = turns
            && first.role == SYSTEM
        {
            turns = rest;
        }
        let roles = [USER, ASSISTANT].into_iter().cycle();
        turns
            .iter()
            .zip(roles)
            .all(|(turn, role)| turn.role == role)
    }
}

/// Prompt and prefix of a row.
struct Texts<'a> {
    prompt: &'a str,
    prefix: &'a str,
}

impl<'a> Texts<'a> {
    fn of(items: &'a Items) -> Self {
        Self {
            prompt: &items.texts.prompt,
            prefix: items.texts.prefix(),
        }
    }
}

/// The answer of the batch API to a request that failed.
pub(super) fn failed_batch_line(row: u64, id: &str, reason: &str) -> Value {
    json!({
        "id": batch_id(row),
        "custom_id": id,
        "response": null,
        "error": {"code": "row_failed", "message": reason},
    })
}

fn batch_id(row: u64) -> String {
    format!("batch_req_{row}")
}

fn message(role: &str, text: &str) -> Value {
    json!({"role": role, "content": text})
}

/// A message as the chats of `ShareGPT` have it.
fn said_by(role: &str, text: &str) -> Value {
    let from = match role {
        USER => "human",
        ASSISTANT => "gpt",
        other => other,
    };
    json!({"from": from, "value": text})
}

/// Whether a text says nothing; such an answer is counted.
fn is_empty(text: &str, left_out: &mut LeftOut) -> bool {
    let is_empty = text.trim().is_empty();
    if is_empty {
        left_out.add(Reason::Empty);
    }
    is_empty
}

/// The answers of a row's pairs, each once.
fn ranked(pairs: Vec<Pair>) -> Vec<Answer> {
    let mut answers: Vec<Answer> = Vec::new();
    for side in pairs
        .into_iter()
        .flat_map(|pair| [pair.chosen, pair.rejected])
    {
        if !answers.iter().any(|one| one.sample == side.sample) {
            answers.push(side);
        }
    }
    answers
}

/// A line that the reference's trainers read. Their pair loader takes neighbours, and keeps an earlier better answer
/// where a score does not fall: so scores fall strictly here, and no text comes twice.
///
/// # Source
///
/// `PairwiseDataset`, `SFTDataset` and `RLHFDataset` of sunzeyeah/RLHF.
pub(super) fn rlhf_line(
    items: &Items,
    mut answers: Vec<Answer>,
    left_out: &mut LeftOut,
) -> Option<Value> {
    let score = |answer: &Answer| answer.score.as_ref().and_then(Number::as_f64);
    let rank = |answer: &Answer| score(answer).unwrap_or(f64::NEG_INFINITY);
    // Stable: of equal scores the first answer stays.
    answers.sort_by(|a, b| rank(b).partial_cmp(&rank(a)).unwrap_or(Ordering::Equal));
    let mut kept: Vec<Answer> = Vec::new();
    for answer in answers {
        if kept.iter().any(|one| one.text == answer.text) {
            left_out.add(Reason::SameText);
        } else if kept.last().is_some_and(|last| rank(last) <= rank(&answer)) {
            left_out.add(Reason::Tie);
        } else {
            kept.push(answer);
        }
    }
    let scored = |answer: Answer| {
        let score = answer.score.unwrap_or_else(|| 0.into());
        json!({"answer": answer.text, "score": score})
    };
    let kept: Vec<Value> = kept.into_iter().map(scored).collect();
    let Texts { prompt, prefix } = Texts::of(items);
    (!kept.is_empty()).then(|| json!({"prompt": prompt, "prefix": prefix, "answers": kept}))
}

#[cfg(test)]
mod tests;
