//! Reading input: files, first pass, windows, prompts, and what becomes of bad rows.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::types::Int8Type;
use arrow_array::{
    ArrayRef, BinaryArray, DictionaryArray, Float64Array, Int32Array, Int64Array, LargeStringArray,
    RecordBatch, StringArray, StringViewArray, StructArray,
};
use arrow_schema::{DataType, Field};
use glm_batch::StopFlag;
use glm_batch::internals::input::{
    Carried, ColumnKind, InputError, InputIndex, InputRow, InputStream, InputWindow,
    MAX_WINDOW_BYTES, OpenOptions, Place, PromptSource, Scan, ScanOptions, Selection, json_lines,
    open, resolve_files, scan, select,
};
use glm_batch::internals::job::{
    CarriedColumns, ColumnSpec, InputSpec, OnBadRow, PromptSpec, Rules,
};
use glm_batch::internals::outcome::{BadRow, Stage};
use parquet::arrow::ArrowWriter;
use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use proptest::prelude::*;
use serde_json::Value;

pub(crate) struct Job {
    pub(crate) input: InputSpec,
    pub(crate) prompt: PromptSpec,
    pub(crate) rules: Rules,
    window_rows: u32,
    max_bytes: u64,
}

/// A row as it came: the raw line, or the Parquet row as JSON.
pub(crate) fn raw_record(window: &InputWindow, position: usize) -> Vec<u8> {
    match &window.carried {
        Carried::Json(lines) => lines.line(position).to_vec(),
        Carried::Arrow(batch) => json_lines(&batch.slice(position, 1))
            .trim_ascii_end()
            .to_vec(),
    }
}

impl Job {
    pub(crate) fn new(paths: &[&Path]) -> Self {
        let text = r#"
            version = 1
            model.path = "model"
            input = { path = "in", columns = { prompt = "prompt" } }
            output.path = "out"
        "#;
        let mut job =
            glm_batch::internals::job::parse(text, "test.toml", Path::new("/"), &[]).unwrap();
        job.input.path = paths
            .iter()
            .map(|path| path.to_str().unwrap().to_owned())
            .collect();
        Self {
            input: job.input,
            prompt: job.prompt,
            rules: Rules::CURRENT,
            window_rows: 8192,
            max_bytes: MAX_WINDOW_BYTES,
        }
    }

    pub(crate) fn columns(mut self, set: impl FnOnce(&mut ColumnSpec)) -> Self {
        set(&mut self.input.columns);
        self
    }

    pub(crate) fn template(mut self, template: &str) -> Self {
        self.prompt.template = Some(template.to_owned());
        self
    }

    pub(crate) fn window_rows(mut self, rows: u32) -> Self {
        self.window_rows = rows;
        self
    }

    pub(crate) fn scan_with(&self, previous: Option<&InputIndex>) -> Result<Scan, InputError> {
        let files = resolve_files(&self.input, Path::new("/nowhere/out"), self.rules)?.files;
        scan(&ScanOptions {
            spec: &self.input,
            prompt: &self.prompt,
            choices: None,
            files: &files,
            rules: self.rules,
            window_rows: self.window_rows,
            shards: 1,
            max_window_bytes: self.max_bytes,
            previous,
            stop: &StopFlag::default(),
        })
    }

    pub(crate) fn index(&self) -> InputIndex {
        self.scan_with(None).unwrap().index
    }

    pub(crate) fn open(&self) -> Result<(Box<dyn PromptSource>, InputIndex), InputError> {
        let index = self.scan_with(None)?.index;
        Ok((self.open_index(&index)?, index))
    }

    pub(crate) fn open_index(
        &self,
        index: &InputIndex,
    ) -> Result<Box<dyn PromptSource>, InputError> {
        let options = OpenOptions {
            input: &self.input,
            prompt: &self.prompt,
            group: None,
            choices: None,
            carried: &CarriedColumns::All,
            rules: self.rules,
        };
        open(&options, Arc::new(index.clone()))
    }

    pub(crate) fn windows(&self) -> Vec<InputWindow> {
        let (source, index) = self.open().unwrap();
        index
            .windows
            .iter()
            .map(|span| source.read_window(span).unwrap())
            .collect()
    }

    pub(crate) fn rows(&self) -> Vec<InputRow> {
        let rows: Vec<InputRow> = self.windows().into_iter().flat_map(|w| w.rows).collect();
        assert!(
            rows.iter()
                .enumerate()
                .all(|(i, row)| row.row.0 == i as u64)
        );
        rows
    }
}

/// What a row gives, without where it stands.
fn seen(rows: &[InputRow]) -> Vec<String> {
    rows.iter()
        .map(|row| format!("{} {} {:?}", row.row, row.id, row.outcome))
        .collect()
}

fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data")).join(name);
    if !path.exists() {
        eprintln!("skipped: {} is not here", path.display());
        return None;
    }
    Some(path)
}

pub(crate) fn file(folder: &tempfile::TempDir, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    path
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd_frame(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 1).unwrap()
}

pub(crate) fn lines(range: std::ops::Range<usize>) -> String {
    let line = |i| format!("{{\"id\": \"q{i}\", \"prompt\": \"问题 {i}\"}}\n");
    range.map(line).collect::<Vec<_>>().concat()
}

pub(crate) fn write_parquet(path: &Path, batch: &RecordBatch, properties: WriterProperties) {
    let file = fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

pub(crate) fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true)))
        .unwrap()
}

pub(crate) fn questions(range: std::ops::Range<usize>) -> RecordBatch {
    batch(vec![
        (
            "id",
            Arc::new(StringArray::from_iter_values(
                range.clone().map(|i| format!("q{i}")),
            )) as _,
        ),
        (
            "prompt",
            Arc::new(StringArray::from_iter_values(
                range.map(|i| format!("问题 {i}")),
            )) as _,
        ),
    ])
}

