//! Whole jobs through [`super::parse_with`]: defaults, the environment, overrides, garbage.

use proptest::prelude::*;

use super::*;
use crate::device::DeviceChoice;
use crate::precision::PrecisionChoice;

const SMALL: &str = r#"
version = 1
[model]
path = "m"
[input]
path = "q.jsonl"
columns = { prompt = "question" }
[output]
path = "out"
"#;

/// Every key but the template, far from its default.
const FULL: &str = include_str!("../../tests/fixtures/jobs/full.toml");

fn read(text: &str, set: &[&str]) -> Result<JobSpec, SpecError> {
    let set: Vec<String> = set.iter().map(ToString::to_string).collect();
    let environment = |name: &str| (name == "ROOT").then(|| "/root-of-data".to_string());
    parse_with(text, "job.toml", Path::new("/data"), &set, &environment)
}

#[test]
fn defaults_are_those_of_the_reference() {
    let job = read(SMALL, &[]).unwrap();
    assert_eq!((job.name.as_str(), job.shards), ("job", 1));
    assert_eq!(
        (job.model.device, job.model.dtype),
        (DeviceChoice::Auto, PrecisionChoice::Auto)
    );
    assert_eq!(job.input.on_bad_row, OnBadRow::Record);
    assert_eq!(job.prompt.mask, MaskToken::Mask);
    assert_eq!(
        (job.prompt.max_length, job.prompt.overflow),
        (None, Overflow::Truncate)
    );
    let generation = GenerationSpec {
        do_sample: false,
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        no_repeat_ngram_size: 0,
        min_new_tokens: 0,
        max_new_tokens: None,
        num_return_sequences: 1,
        num_beams: 1,
        length_penalty: 1.0,
        length_penalty_over: LengthOver::Sequence,
        early_stopping: EarlyStopping::Likely,
        bad_words: vec![],
        stop: vec![],
        choices: vec![],
        seed: 42,
        logprobs: false,
    };
    assert_eq!(job.generation, generation);
    let batch = BatchSpec {
        max_batch_size: None,
        max_batch_tokens: None,
        window_rows: 8192,
        bucket_tokens: None,
    };
    assert_eq!(job.batch, batch);
    assert_eq!(job.output.format, OutputFormat::Parquet);
    assert_eq!(job.output.columns, CarriedColumns::All);
    assert_eq!(job.output.samples, SampleLayout::Flat);
    assert_eq!((job.output.token_ids, job.output.max_failed), (false, None));
    assert_eq!(job.output.rename, []);
    assert_eq!(job.checkpoint.interval_seconds, 5.0);
}

#[test]
fn a_spec_survives_its_record() {
    for text in [SMALL, FULL] {
        let job = read(text, &[]).unwrap();
        let record = serde_json::to_string(&job).unwrap();
        assert_eq!(serde_json::from_str::<JobSpec>(&record).unwrap(), job);
    }
}

#[test]
fn values_are_stored_as_they_are_written() {
    let text = |value: serde_json::Value| value.to_string();
    let json = |value: &dyn Fn() -> serde_json::Result<serde_json::Value>| text(value().unwrap());
    assert_eq!(json(&|| serde_json::to_value(MaxNewTokens::Count(7))), "7");
    assert_eq!(
        json(&|| serde_json::to_value(MaxNewTokens::Rest)),
        "\"rest\""
    );
    assert_eq!(
        json(&|| serde_json::to_value(CarriedColumns::None)),
        "\"none\""
    );
    let names: CarriedColumns = serde_json::from_str("[\"a\"]").unwrap();
    assert_eq!(names, CarriedColumns::Names(vec!["a".into()]));
    let rest: MaxNewTokens = serde_json::from_str("\"rest\"").unwrap();
    assert_eq!(rest, MaxNewTokens::Rest);
}

#[test]
fn the_environment_is_read_in_values() {
    let job = read(SMALL, &["model.path=${ROOT}/m", "prompt.prefix=$${ROOT}"]).unwrap();
    assert_eq!(job.model.path, Path::new("/root-of-data/m"));
    assert_eq!(job.prompt.prefix.as_deref(), Some("${ROOT}"));
}

