//! Columns of odd types, and types that differ from file to file: every value comes out as it went in, or its row or
//! its column is named.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{
    Array, ArrayRef, DictionaryArray, Float64Array, Int8Array, Int64Array, ListArray, RecordBatch,
    StringArray, StructArray, TimestampMicrosecondArray, TimestampNanosecondArray,
};
use arrow_cast::cast;
use arrow_schema::{DataType, Field, TimeUnit};
use arrow_select::concat::concat_batches;
use glm_batch::StopFlag;
use glm_batch::internals::input::{
    Carried, FoundFile, InputError, InputIndex, InputWindow, MAX_WINDOW_BYTES, OpenOptions,
    PromptSource, ScanOptions, open, scan,
};
use glm_batch::internals::job::{self, JobSpec, Rules};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Encoding;
use parquet::data_type::{ByteArrayType, Int96, Int96Type};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Job, both, demo_model, stderr};

pub const QUESTION: &str = "法国的首都是哪座城市？";

fn case(name: &str) -> PathBuf {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cases");
    cases.join(name)
}

pub fn job(input: &Path, format: &str, more: &str) -> Job {
    let more = format!(
        "format = \"{format}\"\n{more}\n[prompt]\nmax_length = 64\n[generation]\nmax_new_tokens = 4\n"
    );
    let columns = "columns = { prompt = \"question\" }";
    Job::of_model(&demo_model(), input, columns, &more)
}

/// Readers of the parts of a finished job.
fn parts(job: &Job) -> impl Iterator<Item = ParquetRecordBatchReaderBuilder<File>> {
    let names = job.files("parts").into_iter().map(|(name, _)| name);
    names.map(|name| {
        let file = File::open(job.path("out/parts").join(name)).unwrap();
        ParquetRecordBatchReaderBuilder::try_new(file).unwrap()
    })
}

/// All parts of a finished job as one batch.
fn results(job: &Job) -> RecordBatch {
    let mut batches = Vec::new();
    for reader in parts(job) {
        batches.extend(reader.build().unwrap().map(Result::unwrap));
    }
    concat_batches(&batches[0].schema(), &batches).unwrap()
}

fn texts(batch: &RecordBatch, column: &str) -> Vec<Option<String>> {
    let text = cast(batch.column_by_name(column).unwrap(), &DataType::Utf8).unwrap();
    let text = text.as_string::<i32>().iter();
    text.map(|text| text.map(str::to_owned)).collect()
}

pub fn values(job: &Job, column: &str) -> Vec<Value> {
    job.rows().iter().map(|row| row[column].clone()).collect()
}

/// Every row is answered, whatever the output's format.
fn is_sound(input: &Path) -> [Job; 2] {
    ["parquet", "jsonl"].map(|format| {
        let job = job(input, format, "");
        job.run_ok(&[]);
        for row in job.rows() {
            assert_eq!(row["status"], "ok", "{row}");
        }
        job
    })
}

