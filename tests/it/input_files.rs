//! Input files as people have them: edited, moved, odd folders, other formats, odd packing, endless lines.

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use arrow_array::{ArrayRef, StringArray};
use glm_batch::internals::input::{ColumnKind, InputError, Place, resolve_files};
use glm_batch::internals::job::Rules;
use glm_batch::internals::outcome::Stage;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use serde_json::{Value, json};

use crate::input::{
    Job, batch, file, groups, gzip, lines, questions, raw_record, reason, write_parquet, zstd_frame,
};
use crate::support::{self, as_parquet, both, some_questions, stderr};

/// Questions as Parquet whose values stand in the file as they are, and nowhere in the footer.
fn write_plain_parquet(path: &Path, texts: &[&str]) {
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .build();
    let texts: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
    write_parquet(
        path,
        &batch(vec![("question", Arc::clone(&texts)), ("prompt", texts)]),
        properties,
    );
}

/// Sets the time of a file to one that no earlier write gave it, however coarse the clock is.
fn touch_later(path: &Path) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    let time = file.metadata().unwrap().modified().unwrap();
    let later = time + std::time::Duration::from_secs(5);
    file.set_modified(later).unwrap();
}

/// A job of the demonstration model whose input is a folder or glob beside the job file.
fn job_over(input: &str, more: &str) -> support::Job {
    support::Job::of_model(
        &support::demo_model(),
        Path::new(input),
        "columns = { prompt = \"question\" }",
        &format!("[generation]\nmax_new_tokens = 4\n[prompt]\nmax_length = 64\n{more}"),
    )
}

/// Runs a command that must end with 2, and returns what it says.
fn refused(job: &support::Job, args: &[&str]) -> String {
    let output = job.command(args).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    stderr(&output)
}

#[test]
fn a_parquet_file_of_equal_size_and_footer_is_another_input() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (
        folder.path().join("a.parquet"),
        folder.path().join("b.parquet"),
    );
    write_plain_parquet(&first, &["法国的首都是哪座城市？"]);
    write_plain_parquet(&second, &["泰国的首都是哪座城市？"]);
    let (a, b) = (fs::read(&first).unwrap(), fs::read(&second).unwrap());
    assert_eq!(a.len(), b.len());
    let footer = a.len() - 200;
    assert!(a != b && a[footer..] == b[footer..]);

    let mut job = Job::new(&[&first]);
    let hash = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
    let before = job.index();
    assert_eq!(before.files[0].fingerprint, hash(&a));
    assert!(before.files[0].inode.is_some());
    fs::write(&first, &b).unwrap();
    touch_later(&first);
    let after = job.scan_with(Some(&before)).unwrap().index;
    assert_eq!(after.files[0].fingerprint, hash(&b));
    // A job of the version before is held to its own rule.
    job.rules = Rules::FIRST;
    let old = job.index();
    fs::write(&first, &a).unwrap();
    touch_later(&first);
    let again = job.scan_with(Some(&old)).unwrap().index;
    assert_eq!(old.files[0].fingerprint, again.files[0].fingerprint);
    assert_ne!(old.files[0].fingerprint, hash(&b));

    let run = job_over("in.parquet", "");
    fs::write(run.path("in.parquet"), &a).unwrap();
    run.run_ok(&[]);
    fs::write(run.path("in.parquet"), &b).unwrap();
    let text = refused(&run, &["run", "job.toml"]);
    assert!(
        text.contains("input file") && text.contains("--restart"),
        "{text}"
    );
    fs::write(run.path("in.parquet"), &a).unwrap();
    run.run_ok(&[]);
}