#[test]
fn overrides_win_in_order() {
    let set = [
        "generation.top_p=0.5",
        "generation.top_p=0.25",
        "name=2024",
        "shards = 3",
    ];
    let job = read(FULL, &set).unwrap();
    assert_eq!(
        (job.generation.top_p, job.name.as_str(), job.shards),
        (0.25, "2024", 3)
    );
    let set = [
        "input.path=[a.jsonl, b.jsonl]",
        "output.rename.\"a b\"=c",
        "prompt.mask=[gMASK]",
    ];
    let job = read(SMALL, &set[..2]).unwrap();
    assert_eq!(job.input.path, ["/data/a.jsonl", "/data/b.jsonl"]);
    assert_eq!(job.output.rename, [("a b".to_string(), "c".to_string())]);
    assert_eq!(
        read(SMALL, &set[2..]).unwrap().prompt.mask,
        MaskToken::Generation
    );
}

#[test]
fn files_that_are_not_utf8_are_named_with_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("job.toml");
    std::fs::write(&path, b"version = 1\nname = \"\xff\"\n").unwrap();
    let message = load(&path, &[]).unwrap_err().to_string();
    assert!(
        message.ends_with("job.toml:2: the text is not UTF-8\nhint: save the job file as UTF-8")
    );
    let message = load(&folder.path().join("none.toml"), &[])
        .unwrap_err()
        .to_string();
    assert!(message.starts_with("cannot read job file `"), "{message}");
}

#[test]
fn paths_start_at_the_folder_of_the_job_file() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = folder.path().join("jobs");
    std::fs::create_dir(&jobs).unwrap();
    std::fs::write(jobs.join("a.toml"), SMALL.replace("\"out\"", "\"../out\"")).unwrap();
    let job = load(&jobs.join("a.toml"), &[]).unwrap();
    let root = folder.path().canonicalize().unwrap();
    assert_eq!(job.model.path, root.join("jobs/m"));
    assert_eq!(job.output.path, root.join("out"));
    assert_eq!(job.name, "a");
}

#[test]
fn deep_nesting_is_refused() {
    for text in [
        format!("a = {}", "[".repeat(100_000)),
        format!("{}a = 1", "a.".repeat(100_000)),
        format!("a = {}1{}", "[".repeat(50), "]".repeat(50)),
        format!("a = {}{}", "{ a = ".repeat(40), "}".repeat(40)),
        format!("[{}a]\n", "a.".repeat(79)),
    ] {
        assert!(read(&text, &[]).is_err());
        assert!(read(SMALL, &[&text]).is_err());
    }
}

/// A job with something wrong somewhere: characters taken out, put in, lines swapped.
fn damaged() -> impl Strategy<Value = String> {
    let junk = prop_oneof![
        Just("\"".to_string()),
        Just("${".to_string()),
        Just("[".to_string()),
        Just("=".to_string()),
        Just("\n".to_string()),
        Just("-1".to_string()),
        Just("nan".to_string()),
        Just("1e999".to_string()),
        Just("99999999999999999999999999999999999999999999".to_string()),
        "\\PC{0,4}",
    ];
    let edits = prop::collection::vec((any::<prop::sample::Index>(), 0..6_usize, junk), 1..5);
    edits.prop_map(|edits| {
        let mut chars: Vec<char> = FULL.chars().collect();
        for (at, remove, insert) in edits {
            let at = at.index(chars.len());
            let end = (at + remove).min(chars.len());
            chars.splice(at..end, insert.chars());
        }
        chars.into_iter().collect()
    })
}

proptest! {
    #[test]
    fn garbage_never_panics(text in "\\PC*", set in "\\PC{0,40}") {
        let _ = read(&text, &[]);
        let _ = read(SMALL, &[&set]);
        let _ = read(SMALL, &[&format!("generation.top_p={set}")]);
        if let Err(error) = read(&text, &[&set]) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn damaged_jobs_say_where(text in damaged()) {
        if let Err(error) = read(&text, &[]) {
            let message = error.to_string();
            prop_assert!(message.starts_with("job.toml"), "{}", message);
        }
    }

    #[test]
    fn any_row_is_settings_or_a_reason(key in "[a-z_]{0,8}|top_k|stop|max_new_tokens", value in "\\PC{0,12}") {
        let job = read(SMALL, &[]).unwrap().generation;
        let value = serde_json::from_str(&value).unwrap_or(serde_json::Value::String(value));
        let row = [(key, value)].into_iter().collect();
        if let Err(reason) = job.with_overrides(&row) {
            prop_assert!(!reason.to_string().contains('\n'));
        }
    }
}
