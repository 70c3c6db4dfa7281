//! Settings of one row over those of the job.
//!
//! The same readers and range checks as for the job file; what is wrong becomes the reason of a
//! failed row. Called by the input stage with the row's `generation` value.

use serde_json::{Map, Value};

use super::flaw::Flaw;
use super::hint::nearest;
use super::problem::{Problem, shown};
use super::sections::generation::{GenerationSpec, ROW_KEYS, check_generation, set};
use super::tree::Node;

/// What is wrong with a row's own settings: the reason of a failed row, in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}{}", self.cure.as_ref().map(|cure| format!("; {cure}")).unwrap_or_default())]
pub(crate) struct RowFlaw {
    /// The key, what it takes and what its value is.
    pub reason: String,
    /// What to write instead.
    pub cure: Option<String>,
}

impl GenerationSpec {
    /// Keys that a row may set: all of `[generation]` but `logprobs`.
    pub const ROW_KEYS: &'static [&'static str] = ROW_KEYS;

    /// Returns these settings with those of a row in their place; a null keeps the job's value.
    ///
    /// # Errors
    ///
    /// The first key whose value is wrong.
    pub(crate) fn with_overrides(&self, row: &Map<String, Value>) -> Result<Self, RowFlaw> {
        let mut settings = self.clone();
        for (key, value) in row {
            // A key must be known even where its value is null.
            let node = Node::from_json(value);
            if value.is_null() && ROW_KEYS.contains(&key.as_str()) {
                continue;
            }
            if !set(&mut settings, key, &node).map_err(Problem::into_row_flaw)? {
                return Err(unknown(key));
            }
        }
        check_generation(&settings).map_err(Flaw::into_row_flaw)?;
        Ok(settings)
    }
}

fn unknown(key: &str) -> RowFlaw {
    let key = shown(key);
    let reason = if key == "logprobs" {
        "`logprobs` is a setting of the job, not of a row".into()
    } else {
        match nearest(&key, ROW_KEYS.iter().copied()) {
            Some(near) => format!("unknown key `{key}`, did you mean `{near}`?"),
            None => format!("unknown key `{key}`"),
        }
    };
    RowFlaw { reason, cure: None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::schema::job_keys;
    use super::*;
    use crate::job::{EarlyStopping, LengthOver, MaxNewTokens};

    fn job() -> GenerationSpec {
        GenerationSpec::default()
    }

    fn over(row: Value) -> Result<GenerationSpec, String> {
        let Value::Object(row) = row else {
            panic!("no object")
        };
        job().with_overrides(&row).map_err(|flaw| flaw.to_string())
    }

    #[test]
    fn row_keys_are_all_of_the_section_but_logprobs() {
        let keys = job_keys()
            .iter()
            .filter_map(|key| key.strip_prefix("generation."));
        let expected: Vec<&str> = keys.filter(|key| *key != "logprobs").collect();
        assert_eq!(GenerationSpec::ROW_KEYS, expected);
    }

    #[test]
    fn a_row_sets_what_it_names() {
        let row = over(
            json!({ "top_k": 50.0, "temperature": 1, "max_new_tokens": "rest",
            "do_sample": true, "num_return_sequences": 4, "seed": null, "stop": ["。"],
            "num_beams": 1, "length_penalty": 1, "early_stopping": "never", "length_penalty_over": "generated" }),
        )
        .unwrap();
        let expected = GenerationSpec {
            top_k: 50,
            max_new_tokens: Some(MaxNewTokens::Rest),
            do_sample: true,
            num_return_sequences: 4,
            stop: vec!["。".into()],
            length_penalty_over: LengthOver::Generated,
            early_stopping: EarlyStopping::Never,
            ..job()
        };
        assert_eq!(row, expected);
        assert_eq!(over(json!({})).unwrap(), job());
    }

    #[test]
    fn what_is_wrong_is_a_reason() {
        for (row, reason) in [
            (
                json!({ "topp": 1 }),
                "unknown key `topp`, did you mean `top_p`?",
            ),
            (
                json!({ "topp": null }),
                "unknown key `topp`, did you mean `top_p`?",
            ),
            (json!({ "qqqqqqqqqq": 1 }), "unknown key `qqqqqqqqqq`"),
            (
                json!({ "logprobs": true }),
                "`logprobs` is a setting of the job, not of a row",
            ),
            (
                json!({ "top_p": "0.9" }),
                "`top_p`: expected a number, found string `0.9`",
            ),
            (
                json!({ "top_p": 0 }),
                "`top_p` must be above 0 and at most 1, and is 0; `top_p = 1.0` is off",
            ),
            (
                json!({ "temperature": 0 }),
                "`temperature` must be above 0, and is 0; for the likeliest token, write `do_sample = false`",
            ),
            (
                json!({ "seed": -1 }),
                "`seed`: expected a whole number, 0 or more, found number `-1`; give any whole number from 0; \
                 the same one draws the same answers again",
            ),
            (
                json!({ "top_k": 1.5 }),
                "`top_k`: expected a whole number from 0 to 4294967295, found number `1.5`",
            ),
            (
                json!({ "top_k": -1 }),
                "`top_k`: expected a whole number from 0 to 4294967295, found number `-1`; `top_k = 0` is off",
            ),
            (
                json!({ "stop": ["a", 1] }),
                "`stop[1]`: expected a string, found number `1`",
            ),
            (
                json!({ "max_new_tokens": "all" }),
                "`max_new_tokens`: expected a whole number or `\"rest\"`, found string `all`",
            ),
            (
                json!({ "num_beams": 4, "num_return_sequences": 5 }),
                "`num_return_sequences` is 5, above `num_beams` (4); a beam search finds one answer a beam",
            ),
            (
                json!({ "num_return_sequences": 2 }),
                "`num_return_sequences` above 1 needs `do_sample = true`, or as many `num_beams`; \
                 without them every sample would be the same",
            ),
            (
                json!({ "num_beams": 2, "do_sample": true }),
                "`num_beams` above 1 does not go with `do_sample = true`; a beam search takes the likeliest answers \
                 and draws nothing: take one of the two out",
            ),
            (
                json!({ "early_stopping": "often" }),
                "`early_stopping`: expected `true`, `false` or `\"never\"`, found string `often`",
            ),
            (
                json!({ "choices": ["a", ""] }),
                "`choices` holds an empty text; take it out; without any, write `choices = []`",
            ),
            (
                json!({ "choices": ["a"], "stop": ["b"] }),
                "`choices` does not go with `stop`; an answer ends where its choice ends: write `stop = []`",
            ),
            (
                json!({ "choices": ["a"], "min_new_tokens": 1 }),
                "`choices` does not go with `min_new_tokens`; an answer is as long as its choice: write \
                 `min_new_tokens = 0`",
            ),
            (
                json!({ "do_sample": "yes" }),
                "`do_sample`: expected `true` or `false`, found string `yes`",
            ),
        ] {
            assert_eq!(over(row).unwrap_err(), reason);
        }
    }
}