#[test]
fn a_file_that_changes_is_seen_at_every_window() {
    let folder = tempfile::tempdir().unwrap();
    let jsonl = file(&folder, "a.jsonl", lines(0..30));
    let parquet = folder.path().join("a.parquet");
    write_parquet(&parquet, &questions(0..30), groups(30));
    for path in [&jsonl, &parquet] {
        let job = Job::new(&[path]).window_rows(10);
        let (source, index) = job.open().unwrap();
        let [first, second, _] = index.windows.as_slice() else {
            panic!("three windows")
        };
        source.read_window(first).unwrap();
        source.check_unchanged(first).unwrap();
        let changed = |what: &str| {
            for error in [
                source.read_window(second).unwrap_err(),
                source.check_unchanged(first).unwrap_err(),
            ] {
                let InputError::Changed { what: found, .. } = &error else {
                    panic!("{error}")
                };
                assert_eq!(found, what);
                let text = error.to_string();
                assert!(
                    text.contains("changed since the first pass") && text.contains("\nhint: "),
                    "{text}"
                );
            }
        };
        let time = fs::metadata(path).unwrap().modified().unwrap();
        let mut edited = fs::OpenOptions::new().write(true).open(path).unwrap();
        edited.seek(SeekFrom::Start(20)).unwrap();
        edited.write_all(b"X").unwrap();
        let later = time + std::time::Duration::from_millis(1);
        edited.set_modified(later).unwrap();
        changed("it was written to meanwhile");
        // Another file with its size and time.
        let other = folder.path().join("other");
        fs::write(&other, fs::read(path).unwrap()).unwrap();
        fs::rename(&other, path).unwrap();
        let replaced = fs::OpenOptions::new().write(true).open(path).unwrap();
        replaced.set_modified(time).unwrap();
        changed("another file was put in its place");
        replaced.set_len(5).unwrap();
        assert!(matches!(
            source.read_window(second).unwrap_err(),
            InputError::Changed { .. }
        ));
    }
    // A window is read where only files of other windows changed.
    let a = file(&folder, "w/a.jsonl", lines(0..10));
    let b = file(&folder, "w/b.jsonl", lines(10..20));
    let (source, index) = Job::new(&[&a, &b]).window_rows(10).open().unwrap();
    fs::write(&b, lines(30..41)).unwrap();
    source.read_window(&index.windows[0]).unwrap();
    source.read_window(&index.windows[1]).unwrap_err();
}

#[test]
fn an_input_edited_during_a_run_is_neither_answered_nor_committed() {
    let job = job_over(
        "questions.jsonl",
        "[batch]\nwindow_rows = 40\nmax_batch_size = 4\n[checkpoint]\ninterval_seconds = 0\n",
    );
    let path = some_questions(job.folder.path(), 4000);
    let text = fs::read_to_string(&path).unwrap();
    let last = text.trim_end().rfind('\n').unwrap() + 1;
    let edit = text[last..]
        .find("\"question\": \"")
        .map(|at| last + at + 13);
    let edit = edit.unwrap_or_else(|| last + text[last..].rfind('"').unwrap() - 3);
    let mut run = job
        .command(&["run", "job.toml", "-q"])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let manifest = job.path("out/manifest/shard-0.json");
    while !manifest.exists() {
        assert!(
            run.try_wait().unwrap().is_none(),
            "it ended before it was disturbed"
        );
        std::thread::yield_now();
    }
    let mut edited = fs::OpenOptions::new().write(true).open(&path).unwrap();
    edited.seek(SeekFrom::Start(edit as u64)).unwrap();
    edited.write_all(b"XXX").unwrap();
    drop(edited);
    let output = run.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    assert!(
        stderr(&output).contains("changed since the first pass"),
        "{}",
        both(&output)
    );
    let committed = job.rows().len();
    assert!(committed < 4000, "{committed}");
    let text = refused(&job, &["run", "job.toml", "-q"]);
    assert!(text.contains("input file"), "{text}");
}

/// The rows of a folder's files, by the names of the files.
fn names_and_notes(input: &str, root: &Path) -> Result<(Vec<String>, Vec<String>), InputError> {
    let mut spec = Job::new(&[]).input;
    spec.path = vec![root.join(input).to_str().unwrap().to_owned()];
    resolve_files(&spec, &root.join("out"), Rules::CURRENT).map(|found| {
        let name = |path: &Path| {
            let below = path.strip_prefix(root).unwrap();
            below.to_str().unwrap().to_owned()
        };
        let names = found.files.iter().map(|file| name(&file.path)).collect();
        (names, found.notes)
    })
}

