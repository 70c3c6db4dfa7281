//! CSV and TSV files as input: the same results as from JSON lines, and what becomes of files that are no tables.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::few_shot;
use crate::input::gzip;
use crate::score::kill_after;
use crate::support::{self, Job, both, some_questions, stderr};

/// Rows as a spreadsheet writes them: every field in quotes, lines that end in CR LF, a mark in front.
fn as_table(jsonl: &Path, separator: &str) -> Vec<u8> {
    let text = fs::read_to_string(jsonl).unwrap();
    let rows: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let columns: Vec<&String> = rows[0].as_object().unwrap().keys().collect();
    let line = |fields: Vec<&str>| {
        let quoted = fields.iter().map(|field| field.replace('"', "\"\""));
        let quoted: Vec<String> = quoted.map(|field| format!("\"{field}\"")).collect();
        format!("{}\r\n", quoted.join(separator))
    };
    let mut table = line(columns.iter().map(|name| name.as_str()).collect());
    for row in &rows {
        let texts = columns.iter().map(|name| row[*name].as_str().unwrap());
        table.push_str(&line(texts.collect()));
    }
    format!("\u{FEFF}{table}").into_bytes()
}

/// A job of two shards over short windows.
fn job_over(input: &Path) -> Job {
    let columns = "columns = { id = \"id\", prompt = \"question\", prefix = \"prefix\", reference = \"answer\" }";
    let more = "format = \"jsonl\"\n[batch]\nwindow_rows = 16\n[generation]\nmax_new_tokens = 4\n";
    let job = Job::of_model(&support::demo_model(), input, columns, more);
    let path = job.path("job.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(path, format!("shards = 2\n{text}")).unwrap();
    job
}

#[test]
fn a_table_gives_the_bytes_of_its_json_lines() {
    let folder = tempfile::tempdir().unwrap();
    let questions = some_questions(folder.path(), 100);
    let expected = job_over(&questions);
    expected.run_ok(&["--quiet"]);
    let parts = expected.files("parts");
    assert_eq!(parts.len(), 7);
    for (name, bytes) in [
        ("q.csv", as_table(&questions, ",")),
        ("semicolons.csv", as_table(&questions, ";")),
        ("q.TSV", as_table(&questions, "\t")),
        ("q.csv.gz", gzip(&as_table(&questions, ","))),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let job = job_over(&path);
        // Every other window: the reader begins in the middle of the file.
        job.run_ok(&["--quiet", "--shard", "1/2"]);
        for milliseconds in [40, 80] {
            kill_after(&job, Duration::from_millis(milliseconds));
        }
        job.run_ok(&["--quiet"]);
        assert!(job.files("parts") == parts, "{name}");
        assert!(job.files("failed").is_empty(), "{name}");
        job.run_ok(&["--quiet", "--verify"]);
    }
}

#[test]
fn examples_may_be_in_a_table() {
    let rows = few_shot::asked(3);
    let dev: Vec<Value> = ["甲", "乙"]
        .iter()
        .map(|name| json!({"q": format!("{name}, \"？\""), "a": name}))
        .collect();
    let lines = few_shot::generating(&rows, &dev, ", n = 2");
    let table = few_shot::generating(&rows, &dev, ", n = 2");
    let bytes = as_table(&table.path("dev.jsonl"), ",");
    fs::write(table.path("dev.csv"), bytes).unwrap();
    lines.run_ok(&["--quiet"]);
    table.run_ok(&["--quiet", "--set", "prompt.few_shot.path=dev.csv"]);
    assert!(
        lines.rows()[0]["rendered_prompt"]
            .as_str()
            .unwrap()
            .contains("甲, \"？\"")
    );
    assert_eq!(table.rows(), lines.rows());
}

#[test]
fn records_of_another_shape_fail_alone() {
    let job = job_over(Path::new("q.csv"));
    let table = b"id,question,prefix,answer\na,\"x\ny\",,\n\nb,z\nc,\xFF,,\nd,\xE4\xBD\xA0,,7\n";
    fs::write(job.path("q.csv"), table).unwrap();
    job.run_ok(&["--quiet"]);
    let ids: Vec<Value> = job.rows().iter().map(|row| row["id"].clone()).collect();
    assert_eq!(ids, ["a", "d"]);
    let failed = job.files("failed").remove(0).1;
    let failed: Vec<Value> = String::from_utf8(failed)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let reason = "the row has 2 fields, and the first line has 4; put a field that holds a separator or a line end in quotes";
    assert_eq!(failed[0]["reason"], reason);
    assert_eq!(
        (&failed[0]["line"], &failed[0]["raw"]),
        (&json!(5), &json!("b,z"))
    );
    assert_eq!(failed[1]["reason"], "invalid UTF-8 at byte 3");
    assert_eq!(
        (&failed[1]["line"], &failed[1]["raw_base64"]),
        (&json!(6), &json!("Yyz/LCw="))
    );
}

#[test]
fn what_is_no_table_is_refused_with_a_cure() {
    let gb18030 = b"id,question\n1,\xC4\xE3\xBA\xC3\n".to_vec();
    let workbook = b"PK\x03\x04\x14\0\0\0[Content_Types].xml".to_vec();
    let sheet =
        b"PK\x03\x04\x14\0\0\0mimetypeapplication/vnd.oasis.opendocument.spreadsheet".to_vec();
    let old = b"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1\0".to_vec();
    for (name, bytes, what, cure) in [
        (
            "a.csv",
            b"q,q\n1,2\n".to_vec(),
            "is a table with two columns of the name `q`",
            "give each",
        ),
        (
            "b.csv",
            b"q\n1\n\"x\n2\n".to_vec(),
            "is a table whose record at line 3 opens a quote that is never closed",
            "twice",
        ),
        (
            "c.csv",
            gb18030,
            "is text in another encoding; CSV and TSV files are UTF-8",
            "iconv -f GB18030 -t UTF-8 > c.utf8.csv`",
        ),
        (
            "d.tsv",
            b"\xFF\xFEq\0\n\0".to_vec(),
            "is UTF-16 text; CSV and TSV",
            "> d.utf8.tsv`",
        ),
        ("e.csv", workbook, "is an Excel workbook", "CSV UTF-8"),
        (
            "g.csv",
            b"[{\"q\": 1},\n{\"q\": 2}]".to_vec(),
            "is a JSON array, not JSON lines",
            "jq -c '.[]' g.csv > g.jsonl",
        ),
        ("h.csv", sheet, "is an Excel workbook", "CSV UTF-8"),
        ("i.csv", old, "is an Excel workbook", "CSV UTF-8"),
        ("f.csv", b"<html>".to_vec(), "is an HTML page", "download"),
    ] {
        let job = job_over(Path::new(name));
        fs::write(job.path(name), bytes).unwrap();
        let output = job.run(&[]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        assert!(text.contains(what) && text.contains(cure), "{text}");
        assert!(!job.path("out/job.json").exists(), "{name}");
    }
}

/// Names of columns that are magic numbers too, and a character that the first look at a file breaks off.
#[test]
fn tables_that_look_like_something_else_are_read() {
    let long = format!("id,question\n1,{}\n2,ok\n", "银".repeat(400_000));
    for (name, bytes, rows) in [
        ("orcid.csv", "ORCID,question\n0000,x\n".into(), 1),
        ("par.csv", "PAR1,question\n0000,x\n".into(), 1),
        ("bzh.tsv", "BZh\tquestion\n0000\tx\n".into(), 1),
        ("long.csv", long, 2),
        ("trailing.csv", "id,question\n1,x\n,\n,\n".into(), 1),
        ("sep.csv", "sep=;\r\nid;question\r\n1;x\r\n".into(), 1),
    ] {
        let columns = "columns = { prompt = \"question\" }";
        let more = "[generation]\nmax_new_tokens = 1\n[prompt]\nmax_length = 40\n";
        let job = Job::of_model(&support::demo_model(), Path::new(name), columns, more);
        fs::write(job.path(name), bytes).unwrap();
        job.run_ok(&["--quiet"]);
        let answered = job.rows();
        assert_eq!(answered.len(), rows, "{name}");
        assert!(answered.iter().all(|row| row["status"] == "ok"), "{name}");
    }
}

#[test]
fn a_folder_gives_no_tables_and_a_glob_of_their_ending_does() {
    let job = job_over(Path::new("rows"));
    fs::create_dir(job.path("rows")).unwrap();
    fs::write(job.path("rows/t.csv"), "id,question,prefix,answer\n1,x,,\n").unwrap();
    for input in ["rows", "rows/*"] {
        let output = job.run(&["--set", &format!("input.path={input}")]);
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        let cure = "`t.csv` is read where `input.path` names it, or a glob that ends as it does, such as `*.csv`";
        assert!(stderr(&output).contains(cure), "{}", both(&output));
    }
    some_questions(&job.path("rows"), 3);
    let output = job.run(&["--dry-run"]);
    let left_out = "`t.csv`: CSV and TSV files of a folder mostly describe its rows; name them in `input.path` if they hold some";
    assert!(both(&output).contains(left_out), "{}", both(&output));
    assert!(
        both(&output).contains("3 rows in 1 file"),
        "{}",
        both(&output)
    );
    // Tables and JSON lines are rows of one kind.
    let both_kinds = "input.path=[\"rows/*.csv\", \"rows\"]";
    job.run_ok(&["--quiet", "--set", both_kinds]);
    assert_eq!(job.rows().len(), 4);
}
