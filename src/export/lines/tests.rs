//! Lines by the rules of those who read them: the reference's own loaders over what it loads from the same rows, and
//! results of `preference` by the names of their columns.

use serde_json::{Value, json};

use super::super::counts::{LeftOut, Reason};
use super::super::format::{Format, Source};
use super::super::items::{Answer, Items, Reading, items};
use super::super::own::OwnColumns;
use super::super::prompts::Texts;
use super::Shape;

const SCORED: &str = include_str!("../../../tests/fixtures/rlhf/scored.jsonl");
const EXPECTED: &str = include_str!("../../../tests/fixtures/rlhf/scored.expected.json");

/// Columns that a job of `preference` makes.
const OWN: [&str; 13] = [
    "row",
    "id",
    "status",
    "error",
    "pair",
    "chosen",
    "rejected",
    "chosen_score",
    "rejected_score",
    "margin",
    "chosen_sample",
    "rejected_sample",
    "no_pair",
];

/// A value as Python's `str` has it.
fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "None".to_owned(),
        other => other.to_string(),
    }
}

fn falls(first: &Value, second: &Value) -> bool {
    match (first, second) {
        (Value::String(first), Value::String(second)) => first > second,
        _ => first.as_f64() > second.as_f64(),
    }
}

/// The pairs that the reference's trainers of reward models and DPO make of a line: of each answer and the next; where
/// the score falls, the better one is taken anew.
fn loaded_pairs(line: &Value) -> Vec<(String, String)> {
    let answers = line["answers"].as_array().cloned().unwrap_or_default();
    let prompt = as_text(&line["prompt"]);
    let (mut chosen, mut pairs) = (None, Vec::new());
    for neighbours in answers.windows(2) {
        let [first, second] = neighbours else {
            continue;
        };
        if falls(&first["score"], &second["score"]) {
            chosen = Some(as_text(&first["answer"]));
        }
        let rejected = as_text(&second["answer"]);
        let Some(chosen) = chosen.clone() else {
            continue;
        };
        let has_all = !prompt.is_empty() && !chosen.is_empty() && !rejected.is_empty();
        if chosen != rejected && has_all {
            pairs.push((chosen, rejected));
        }
    }
    pairs
}

/// What the reference's fine-tuning loads of a line: prompt and answer.
fn loaded_for_tuning(line: &Value) -> Option<(String, String)> {
    let kind = line
        .get("data_type")
        .map_or("human_generated", |kind| kind.as_str().unwrap());
    let first = line["answers"].get(0)?;
    first.get("score")?;
    let (prompt, answer) = (as_text(&line["prompt"]), as_text(&first["answer"]));
    let is_whole = !prompt.is_empty() && !answer.is_empty();
    (kind == "human_generated" && is_whole).then_some((prompt, answer))
}

fn scored() -> Vec<Value> {
    let lines = SCORED.split('\n').filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn the_loaders_are_those_of_the_reference() {
    let expected: Value = serde_json::from_str(EXPECTED).unwrap();
    let rows = expected["rows"].as_array().unwrap();
    assert_eq!(rows.len(), scored().len());
    for (line, expected) in scored().iter().zip(rows) {
        let pairs: Vec<(String, String)> = expected["pairs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pair| {
                (
                    as_text(&pair["chosen_answer"]),
                    as_text(&pair["rejected_answer"]),
                )
            })
            .collect();
        assert_eq!(loaded_pairs(line), pairs, "{}", expected["note"]);
        let tuned = expected["sft"].get(0);
        let tuned = tuned.map(|one| (as_text(&one["prompt"]), as_text(&one["label"])));
        assert_eq!(loaded_for_tuning(line), tuned, "{}", expected["note"]);
    }
}

fn shape(format: Format, source: Source) -> Shape {
    Shape {
        format,
        source,
        conversational: false,
        margin: false,
        template: None,
        model: "model".to_owned(),
    }
}

fn texts(prompt: &str, prefix: Option<&str>) -> Texts {
    Texts {
        prompt: prompt.to_owned(),
        prefix: prefix.map(str::to_owned),
        ..Texts::default()
    }
}

