//! Values that are hard to write: no content of a row stops a part, a file of failed rows or `show`, and what
//! Parquet says of a column is kept.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::builder::{Int32Builder, MapBuilder, StringBuilder};
use arrow_array::types::Int32Type;
use arrow_array::{
    Array, ArrayRef, BinaryArray, Date32Array, Decimal128Array, DictionaryArray,
    DurationSecondArray, FixedSizeBinaryArray, Float64Array, Int64Array, ListArray, NullArray,
    RecordBatch, StringArray, Time64MicrosecondArray, TimestampMicrosecondArray,
    TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray,
};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::Field;
use parquet::basic::{ConvertedType, LogicalType};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::Type;
use serde_json::{Value, json};

use glm_batch::StopFlag;
use glm_batch::internals::ids::RowId;
use glm_batch::internals::input::{
    Carried, MAX_WINDOW_BYTES, OpenOptions, ScanOptions, json_lines, open, scan,
};
use glm_batch::internals::job::{self, Rules};
use glm_batch::internals::sink::write_failed;

use crate::support::{Job, both, demo_model, stderr};
use crate::windows::{arrow_window, failed, input_file};

const COLUMNS: &str = "columns = { prompt = \"question\" }";
const SHORT: &str = "[prompt]\nmax_length = 64\n[generation]\nmax_new_tokens = 4\n";

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/cases")
        .join(name)
}

fn job(input: &Path, format: &str) -> Job {
    let more = format!("format = \"{format}\"\n{SHORT}");
    Job::of_model(&demo_model(), input, COLUMNS, &more)
}

/// The job's rows after a run that ends with 0.
fn answered(input: &Path, format: &str) -> (Job, Vec<Value>) {
    let job = job(input, format);
    job.run_ok(&["--quiet"]);
    let rows = job.rows();
    (job, rows)
}

fn failed_rows(job: &Job) -> Vec<Value> {
    let files = job.files("failed");
    let text = files
        .iter()
        .map(|(_, bytes)| String::from_utf8(bytes.clone()).unwrap());
    let text: String = text.collect();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn record(failed: &Value) -> Value {
    serde_json::from_str(failed["raw"].as_str().unwrap()).unwrap()
}

/// The type of a column of the first part.
fn parquet_type(job: &Job, column: &str) -> Arc<Type> {
    let path = job.path("out/parts/part-000000.parquet");
    let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
    let schema = reader
        .metadata()
        .file_metadata()
        .schema_descr()
        .root_schema_ptr();
    let found = schema
        .get_fields()
        .iter()
        .find(|kind| kind.name() == column);
    Arc::clone(found.unwrap())
}

fn logical(kind: &Type) -> Option<&LogicalType> {
    kind.get_basic_info().logical_type_ref()
}

#[test]
fn a_time_with_a_zone_is_written_everywhere() {
    const INSTANT: &str = "2024-01-02T03:04:05.678901Z";
    for format in ["jsonl", "parquet"] {
        let (job, rows) = answered(&case("utc-timestamp.parquet"), format);
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0]["completion"], "巴黎");
        assert_eq!(rows[0]["asked"], INSTANT);
        let failed = failed_rows(&job);
        assert_eq!(failed.len(), 1);
        assert_eq!(record(&failed[0])["asked"], INSTANT);
        for more in [&[][..], &["--failed"], &["--json"]] {
            let shown = job
                .command(&[&["show", "out"], more].concat())
                .output()
                .unwrap();
            assert!(shown.status.success(), "{}", both(&shown));
            assert!(
                String::from_utf8_lossy(&shown.stdout).contains(INSTANT),
                "{}",
                both(&shown)
            );
        }
        // Nothing is left to do for a second run.
        let again = job.run_ok(&[]);
        assert!(
            stderr(&again).contains("finished already"),
            "{}",
            both(&again)
        );
    }
    let templated = job(&case("utc-timestamp.parquet"), "jsonl");
    templated.run_ok(&["--quiet", "--set", "prompt.template={{ question }}{% if asked != \"2024-01-02T03:04:05.678901Z\" %}{{ nothing }}{% endif %}"]);
    assert_eq!(templated.rows()[0]["completion"], "巴黎");
}

#[test]
fn dates_without_a_text_are_null_in_json_and_kept_in_parquet() {
    let (_, rows) = answered(&case("infinite-dates.parquet"), "jsonl");
    assert_eq!(rows[0]["until"], Value::Null);
    assert_eq!(rows[0]["until_day"], Value::Null);
    let (job, rows) = answered(&case("infinite-dates.parquet"), "parquet");
    assert_eq!(rows[0]["until_day"], Value::Null, "shown as JSON");
    let part = File::open(job.path("out/parts/part-000000.parquet")).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(part, 10).unwrap();
    let batch = reader.map(Result::unwrap).next().unwrap();
    let days: &Date32Array = batch
        .column_by_name("until_day")
        .unwrap()
        .as_any()
        .downcast_ref()
        .unwrap();
    assert_eq!(days.value(0), i32::MAX);
}