pub(crate) fn groups(rows: usize) -> WriterProperties {
    WriterProperties::builder()
        .set_max_row_group_row_count(Some(rows))
        .build()
}

pub(crate) fn reason(row: &InputRow) -> (Stage, &str) {
    let bad = row.outcome.as_ref().unwrap_err();
    (bad.stage, &bad.reason)
}

#[test]
fn every_dirty_line_gives_what_is_documented() {
    let (Some(path), Some(expected)) = (shared("dirty.jsonl"), shared("dirty.expected.json"))
    else {
        return;
    };
    let expected: Value = serde_json::from_slice(&fs::read(expected).unwrap()).unwrap();
    let rows = Job::new(&[&path])
        .columns(|c| c.prefix = Some("prefix".to_owned()))
        .rows();
    let by_line: HashMap<u64, &InputRow> = rows
        .iter()
        .map(|row| match row.place {
            Place::Line { line, .. } => (line, row),
            Place::RowGroup { .. } => panic!("a JSONL row has a line"),
        })
        .collect();
    for plain in expected["ok_plain"].as_array().unwrap() {
        let row = by_line[&plain[0].as_u64().unwrap()];
        assert!(
            row.outcome.is_ok() && row.id == plain[1].as_str().unwrap(),
            "{row:?}"
        );
    }
    let mut policies = 0;
    for odd in expected["lines_not_plain"].as_array().unwrap() {
        let line = odd["line"].as_u64().unwrap();
        let kind = odd["kind"].as_str().unwrap();
        match odd["class"].as_str().unwrap() {
            "skip" => assert!(!by_line.contains_key(&line), "{kind}"),
            "bad" => assert!(by_line[&line].outcome.is_err(), "{kind}"),
            "ok" => {
                let row = by_line[&line];
                assert!(row.outcome.is_ok(), "{kind}: {row:?}");
                assert_eq!(row.id, odd["id"].as_str().unwrap(), "{kind}");
            }
            _ => {
                check_policy(kind, by_line[&line], odd["id"].as_str());
                policies += 1;
            }
        }
    }
    assert_eq!(policies, 16);
    assert_eq!(rows.len(), 158);
}

/// The policy table of the module's documentation.
fn check_policy(kind: &str, row: &InputRow, id: Option<&str>) {
    match kind {
        "id_null" | "id_empty" | "missing_id" => {
            assert!(row.outcome.is_ok());
            assert_eq!(row.id, row.row.to_string());
        }
        "id_number" => assert_eq!(
            (row.id.as_str(), row.outcome.is_ok()),
            ("90071992547409931", true)
        ),
        "lone_surrogate_escape" | "bom_mid_file" => {
            assert!(row.outcome.is_err() && !row.is_record, "{kind}");
        }
        "duplicate_key" => {
            assert!(row.outcome.is_ok());
            assert_eq!(Some(row.id.as_str()), id);
        }
        _ => assert!(
            row.outcome.is_ok() && Some(row.id.as_str()) == id,
            "{kind}: {row:?}"
        ),
    }
}

#[test]
fn shared_containers_give_the_rows_of_the_plain_file() {
    let Some(plain) = shared("zh_questions.jsonl") else {
        return;
    };
    let read = |path: &Path, window_rows| {
        let job = Job::new(&[path]).window_rows(window_rows).columns(|c| {
            c.prefix = Some("prefix".to_owned());
            c.reference = Some("reference".to_owned());
        });
        seen(&job.rows())
    };
    let expected = read(&plain, 8192);
    assert_eq!(expected.len(), 7382);
    for (name, window_rows) in [
        ("zh_questions.jsonl", 777),
        ("zh_questions.jsonl.gz", 512),
        ("zh_questions.jsonl.zst", 512),
        ("zh_questions.parquet", 8192),
        ("zh_questions.parquet", 333),
        ("shards", 8192),
        ("shards", 1000),
    ] {
        assert!(
            read(&shared(name).unwrap(), window_rows) == expected,
            "{name} {window_rows}"
        );
    }
    for name in [
        "zh_head300.multimember.jsonl.gz",
        "zh_head300.multiframe.jsonl.zst",
    ] {
        let path = shared(name).unwrap();
        let job = Job::new(&[&path]).columns(|c| {
            c.prefix = Some("prefix".to_owned());
            c.reference = Some("reference".to_owned());
        });
        // The first 300 lines have no row number of their own as id: all ids are theirs.
        assert!(seen(&job.rows()) == expected[..300], "{name}");
    }
}

#[test]
fn nested_columns_reach_a_template() {
    let Some(path) = shared("zh_questions_nested.parquet") else {
        return;
    };
    let by_column = Job::new(&[&path]).rows();
    assert_eq!(by_column.len(), 1933);
    assert!(by_column.iter().all(|row| row.outcome.is_ok()));
    let template = "{{ meta.source }}|{{ messages | length }}|{{ n_chars + 1 }}|{{ source }}|\
                    {{ messages[0].content }}";
    let rows = Job::new(&[&path])
        .template(template)
        .window_rows(500)
        .rows();
    for (row, plain) in rows.iter().zip(&by_column) {
        let (text, prompt) = (
            &row.outcome.as_ref().unwrap().text,
            plain.outcome.as_ref().unwrap(),
        );
        let parts: Vec<&str> = text.splitn(5, '|').collect();
        assert_eq!(parts[0], parts[3]);
        assert!(parts[1].parse::<usize>().unwrap() >= 1 && parts[2].parse::<usize>().unwrap() > 1);
        assert!(prompt.text.contains(parts[4].trim_end()), "{text}");
    }
}

