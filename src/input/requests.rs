//! The body of a request of the batch API to a row's settings, by the keys of `[generation]`.
//!
//! ```text
//! max_tokens, max_completion_tokens   max_new_tokens          n                  num_return_sequences
//! temperature                         temperature; 0 is       top_p, stop, seed  the same
//!                                     do_sample = false       logprobs           as the job has it
//! ```
//!
//! What says nothing of the answer is passed over; what would change it and cannot be had fails the row by name.
//!
//! # Source
//!
//! The request bodies of `/v1/chat/completions` and `/v1/completions` in the API reference of `OpenAI`.

use serde_json::{Map, Value, json};

use crate::job::shown;

/// Keys that say nothing of the answer.
const PASSED_OVER: [&str; 5] = ["model", "user", "metadata", "stream", "response_format"];

/// Keys whose default says nothing of it either.
const NEUTRAL: [&str; 5] = [
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "store",
    "echo",
];

/// Keys that the prompt is made of.
const PROMPT: [&str; 2] = ["messages", "prompt"];

/// A request's own names of settings, and the job's.
const NAMES: [(&str, &str); 2] = [
    ("max_tokens", "max_new_tokens"),
    ("n", "num_return_sequences"),
];

/// Whether a request has keys that are passed over.
pub(super) fn has_passed_over(body: &Map<String, Value>) -> bool {
    let mut keys = PASSED_OVER.iter().chain(&NEUTRAL);
    keys.any(|key| body.contains_key(*key))
}

/// The reason why a request has no answer, with the names of its own settings.
pub(crate) fn in_its_words(reason: &str) -> String {
    NAMES.iter().fold(reason.to_owned(), |reason, (own, name)| {
        reason.replace(&format!("`{name}`"), &format!("`{own}`"))
    })
}

/// The settings of a request; nulls are no settings.
///
/// # Errors
///
/// The first key that cannot be had, to be read after "the request".
pub(super) fn settings(body: &Map<String, Value>) -> Result<Map<String, Value>, String> {
    let mut settings = Map::new();
    if PROMPT.iter().all(|key| body.contains_key(*key)) {
        return Err("has both `messages` and `prompt`".to_owned());
    }
    for (key, value) in body {
        if value.is_null() || PROMPT.contains(&key.as_str()) {
            continue;
        }
        let found = || match value {
            Value::Array(_) | Value::Object(_) => "something else".to_owned(),
            value => format!("`{}`", shown(&value.to_string())),
        };
        let wrong = |expected: &str| Err(format!("has {} as `{key}`, not {expected}", found()));
        let (name, setting) = match key.as_str() {
            "max_tokens" | "max_completion_tokens" => match whole(value) {
                Some(tokens) if tokens > 0 && tokens <= u32::MAX.into() => {
                    ("max_new_tokens", json!(tokens))
                }
                _ => return wrong("a whole number from 1"),
            },
            "n" => match whole(value) {
                Some(samples) if samples > 0 => ("num_return_sequences", json!(samples)),
                _ => return wrong("a whole number from 1"),
            },
            "temperature" => match value.as_f64() {
                Some(0.0) => ("do_sample", json!(false)),
                Some(number) if number > 0.0 => ("temperature", value.clone()),
                _ => return wrong("a number from 0"),
            },
            "top_p" if value.is_number() => ("top_p", value.clone()),
            "top_p" => return wrong("a number"),
            "seed" => match (whole(value), value.as_i64()) {
                (Some(seed), _) => ("seed", json!(seed)),
                // Its bits: no two seeds of 64 bits with a sign become one.
                (None, Some(seed)) => ("seed", json!(seed.cast_unsigned())),
                (None, None) => return wrong("a whole number"),
            },
            "stop" => match value {
                Value::String(stop) => ("stop", json!([stop])),
                Value::Array(all) if all.iter().all(Value::is_string) => ("stop", value.clone()),
                _ => return wrong("a text or a list of texts"),
            },
            // `/v1/completions` has a number of tokens here.
            "logprobs" => match value {
                Value::Bool(false) => continue,
                Value::Bool(true) | Value::Number(_) => ("logprobs", json!(true)),
                _ => return wrong("true or false"),
            },
            "stream" if *value != json!(false) => return wrong("false"),
            "response_format" if value["type"] != "text" => {
                return Err("has a `response_format` other than text".to_owned());
            }
            key if PASSED_OVER.contains(&key) => continue,
            key if NEUTRAL.contains(&key) && is_neutral(value) => continue,
            key => {
                return Err(format!(
                    "has `{}`, which cannot be had; take it out",
                    shown(key)
                ));
            }
        };
        let other = settings.insert(name.to_owned(), setting);
        if other.is_some_and(|other| other != settings[name]) {
            return Err("has two numbers, `max_tokens` and `max_completion_tokens`".to_owned());
        }
    }
    Ok(settings)
}