#[test]
fn an_enum_is_text() {
    for format in ["jsonl", "parquet"] {
        let (job, rows) = answered(&case("enum-text.parquet"), format);
        let roles: Vec<&Value> = rows.iter().map(|row| &row["role"]).collect();
        assert_eq!(roles, ["user", "tool"]);
        if format == "parquet" {
            assert_eq!(
                logical(&parquet_type(&job, "role")),
                Some(&LogicalType::String)
            );
        }
    }
    let prompt = "columns = { prompt = \"role\" }";
    let job = Job::of_model(&demo_model(), &case("enum-text.parquet"), prompt, SHORT);
    job.run_ok(&["--quiet"]);
    assert_eq!(job.rows()[0]["status"], "ok");
}

#[test]
fn a_uuid_is_an_id_and_stays_one() {
    const ID: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    const PARENT: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12";
    for format in ["jsonl", "parquet"] {
        let (job, rows) = answered(&case("uuid.parquet"), format);
        assert_eq!(rows[0]["id"], ID);
        assert_eq!(rows[0]["status"], "ok");
        assert_eq!(rows[0]["parent"], PARENT);
        if format == "parquet" {
            assert_eq!(
                logical(&parquet_type(&job, "parent")),
                Some(&LogicalType::Uuid)
            );
        }
    }
    let job = job(&case("uuid.parquet"), "jsonl");
    job.run_ok(&["--quiet", "--set", "prompt.template={{ question if parent == \"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12\" else nothing }}"]);
    assert_eq!(job.rows()[0]["completion"], "巴黎");
}