/// The messages of a conversation are held beside the prompt that is made of them only for who writes conversations.
#[test]
fn conversations_are_kept_where_they_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chats.jsonl");
    let chat = r#"{"chat": [{"role": "user", "content": "你好"}]}"#;
    std::fs::write(&path, format!("{chat}\n{chat}\n")).unwrap();
    let job = Job::new(&[&path]).columns(|columns| {
        columns.prompt = None;
        columns.messages = Some("chat".to_owned());
    });
    let (mut source, index) = job.open().unwrap();
    let turns = |source: &dyn PromptSource| {
        let rows = source.read_window(&index.windows[0]).unwrap().rows;
        let prompts = rows.into_iter().map(|row| row.outcome.unwrap());
        let turns = prompts.map(|prompt| {
            assert_eq!(prompt.text, "问：你好\n答：");
            prompt.turns.len()
        });
        turns.collect::<Vec<_>>()
    };
    assert_eq!(turns(source.as_ref()), [0, 0]);
    source.keep_turns();
    assert_eq!(turns(source.as_ref()), [1, 1]);
}

#[test]
fn packed_and_split_files_give_the_same_rows() {
    let folder = tempfile::tempdir().unwrap();
    let text = lines(0..40);
    let (first, second) = text.split_at(text.floor_char_boundary(text.len() / 2) - 1);
    let plain = file(&folder, "plain.jsonl", &text);
    let members = [gzip(first.as_bytes()), gzip(second.as_bytes())].concat();
    let frames = [zstd_frame(first.as_bytes()), zstd_frame(second.as_bytes())].concat();
    let expected = seen(&Job::new(&[&plain]).rows());
    assert_eq!(expected.len(), 40);
    let others = [
        file(&folder, "members.jsonl.gz", &members),
        file(&folder, "frames.jsonl.zst", &frames),
        file(&folder, "by_magic.jsonl", &members),
        file(
            &folder,
            "crlf.jsonl",
            format!("\u{feff}{}", text.replace('\n', "\r\n\r\n")),
        ),
        file(&folder, "no_end.jsonl", text.trim_end()),
    ];
    for path in &others {
        for window_rows in [7, 8192] {
            let rows = Job::new(&[path]).window_rows(window_rows).rows();
            assert_eq!(seen(&rows), expected, "{}", path.display());
        }
    }
    let a = file(&folder, "a.jsonl.gz", gzip(lines(0..15).as_bytes()));
    let b = file(&folder, "b.jsonl", "\n \t\n");
    let c = file(&folder, "c.jsonl.zst", zstd_frame(lines(15..40).as_bytes()));
    let job = Job::new(&[&a, &b, &c]).window_rows(10);
    assert_eq!(seen(&job.rows()), expected);
    assert_eq!(
        job.index().files.iter().map(|f| f.rows).collect::<Vec<_>>(),
        [15, 0, 25]
    );
}

#[test]
fn a_window_alone_is_a_slice_of_all() {
    let folder = tempfile::tempdir().unwrap();
    let text: String = lines(0..50).replace("}\n{\"id\": \"q2", "}\n\n\n{\"id\": \"q2");
    let jsonl = file(&folder, "a.jsonl", &text);
    let packed = file(&folder, "b.jsonl.gz", gzip(text.as_bytes()));
    let parquet = folder.path().join("c.parquet");
    write_parquet(&parquet, &questions(0..100), groups(17));
    for paths in [
        vec![jsonl.as_path(), packed.as_path()],
        vec![parquet.as_path()],
    ] {
        let all: Vec<_> = Job::new(&paths).rows();
        assert_eq!(all.len(), 100);
        let job = Job::new(&paths).window_rows(9);
        let (source, index) = job.open().unwrap();
        // From the last to the first, each by a reader of its own.
        for span in index.windows.iter().rev() {
            let window = source.read_window(span).unwrap();
            let first = span.first_row.0 as usize;
            let slice = &all[first..first + span.rows as usize];
            assert_eq!(seen(&window.rows), seen(slice));
            let places =
                |rows: &[InputRow]| rows.iter().map(|r| r.place.clone()).collect::<Vec<_>>();
            assert_eq!(places(&window.rows), places(slice));
        }
    }
}

#[test]
fn windows_keep_both_limits_and_hold_a_row() {
    let folder = tempfile::tempdir().unwrap();
    let big = format!("{{\"prompt\": \"{}\"}}\n", "x".repeat(500));
    let path = file(&folder, "a.jsonl", lines(0..10) + &big + &lines(10..12));
    let mut job = Job::new(&[&path]).window_rows(4);
    job.max_bytes = 120;
    let index = job.index();
    let sizes: Vec<u64> = index.windows.iter().map(|w| w.rows).collect();
    assert_eq!(sizes, [3, 3, 3, 1, 1, 2]);
    assert_eq!(index.rows, 13);
    assert_eq!(job.rows().len(), 13);
    let empty = file(&folder, "empty.jsonl", "\n\n");
    let windows = Job::new(&[&empty]).windows();
    assert_eq!((windows.len(), windows[0].rows.len()), (1, 0));
}

#[test]
fn column_types_hold_over_all_rows() {
    use ColumnKind::{Bool, Float64, Int64, Json, String};
    let folder = tempfile::tempdir().unwrap();
    let path = file(
        &folder,
        "a.jsonl",
        r#"{"prompt": "x", "i": 1, "f": 1, "b": true, "n": null, "big": 18446744073709551616, "m": 1}
broken
{"late": "t", "f": 1.5, "i": -9223372036854775808, "m": "x", "nested": {"a": 1}, "huge": 1e999, "huge": 1e999}
"#,
    );
    let index = Job::new(&[&path]).index();
    let kinds: Vec<(&str, &ColumnKind)> = index
        .columns
        .iter()
        .map(|c| (c.name.as_str(), &c.kind))
        .collect();
    assert_eq!(
        kinds,
        [
            ("prompt", &String),
            ("i", &Int64),
            ("f", &Float64),
            ("b", &Bool),
            ("n", &String),
            ("big", &Json),
            ("m", &Json),
            ("late", &String),
            ("nested", &Json),
            ("huge", &Json),
        ]
    );
}