#[test]
fn folders_of_other_programs_give_their_rows_once() {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "spark/part-0.jsonl",
        "spark/_SUCCESS",
        "spark/_temporary/0/part-0.jsonl",
        "spark/_old.jsonl",
        "spark/_k=v/part-1.jsonl",
        "json/part-00000-c000.json",
        "json/c4.00000.json.gz",
        "json/more.json",
        "json/_SUCCESS",
        "plain/part-0.json",
        "plain/rows.json",
        "described/rows.jsonl",
        "described/dataset_infos.json",
        "described/c4.json.gz",
        "described/README.md",
        "described/notes.2",
        "described/notes.1",
        "described/notes.3",
        "described/b.tsv.gz",
        "described/a.csv",
    ] {
        file(&folder, name, "");
    }
    let list = |input: &str| names_and_notes(input, folder.path()).unwrap();
    let notes = |input: &str, notes: &[&str]| -> Vec<String> {
        let shown = folder.path().join(input);
        notes
            .iter()
            .map(|note| format!("left out of `{}`: {note}", shown.display()))
            .collect()
    };
    let own = "`_old.jsonl`, `_temporary`: names that begin with `_` belong to the program that wrote the folder";
    assert_eq!(
        list("spark"),
        (
            vec![
                "spark/_k=v/part-1.jsonl".into(),
                "spark/part-0.jsonl".into()
            ],
            notes("spark", &[own])
        )
    );
    assert_eq!(
        list("spark/**/*.jsonl").0,
        ["spark/_k=v/part-1.jsonl", "spark/part-0.jsonl"]
    );
    assert_eq!(list("spark/_*.jsonl").0, ["spark/_old.jsonl"]);
    let all = [
        "json/c4.00000.json.gz",
        "json/more.json",
        "json/part-00000-c000.json",
    ];
    assert_eq!(
        list("json").0,
        ["json/c4.00000.json.gz", "json/part-00000-c000.json"]
    );
    assert_eq!(list("plain").0, ["plain/part-0.json", "plain/rows.json"]);
    assert_eq!(list("json/*.json").0, all[1..]);
    assert_eq!(list("json/*.json*").0, all);
    assert_eq!(list("json/m*").0, all[1..2]);
    let (names, found) = list("described");
    assert_eq!(names, ["described/c4.json.gz", "described/rows.jsonl"]);
    assert_eq!(
        found,
        notes(
            "described",
            &[
                "`README.md`, `notes.1`, `notes.2` and 1 more: their endings are not read",
                "`a.csv`, `b.tsv.gz`: CSV and TSV files of a folder mostly describe its rows; name them in `input.path` if they hold some, as in `*.csv`",
                "`dataset_infos.json`: `.json` beside input of another ending is mostly no rows; name them in `input.path` if they hold some",
            ]
        )
    );
    assert_eq!(
        list("described/dataset*.json").0,
        ["described/dataset_infos.json"]
    );
    for (glob, table) in [
        ("*.csv", "described/a.csv"),
        ("*.tsv*", "described/b.tsv.gz"),
        ("*.tsv.gz", "described/b.tsv.gz"),
    ] {
        assert_eq!(list(&format!("described/{glob}")).0, [table]);
    }

    // `plan` and every run say it.
    let job = job_over("in", "");
    fs::create_dir(job.path("in")).unwrap();
    some_questions(&job.path("in"), 3);
    fs::write(job.path("in/notes.txt"), "x").unwrap();
    let plan = job.command(&["plan", "job.toml"]).output().unwrap();
    let text = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert!(
        text.contains("`notes.txt`: their endings are not read"),
        "{text}"
    );
    let said = |output: &std::process::Output| stderr(output).contains("notes.txt");
    assert!(said(&job.run_ok(&[])));
    assert!(said(&job.run_ok(&[])));
}

#[test]
fn tables_with_metadata_of_their_own_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "delta/_delta_log/0.json",
        "delta/a.parquet",
        "delta/k=1/b.parquet",
        "iceberg/metadata/v1.metadata.json",
        "iceberg/data/a.parquet",
        "hudi/.hoodie/hoodie.properties",
        "hudi/a.parquet",
        "deep/er/delta/_delta_log/0.json",
        "plain/data/a.parquet",
        "plain/metadata/notes.json",
    ] {
        file(&folder, name, "");
    }
    for (input, kind) in [
        ("delta", "delta` is a Delta table"),
        ("delta/*.parquet", "delta` is a Delta table"),
        ("delta/k=1", "delta` is a Delta table"),
        ("d*", "delta` is a Delta table"),
        ("deep", "er/delta` is a Delta table"),
        ("iceberg", "iceberg` is an Iceberg table"),
        ("iceberg/data", "iceberg` is an Iceberg table"),
        ("iceberg/data/*.parquet", "iceberg` is an Iceberg table"),
        ("hudi", "hudi` is a Hudi table"),
    ] {
        let error = names_and_notes(input, folder.path()).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, InputError::Table { .. }), "{input}: {text}");
        assert!(
            text.contains(kind) && text.contains("\nhint: write the rows that you mean to Parquet"),
            "{input}: {text}"
        );
    }
    assert_eq!(
        names_and_notes("plain", folder.path()).unwrap().0,
        ["plain/data/a.parquet"]
    );
    assert!(names_and_notes("delta/a.parquet", folder.path()).is_ok());
}

