//! What `plan` says of jobs that read beside what their runs count.

use serde_json::{Value, json};

use crate::few_shot::job;
use crate::support::{Job, both, demo_model};

/// The numbers that both have, under the same names, and those that each has under a name of its own.
const SAME: [&str; 4] = [
    "prompt_tokens",
    "prefill_batches",
    "peak_slots",
    "peak_tokens",
];
const OTHER: (&str, &str) = ("padding_tokens", "padded_tokens");

/// Plans a job, runs it, and gives the plan.
fn compare(job: &Job, set: &[&str]) -> Value {
    let set: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
    let args = [&["plan", "job.toml", "--json"], &set[..]].concat();
    let output = job.command(&args).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    job.run_ok(&[&["--quiet"], &set[..]].concat());
    let report = std::fs::read(job.path("out/report/shard-0.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    let (planned, counted) = (&plan["statistics"], &report["engine"]);
    for name in SAME {
        assert_eq!(planned[name], counted[name], "{name}: {planned} {counted}");
    }
    assert_eq!(planned[OTHER.0], counted[OTHER.1], "{planned} {counted}");
    plan
}

/// Questions of several lengths.
fn questions() -> Vec<Value> {
    let row = |at: usize| {
        let question = "哪座城市是首都？".repeat(1 + at % 4);
        let choices: Vec<String> = (0..2 + at % 3).map(|at| "巴黎".repeat(1 + at)).collect();
        json!({"q": question, "c": choices, "l": 0, "t": choices[1], "a": choices})
    };
    (0..60).map(row).collect()
}

const BATCH: &str = "[batch]\nmax_batch_size = 16\n";

#[test]
fn the_plan_of_a_job_that_reads_is_what_its_run_does() {
    let overlay = demo_model().join("../reward/reward_delta.safetensors");
    let overlay = format!("model.overlay={}", overlay.display());
    let rows = questions();
    let template =
        "[prompt]\ntemplate = \"{{ q }}{{ choice }}\"\n[choose]\nmethod = \"whole-text\"\n";
    let letters = "[choose]\nmethod = \"next-token\"\nchoices = [\"是\", \"不\"]\n";
    for (task, columns, more, set) in [
        ("score", "prompt = \"q\", target = \"t\"", "", vec![]),
        (
            "score",
            "prompt = \"q\"",
            "[score]\nmethod = \"whole-text\"\n",
            vec![],
        ),
        ("choose", "prompt = \"q\", choices = \"c\"", "", vec![]),
        ("choose", "prompt = \"q\"", letters, vec![]),
        ("choose", "choices = \"c\"", template, vec![]),
        (
            "reward",
            "prompt = \"q\", answer = \"a\"",
            "",
            vec![overlay.as_str()],
        ),
    ] {
        let more = format!("format = \"jsonl\"\n{more}{BATCH}");
        let columns = format!("columns = {{ {columns} }}");
        let job = job(task, &rows, &[], &columns, &more);
        let plan = compare(&job, &set);
        let statistics = &plan["statistics"];
        assert!(plan["reading_bytes"].as_u64().unwrap() > 1 << 16, "{plan}");
        assert_eq!(plan["cache_bytes"], 0, "{plan}");
        let choices = rows.iter().map(|row| row["c"].as_array().unwrap().len());
        let texts = if more.contains("choice }}") {
            choices.sum()
        } else {
            rows.len()
        };
        assert_eq!(statistics["texts"], texts, "{task}: {plan}");
    }
}

/// A row of many texts is as many readings, and is as long as the longest of them.
#[test]
fn a_row_of_many_texts_is_not_one_long_text() {
    let choices: Vec<String> = (0..50).map(|at| format!("第{at}个")).collect();
    let rows = [json!({"q": "这是关于什么的？", "c": choices})];
    let more = format!(
        "format = \"jsonl\"\n[prompt]\ntemplate = \"{{{{ q }}}}{{{{ choice }}}}\"\n[choose]\nmethod = \"whole-text\"\n{BATCH}"
    );
    let job = job("choose", &rows, &[], "columns = { choices = \"c\" }", &more);
    let plan = compare(&job, &[]);
    let longest = job.rows()[0]["prompt_tokens"].clone();
    assert_eq!(plan["statistics"]["longest_prompt"], longest, "{plan}");
    let output = job.command(&["plan", "job.toml"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains(&format!(" to read in 50 texts (longest {longest})")),
        "{text}"
    );
    assert!(text.contains("no cache, up to "), "{text}");
}