#[test]
fn fields_stand_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(
        &folder,
        "a.jsonl",
        "{ \"prompt\" :\"old\", \"n\": 1.50e+3, \"o\": { \"b\":1,\"a\" :2}, \"prompt\": \"\\u65b0\"}\r\n[1]\n",
    );
    let windows = Job::new(&[&path]).windows();
    let Carried::Json(lines) = &windows[0].carried else {
        panic!("JSONL")
    };
    let fields = lines.fields(0);
    let fields: Vec<(&str, &str)> = fields
        .iter()
        .map(|(name, value)| (name, value.get()))
        .collect();
    assert_eq!(
        fields,
        [
            ("prompt", "\"\\u65b0\""),
            ("n", "1.50e+3"),
            ("o", "{ \"b\":1,\"a\" :2}")
        ]
    );
    assert_eq!(windows[0].rows[0].outcome.as_ref().unwrap().text, "新");
    assert!(lines.line(0).ends_with(b"}"));
    assert_eq!(raw_record(&windows[0], 1), b"[1]");
    assert_eq!(
        reason(&windows[0].rows[1]),
        (Stage::Input, "the line holds an array, not an object")
    );
}

#[test]
fn bad_rows_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let cases: [(&[u8], &str); 16] = [
        (b"{\"prompt\": \"\xff\"}", "invalid UTF-8 at byte 13"),
        (
            b"{\"prompt\": \"x\",}",
            "broken JSON at byte 16: trailing comma",
        ),
        (
            b"{\"prompt\": \"x\"} {}",
            "broken JSON at byte 17: trailing characters",
        ),
        (
            b"{\"prompt\": \"x",
            "broken JSON at byte 13: EOF while parsing a string",
        ),
        (b"// note", "broken JSON at byte 1: expected value"),
        (
            b"[",
            "the line begins an array, not an object; write one object a line",
        ),
        (b"12", "the line holds a number, not an object"),
        (
            b"\xef\xbb\xbf{\"prompt\": \"x\"}",
            "a byte order mark in front of a line that is not the file's first",
        ),
        (
            b"{\"x\": \"\\ud83d\"}",
            "broken text in field `x`: unexpected end of hex escape",
        ),
        (b"{\"x\": 1}", "the row has no prompt column `prompt`"),
        (b"{\"prompt\": null}", "prompt column `prompt` is null"),
        (b"{\"prompt\": \"\"}", "prompt column `prompt` is empty"),
        (
            b"{\"prompt\": \" \\u3000\"}",
            "prompt column `prompt` holds nothing but white space",
        ),
        (
            b"{\"prompt\": 4.20}",
            "prompt column `prompt` holds the number 4.20, not a text",
        ),
        (
            b"{\"prompt\": [\"x\"]}",
            "prompt column `prompt` holds an array, not a text; `prompt.template = \"{{ prompt | join(' ') }}\"` makes one of it",
        ),
        (
            b"{\"prompt\": \"x\", \"id\": {}}",
            "id column `id` holds an object, not a text or a number",
        ),
    ];
    let mut content = b"{\"prompt\": \"fine\", \"id\": 7.50}\n".to_vec();
    for (line, _) in cases {
        content.extend_from_slice(line);
        content.push(b'\n');
    }
    let rows = Job::new(&[&file(&folder, "a.jsonl", content)]).rows();
    assert_eq!(rows[0].id, "7.50");
    for (row, (_, expected)) in rows[1..].iter().zip(cases) {
        assert_eq!(reason(row), (Stage::Input, expected));
    }
    assert!(!rows[1].is_record && rows[12].is_record);
}

#[test]
fn stop_hears_of_the_first_bad_row_before_work() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(
        &folder,
        "a.jsonl",
        lines(0..300) + "\n{\"prompt\": 1}\nbroken\n",
    );
    let mut job = Job::new(&[&path]);
    job.input.on_bad_row = OnBadRow::Stop;
    let (place, bad) = job.scan_with(None).unwrap().first_bad.unwrap();
    assert_eq!(place, Place::Line { file: 0, line: 302 });
    assert_eq!(bad.stage, Stage::Input);
    job.input.on_bad_row = OnBadRow::Record;
    assert!(job.scan_with(None).unwrap().first_bad.is_none());
}

#[test]
fn an_unchanged_input_is_not_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "a.jsonl", lines(0..5));
    let job = Job::new(&[&path]);
    let mut known = job.index();
    assert_eq!(
        known.files[0].fingerprint,
        blake3::hash(lines(0..5).as_bytes()).to_hex().as_str()
    );
    known.files[0].fingerprint = "kept".to_owned();
    assert_eq!(job.scan_with(Some(&known)).unwrap().index, known);
    fs::write(&path, lines(0..6)).unwrap();
    let again = job.scan_with(Some(&known)).unwrap().index;
    assert_eq!(again.rows, 6);
    assert_ne!(again.files[0].fingerprint, "kept");
    let source = job.open_index(&known).unwrap();
    let error = source.read_window(&known.windows[0]).unwrap_err();
    assert!(matches!(error, InputError::Changed { .. }), "{error}");
}