/// Neither `plan` nor `run` begins; gives what both say.
fn is_refused(job: &Job) -> String {
    let outputs = ["plan", "run"].map(|command| -> Output {
        let output = job.command(&[command, "job.toml"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        output
    });
    assert_eq!(stderr(&outputs[0]), stderr(&outputs[1]));
    assert!(!job.path("out/job.json").exists());
    stderr(&outputs[0])
}

pub fn write(path: &Path, columns: Vec<(&str, ArrayRef)>, properties: Option<WriterProperties>) {
    let columns = columns.into_iter().map(|(name, array)| (name, array, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let file = File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), properties).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

pub fn questions(rows: usize) -> ArrayRef {
    Arc::new(StringArray::from(vec![QUESTION; rows]))
}

/// The first pass and the source of a job whose rows are read but not answered.
pub struct Reading {
    _folder: TempDir,
    spec: JobSpec,
    index: InputIndex,
    source: Box<dyn PromptSource>,
}

impl Reading {
    pub fn new(files: &[PathBuf], rules: Rules, more: &str) -> Result<Self, InputError> {
        let folder = TempDir::new().unwrap();
        let text = format!(
            "version = 1\nmodel.path = \"model\"\ninput.path = \"unused\"\noutput.path = \"out\"\n{more}"
        );
        let spec = job::parse(&text, "test", folder.path(), &[]).unwrap();
        let files: Vec<FoundFile> = files.iter().cloned().map(Into::into).collect();
        let index = scan(&ScanOptions {
            spec: &spec.input,
            prompt: &spec.prompt,
            choices: None,
            files: &files,
            window_rows: spec.batch.window_rows,
            shards: 1,
            max_window_bytes: MAX_WINDOW_BYTES,
            previous: None,
            rules,
            stop: &StopFlag::default(),
        })?;
        let options = OpenOptions {
            input: &spec.input,
            prompt: &spec.prompt,
            group: None,
            choices: None,
            carried: &spec.output.columns,
            rules,
        };
        let source = open(&options, Arc::new(index.index.clone()))?;
        Ok(Self {
            _folder: folder,
            spec,
            index: index.index,
            source,
        })
    }

    pub fn window(&self) -> InputWindow {
        self.source.read_window(&self.index.windows[0]).unwrap()
    }
}

pub const BY_QUESTION: &str = "input.columns.prompt = \"question\"\n";

fn batch(window: &InputWindow) -> &RecordBatch {
    match &window.carried {
        Carried::Arrow(batch) => batch,
        Carried::Json(_) => panic!("rows of Parquet"),
    }
}

#[test]
fn a_carried_integer_that_would_be_rounded_is_refused() {
    let job = job(&case("ids-int-and-float"), "parquet", "");
    let message = is_refused(&job);
    for part in [
        "`post`",
        "9007199254740993",
        "a.parquet",
        "row group 0",
        "hint: ",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn ids_keep_their_digits() {
    for format in ["parquet", "jsonl"] {
        let job = job(&case("ids-int-and-float"), format, "columns = \"none\"");
        job.run_ok(&[]);
        let ids = [json!("1234567890123456789"), json!("5.0"), json!("2")];
        assert_eq!(values(&job, "id"), ids);
    }
}

#[test]
fn an_integer_that_no_statistics_show_fails_its_row() {
    let folder = TempDir::new().unwrap();
    let odd = (1_i64 << 53) + 1;
    let bare = WriterProperties::builder()
        .set_statistics_enabled(EnabledStatistics::None)
        .build();
    let numbers = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as ArrayRef;
    let columns = vec![
        ("question", questions(3)),
        ("post", numbers(vec![7, odd, i64::MAX])),
        ("other", numbers(vec![odd, odd, odd])),
    ];
    write(&folder.path().join("a.parquet"), columns, Some(bare));
    let floats = Arc::new(Float64Array::from(vec![1.5]));
    let columns = vec![("question", questions(1)), ("post", floats as ArrayRef)];
    write(&folder.path().join("b.parquet"), columns, None);
    for format in ["parquet", "jsonl"] {
        let job = job(folder.path(), format, "");
        job.run_ok(&[]);
        assert_eq!(values(&job, "status"), ["ok", "failed", "failed", "ok"]);
        let posts = [json!(7.0), Value::Null, Value::Null, json!(1.5)];
        assert_eq!(values(&job, "post"), posts);
        assert_eq!(values(&job, "other")[0], json!(odd));
        let reason = values(&job, "error")[1].to_string();
        for part in ["input: ", "`post`", "9007199254740993", "float64"] {
            assert!(reason.contains(part), "{part}: {reason}");
        }
        let plan = job
            .command(&["plan", "job.toml", "--json"])
            .output()
            .unwrap();
        let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
        assert_eq!(plan["bad_rows"], 2);
    }
    // A column that is not carried rounds nothing.
    let job = job(folder.path(), "parquet", "columns = [\"other\"]");
    job.run_ok(&[]);
    assert!(values(&job, "status").iter().all(|status| status == "ok"));
}

#[test]
fn inner_integers_that_would_be_rounded_fail_their_row() {
    let folder = TempDir::new().unwrap();
    let odd = (1_i64 << 53) + 1;
    let inner = |name: &str, values: ArrayRef| {
        let field = Arc::new(Field::new(name, values.data_type().clone(), true));
        Arc::new(StructArray::from(vec![(field, values)])) as ArrayRef
    };
    let integers = Arc::new(Int64Array::from(vec![1, odd]));
    let columns = vec![("question", questions(2)), ("meta", inner("n", integers))];
    write(&folder.path().join("a.parquet"), columns, None);
    let floats = Arc::new(Float64Array::from(vec![0.5]));
    let columns = vec![("question", questions(1)), ("meta", inner("n", floats))];
    write(&folder.path().join("b.parquet"), columns, None);
    let job = job(folder.path(), "parquet", "");
    job.run_ok(&[]);
    assert_eq!(values(&job, "status"), ["ok", "failed", "ok"]);
    let metas = [json!({"n": 1.0}), json!({"n": null}), json!({"n": 0.5})];
    assert_eq!(values(&job, "meta"), metas);
}

#[test]
fn integers_beside_other_numbers_in_json_lines_keep_their_digits() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("rows.jsonl");
    let row = |post: &str, n: u32| {
        format!("{{\"question\": \"{QUESTION}\", \"post\": {post}, \"n\": {n}}}\n")
    };
    let text = row("1234567890123456789", 1) + &row("1.5", 2) + &row("9007199254740992", 3);
    std::fs::write(&path, text).unwrap();
    let job = job(&path, "parquet", "");
    job.run_ok(&[]);
    let posts = ["1234567890123456789", "1.5", "9007199254740992"];
    assert_eq!(values(&job, "post"), posts);
    assert_eq!(values(&job, "n"), [1, 2, 3]);
    let first = Reading::new(&[path], Rules::FIRST, BY_QUESTION).unwrap();
    let kinds: Vec<String> = first
        .index
        .columns
        .iter()
        .map(|c| format!("{:?}", c.kind))
        .collect();
    assert_eq!(kinds, ["String", "Float64", "Int64"]);
}

#[test]
fn far_dates_stay_what_they_are() {
    let path = case("int96-far-dates.parquet");
    let [parquet, jsonl] = is_sound(&path);
    let dates = results(&parquet);
    let dates = dates.column_by_name("valid").unwrap();
    assert_eq!(
        dates.data_type(),
        &DataType::Timestamp(TimeUnit::Microsecond, None)
    );
    let seconds = [253_402_214_400_i64, 1_704_067_200, -62_135_596_800];
    let found = dates
        .as_primitive::<TimestampMicrosecondType>()
        .values()
        .to_vec();
    assert_eq!(found, seconds.map(|second| second * 1_000_000));
    let texts = [
        "9999-12-31T00:00:00",
        "2024-01-01T00:00:00",
        "0001-01-01T00:00:00",
    ];
    assert_eq!(values(&jsonl, "valid"), texts);
    // A job that began so goes on so.
    let first = Reading::new(&[path], Rules::FIRST, BY_QUESTION).unwrap();
    let schema = first.source.arrow_schema().unwrap();
    let kind = schema.field_with_name("valid").unwrap().data_type().clone();
    assert_eq!(kind, DataType::Timestamp(TimeUnit::Nanosecond, None));
}

#[test]
fn a_time_finer_than_it_can_be_held_fails_its_row() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("times.parquet");
    let message =
        "message rows { required binary question (UTF8); required int96 u; optional int96 t; }";
    let schema = Arc::new(parse_message_type(message).unwrap());
    let file = File::create(&path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let texts = vec![QUESTION.into(); 3];
    column
        .typed::<ByteArrayType>()
        .write_batch(&texts, None, None)
        .unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let time = |nanoseconds: u32| {
        let mut time = Int96::new();
        // The day of the year 2024 in the Julian calendar's count.
        time.set_data(nanoseconds, 0, 2_460_311);
        time
    };
    column
        .typed::<Int96Type>()
        .write_batch(&[time(0), time(2_000), time(5)], None, None)
        .unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let times = [time(1_000), time(1_001)];
    column
        .typed::<Int96Type>()
        .write_batch(&times, Some(&[1, 1, 0]), None)
        .unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    let job = job(&path, "jsonl", "");
    job.run_ok(&[]);
    assert_eq!(values(&job, "status"), ["ok", "failed", "failed"]);
    assert_eq!(values(&job, "t")[0], "2024-01-01T00:00:00.000001");
    let reason = values(&job, "error")[1].to_string();
    assert!(
        reason.contains("`t` holds 2024-01-01T00:00:00.000001001"),
        "{reason}"
    );
}

#[test]
fn a_second_column_of_one_name_is_refused() {
    let message = is_refused(&job(&case("duplicate-columns.parquet"), "parquet", ""));
    assert!(message.contains("duplicate-columns.parquet"), "{message}");
    assert!(message.contains("two columns are named `tag`"), "{message}");
    let first = Reading::new(
        &[case("duplicate-columns.parquet")],
        Rules::FIRST,
        BY_QUESTION,
    );
    assert_eq!(first.unwrap().window().rows.len(), 2);
}

#[test]
fn equal_names_inside_a_struct_are_carried_by_their_places() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("rows.parquet");
    let field = |kind| Arc::new(Field::new("x", kind, true));
    let inner = StructArray::from(vec![
        (
            field(DataType::Int64),
            Arc::new(Int64Array::from(vec![1])) as ArrayRef,
        ),
        (
            field(DataType::Utf8),
            Arc::new(StringArray::from(vec!["b"])) as ArrayRef,
        ),
    ]);
    let columns = vec![
        ("question", questions(1)),
        ("meta", Arc::new(inner) as ArrayRef),
    ];
    write(&path, columns, None);
    let job = job(&path, "parquet", "");
    job.run_ok(&[]);
    let found = results(&job);
    let meta = found.column_by_name("meta").unwrap().as_struct();
    assert_eq!(meta.column(0).as_primitive::<Int64Type>().value(0), 1);
    assert_eq!(meta.column(1).as_string::<i32>().value(0), "b");
}

#[test]
fn a_text_that_every_row_repeats_is_held_once() {
    let path = case("long-repeated-text.parquet");
    let job = job(&path, "parquet", "");
    let plan = job
        .command(&["plan", "job.toml", "--json"])
        .output()
        .unwrap();
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
    assert_eq!(
        (&plan["rows"], &plan["bad_rows"]),
        (&json!(8192), &json!(0))
    );
    let output = job.run_ok(&["--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["totals"]["ok"], 8192, "{report}");
    let mut rows = 0;
    for reader in parts(&job) {
        let reader = reader.with_batch_size(64).build().unwrap();
        for batch in reader.map(Result::unwrap) {
            let context = batch.column_by_name("context").unwrap().as_string::<i32>();
            assert!(
                context
                    .iter()
                    .all(|text| text.is_some_and(|t| t.len() == 307_200))
            );
            rows += batch.num_rows();
        }
    }
    assert_eq!(rows, 8192);
}

#[test]
fn rows_of_a_repeated_text_share_its_bytes() {
    let folder = TempDir::new().unwrap();
    let text = "长".repeat(100_000);
    for (name, encoding) in [
        ("dictionary", None),
        ("deltas", Some(Encoding::DELTA_BYTE_ARRAY)),
    ] {
        let path = folder.path().join(name).with_extension("parquet");
        let repeated = Arc::new(StringArray::from(vec![text.as_str(); 200]));
        let words = Arc::clone(&repeated) as ArrayRef;
        let offsets = arrow_buffer::OffsetBuffer::from_lengths(vec![1; 200]);
        let item = Arc::new(Field::new("item", DataType::Utf8, true));
        let lists = Arc::new(ListArray::new(item, offsets, Arc::clone(&words), None));
        let mut properties = WriterProperties::builder();
        if let Some(encoding) = encoding {
            properties = properties
                .set_dictionary_enabled(false)
                .set_encoding(encoding);
        }
        let columns = vec![
            ("question", questions(200)),
            ("context", words),
            ("list", lists as ArrayRef),
        ];
        write(&path, columns, Some(properties.build()));
        let more = "prompt.template = \"{{ context }}{{ list[0] }}{{ question }}\"\n";
        let reading = Reading::new(&[path], Rules::CURRENT, more).unwrap();
        assert_eq!(reading.index.windows.len(), 1);
        let window = reading
            .source
            .read_rows(&reading.index.windows[0], &|_, row| {
                let prompt = row.outcome.as_ref().unwrap();
                assert_eq!(prompt.text.len(), 2 * text.len() + QUESTION.len());
                row.release();
            });
        let window = window.unwrap();
        assert!(
            window
                .rows
                .iter()
                .all(|row| row.outcome.as_ref().unwrap().text.is_empty())
        );
        let context = batch(&window).column_by_name("context").unwrap();
        assert_eq!(context.as_string_view().value(199), text);
        let held: usize = held_bytes(batch(&window));
        assert!(
            held < 40 * text.len(),
            "{name}: {held} bytes for {}",
            text.len()
        );
    }
}

/// Bytes of the buffers of a batch, each counted once.
fn held_bytes(batch: &RecordBatch) -> usize {
    fn add(data: &arrow_data::ArrayData, found: &mut std::collections::BTreeMap<usize, usize>) {
        for buffer in data.buffers() {
            found.insert(buffer.data_ptr().as_ptr() as usize, buffer.capacity());
        }
        for child in data.child_data() {
            add(child, found);
        }
    }
    let mut found = std::collections::BTreeMap::new();
    for column in batch.columns() {
        add(&column.to_data(), &mut found);
    }
    found.values().sum()
}

#[test]
fn a_part_of_long_texts_has_several_row_groups() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("rows.parquet");
    // Texts without repetition pack badly: 2 of them pass the limit of a row group's dictionary, all its bytes.
    let mut state = 1_u64;
    let mut noise = || {
        let signs = (0..1 << 20).map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            char::from(b'!' + (state >> 33) as u8 % 90)
        });
        signs.collect::<String>()
    };
    let kinds: Vec<String> = (0..3).map(|_| noise()).collect();
    let keys: Int8Array = (0..60).map(|row| Some(row % 3)).collect();
    let values = Arc::new(StringArray::from(kinds.clone()));
    let contexts = DictionaryArray::new(keys, values);
    let big = WriterProperties::builder()
        .set_dictionary_page_size_limit(64 << 20)
        .build();
    let columns = vec![
        ("question", questions(60)),
        ("context", Arc::new(contexts) as ArrayRef),
    ];
    write(&path, columns, Some(big));
    let job = job(&path, "parquet", "");
    job.run_ok(&[]);
    let groups: Vec<usize> = parts(&job)
        .map(|part| part.metadata().num_row_groups())
        .collect();
    assert!(groups.len() == 1 && groups[0] > 1, "{groups:?}");
    let found = results(&job);
    for (row, text) in texts(&found, "context").into_iter().enumerate() {
        assert!(text.as_ref() == Some(&kinds[row % 3]), "row {row}");
    }
}

#[test]
fn a_trial_holds_no_more_than_its_rows() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("rows.parquet");
    let texts: Vec<String> = (0..64)
        .map(|row| format!("{row:06}").repeat(20_000))
        .collect();
    let columns = vec![
        ("question", questions(64)),
        (
            "context",
            Arc::new(StringArray::from(texts.clone())) as ArrayRef,
        ),
    ];
    let plain = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .build();
    write(&path, columns, Some(plain));
    let reading = Reading::new(&[path], Rules::CURRENT, BY_QUESTION).unwrap();
    let chosen = glm_batch::internals::input::Selection::First(2);
    let Reading {
        source,
        index,
        spec,
        ..
    } = reading;
    let rows = spec.batch.window_rows;
    let (trial, index) =
        glm_batch::internals::input::select(source, &index, &spec.input, chosen, rows);
    let seen = std::sync::Mutex::new(Vec::new());
    let window = trial.read_rows(&index.windows[0], &|position, row| {
        seen.lock().unwrap().push((position, row.row.0));
    });
    let window = window.unwrap();
    let mut seen = seen.into_inner().unwrap();
    seen.sort_unstable();
    assert_eq!(seen, [(0, 0), (1, 1)]);
    assert_eq!(
        batch(&window)
            .column_by_name("context")
            .unwrap()
            .as_string_view()
            .value(1),
        texts[1]
    );
    assert!(held_bytes(batch(&window)) < 4 * texts[0].len());
}

#[test]
fn lists_of_two_writers_are_one_type() {
    let [parquet, jsonl] = is_sound(&case("lists-of-two-writers"));
    let tags = [json!(["x", "y"]), json!(["z"])];
    let messages = json!([{"role": "user", "content": "你好"}]);
    for job in [&parquet, &jsonl] {
        assert_eq!(values(job, "tags"), tags);
        assert_eq!(
            values(job, "messages"),
            [messages.clone(), messages.clone()]
        );
    }
}

#[test]
fn bytes_of_two_writers_are_one_type() {
    use arrow_array::{BinaryArray, BinaryViewArray, LargeBinaryArray};
    let folder = TempDir::new().unwrap();
    let kinds: [ArrayRef; 3] = [
        Arc::new(BinaryArray::from_vec(vec![b"a"])),
        Arc::new(LargeBinaryArray::from_vec(vec![b"b"])),
        Arc::new(BinaryViewArray::from_iter_values([b"c"])),
    ];
    for (number, bytes) in kinds.into_iter().enumerate() {
        let path = folder.path().join(format!("{number}.parquet"));
        write(
            &path,
            vec![("question", questions(1)), ("data", bytes)],
            None,
        );
    }
    let [parquet, jsonl] = is_sound(folder.path());
    assert_eq!(values(&jsonl, "data"), ["YQ==", "Yg==", "Yw=="]);
    let found = results(&parquet);
    let data = found.column_by_name("data").unwrap().as_binary::<i32>();
    assert_eq!(
        data.iter().flatten().collect::<Vec<_>>(),
        [b"a", b"b", b"c"]
    );
}

#[test]
fn empty_lists_give_way_to_lists_of_texts() {
    let [parquet, jsonl] = is_sound(&case("empty-lists-in-one-shard"));
    for job in [&parquet, &jsonl] {
        assert_eq!(values(job, "tags"), [json!([]), json!(["z"])]);
        assert_eq!(values(job, "meta"), [json!({"x": null}), json!({"x": "z"})]);
    }
}

#[test]
fn times_of_two_units_meet_in_the_finer_one() {
    let [parquet, jsonl] = is_sound(&case("timestamp-units"));
    let times = results(&parquet);
    let kind = times.column_by_name("t").unwrap().data_type();
    assert_eq!(kind, &DataType::Timestamp(TimeUnit::Nanosecond, None));
    assert_eq!(
        values(&jsonl, "t"),
        ["2024-01-01T00:00:00", "2024-01-01T00:00:00"]
    );

    let folder = TempDir::new().unwrap();
    let year_9999 = TimestampMicrosecondArray::from(vec![253_370_764_800_000_000, 0]);
    let columns = vec![
        ("question", questions(2)),
        ("t", Arc::new(year_9999) as ArrayRef),
    ];
    write(&folder.path().join("a.parquet"), columns, None);
    let fine = Arc::new(TimestampNanosecondArray::from(vec![1]));
    let columns = vec![("question", questions(1)), ("t", fine as ArrayRef)];
    write(&folder.path().join("b.parquet"), columns, None);
    let job = job(folder.path(), "parquet", "");
    job.run_ok(&[]);
    assert_eq!(values(&job, "status"), ["failed", "ok", "ok"]);
    let reason = values(&job, "error")[0].to_string();
    assert!(reason.contains("`t` holds 9999-01-01T00:00:00"), "{reason}");
}

#[test]
fn a_file_without_rows_contradicts_nothing() {
    let [parquet, _] = is_sound(&case("shard-without-rows"));
    let found = results(&parquet);
    assert_eq!(texts(&found, "note"), [Some("x".to_owned())]);
    assert_eq!(texts(&found, "id"), [Some("a".to_owned())]);
}

#[test]
fn nested_dictionaries_with_small_keys_meet() {
    let [parquet, jsonl] = is_sound(&case("nested-small-dictionary.parquet"));
    for job in [&parquet, &jsonl] {
        let tags: Vec<Value> = (0..3)
            .flat_map(|group| (0..100).map(move |row| json!([format!("v{group}_{row}")])))
            .collect();
        assert_eq!(values(job, "tags"), tags);
    }
}

#[test]
fn a_uuid_is_an_id() {
    for job in is_sound(&case("uuid.parquet")) {
        assert_eq!(values(&job, "id"), ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]);
    }
}