#[test]
fn what_parquet_says_of_a_column_is_kept() {
    let (job, rows) = answered(&case("logical-types.parquet"), "parquet");
    assert_eq!(rows[0]["completion"], "巴黎");
    assert_eq!(
        logical(&parquet_type(&job, "doc")),
        Some(&LogicalType::Json)
    );
    let clock = parquet_type(&job, "clock");
    assert!(
        matches!(logical(&clock), Some(LogicalType::Time(time)) if time.is_adjusted_to_u_t_c),
        "{clock:?}"
    );
    let variant = parquet_type(&job, "v");
    assert!(
        matches!(logical(&variant), Some(LogicalType::Variant(_))),
        "{variant:?}"
    );

    let (_, rows) = answered(&case("logical-types.parquet"), "jsonl");
    assert_eq!(rows[0]["doc"], r#"{"a":1}"#);
    assert_eq!(rows[0]["clock"], "04:00:00");
}

#[test]
fn an_interval_keeps_its_months() {
    let (job, rows) = answered(&case("interval.parquet"), "jsonl");
    assert_eq!(
        rows[0]["span"],
        "14 mons 3 days 1 hours 2 mins 3.004000000 secs"
    );
    assert_eq!(rows[0]["spans"], json!(["1 mons"]));
    assert_eq!(record(&failed_rows(&job)[0])["span"], Value::Null);
    let (job, _) = answered(&case("interval.parquet"), "parquet");
    let span = parquet_type(&job, "span");
    assert_eq!(
        span.get_basic_info().converted_type(),
        ConvertedType::INTERVAL
    );
    // `show` reads it from the part.
    assert_eq!(job.rows()[0]["span"], rows[0]["span"]);
    assert_eq!(job.rows()[0]["spans"], rows[0]["spans"]);
}

/// One column of each kind, with values that have no text of their own.
fn odd_columns() -> Vec<(&'static str, ArrayRef)> {
    let zone = |zone: &str| TimestampMicrosecondArray::from(vec![0, i64::MAX]).with_timezone(zone);
    let mut map = MapBuilder::new(None, Int32Builder::new(), StringBuilder::new());
    map.keys().append_value(7);
    map.values().append_value("x");
    map.append(true).unwrap();
    map.append(true).unwrap();
    let times = TimestampMillisecondArray::from(vec![Some(0), None, Some(i64::MAX)]);
    let times: ArrayRef = Arc::new(times.with_timezone("Asia/Tokyo"));
    let item = Arc::new(Field::new_list_field(times.data_type().clone(), true));
    let (lengths, nulls) = (
        OffsetBuffer::from_lengths([3, 0]),
        NullBuffer::from(vec![true, false]),
    );
    let times = ListArray::new(item, lengths, times, Some(nulls));
    let values = StringArray::from(vec![Some("a"), None]);
    let keys = arrow_array::Int32Array::from(vec![1, 0]);
    let words = DictionaryArray::<Int32Type>::try_new(keys, Arc::new(values)).unwrap();
    vec![
        ("utc", Arc::new(zone("UTC"))),
        ("named", Arc::new(zone("Europe/Berlin"))),
        ("nonsense", Arc::new(zone("no/zone"))),
        ("offset", Arc::new(zone("+08:00"))),
        (
            "naive",
            Arc::new(TimestampSecondArray::from(vec![
                -62_167_219_201,
                253_402_300_800,
            ])),
        ),
        (
            "nano",
            Arc::new(TimestampNanosecondArray::from(vec![1, i64::MAX])),
        ),
        ("day", Arc::new(Date32Array::from(vec![i32::MIN, 0]))),
        ("clock", Arc::new(Time64MicrosecondArray::from(vec![-1, 1]))),
        (
            "span",
            Arc::new(DurationSecondArray::from(vec![i64::MIN, 1])),
        ),
        (
            "float",
            Arc::new(Float64Array::from(vec![f64::NAN, f64::NEG_INFINITY])),
        ),
        (
            "number",
            Arc::new(Int64Array::from(vec![i64::MIN, i64::MAX])),
        ),
        (
            "decimal",
            Arc::new(Decimal128Array::from(vec![i128::MIN, 1])),
        ),
        (
            "bytes",
            Arc::new(BinaryArray::from_vec(vec![b"\xff\n", b""])),
        ),
        (
            "fixed",
            Arc::new(FixedSizeBinaryArray::try_from_iter([[0_u8; 16], [255; 16]].iter()).unwrap()),
        ),
        ("map", Arc::new(map.finish())),
        ("times", Arc::new(times)),
        ("words", Arc::new(words)),
        ("nothing", Arc::new(NullArray::new(2))),
    ]
}

#[test]
fn no_value_stops_a_failed_row_from_being_written() {
    let batch = RecordBatch::try_from_iter_with_nullable(
        odd_columns()
            .into_iter()
            .map(|(name, array)| (name, array, true)),
    )
    .unwrap();
    let window = arrow_window(0, batch);
    let rows = (0..2).map(|row| (RowId(row), failed("no room")));
    let outcomes: BTreeMap<_, _> = rows.collect();
    let mut bytes = Vec::new();
    assert_eq!(
        write_failed(&window, &outcomes, &[input_file()], &mut bytes).unwrap(),
        2
    );
    let text = String::from_utf8(bytes).unwrap();
    assert!(!text.contains("ERROR"), "{text}");
    let rows: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let raw: Vec<Value> = rows.iter().map(record).collect();
    let expected = json!([
        {
            "utc": "1970-01-01T00:00:00Z",
            "named": "1970-01-01T00:00:00Z",
            "nonsense": "1970-01-01T00:00:00Z",
            "offset": "1970-01-01T08:00:00+08:00",
            "naive": null,
            "nano": "1970-01-01T00:00:00.000000001",
            "day": null,
            "clock": null,
            "span": null,
            "float": null,
            "number": i64::MIN,
            "decimal": -1.701_411_834_604_692_4e28,
            "bytes": "/wo=",
            "fixed": "AAAAAAAAAAAAAAAAAAAAAA==",
            "map": {"7": "x"},
            "times": ["1970-01-01T00:00:00Z", null, null],
            "words": null,
            "nothing": null,
        },
        {
            "utc": null,
            "named": null,
            "nonsense": null,
            "offset": null,
            "naive": null,
            "nano": "2262-04-11T23:47:16.854775807",
            "day": "1970-01-01",
            "clock": "00:00:00.000001",
            "span": "PT1S",
            "float": null,
            "number": i64::MAX,
            "decimal": 1e-10,
            "bytes": "",
            "fixed": "/////////////////////w==",
            "map": {},
            "times": null,
            "words": "a",
            "nothing": null,
        },
    ]);
    assert_eq!(Value::from(raw), expected);
}

#[test]
fn half_a_surrogate_pair_inside_a_value_breaks_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("rows.jsonl");
    let lines = [
        r#"{"id": "a", "question": "法国的首都是哪座城市？", "meta": {"x": "\ud800", "\udc00": 1}}"#,
        r#"{"id": "b", "question": null, "meta": ["\ud83d\ude00", "\\ud800", "\udead"]}"#,
    ];
    std::fs::write(&input, lines.join("\n")).unwrap();
    for format in ["jsonl", "parquet"] {
        let (job, rows) = answered(&input, format);
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0]["completion"], "巴黎");
        let meta = |row: &Value| match &row["meta"] {
            Value::String(text) => serde_json::from_str(text).unwrap(),
            value => value.clone(),
        };
        assert_eq!(meta(&rows[0]), json!({"x": "\u{fffd}", "\u{fffd}": 1}));
        assert_eq!(meta(&rows[1]), json!(["😀", "\\ud800", "\u{fffd}"]));
        // The record stands in `failed/` as it came.
        assert_eq!(failed_rows(&job)[0]["raw"], lines[1]);
        let shown = job.command(&["show", "out"]).output().unwrap();
        assert!(shown.status.success(), "{}", both(&shown));
    }
    let job = job(&input, "jsonl");
    job.run_ok(&[
        "--quiet",
        "--set",
        "prompt.template={{ meta.x }}{{ question }}",
    ]);
    assert_eq!(job.rows()[0]["status"], "ok");
}