/// A partitioned folder, as JSON lines or as Parquet: a row each in `lang=zh/year=2023`, `lang=en/year=2024`,
/// and one without a language.
fn partitioned(root: &Path, parquet: bool) {
    for (at, folder) in [
        "lang=zh/year=2023",
        "lang=e%20n/year=2024",
        "lang=__HIVE_DEFAULT_PARTITION__/year=7",
    ]
    .iter()
    .enumerate()
    {
        let folder = root.join(folder);
        fs::create_dir_all(&folder).unwrap();
        let line = format!("{{\"id\": \"{at}\", \"question\": \"法国的首都是哪座城市？\"}}\n");
        fs::write(folder.join("part-0.jsonl"), line).unwrap();
        if parquet {
            as_parquet(&folder.join("part-0.jsonl"), &folder.join("part-0.parquet"));
            fs::remove_file(folder.join("part-0.jsonl")).unwrap();
        }
    }
}

#[test]
fn folders_named_column_value_give_columns() {
    for (parquet, format) in [
        (false, "jsonl"),
        (false, "parquet"),
        (true, "jsonl"),
        (true, "parquet"),
    ] {
        let job = job_over(
            "in",
            "template = \"{{ lang | default('?') }}{{ year + 1 }}：{{ question }}\"\n[batch]\nwindow_rows = 2\n",
        );
        partitioned(&job.path("in"), parquet);
        job.run_ok(&["--set", &format!("output.format={format}")]);
        let rows = job.rows();
        let found: Vec<(&Value, &Value, &Value)> = rows
            .iter()
            .map(|row| (&row["id"], &row["lang"], &row["year"]))
            .collect();
        let (zh, en, none) = (json!("zh"), json!("e n"), Value::Null);
        let (y23, y24, y7) = (json!(2023), json!(2024), json!(7));
        let ids = [json!("0"), json!("1"), json!("2")];
        assert_eq!(
            found,
            [
                (&ids[2], &none, &y7),
                (&ids[1], &en, &y24),
                (&ids[0], &zh, &y23)
            ],
            "{parquet} {format}"
        );
        assert!(rows.iter().all(|row| row["status"] == "ok"), "{rows:?}");
        // The same files under other names are another input.
        let set = format!("output.format={format}");
        job.run_ok(&["--set", &set]);
        fs::rename(job.path("in/lang=zh"), job.path("in/lang=fr")).unwrap();
        let text = refused(&job, &["run", "job.toml", "--set", &set]);
        assert!(
            text.contains("lang = zh") && text.contains("lang = fr"),
            "{text}"
        );
    }
}

#[test]
fn columns_of_folders_reach_windows_and_give_way_to_the_rows_own() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    fs::create_dir_all(root.join("j/k=01/own=1/x")).unwrap();
    fs::create_dir_all(root.join("p/k=01/own=1")).unwrap();
    file(
        &folder,
        "j/k=01/own=1/x/a.jsonl",
        "{\"prompt\": \"a\", \"own\": \"row\"}\n{\"prompt\": \"b\"}\nbroken\n",
    );
    file(&folder, "j/b.jsonl", lines(0..3));
    let one = |text: &str| Arc::new(StringArray::from(vec![text])) as ArrayRef;
    write_parquet(
        &root.join("p/k=01/own=1/a.parquet"),
        &batch(vec![("prompt", one("a")), ("own", one("row"))]),
        groups(9),
    );
    write_parquet(&root.join("p/b.parquet"), &questions(0..3), groups(2));
    for (input, text) in [
        ("j", ColumnKind::String),
        ("p", ColumnKind::Arrow("Utf8".to_owned())),
    ] {
        let mut job = Job::new(&[&root.join(input)])
            .template("{{ k | default('none') }} {{ own | default('none') }}")
            .window_rows(2);
        let index = job.index();
        let k = index
            .columns
            .iter()
            .find(|column| column.name == "k")
            .unwrap();
        assert_eq!(k.kind, text);
        let texts: Vec<String> = job
            .rows()
            .iter()
            .filter_map(|row| Some(row.outcome.as_ref().ok()?.text.clone()))
            .collect();
        assert_eq!(
            texts[..4],
            ["none none", "none none", "none none", "01 row"]
        );
        if input == "j" {
            // The other row has no value of its own, and the folder's is not taken for it.
            assert_eq!(texts[4], "01 none");
        }
        let raw = job
            .windows()
            .iter()
            .map(|w| raw_record(w, 0))
            .collect::<Vec<_>>();
        assert_eq!(raw.len(), index.windows.len());
        // From the last window to the first, and again from an index that a run has stored.
        let stored = serde_json::to_string(&index).unwrap();
        let stored: glm_batch::internals::input::InputIndex =
            serde_json::from_str(&stored).unwrap();
        assert_eq!(stored, index);
        let source = job.open_index(&stored).unwrap();
        for span in index.windows.iter().rev() {
            source.read_window(span).unwrap();
        }
        // A job of the version before goes on without them.
        job.rules = Rules::FIRST;
        assert!(job.index().columns.iter().all(|column| column.name != "k"));
        // What a glob writes out is no column; what its wildcards match is.
        for (pattern, has) in [("k=*/**/*", true), ("k=01/**/*", false)] {
            let job = Job::new(&[&root.join(input).join(pattern)]).template("x");
            let has_k = job.index().columns.iter().any(|column| column.name == "k");
            assert_eq!(has_k, has, "{pattern}");
        }
    }
}

