//! `input.columns.messages`: conversations to prompts, and those that are none.

use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder, StructBuilder};
use arrow_array::{Array as _, RecordBatch};
use arrow_schema::{DataType, Field, Fields, Schema};
use serde_json::{Value, json};

use crate::support::{Job, both, demo_model, stderr};

const COLUMNS: &str = "columns = { messages = \"chat\" }";

fn job(rows: &[Value], columns: &str, more: &str) -> Job {
    let more =
        format!("format = \"jsonl\"\nprompt = true\n{more}\n[generation]\nmax_new_tokens = 2\n");
    let job = Job::of_model(&demo_model(), "in.jsonl".as_ref(), columns, &more);
    let lines: Vec<String> = rows.iter().map(|row| format!("{row}\n")).collect();
    std::fs::write(job.path("in.jsonl"), lines.concat()).unwrap();
    job
}

fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

fn prompts(job: &Job) -> Vec<Value> {
    job.run_ok(&["--quiet"]);
    let rows = job.rows();
    rows.iter()
        .map(|row| row["rendered_prompt"].clone())
        .collect()
}

fn conversations() -> Vec<Value> {
    let long = [
        message("system", "请简要回答。"),
        message("user", "法国的首都？"),
        message("assistant", "巴黎"),
        message("user", "英国的首都？"),
    ];
    vec![
        json!({"n": 1, "chat": [message("user", "法国的首都是哪座城市？")]}),
        json!({"n": 2, "chat": long}),
    ]
}

const SHORT: &str = "问：法国的首都是哪座城市？\n答：";
const LONG: &str = "请简要回答。\n问：法国的首都？\n答：巴黎\n问：英国的首都？\n答：";

#[test]
fn a_conversation_becomes_a_prompt() {
    assert_eq!(prompts(&job(&conversations(), COLUMNS, "")), [SHORT, LONG]);
    let turns = "[prompt]\nturns = \"{{ n }}{% for one in messages %}<{{ one.role }}>{{ one.content }}{% endfor %}\"";
    assert_eq!(
        prompts(&job(&conversations(), COLUMNS, turns)),
        [
            "1<user>法国的首都是哪座城市？",
            "2<system>请简要回答。<user>法国的首都？<assistant>巴黎<user>英国的首都？"
        ]
    );
    // A text may hold the list; a path leads to one.
    let mut rows = conversations();
    rows[1]["chat"] = rows[1]["chat"].to_string().into();
    assert_eq!(prompts(&job(&rows, COLUMNS, "")), [SHORT, LONG]);
    let rows: Vec<Value> = conversations()
        .into_iter()
        .map(|row| json!({"body": row}))
        .collect();
    let columns = "columns = { messages = \"body.chat\" }";
    assert_eq!(prompts(&job(&rows, columns, "")), [SHORT, LONG]);
}

#[test]
fn lists_of_structs_in_parquet_give_the_same_prompts() {
    let texts = || Box::new(StringBuilder::new()) as Box<dyn arrow_array::builder::ArrayBuilder>;
    let fields = Fields::from(vec![
        Field::new("role", DataType::Utf8, true),
        Field::new("content", DataType::Utf8, true),
    ]);
    let structs = StructBuilder::new(fields, vec![texts(), texts()]);
    let mut lists = ListBuilder::new(structs);
    let mut rows: Vec<Value> = conversations()
        .iter()
        .map(|row| row["chat"].clone())
        .collect();
    rows.push(Value::Null);
    rows.push(json!([{"role": "user", "content": null}]));
    for row in &rows {
        for one in row.as_array().into_iter().flatten() {
            let values = lists.values();
            for (at, key) in ["role", "content"].into_iter().enumerate() {
                let builder = values.field_builder::<StringBuilder>(at).unwrap();
                builder.append_option(one[key].as_str());
            }
            values.append(true);
        }
        lists.append(row.is_array());
    }
    let array = lists.finish();
    let field = Field::new("chat", array.data_type().clone(), true);
    let schema = Arc::new(Schema::new(vec![field]));
    let batch = RecordBatch::try_new(schema, vec![Arc::new(array)]).unwrap();
    let job = job(&[], COLUMNS, "");
    let file = std::fs::File::create(job.path("in.parquet")).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    job.run_ok(&["--quiet", "--set", "input.path=in.parquet"]);
    let rows = job.rows();
    assert_eq!(rows[0]["rendered_prompt"], SHORT);
    assert_eq!(rows[1]["rendered_prompt"], LONG);
    assert_eq!(rows[2]["error"], "input: messages column `chat` is null");
    assert_eq!(
        rows[3]["error"],
        "input: messages column `chat` holds a list whose message 0 has null as `content`, not a text"
    );
}

#[test]
fn a_row_without_a_conversation_fails_with_its_reason() {
    let user = || message("user", "一？");
    let rows = [
        json!({"chat": [user()]}),
        json!({"other": 1}),
        json!({"chat": null}),
        json!({"chat": 3}),
        json!({"chat": "一？"}),
        json!({"chat": "{\"role\": \"user\"}"}),
        json!({"chat": {"role": "user", "content": "一？"}}),
        json!({"chat": []}),
        json!({"chat": ["一？"]}),
        json!({"chat": [null]}),
        json!({"chat": [{"content": "一？"}]}),
        json!({"chat": [{"role": "user"}]}),
        json!({"chat": [{"role": null, "content": "一？"}]}),
        json!({"chat": [{"role": "user", "content": null}]}),
        json!({"chat": [{"role": "user", "content": [{"type": "text", "text": "一？"}]}]}),
        json!({"chat": [message("tool", "一？"), user()]}),
        json!({"chat": [user(), message("assistant", "二")]}),
        json!({"chat": [message("user", " ")]}),
        json!({"chat": [{"from": "human", "value": "一？"}]}),
    ];
    let failing = job(&rows, COLUMNS, "");
    let planned = failing.command(&["plan", "job.toml"]).output().unwrap();
    assert!(
        both(&planned).contains("bad rows    18"),
        "{}",
        both(&planned)
    );
    failing.run_ok(&["--quiet"]);
    let failed = failing
        .command(&["show", "out", "--failed", "--json", "--limit", "0"])
        .output()
        .unwrap();
    let failed = String::from_utf8(failed.stdout).unwrap();
    let failed = failed
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    assert!(
        failed
            .map(|row| row["stage"].clone())
            .all(|stage| stage == "input")
    );
    let rows = failing.rows();
    let reasons: Vec<&str> = rows
        .iter()
        .map(|row| row["error"].as_str().unwrap_or("ok"))
        .collect();
    insta::assert_snapshot!(reasons.join("\n"));
}

