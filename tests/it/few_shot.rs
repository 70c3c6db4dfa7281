//! `prompt.few_shot`: which examples go before a prompt, and what fits.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{Job, as_parquet, both, demo_model};

const COLUMNS: &str = "columns = { prompt = \"q\", reference = \"a\" }";

/// A job over rows that are written here, with the files `in.jsonl` and `dev.jsonl`; `more` begins inside `[output]`.
pub(crate) fn job(task: &str, rows: &[Value], dev: &[Value], columns: &str, more: &str) -> Job {
    let job = Job::of_model(&demo_model(), "in.jsonl".as_ref(), columns, more);
    let path = job.path("job.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let named = format!("task = \"{task}\"\nname =");
    std::fs::write(&path, text.replacen("name =", &named, 1)).unwrap();
    write(&job, "in.jsonl", rows);
    write(&job, "dev.jsonl", dev);
    job
}

pub(crate) fn write(job: &Job, name: &str, rows: &[Value]) {
    let lines: Vec<String> = rows.iter().map(|row| format!("{row}\n")).collect();
    std::fs::write(job.path(name), lines.concat()).unwrap();
}

/// Keys of a job that generates two tokens, with these keys of `few_shot`.
pub(crate) fn more(few_shot: &str) -> String {
    format!(
        "format = \"jsonl\"\nprompt = true\n[prompt]\nmax_length = 100\nfew_shot = {{ path = \"dev.jsonl\"{few_shot} }}\n[generation]\nmax_new_tokens = 2\n"
    )
}

pub(crate) fn generating(rows: &[Value], dev: &[Value], few_shot: &str) -> Job {
    job("generate", rows, dev, COLUMNS, &more(few_shot))
}

pub(crate) fn asked(count: usize) -> Vec<Value> {
    let row = |at| json!({"q": format!("问{at}？"), "a": format!("答{at}"), "s": at % 2});
    (0..count).map(row).collect()
}

pub(crate) fn solved(names: &str) -> Vec<Value> {
    let row = |name: char| json!({"q": format!("{name}？"), "a": format!("{name}。"), "s": 0});
    names.chars().map(row).collect()
}

fn written(job: &Job) -> Vec<String> {
    let rows = job.rows();
    let prompt = |row: &Value| row["rendered_prompt"].as_str().unwrap_or("null").to_owned();
    rows.iter().map(prompt).collect()
}

fn prompts(job: &Job) -> Vec<String> {
    job.run_ok(&["--quiet"]);
    written(job)
}