fn scan_error(path: &Path) -> String {
    let error = Job::new(&[path]).scan_with(None).map(|_| ()).unwrap_err();
    error.to_string()
}

/// Each file (name, content) is refused as what it is, with a cure.
fn all_refused(cases: &[(&str, Vec<u8>, &str, &str)]) {
    let folder = tempfile::tempdir().unwrap();
    for (name, content, what, cure) in cases {
        let text = scan_error(&file(&folder, name, content));
        let (head, hint) = text.split_once("\nhint: ").unwrap_or((&text, ""));
        assert!(
            head.contains(&format!("{name}` is {what}")) && hint.contains(cure),
            "{name}: {text}"
        );
    }
}

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 146946961\n";

const ARRAY: &str = "[\n  {\n    \"prompt\": \"x\"\n  },\n  {\n    \"prompt\": \"y\"\n  }\n]";

const PAGE: &str = "\n<!DOCTYPE html>\n<html><head></head></html>";

#[test]
fn text_that_is_not_utf8_is_named_with_the_conversion() {
    let row = "{\"prompt\": \"法国\"}\n";
    let utf16 = |mark: &str, le: bool| -> Vec<u8> {
        let bytes = |unit: u16| {
            if le {
                unit.to_le_bytes()
            } else {
                unit.to_be_bytes()
            }
        };
        format!("{mark}{row}")
            .encode_utf16()
            .flat_map(bytes)
            .collect()
    };
    let utf32 = |mark: &str, le: bool| -> Vec<u8> {
        let bytes = |c: char| {
            let number = u32::from(c);
            if le {
                number.to_le_bytes()
            } else {
                number.to_be_bytes()
            }
        };
        format!("{mark}{row}").chars().flat_map(bytes).collect()
    };
    let mark = "\u{feff}";
    let whole = "`cat u.jsonl | iconv -f UTF-16 -t UTF-8 > u.utf8.jsonl`";
    let packed = "`gzip -dc x.jsonl.gz | iconv";
    all_refused(&[
        ("u.jsonl", utf16(mark, true), "UTF-16 text", whole),
        ("u.json", utf16(mark, false), "UTF-16 text", "-f UTF-16 "),
        ("v.jsonl", utf16("", true), "UTF-16LE text", "-f UTF-16LE "),
        (
            "v.ndjson",
            utf16("", false),
            "UTF-16BE text",
            "-f UTF-16BE ",
        ),
        ("w.jsonl", utf32(mark, true), "UTF-32 text", "-f UTF-32 "),
        ("w.ndjson", utf32(mark, false), "UTF-32 text", "-f UTF-32 "),
        ("w.json", utf32("", false), "UTF-32BE text", "-f UTF-32BE "),
        ("y.json", utf32("", true), "UTF-32LE text", "-f UTF-32LE "),
        (
            "x.jsonl.gz",
            gzip(&utf16(mark, true)),
            "UTF-16 text",
            packed,
        ),
    ]);
}