#[test]
fn files_cut_short_are_all_named() {
    let folder = tempfile::tempdir().unwrap();
    let good = file(&folder, "good.jsonl", lines(0..9));
    let packed = gzip(lines(0..500).as_bytes());
    let gz = file(&folder, "cut.jsonl.gz", &packed[..packed.len() - 9]);
    let frame = zstd_frame(lines(0..500).as_bytes());
    let zst = file(&folder, "cut.jsonl.zst", &frame[..frame.len() - 5]);
    let empty = file(&folder, "empty.jsonl.zst", "");
    let error = Job::new(&[&gz, &good, &zst, &empty])
        .scan_with(None)
        .unwrap_err();
    let InputError::Broken { problems } = &error else {
        panic!("{error}")
    };
    let named: Vec<&Path> = problems.iter().map(|p| p.path.as_path()).collect();
    assert_eq!(named, [gz.as_path(), zst.as_path(), empty.as_path()]);
    assert!(
        problems
            .iter()
            .all(|p| p.reason == "the packed stream is cut short"),
        "{error}"
    );

    let whole = folder.path().join("whole.parquet");
    write_parquet(&whole, &questions(0..10), groups(10));
    let bytes = fs::read(&whole).unwrap();
    let cut = file(&folder, "cut.parquet", &bytes[..bytes.len() - 20]);
    let tiny = file(&folder, "tiny.parquet", "PAR1");
    let error = Job::new(&[&cut, &whole, &tiny])
        .scan_with(None)
        .unwrap_err();
    let InputError::Broken { problems } = &error else {
        panic!("{error}")
    };
    assert_eq!(problems.len(), 2, "{error}");
    assert!(error.to_string().contains("\nhint: "));
}

#[test]
fn paths_become_files_in_order() {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "b.jsonl",
        "a/z.jsonl.gz",
        "a/é.ndjson",
        "a/.hidden.jsonl",
        ".git/x.jsonl",
        "a/notes.md",
        "out/parts/part-0.jsonl",
        "out.trial/x.jsonl",
        "out.old-1/x.jsonl",
        "outer.jsonl",
    ] {
        file(&folder, name, "");
    }
    let out = folder.path().join("out");
    let list = |paths: &[&str]| {
        let mut spec = Job::new(&[]).input;
        spec.path = paths
            .iter()
            .map(|p| folder.path().join(p).to_str().unwrap().to_owned())
            .collect();
        resolve_files(&spec, &out, Rules::CURRENT).map(|found| {
            found
                .files
                .iter()
                .map(|f| {
                    f.path
                        .strip_prefix(folder.path())
                        .unwrap()
                        .to_str()
                        .unwrap()
                        .to_owned()
                })
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(
        list(&[""]).unwrap(),
        ["a/z.jsonl.gz", "a/é.ndjson", "b.jsonl", "outer.jsonl"]
    );
    assert_eq!(
        list(&["*.jsonl", "a"]).unwrap(),
        ["b.jsonl", "outer.jsonl", "a/z.jsonl.gz", "a/é.ndjson"]
    );
    assert_eq!(
        list(&["outer.jsonl", "*.jsonl"]).unwrap(),
        ["outer.jsonl", "b.jsonl"]
    );
    assert_eq!(
        list(&["b.jsonl", "a/../b.jsonl"]).unwrap(),
        ["b.jsonl"],
        "one file by two names"
    );
    assert_eq!(list(&["a/.hidden.jsonl"]).unwrap(), ["a/.hidden.jsonl"]);
    assert_eq!(list(&["**/z*"]).unwrap(), ["a/z.jsonl.gz"]);
    assert_eq!(list(&["a/*"]).unwrap(), ["a/z.jsonl.gz", "a/é.ndjson"]);
    let others = list(&["a/*.md"]).unwrap_err().to_string();
    assert!(
        others.contains("\nhint: no file that matches has a known ending"),
        "{others}"
    );
    let missing = list(&["outre.jsonl"]).unwrap_err().to_string();
    assert!(
        missing.contains("outre.jsonl` does not exist\nhint: did you mean"),
        "{missing}"
    );
    fs::create_dir(folder.path().join("void")).unwrap();
    assert!(matches!(
        list(&["void"]).unwrap_err(),
        InputError::NoFiles { .. }
    ));
    assert!(matches!(
        list(&["*.csv"]).unwrap_err(),
        InputError::NoFiles { .. }
    ));
    file(&folder, "a/p.parquet", "");
    let mixed = list(&["a"]).unwrap_err().to_string();
    assert!(
        mixed.contains("p.parquet") && mixed.contains("z.jsonl.gz"),
        "{mixed}"
    );
}

#[test]
fn a_named_file_of_no_known_ending_must_look_like_input() {
    let folder = tempfile::tempdir().unwrap();
    let rows = lines(0..3);
    for (name, content) in [
        ("rows.txt", rows.clone().into_bytes()),
        ("rows", format!("\u{feff}\n \t\r\n{rows}").into_bytes()),
        ("rows.log.1", gzip(rows.as_bytes())),
        ("blank.txt", b"\n\n".to_vec()),
        // The ending says what it is; its lines are bad rows.
        ("table.jsonl", b"id,prompt\n".to_vec()),
    ] {
        let path = file(&folder, name, content);
        assert!(Job::new(&[&path]).scan_with(None).is_ok(), "{name}");
    }
    let parquet = folder.path().join("table.dat");
    write_parquet(&parquet, &questions(0..3), groups(3));
    assert_eq!(Job::new(&[&parquet]).rows().len(), 3);
    for (name, content, what, cure) in [
        (
            "x.json",
            "\n[\n{\"prompt\": \"hello\"}]",
            "a JSON array, not JSON lines",
            "jq -c '.[]' x.json > x.jsonl",
        ),
        (
            "LICENSE",
            "Permission is granted",
            "neither JSON lines nor Parquet",
            "convert it to one of .jsonl",
        ),
    ] {
        let path = file(&folder, name, content);
        let error = Job::new(&[&path]).scan_with(None).unwrap_err().to_string();
        assert!(
            error.contains(&format!("is {what}\nhint: ")) && error.contains(cure),
            "{error}"
        );
    }
}

#[test]
fn every_codec_and_layout_reads_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let plain = file(&folder, "a.jsonl", lines(0..60));
    let expected = seen(&Job::new(&[&plain]).rows());
    let codecs = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::BROTLI(BrotliLevel::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
        Compression::ZSTD(ZstdLevel::default()),
    ];
    let path = folder.path().join("a.parquet");
    for codec in codecs {
        let properties = WriterProperties::builder()
            .set_compression(codec)
            .set_writer_version(WriterVersion::PARQUET_2_0)
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::None)
            .set_max_row_group_row_count(Some(23))
            .build();
        write_parquet(&path, &questions(0..60), properties);
        assert_eq!(
            seen(&Job::new(&[&path]).window_rows(11).rows()),
            expected,
            "{codec:?}"
        );
    }
    let texts = || (0..60).map(|i| format!("问题 {i}"));
    let ids: ArrayRef = Arc::new(StringArray::from_iter_values(
        (0..60).map(|i| format!("q{i}")),
    ));
    let owned: Vec<String> = texts().collect();
    let layouts: [ArrayRef; 3] = [
        Arc::new(LargeStringArray::from_iter_values(texts())),
        Arc::new(StringViewArray::from_iter_values(texts())),
        Arc::new(
            owned
                .iter()
                .map(String::as_str)
                .collect::<DictionaryArray<Int8Type>>(),
        ),
    ];
    for layout in layouts {
        let rows = batch(vec![("id", Arc::clone(&ids)), ("prompt", layout)]);
        write_parquet(&path, &rows, groups(13));
        assert_eq!(seen(&Job::new(&[&path]).window_rows(50).rows()), expected);
    }
}