#[test]
fn a_category_is_an_id() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("rows.parquet");
    let keys = Int8Array::from(vec![Some(1), Some(0), None]);
    let values_of = Arc::new(Int64Array::from(vec![70, 1_234_567_890_123_456_789]));
    let ids = Arc::new(DictionaryArray::new(keys, values_of));
    write(
        &path,
        vec![("id", ids as ArrayRef), ("question", questions(3))],
        None,
    );
    for job in is_sound(&path) {
        assert_eq!(values(&job, "id"), ["1234567890123456789", "70", "2"]);
    }
}

#[test]
fn categories_stay_categories() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("rows.parquet");
    let words = Arc::new(StringArray::from(vec!["low", "high"]));
    let grades = Arc::new(DictionaryArray::new(
        Int8Array::from(vec![Some(1), None, Some(0)]),
        words,
    ));
    write(
        &path,
        vec![("question", questions(3)), ("grade", grades as ArrayRef)],
        None,
    );
    let [parquet, _] = is_sound(&path);
    let found = results(&parquet);
    let kind = found.column_by_name("grade").unwrap().data_type();
    assert!(matches!(kind, DataType::Dictionary(_, value) if **value == DataType::Utf8));
    let grades = [Some("high".to_owned()), None, Some("low".to_owned())];
    assert_eq!(texts(&found, "grade"), grades);
}

