//! A program of its own needs nothing but what `lib.rs` lists: a job, its results, and the engine without a job.

use std::sync::Arc;

use glm_batch::{
    Budget, DeviceId, Engine, EngineWork, Found, Generation, GenerationSpec, Glm, GlmTokenizer,
    MaskToken, OutputFolder, Overflow, Precision, Request, RowId, RunEnd, RunOptions, Silent,
    SlotSizes, Soundness, StopFlag, WindowId, committed_windows, load_job, parse_job, plan,
    read_part, run, status, verify,
};

use crate::support::{Job, demo_model, some_questions};

const ROWS: usize = 5;

/// The answers of a job's parts, in order of the rows.
fn answers(folder: &OutputFolder) -> Vec<String> {
    let mut answers = Vec::new();
    for window in committed_windows(folder).unwrap() {
        for row in read_part(&folder.root().join(&window.part.name)).unwrap() {
            answers.push(row.unwrap()["completion"].as_str().unwrap().to_owned());
        }
    }
    answers
}

#[test]
fn a_job_is_planned_run_and_looked_at() {
    let texts = tempfile::tempdir().unwrap();
    let job = Job::new(&some_questions(texts.path(), ROWS), "");
    let set = ["generation.max_new_tokens=16".to_owned()];
    let spec = load_job(&job.path("job.toml"), &set).unwrap();
    plan(&spec).unwrap();
    let folder = OutputFolder::at(&spec.output.path);
    assert!(
        OutputFolder::existing(folder.root()).is_err(),
        "planned only"
    );
    let stop = StopFlag::default();
    let (report, end) = run(&spec, &RunOptions::default(), &stop, &mut Silent).unwrap();
    assert_eq!(end, RunEnd::Finished { already: false });
    assert_eq!(report.totals.ok, ROWS as u64);
    assert!(status(&folder).unwrap().is_finished);
    assert_eq!(verify(&folder).unwrap().soundness(), Soundness::Finished);

    // The same answers by hand.
    let questions = std::fs::read_to_string(texts.path().join("questions.jsonl")).unwrap();
    let by_hand = answered(&questions, &spec.generation);
    assert_eq!(answers(&folder), by_hand);
    assert_eq!(by_hand[0], "巴黎");
}

/// Answers questions with an engine.
fn answered(questions: &str, settings: &GenerationSpec) -> Vec<String> {
    let tokenizer = Arc::new(GlmTokenizer::load(&demo_model()).unwrap());
    let device = DeviceId::Cpu.open().unwrap();
    let model = Glm::load(&demo_model(), &device, Precision::F32).unwrap();
    let budget = Budget {
        max_batch_size: 2,
        max_batch_tokens: 1024,
        bucket_tokens: 8,
        slot_sizes: SlotSizes::Exact,
    };
    let mut engine = Engine::new(Box::new(model), tokenizer.clone(), budget);
    let settings = Arc::new(settings.clone());
    let request = |(row, line): (usize, &str)| {
        let row_of: serde_json::Value = serde_json::from_str(line).unwrap();
        let [question, prefix] = ["question", "prefix"].map(|key| row_of[key].as_str().unwrap());
        let encoded = tokenizer
            .encode_prompt(
                question,
                Some(prefix),
                MaskToken::Mask,
                100,
                Overflow::Truncate,
            )
            .unwrap();
        Request {
            row: RowId(row as u64),
            work: EngineWork::Generate(Generation {
                encoded,
                later_masks: Vec::new(),
                settings: settings.clone(),
                choices: None,
                max_new_tokens: 16,
            }),
        }
    };
    let requests = questions.lines().enumerate().map(request).collect();
    engine.submit(WindowId(0), requests);
    let mut finished = Vec::new();
    while !engine.is_idle() {
        finished.extend(engine.step().unwrap());
        assert_eq!(engine.take_note(), None);
    }
    finished.sort_by_key(|row| row.row);
    let text = |found: &Found| match found {
        Found::Generated(completion) => completion.samples[0].text.clone(),
        other => panic!("no answer: {other:?}"),
    };
    finished
        .iter()
        .map(|row| text(row.found.as_ref().unwrap()))
        .collect()
}

#[test]
fn a_wrong_key_is_refused_with_its_line() {
    let error = parse_job("version = 1\ncolour = 2\n", "job.toml", "/".as_ref(), &[]).unwrap_err();
    assert!(error.to_string().starts_with("job.toml:2: "), "{error}");
}