#[test]
fn schemas_meet_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let prompt = |text: &str| Arc::new(StringArray::from(vec![text])) as ArrayRef;
    write_parquet(
        &path("a.parquet"),
        &batch(vec![
            ("prompt", prompt("a")),
            ("id", Arc::new(Int32Array::from(vec![1]))),
            ("n", Arc::new(Int64Array::from(vec![2]))),
        ]),
        groups(9),
    );
    let nullable = Arc::new(Field::new("top_k", DataType::Int64, true));
    let settings = StructArray::from(vec![(
        nullable,
        Arc::new(Int64Array::from(vec![Some(3)])) as ArrayRef,
    )]);
    write_parquet(
        &path("b.parquet"),
        &batch(vec![
            ("n", Arc::new(Float64Array::from(vec![f64::NAN]))),
            ("raw", Arc::new(BinaryArray::from_vec(vec![b"\x00\xff"]))),
            (
                "id",
                Arc::new(Int64Array::from(vec![90_071_992_547_409_931])),
            ),
            ("settings", Arc::new(settings)),
            ("prompt", Arc::new(LargeStringArray::from(vec!["b"]))),
        ]),
        groups(9),
    );
    let job = Job::new(&[&path("a.parquet"), &path("b.parquet")])
        .columns(|c| c.generation = Some("settings".to_owned()));
    let windows = job.windows();
    assert_eq!(windows.len(), 1);
    let ids: Vec<&str> = windows[0].rows.iter().map(|row| row.id.as_str()).collect();
    assert_eq!(ids, ["1", "90071992547409931"]);
    let overrides = &windows[0].rows[1].outcome.as_ref().unwrap().overrides;
    assert_eq!(serde_json::to_string(overrides).unwrap(), r#"{"top_k":3}"#);
    assert!(
        windows[0].rows[0]
            .outcome
            .as_ref()
            .unwrap()
            .overrides
            .is_empty()
    );
    let raw: Vec<String> = (0..2)
        .map(|i| String::from_utf8(raw_record(&windows[0], i)).unwrap())
        .collect();
    assert_eq!(
        raw[0],
        r#"{"prompt":"a","id":1,"n":2.0,"raw":null,"settings":null}"#
    );
    assert_eq!(
        raw[1],
        r#"{"prompt":"b","id":90071992547409931,"n":null,"raw":"AP8=","settings":{"top_k":3}}"#
    );
    write_parquet(
        &path("c.parquet"),
        &batch(vec![
            ("prompt", prompt("c")),
            ("n", Arc::new(StringArray::from(vec!["x"]))),
        ]),
        groups(9),
    );
    let clash = Job::new(&[&path("a.parquet"), &path("c.parquet")])
        .scan_with(None)
        .unwrap_err();
    let message = clash.to_string();
    assert!(
        message.contains("a.parquet") && message.contains("c.parquet"),
        "{message}"
    );
}

