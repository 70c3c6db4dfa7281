//! Bad words and stop strings are compared as the tokenizer writes them; settings that do nothing, or that
//! only other tools know, are named.

use std::path::{Path, PathBuf};
use std::process::Output;

use glm_batch::internals::checkpoint::{JobRecord, OutputFolder};
use glm_batch::internals::job::Rules;
use glm_batch::internals::tokenize::GlmTokenizer;
use serde_json::{Value, json};

use crate::support::{Job, begin_otherwise, both, demo_model, shared, stderr};

const COLUMNS: &str = "columns = { prompt = \"prompt\", prefix = \"prefix\" }";
const MORE: &str = "format = \"jsonl\"\ntoken_ids = true\n[prompt]\nmax_length = 96\n[generation]\nmax_new_tokens = 24\n";
const PREFIX: &str = "回答：";

/// A file of rows.
fn write_rows(folder: &Path, rows: &[Value]) -> PathBuf {
    let path = folder.join("rows.jsonl");
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    path
}

fn question(text: &str) -> Value {
    json!({ "prompt": text, "prefix": PREFIX })
}

/// A job of the demonstration model over these rows, which may have settings in `generation`.
fn job(folder: &Path, rows: &[Value], generation: &str) -> Job {
    let columns =
        "columns = { prompt = \"prompt\", prefix = \"prefix\", generation = \"generation\" }";
    let own = rows.iter().any(|row| row.get("generation").is_some());
    Job::of_model(
        &demo_model(),
        &write_rows(folder, rows),
        if own { columns } else { COLUMNS },
        &format!("{MORE}{generation}"),
    )
}

fn plan(job: &Job) -> Output {
    job.command(&["plan", "job.toml"]).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(output)
}

#[test]
fn a_word_is_found_where_it_begins_and_where_it_goes_on() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tokenizer");
    let tokenizer = GlmTokenizer::load(folder.as_ref()).unwrap();
    for word in ["的", "首都", "？", "ｗｏｒｌｄ", "world"] {
        let found = tokenizer.encode_anywhere(word);
        let form = tokenizer.written(word).unwrap();
        assert_eq!(found[0], tokenizer.encode(word), "{word}");
        assert!(found.len() > 1, "{word}: {found:?}");
        for ids in &found {
            let behind = [tokenizer.encode("中"), ids.clone()].concat();
            let text = tokenizer.decode(&behind, true);
            assert!(text.ends_with(&form), "{word}: {ids:?} is {text}");
        }
    }
}

#[test]
fn a_stop_string_has_the_form_that_answers_have() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tokenizer");
    let tokenizer = GlmTokenizer::load(folder.as_ref()).unwrap();
    for (stop, form) in [
        ("？", "?"),
        ("，", ","),
        ("的", "的"),
        ("首都？\n", "首都? "),
        (" world", " world"),
        ("ｗｏ", "wo"),
    ] {
        assert_eq!(tokenizer.written(stop).as_deref(), Ok(form), "{stop:?}");
    }
    for stop in ["\n", "<|endofpiece|>", "[MASK]", "a[gMASK]", "\u{10fffd}"] {
        assert!(tokenizer.written(stop).is_err(), "{stop:?}");
    }
}

#[test]
fn words_and_stop_strings_of_real_answers_are_found() {
    let Some(model) = shared("fixtures/glm-tiny-zh") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let answers = |rows: &[Value], generation: &str| -> Vec<Value> {
        let input = write_rows(folder.path(), rows);
        let job = Job::of_model(&model, &input, COLUMNS, &format!("{MORE}{generation}"));
        job.run_ok(&[]);
        job.rows()
    };
    let capitals = ["比利时的首都是哪里？", "荷兰的首都是哪里？"].map(question);
    for row in answers(&capitals, "bad_words = [\"塞尔\", \"丹\"]") {
        let completion = row["completion"].as_str().unwrap();
        assert!(
            !completion.contains("塞尔") && !completion.contains('丹'),
            "{row}"
        );
    }
    let colours = [question("红，黄，蓝，绿，白，黑，这些是什么？")];
    let loud = "repetition_penalty = 0.2\n";
    let open = &answers(&colours, loud)[0];
    assert!(open["completion"].as_str().unwrap().contains('?'), "{open}");
    let barred = &answers(&colours, &format!("{loud}bad_words = [\"？\"]"))[0];
    assert!(
        !barred["completion"].as_str().unwrap().contains('?'),
        "{barred}"
    );
    let stopped = &answers(&colours, &format!("{loud}stop = [\"？\"]"))[0];
    assert_eq!(stopped["completion"], "红是什么是什么", "{stopped}");
    assert_eq!(stopped["finish_reason"], "stop_string");
}

