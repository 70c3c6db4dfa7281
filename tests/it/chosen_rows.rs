//! `input.where`, `input.skip`, `input.limit`: which rows a job takes, and what it says of the others.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Job, both, files, stderr};

const MORE: &str =
    "[prompt]\nmax_length = 64\n[generation]\nmax_new_tokens = 4\n[batch]\nwindow_rows = 6\n";

/// 24 rows: `n` counts, `kind` is one of three, row 7 has no `n`, row 8 has a text in it, row 9 no question.
fn input(folder: &Path) -> PathBuf {
    let rows = (0..24).map(|n| match n {
        7 => json!({"question": "问题七", "kind": "a", "list": [1]}),
        8 => json!({"question": "问题八", "n": "eight", "kind": "b", "list": []}),
        9 => json!({"question": null, "n": 9, "kind": "a", "list": [9]}),
        n => json!({"question": format!("问题{n}"), "n": n, "kind": (["a", "b", "c"][n % 3]), "list": [n]}),
    });
    let lines: Vec<String> = rows.map(|row| row.to_string()).collect();
    let path = folder.join("in.jsonl");
    std::fs::write(&path, lines.join("\n")).unwrap();
    path
}

/// A job over those rows; `keys` begin in `[input]`.
fn job(keys: &str, format: &str) -> Job {
    let folder = tempfile::tempdir().unwrap();
    let input = input(folder.path());
    let job = Job::of_model(
        &crate::support::demo_model(),
        &input,
        &format!("columns = {{ prompt = \"question\" }}\n{keys}"),
        &format!("format = \"{format}\"\n{MORE}"),
    );
    let own = job.path("in.jsonl");
    std::fs::copy(&input, &own).unwrap();
    let path = job.path("job.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace(input.to_str().unwrap(), "in.jsonl")).unwrap();
    job
}

fn numbers(rows: &[Value]) -> Vec<u64> {
    rows.iter()
        .map(|row| row["row"].as_u64().unwrap())
        .collect()
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", both(output)))
}

#[test]
fn rows_keep_their_numbers_and_answers_whatever_is_left_out_beside_them() {
    for format in ["jsonl", "parquet"] {
        let whole = job("", format);
        whole.run_ok(&["-q"]);
        let all = whole.rows();
        let keys =
            "where = \"kind == 'a' and (n is not defined or n is number)\"\nskip = 2\nlimit = 19";
        let some = job(keys, format);
        let output = some.run_ok(&["-q", "--json"]);
        let rows = some.rows();
        assert_eq!(numbers(&rows), [3, 6, 7, 9, 12, 15, 18], "{format}");
        for row in &rows {
            let number = row["row"].as_u64().unwrap();
            assert_eq!(*row, all[number as usize], "{format}");
        }
        let report = json_of(&output);
        let left_out = json!({"skip": 2, "limit": 3, "failed": 0, "where": 12});
        assert_eq!(report["totals"]["left_out"], left_out, "{report}");
        assert_eq!(report["totals"]["rows"], 24);
        assert_eq!(report["totals"]["ok"], 6);
        assert_eq!(report["totals"]["bad"], 1);
        // The windows are those of the whole input, and each is committed.
        let names = |job: &Job| {
            let files = job.files("parts").into_iter();
            files.map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(names(&some), names(&whole), "{format}");
        let verified = some.command(&["verify", "out"]).output().unwrap();
        assert_eq!(verified.status.code(), Some(0), "{}", both(&verified));
        let words = "sound, 7 rows, left out 2 by `input.skip`, 3 by `input.limit`, 12 by `input.where`; 0 rows in";
        assert!(both(&verified).contains(words), "{}", both(&verified));
        let report = some.command(&["report", "out"]).output().unwrap();
        assert_eq!(report.status.code(), Some(0), "{}", both(&report));
        let page = std::fs::read_to_string(some.path("out/report.html")).unwrap();
        let text: String = page
            .split('>')
            .map(|tag| tag.split('<').next().unwrap())
            .collect();
        assert!(
            text.contains("rows done7") || text.contains("7rows done"),
            "{text}"
        );
        let status = some.command(&["status", "out"]).output().unwrap();
        let said = both(&status);
        assert!(
            said.contains("finished, 7 of 7 rows (0 in open windows), 1 failed, left out 2 by `input.skip`, 3 by `input.limit`, 12 by `input.where`"),
            "{said}"
        );
        let card = std::fs::read_to_string(some.path("out/README.md")).unwrap();
        assert!(card.contains("to 7 rows, written"), "{card}");
        assert!(
            card.contains("| rows left out by `input.where` | 12 |"),
            "{card}"
        );
        let again = some.run_ok(&["--json"]);
        assert_eq!(json_of(&again)["totals"]["left_out"], left_out);
        assert_eq!(json_of(&again)["rows_now"], 0);
    }
}

#[test]
fn both_formats_of_input_choose_the_same_rows() {
    let folder = tempfile::tempdir().unwrap();
    let rows: Vec<String> = (0..12)
        .map(|n| {
            json!({"question": format!("问题{n}"), "kind": (["a", "b"][n % 2]), "n": n.to_string()})
                .to_string()
        })
        .collect();
    let lines = folder.path().join("in.jsonl");
    std::fs::write(&lines, rows.join("\n")).unwrap();
    let parquet = folder.path().join("in.parquet");
    crate::support::as_parquet(&lines, &parquet);
    let chosen = |input: &Path| {
        let columns = "columns = { prompt = \"question\" }\nwhere = \"kind == 'b' and n | int > 2\"\nskip = 4";
        let job = Job::of_model(&crate::support::demo_model(), input, columns, MORE);
        job.run_ok(&["-q"]);
        job.rows()
    };
    let rows = chosen(&lines);
    assert_eq!(numbers(&rows), [5, 7, 9, 11]);
    assert_eq!(chosen(&parquet), rows);
}

#[test]
fn a_column_that_a_row_lacks_is_as_one_that_is_null() {
    let job = job("where = \"n is none or question is none\"", "jsonl");
    job.run_ok(&["-q"]);
    let rows = job.rows();
    assert_eq!(numbers(&rows), [7, 9]);
    assert_eq!(rows[1]["status"], "failed");
}

#[test]
fn an_expression_that_fails_makes_the_row_bad() {
    let job = job("where = \"n > 20 or list[0] > 100\"", "jsonl");
    job.run_ok(&["-q"]);
    let rows = job.rows();
    assert_eq!(numbers(&rows), [8, 21, 22, 23]);
    assert_eq!(rows[0]["status"], "failed");
    assert_eq!(
        rows[0]["error"],
        "input: `input.where` fails for this row: a text is compared with a number; write the number as a text, as in `id == '5'`, or make a number of the text, as in `id | int == 5`"
    );
    let failed = job
        .command(&["show", "out", "--failed", "--json"])
        .output()
        .unwrap();
    let said = both(&failed);
    assert!(said.contains("\"line\":9"), "{said}");
    let stopped = self::job("where = \"n > 20\"\non_bad_row = \"stop\"", "jsonl");
    let output = stopped.run(&["-q"]);
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    assert!(stderr(&output).contains("in.jsonl:9"), "{}", both(&output));
    // A bad row that is left out stops nothing.
    let passed = self::job(
        "where = \"kind == 'c'\"\nlimit = 20\non_bad_row = \"stop\"",
        "jsonl",
    );
    passed.run_ok(&["-q"]);
    assert_eq!(numbers(&passed.rows()), [2, 5, 11, 14, 17]);
}

#[test]
fn broken_lines_outside_the_range_are_not_looked_at() {
    let job = job("skip = 2\nlimit = 3\non_bad_row = \"stop\"", "jsonl");
    let path = job.path("in.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{{broken\n{text}\n[also broken")).unwrap();
    let output = job.run_ok(&["-q", "--json"]);
    assert_eq!(numbers(&job.rows()), [2, 3, 4]);
    assert_eq!(json_of(&output)["totals"]["bad"], 0);
}

#[test]
fn a_job_that_takes_no_row_ends_well() {
    for (format, keys) in [
        ("jsonl", "where = \"kind == 'z'\""),
        ("parquet", "skip = 1000"),
    ] {
        let job = job(keys, format);
        let output = job.run_ok(&[]);
        let said = both(&output);
        assert!(
            said.contains("0 of 0 done, left out 24 by `input."),
            "{said}"
        );
        assert_eq!(job.rows(), Vec::<Value>::new());
        assert!(!job.files("parts").is_empty());
        let verified = job.command(&["verify", "out"]).output().unwrap();
        assert_eq!(verified.status.code(), Some(0), "{}", both(&verified));
        let shown = job.command(&["show", "out"]).output().unwrap();
        assert!(
            both(&shown).contains("the job has no row to show"),
            "{}",
            both(&shown)
        );
    }
}

#[test]
fn what_cannot_be_right_is_refused_before_the_run() {
    for (keys, words) in [
        (
            "where = \"kind = 'a'\"",
            "hint: `==` compares, as in `status == 'ok'`",
        ),
        (
            "where = \"kind ==\"",
            "`input.where` cannot be read: syntax error",
        ),
        ("where = \"1 < n < 5\"", "join two with `and`"),
        (
            "where = \"n > 3 and 'a'\"",
            "`input.where` cannot be read: it gives a text, which is neither true nor false\nhint: compare it, as in `subject == 'law'`",
        ),
        (
            "where = \"list | length\"",
            "it gives a number, which is neither",
        ),
        (
            "where = \"knd == 'a'\"",
            "no row has the column `knd` that `input.where` names\nhint: did you mean `kind`?",
        ),
        ("where = \"\"", "is empty"),
        ("limit = 0", "must be at least 1"),
        ("skip = -1", "input.skip"),
        ("where = 5", "input.where"),
    ] {
        let job = job(keys, "jsonl");
        for command in ["plan", "run"] {
            let output = job.command(&[command, "job.toml"]).output().unwrap();
            let said = both(&output);
            assert_eq!(output.status.code(), Some(2), "{keys}: {said}");
            assert!(said.contains(words), "{keys}: {said}");
        }
        assert!(!job.path("out/job.json").exists(), "{keys}");
    }
    let shown = job("", "jsonl");
    shown.run_ok(&["-q"]);
    let output = shown
        .command(&["show", "out", "--where", "row = 5"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    assert!(
        stderr(&output).contains("\nhint: `==` compares, as in `status == 'ok'`"),
        "{}",
        both(&output)
    );
}

#[test]
fn the_keys_are_fixed_on_resume() {
    let job = job("where = \"kind == 'a'\"\nskip = 1\nlimit = 20", "jsonl");
    job.run_ok(&["-q"]);
    for (set, words) in [
        (
            "input.where=kind == 'b'",
            "`input.where` was `\"kind == 'a'\"`, is now `\"kind == 'b'\"`",
        ),
        ("input.skip=2", "`input.skip` was `1`, is now `2`"),
        ("input.skip=0", "`input.skip` was `1`, is now `not set`"),
        ("input.limit=9", "`input.limit` was `20`, is now `9`"),
    ] {
        let output = job.run(&["--set", set]);
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        assert!(stderr(&output).contains(words), "{}", both(&output));
    }
}

#[test]
fn a_trial_takes_its_rows_from_the_range_and_plan_counts() {
    let job = job("where = \"kind != 'c'\"\nskip = 10\nlimit = 9", "jsonl");
    let plan = job
        .command(&["plan", "job.toml", "--json"])
        .output()
        .unwrap();
    let plan = json_of(&plan);
    assert_eq!(
        plan["left_out"],
        json!({"skip": 10, "limit": 5, "failed": 0, "where": 3})
    );
    assert_eq!(plan["rows"], 24);
    let said = both(&job.command(&["plan", "job.toml"]).output().unwrap());
    assert!(said.contains("left out    3 by `input.where`"), "{said}");
    job.run_ok(&["-q", "--limit", "4"]);
    assert_eq!(
        numbers(&crate::support::rows(&job.path("out.trial"))),
        [10, 12, 13]
    );
    job.run_ok(&["-q", "--sample", "9"]);
    let sampled = numbers(&crate::support::rows(&job.path("out.trial")));
    assert_eq!(sampled, [10, 12, 13, 15, 16, 18]);
    job.run_ok(&["-q", "--sample", "5"]);
    let sampled: BTreeSet<u64> = numbers(&crate::support::rows(&job.path("out.trial")))
        .into_iter()
        .collect();
    assert!(
        sampled
            .iter()
            .all(|row| (10..19).contains(row) && row % 3 != 2),
        "{sampled:?}"
    );
    job.run_ok(&["-q"]);
    assert_eq!(numbers(&job.rows()), [10, 12, 13, 15, 16, 18]);
}

#[test]
fn flags_and_standard_input_take_the_same_keys() {
    let job = job("", "jsonl");
    let model = crate::support::demo_model();
    let model = model.to_str().unwrap();
    let flags = [
        "--set",
        "input.where=kind == 'b'",
        "--set",
        "input.limit=9",
        "--set",
        "generation.max_new_tokens=4",
    ];
    let by_flags = [
        &[
            "run",
            "-q",
            "--model",
            model,
            "--input",
            "in.jsonl",
            "--output",
            "flags",
            "--prompt-column",
            "question",
        ][..],
        &flags,
    ]
    .concat();
    let output = job.command(&by_flags).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    assert_eq!(
        numbers(&crate::support::rows(&job.path("flags"))),
        [1, 4, 8]
    );
    let by_input = [
        &[
            "run",
            "-q",
            "--model",
            model,
            "--input",
            "-",
            "--output",
            "stdin",
            "--prompt-column",
            "question",
        ][..],
        &flags,
    ]
    .concat();
    let mut child = job
        .command(&by_input)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let rows = std::fs::read(job.path("in.jsonl")).unwrap();
    child.stdin.take().unwrap().write_all(&rows).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(
        numbers(&crate::support::rows(&job.path("stdin"))),
        [1, 4, 8]
    );
}

#[test]
fn kills_and_shards_leave_the_same_rows() {
    let keys = "where = \"n is number and n % 4 != 1\"\nskip = 3";
    let more = "[checkpoint]\ninterval_seconds = 0.01\n";
    let with_more = |shards: u32| {
        let job = job(keys, "jsonl");
        let path = job.path("job.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.replace(
            "version = 1\n",
            &format!("version = 1\nshards = {shards}\n"),
        );
        std::fs::write(
            &path,
            text.replace("max_new_tokens = 4", "max_new_tokens = 24") + more,
        )
        .unwrap();
        job
    };
    let unbroken = with_more(1);
    let started = Instant::now();
    unbroken.run_ok(&["-q"]);
    let took = started.elapsed();
    let broken = with_more(1);
    for share in 1..=8 {
        let mut child = broken
            .command(&["run", "job.toml", "-q"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let until = Instant::now() + took * share / 10;
        while Instant::now() < until && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = child.kill();
        child.wait().unwrap();
    }
    broken.run_ok(&["-q"]);
    assert!(broken.files("parts") == unbroken.files("parts"));
    let sharded = with_more(3);
    for shard in ["1/3", "2/3", "0/3"] {
        sharded.run_ok(&["-q", "--shard", shard]);
    }
    assert_eq!(sharded.rows(), unbroken.rows());
    assert!(!files(&unbroken.path("out/parts")).is_empty());
}

/// A small limit over a long input: no window is made of rows that are all behind it, and they are counted.
#[test]
fn rows_behind_the_limit_have_no_windows() {
    for format in ["jsonl", "parquet"] {
        let whole = job("", format);
        whole.run_ok(&["-q"]);
        let some = job("skip = 1\nlimit = 7", format);
        instead_of(&some, "name =", "shards = 2\nname =");
        let output = some.run_ok(&["-q", "--json"]);
        let left_out = json!({"skip": 1, "limit": 16, "failed": 0, "where": 0});
        let report = json_of(&output);
        assert_eq!(report["totals"]["left_out"], left_out, "{report}");
        assert_eq!(report["totals"]["rows"], 24, "{report}");
        assert_eq!(report["job_rows"], 24, "{report}");
        let all = whole.rows();
        let rows = some.rows();
        assert_eq!(numbers(&rows), [1, 2, 3, 4, 5, 6, 7], "{format}");
        assert!(rows.iter().zip(&all[1..]).all(|(row, same)| row == same));
        // Two of four windows.
        assert_eq!(some.files("parts").len(), 2, "{format}");
        let said = |args: &[&str]| both(&some.command(args).output().unwrap());
        let status = said(&["status", "out"]);
        assert!(
            status.contains("finished, 7 of 7 rows (0 in open windows), 0 failed, left out 1 by `input.skip`, 16 by `input.limit`"),
            "{status}"
        );
        let verified = said(&["verify", "out"]);
        let words =
            "2 of 2 windows sound, 7 rows, left out 1 by `input.skip`, 16 by `input.limit`;";
        assert!(verified.contains(words), "{verified}");
        let card = std::fs::read_to_string(some.path("out/README.md")).unwrap();
        assert!(
            card.contains("| rows left out by `input.limit` | 16 |"),
            "{card}"
        );
        let page = said(&["report", "out"]);
        assert!(page.contains("wrote"), "{page}");
        // A touched input is read again, and gives the same windows; so does a check of all of it.
        let input = some.path("in.jsonl");
        let text = std::fs::read(&input).unwrap();
        std::fs::write(&input, text).unwrap();
        for args in [&["-q", "--json"][..], &["-q", "--json", "--verify"]] {
            let report = json_of(&some.run_ok(args));
            assert_eq!(report["rows_now"], 0, "{report}");
            assert_eq!(report["totals"]["left_out"], left_out, "{report}");
        }
        let plan = said(&["plan", "job.toml"]);
        assert!(plan.contains("16 by `input.limit`"), "{plan}");
    }
}

/// What an expression gives is no answer where it is a list, say: such rows are bad, and an empty one is not true. A job
/// that began when anything would do goes on as it began.
#[test]
fn an_expression_that_is_neither_true_nor_false_takes_no_row() {
    use glm_batch::internals::checkpoint::{OutputFolder, StoredJob};

    let job = job("where = \"list\"", "jsonl");
    let output = job.run(&["-q", "--json"]);
    assert_eq!(output.status.code(), Some(3), "{}", both(&output));
    let report = json_of(&output);
    assert_eq!(report["totals"]["left_out"]["where"], 1, "{report}");
    assert_eq!(report["totals"]["bad"], 23, "{report}");
    let reason = "`input.where` fails for this row: it gives a list, which is neither true nor false; compare it, as in";
    for (_, bytes) in job.files("failed") {
        for line in String::from_utf8(bytes).unwrap().lines() {
            assert!(line.contains(reason), "{line}");
        }
    }
    let folder = OutputFolder::at(&job.path("out"));
    let mut record = StoredJob::existing(&folder).unwrap().record;
    assert_eq!(record.rules.rows, 6);
    record.rules.rows = 4;
    std::fs::remove_dir_all(job.path("out")).unwrap();
    let folder = OutputFolder::open(&job.path("out")).unwrap();
    assert!(record.create(&folder).unwrap());
    job.run_ok(&["-q"]);
    let all = (0..24).filter(|&row| row != 8).collect::<Vec<u64>>();
    assert_eq!(numbers(&job.rows()), all);
}

/// A job that an earlier version began keeps a window for every row, whatever its limit.
#[test]
fn a_job_with_a_limit_goes_on_as_it_began() {
    use glm_batch::internals::checkpoint::{OutputFolder, StoredJob};

    let limited = job("limit = 7", "jsonl");
    limited.run_ok(&["-q"]);
    let first_parts = limited.files("parts");
    let folder = OutputFolder::at(&limited.path("out"));
    let mut record = StoredJob::existing(&folder).unwrap().record;
    assert_eq!((record.rules.rows, record.input.windows.len()), (5, 2));
    let whole = job("", "jsonl");
    whole.run_ok(&["-q"]);
    let windows = StoredJob::existing(&OutputFolder::at(&whole.path("out"))).unwrap();
    assert_eq!(windows.record.rules.rows, 4);
    record.rules.rows = 4;
    record.input.windows = windows.record.input.windows;
    std::fs::remove_dir_all(limited.path("out")).unwrap();
    let folder = OutputFolder::open(&limited.path("out")).unwrap();
    assert!(record.create(&folder).unwrap());
    let status = both(&limited.command(&["status", "out"]).output().unwrap());
    assert!(status.contains("not finished, 0 of 24 rows"), "{status}");
    // The input is read again, by the rules of then.
    let input = limited.path("in.jsonl");
    let text = std::fs::read(&input).unwrap();
    std::fs::write(&input, text).unwrap();
    limited.run_ok(&["-q"]);
    let parts = limited.files("parts");
    assert_eq!(parts.len(), 4);
    assert_eq!(parts[..2], first_parts[..]);
    assert!(parts[2..].iter().all(|(_, bytes)| bytes.is_empty()));
    let verified = limited.command(&["verify", "out"]).output().unwrap();
    assert_eq!(verified.status.code(), Some(0), "{}", both(&verified));
}

/// A refused job takes the folders back that it has made, and no others.
#[test]
fn a_refused_job_leaves_no_folders() {
    let job = job("where = \"knd == 'a'\"", "jsonl");
    let refused = |set: &str| {
        let output = job.run(&["-q", "--set", set]);
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    };
    refused("output.path=deep/er/out");
    refused("output.path=out");
    assert!(!job.path("deep").exists());
    assert!(!job.path("out").exists());
    std::fs::create_dir_all(job.path("mine/parts")).unwrap();
    refused("output.path=mine");
    assert_eq!(std::fs::read_dir(job.path("mine")).unwrap().count(), 1);
    std::fs::write(job.path("mine/notes.txt"), "mine").unwrap();
    refused("output.path=mine");
    assert!(job.path("mine/notes.txt").exists());
    // An expression that begins with a quotation mark.
    let output = job.run(&["--set", "input.where='a' in kind"]);
    let said = stderr(&output);
    assert!(
        said.contains(
            "goes on with `in kind` behind its quotation mark\nhint: put an expression in brackets"
        ),
        "{said}"
    );
    job.run_ok(&["-q", "--set", "input.where=('a' in kind)"]);
    assert_eq!(numbers(&job.rows()), [0, 3, 6, 7, 9, 12, 15, 18, 21]);
}

/// Changes the text of a job file.
fn instead_of(job: &Job, old: &str, new: &str) {
    let path = job.path("job.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(old), "{text}");
    std::fs::write(path, text.replacen(old, new, 1)).unwrap();
}