#[test]
fn a_column_that_a_file_lacks_is_null_in_templates() {
    let folder = TempDir::new().unwrap();
    write(
        &folder.path().join("a.parquet"),
        vec![("question", questions(1))],
        None,
    );
    let topics = Arc::new(StringArray::from(vec!["历史"]));
    let columns = vec![("question", questions(1)), ("topic", topics as ArrayRef)];
    write(&folder.path().join("b.parquet"), columns, None);
    let files = ["a", "b"].map(|name| folder.path().join(name).with_extension("parquet"));
    let more = "prompt.template = \"{% if topic is none %}-{% else %}{{ topic }}{% endif %}\"\n";
    let reading = Reading::new(&files, Rules::CURRENT, more).unwrap();
    let rows = reading.window().rows;
    let prompts: Vec<&str> = rows
        .iter()
        .map(|row| row.outcome.as_ref().unwrap().text.as_str())
        .collect();
    assert_eq!(prompts, ["-", "历史"]);
}

#[test]
fn a_column_that_cannot_be_read_is_named_before_any_work() {
    let message = is_refused(&job(&case("int128.parquet"), "parquet", ""));
    assert!(message.contains("int128.parquet"), "{message}");
    assert!(
        message.contains("int128, which cannot be read"),
        "{message}"
    );
    assert!(!message.contains("cut short"), "{message}");
    assert!(!message.contains("panicked"), "{message}");
    let message = is_refused(&job(&case("encrypted-column.parquet"), "parquet", ""));
    assert!(
        message.contains("the column `note` is encrypted"),
        "{message}"
    );
}

