//! What a changed job would do to results that are already there.
//!
//! Compares two specs key by key, in the words of the job file. Every key counts unless it is in
//! [`ACCEPTED`], so that a new key is safe from the start. What is compared by content elsewhere
//! (model, tokenizer, input files, the resolved device and dtype) does not count here. Used on
//! resume by the checkpoint stage.

use serde_json::Value;

use super::hint::join;
use super::sections::score::{ScoreMethod, ScoreSpec};
use super::spec::JobSpec;

/// Keys that may change between two runs of a job.
const ACCEPTED: [&str; 17] = [
    // They change no result.
    "name",
    "input.on_bad_row",
    "output.max_failed",
    "batch.max_batch_size",
    "batch.max_batch_tokens",
    "batch.bucket_tokens",
    "checkpoint.interval_seconds",
    // Compared by what they resolve to: fingerprints, the kind of device, the precision.
    "model.path",
    "model.overlay",
    "model.device",
    "model.dtype",
    "model.cache_dtype",
    "reward.model",
    "reward.overlay",
    "input.path",
    "prompt.few_shot.path",
    // Where the first run's record was found.
    "output.path",
];

/// A key whose change alters results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// The whole key, dotted.
    pub key: String,
    /// Its value in the first run, as TOML writes it; `not set` where there is none.
    pub first: String,
    /// Its value now.
    pub now: String,
}

/// Returns the keys that alter results and differ between the first run of a job and now.
pub(crate) fn differences(first: &JobSpec, now: &JobSpec) -> Vec<Difference> {
    let mut found = Vec::new();
    compare("", &tree(first), &tree(now), &mut found);
    let is_whole = |spec: &JobSpec| {
        let score = spec.score.as_ref();
        score.is_some_and(|score| score.method == ScoreMethod::WholeText)
    };
    if is_whole(first) && is_whole(now) {
        // An earlier version took what does nothing there, and this one asks to take it out.
        found.retain(|one| !ScoreSpec::TARGET_KEYS.contains(&one.key.as_str()));
    }
    found
}

fn tree(spec: &JobSpec) -> Value {
    // A spec is plain data: only a map whose keys are not strings could fail.
    serde_json::to_value(spec).expect("a job spec has string keys only")
}

fn compare(key: &str, first: &Value, now: &Value, found: &mut Vec<Difference>) {
    if ACCEPTED.contains(&key) || first == now {
        return;
    }
    match (first, now) {
        (Value::Object(a), Value::Object(b)) => {
            let new = b.keys().filter(|name| !a.contains_key(*name));
            for name in a.keys().chain(new) {
                let of = |map: &serde_json::Map<String, Value>| map.get(name).cloned();
                let (a, b) = (of(a).unwrap_or_default(), of(b).unwrap_or_default());
                compare(&join(key, name), &a, &b, found);
            }
        }
        _ => found.push(Difference {
            key: key.into(),
            first: written(first),
            now: written(now),
        }),
    }
}

fn written(value: &Value) -> String {
    if value.is_null() {
        "not set".into()
    } else {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: &str = r#"
        version = 1
        model.path = "m"
        input = { path = "q.jsonl", columns = { prompt = "question" } }
        output.path = "out"
    "#;

    fn job(set: &[&str]) -> JobSpec {
        let set: Vec<String> = set.iter().map(ToString::to_string).collect();
        crate::job::parse(JOB, "job.toml", "/data".as_ref(), &set).unwrap()
    }

    #[test]
    fn the_same_job_has_none() {
        assert_eq!(differences(&job(&[]), &job(&[])), []);
    }

    #[test]
    fn what_an_earlier_version_took_and_did_nothing_may_be_taken_out() {
        let whole = ["task=score", "score.method=whole-text"];
        let now = job(&whole);
        let mut first = now.clone();
        if let Some(score) = &mut first.score {
            score.ending = false;
        }
        assert_eq!(differences(&first, &now), []);
        if let Some(score) = &mut first.score {
            score.method = ScoreMethod::Target;
        }
        let found = differences(&first, &now).into_iter();
        let keys: Vec<String> = found.map(|one| one.key).collect();
        assert_eq!(keys, ["score.method", "score.ending"]);
    }

    #[test]
    fn accepted_changes_do_not_count() {
        let now = job(&[
            "name=x",
            "input.on_bad_row=stop",
            "output.max_failed=3",
            "batch.max_batch_size=4",
            "batch.max_batch_tokens=4000",
            "batch.bucket_tokens=16",
            "checkpoint.interval_seconds=1",
            "model.device=cpu",
            "input.path=[copy/q.jsonl]",
        ]);
        assert_eq!(differences(&job(&[]), &now), []);
    }

    #[test]
    fn another_task_is_a_change_that_alters_results() {
        let first = tree(&job(&[]));
        let mut now = first.clone();
        now["task"] = "score".into();
        let mut found = Vec::new();
        compare("", &first, &now, &mut found);
        let expected = Difference {
            key: "task".into(),
            first: "\"generate\"".into(),
            now: "\"score\"".into(),
        };
        assert_eq!(found, [expected]);
    }

    #[test]
    fn changes_that_alter_results_are_named() {
        for (set, first, now) in [
            ("shards=2", "1", "2"),
            ("batch.window_rows=50", "8192", "50"),
            ("generation.top_p=0.5", "1.0", "0.5"),
            ("generation.max_new_tokens=9", "not set", "9"),
            ("generation.max_new_tokens=rest", "not set", "\"rest\""),
            ("generation.stop=[a]", "[]", "[\"a\"]"),
            ("generation.logprobs=true", "false", "true"),
            ("prompt.prefix=A", "not set", "\"A\""),
            ("prompt.max_length=100", "not set", "100"),
            ("prompt.reserve=false", "not set", "false"),
            ("input.columns.id=key", "not set", "\"key\""),
            ("output.format=jsonl", "\"parquet\"", "\"jsonl\""),
            ("output.columns=none", "\"all\"", "\"none\""),
        ] {
            let key = set.split('=').next().unwrap().to_string();
            let expected = Difference {
                key,
                first: first.into(),
                now: now.into(),
            };
            assert_eq!(differences(&job(&[]), &job(&[set])), [expected]);
        }
    }
}
