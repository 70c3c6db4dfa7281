//! `generation.choices` through the whole program: every answer is one of them, the same bytes however the work is cut.

use std::sync::Arc;

use glm_batch::internals::engine::{Generation, Request, Work};
use glm_batch::internals::generate::Choices;
use glm_batch::internals::ids::RowId;
use glm_batch::internals::job::{GenerationSpec, MaskToken, Overflow};
use glm_batch::{DeviceId, Glm, GlmTokenizer, Precision, SlotSizes};
use serde_json::{Value, json};

use crate::beam_golden::through_the_engine;
use crate::support::{Job, both, demo_model, demo_questions, some_questions, stderr};

const FRANCE: &str = "法国的首都是哪座城市？";
const JAPAN: &str = "日本的首都是哪座城市？";
const MEXICO: &str = "墨西哥的首都是哪座城市？";

/// A job over rows that are written here, `q` with the settings `s`; `more` begins inside `[output]`.
fn over(rows: &[Value], more: &str) -> Job {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.keep().join("in.jsonl");
    let lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
    std::fs::write(&input, lines.join("\n")).unwrap();
    let columns = "columns = { prompt = \"q\", prefix = \"p\", generation = \"s\" }";
    Job::of_model(&demo_model(), &input, columns, more)
}

fn row(question: &str, settings: &Value) -> Value {
    json!({ "q": question, "p": "答案：", "s": settings })
}

const CAPITALS: &str = "format = \"jsonl\"\ncolumns = \"none\"\n[prompt]\nmax_length = 64\n[generation]\nmax_new_tokens = 8\nchoices = [\"罗马\", \"巴黎\", \"柏林\"]\n";

#[test]
fn an_answer_is_one_of_the_choices() {
    let capitals = ["罗马", "巴黎", "柏林"];
    let longer = json!(["墨西哥", "墨西哥城", "巴黎"]);
    let rows = [
        row(FRANCE, &json!(null)),
        row(FRANCE, &json!({ "num_beams": 2 })),
        row(JAPAN, &json!({ "choices": [] })),
        row(JAPAN, &json!(null)),
        row(JAPAN, &json!({ "num_beams": 2, "num_return_sequences": 2 })),
        row(
            JAPAN,
            &json!({ "do_sample": true, "temperature": 5.0, "num_return_sequences": 20 }),
        ),
        row(MEXICO, &json!({ "choices": longer })),
        row(MEXICO, &json!({ "choices": longer, "num_beams": 2 })),
        row(FRANCE, &json!({ "choices": ["东京"] })),
    ];
    let job = over(&rows, CAPITALS);
    job.run_ok(&["--quiet"]);
    let found = job.rows();
    let of = |number: u64| -> Vec<&str> {
        let lines = found.iter().filter(|line| line["row"] == number);
        lines
            .map(|line| {
                assert_eq!(line["status"], "ok", "{line}");
                assert_eq!(line["finish_reason"], "stop", "{line}");
                line["completion"].as_str().unwrap()
            })
            .collect()
    };
    assert_eq!(of(0), ["巴黎"]);
    assert_eq!(of(1), ["巴黎"]);
    assert_eq!(of(2), ["东京"], "its free answer");
    assert_eq!(of(3).len(), 1);
    assert!(capitals.contains(&of(3)[0]), "{:?}", of(3));
    let searched = of(4);
    assert_eq!(searched.len(), 2);
    assert_ne!(searched[0], searched[1], "each choice is found once");
    assert!(searched.iter().all(|text| capitals.contains(text)));
    let drawn = of(5);
    assert_eq!(drawn.len(), 20);
    assert!(drawn.iter().all(|text| capitals.contains(text)));
    assert!(drawn.iter().any(|text| *text != drawn[0]), "{drawn:?}");
    assert_eq!(of(6), ["墨西哥城"]);
    assert_eq!(of(7), ["墨西哥城"]);
    assert_eq!(of(8), ["东京"]);
}

const MIXED: &str = "format = \"FORMAT\"\ncolumns = \"none\"\ntoken_ids = true\n[prompt]\nmax_length = 64\n[generation]\nmax_new_tokens = 8\nlogprobs = true\nchoices = [\"罗马\", \"巴黎\", \"柏林\"]\n[batch]\nmax_batch_size = SIZE\nwindow_rows = 20\n";