/// Whether a value is what a key has where it is not there.
fn is_neutral(value: &Value) -> bool {
    match value {
        Value::Bool(is_set) => !is_set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// A whole number, which other programs may have written as 2.0.
fn whole(value: &Value) -> Option<u64> {
    let whole = |number: &f64| number.fract() == 0.0 && (0.0..=MOST_WHOLE).contains(number);
    let of_float = || value.as_f64().filter(whole).map(|number| number as u64);
    value.as_u64().or_else(of_float)
}

/// Up to this number, floats hold every whole one.
const MOST_WHOLE: f64 = (1_u64 << f64::MANTISSA_DIGITS) as f64;

#[cfg(test)]
mod tests {
    use super::*;

    fn of(body: Value) -> Result<Value, String> {
        let Value::Object(body) = body else {
            panic!("no object")
        };
        settings(&body).map(Value::Object)
    }

    #[test]
    fn settings_are_mapped_and_what_says_nothing_is_passed_over() {
        let body = json!({
            "model": "gpt-4o-mini", "user": "u", "metadata": {"a": "b"}, "stream": false,
            "response_format": {"type": "text"}, "messages": [], "logit_bias": null, "frequency_penalty": 0.0,
            "max_tokens": 20, "temperature": 0.7, "top_p": 0.9, "n": 3, "stop": "。", "seed": -1, "logprobs": true,
        });
        assert!(has_passed_over(body.as_object().unwrap()));
        let expected = json!({
            "max_new_tokens": 20, "temperature": 0.7, "top_p": 0.9, "num_return_sequences": 3, "stop": ["。"],
            "seed": u64::MAX, "logprobs": true,
        });
        assert_eq!(of(body), Ok(expected));
        let greedy = json!({"prompt": "x", "max_completion_tokens": 5.0, "max_tokens": 5, "temperature": 0, "stop": ["a", "b"], "logprobs": false});
        assert!(!has_passed_over(greedy.as_object().unwrap()));
        let expected = json!({"max_new_tokens": 5, "do_sample": false, "stop": ["a", "b"]});
        assert_eq!(of(greedy), Ok(expected));
    }

    #[test]
    fn what_cannot_be_had_is_named() {
        for (body, reason) in [
            (
                json!({"messages": [], "prompt": "x"}),
                "has both `messages` and `prompt`",
            ),
            (
                json!({"logit_bias": {"7": 1}}),
                "has `logit_bias`, which cannot be had; take it out",
            ),
            (
                json!({"a\n\u{1b}": 1}),
                "has `a\\n\\u{1b}`, which cannot be had; take it out",
            ),
            (
                json!({"max_tokens": 4_294_967_296_u64}),
                "has `4294967296` as `max_tokens`, not a whole number from 1",
            ),
            (
                json!({"tools": []}),
                "has `tools`, which cannot be had; take it out",
            ),
            (json!({"stream": true}), "has `true` as `stream`, not false"),
            (
                json!({"response_format": {"type": "json_object"}}),
                "has a `response_format` other than text",
            ),
            (
                json!({"max_tokens": 0}),
                "has `0` as `max_tokens`, not a whole number from 1",
            ),
            (
                json!({"max_tokens": 1, "max_completion_tokens": 2}),
                "has two numbers, `max_tokens` and `max_completion_tokens`",
            ),
            (
                json!({"temperature": "0"}),
                "has `\"0\"` as `temperature`, not a number from 0",
            ),
            (
                json!({"n": 1.5}),
                "has `1.5` as `n`, not a whole number from 1",
            ),
            (
                json!({"top_p": true}),
                "has `true` as `top_p`, not a number",
            ),
            (
                json!({"seed": 0.5}),
                "has `0.5` as `seed`, not a whole number",
            ),
            (
                json!({"stop": [1]}),
                "has something else as `stop`, not a text or a list of texts",
            ),
            (
                json!({"logprobs": "yes"}),
                "has `\"yes\"` as `logprobs`, not true or false",
            ),
        ] {
            assert_eq!(of(body), Err(reason.to_owned()));
        }
    }
}