#[test]
fn plan_and_run_say_how_a_stop_string_is_compared() {
    let Some(model) = shared("fixtures/glm-tiny-zh") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let input = write_rows(folder.path(), &[question("红是什么？")]);
    let more = format!("{MORE}stop = [\"？\", \"。\"]");
    let job = Job::of_model(&model, &input, COLUMNS, &more);
    let note = "note: `generation.stop`: `？` is compared as `?`, as the tokenizer writes it";
    assert!(text(&plan(&job)).contains(note), "{}", both(&plan(&job)));
    assert!(stderr(&job.run_ok(&[])).contains(note));
}

#[test]
fn a_stop_string_that_no_answer_can_hold_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (stop, reason, cure) in [
        (
            "<|endofpiece|>",
            "a special token",
            "take it out of the list: every answer ends at `<|endofpiece|>` anyway",
        ),
        ("答[MASK]", "a special token", "take it out of the list"),
        ("🦀", "vocabulary has no `🦀`", "take it out of the list"),
    ] {
        let set = format!("stop = [\"!\", \"{stop}\"]");
        let job = job(folder.path(), &[question("法国的首都是哪里？")], &set);
        for output in [plan(&job), job.run(&[])] {
            let error = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{}", both(&output));
            assert!(
                error.starts_with("error: job.toml:17: `generation.stop` holds"),
                "{error}"
            );
            assert!(error.contains(reason), "{error}");
            assert!(error.contains(&format!("\nhint: {cure}")), "{error}");
        }
        assert!(!job.path("out/job.json").exists());
    }
}

#[test]
fn a_stop_string_of_a_row_fails_that_row() {
    let folder = tempfile::tempdir().unwrap();
    let mut rows = vec![question("法国的首都是哪里？"); 2];
    rows[1]["generation"] = json!({ "stop": ["[MASK]"] });
    let job = job(folder.path(), &rows, "");
    assert!(text(&plan(&job)).contains("`stop` holds `[MASK]`"));
    job.run_ok(&[]);
    let results = job.rows();
    assert_eq!(results[0]["status"], "ok");
    let error = results[1]["error"].as_str().unwrap();
    assert!(
        error.contains("`stop` holds `[MASK]`, which no answer can hold"),
        "{error}"
    );
}

