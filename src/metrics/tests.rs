//! Metrics beside those of the packages that they follow: `tests/fixtures/metrics/make.py` has the versions.

use serde::Deserialize;

use super::*;

/// Most that a metric may differ from a package's.
const TOLERANCE: f64 = 1e-6;

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Row {
        answer: String,
        references: Vec<String>,
        f1: f64,
        rouge: [f64; 3],
    },
    Corpus {
        bleu: f64,
        bleu_first_reference: f64,
    },
}

fn lines(text: &str) -> Vec<Line> {
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap()
}

fn of(rows: &[(&[&str], &[&str])]) -> Metrics {
    let mut sums = Sums::default();
    for (answers, references) in rows {
        count(answers, references, &mut sums);
    }
    Metrics::of(&sums).unwrap()
}

#[track_caller]
fn near(what: &str, found: f64, expected: f64) {
    let difference = (found - expected).abs();
    assert!(difference <= TOLERANCE, "{what}: {found}, not {expected}");
}

fn as_the_packages(text: &str) {
    let lines = lines(text);
    let (mut all, mut first) = (Sums::default(), Sums::default());
    let mut rows = 0;
    for line in &lines {
        match line {
            Line::Row {
                answer,
                references,
                f1,
                rouge,
            } => {
                rows += 1;
                let references: Vec<&str> = references.iter().map(String::as_str).collect();
                let one = of(&[(&[answer], &references)]);
                near(answer, one.character_f1.or(one.word_f1).unwrap(), *f1);
                near(answer, one.rouge_1, rouge[0]);
                near(answer, one.rouge_2, rouge[1]);
                near(answer, one.rouge_l, rouge[2]);
                count(&[answer], &references, &mut all);
                count(&[answer], &references[..1], &mut first);
            }
            Line::Corpus {
                bleu,
                bleu_first_reference,
            } => {
                near("BLEU", Metrics::of(&all).unwrap().bleu, *bleu);
                let first = Metrics::of(&first).unwrap().bleu;
                near("BLEU with one reference", first, *bleu_first_reference);
            }
        }
    }
    assert_eq!(rows, 200);
}

#[test]
fn chinese_rows_are_measured_as_the_packages_do() {
    as_the_packages(include_str!("../../tests/fixtures/metrics/zh.jsonl"));
}

#[test]
fn english_rows_are_measured_as_the_packages_do() {
    as_the_packages(include_str!("../../tests/fixtures/metrics/en.jsonl"));
}

#[test]
fn windows_counted_apart_give_the_sums_of_all() {
    let rows = lines(include_str!("../../tests/fixtures/metrics/zh.jsonl"));
    let (mut whole, mut merged) = (Sums::default(), Sums::default());
    for part in rows.chunks(64) {
        let mut window = Sums::default();
        for line in part {
            if let Line::Row {
                answer, references, ..
            } = line
            {
                let references: Vec<&str> = references.iter().map(String::as_str).collect();
                count(&[answer], &references, &mut window);
                count(&[answer], &references, &mut whole);
            }
        }
        let kept = serde_json::to_string(&window).unwrap();
        merged += &serde_json::from_str::<Sums>(&kept).unwrap();
    }
    let (whole, merged) = (Metrics::of(&whole).unwrap(), Metrics::of(&merged).unwrap());
    near("ROUGE-L", merged.rouge_l, whole.rouge_l);
    near("BLEU", merged.bleu, whole.bleu);
    assert_eq!(merged.rows, whole.rows);
}

#[test]
fn case_width_punctuation_and_spaces_do_not_make_an_answer_wrong() {
    for (answer, reference) in [
        ("ＧＬＭ－１３０Ｂ。", "glm 130b"),
        (" 北京，上海 ", "北京上海"),
        ("U.S.A.", "usa"),
        ("？", "?"),
    ] {
        let metrics = of(&[(&[answer], &[reference])]);
        near(answer, metrics.normalised_match, 1.0);
    }
    near(
        "other text",
        of(&[(&["北京"], &["南京"])]).normalised_match,
        0.0,
    );
    near(
        "another mark",
        of(&[(&["？"], &["！"])]).normalised_match,
        0.0,
    );
}

#[test]
fn several_samples_vote_and_pass() {
    let metrics = of(&[
        (&["甲", "乙。", "乙", "丙"], &["乙"]),
        // Of equally frequent answers the first one counts.
        (&["甲", "乙", "甲", "乙"], &["乙"]),
        (&["丁", "丁", "丁", "丁"], &["乙"]),
    ]);
    near("vote", metrics.majority_vote.unwrap(), 1.0 / 3.0);
    let passes: Vec<u64> = metrics.pass_at.keys().copied().collect();
    assert_eq!(passes, [1, 2, 4]);
    near("pass@1", metrics.pass_at[&1], (0.5 + 0.5 + 0.0) / 3.0);
    // Two of four are right: of the six pairs, one has none.
    near("pass@2", metrics.pass_at[&2], 2.0 * (5.0 / 6.0) / 3.0);
    near("pass@4", metrics.pass_at[&4], 2.0 / 3.0);
}

#[test]
fn an_empty_answer_is_a_row_with_nothing_right() {
    let metrics = of(&[(&[""], &["北京"]), (&["北京"], &["北京"])]);
    assert_eq!(metrics.rows, 2);
    near("F1", metrics.character_f1.unwrap(), 0.5);
    near("ROUGE-1", metrics.rouge_1, 0.5);
    let mut sums = Sums::default();
    count(&["北京"], &[], &mut sums);
    assert_eq!(Metrics::of(&sums), None, "a row without a reference");
}