#[test]
fn the_bytes_do_not_depend_on_the_batch() {
    let settings = [
        json!(null),
        json!({ "choices": ["是", "不是", "不"] }),
        json!({ "num_beams": 2 }),
        json!({ "do_sample": true, "temperature": 3.0, "seed": 5 }),
        json!({ "choices": [] }),
    ];
    let text = std::fs::read_to_string(demo_questions()).unwrap();
    let questions = text.lines().step_by(7).enumerate().map(|(number, line)| {
        let line: Value = serde_json::from_str(line).unwrap();
        row(line["question"].as_str().unwrap(), &settings[number % 5])
    });
    let rows: Vec<Value> = questions.collect();
    assert!(rows.len() > 40);
    for format in ["jsonl", "parquet"] {
        let job = |size: &str| {
            let job = over(
                &rows,
                &MIXED.replace("FORMAT", format).replace("SIZE", size),
            );
            job.run_ok(&["--quiet"]);
            job
        };
        let several = job("7");
        assert!(
            several.files("parts") == job("1").files("parts"),
            "{format}"
        );
        for line in several.rows() {
            assert_eq!(line["status"], "ok", "{line}");
            let number = line["row"].as_u64().unwrap() % 5;
            let allowed: &[&str] = match number {
                1 => &["是", "不是", "不"],
                4 => continue,
                _ => &["罗马", "巴黎", "柏林"],
            };
            assert!(
                allowed.contains(&line["completion"].as_str().unwrap()),
                "{line}"
            );
        }
    }
}

#[test]
fn choices_that_no_answer_can_be_are_refused_or_fail_their_row() {
    let mut texts = Vec::new();
    for set in [
        &["generation.choices=[巴黎]", "generation.stop=[京]"][..],
        &["generation.choices=[巴黎]", "generation.min_new_tokens=1"],
        &["generation.choices=[\"巴黎\", \"\"]"],
        &["generation.choices=[\"巴黎\", \"[MASK]\"]"],
        &["generation.choices=[\"巴黎\", \"黎<|endofpiece|>\"]"],
        &["generation.choices=[\"巴黎\", \" \"]"],
        &["generation.choices=[\"巴黎\", \"😀\"]"],
        &[
            "generation.choices=[霜叶红于二月花]",
            "generation.max_new_tokens=2",
        ],
        &["task=score", "generation.choices=[巴黎]"],
    ] {
        let job = Job::new(&demo_questions(), "format = \"jsonl\"\n");
        let args: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
        let output = job.run(&args);
        assert_eq!(output.status.code(), Some(2), "{set:?}: {}", both(&output));
        assert!(job.files("parts").is_empty());
        texts.push(stderr(&output));
    }
    let rows = [
        row(FRANCE, &json!({ "stop": ["京"] })),
        row(FRANCE, &json!({ "min_new_tokens": 2 })),
        row(FRANCE, &json!({ "choices": ["巴黎", "[MASK]"] })),
        row(FRANCE, &json!({ "choices": [""] })),
        row(FRANCE, &json!({ "choices": "巴黎" })),
        row(FRANCE, &json!({ "max_new_tokens": 1 })),
        row(FRANCE, &json!({ "bad_words": ["罗马", "巴黎", "柏林"] })),
        row(
            FRANCE,
            &json!({ "choices": ["巴黎"], "num_beams": 2, "num_return_sequences": 2 }),
        ),
        row(&FRANCE.repeat(20), &json!(null)),
        row(FRANCE, &json!({ "choices": ["巴黎"] })),
    ];
    let job = over(
        &rows,
        &CAPITALS.replace("max_length = 64", "max_length = 64\nreserve = false"),
    );
    job.run_ok(&["--quiet"]);
    let found = job.rows();
    let lines = found.iter().map(|line| {
        let (answer, error) = (&line["completion"], &line["error"]);
        format!("row {}: {answer}, {error}", line["row"])
    });
    texts.push(lines.collect::<Vec<_>>().join("\n"));
    insta::assert_snapshot!(texts.join("---\n"));
}

