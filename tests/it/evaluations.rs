//! The evaluations of the reference, by the ready jobs of the project: letters, perplexity, generation.

use std::path::Path;

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

    /// Does what a subcommand does with the ready job, and gives what it prints.
    fn done(&self, command: &str) -> String {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("jobs/{}.toml", self.name));
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
    for (task, name) in [
        ("ocnli", "clue-ocnli"),
        ("cmnli", "clue-ocnli"),
        ("afqmc", "clue-afqmc"),
        ("csl", "clue-csl"),
    ] {
        let golden = &goldens[task];
        let data = golden["data_file"].as_str().unwrap();
        let rows = data.lines().map(|line| serde_json::from_str(line).unwrap());
        let rows: Vec<Value> = rows.filter(|row: &Value| row["label"] != "-").collect();
        let groups = golden["groups"].as_array().unwrap();
        assert_eq!(rows.len(), groups.len(), "{task}");
        let mut ready = Evaluation::new(name);
        ready
            .rows("input.path", "in.jsonl", &rows)
            .set(format!("model.path={}", model.display()))
            .set(format!("prompt.max_length={}", golden["max_length"]));
        ready.done("run");
        for (row, group) in ready.job.rows().iter().zip(groups) {
            assert_eq!(row["choice"], group["argmin_single_softmax"], "{group}");
            let is_right = group["argmin_single_softmax"] == group["label_index"];
            assert_eq!(row["correct"], is_right, "{group}");
            let [from, to] = [0, 1].map(|at| group["rows"][at].as_u64().unwrap() as usize);
            let prompts = &golden["prompts"].as_array().unwrap()[from..to];
            let got = floats(&row["choice_logprobs"]);
            assert_eq!(got.len(), prompts.len(), "{group}");
            for (got, prompt) in got.iter().zip(prompts) {
                let want = prompt["ppl_single_softmax"].as_f64().unwrap();
                assert!(((-got).exp() - want).abs() < 1e-4 * want, "{got} {prompt}");
            }
            compared += 1;
        }
    }
    assert!(compared >= 20, "{compared}");
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