#[test]
fn a_job_of_the_first_rule_is_refused_where_its_answers_would_change() {
    let folder = tempfile::tempdir().unwrap();
    let rows = [question("法国的首都是哪里？")];
    let shards = |job: &Job| {
        let path = job.path("job.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("shards = 2\n{text}")).unwrap();
    };
    let first = Rules {
        text: 1,
        ..Rules::CURRENT
    };
    for (set, refused) in [
        (
            "bad_words = [\"黎\"]",
            Some("`generation.bad_words` barred a word only"),
        ),
        ("stop = [\"!\"]", None),
        ("", None),
    ] {
        let job = job(folder.path(), &rows, set);
        shards(&job);
        begin_otherwise(&job, &[], |record| record.rules = first);
        let output = job.run(&[]);
        match refused {
            Some(difference) => {
                let error = stderr(&output);
                assert_eq!(output.status.code(), Some(2), "{}", both(&output));
                assert!(
                    error.contains(difference) && error.contains("`--restart`"),
                    "{error}"
                );
            }
            None => assert_eq!(output.status.code(), Some(0), "{}", both(&output)),
        }
    }
    // A stop string that is refused now: it would have to be begun by the version before.
    let job = job(folder.path(), &rows, "");
    shards(&job);
    begin_otherwise(&job, &[], |record| record.rules = first);
    let record = OutputFolder::open(&job.path("out")).unwrap();
    let mut old = JobRecord::load(&record).unwrap().unwrap();
    old.spec.generation.stop = vec!["[MASK]".to_owned()];
    std::fs::remove_file(job.path("out/job.json")).unwrap();
    assert!(old.create(&record).unwrap());
    let output = job.run(&["--set", "generation.stop=[\"[MASK]\"]"]);
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    assert!(
        stderr(&output).contains("`generation.stop` held `[MASK]`"),
        "{}",
        both(&output)
    );
}

/// Rows with bad words of their own go by the rule of their job.
#[test]
fn rows_of_a_job_of_the_first_rule_go_by_it() {
    let Some(model) = shared("fixtures/glm-tiny-zh") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut row = question("荷兰的首都是哪里？");
    row["generation"] = json!({ "bad_words": ["丹"] });
    let input = write_rows(folder.path(), &[row]);
    let columns =
        "columns = { prompt = \"prompt\", prefix = \"prefix\", generation = \"generation\" }";
    let completion = |text| {
        let job = Job::of_model(&model, &input, columns, MORE);
        let path = job.path("job.toml");
        let toml = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("shards = 2\n{toml}")).unwrap();
        begin_otherwise(&job, &[], |record| record.rules.text = text);
        job.run_ok(&[]);
        job.rows()[0]["completion"].as_str().unwrap().to_owned()
    };
    assert!(
        completion(1).contains('丹'),
        "barred where it begins a text only"
    );
    assert!(!completion(2).contains('丹'));
}

#[test]
fn settings_for_drawing_that_do_nothing_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let rows = [question("法国的首都是哪里？")];
    let set = "temperature = 0.7\ntop_p = 0.8\nseed = 5\n";
    let warning = "warning: in `[generation]`, `temperature`, `top_p` and `seed` do nothing while `do_sample = false`";
    let greedy = job(folder.path(), &rows, set);
    assert!(
        text(&plan(&greedy)).contains(warning),
        "{}",
        both(&plan(&greedy))
    );
    assert!(stderr(&greedy.run_ok(&[])).contains(warning));
    let drawn = job(folder.path(), &rows, &format!("{set}do_sample = true\n"));
    assert!(!text(&plan(&drawn)).contains("warning"));
    assert!(!stderr(&drawn.run_ok(&[])).contains("warning"));
}

#[test]
fn rows_whose_settings_for_drawing_do_nothing_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut rows = vec![question("法国的首都是哪里？"); 4];
    rows[0]["generation"] = json!({ "temperature": 0.5 });
    rows[1]["generation"] = json!({ "temperature": 0.5, "do_sample": true });
    rows[2]["generation"] = json!({ "seed": 7, "top_k": null });
    rows[3]["generation"] = json!({ "top_k": null, "max_new_tokens": 3 });
    let job = job(folder.path(), &rows, "");
    let warning = "warning: 2 rows have settings for drawing";
    assert_eq!(
        text(&plan(&job)).matches(warning).count(),
        1,
        "{}",
        both(&plan(&job))
    );
    assert_eq!(stderr(&job.run_ok(&[])).matches(warning).count(), 1);
}

#[test]
fn the_words_of_other_tools_get_their_cure() {
    let folder = tempfile::tempdir().unwrap();
    let rows = [question("法国的首都是哪里？")];
    let job = job(folder.path(), &rows, "do_sample = true\n");
    for (set, cure) in [
        ("top_k=-1", "`top_k = 0` is off"),
        ("seed=-1", "give any whole number from 0"),
        ("top_p=0", "`top_p = 1.0` is off"),
        ("temperature=0", "write `do_sample = false`"),
        ("max_new_tokens=-1", "`max_new_tokens = \"rest\"`"),
    ] {
        let output = job.run(&["--set", &format!("generation.{set}")]);
        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        assert!(
            error
                .lines()
                .any(|line| line.starts_with("hint: ") && line.contains(cure)),
            "{error}"
        );
    }
}
