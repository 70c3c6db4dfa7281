//! Parts read back with the parquet and arrow crates and with `serde_json`; the messages of refused columns.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int32Type, Int64Type};
use arrow_array::{
    Array, ArrayRef, BinaryArray, Float32Array, Float64Array, Int64Array, ListArray, RecordBatch,
    StringArray, StructArray,
};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field, Fields, Schema};
use arrow_select::concat::concat_batches;

use glm_batch::internals::ids::RowId;
use glm_batch::internals::input::{Carried, ColumnKind, InputIndex, InputWindow, JsonRows};
use glm_batch::internals::job::{
    CarriedColumns, GenerationSpec, OutputFormat, OutputSpec, SampleLayout,
};
use glm_batch::internals::outcome::{Outcome, RowResult};
use glm_batch::internals::sink::{SinkError, new_sink, write_failed};
use glm_batch::internals::tasks;

use crate::support::spec_of;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::windows::{
    answered, arrow_window, failed, index, input_file, json_window, outcomes, output, sample,
};

fn questions() -> InputIndex {
    index(&[
        ("question", ColumnKind::String),
        ("n", ColumnKind::Int64),
        ("score", ColumnKind::Float64),
        ("easy", ColumnKind::Bool),
        ("extra", ColumnKind::Json),
    ])
}

fn three_rows() -> InputWindow {
    json_window(
        0,
        0,
        &[
            r#"{"question": "首都？", "n": 1, "score": 1e1, "easy": true, "extra": {"a": [1, 2]}}"#,
            r#"{"question": "broken"#,
            r#"{"question": "q\u0041", "n": null, "score": 0.10, "extra": "text"}"#,
        ],
    )
}

fn part(
    output: &OutputSpec,
    index: &InputIndex,
    window: &InputWindow,
    outcomes: &BTreeMap<RowId, Outcome>,
) -> Vec<u8> {
    let generation = GenerationSpec {
        logprobs: true,
        ..GenerationSpec::default()
    };
    let schema = match &window.carried {
        Carried::Arrow(batch) => Some(batch.schema()),
        Carried::Json(_) => None,
    };
    let sink = new_sink(
        &tasks::form(&spec_of(output, &generation)),
        index,
        None,
        schema.as_deref(),
    )
    .unwrap();
    let mut bytes = Vec::new();
    sink.write_part(window, outcomes, &mut bytes).unwrap();
    bytes
}

fn read(part: &[u8]) -> RecordBatch {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(part).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    assert_eq!(
        reader.metadata().file_metadata().created_by(),
        Some("glm-batch")
    );
    let schema = Arc::clone(reader.schema());
    let batches: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

fn strings<'a>(batch: &'a RecordBatch, name: &str) -> Vec<Option<&'a str>> {
    batch
        .column_by_name(name)
        .unwrap()
        .as_string::<i32>()
        .iter()
        .collect()
}