/// The line that we write of a row of the reference's fixture, and what was left out.
fn written(line: &Value) -> (Option<Value>, LeftOut) {
    let answers = line["answers"].as_array().cloned().unwrap_or_default();
    let answers = answers.iter().map(|answer| Answer {
        text: as_text(&answer["answer"]),
        // Our scores are numbers.
        score: match &answer["score"] {
            Value::Number(number) => Some(number.clone()),
            other => Some(other.as_str().unwrap().parse::<i64>().unwrap().into()),
        },
        ..Answer::default()
    });
    let items = Items {
        row: 0,
        id: String::new(),
        texts: texts(&as_text(&line["prompt"]), line["prefix"].as_str()),
        prompt_tokens: 0,
        answers: answers.collect(),
        pairs: Vec::new(),
        line: serde_json::Map::new(),
    };
    let mut left_out = LeftOut::default();
    let lines = shape(Format::Rlhf, Source::Reward).lines(items, &mut left_out);
    let lines = lines.unwrap_or_else(|_| panic!("no template can fail"));
    (lines.into_iter().next(), left_out)
}

#[test]
fn the_best_answer_is_always_chosen_and_never_rejected() {
    let mut with_pairs = 0;
    for line in scored() {
        let (ours, _) = written(&line);
        let Some(ours) = ours else {
            let answers = line["answers"].as_array().unwrap();
            assert!(answers.iter().all(|one| one["answer"] == ""), "{line}");
            continue;
        };
        let text = ours.to_string();
        assert!(!text.contains("null") && !text.contains('\n'), "{text}");
        let answers = ours["answers"].as_array().unwrap();
        let best = &answers[0]["answer"];
        let score = |one: &Value| match &one["score"] {
            Value::String(text) => text.parse().unwrap(),
            number => number.as_f64().unwrap(),
        };
        let all = line["answers"].as_array().unwrap();
        let all = all.iter().filter(|one| one["answer"] != "");
        let highest = all.map(score).fold(f64::NEG_INFINITY, f64::max);
        assert_eq!(score(&answers[0]), highest, "{line}");
        let pairs = loaded_pairs(&ours);
        if !ours["prompt"].as_str().unwrap().is_empty() {
            assert_eq!(pairs.len(), answers.len() - 1, "{line}");
            with_pairs += usize::from(!pairs.is_empty());
        }
        for (at, (chosen, rejected)) in pairs.iter().enumerate() {
            assert_eq!(
                Value::from(chosen.as_str()),
                answers[at]["answer"],
                "{line}"
            );
            assert_ne!(&Value::from(rejected.as_str()), best, "{line}");
        }
    }
    assert!(with_pairs >= 14, "{with_pairs}");
}

#[test]
fn ties_repetitions_and_empty_answers_are_counted() {
    let line = json!({"prompt": "问", "answers": [
        {"answer": "乙", "score": 1}, {"answer": "甲", "score": 2}, {"answer": "丙", "score": 2},
        {"answer": "甲", "score": 0}, {"answer": " ", "score": 9},
    ]});
    let (ours, left_out) = written(&line);
    assert_eq!(
        ours.unwrap(),
        json!({"prompt": "问", "prefix": "", "answers": [{"answer": "甲", "score": 2}, {"answer": "乙", "score": 1}]})
    );
    for (reason, count) in [(Reason::Tie, 1), (Reason::SameText, 1), (Reason::Empty, 1)] {
        assert_eq!(left_out.of(&reason), count, "{reason:?}");
    }
}