#[test]
fn json_that_is_not_lines_is_named_with_the_command() {
    let (is_array, is_object) = (
        "a JSON array, not JSON lines",
        "one JSON object over many lines",
    );
    let plain = "`jq -c '.[]' a.jsonl > a.lines.jsonl`";
    let spaced = "`jq -c '.[]' 'a b.json' > 'a b.jsonl'`";
    let packed = "`gzip -dc a.json.gz | jq -c '.[]' > a.jsonl`";
    let long = format!("[{{\"prompt\": \"{}\"}},", "x".repeat(2 << 20));
    all_refused(&[
        ("a.jsonl", ARRAY.into(), is_array, plain),
        ("a b.json", ARRAY.into(), is_array, spaced),
        ("a.json.gz", gzip(ARRAY.as_bytes()), is_array, packed),
        (
            "one.json",
            "[{\"prompt\": \"x\"}]".into(),
            is_array,
            "jq -c '.[]'",
        ),
        ("long.json", long.into(), is_array, "jq -c '.[]'"),
        (
            "rows.jsonl",
            "[\"a\"]\n[\"b\"]\n".into(),
            "lines of JSON arrays",
            "as an object",
        ),
        (
            "doc.json",
            "{\n \"prompt\": 1\n}\n".into(),
            is_object,
            "jq -c '.' doc.json",
        ),
    ]);
    let job = job_over("in.jsonl", "");
    fs::write(job.path("in.jsonl"), ARRAY).unwrap();
    for command in ["plan", "run"] {
        let text = refused(&job, &[command, "job.toml"]);
        assert!(text.contains("is a JSON array"), "{text}");
    }
}

#[test]
fn files_of_other_formats_are_named_before_any_work() {
    let pull = "git lfs pull";
    let is_pointer = "a Git LFS pointer";
    all_refused(&[
        ("l.jsonl", POINTER.into(), is_pointer, pull),
        ("l.parquet", POINTER.into(), is_pointer, pull),
        ("l.jsonl.gz", POINTER.into(), is_pointer, pull),
        ("l.jsonl.zst", POINTER.into(), is_pointer, pull),
        (
            "h.jsonl",
            PAGE.into(),
            "an HTML page",
            "download the file itself",
        ),
        (
            "h.parquet",
            PAGE.into(),
            "an HTML page",
            "download the file itself",
        ),
        (
            "z.jsonl",
            b"\xFD7zXZ\0\0".to_vec(),
            "packed with xz",
            "unpack it",
        ),
        (
            "f.parquet",
            "ARROW1\0\0 and".into(),
            "an Arrow IPC (Feather) file",
            "as Parquet",
        ),
    ]);
}