#[test]
fn names_that_differ_in_case_alone_are_noted() {
    let job = job(&case("names-differ-in-case.parquet"), "parquet", "");
    let output = job.run_ok(&[]);
    let message = stderr(&output);
    for part in ["`row` and `Row`", "`Status`", "`output.rename`"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let plan = job.command(&["plan", "job.toml"]).output().unwrap();
    assert!(String::from_utf8_lossy(&plan.stdout).contains("differ in case alone"));
}

#[test]
fn a_job_of_the_first_rule_rounds_as_it_began_to() {
    let files = ["a", "b"].map(|name| {
        case("ids-int-and-float")
            .join(name)
            .with_extension("parquet")
    });
    let reading = Reading::new(&files, Rules::FIRST, BY_QUESTION).unwrap();
    let window = reading.window();
    let ids: Vec<&str> = window.rows.iter().map(|row| row.id.as_str()).collect();
    assert_eq!(ids, ["1.2345678901234568e+18", "5.0", "2"]);
    let posts = batch(&window).column_by_name("post").unwrap();
    assert_eq!(
        posts.as_primitive::<Float64Type>().value(0),
        9_007_199_254_740_992.0
    );
    let lists = ["a-polars", "b-pyarrow"];
    let lists = lists.map(|name| {
        case("lists-of-two-writers")
            .join(name)
            .with_extension("parquet")
    });
    let refused = Reading::new(&lists, Rules::FIRST, BY_QUESTION)
        .err()
        .unwrap();
    assert!(matches!(refused, InputError::SchemaClash { .. }));
}