fn plan(job: &Job) -> String {
    let output = job.command(&["plan", "job.toml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_first_examples_go_before_each_prompt() {
    let job = generating(&asked(2), &solved("甲乙丙"), ", n = 2");
    let with = |prompt: &str| format!("甲？甲。\n\n乙？乙。\n\n{prompt}");
    assert_eq!(prompts(&job), [with("问0？"), with("问1？")]);
    for (few_shot, expected) in [
        (", n = 0, intro = \"x\"", "问0？"),
        (", n = 1, separator = \"|\"", "甲？甲。|问0？"),
        (
            ", n = 1, intro = \"第{{ s }}门\"",
            "第0门\n\n甲？甲。\n\n问0？",
        ),
        (
            ", n = 1, intro = \"{{ none_there | default('') }}\"",
            "甲？甲。\n\n问0？",
        ),
        (", n = 1, template = \"例：{{ a }}\"", "例：甲。\n\n问0？"),
        ("", "甲？甲。\n\n乙？乙。\n\n丙？丙。\n\n问0？"),
    ] {
        let job = generating(&asked(1), &solved("甲乙丙"), few_shot);
        assert_eq!(prompts(&job), [expected], "{few_shot}");
    }
}

#[test]
fn a_row_gets_examples_of_its_own_kind() {
    let mut dev = solved("甲乙丙丁");
    dev[1]["s"] = 1.into();
    dev[3]["s"] = 1.into();
    let mut rows = asked(5);
    rows[2]["s"] = 7.into();
    rows[3]["s"] = Value::Null;
    rows[4]["s"] = json!([1]);
    let job = generating(&rows, &dev, ", n = 2, by = \"s\"");
    let planned = plan(&job);
    assert!(
        planned.contains("few shots   1 row with fewer examples"),
        "{planned}"
    );
    assert!(planned.contains("bad rows    2"), "{planned}");
    assert_eq!(
        prompts(&job),
        [
            "甲？甲。\n\n丙？丙。\n\n问0？",
            "乙？乙。\n\n丁？丁。\n\n问1？",
            "问2？",
            "null",
            "null"
        ]
    );
    let rows = job.rows();
    assert_eq!(
        rows[3]["error"],
        "input: column `s`, which `prompt.few_shot.by` compares, is null"
    );
    assert_eq!(
        rows[4]["error"],
        "input: column `s`, which `prompt.few_shot.by` compares, holds neither a text nor a number"
    );
}

#[test]
fn the_groups_of_the_metrics_are_not_those_of_the_examples() {
    let mut dev = solved("甲乙丙丁");
    dev[1]["s"] = 1.into();
    dev[3]["s"] = 1.into();
    let by = ", n = 2, by = \"s\"";
    let expected = prompts(&generating(&asked(2), &dev, by));
    let mut rows = asked(2);
    rows[0]["kind"] = Value::Null;
    rows[1]["kind"] = "b".into();
    let both = format!("{}[report]\nby = \"kind\"\n", more(by));
    let job = job("generate", &rows, &dev, COLUMNS, &both);
    assert_eq!(prompts(&job), expected);
    assert_eq!(expected[1], "乙？乙。\n\n丁？丁。\n\n问1？");
}

#[test]
fn a_draw_depends_on_the_seed_and_the_row_alone() {
    let few_shot = ", n = 2, order = \"random\"";
    let (rows, dev) = (asked(12), solved("甲乙丙丁戊己庚辛"));
    let first = prompts(&generating(&rows, &dev, few_shot));
    assert!(first.iter().collect::<BTreeSet<_>>().len() > 6, "{first:?}");
    for prompt in &first {
        let parts: BTreeSet<&str> = prompt.split("\n\n").collect();
        assert_eq!(parts.len(), 3, "{prompt}");
    }
    let again = generating(&rows, &dev, few_shot);
    again.run_ok(&[
        "--quiet",
        "--set",
        "batch.window_rows=5",
        "--set",
        "shards=3",
        "--set",
        "batch.max_batch_size=1",
    ]);
    assert_eq!(written(&again), first);
    let other = prompts(&generating(&rows, &dev, &format!("{few_shot}, seed = 1")));
    assert_ne!(other, first);
    // A row keeps its draw, whatever the other rows are.
    let mut others = asked(12);
    others
        .iter_mut()
        .skip(1)
        .for_each(|row| row["q"] = "别的？".into());
    assert_eq!(prompts(&generating(&others, &dev, few_shot))[0], first[0]);
}

#[test]
fn a_row_never_sees_itself() {
    let mut dev = solved("甲乙丙");
    dev[0]["q"] = "问0？".into();
    let first = generating(&asked(2), &dev, ", n = 2");
    assert_eq!(
        prompts(&first),
        [
            "乙？乙。\n\n丙？丙。\n\n问0？",
            "问0？甲。\n\n乙？乙。\n\n问1？"
        ]
    );
    // With a template of its own, the file of the input: by the place of the row, and by its prompt.
    for columns in [COLUMNS, "columns = { prompt = \"q\" }"] {
        for order in ["first", "random"] {
            let few_shot = format!(", n = 9, order = \"{order}\", template = \"{{{{ a }}}}\"");
            let job = job("generate", &asked(4), &asked(4), columns, &more(&few_shot));
            for (at, prompt) in prompts(&job).iter().enumerate() {
                let mut parts: Vec<&str> = prompt.split("\n\n").collect();
                assert_eq!(parts.pop().unwrap(), format!("问{at}？"));
                parts.sort_unstable();
                let own = format!("答{at}");
                let others: Vec<String> = (0..4).map(|at| format!("答{at}")).collect();
                let others: Vec<&String> = others.iter().filter(|one| **one != own).collect();
                assert_eq!(parts.iter().collect::<Vec<_>>(), others, "{prompt}");
            }
        }
    }
}

/// The context has 20 tokens: three of its own, three of a question, and four of each example with what is behind it.
#[test]
fn the_last_examples_are_dropped_where_they_do_not_fit() {
    let mut rows = asked(3);
    rows[1]["q"] = "很长的问题？".into();
    rows[2]["q"] = "长".repeat(40).into();
    let job = generating(
        &rows,
        &solved("甲乙丙丁"),
        ", n = 4, intro = \"题\", separator = \"\"",
    );
    let path = job.path("job.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("max_length = 100", "max_length = 22")).unwrap();
    let planned = plan(&job);
    assert!(
        planned.contains("  shots       dropped from 3 rows"),
        "{planned}"
    );
    assert!(planned.contains("  cut to fit  1 prompt"), "{planned}");
    let printed = String::from_utf8(job.run_ok(&[]).stdout).unwrap();
    assert!(
        printed.contains("3 with fewer examples than asked for, so that they fit"),
        "{printed}"
    );
    let card = std::fs::read_to_string(job.path("out/README.md")).unwrap();
    assert!(
        card.contains("| prompts that lost examples to fit | 3 |"),
        "{card}"
    );
    let written = written(&job);
    assert_eq!(written[0], "题甲？甲。乙？乙。丙？丙。问0？".to_owned());
    assert_eq!(written[1], "题甲？甲。乙？乙。很长的问题？");
    assert_eq!(written[2], "长".repeat(40), "it is cut alone");
    for (row, most) in job.rows().iter().zip([20, 20, 20]) {
        assert!(row["prompt_tokens"].as_u64().unwrap() <= most, "{row}");
    }
    // What is not cut fails alone too.
    std::fs::write(
        &path,
        text.replace("max_length = 100", "max_length = 22\noverflow = \"fail\""),
    )
    .unwrap();
    job.run_ok(&["--quiet", "--restart"]);
    let rows = job.rows();
    assert_eq!(rows[0]["rendered_prompt"], written[0]);
    assert!(
        rows[2]["error"]
            .as_str()
            .unwrap()
            .contains("over the limit of 20"),
        "{}",
        rows[2]
    );
}

/// A row of each task behind one example.
#[test]
fn each_task_makes_examples_of_its_own_answers() {
    let few_shot = "few_shot = { path = \"dev.jsonl\" }";
    let row = json!({"q": "一？", "p": "答：", "c": ["二", "三"], "l": 1, "t": ["四", "五"], "r": "六", "m": "甲[MASK]乙[sMASK]", "s": ["七", "八"], "chat": [{"role": "user", "content": "一？"}]});
    let mut asks = row.clone();
    asks["q"] = "二？".into();
    asks["chat"][0]["content"] = "二？".into();
    asks["m"] = "丙[MASK]丁[MASK]".into();
    for (task, columns, prompt, more, expected) in [
        (
            "generate",
            "prompt = \"q\", prefix = \"p\", reference = \"r\"",
            "",
            "[generation]\nmax_new_tokens = 2\n",
            "一？\n答：六\n\n二？",
        ),
        (
            "generate",
            "reference = \"r\"",
            "template = \"{{ q }}答[MASK]。\"\n",
            "[generation]\nmax_new_tokens = 2\n",
            "一？答六。\n\n二？答[MASK]。",
        ),
        (
            "generate",
            "messages = \"chat\", reference = \"r\"",
            "",
            "[generation]\nmax_new_tokens = 2\n",
            "问：一？\n答：六\n\n问：二？\n答：",
        ),
        (
            "infill",
            "prompt = \"m\", reference = \"s\"",
            "",
            "[infill]\nmax_new_tokens = 2\n",
            "甲七乙八\n\n丙[MASK]丁[MASK]",
        ),
        (
            "score",
            "prompt = \"q\", target = \"t\"",
            "",
            "",
            "一？四\n\n二？",
        ),
        (
            "score",
            "prompt = \"q\"",
            "",
            "[score]\nmethod = \"whole-text\"\n",
            "一？\n\n二？",
        ),
        (
            "choose",
            "prompt = \"q\", choices = \"c\", label = \"l\"",
            "",
            "",
            "一？三\n\n二？",
        ),
        (
            "choose",
            "prompt = \"q\", label = \"l\"",
            "",
            "[choose]\nmethod = \"next-token\"\nchoices = [\"A\", \"B\"]\n",
            "一？B\n\n二？",
        ),
        (
            "choose",
            "choices = \"c\", label = \"l\"",
            "template = \"{{ q }}是{{ choice }}吗\"\n",
            "[choose]\nmethod = \"whole-text\"\n",
            "一？是三吗\n\n二？是二吗",
        ),
    ] {
        let text = format!(
            "format = \"jsonl\"\nprompt = true\n[prompt]\nmax_length = 96\n{prompt}{few_shot}\n{more}"
        );
        let columns = format!("columns = {{ {columns} }}");
        let job = job(
            task,
            std::slice::from_ref(&asks),
            std::slice::from_ref(&row),
            &columns,
            &text,
        );
        let mut made = prompts(&job);
        made.dedup();
        assert_eq!(made, [expected], "{task}, {columns}");
        assert!(
            job.rows().iter().all(|row| row["status"] == "ok"),
            "{task}: {:?}",
            job.rows()
        );
    }
}

/// Examples change what a text is worth as the same text in the prompt would, for each choice alike.
#[test]
fn examples_are_part_of_the_text() {
    let rows = [json!({"q": "法国的首都是哪座城市？", "c": ["伦敦", "巴黎"], "l": 1})];
    let dev = [json!({"q": "英国的首都是哪座城市？", "c": ["巴黎", "伦敦"], "l": "伦敦"})];
    let columns = "columns = { choices = \"c\", label = \"l\" }";
    for method in ["target", "whole-text"] {
        let choice = if method == "target" {
            ""
        } else {
            "{{ choice }}"
        };
        let template = |before: &str| {
            format!(
                "format = \"jsonl\"\ncolumns = \"none\"\n[choose]\nmethod = \"{method}\"\n[prompt]\ntemplate = \"{before}{{{{ q }}}}{choice}\"\n"
            )
        };
        let few_shot = "few_shot = { path = \"dev.jsonl\", separator = \"。\" }\n";
        let behind = job(
            "choose",
            &rows,
            &dev,
            columns,
            &format!("{}{few_shot}", template("")),
        );
        let written = job(
            "choose",
            &rows,
            &dev,
            columns,
            &template("英国的首都是哪座城市？伦敦。"),
        );
        for job in [&behind, &written] {
            job.run_ok(&["--quiet"]);
        }
        assert_eq!(behind.rows(), written.rows(), "{method}");
    }
}

/// The rewards of answers behind examples, as bytes: those behind the same examples in the prompt's own text.
#[test]
fn rewards_behind_examples_are_those_of_the_prompt_written_out() {
    let overlay = demo_model().join("../reward/reward_delta.safetensors");
    let set = format!("model.overlay={}", overlay.display());
    let rows = [
        json!({"q": "法国的首都是哪座城市？", "p": "答案：", "a": ["巴黎", "伦敦", "巴黎"]}),
        json!({"q": "德国的首都是哪座城市？", "p": "答案：", "a": [{"answer": "柏林", "score": 1}]}),
    ];
    let dev = [
        json!({"q": "英国的首都是哪座城市？", "p": "答案：", "a": ["伦敦", "巴黎"]}),
        json!({"q": "日本的首都是哪座城市？", "p": "答案：", "a": ["东京"]}),
    ];
    let columns = "columns = { prompt = \"q\", prefix = \"p\", answer = \"a\" }";
    let few_shot = "few_shot = { path = \"dev.jsonl\", separator = \"|\" }\n";
    for format in ["jsonl", "parquet"] {
        let run = |rows: &[Value], more: &str| {
            let more = format!(
                "format = \"{format}\"\nprompt = true\ncolumns = \"none\"\n[prompt]\nmax_length = 96\n{more}"
            );
            let job = job("reward", rows, &dev, columns, &more);
            job.run_ok(&["--quiet", "--set", &set]);
            job
        };
        let behind = run(&rows, few_shot);
        let before = "英国的首都是哪座城市？\n答案：伦敦|日本的首都是哪座城市？\n答案：东京|";
        let mut long = rows.clone();
        for row in &mut long {
            row["q"] = format!("{before}{}", row["q"].as_str().unwrap()).into();
        }
        let out = run(&long, "");
        assert!(behind.files("parts") == out.files("parts"), "{format}");
        let without = run(&rows, "");
        let rewards = |job: &Job| -> Vec<f64> {
            let rows = job.rows();
            rows.iter()
                .map(|row| row["reward"].as_f64().unwrap())
                .collect()
        };
        let (behind, without) = (rewards(&behind), rewards(&without));
        assert_eq!(behind.len(), 4);
        assert_ne!(behind, without, "the examples change the rewards");
    }
}

#[test]
fn parquet_gives_the_same_examples() {
    let texts = |mut rows: Vec<Value>| {
        for row in &mut rows {
            row["s"] = row["s"].to_string().into();
        }
        rows
    };
    let (rows, dev) = (texts(asked(4)), texts(solved("甲乙丙")));
    let few_shot = ", n = 2, by = \"s\", order = \"random\"";
    let lines = generating(&rows, &dev, few_shot);
    let packed = generating(&rows, &dev, few_shot);
    as_parquet(&packed.path("dev.jsonl"), &packed.path("dev.parquet"));
    let set = ["--quiet", "--set", "prompt.few_shot.path=dev.parquet"];
    packed.run_ok(&set);
    assert_eq!(written(&packed), prompts(&lines));
}