/// The lines of rows of `preference`, as its results have them: three pairs of one row, one pair of another, and a row
/// without one.
fn of_preference(format: Format, change: impl Fn(&mut Shape)) -> (Vec<Value>, LeftOut) {
    let pair = |row: u64, pair: u64, chosen: (&str, f64, u64), rejected: (&str, f64, u64)| {
        json!({
            "row": row, "id": row.to_string(), "status": "ok", "error": null, "pair": pair,
            "chosen": chosen.0, "rejected": rejected.0,
            "chosen_score": chosen.1, "rejected_score": rejected.1, "margin": chosen.1 - rejected.1,
            "chosen_sample": chosen.2, "rejected_sample": rejected.2, "no_pair": null,
            "rendered_prompt": "问", "rendered_prefix": "答",
        })
    };
    let (a, b, c) = (("甲", 2.5, 3), ("乙", 0.5, 0), ("丙", -1.0, 1));
    let without = json!({
        "row": 2, "id": "2", "status": "ok", "error": null, "pair": null, "chosen": null, "rejected": null,
        "chosen_score": null, "rejected_score": null, "margin": null, "chosen_sample": null,
        "rejected_sample": null, "no_pair": "tie", "rendered_prompt": "问", "rendered_prefix": null,
    });
    let rows = [
        vec![pair(0, 0, a, b), pair(0, 1, a, c), pair(0, 2, b, c)],
        vec![pair(1, 0, c, a)],
        vec![without],
    ];
    let mut shape = shape(format, Source::Preference);
    change(&mut shape);
    let (mut lines, mut left_out) = (Vec::new(), LeftOut::default());
    for row in rows {
        let row = row.iter().map(|line| line.as_object().unwrap().clone());
        let row: Vec<_> = row.collect();
        let reading = Reading {
            source: Source::Preference,
            own: &OwnColumns::flat_of(OWN),
            label: None,
        };
        let items = items(&reading, &row, texts("问", Some("答")), &mut left_out);
        let items = items.unwrap_or_else(|_| panic!("no label can fail"));
        let of_row = shape.lines(items, &mut left_out);
        lines.extend(of_row.unwrap_or_else(|_| panic!("no template can fail")));
    }
    assert_eq!(left_out.of(&Reason::NoPair("tie".to_owned())), 1);
    (lines, left_out)
}

#[test]
fn pairs_become_lines_of_two_answers() {
    let line = |chosen: &str, rejected: &str| json!({"prompt": "问\n答", "chosen": chosen, "rejected": rejected});
    let expected = [
        line("甲", "乙"),
        line("甲", "丙"),
        line("乙", "丙"),
        line("丙", "甲"),
    ];
    let (lines, _) = of_preference(Format::TrlPreference, |_| ());
    assert_eq!(lines, expected, "never a margin unless it is asked for");
    let (lines, _) = of_preference(Format::TrlPreference, |shape| shape.margin = true);
    let margins: Vec<f64> = lines
        .iter()
        .map(|line| line["margin"].as_f64().unwrap())
        .collect();
    assert_eq!(margins, [2.0, 3.5, 1.5, -3.5]);
    let (lines, _) = of_preference(Format::TrlPreference, |shape| shape.conversational = true);
    let said = |role: &str, text: &str| json!([{"role": role, "content": text}]);
    assert_eq!(
        lines[3],
        json!({"prompt": said("user", "问\n答"), "chosen": said("assistant", "丙"), "rejected": said("assistant", "甲")})
    );
}

#[test]
fn pairs_become_answers_that_come_once() {
    let line =
        |text: &str, label: bool| json!({"prompt": "问\n答", "completion": text, "label": label});
    let (lines, left_out) = of_preference(Format::TrlUnpaired, |_| ());
    // The middle one of three is better than one and worse than another.
    let expected = [
        line("甲", true),
        line("丙", false),
        line("丙", true),
        line("甲", false),
    ];
    assert_eq!(lines, expected);
    assert_eq!(left_out.of(&Reason::Repeated), 2);
    assert_eq!(left_out.of(&Reason::BothLabels), 1);
    let (lines, left_out) = of_preference(Format::TrlPromptCompletion, |_| ());
    let line = |text: &str| json!({"prompt": "问\n答", "completion": text});
    assert_eq!(lines, [line("甲"), line("乙"), line("丙")]);
    assert_eq!(left_out.of(&Reason::Repeated), 1);
}

#[test]
fn pairs_become_answers_by_falling_score() {
    let (lines, _) = of_preference(Format::Rlhf, |_| ());
    let answer = |text: &str, score: f64| json!({"answer": text, "score": score});
    let line = |answers: Vec<Value>| json!({"prompt": "问", "prefix": "答", "answers": answers});
    assert_eq!(
        lines,
        [
            line(vec![
                answer("甲", 2.5),
                answer("乙", 0.5),
                answer("丙", -1.0)
            ]),
            // Here the scores say otherwise than the pair, and the trainers go by the scores.
            line(vec![answer("甲", 2.5), answer("丙", -1.0)]),
        ]
    );
    let pairs = lines.iter().flat_map(loaded_pairs);
    let pairs: Vec<(String, String)> = pairs.collect();
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(
        pairs,
        [pair("甲", "乙"), pair("乙", "丙"), pair("甲", "丙")]
    );
}
