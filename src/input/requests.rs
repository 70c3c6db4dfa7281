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

/// Keys that say nothing of the answer.
const PASSED_OVER: [&str; 5] = ["model", "user", "metadata", "stream", "response_format"];

/// Keys that the prompt is made of.
const PROMPT: [&str; 2] = ["messages", "prompt"];

/// Whether a request has keys that are passed over.
pub(super) fn has_passed_over(body: &Map<String, Value>) -> bool {
    PASSED_OVER.iter().any(|key| body.contains_key(*key))
}

/// The settings of a request; nulls are no settings.
///
/// # Errors
///
/// The first key that cannot be had, to be read after "the request".
pub(super) fn settings(body: &Map<String, Value>) -> Result<Map<String, Value>, String> {
    let mut settings = Map::new();
    for (key, value) in body {
        if value.is_null() || PROMPT.contains(&key.as_str()) {
            continue;
        }
        let wrong = |expected: &str| Err(format!("has `{key}` = {value}, and not {expected}"));
        match key.as_str() {
            "max_tokens" | "max_completion_tokens" => {
                let Some(tokens) = value.as_u64().filter(|tokens| *tokens > 0) else {
                    return wrong("a whole number from 1");
                };
                if let Some(other) = settings.insert("max_new_tokens".to_owned(), json!(tokens))
                    && other != json!(tokens)
                {
                    return Err("has two numbers, `max_tokens` and `max_completion_tokens`".into());
                }
            }
            "temperature" => match value.as_f64().filter(|number| *number >= 0.0) {
                Some(0.0) => {
                    settings.insert("do_sample".to_owned(), json!(false));
                }
                Some(_) => {
                    settings.insert(key.clone(), value.clone());
                }
                None => return wrong("a number from 0"),
            },
            "n" => {
                let Some(samples) = value.as_u64().filter(|samples| *samples > 0) else {
                    return wrong("a whole number from 1");
                };
                settings.insert("num_return_sequences".to_owned(), json!(samples));
            }
            "top_p" if !value.is_number() => return wrong("a number"),
            "seed" => match (value.as_u64(), value.as_i64()) {
                (Some(seed), _) => {
                    settings.insert(key.clone(), json!(seed));
                }
                // Two's complement: no two seeds become one.
                (None, Some(seed)) => {
                    settings.insert(key.clone(), json!(seed.cast_unsigned()));
                }
                (None, None) => return wrong("a whole number"),
            },
            "stop" => {
                let stop = match value {
                    Value::String(stop) => json!([stop]),
                    Value::Array(all) if all.iter().all(Value::is_string) => value.clone(),
                    _ => return wrong("a text or a list of texts"),
                };
                settings.insert(key.clone(), stop);
            }
            "top_p" => {
                settings.insert(key.clone(), value.clone());
            }
            // `/v1/completions` has a number of tokens here.
            "logprobs" => match value {
                Value::Bool(false) => {}
                Value::Bool(true) | Value::Number(_) => {
                    settings.insert(key.clone(), json!(true));
                }
                _ => return wrong("true or false"),
            },
            "stream" if *value != json!(false) => return wrong("false"),
            "response_format" if value["type"] != "text" => return wrong("text"),
            key if PASSED_OVER.contains(&key) => {}
            _ => {
                return Err(format!("has `{key}`, which cannot be had; take it out"));
            }
        }
    }
    Ok(settings)
}

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
            "response_format": {"type": "text"}, "messages": [], "prompt": "x", "logit_bias": null,
            "max_tokens": 20, "temperature": 0.7, "top_p": 0.9, "n": 3, "stop": "。", "seed": -1, "logprobs": true,
        });
        assert!(has_passed_over(body.as_object().unwrap()));
        let expected = json!({
            "max_new_tokens": 20, "temperature": 0.7, "top_p": 0.9, "num_return_sequences": 3, "stop": ["。"],
            "seed": u64::MAX, "logprobs": true,
        });
        assert_eq!(of(body), Ok(expected));
        let greedy = json!({"max_completion_tokens": 5, "max_tokens": 5, "temperature": 0, "stop": ["a", "b"], "logprobs": false});
        assert!(!has_passed_over(greedy.as_object().unwrap()));
        let expected = json!({"max_new_tokens": 5, "do_sample": false, "stop": ["a", "b"]});
        assert_eq!(of(greedy), Ok(expected));
    }

    #[test]
    fn what_cannot_be_had_is_named() {
        for (body, reason) in [
            (
                json!({"tools": []}),
                "has `tools`, which cannot be had; take it out",
            ),
            (
                json!({"stream": true}),
                "has `stream` = true, and not false",
            ),
            (
                json!({"response_format": {"type": "json_object"}}),
                "has `response_format` = {\"type\":\"json_object\"}, and not text",
            ),
            (
                json!({"max_tokens": 0}),
                "has `max_tokens` = 0, and not a whole number from 1",
            ),
            (
                json!({"max_tokens": 1, "max_completion_tokens": 2}),
                "has two numbers, `max_tokens` and `max_completion_tokens`",
            ),
            (
                json!({"temperature": "0"}),
                "has `temperature` = \"0\", and not a number from 0",
            ),
            (
                json!({"n": 1.5}),
                "has `n` = 1.5, and not a whole number from 1",
            ),
            (
                json!({"top_p": true}),
                "has `top_p` = true, and not a number",
            ),
            (
                json!({"seed": 0.5}),
                "has `seed` = 0.5, and not a whole number",
            ),
            (
                json!({"stop": [1]}),
                "has `stop` = [1], and not a text or a list of texts",
            ),
            (
                json!({"logprobs": "yes"}),
                "has `logprobs` = \"yes\", and not true or false",
            ),
        ] {
            assert_eq!(of(body), Err(reason.to_owned()));
        }
    }
}
