//! `task = "preference"`: whole jobs, the phases beside jobs of their own, the pairs beside a computation of their own,
//! bad rows, and what is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Job, both, demo_model, files, rows, some_questions, stderr};

pub const COLUMNS: &str =
    "columns = { id = \"id\", prompt = \"question\", prefix = \"prefix\", reference = \"answer\" }";

/// Settings under which the demonstration model gives different answers.
pub const DRAW: &str = "[generation]\ndo_sample = true\nnum_return_sequences = 4\ntemperature = 2.0\nmax_new_tokens = 6\n";

pub fn overlay() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo/reward/reward_delta.safetensors")
}

/// `[reward]` with the demonstration's reward model.
pub fn judge() -> String {
    let (model, overlay) = (demo_model(), overlay());
    format!(
        "[reward]\nmodel = \"{}\"\noverlay = \"{}\"\n",
        model.display(),
        overlay.display()
    )
}

/// A job of the demonstration model over an input; `more` begins inside `[output]`.
pub fn of_input(input: &Path, more: &str) -> Job {
    let job = Job::of_model(&demo_model(), input, COLUMNS, more);
    instead(&job, "name =", "task = \"preference\"\nname =");
    job
}

pub fn instead(job: &Job, text: &str, other: &str) {
    let path = job.path("job.toml");
    let whole = std::fs::read_to_string(&path).unwrap();
    assert!(whole.contains(text), "{text}");
    std::fs::write(&path, whole.replacen(text, other, 1)).unwrap();
}

fn of_rows(folder: &TempDir, rows: &[Value], more: &str) -> Job {
    let input = folder.path().join("in.jsonl");
    let lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
    std::fs::write(&input, lines.join("\n")).unwrap();
    of_input(&input, more)
}

pub fn phase_rows(job: &Job, phase: &str) -> Vec<Value> {
    rows(&job.path("out/phases").join(phase))
}

/// Every part and every file of failed rows, of the results and of the phases.
pub fn results(job: &Job) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for folder in ["", "phases/samples/", "phases/rewards/"] {
        for kind in ["parts", "failed"] {
            let found = files(&job.path("out").join(format!("{folder}{kind}")));
            let named = found
                .into_iter()
                .map(|(name, bytes)| (format!("{folder}{kind}/{name}"), bytes));
            all.extend(named);
        }
    }
    all
}

/// The lines of each row, by its number.
pub fn by_row(rows: Vec<Value>) -> BTreeMap<u64, Vec<Value>> {
    let mut found: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
    for row in rows {
        let number = row["row"].as_u64().unwrap();
        found.entry(number).or_default().push(row);
    }
    found
}

/// The pairs of a row, computed another way: every two answers that differ, then those of them that are asked for.
fn expected_pairs(
    answers: &[(String, Option<f32>)],
    pairs: &str,
    margin: f32,
) -> Vec<(usize, usize)> {
    let is_first = |at: usize| answers[..at].iter().all(|(text, _)| *text != answers[at].0);
    let fit: Vec<usize> = (0..answers.len())
        .filter(|&at| !answers[at].0.trim().is_empty() && answers[at].1.is_some() && is_first(at))
        .collect();
    let score = |at: usize| answers[at].1.unwrap();
    // How many are ranked before: a higher score, or an earlier one of the same score.
    let rank = |at: usize| {
        let before = |&&other: &&usize| {
            score(other) > score(at) || (score(other) == score(at) && other < at)
        };
        fit.iter().filter(before).count()
    };
    let lowest = fit.iter().map(|&at| score(at)).fold(f32::MAX, f32::min);
    let worst = fit.iter().copied().find(|&at| score(at) == lowest);
    let mut found = Vec::new();
    for &a in &fit {
        for &b in &fit {
            let is_asked = match pairs {
                "best-worst" => rank(a) == 0 && Some(b) == worst,
                "adjacent" => rank(b) == rank(a) + 1,
                _ => true,
            };
            if is_asked && score(a) - score(b) > margin {
                found.push((rank(a), rank(b), a, b));
            }
        }
    }
    found.sort_unstable();
    found.into_iter().map(|(_, _, a, b)| (a, b)).collect()
}