#[test]
fn a_damaged_page_fails_its_row_group_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(20))
        .set_dictionary_enabled(false)
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .build();
    write_parquet(&path, &questions(0..60), properties);
    let mut bytes = fs::read(&path).unwrap();
    let footer = parquet::file::metadata::ParquetMetaDataReader::new()
        .parse_and_finish(&fs::File::open(&path).unwrap())
        .unwrap();
    let (start, length) = footer.row_group(1).column(1).byte_range();
    for byte in &mut bytes[start as usize + length as usize - 40..(start + length) as usize] {
        *byte ^= 0x5A;
    }
    fs::write(&path, bytes).unwrap();
    let mut all = Vec::new();
    for window_rows in [8192, 7, 25] {
        let job = Job::new(&[&path]).window_rows(window_rows);
        let rows = job.rows();
        for (i, row) in rows.iter().enumerate() {
            assert_eq!(row.outcome.is_err(), (20..40).contains(&i), "{row:?}");
            assert_eq!(row.is_record, row.outcome.is_ok());
        }
        let (stage, why) = reason(&rows[20]);
        assert_eq!(stage, Stage::Input);
        assert!(
            why.starts_with("row group 1 is damaged: ") && !why.contains('\n'),
            "{why}"
        );
        assert_eq!(
            rows[21].place,
            Place::RowGroup {
                file: 0,
                row_group: 1,
                row: 1
            }
        );
        assert!(job.windows().iter().all(|window| match &window.carried {
            Carried::Arrow(batch) => batch.num_rows() == window.rows.len(),
            Carried::Json(_) => false,
        }));
        all.push(seen(&rows));
    }
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn a_column_that_no_row_has_is_refused_with_the_nearest() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "a.jsonl", "{\"question\": \"x\"}\n");
    let error = Job::new(&[&path])
        .columns(|c| c.prompt = Some("qestion".to_owned()))
        .open();
    assert_eq!(
        error.err().unwrap().to_string(),
        "no row has the column `qestion` that `input.columns.prompt` names\nhint: did you mean `question`?"
    );
    let of_template = |template: &str| Job::new(&[&path]).template(template).open();
    assert_eq!(
        of_template("If you can: {{ qestion }}")
            .err()
            .unwrap()
            .to_string(),
        "no row has the column `qestion` that `prompt.template` names\nhint: did you mean `question`?"
    );
    for template in [
        "{{ hint | default('') }}{{ question }}",
        "{% if hint %}{{ hint }}{% endif %}{{ question }}",
        "{{ range(3) }}{{ question }}",
    ] {
        assert!(of_template(template).is_ok(), "{template}");
    }
    let none = Job::new(&[&path]).columns(|c| c.prompt = None).open();
    assert!(matches!(none.err().unwrap(), InputError::NoPrompt));
    let broken = Job::new(&[&path])
        .template("{{ question")
        .open()
        .err()
        .unwrap()
        .to_string();
    assert!(
        broken.starts_with("`prompt.template` does not parse: line 1"),
        "{broken}"
    );

    let settings: ArrayRef = Arc::new(Int64Array::from(vec![3]));
    let field = Arc::new(Field::new("topk", DataType::Int64, true));
    let path = folder.path().join("b.parquet");
    let rows = batch(vec![
        ("prompt", Arc::new(StringArray::from(vec!["x"])) as ArrayRef),
        (
            "generation",
            Arc::new(StructArray::from(vec![(field, settings)])),
        ),
    ]);
    write_parquet(&path, &rows, groups(5));
    let job = Job::new(&[&path]).columns(|c| c.generation = Some("generation".to_owned()));
    let message = job.open().err().unwrap().to_string();
    assert!(
        message.contains("`topk`") && message.contains("did you mean `top_k`?"),
        "{message}"
    );
}

#[test]
fn templates_fail_rows_that_print_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(
        &folder,
        "a.jsonl",
        r#"{"q": "one", "n": 3, "l": [{"t": "deep"}], "m": {"a": "x"}}
{"q": null, "n": null, "m": {"a": null}}
{}
{"q": " ", "m": {}}
"#,
    );
    let parquet = folder.path().join("a.parquet");
    let list = arrow_json::reader::infer_json_schema(
        std::io::BufReader::new(fs::File::open(&path).unwrap()),
        None,
    )
    .unwrap()
    .0;
    let mut reader = arrow_json::ReaderBuilder::new(Arc::new(list))
        .build(std::io::BufReader::new(fs::File::open(&path).unwrap()))
        .unwrap();
    write_parquet(&parquet, &reader.next().unwrap().unwrap(), groups(2));
    let texts = |path: &Path, template: &str| -> Vec<Result<String, BadRow>> {
        let rows = Job::new(&[path]).template(template).rows();
        rows.into_iter()
            .map(|row| row.outcome.map(|prompt| prompt.into_inner().text))
            .collect()
    };
    let run = |template: &str| -> Vec<Result<String, BadRow>> {
        let (from_lines, from_parquet) = (texts(&path, template), texts(&parquet, template));
        assert_eq!(from_lines, from_parquet, "{template}");
        from_lines
    };
    let good =
        |rows: &[Result<String, BadRow>]| -> Vec<bool> { rows.iter().map(Result::is_ok).collect() };

    let printed = run("Q: {{ q }}\n({{ n }})");
    assert_eq!(printed[0], Ok("Q: one\n(3)".to_owned()));
    assert_eq!(good(&printed), [true, false, false, false]);
    let bad = printed[1].as_ref().unwrap_err();
    assert_eq!(bad.stage, Stage::Template);
    assert!(
        bad.reason.contains("line 1 of the template") && bad.reason.contains("`q`"),
        "{}",
        bad.reason
    );
    assert!(!bad.reason.contains('\n'));

    assert_eq!(run("{{ q | default('none') }}")[1], Ok("none".to_owned()));
    assert_eq!(good(&run("{{ q | d('x') }}")), [true, true, true, false]);
    assert_eq!(
        run("{% if q %}{{ q }}{% else %}-{% endif %}")[2],
        Ok("-".to_owned())
    );
    assert_eq!(
        run("{% if q is none %}-{% else %}+{% endif %}")[1],
        Ok("-".to_owned())
    );
    assert_eq!(
        run("{% if q is not none %}{{ q }}{% else %}no{% endif %}")[1],
        Ok("no".to_owned())
    );
    assert_eq!(good(&run("{{ 'a' ~ q }}")), [true, false, false, true]);
    assert_eq!(run("{{ l[0].t }}")[0], Ok("deep".to_owned()));
    assert_eq!(good(&run("{{ l[0].t }}")), [true, false, false, false]);
    assert_eq!(
        good(&run("{% for x in other %}{{ x }}{% endfor %}")),
        [false; 4]
    );

    // A null inside a column is like a field that is not there.
    for path in [&path, &parquet] {
        for template in ["{{ m.a }}", "{{ 'a' ~ m.a }}", "{{ m.a.b }}"] {
            let rows = good(&texts(path, template));
            assert_eq!(rows[1..], [false; 3], "{template}");
        }
        let joined = texts(path, "{{ 'a' ~ m.a | d('-') }}");
        assert_eq!(joined[0], Ok("ax".to_owned()));
        assert_eq!(joined[1], Ok("a-".to_owned()));
        assert_eq!(joined[3], Ok("a-".to_owned()));
        let whole = texts(path, "{{ m | tojson }}");
        assert_eq!(whole[1], Ok(r#"{"a": null}"#.to_owned()));
    }
}

#[test]
fn prefix_reference_and_settings_follow_the_row() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(
        &folder,
        "a.jsonl",
        r#"{"prompt": "x", "p": "own", "r": "ref", "g": {"top_k": 3, "seed": null}}
{"prompt": "x", "p": null, "r": null, "g": "{\"top_p\": 0.5}"}
{"prompt": "x", "p": 7}
{"prompt": "x", "r": 7}
{"prompt": "x", "g": [1]}
{"prompt": "x", "g": "top_k=3"}
{"prompt": "x", "g": "null"}
"#,
    );
    let mut job = Job::new(&[&path]).columns(|c| {
        c.prefix = Some("p".to_owned());
        c.reference = Some("r".to_owned());
        c.generation = Some("g".to_owned());
    });
    job.prompt.prefix = Some("job".to_owned());
    let rows = job.rows();
    let first = rows[0].outcome.as_ref().unwrap();
    assert_eq!(
        (first.prefix.as_deref(), rows[0].reference.as_deref()),
        (Some("own"), Some("ref"))
    );
    assert_eq!(
        serde_json::to_string(&first.overrides).unwrap(),
        r#"{"top_k":3}"#
    );
    let second = rows[1].outcome.as_ref().unwrap();
    assert_eq!(
        (second.prefix.as_deref(), rows[1].reference.as_deref()),
        (Some("job"), None)
    );
    assert_eq!(second.overrides["top_p"], 0.5);
    let failed: Vec<bool> = rows.iter().map(|row| row.outcome.is_err()).collect();
    assert_eq!(failed, [false, false, true, true, true, true, false]);
    assert_eq!(
        reason(&rows[2]).1,
        "prefix column `p` holds the number 7, not a text"
    );
}

