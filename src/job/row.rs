//! Settings of one row over those of the job.
//!
//! The same readers and range checks as for the job file; what is wrong becomes the reason of a
//! failed row. Called by the input stage with the row's `generation` value.

use serde_json::{Map, Value};

use super::flaw::Flaw;
use super::hint::nearest;
use super::problem::{Problem, shown};
use super::rules::Rules;
use super::sections::beams::EarlyStopping;
use super::sections::generation::{
    GenerationSpec, ROW_KEYS, check_before_beams, check_generation, set,
};
use super::tree::Node;
use super::tree::reader::read_at;

/// The last rules of rows without beams.
const BEFORE_BEAMS: u32 = 3;

/// The last rules of rows that may not ask for `logprobs`.
const BEFORE_REQUESTS: u32 = 6;

/// Keys of a row that came with beams; the others of beams were known before, and had one value.
const KEYS_WITH_BEAMS: [&str; 2] = ["length_penalty_over", "choices"];

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
    /// A row of a job that began before there were beams fails as it did then, with the same words.
    ///
    /// # Errors
    ///
    /// The first key whose value is wrong.
    pub(crate) fn with_overrides(
        &self,
        row: &Map<String, Value>,
        rules: Rules,
    ) -> Result<Self, RowFlaw> {
        let has_beams = rules.rows > BEFORE_BEAMS;
        let may_ask = rules.rows > BEFORE_REQUESTS;
        let mut settings = self.clone();
        for (key, value) in row {
            // A key must be known even where its value is null.
            let node = Node::from_json(value);
            let is_known = has_beams || !KEYS_WITH_BEAMS.contains(&key.as_str());
            if value.is_null() && is_known && ROW_KEYS.contains(&key.as_str()) {
                continue;
            }
            if key == "logprobs" && may_ask && *value == Value::Bool(self.logprobs) {
                continue;
            }
            if !has_beams && key == "early_stopping" {
                let is_early = read_at::<bool>(&node, key).map_err(Problem::into_row_flaw)?;
                settings.early_stopping = if is_early {
                    EarlyStopping::Always
                } else {
                    EarlyStopping::Likely
                };
            } else if !is_known
                || !set(&mut settings, key, &node).map_err(Problem::into_row_flaw)?
            {
                return Err(unknown(key, has_beams, may_ask));
            }
        }
        if has_beams {
            check_generation(&settings).map_err(Flaw::into_row_flaw)?;
        } else {
            check_before_beams(&settings, refuse_beams)?;
        }
        Ok(settings)
    }
}

impl From<Flaw> for RowFlaw {
    fn from(flaw: Flaw) -> Self {
        flaw.into_row_flaw()
    }
}

/// What was said of a row with several answers or beams when there were no beams.
fn refuse_beams(settings: &GenerationSpec) -> Result<(), RowFlaw> {
    if settings.num_return_sequences > 1 && !settings.do_sample {
        return Err(RowFlaw {
            reason: "`num_return_sequences` above 1 needs `do_sample = true`".to_owned(),
            cure: Some("without it every sample would be the same".to_owned()),
        });
    }
    let not_yet = |key: &str, what: &str, cure: &str| {
        Err(RowFlaw {
            reason: format!("`{key}`: {what} not available in this version yet"),
            cure: Some(cure.to_owned()),
        })
    };
    match settings.num_beams {
        0 => {
            let flaw = Flaw::new("num_beams", "must be at least 1, and is 0");
            return Err(flaw.into_row_flaw());
        }
        1 => {}
        _ => return not_yet("num_beams", "beams are", "leave it at 1"),
    }
    if settings.length_penalty != 1.0 {
        let what = "beams, and `length_penalty` with them, are";
        return not_yet("length_penalty", what, "leave it at 1.0");
    }
    if settings.early_stopping != EarlyStopping::Likely {
        let what = "beams, and `early_stopping` with them, are";
        return not_yet("early_stopping", what, "leave it at `false`");
    }
    Ok(())
}

fn unknown(key: &str, has_beams: bool, may_ask: bool) -> RowFlaw {
    let key = shown(key);
    let cure = (key == "logprobs" && may_ask)
        .then(|| "set `generation.logprobs = true` for all rows, or take it out".to_owned());
    let reason = if key == "logprobs" {
        "`logprobs` is a setting of the job, not of a row".into()
    } else {
        let known = ROW_KEYS.iter().copied();
        match nearest(
            &key,
            known.filter(|key| has_beams || !KEYS_WITH_BEAMS.contains(key)),
        ) {
            Some(near) => format!("unknown key `{key}`, did you mean `{near}`?"),
            None => format!("unknown key `{key}`"),
        }
    };
    RowFlaw { reason, cure }
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
        by(Rules::CURRENT, row)
    }

    fn by(rules: Rules, row: Value) -> Result<GenerationSpec, String> {
        let Value::Object(row) = row else {
            panic!("no object")
        };
        job()
            .with_overrides(&row, rules)
            .map_err(|flaw| flaw.to_string())
    }

    #[test]
    fn a_row_of_a_job_without_beams_fails_as_it_did_then() {
        let then = Rules {
            rows: BEFORE_BEAMS,
            ..Rules::CURRENT
        };
        let defaults = json!({ "num_beams": 1, "length_penalty": 1.0, "early_stopping": false });
        assert_eq!(by(then, defaults), Ok(job()));
        for (row, reason) in [
            (
                json!({ "num_beams": 4 }),
                "`num_beams`: beams are not available in this version yet; leave it at 1",
            ),
            (
                json!({ "num_beams": 4, "num_return_sequences": 2 }),
                "`num_return_sequences` above 1 needs `do_sample = true`; without it every sample would be the same",
            ),
            (
                json!({ "num_beams": 0 }),
                "`num_beams` must be at least 1, and is 0",
            ),
            (
                json!({ "length_penalty": 2 }),
                "`length_penalty`: beams, and `length_penalty` with them, are not available in this version yet; \
                 leave it at 1.0",
            ),
            (
                json!({ "early_stopping": true }),
                "`early_stopping`: beams, and `early_stopping` with them, are not available in this version yet; \
                 leave it at `false`",
            ),
            (
                json!({ "early_stopping": "never" }),
                "`early_stopping`: expected `true` or `false`, found string `never`",
            ),
            (
                json!({ "length_penalty_over": null }),
                "unknown key `length_penalty_over`, did you mean `length_penalty`?",
            ),
        ] {
            assert_eq!(by(then, row).unwrap_err(), reason);
        }
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