/// Compares the pairs of a job with its samples and what ranks them.
pub fn check_pairs(
    job: &Job,
    pairs: &str,
    margin: f32,
    score: &dyn Fn(&Value, Option<&Value>) -> Option<f32>,
) {
    let samples = by_row(phase_rows(job, "samples"));
    let rewards = by_row(phase_rows(job, "rewards"));
    let found = by_row(job.rows());
    assert_eq!(samples.len(), found.len());
    for (row, lines) in &found {
        // Where every answer is empty, one line says so for all of them.
        let judged = rewards.get(row).filter(|lines| lines[0]["status"] == "ok");
        let answers: Vec<(String, Option<f32>)> = samples[row]
            .iter()
            .enumerate()
            .map(|(at, sample)| {
                let text = sample["completion"].as_str().unwrap().to_owned();
                (text, score(sample, judged.map(|lines| &lines[at])))
            })
            .collect();
        let expected = expected_pairs(&answers, pairs, margin);
        if expected.is_empty() {
            assert_eq!(lines.len(), 1, "row {row}");
            let line = &lines[0];
            assert!(line["no_pair"].is_string(), "row {row}: {line}");
            for name in [
                "pair",
                "chosen",
                "rejected",
                "margin",
                "chosen_sample",
                "rejected_score",
            ] {
                assert_eq!(line[name], Value::Null, "row {row}: {name}");
            }
            continue;
        }
        assert_eq!(lines.len(), expected.len(), "row {row}");
        for ((number, line), (chosen, rejected)) in lines.iter().enumerate().zip(expected) {
            let (better, worse) = (&answers[chosen], &answers[rejected]);
            assert_eq!(line["status"], "ok");
            assert_eq!(line["no_pair"], Value::Null);
            assert_eq!(line["pair"], number);
            assert_eq!(line["sample"], number);
            assert_eq!(line["chosen"], better.0);
            assert_eq!(line["rejected"], worse.0);
            assert_eq!(line["chosen_sample"], chosen);
            assert_eq!(line["rejected_sample"], rejected);
            let float = |name: &str| line[name].as_f64().unwrap() as f32;
            assert_eq!(float("chosen_score"), better.1.unwrap());
            assert_eq!(float("rejected_score"), worse.1.unwrap());
            assert_eq!(float("margin"), better.1.unwrap() - worse.1.unwrap());
        }
    }
}

fn float(value: &Value) -> Option<f32> {
    value.as_f64().map(|value| value as f32)
}

pub fn reward(_: &Value, judged: Option<&Value>) -> Option<f32> {
    float(&judged?["reward"])
}