#[test]
fn parquet_from_json_has_typed_columns_and_a_line_a_record() {
    let mut rows = outcomes(&three_rows());
    rows.insert(RowId(2), failed("no room"));
    let batch = read(&part(
        &output(OutputFormat::Parquet),
        &questions(),
        &three_rows(),
        &rows,
    ));
    let columns: Vec<String> = batch
        .schema()
        .fields()
        .iter()
        .inspect(|field| assert!(field.is_nullable(), "{field}"))
        .map(|field| format!("{} {}", field.name(), field.data_type()))
        .collect();
    insta::assert_snapshot!(columns.join("\n"), @"
    row Int64
    id Utf8
    question Utf8
    n Int64
    score Float64
    easy Boolean
    extra Utf8
    sample Int32
    status Utf8
    error Utf8
    completion Utf8
    finish_reason Utf8
    prompt_tokens Int32
    completion_tokens Int32
    logprob Float32
    token_logprobs List(Float32)
    ");
    assert_eq!(batch["row"].as_primitive::<Int64Type>().values(), &[0, 2]);
    assert_eq!(strings(&batch, "id"), [Some("q0"), Some("q2")]);
    assert_eq!(strings(&batch, "question"), [Some("首都？"), Some("qA")]);
    assert_eq!(
        strings(&batch, "extra"),
        [Some(r#"{"a": [1, 2]}"#), Some(r#""text""#)]
    );
    assert_eq!(batch["n"].as_ref(), &Int64Array::from(vec![Some(1), None]));
    assert_eq!(
        batch["score"].as_ref(),
        &Float64Array::from(vec![10.0, 0.1])
    );
    assert_eq!(strings(&batch, "error"), [None, Some("generate: no room")]);
    assert_eq!(strings(&batch, "completion"), [Some("答 0"), None]);
    assert_eq!(
        batch["logprob"].as_ref(),
        &Float32Array::from(vec![Some(-0.75), None])
    );
    for name in [
        "sample",
        "finish_reason",
        "prompt_tokens",
        "completion_tokens",
        "token_logprobs",
    ] {
        assert!(batch[name].is_valid(0) && batch[name].is_null(1), "{name}");
    }
}

#[test]
fn samples_are_lines_or_lists() {
    let window = json_window(0, 0, &[r#"{"n": 5}"#, r#"{"n": 6}"#]);
    let columns = index(&[("n", ColumnKind::Int64)]);
    let rows = BTreeMap::from([
        (RowId(0), answered(&["a", "b"])),
        (RowId(1), failed("no room")),
    ]);
    let mut output = output(OutputFormat::Parquet);
    output.token_ids = true;
    let flat = read(&part(&output, &columns, &window, &rows));
    assert_eq!(flat["n"].as_primitive::<Int64Type>().values(), &[5, 5, 6]);
    assert_eq!(
        flat["sample"]
            .as_primitive::<Int32Type>()
            .iter()
            .collect::<Vec<_>>(),
        [Some(0), Some(1), None]
    );
    assert_eq!(strings(&flat, "completion"), [Some("a"), Some("b"), None]);
    assert_eq!(
        flat["token_ids"]
            .as_list::<i32>()
            .value(1)
            .as_primitive::<Int32Type>()
            .values(),
        &[7, 50_007]
    );

    output.samples = SampleLayout::Nested;
    let nested = read(&part(&output, &columns, &window, &rows));
    assert!(nested.column_by_name("sample").is_none());
    let completions = nested["completion"].as_list::<i32>();
    assert_eq!(
        completions
            .value(0)
            .as_string::<i32>()
            .iter()
            .collect::<Vec<_>>(),
        [Some("a"), Some("b")]
    );
    assert!(completions.is_null(1));
    let logprobs = nested["token_logprobs"].as_list::<i32>().value(0);
    let second = logprobs.as_list::<i32>().value(1);
    assert_eq!(
        second.as_primitive::<Float32Type>().values(),
        &[-0.5, -0.25]
    );
    assert_eq!(
        nested["prompt_tokens"]
            .as_primitive::<Int32Type>()
            .iter()
            .collect::<Vec<_>>(),
        [Some(9), None]
    );
}

#[test]
fn the_same_rows_give_the_same_bytes_from_json_and_from_parquet() {
    let json = json_window(
        0,
        0,
        &[r#"{"q":"一","n":1}"#, r#"{"q":null,"n":2}"#, r#"{"n":3}"#],
    );
    let columns = index(&[("q", ColumnKind::String), ("n", ColumnKind::Int64)]);
    let q: ArrayRef = Arc::new(StringArray::from(vec![Some("一"), None, None]));
    let n: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let metadata = HashMap::from([("pandas".to_owned(), "{}".to_owned())]);
    let schema = Schema::new(vec![
        Field::new("q", DataType::Utf8, true).with_metadata(metadata.clone()),
        Field::new("n", DataType::Int64, false),
    ]);
    let batch = RecordBatch::try_new(Arc::new(schema.with_metadata(metadata)), vec![q, n]).unwrap();
    let large = arrow_cast::cast(&batch["q"], &DataType::LargeUtf8).unwrap();
    let large = RecordBatch::try_from_iter([("q", large), ("n", Arc::clone(&batch["n"]))]).unwrap();
    let (parquet, large) = (arrow_window(0, batch), arrow_window(0, large));
    let rows = outcomes(&json);
    for format in [OutputFormat::Jsonl, OutputFormat::Parquet] {
        let once = part(&output(format), &columns, &json, &rows);
        assert_eq!(once, part(&output(format), &columns, &json, &rows));
        assert_eq!(
            once,
            part(&output(format), &columns, &parquet, &rows),
            "{format:?}"
        );
        assert_eq!(once, part(&output(format), &columns, &large, &rows));
    }
}

#[test]
fn jsonl_keeps_values_as_they_stood() {
    let mut rows = outcomes(&three_rows());
    rows.insert(RowId(2), failed("no room"));
    let text = String::from_utf8(part(
        &output(OutputFormat::Jsonl),
        &questions(),
        &three_rows(),
        &rows,
    ));
    insta::assert_snapshot!(text.unwrap(), @r#"
    {"row":0,"id":"q0","question":"首都？","n":1,"score":1e1,"easy":true,"extra":{"a": [1, 2]},"sample":0,"status":"ok","error":null,"completion":"答 0","finish_reason":"stop","prompt_tokens":9,"completion_tokens":2,"logprob":-0.75,"token_logprobs":[-0.5,-0.25]}
    {"row":2,"id":"q2","question":"q\u0041","n":null,"score":0.10,"easy":null,"extra":"text","sample":null,"status":"failed","error":"generate: no room","completion":null,"finish_reason":null,"prompt_tokens":null,"completion_tokens":null,"logprob":null,"token_logprobs":null}
    "#);
}

#[test]
fn jsonl_nested_has_lists() {
    let window = json_window(0, 0, &["{}", "{}"]);
    let rows = BTreeMap::from([
        (RowId(0), answered(&["a", "b"])),
        (RowId(1), failed("no room")),
    ]);
    let mut output = output(OutputFormat::Jsonl);
    output.samples = SampleLayout::Nested;
    let text = String::from_utf8(part(&output, &index(&[]), &window, &rows)).unwrap();
    insta::assert_snapshot!(text, @r#"
    {"row":0,"id":"q0","status":"ok","error":null,"completion":["a","b"],"finish_reason":["stop","stop"],"prompt_tokens":9,"completion_tokens":[2,2],"logprob":[-0.75,-0.75],"token_logprobs":[[-0.5,-0.25],[-0.5,-0.25]]}
    {"row":1,"id":"q1","status":"failed","error":"generate: no room","completion":null,"finish_reason":null,"prompt_tokens":null,"completion_tokens":null,"logprob":null,"token_logprobs":null}
    "#);
}

/// Nested, binary and not-a-number columns, with metadata at every depth.
fn rich_batch() -> RecordBatch {
    let tag = HashMap::from([("PARQUET:field_id".to_owned(), "7".to_owned())]);
    let inner = Field::new("raw", DataType::Binary, true).with_metadata(tag.clone());
    let fields = Fields::from(vec![inner, Field::new("x", DataType::Int64, true)]);
    let raw: ArrayRef = Arc::new(BinaryArray::from(vec![Some(&b"\xff\x00"[..]), None]));
    let x: ArrayRef = Arc::new(Int64Array::from(vec![None, Some(4)]));
    let items = StructArray::new(fields.clone(), vec![raw, x], None);
    let item = Arc::new(Field::new("element", DataType::Struct(fields), true).with_metadata(tag));
    let list = ListArray::new(
        Arc::clone(&item),
        OffsetBuffer::from_lengths([2, 0]),
        Arc::new(items),
        None,
    );
    let score = Float64Array::from(vec![f64::NAN, 0.5]);
    let schema = Schema::new(vec![
        Field::new("list", DataType::List(item), true),
        Field::new("score", DataType::Float64, true),
    ]);
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(list), Arc::new(score)]).unwrap()
}

#[test]
fn nested_parquet_columns_are_carried_without_their_metadata() {
    let window = arrow_window(0, rich_batch());
    let arrow = |name: &str| ColumnKind::Arrow(name.to_owned());
    let columns = index(&[("list", arrow("List")), ("score", arrow("Float64"))]);
    let rows = outcomes(&window);
    let batch = read(&part(
        &output(OutputFormat::Parquet),
        &columns,
        &window,
        &rows,
    ));
    assert!(!format!("{:?}", batch.schema()).contains("field_id: 7"));
    assert!(!format!("{:?}", batch.schema()).contains("\"7\""));
    let items = batch["list"].as_list::<i32>().value(0);
    assert_eq!(
        items.as_struct().column(0).as_binary::<i32>().value(0),
        b"\xff\x00"
    );
    assert_eq!(
        items
            .as_struct()
            .column(1)
            .as_primitive::<Int64Type>()
            .value(1),
        4
    );

    let mut output = output(OutputFormat::Jsonl);
    output.columns = CarriedColumns::Names(vec!["score".to_owned(), "list".to_owned()]);
    output.rename = vec![("score".to_owned(), "old_score".to_owned())];
    let text = String::from_utf8(part(&output, &columns, &window, &rows)).unwrap();
    let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let carried: Vec<_> = first.as_object().unwrap().iter().skip(2).take(2).collect();
    insta::assert_snapshot!(format!("{carried:?}"), @r#"[("old_score", Null), ("list", Array [Object {"raw": String("/wA="), "x": Null}, Object {"raw": Null, "x": Number(4)}])]"#);
}

#[test]
fn an_empty_window_is_a_valid_part() {
    let window = json_window(0, 0, &[]);
    let none = BTreeMap::new();
    assert!(part(&output(OutputFormat::Jsonl), &questions(), &window, &none).is_empty());
    let batch = read(&part(
        &output(OutputFormat::Parquet),
        &questions(),
        &window,
        &none,
    ));
    assert_eq!((batch.num_rows(), batch.num_columns()), (0, 16));
}

#[test]
fn a_row_without_outcome_is_no_part() {
    let window = json_window(3, 12, &[r#"{"n": 5}"#]);
    let sink = new_sink(
        &tasks::form(&spec_of(
            &output(OutputFormat::Parquet),
            &GenerationSpec::default(),
        )),
        &index(&[]),
        None,
        None,
    )
    .unwrap();
    let error = sink
        .write_part(&window, &BTreeMap::new(), &mut Vec::new())
        .unwrap_err();
    assert!(
        matches!(error, SinkError::MissingOutcome { row: RowId(12) }),
        "{error}"
    );
}

#[test]
fn a_value_of_another_type_names_row_and_column() {
    let window = json_window(0, 0, &[r#"{"n": "five"}"#]);
    let columns = index(&[("n", ColumnKind::Int64)]);
    let sink = new_sink(
        &tasks::form(&spec_of(
            &output(OutputFormat::Parquet),
            &GenerationSpec::default(),
        )),
        &columns,
        None,
        None,
    )
    .unwrap();
    let error = sink
        .write_part(&window, &outcomes(&window), &mut Vec::new())
        .unwrap_err();
    insta::assert_snapshot!(error, @"
    row 0: column `n` is not the whole number that it was when the input was first read
    hint: the input changed while the job was running; start anew with `--restart`
    ");
}

#[test]
fn the_id_column_is_not_carried_twice() {
    let window = json_window(0, 0, &[r#"{"uid": 5, "n": 1}"#]);
    let columns = index(&[("uid", ColumnKind::Int64), ("n", ColumnKind::Int64)]);
    let sink = new_sink(
        &tasks::form(&spec_of(
            &output(OutputFormat::Jsonl),
            &GenerationSpec::default(),
        )),
        &columns,
        Some("uid"),
        None,
    )
    .unwrap();
    let mut bytes = Vec::new();
    sink.write_part(&window, &outcomes(&window), &mut bytes)
        .unwrap();
    let line: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert!(line.get("uid").is_none());
    assert_eq!(line["id"], "q0");
}

fn refusal(change: impl Fn(&mut OutputSpec), columns: &[&str]) -> String {
    let columns: Vec<_> = columns
        .iter()
        .map(|name| (*name, ColumnKind::String))
        .collect();
    let mut output = output(OutputFormat::Parquet);
    change(&mut output);
    new_sink(
        &tasks::form(&spec_of(&output, &GenerationSpec::default())),
        &index(&columns),
        Some("uid"),
        None,
    )
    .err()
    .expect("must be refused")
    .to_string()
}

#[test]
fn refused_columns_name_the_cure() {
    let rename = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect::<Vec<_>>()
    };
    let names =
        |list: &[&str]| CarriedColumns::Names(list.iter().map(ToString::to_string).collect());
    insta::assert_snapshot!(refusal(|_| {}, &["question", "status"]), @"
    the carried column `status` has the name of a result column
    hint: give it another name, for example `output.rename = { status = \"input_status\" }`, or leave it out of `output.columns`
    ");
    insta::assert_snapshot!(refusal(|o| o.columns = names(&["questoin"]), &["question"]), @"
    `output.columns` names the column `questoin`, which the input does not have
    hint: did you mean `question`?
    ");
    insta::assert_snapshot!(refusal(|o| o.rename = rename(&[("zzz", "y")]), &["question", "n"]), @"
    `output.rename` names the column `zzz`, which the input does not have
    hint: the input has `question`, `n`
    ");
    insta::assert_snapshot!(refusal(|o| o.rename = rename(&[("a", "b")]), &["a", "b"]), @"
    the columns `a` and `b` would both be written as `b`
    hint: give them different names in `output.rename`
    ");
    insta::assert_snapshot!(refusal(|o| o.rename = rename(&[("uid", "b")]), &["uid"]), @"
    `output.rename` names the column `uid`, which is written as `id`
    hint: take it out of `output.rename`, or map another column to `id` with `input.columns.id`
    ");
    insta::assert_snapshot!(refusal(|o| { o.columns = CarriedColumns::None; o.rename = rename(&[("a", "b")]); }, &["a"]), @"
    `output.rename` names the column `a`, which is not carried through
    hint: add it to `output.columns`
    ");
}

#[test]
fn failed_rows_stand_with_place_reason_and_record() {
    let mut window = three_rows();
    let lines: [&[u8]; 3] = [
        b"{\"question\": \"\xff\"}",
        b"{\"question\": \"broken",
        b"{\"question\": \"\"}",
    ];
    window.carried = Carried::Json(JsonRows::of(lines));
    let mut rows = outcomes(&window);
    rows.insert(RowId(0), failed("no room"));
    let mut text = Vec::new();
    assert_eq!(
        write_failed(&window, &rows, &[input_file()], &mut text).unwrap(),
        2
    );
    insta::assert_snapshot!(String::from_utf8(text).unwrap(), @r#"
    {"row":0,"id":"q0","file":"/data/questions.jsonl","line":1,"stage":"generate","reason":"no room","raw_base64":"eyJxdWVzdGlvbiI6ICL/In0="}
    {"row":1,"id":"q1","file":"/data/questions.jsonl","line":2,"stage":"input","reason":"broken JSON","raw":"{\"question\": \"broken"}
    "#);

    let window = arrow_window(0, rich_batch());
    let rows = BTreeMap::from([
        (RowId(0), Outcome::Ok(RowResult::Generated(completion()))),
        (RowId(1), failed("no room")),
    ]);
    let mut text = Vec::new();
    assert_eq!(
        write_failed(&window, &rows, &[input_file()], &mut text).unwrap(),
        1
    );
    insta::assert_snapshot!(String::from_utf8(text).unwrap(), @r#"{"row":1,"id":"q1","file":"/data/questions.jsonl","row_group":0,"row_in_group":1,"stage":"generate","reason":"no room","raw":"{\"list\":[],\"score\":0.5}"}"#);
}

fn completion() -> glm_batch::internals::outcome::Completion {
    let samples = vec![sample("a")];
    glm_batch::internals::outcome::Completion {
        prompt_tokens: 1,
        truncated: 0,
        samples,
    }
}
