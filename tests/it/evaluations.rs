//! The evaluations of the reference, by the ready jobs of the project: letters, perplexity, generation.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Job, both, shared};

/// The job's own files in a folder, and the keys that point a ready job at them.
struct Evaluation {
    job: Job,
    name: &'static str,
    set: Vec<String>,
}

impl Evaluation {
    fn new(name: &'static str) -> Self {
        let job = Job {
            folder: TempDir::new().unwrap(),
        };
        let set = vec![format!("output.path={}", job.path("out").display())];
        Self { job, name, set }
    }

    fn set(&mut self, set: String) -> &mut Self {
        self.set.push(set);
        self
    }

    /// Writes rows to a file, and points a key at it.
    fn rows(&mut self, key: &str, name: &str, rows: &[Value]) -> &mut Self {
        let lines: Vec<String> = rows.iter().map(|row| format!("{row}\n")).collect();
        let path = self.job.path(name);
        std::fs::write(&path, lines.concat()).unwrap();
        self.set(format!("{key}={}", path.display()))
    }

    /// The ready job.
    fn file(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("jobs/{}.toml", self.name))
    }

    /// Does what a subcommand does with the ready job, and gives what it prints.
    fn done(&self, command: &str) -> String {
        let file = self.file();
        let mut args = vec![command, file.to_str().unwrap()];
        args.extend(self.set.iter().flat_map(|set| ["--set", set]));
        let output = self.job.command(&args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", both(&output));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// `<|endofpiece|>`.
const END: u64 = 50007;

fn goldens(file: &str) -> Option<Value> {
    let path = shared(&format!("fixtures/glm-tiny-zh/tasks/eval/{file}.json"))?;
    Some(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
}

fn floats(value: &Value) -> Vec<f64> {
    let items = value.as_array().unwrap().iter();
    items.map(|item| item.as_f64().unwrap()).collect()
}

/// The lines of a file that the golden holds, cut at commas; the header line is left out where there is one.
fn csv(golden: &Value, part: &str, subject: &str, columns: &[&str], skip: usize) -> Vec<Value> {
    let text = golden["files"][format!("{part}/{subject}_{part}.csv")]
        .as_str()
        .unwrap();
    let row = |line: &str| {
        let cells = line.split(',').map(Value::from);
        let row: serde_json::Map<String, Value> = columns
            .iter()
            .map(|name| (*name).to_owned())
            .zip(cells)
            .collect();
        Value::Object(row)
    };
    text.lines().skip(skip).map(row).collect()
}

/// As many rows of each kind as the job has, on the demonstration model, as the job file is.
#[test]
fn each_ready_job_runs_as_it_is() {
    for (name, rows, says) in [
        ("ceval", 6, "6 choices, 6 of them with a label"),
        ("mmlu", 6, "6 choices, 6 of them with a label"),
        ("clue-ocnli", 4, "4 choices, 4 of them with a label"),
        ("clue-afqmc", 4, "4 choices, 4 of them with a label"),
        ("clue-csl", 4, "4 choices, 4 of them with a label"),
        ("clue-tnews", 4, "4 choices, 4 of them with a label"),
        ("clue-chid", 4, "4 choices, 4 of them with a label"),
        ("clue-c3", 4, "4 choices, 4 of them with a label"),
        ("clue-iflytek", 4, "4 choices, 4 of them with a label"),
        ("clue-wsc", 4, "4 choices, 4 of them with a label"),
        ("cmrc", 3, "of 3 answers match the reference"),
    ] {
        let ready = Evaluation::new(name);
        let printed = ready.done("run");
        assert!(printed.contains(says), "{name}: {printed}");
        let results = ready.job.rows();
        assert_eq!(results.len(), rows, "{name}");
        assert!(results.iter().all(|row| row["status"] == "ok"), "{name}");
    }
}

/// C-Eval and MMLU with up to 0, 3 and 5 examples, some of which do not fit: the logits of the letters, which
/// log-probabilities give up to one number a row.
#[test]
fn letters_behind_examples_are_those_of_the_reference() {
    let (Some(goldens), Some(model)) = (goldens("generation"), shared("fixtures/glm-tiny-zh"))
    else {
        return;
    };
    let of_ceval = ["id", "question", "A", "B", "C", "D", "answer"];
    let mut compared = 0;
    for (set, columns, skip, name_at) in [
        ("ceval", &of_ceval[..], 1, 1),
        ("mmlu", &of_ceval[1..], 0, 0),
    ] {
        let golden = &goldens[set];
        let rows = |part: &str, subject: &str| {
            let title = golden["subject_mapping"][subject][name_at].clone();
            let mut rows = csv(golden, part, subject, columns, skip);
            for row in &mut rows {
                row["subject"] = title.clone();
                if set == "mmlu" {
                    row["choices"] = json!([row["A"], row["B"], row["C"], row["D"]]);
                }
            }
            rows
        };
        let subjects = golden["subject_mapping"].as_object().unwrap();
        let dev: Vec<Value> = subjects
            .keys()
            .flat_map(|subject| rows("dev", subject))
            .collect();
        for run in golden["runs"].as_array().unwrap() {
            let cases = run["cases"].as_array().unwrap();
            let mut asked: Vec<&Value> = cases.iter().map(|case| &case["subject"]).collect();
            asked.dedup();
            let val: Vec<Value> = asked
                .iter()
                .flat_map(|subject| rows("val", subject.as_str().unwrap()))
                .collect();
            assert_eq!(val.len(), cases.len());
            let (n, most) = (&run["max_few_shot"], run["max_length"].as_u64().unwrap());
            let kept_free = run["max_length_generation"].as_u64().unwrap();
            let mut ready = Evaluation::new(set);
            ready
                .rows("input.path", "val.jsonl", &val)
                .rows("prompt.few_shot.path", "dev.jsonl", &dev)
                .set(format!("model.path={}", model.display()))
                .set("choose.label=letter".to_owned())
                .set(format!("prompt.few_shot.n={n}"))
                .set(format!("prompt.max_length={}", most - kept_free));
            let printed = ready.done("run");
            let loses = *n == 5;
            let says = printed.contains("18 with fewer examples");
            assert_eq!(says, loses, "{printed}");
            if loses {
                // None of the rows has room for all of them.
                let planned = ready.done("plan");
                assert!(planned.contains("dropped from 18 rows"), "{planned}");
            }
            for (row, case) in ready.job.rows().iter().zip(cases) {
                let tokens = case["input_ids"].as_array().unwrap().len();
                assert_eq!(row["prompt_tokens"], tokens, "{case}");
                assert_eq!(row["choice_text"], case["pred"], "{case}");
                assert_eq!(row["correct"], case["pred"] == case["label"], "{case}");
                let (got, want) = (
                    floats(&row["choice_logprobs"]),
                    floats(&case["letter_logits"]),
                );
                for (got_one, want_one) in got.iter().zip(&want) {
                    let (got, want) = (got_one - got[0], want_one - want[0]);
                    assert!((got - want).abs() < 4e-4, "{got} {want}: {case}");
                }
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 108);
}

/// The jobs of CLUE over the golden files: perplexity by one softmax, and the pick that follows from it.
#[test]
fn perplexities_of_the_ready_jobs_are_those_of_the_reference() {
    let (Some(goldens), Some(model)) = (goldens("ppl"), shared("fixtures/glm-tiny-zh")) else {
        return;
    };
    let mut compared = 0;
    for (task, name) in CLUE {
        let golden = &goldens[task];
        let rows = clue_rows(task, golden);
        let mut ready = Evaluation::new(name);
        ready
            .rows("input.path", "in.jsonl", &rows)
            .set(format!("model.path={}", model.display()))
            .set(format!("prompt.max_length={}", golden["max_length"]));
        ready.done("run");
        let results = ready.job.rows();
        assert_eq!(results.len(), rows.len(), "{task}");
        let groups = golden["groups"].as_array().unwrap();
        let got = as_asked(task, &rows, &results, groups);
        let prompts = golden["prompts"].as_array().unwrap();
        assert_eq!(got.len(), prompts.len(), "{task}");
        for (got, prompt) in got.iter().zip(prompts) {
            let want = prompt["ppl_single_softmax"].as_f64().unwrap();
            assert!(((-got).exp() - want).abs() < 1e-4 * want, "{got} {prompt}");
        }
        for (at, group) in groups.iter().enumerate() {
            let [from, to] = [0, 1].map(|at| group["rows"][at].as_u64().unwrap() as usize);
            let pick = first_highest(&got[from..to]);
            assert_eq!(group["argmin_single_softmax"], pick, "{task}: {group}");
            // Elsewhere a group is other texts than those of a row: see the head of the job.
            if !["c3", "cluewsc2020", "tnews", "iflytek"].contains(&task) {
                assert_eq!(groups.len(), rows.len(), "{task}");
                assert_eq!(results[at]["choice"], pick, "{task}: {group}");
                let is_right = group["label_index"] == pick;
                assert_eq!(results[at]["correct"], is_right, "{task}: {group}");
            }
            compared += 1;
        }
    }
    assert_eq!(compared, 53);
}

/// The tasks of the golden file, and the ready job of each.
const CLUE: [(&str, &str); 9] = [
    ("ocnli", "clue-ocnli"),
    ("cmnli", "clue-ocnli"),
    ("afqmc", "clue-afqmc"),
    ("csl", "clue-csl"),
    ("chid", "clue-chid"),
    ("c3", "clue-c3"),
    ("cluewsc2020", "clue-wsc"),
    ("tnews", "clue-tnews"),
    ("iflytek", "clue-iflytek"),
];

/// The rows that the job of a task reads: those of the published file, or what the head of the job makes of them.
fn clue_rows(task: &str, golden: &Value) -> Vec<Value> {
    let data = golden["data_file"].as_str().unwrap();
    let lines = || {
        let rows = data.lines().map(|line| serde_json::from_str(line).unwrap());
        rows.collect::<Vec<Value>>()
    };
    match task {
        "chid" => chid_rows(&lines(), &golden["dev_answer"]),
        "c3" => c3_rows(&serde_json::from_str(data).unwrap()),
        _ => lines()
            .into_iter()
            .filter(|row| row["label"] != "-")
            .collect(),
    }
}

/// A row of each gap.
fn chid_rows(published: &[Value], right: &Value) -> Vec<Value> {
    let mut rows = Vec::new();
    for line in published {
        for content in line["content"].as_array().unwrap() {
            // The text is cut at each `#`, so that every second piece is the name of a gap.
            for name in content.as_str().unwrap().split('#').skip(1).step_by(2) {
                let idiom = format!("#{name}#");
                rows.push(json!({
                    "content": content, "idiom": idiom,
                    "candidates": line["candidates"], "label": right[&idiom],
                }));
            }
        }
    }
    rows
}

/// A row of each question.
fn c3_rows(published: &Value) -> Vec<Value> {
    let mut rows = Vec::new();
    for text in published.as_array().unwrap() {
        let said = text[0].as_array().unwrap().iter();
        let context: String = said.map(|said| said.as_str().unwrap()).collect();
        for asked in text[1].as_array().unwrap() {
            rows.push(json!({
                "context": context, "question": asked["question"],
                "choices": asked["choice"], "answer": asked["answer"],
            }));
        }
    }
    rows
}

/// The mean log-probabilities of those texts that the reference reads, in its order.
fn as_asked(task: &str, rows: &[Value], results: &[Value], groups: &[Value]) -> Vec<f64> {
    let of_row = |row: &Value| floats(&row["choice_logprobs"]);
    match task {
        // It reads the text with the name alone.
        "cluewsc2020" => results.iter().map(|row| of_row(row)[0]).collect(),
        // It reads four texts a row, the first of them with the right word.
        "tnews" | "iflytek" => {
            let words = words_of(task, rows, groups);
            let chosen = results.iter().zip(groups).flat_map(|(row, group)| {
                let all = of_row(row);
                let candidates = group["candidates"].as_array().unwrap().iter();
                let places = candidates.map(|word| words.iter().position(|known| known == word));
                places.map(|place| all[place.unwrap()]).collect::<Vec<_>>()
            });
            chosen.collect()
        }
        _ => results.iter().flat_map(of_row).collect(),
    }
}

/// The word that each choice of a ready job puts into the text.
fn words_of(task: &str, rows: &[Value], groups: &[Value]) -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("jobs/clue-{task}.toml"));
    let job: toml::Value = toml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let choices = job["choose"]["choices"].as_array().unwrap().iter();
    let choices = choices.map(|choice| choice.as_str().unwrap().to_owned());
    if task == "iflytek" {
        return choices.collect();
    }
    let tasks = shared("fixtures/glm-tiny-zh/tasks/eval-tasks.json").unwrap();
    let tasks: Value = serde_json::from_slice(&std::fs::read(tasks).unwrap()).unwrap();
    let words = &tasks["tasks"][task]["choices"];
    // The right word is the first one of a group.
    for (row, group) in rows.iter().zip(groups) {
        assert_eq!(
            words[row["label"].as_str().unwrap()],
            group["candidates"][0]
        );
    }
    choices
        .map(|choice| words[choice].as_str().unwrap().to_owned())
        .collect()
}

fn first_highest(values: &[f64]) -> usize {
    let highest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    values.iter().position(|value| *value == highest).unwrap()
}

/// The command in the head of a job file makes the job's rows of the published ones.
#[test]
fn the_published_files_become_rows_by_the_command_in_the_job_file() {
    let known = Command::new("jq").arg("--version").output();
    if known.is_err() {
        eprintln!("skipped: `jq` is not here");
        return;
    }
    let idioms: Vec<String> = (0..10).map(|at| format!("成语{at}")).collect();
    let chid = [
        json!({"content": ["一#idiom577157#，二。"], "candidates": idioms}),
        json!({"content": ["三#idiom577158#，#idiom577159#四。", "五\u{2028}#idiom577160#"], "candidates": idioms}),
    ];
    let right = json!({
        "#idiom577157#": 1, "#idiom577158#": 0, "#idiom577159#": 9, "#idiom577160#": 3,
    });
    let c3 = json!([
        [["男：你好。", "女：\"你好\"。"], [
            {"question": "谁？", "choice": ["男", "女"], "answer": "女"},
            {"question": "几？", "choice": ["一", "二", "三", "四"], "answer": "二"},
        ], "1-1"],
        [["一段文字。"], [{"question": "何？", "choice": ["甲", "乙", "丙"], "answer": "甲"}], "1-2"],
    ]);
    let lines: Vec<String> = chid.iter().map(|row| format!("{row}\n")).collect();
    for (name, files, rows) in [
        (
            "clue-chid",
            vec![
                ("dev.json", lines.concat()),
                ("dev_answer.json", right.to_string()),
            ],
            chid_rows(&chid, &right),
        ),
        (
            "clue-c3",
            vec![("d-dev.json", c3.to_string())],
            c3_rows(&c3),
        ),
    ] {
        assert!(rows.len() >= 3, "{name}");
        let mut ready = Evaluation::new(name);
        for (file, text) in files {
            std::fs::write(ready.job.path(file), text).unwrap();
        }
        let head = std::fs::read_to_string(ready.file()).unwrap();
        let command = head.lines().find_map(|line| line.strip_prefix("#     jq "));
        let command = format!("jq {}", command.unwrap());
        let mut shell = Command::new("sh");
        let output = shell
            .args(["-c", &command])
            .current_dir(ready.job.folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", both(&output));
        let to = ready.job.path(command.rsplit("> ").next().unwrap());
        let made = std::fs::read_to_string(&to).unwrap();
        let made: Vec<Value> = made
            .trim_end_matches('\n')
            .split('\n')
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(made, rows, "{name}");
        ready.set(format!("input.path={}", to.display()));
        ready.done("run");
        let results = ready.job.rows();
        assert_eq!(results.len(), rows.len(), "{name}");
        assert!(results.iter().all(|row| row["status"] == "ok"), "{name}");
    }
}

/// The reference generates past the ending token to its limit; what comes before it must be the same.
#[test]
fn answers_to_questions_about_texts_are_those_of_the_reference() {
    let (Some(goldens), Some(model)) = (goldens("generation"), shared("fixtures/glm-tiny-zh"))
    else {
        return;
    };
    let golden = &goldens["cmrc2018"];
    let file: Value = serde_json::from_str(golden["data_file"].as_str().unwrap()).unwrap();
    let mut rows = Vec::new();
    for paragraph in file["data"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|one| one["paragraphs"].as_array().unwrap())
    {
        for asked in paragraph["qas"].as_array().unwrap() {
            let answers = asked["answers"].as_array().unwrap().iter();
            let texts: Vec<&Value> = answers.map(|answer| &answer["text"]).collect();
            rows.push(json!({
                "id": asked["id"], "context": paragraph["context"], "question": asked["question"],
                "answers": {"text": texts},
            }));
        }
    }
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(rows.len(), cases.len());
    let mut ready = Evaluation::new("cmrc");
    ready
        .rows("input.path", "in.jsonl", &rows)
        .set(format!("model.path={}", model.display()))
        .set(format!("prompt.max_length={}", golden["max_length"]))
        .set(format!(
            "generation.max_new_tokens={}",
            golden["max_length_generation"]
        ))
        .set("output.token_ids=true".to_owned());
    ready.done("run");
    let mut compared = 0;
    for (row, case) in ready.job.rows().iter().zip(cases) {
        // The context of the golden ends with the start token, which is not counted here.
        let tokens = case["input_ids"].as_array().unwrap().len() - 1;
        assert_eq!(row["prompt_tokens"], tokens, "{case}");
        let generated = case["generated"].as_array().unwrap();
        let end = generated.iter().position(|id| *id == END);
        let upto = end.map_or(generated.len(), |end| end + 1);
        assert_eq!(row["token_ids"], json!(generated[..upto]), "{case}");
        let reason = if end.is_some() { "stop" } else { "length" };
        assert_eq!(row["finish_reason"], reason, "{case}");
        compared += 1;
    }
    assert_eq!(compared, 20);
}