#[test]
fn a_trial_reads_chosen_rows_under_their_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let jsonl = file(&folder, "a.jsonl", lines(0..100));
    let parquet = folder.path().join("a.parquet");
    write_parquet(&parquet, &questions(0..100), groups(30));
    for path in [&jsonl, &parquet] {
        for (selection, expected) in [
            (Selection::First(23), 23),
            (Selection::Sample { rows: 20, seed: 3 }, 20),
            (Selection::Sample { rows: 500, seed: 3 }, 100),
            (Selection::First(0), 0),
        ] {
            let job = Job::new(&[path]).window_rows(13);
            let all = seen(&job.rows());
            let (source, index) = job.open().unwrap();
            let (trial, index) = select(source, &index, &job.input, selection, 10);
            assert_eq!(index.rows, expected);
            let mut numbers = Vec::new();
            for span in &index.windows {
                let window = trial.read_window(span).unwrap();
                assert_eq!((window.id, window.rows.len() as u64), (span.id, span.rows));
                assert!(span.rows <= 10);
                for (position, row) in window.rows.iter().enumerate() {
                    let number = row.row.0 as usize;
                    assert_eq!(seen(std::slice::from_ref(row))[0], all[number]);
                    let raw = String::from_utf8(raw_record(&window, position)).unwrap();
                    assert!(raw.contains(&format!("\"q{number}\"")), "{raw}");
                    numbers.push(number);
                }
            }
            assert_eq!(numbers.len() as u64, expected);
            assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}

#[test]
fn standard_input_is_copied_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = Job::new(&[]);
    job.input.path = vec!["-".to_owned()];
    let found = resolve_files(&job.input, folder.path(), Rules::CURRENT).unwrap();
    let copy = &found.files[0].path;
    let stream = InputStream::start(std::io::Cursor::new(lines(0..3)), &StopFlag::default());
    stream.unwrap().copy_to(copy).unwrap();
    assert_eq!(fs::read_to_string(copy).unwrap(), lines(0..3));
    let beside = copy.parent().unwrap();
    assert_eq!(fs::read_dir(beside).unwrap().count(), 1);
}

fn any_line() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        "[ \t\r]{0,3}".prop_map(String::into_bytes),
        r#"\{"prompt": ?"[a-z\\"]{0,6}"(, "id": ?[0-9"\[n]{1,4})?\}?"#.prop_map(String::into_bytes),
        Just("\u{feff}{\"prompt\": \"x\u{2028}\"}\r".as_bytes().to_vec()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_rows_without_gaps(
        parts in proptest::collection::vec(any_line(), 0..12),
        window_rows in 1u32..6,
        packed in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        // Without an object the first bytes could be those of another format.
        let whole = [b"{}\n".as_slice(), &parts.join(&b'\n')].concat();
        let path = if packed {
            file(&folder, "a.jsonl.gz", gzip(&whole))
        } else {
            file(&folder, "a.jsonl", &whole)
        };
        let stripped = whole.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&whole);
        let expected = stripped
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.iter().all(|b| b" \t\r".contains(b)))
            .count();
        let job = Job::new(&[&path]).window_rows(window_rows);
        let index = job.index();
        prop_assert_eq!(index.rows as usize, expected);
        // The column may be unknown to all rows; a template needs none.
        let rows = job.template("{{ prompt }}").rows();
        prop_assert_eq!(rows.len(), expected);
    }
    #[test]
    fn any_damage_to_parquet_is_an_error_or_bad_rows(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4),
        window_rows in 1u32..40,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        write_parquet(&path, &questions(0..30), groups(11));
        let mut bytes = fs::read(&path).unwrap();
        for (place, mask) in flips {
            let place = place.index(bytes.len());
            bytes[place] ^= mask;
        }
        fs::write(&path, &bytes).unwrap();
        let job = Job::new(&[&path]).window_rows(window_rows);
        let (source, index) = match job.open() {
            Ok(opened) => opened,
            Err(error) => {
                prop_assert!(!error.to_string().is_empty());
                return Ok(());
            }
        };
        let mut rows = 0;
        for span in &index.windows {
            rows += source.read_window(span).unwrap().rows.len() as u64;
        }
        prop_assert_eq!(rows, index.rows);
    }
}