#[test]
fn one_object_among_the_first_lines_makes_json_lines() {
    let folder = tempfile::tempdir().unwrap();
    let row = "{\"prompt\": \"x\"}\n";
    for (name, content) in [("page", PAGE), ("pointer", POINTER), ("array", ARRAY)] {
        let path = file(&folder, "mixed.jsonl", format!("{content}\n\n{row}"));
        let rows = Job::new(&[&path]).rows();
        let good = rows.iter().filter(|row| row.outcome.is_ok()).count();
        assert_eq!(good, 1, "{name}");
    }
    for content in [PAGE, POINTER] {
        let late = format!("{content}\n{}{row}", "x\n".repeat(100));
        scan_error(&file(&folder, "late.jsonl", late));
    }
    // Broken lines alone are bad rows, and so is text of a known ending.
    for content in [
        "{\"prompt\": \"x\",}\n",
        "id,prompt\n1,x\n",
        "{\"prompt\": \"cut",
        "\n\n",
    ] {
        let path = file(&folder, "broken.jsonl", content);
        assert!(Job::new(&[&path]).scan_with(None).is_ok(), "{content}");
    }
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_refused_without_being_opened() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe.jsonl");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    for (path, what) in [
        (pipe.as_path(), "a named pipe"),
        (Path::new("/dev/stdin"), ""),
        (Path::new("/dev/fd/0"), ""),
        (Path::new("/dev/null"), "a device"),
    ] {
        let error = Job::new(&[path]).scan_with(None).map(|_| ()).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, InputError::NoFile { .. }), "{text}");
        assert!(
            text.contains(what) && text.contains("\nhint: write `input.path = \"-\"`"),
            "{text}"
        );
    }
    file(&folder, "rows.jsonl", lines(0..2));
    let (names, notes) = names_and_notes("", folder.path()).unwrap();
    assert_eq!(names, ["rows.jsonl"]);
    assert!(
        notes[0].contains("`pipe.jsonl`: they are neither files nor folders"),
        "{notes:?}"
    );
    // A known file that a pipe has taken the place of.
    let path = folder.path().join("rows.jsonl");
    let known = Job::new(&[&path]).index();
    fs::rename(&pipe, &path).unwrap();
    let source = Job::new(&[&path]).open_index(&known);
    let error = source.unwrap().read_window(&known.windows[0]).unwrap_err();
    assert!(error.to_string().contains("no regular file"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_name_that_is_no_text_is_refused_by_name() {
    use std::os::unix::ffi::OsStrExt as _;
    let job = job_over("in", "");
    fs::create_dir(job.path("in")).unwrap();
    let name = |bytes: &[u8]| job.path("in").join(std::ffi::OsStr::from_bytes(bytes));
    let path = some_questions(&job.path("in"), 2);
    fs::write(name(b"b\xff.md"), "x").unwrap();
    job.run_ok(&[]);
    fs::rename(path, name(b"a\xff.jsonl")).unwrap();
    for set in ["in", "in/*.jsonl", "**/*.jsonl"] {
        for command in ["plan", "run"] {
            let set = format!("input.path={set}");
            let text = refused(
                &job,
                &[
                    command,
                    "job.toml",
                    "--set",
                    &set,
                    "--set",
                    "output.path=new",
                ],
            );
            assert!(
                text.contains("a\\xFF.jsonl\" is not UTF-8\nhint: rename it"),
                "{text}"
            );
        }
    }
}

#[test]
fn padding_and_odd_frames_are_read_and_garbage_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = lines(0..4);
    let zeros = vec![0; 512];
    for (name, packed) in [
        ("a.jsonl.gz", gzip(text.as_bytes())),
        ("a.jsonl.zst", zstd_frame(text.as_bytes())),
    ] {
        let padded = [packed.as_slice(), &zeros].concat();
        let job = Job::new(&[&file(&folder, name, &padded)]).window_rows(2);
        assert_eq!(job.rows().len(), 4);
        let hash = blake3::hash(&padded).to_hex().to_string();
        assert_eq!(
            job.index().files[0].fingerprint,
            hash,
            "{name}: all bytes count"
        );
        let garbage = [packed.as_slice(), text.as_bytes()].concat();
        let text = scan_error(&file(&folder, name, garbage));
        assert!(text.contains("stands behind the packed rows"), "{text}");
        let text = scan_error(&file(&folder, name, "no packed file at all\n"));
        assert!(text.contains("does not begin as"), "{text}");
        let text = scan_error(&file(&folder, name, &packed[..2]));
        assert!(text.contains("cut short"), "{text}");
    }
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_contentsize(false).unwrap();
    encoder.write_all(text.as_bytes()).unwrap();
    let mut long = encoder.finish().unwrap();
    // The byte that says how long the window is: 2 to the power of 31.
    long[5] = (31 - 10) << 3;
    let text = scan_error(&file(&folder, "l.jsonl.zst", long));
    assert!(
        text.contains("a window of 2048 MiB, over the limit of 128 MiB")
            && text.contains("`zstd -dc --long=31 OLD.zst | zstd -o NEW.zst`"),
        "{text}"
    );
}

#[test]
fn a_line_over_the_limit_fails_alone() {
    let folder = tempfile::tempdir().unwrap();
    let long = |bytes: usize| {
        let around = "{\"prompt\": \"\"}".len();
        format!("{{\"prompt\": \"{}\"}}", "x".repeat(bytes - around))
    };
    let text = format!(
        "\u{feff}{}\r\n{}\n{}\r\n{}\n{}\n{{\"prompt\": \"{}\"}}\n{}",
        long(2000),
        long(2000),
        " ".repeat(9000),
        long(2001),
        long(3 << 20),
        "中".repeat(1 << 20),
        long(2000),
    );
    for (name, content) in [
        ("a.jsonl", text.clone().into_bytes()),
        ("a.jsonl.zst", zstd_frame(text.as_bytes())),
    ] {
        for window_rows in [1, 8192] {
            let path = file(&folder, name, &content);
            let mut job = Job::new(&[&path]).window_rows(window_rows);
            let unlimited = job.index();
            job.input.max_row_bytes = 2000;
            // What is not kept counts all the same.
            assert_eq!(job.index(), unlimited);
            let windows = job.windows();
            let rows = job.rows();
            let good: Vec<bool> = rows.iter().map(|row| row.outcome.is_ok()).collect();
            assert_eq!(good, [true, true, false, false, false, true]);
            let line = |at: usize| match rows[at].place {
                Place::Line { line, .. } => line,
                Place::RowGroup { .. } => 0,
            };
            assert_eq!([line(2), line(3), line(5)], [4, 5, 7]);
            let (stage, why) = reason(&rows[3]);
            assert_eq!(stage, Stage::Input);
            assert_eq!(
                why,
                "the line has 3145728 bytes, more than `input.max_row_bytes` = 2000; its beginning is kept"
            );
            assert!(!rows[3].is_record);
            let kept = |row: usize| {
                let window = windows
                    .iter()
                    .find(|w| w.rows.iter().any(|r| r.row.0 == row as u64));
                let window = window.unwrap();
                let at = window
                    .rows
                    .iter()
                    .position(|r| r.row.0 == row as u64)
                    .unwrap();
                String::from_utf8(raw_record(window, at)).unwrap()
            };
            assert!(
                kept(3).len() == 1000 && kept(4).len() > 990,
                "{}",
                kept(4).len()
            );
        }
    }
}

#[test]
fn a_row_that_unpacks_without_end_takes_no_memory() {
    let job = job_over("in.jsonl.zst", "[batch]\nwindow_rows = 2\n");
    let mut encoder =
        zstd::Encoder::new(fs::File::create(job.path("in.jsonl.zst")).unwrap(), 1).unwrap();
    let question = "{\"question\": \"法国的首都是哪座城市？\"}\n";
    encoder.write_all(question.as_bytes()).unwrap();
    encoder.write_all(b"{\"question\": \"").unwrap();
    for _ in 0..300 {
        encoder.write_all(&vec![b'x'; 1 << 20]).unwrap();
    }
    encoder.write_all(b"\"}\n").unwrap();
    encoder.write_all(question.as_bytes()).unwrap();
    encoder.finish().unwrap();
    let output = job.run_ok(&[]);
    let rows = job.rows();
    assert_eq!(rows.len(), 2, "{}", both(&output));
    assert!(rows.iter().all(|row| row["status"] == "ok"));
    let failed: Vec<Value> = job
        .files("failed")
        .iter()
        .flat_map(|(_, bytes)| {
            String::from_utf8(bytes.clone())
                .unwrap()
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0]["stage"], "input");
    let why = failed[0]["reason"].as_str().unwrap();
    assert!(
        why.contains("the line has 314572816 bytes, more than `input.max_row_bytes` = 67108864"),
        "{why}"
    );
    let report: Value =
        serde_json::from_slice(&fs::read(job.path("out/report/shard-0.json")).unwrap()).unwrap();
    if let Some(peak) = find_number(&report, "peak_memory_bytes") {
        assert!(peak < 300 << 20, "{peak}");
    }
    // The limit alters results: a resume keeps to it.
    let text = refused(
        &job,
        &["run", "job.toml", "--set", "input.max_row_bytes=1000"],
    );
    assert!(text.contains("input.max_row_bytes"), "{text}");
    let text = refused(&job, &["run", "job.toml", "--set", "input.max_row_bytes=0"]);
    assert!(text.contains("must be at least 1"), "{text}");
}

fn find_number(value: &Value, key: &str) -> Option<u64> {
    match value {
        Value::Object(map) => map
            .get(key)
            .and_then(Value::as_u64)
            .or_else(|| map.values().find_map(|value| find_number(value, key))),
        Value::Array(items) => items.iter().find_map(|value| find_number(value, key)),
        _ => None,
    }
}

#[test]
fn a_prompt_that_is_no_text_gets_a_template_that_works() {
    let folder = tempfile::tempdir().unwrap();
    for (prompt, expected) in [
        (
            json!([
                {"role": "system", "content": "丙"},
                {"role": "user", "content": "甲"},
                {"role": "assistant", "content": "丁"},
            ]),
            "甲",
        ),
        (json!([{"from": "human", "value": "甲"}]), "甲"),
        (json!([{"id": 3, "body": "甲"}]), "甲"),
        (json!(["甲", "乙"]), "甲 乙"),
        (json!({"text": "甲"}), "甲"),
        (json!({"role": "user", "content": "甲"}), "甲"),
    ] {
        let path = file(&folder, "a.jsonl", json!({"prompt": prompt}).to_string());
        let rows = Job::new(&[&path]).rows();
        let (stage, why) = reason(&rows[0]);
        assert_eq!(stage, Stage::Input);
        let (_, cure) = why
            .split_once("; `prompt.template = \"")
            .unwrap_or_else(|| panic!("{why}"));
        let (template, _) = cure.split_once("\"` makes one of it").unwrap();
        let rows = Job::new(&[&path]).template(template).rows();
        assert_eq!(
            rows[0].outcome.as_ref().unwrap().text,
            expected,
            "{template}"
        );
    }
    for prompt in [
        json!([]),
        json!([1]),
        json!({}),
        json!([[{"content": "x"}]]),
        json!({"model": "x", "messages": []}),
        json!(true),
    ] {
        let path = file(&folder, "a.jsonl", json!({"prompt": prompt}).to_string());
        let rows = Job::new(&[&path]).rows();
        assert!(reason(&rows[0]).1.ends_with("not a text"), "{prompt}");
    }
}