/// In both formats: samples are those of `generate`, rewards those of `reward`, pairs follow from both.
#[test]
fn the_phases_are_jobs_and_the_pairs_follow_from_them() {
    let folder = TempDir::new().unwrap();
    let input = some_questions(folder.path(), 40);
    for format in ["jsonl", "parquet"] {
        let batch = "[batch]\nwindow_rows = 16\n";
        let more = format!("format = \"{format}\"\n{DRAW}{batch}{}", judge());
        let job = of_input(&input, &more);
        let output = job.run_ok(&["--verbose"]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        check_pairs(&job, "best-worst", 0.0, &reward);

        // `generate` over the same rows.
        let more = format!("format = \"{format}\"\ncolumns = \"none\"\n{DRAW}{batch}");
        let generate = Job::of_model(&demo_model(), &input, COLUMNS, &more);
        generate.run_ok(&[]);
        assert!(
            files(&job.path("out/phases/samples/parts")) == generate.files("parts"),
            "{format}: samples"
        );

        // `reward` over the same answers.
        let samples = by_row(phase_rows(&job, "samples"));
        let is_whole = |lines: &&Vec<Value>| {
            let mut texts = lines
                .iter()
                .map(|line| line["completion"].as_str().unwrap());
            texts.all(|text| !text.trim().is_empty())
        };
        let whole: Vec<u64> = samples
            .iter()
            .filter(|(_, lines)| is_whole(lines))
            .map(|(row, _)| *row)
            .collect();
        assert!(whole.len() > 30);
        let questions = std::fs::read_to_string(&input).unwrap();
        let questions: Vec<Value> = questions
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let judged: Vec<String> = whole
            .iter()
            .map(|row| {
                let texts = samples[row].iter().map(|line| line["completion"].clone());
                let question = &questions[*row as usize];
                json!({"question": question["question"], "prefix": question["prefix"], "a": texts.collect::<Vec<_>>()})
                    .to_string()
            })
            .collect();
        let answers = folder.path().join("answers.jsonl");
        std::fs::write(&answers, judged.join("\n")).unwrap();
        let columns = "columns = { prompt = \"question\", prefix = \"prefix\", answer = \"a\" }";
        let alone = Job::of_model(
            &demo_model(),
            &answers,
            columns,
            &format!("format = \"{format}\"\n"),
        );
        instead(&alone, "name =", "task = \"reward\"\nname =");
        let line = format!("[model]\noverlay = \"{}\"\n", overlay().display());
        instead(&alone, "[model]\n", &line);
        alone.run_ok(&[]);
        let rewards = by_row(phase_rows(&job, "rewards"));
        let values = |lines: &[Value]| {
            lines
                .iter()
                .map(|line| line["reward"].clone())
                .collect::<Vec<_>>()
        };
        for (at, lines) in by_row(alone.rows()) {
            let row = whole[at as usize];
            assert_eq!(
                values(&lines),
                values(&rewards[&row]),
                "{format}: row {row}"
            );
        }

        // The prompts are kept, the input's columns carried, and the summary shows pairs.
        let first = &job.rows()[0];
        assert_eq!(first["rendered_prompt"], questions[0]["question"]);
        assert_eq!(first["rendered_prefix"], questions[0]["prefix"]);
        assert_eq!(first["category"], questions[0]["category"]);
        for words in [
            "  pairs        ",
            "mean margin ",
            "question",
            "chosen",
            "rejected",
            "exact match",
        ] {
            assert!(said.contains(words), "{words}: {said}");
        }
    }
}

#[test]
fn pairs_are_made_as_the_job_asks() {
    let folder = TempDir::new().unwrap();
    let input = some_questions(folder.path(), 30);
    for (pairs, margin) in [("adjacent", 0.0), ("all", 0.0), ("all", 4.0)] {
        let preference = format!("[preference]\npairs = \"{pairs}\"\nmargin = {margin:?}\n");
        let job = of_input(
            &input,
            &format!("format = \"jsonl\"\n{DRAW}{preference}{}", judge()),
        );
        job.run_ok(&[]);
        check_pairs(&job, pairs, margin, &reward);
    }
}

#[test]
fn answers_are_ranked_without_a_reward_model() {
    let folder = TempDir::new().unwrap();
    let input = some_questions(folder.path(), 30);
    let preference = "[preference]\nrank = \"logprob\"\npairs = \"all\"\n";
    let job = of_input(&input, &format!("format = \"jsonl\"\n{DRAW}{preference}"));
    job.run_ok(&[]);
    assert!(!job.path("out/phases/rewards").exists());
    check_pairs(&job, "all", 0.0, &|sample, _| {
        let tokens = sample["completion_tokens"].as_f64().unwrap();
        let sum = f64::from(float(&sample["logprob"]).unwrap());
        Some((sum / tokens) as f32)
    });

    let preference = "[preference]\nrank = \"reference\"\n";
    let job = of_input(&input, &format!("format = \"jsonl\"\n{DRAW}{preference}"));
    job.run_ok(&[]);
    let answers: Vec<String> = std::fs::read_to_string(&input)
        .unwrap()
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["answer"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    check_pairs(&job, "best-worst", 0.0, &|sample, _| {
        let answer = &answers[sample["row"].as_u64().unwrap() as usize];
        Some(f32::from(u8::from(sample["completion"] == answer.as_str())))
    });
    let paired = job
        .rows()
        .iter()
        .filter(|row| row["no_pair"].is_null())
        .count();
    assert!(paired > 0);
}

#[test]
fn rows_without_a_pair_and_bad_rows_say_why() {
    let folder = TempDir::new().unwrap();
    let question = |answer: Value| json!({"id": "a", "question": "法国的首都是哪座城市？", "prefix": "答案：", "answer": answer});
    let input = [
        question(json!("巴黎")),
        json!({"id": "b", "question": "", "prefix": null, "answer": "x"}),
        question(Value::Null),
        json!({"id": "c", "question": 7, "prefix": null, "answer": null}),
    ];
    // Cold, all answers are one.
    let cold = "[generation]\ndo_sample = true\nnum_return_sequences = 3\ntemperature = 0.01\nmax_new_tokens = 6\n";
    let job = of_rows(
        &folder,
        &input,
        &format!("format = \"jsonl\"\n{cold}{}", judge()),
    );
    job.run_ok(&[]);
    let found = job.rows();
    let said: Vec<(&str, Option<&str>, Option<&str>)> = found
        .iter()
        .map(|row| {
            (
                row["status"].as_str().unwrap(),
                row["error"].as_str(),
                row["no_pair"].as_str(),
            )
        })
        .collect();
    assert_eq!(
        said,
        [
            ("ok", None, Some("all equal")),
            (
                "failed",
                Some("input: prompt column `question` is empty"),
                None
            ),
            ("ok", None, Some("all equal")),
            (
                "failed",
                Some("input: prompt column `question` holds the number 7, not a text"),
                None
            ),
        ]
    );
    let failed = files(&job.path("out/failed"));
    assert_eq!(failed, files(&job.path("out/phases/samples/failed")));

    let by_reference = "[preference]\nrank = \"reference\"\n";
    let job = of_rows(
        &folder,
        &input,
        &format!("format = \"jsonl\"\n{DRAW}{by_reference}"),
    );
    let output = job.run_ok(&[]);
    assert_eq!(job.rows()[2]["no_pair"], "no reference");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("1 no reference"), "{said}");

    // More failed rows than allowed end the run before anything is judged.
    let job = of_rows(
        &folder,
        &input,
        &format!("format = \"jsonl\"\nmax_failed = 1\n{DRAW}{}", judge()),
    );
    let output = job.run(&[]);
    assert_eq!(output.status.code(), Some(3), "{}", both(&output));
    assert!(!job.path("out/phases/rewards").exists());
}

/// What cannot make pairs is refused before the run, with the cure.
#[test]
fn what_cannot_make_pairs_is_refused() {
    let folder = TempDir::new().unwrap();
    let input = some_questions(folder.path(), 5);
    let more = format!("format = \"jsonl\"\n{DRAW}{}", judge());
    let no_judge = format!("format = \"jsonl\"\n{DRAW}");
    let mut said = Vec::new();
    for (more, set) in [
        (&more, "generation.num_return_sequences=1"),
        (&more, "generation.num_beams=4"),
        (&more, "output.samples=nested"),
        (&more, "preference.margin=-1.0"),
        (&more, "preference.rank=logprob"),
        (&more, "preference.rank=best"),
        (&more, "task=generate"),
        (&more, "task=reward"),
        (&more, "score.ending=false"),
        (&no_judge, "preference.pairs=all"),
        (&no_judge, "model.overlay=x.safetensors"),
    ] {
        let job = of_input(&input, more);
        let output = job.run(&["--set", set]);
        assert_eq!(output.status.code(), Some(2), "{set}: {}", both(&output));
        assert!(!job.path("out").exists(), "{set}");
        let place = job.folder.path().display().to_string();
        said.push(format!("{set}\n{}", stderr(&output).replace(&place, "DIR")));
    }
    let job = Job::of_model(
        &demo_model(),
        &input,
        "columns = { prompt = \"question\" }",
        &format!("{no_judge}[preference]\nrank = \"reference\"\n"),
    );
    instead(&job, "name =", "task = \"preference\"\nname =");
    let output = job.run(&[]);
    let place = job.folder.path().display().to_string();
    said.push(format!(
        "no reference\n{}",
        stderr(&output).replace(&place, "DIR")
    ));
    insta::assert_snapshot!(said.join("\n"));
}

/// The job of the project, as it is: where one of the two answers is right, it is nearly always the chosen one.
#[test]
fn the_demonstration_chooses_right_answers() {
    let folder = TempDir::new().unwrap();
    let job = of_input(&some_questions(folder.path(), 1), "");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("jobs/demo-preference.toml");
    let out = format!("output.path={}", job.path("out").display());
    let args = ["run", file.to_str().unwrap(), "--set", &out];
    let output = job.command(&args).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("chosen"), "{said}");
    let pairs: Vec<Value> = job
        .rows()
        .into_iter()
        .filter(|row| row["no_pair"].is_null())
        .collect();
    let count = |name: &str| {
        pairs
            .iter()
            .filter(|row| row[name] == row["answer"])
            .count()
    };
    let (chosen, rejected) = (count("chosen"), count("rejected"));
    assert!(pairs.len() > 150, "{} pairs", pairs.len());
    assert!(
        chosen > 6 * rejected,
        "{chosen} right ones chosen, {rejected} rejected"
    );
    assert!(2 * chosen > pairs.len(), "{chosen} of {}", pairs.len());
}
