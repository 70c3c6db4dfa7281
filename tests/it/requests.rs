//! `input.format = "openai-batch"`: requests of the batch API, their settings, and what they cannot have.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Job, both, demo_model, stderr};

const CHAT: &str = "format = \"openai-batch\"";

fn request(number: usize, body: &Value) -> String {
    let request = json!({
        "custom_id": format!("r-{number}"), "method": "POST", "url": "/v1/chat/completions", "body": body,
    });
    format!("{request}\n")
}

/// A job over these bodies; `input` goes into `[input]`.
fn job_of(bodies: &[Value], input: &str, more: &str) -> Job {
    let more = format!("format = \"jsonl\"\n{more}");
    let job = Job::of_model(&demo_model(), "in.jsonl".as_ref(), input, &more);
    let lines = (0..)
        .zip(bodies)
        .map(|(number, body)| request(number, body));
    fs::write(job.path("in.jsonl"), lines.collect::<String>()).unwrap();
    job
}

fn asked(question: &str) -> Value {
    json!([{ "role": "user", "content": question }])
}

fn exported(job: &Job) -> Vec<Value> {
    let export = job.command(&["export", "out", "--to", "openai-batch"]);
    let output = { export }.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

/// The same rows as columns of their own give the same answers.
#[test]
fn requests_are_answered_with_their_settings() {
    let drawn = json!({"max_tokens": 6, "temperature": 0.7, "top_p": 0.9, "n": 2, "seed": 5, "messages": asked("法国的首都是哪座城市？")});
    let bodies = [
        drawn,
        json!({"model": "m", "messages": asked("德国的首都是哪座城市？"), "temperature": 0, "logprobs": false}),
        json!({"messages": asked("6×7等于几？"), "max_completion_tokens": 1, "user": "u", "metadata": {"k": "v"}, "stream": false}),
        json!({"messages": asked("请填空：胸有成__"), "stop": "竹", "temperature": 0, "top_p": null}),
    ];
    let settings = [
        json!({"max_new_tokens": 6, "temperature": 0.7, "top_p": 0.9, "num_return_sequences": 2, "seed": 5}),
        json!({"do_sample": false}),
        json!({"max_new_tokens": 1}),
        json!({"stop": ["竹"], "do_sample": false}),
    ];
    let generation = "[generation]\nmax_new_tokens = 9\ndo_sample = true\n";
    let requests = job_of(&bodies, CHAT, generation);
    let output = requests.run_ok(&[]);
    let counted = "4 of 4 done, 2 with keys that change no answer, such as `model`";
    assert!(both(&output).contains(counted), "{}", both(&output));
    let plan = requests.command(&["plan", "job.toml", "--set", "output.path=other"]);
    let plan = { plan }.output().unwrap();
    let counted = "2 requests with keys that change no answer, such as `model`";
    assert!(both(&plan).contains(counted), "{}", both(&plan));

    let plain =
        "columns = { id = \"custom_id\", messages = \"messages\", generation = \"settings\" }";
    let rows = Job::of_model(
        &demo_model(),
        "in.jsonl".as_ref(),
        plain,
        &format!("format = \"jsonl\"\n{generation}"),
    );
    let lines = (0..).zip(bodies.iter().zip(&settings)).map(|(number, (body, settings))| {
        let row = json!({"custom_id": format!("r-{number}"), "messages": body["messages"], "settings": settings});
        format!("{row}\n")
    });
    fs::write(rows.path("in.jsonl"), lines.collect::<String>()).unwrap();
    rows.run_ok(&[]);
    let of = |job: &Job| -> Vec<(Value, Value, Value)> {
        let rows = job.rows();
        let row = |row: &Value| {
            (
                row["id"].clone(),
                row["sample"].clone(),
                row["completion"].clone(),
            )
        };
        rows.iter().map(row).collect()
    };
    assert_eq!(of(&requests), of(&rows));
    assert_eq!(of(&requests).len(), 5);

    let answers = exported(&requests);
    let ids: Vec<&Value> = answers.iter().map(|line| &line["custom_id"]).collect();
    assert_eq!(ids, ["r-0", "r-1", "r-2", "r-3"]);
    assert_eq!(
        answers[0]["response"]["body"]["choices"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn a_request_that_cannot_be_had_fails_alone_and_by_name() {
    let hello = asked("你好");
    let bodies = [
        json!({"messages": hello, "tools": []}),
        json!({"messages": hello, "logprobs": true}),
        json!({"messages": hello}),
        json!({"prompt": "你好"}),
        json!(null),
        json!({"messages": hello, "n": 2}),
        json!({"messages": hello, "max_tokens": 4096}),
    ];
    let job = job_of(&bodies, CHAT, "[generation]\nmax_new_tokens = 2\n");
    job.run_ok(&["--quiet"]);
    let errors: Vec<Value> = job.rows().iter().map(|row| row["error"].clone()).collect();
    assert_eq!(
        errors,
        [
            json!("input: the request has `tools`, which cannot be had; take it out"),
            json!(
                "input: `logprobs` is a setting of the job, not of a row; set `generation.logprobs = true` for all rows, or take it out"
            ),
            json!(null),
            json!(null),
            json!("input: the request's `body` has neither `messages` nor `prompt`"),
            json!(
                "input: `n` above 1 needs `do_sample = true`, or as many `num_beams`; without them every sample would be the same"
            ),
            json!("input: `max_tokens` (4096) leaves no room for the prompt in `max_length` (128)"),
        ]
    );
    assert_eq!(exported(&job)[0]["error"]["code"], "row_failed");
    let set = ["--quiet", "--restart", "--set", "generation.logprobs=true"];
    job.run_ok(&set);
    assert_eq!(job.rows()[1]["error"], json!(null));
    // A job over rows of its own is as strict as it was.
    let columns = "columns = { messages = \"body.messages\", generation = \"settings\" }";
    let rows = job_of(
        &bodies[2..3],
        columns,
        "[generation]\nmax_new_tokens = 2\nlogprobs = true\n",
    );
    let line = request(0, &bodies[2]).replacen('{', "{\"settings\":{\"logprobs\":true},", 1);
    fs::write(rows.path("in.jsonl"), line).unwrap();
    rows.run(&["--quiet"]);
    let error = rows.rows()[0]["error"].clone();
    assert!(
        error.as_str().unwrap().contains("a setting of the job"),
        "{error}"
    );
}

#[test]
fn prompts_of_completions_need_no_column() {
    let bodies = [json!({"model": "m", "prompt": "法国的首都是哪座城市？", "max_tokens": 3})];
    let named = format!("{CHAT}\ncolumns = {{ prompt = \"body.prompt\" }}");
    let template = format!("{CHAT}\n[prompt]\ntemplate = \"{{{{ body.prompt }}}}\"");
    let completions = [CHAT, &named, &template].map(|input| {
        let job = job_of(&bodies, input, "");
        job.run_ok(&["--quiet"]);
        let row = job.rows().remove(0);
        assert_eq!((&row["id"], &row["status"]), (&json!("r-0"), &json!("ok")));
        row["completion"].clone()
    });
    let first = &completions[0];
    assert!(
        completions.iter().all(|one| one == first),
        "{completions:?}"
    );
}

#[test]
fn pairs_count_what_their_samples_have_passed_over() {
    let bodies = [json!({"model": "m", "messages": asked("法国的首都是哪座城市？")})];
    let generation =
        "[generation]\nmax_new_tokens = 4\ndo_sample = true\nnum_return_sequences = 3\n";
    let more = format!("{generation}[preference]\nrank = \"logprob\"\n");
    let job = job_of(&bodies, CHAT, &more);
    let text = fs::read_to_string(job.path("job.toml")).unwrap();
    fs::write(
        job.path("job.toml"),
        format!("task = \"preference\"\n{text}"),
    )
    .unwrap();
    let output = job.run_ok(&[]);
    let counted = "1 with keys that change no answer, such as `model`";
    assert!(both(&output).contains(counted), "{}", both(&output));
}

#[test]
fn requests_in_parquet_are_the_same() {
    let bodies = ["法国", "德国"].map(|country| {
        let question = format!("{country}的首都是哪座城市？");
        json!({"model": "m", "messages": asked(&question), "max_tokens": 3, "temperature": 0.0})
    });
    let lines = job_of(&bodies, CHAT, "");
    lines.run_ok(&["--quiet"]);
    let text = fs::read(lines.path("in.jsonl")).unwrap();
    let (schema, _) = arrow_json::reader::infer_json_schema(&text[..], None).unwrap();
    let reader = arrow_json::ReaderBuilder::new(schema.into()).build(&text[..]);
    let batch = reader.unwrap().next().unwrap().unwrap();
    let parquet = job_of(&bodies, CHAT, "");
    let file = fs::File::create(parquet.path("in.parquet")).unwrap();
    let writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None);
    let mut writer = writer.unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    parquet.run_ok(&["--quiet", "--set", "input.path=in.parquet"]);
    let answers = |job: &Job| -> Vec<Value> {
        let rows = job.rows();
        rows.iter().map(|row| row["completion"].clone()).collect()
    };
    assert_eq!(answers(&parquet), answers(&lines));
    assert_eq!(answers(&lines).len(), 2);
}

#[test]
fn what_no_request_can_have_is_refused_before_the_run() {
    let bodies = [json!({"messages": asked("你好")})];
    let refused = |job: &Job, words: &str| {
        let output = job.run(&[]);
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        assert!(stderr(&output).contains(words), "{}", both(&output));
    };
    let input = format!("{CHAT}\ncolumns = {{ generation = \"settings\" }}");
    let words =
        "`input.columns.generation` is `settings`, and the settings of a request are in its `body`";
    refused(&job_of(&bodies, &input, ""), words);
    refused(
        &job_of(&bodies, "format = \"openai\"", ""),
        "`openai-batch`",
    );
    let job = job_of(&bodies, CHAT, "");
    fs::write(job.path("in.jsonl"), "{\"prompt\": \"你好\"}\n").unwrap();
    refused(&job, "custom_id");
    let job = job_of(&bodies, CHAT, "");
    let text = fs::read_to_string(job.path("job.toml")).unwrap();
    fs::write(job.path("job.toml"), format!("task = \"infill\"\n{text}")).unwrap();
    refused(
        &job,
        "`input.format` belongs to the task `generate` or `preference`",
    );
}