#[test]
fn choices_are_fixed_once_a_job_has_begun_and_are_recorded_only_where_there_are_some() {
    let texts = tempfile::tempdir().unwrap();
    let questions = some_questions(texts.path(), 2);
    let set = ["--quiet", "--set", "generation.max_new_tokens=8"];
    let free = Job::new(&questions, "format = \"jsonl\"\n");
    free.run_ok(&set);
    let record = std::fs::read_to_string(free.path("out/job.json")).unwrap();
    assert!(record.contains("\"bad_words\"") && !record.contains("\"choices\""));
    let held = Job::new(&questions, "format = \"jsonl\"\n");
    let with = |choices| [&set[..], &["--set", choices]].concat();
    held.run_ok(&with("generation.choices=[巴黎, 柏林]"));
    let record = std::fs::read_to_string(held.path("out/job.json")).unwrap();
    assert!(record.contains("\"choices\""));
    for (job, choices) in [
        (&held, "generation.choices=[巴黎]"),
        (&held, "generation.choices=[]"),
        (&free, "generation.choices=[巴黎]"),
    ] {
        let output = job.run(&with(choices));
        assert_ne!(output.status.code(), Some(0), "{}", both(&output));
        assert!(
            stderr(&output).contains("`generation.choices`"),
            "{}",
            both(&output)
        );
    }
}

#[test]
fn the_text_of_each_mask_is_one_of_the_choices() {
    let prompt = "法国的首都是[MASK]，德国的首都是[MASK]。";
    let rows = [json!(null), json!({ "num_beams": 2 })].map(|settings| row(prompt, &settings));
    let more = "format = \"jsonl\"\ncolumns = \"none\"\n[prompt]\nmax_length = 64\n[generation]\nchoices = [\"罗马\", \"巴黎\", \"柏林\"]\n[infill]\nmax_new_tokens = MOST\n";
    let job = |most: &str| over(&rows, &more.replace("MOST", most));
    let filling = job("8");
    filling.run_ok(&["--quiet", "--set", "task=infill"]);
    let found = filling.rows();
    assert_eq!(found.len(), 2);
    for line in &found {
        assert_eq!(line["status"], "ok", "{line}");
        let spans = line["spans"].as_array().unwrap();
        assert_eq!(spans.len(), 2);
        for span in spans {
            assert!(
                ["罗马", "巴黎", "柏林"].contains(&span.as_str().unwrap()),
                "{line}"
            );
        }
        assert_eq!(line["finish_reasons"], json!(["stop", "stop"]));
    }
    let output = job("1").run(&["--set", "task=infill"]);
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    assert!(
        stderr(&output).contains("raise `infill.max_new_tokens`"),
        "{}",
        both(&output)
    );
}

#[test]
fn requests_that_share_their_settings_have_choices_of_their_own() {
    let tokenizer = Arc::new(GlmTokenizer::load(&demo_model()).unwrap());
    let device = DeviceId::Cpu.open().unwrap();
    let model = Glm::load(&demo_model(), &device, Precision::F32).unwrap();
    let settings = Arc::new(GenerationSpec::default());
    let choices = |text: &str| Choices::new(&[text.to_owned()], &*tokenizer).unwrap();
    let held = [Some("罗马"), None, Some("柏林"), Some("罗马")];
    let requests = (0..).zip(held).map(|(row, text)| Request {
        row: RowId(row),
        work: Work::Generate(Generation {
            encoded: tokenizer
                .encode_prompt(
                    FRANCE,
                    Some("答案："),
                    MaskToken::Mask,
                    100,
                    Overflow::Truncate,
                )
                .unwrap(),
            later_masks: Vec::new(),
            settings: Arc::clone(&settings),
            choices: text.map(|text| Arc::new(choices(text))),
            max_new_tokens: 8,
        }),
    });
    let codec = Arc::clone(&tokenizer);
    let found = through_the_engine(model, codec, requests.collect(), 3, SlotSizes::Exact);
    let texts = found.iter().map(|found| found.samples[0].text.as_str());
    let texts: Vec<&str> = texts.collect();
    assert_eq!(texts, ["罗马", "巴黎", "柏林", "罗马"]);
}