/// What the first window of an input holds under the given rules, and its first row's id.
fn first_row(input: &Path, rules: Rules) -> (String, String) {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "version = 1\nname = \"x\"\nmodel.path = \"m\"\ninput.path = \"{}\"\ninput.{COLUMNS}\noutput.path = \"out\"\n",
        input.display()
    );
    let job = job::parse(&text, "job", folder.path(), &[]).unwrap();
    let options = ScanOptions {
        spec: &job.input,
        prompt: &job.prompt,
        choices: None,
        files: &[input.to_path_buf().into()],
        rules,
        window_rows: 8,
        shards: 1,
        max_window_bytes: MAX_WINDOW_BYTES,
        previous: None,
        stop: &StopFlag::default(),
    };
    let index = Arc::new(scan(&options).unwrap().index);
    let options = OpenOptions {
        input: &job.input,
        prompt: &job.prompt,
        group: None,
        choices: None,
        carried: &job.output.columns,
        rules,
    };
    let source = open(&options, Arc::clone(&index)).unwrap();
    let window = source.read_window(&index.windows[0]).unwrap();
    let text = match &window.carried {
        Carried::Arrow(batch) => String::from_utf8(json_lines(&batch.slice(0, 1))).unwrap(),
        Carried::Json(lines) => {
            let fields = lines.fields(0);
            let values = fields.iter().map(|(_, value)| value.get());
            values.collect::<Vec<_>>().join(" ")
        }
    };
    (window.rows[0].id.clone(), text)
}

#[test]
fn jobs_of_the_first_rule_keep_their_values() {
    let (id, row) = first_row(&case("uuid.parquet"), Rules::FIRST);
    assert_eq!(id, "0");
    assert!(
        row.contains(r#""parent":"oO68mZwLTvi7bWu5vTgKEg==""#),
        "{row}"
    );
    let (_, row) = first_row(&case("enum-text.parquet"), Rules::FIRST);
    assert!(row.contains(r#""role":"dXNlcg==""#), "{row}");
    let (_, row) = first_row(&case("infinite-dates.parquet"), Rules::FIRST);
    assert!(row.contains("ERROR: "), "{row}");
    let (_, row) = first_row(&case("interval.parquet"), Rules::FIRST);
    assert!(row.contains("3 days") && !row.contains("14 mons"), "{row}");
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("rows.jsonl");
    std::fs::write(&input, r#"{"question": "x", "meta": ["\ud800"]}"#).unwrap();
    assert!(first_row(&input, Rules::FIRST).1.contains(r"\ud800"));
    assert!(first_row(&input, Rules::CURRENT).1.contains(r"\ufffd"));
}

#[test]
fn a_filter_that_compares_two_types_says_so() {
    let job = job(&case("error-after-nulls.jsonl"), "parquet");
    job.run_ok(&["--quiet", "--set", "output.samples=nested"]);
    let show = |filter: &str| {
        job.command(&["show", "out", "--where", filter])
            .output()
            .unwrap()
    };
    let refused = show("completion_tokens > 100");
    assert_eq!(refused.status.code(), Some(2), "{}", both(&refused));
    insta::assert_snapshot!(stderr(&refused), @"
    error: `--where completion_tokens > 100`: a list is compared with a number
    hint: look at one entry, as in `completion_tokens[0] > 100`, or at all of them, as in `completion_tokens | max > 100`
    exit 2: running it again unchanged will not help
    ");
    let refused = show("id == 1");
    insta::assert_snapshot!(stderr(&refused), @"
    error: `--where id == 1`: a text is compared with a number
    hint: write the number as a text, as in `id == '5'`, or make a number of the text, as in `id | int == 5`
    exit 2: running it again unchanged will not help
    ");
    let shown = show("completion_tokens | max > 100");
    assert!(
        shown.status.success() && shown.stdout.is_empty(),
        "{}",
        both(&shown)
    );
    let shown = show("completion_tokens and completion_tokens[0] >= 1 and id == 'q0'");
    assert!(
        String::from_utf8_lossy(&shown.stdout).contains("row 0"),
        "{}",
        both(&shown)
    );
    let shown = show("completion_tokens == none");
    assert!(
        String::from_utf8_lossy(&shown.stdout).contains("row 6"),
        "{}",
        both(&shown)
    );
}