#[test]
fn two_ways_to_a_prompt_are_refused() {
    let mut texts = Vec::new();
    let mut refuse = |columns: &str, set: &[&str]| {
        let job = job(&conversations(), columns, "");
        let args: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
        let output = job.run(&args);
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        assert!(job.files("parts").is_empty());
        texts.push(stderr(&output));
    };
    refuse("columns = { messages = \"chat\", prompt = \"n\" }", &[]);
    refuse(COLUMNS, &["prompt.template={{ n }}"]);
    refuse("columns = { prompt = \"n\" }", &["prompt.turns={{ n }}"]);
    refuse(COLUMNS, &["prompt.turns={{ messages"]);
    refuse(COLUMNS, &["prompt.turns={{ m }}"]);
    refuse(COLUMNS, &["prompt.turns="]);
    refuse("columns = { messages = \"chats\" }", &[]);
    insta::assert_snapshot!(texts.join("---\n"));
}

/// What a trainer gets of a conversation: its turns as they were, and the answer behind them.
#[test]
fn exports_keep_the_turns_of_a_conversation() {
    let mut rows = conversations();
    let two = [message("user", "一？"), message("user", "二？")];
    rows.push(json!({"n": 3, "chat": two}));
    for kept in ["prompt = true", "prompt = false"] {
        let job = job(&rows, COLUMNS, "");
        let path = job.path("job.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen("prompt = true", kept, 1)).unwrap();
        job.run_ok(&["--quiet"]);
        let answers: Vec<Value> = job
            .rows()
            .iter()
            .map(|row| row["completion"].clone())
            .collect();
        let said = |to: &[&str]| {
            let args = [&["export", "out", "--to"], to].concat();
            let output = job.command(&args).output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{}", both(&output));
            let text = String::from_utf8(output.stdout.clone()).unwrap();
            let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
            (lines.collect::<Vec<Value>>(), stderr(&output))
        };
        let with = |row: usize| {
            let mut turns = rows[row]["chat"].as_array().unwrap().clone();
            turns.push(message("assistant", answers[row].as_str().unwrap()));
            turns
        };
        let (lines, _) = said(&["messages"]);
        let expected: Vec<Value> = (0..3).map(|row| json!({"messages": with(row)})).collect();
        assert_eq!(lines, expected, "{kept}");
        let (lines, _) = said(&["trl-prompt-completion", "--conversational"]);
        for (row, line) in lines.iter().enumerate() {
            assert_eq!(line["prompt"], rows[row]["chat"], "{kept}");
            let answer = message("assistant", answers[row].as_str().unwrap());
            assert_eq!(line["completion"], json!([answer]), "{kept}");
        }
        let (lines, notes) = said(&["sharegpt"]);
        let from = |turn: &Value| match turn["role"].as_str().unwrap() {
            "user" => json!({"from": "human", "value": turn["content"]}),
            "assistant" => json!({"from": "gpt", "value": turn["content"]}),
            role => json!({"from": role, "value": turn["content"]}),
        };
        let expected: Vec<Value> = (0..2)
            .map(|row| {
                let turns: Vec<Value> = with(row).iter().map(from).collect();
                json!({"conversations": turns})
            })
            .collect();
        assert_eq!(lines, expected, "{kept}");
        assert!(
            notes.contains(
                "left out: 1 answer to a conversation in which user and assistant do not take turns"
            ),
            "{notes}"
        );
        // A text, where the format or the command asks for one.
        let (lines, _) = said(&["trl-prompt-completion"]);
        assert_eq!(lines[1]["prompt"], LONG, "{kept}");
        let (lines, _) = said(&["messages", "--prompt-template", "{{ prompt }}"]);
        assert_eq!(lines[1]["messages"][0], message("user", LONG), "{kept}");

        std::fs::remove_file(job.path("in.jsonl")).unwrap();
        let args = ["export", "out", "--to", "messages"];
        let output = job.command(&args).output().unwrap();
        if kept == "prompt = true" {
            let text = String::from_utf8(output.stdout.clone()).unwrap();
            let line: Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
            assert_eq!(line["messages"][0], message("user", LONG));
            let said = stderr(&output);
            assert!(
                said.contains("conversations are written as one text therefore"),
                "{said}"
            );
        } else {
            assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        }
    }
}

/// A prefix is part of what was asked.
#[test]
fn the_prefix_follows_the_last_turn() {
    let job = job(&conversations(), COLUMNS, "[prompt]\nprefix = \"答案：\"");
    job.run_ok(&["--quiet"]);
    let args = ["export", "out", "--to", "messages"];
    let output = job.command(&args).output().unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let line: Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
    assert_eq!(line["messages"][2], message("assistant", "巴黎"));
    assert_eq!(line["messages"][3], message("user", "英国的首都？\n答案："));
}
