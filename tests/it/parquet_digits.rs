//! Parquet values that a common type, a unit of time or float64 cannot hold: each is named with its row, and none ends
//! the run.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, Decimal128Array, StringArray, TimestampMicrosecondArray, TimestampNanosecondArray,
};
use glm_batch::internals::job::Rules;
use parquet::data_type::{ByteArrayType, Int96, Int96Type};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::parquet_types::{BY_QUESTION, QUESTION, Reading, job, questions, values, write};

#[test]
fn what_does_not_end_as_parquet_is_not_read_for_a_footer() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("rows.parquet");
    for (tail, reason) in [
        (
            *b"\xFF\xFF\xFF\xBFrows",
            "its last bytes are not those of Parquet",
        ),
        (
            *b"\xFF\xFF\xFF\xBFPAR1",
            "it states 3221225471 bytes of footer, the file has 52",
        ),
    ] {
        let bytes = [&b"PAR1"[..], &[0; 40], &tail].concat();
        std::fs::write(&path, bytes).unwrap();
        let refused = Reading::new(std::slice::from_ref(&path), Rules::CURRENT, BY_QUESTION);
        let message = refused.err().unwrap().to_string();
        assert!(message.contains(reason), "{message}");
        assert!(message.contains("cut short or no Parquet"), "{message}");
    }
}

#[test]
fn a_far_date_in_a_zone_fails_its_row_alone() {
    let folder = TempDir::new().unwrap();
    let times = TimestampMicrosecondArray::from(vec![0, 253_402_214_400_000_000]);
    let times: ArrayRef = Arc::new(times.with_timezone("UTC"));
    let columns = vec![("question", questions(2)), ("t", times)];
    write(&folder.path().join("a.parquet"), columns, None);
    let times: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![1]).with_timezone("UTC"));
    let columns = vec![("question", questions(1)), ("t", times)];
    write(&folder.path().join("b.parquet"), columns, None);
    let job = job(folder.path(), "parquet", "");
    job.run_ok(&[]);
    assert_eq!(values(&job, "status"), ["ok", "failed", "ok"]);
    let reason = values(&job, "error")[1].to_string();
    assert!(
        reason.contains("`t` holds 9999-12-31T00:00:00Z"),
        "{reason}"
    );
}

/// Three rows of a question and of times in INT96: `s.t`, and `l` with one item a row.
fn nested_times(path: &Path) {
    let message = "message rows { required binary question (UTF8); \
        required group s { required int96 t; } \
        required group l (LIST) { repeated group list { required int96 element; } } }";
    let schema = Arc::new(parse_message_type(message).unwrap());
    let file = File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let texts = vec![QUESTION.into(); 3];
    let questions = column.typed::<ByteArrayType>();
    questions.write_batch(&texts, None, None).unwrap();
    column.close().unwrap();
    let time = |nanoseconds: u32| {
        let mut time = Int96::new();
        // The day of the year 2024 in the Julian calendar's count.
        time.set_data(nanoseconds, 0, 2_460_311);
        time
    };
    let mut column = group.next_column().unwrap().unwrap();
    let times = [time(1_000), time(1_001), time(0)];
    let inner = column.typed::<Int96Type>();
    inner.write_batch(&times, None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let times = [time(0), time(0), time(7)];
    let items = column.typed::<Int96Type>();
    items
        .write_batch(&times, Some(&[1; 3]), Some(&[0; 3]))
        .unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn an_inner_time_finer_than_it_can_be_held_fails_its_row() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("times.parquet");
    nested_times(&path);
    let carried = job(&path, "jsonl", "");
    carried.run_ok(&[]);
    assert_eq!(values(&carried, "status"), ["ok", "failed", "failed"]);
    assert_eq!(
        values(&carried, "s")[0],
        json!({"t": "2024-01-01T00:00:00.000001"})
    );
    let reasons = values(&carried, "error");
    for (row, part) in [
        (1, "`s` holds 2024-01-01T00:00:00.000001001"),
        (2, "`l` holds 2024-01-01T00:00:00.000000007"),
    ] {
        assert!(reasons[row].to_string().contains(part), "{}", reasons[row]);
    }
    // Neither is in the results; the template reads one of them.
    let more = "output.columns = \"none\"\nprompt.template = \"{{ question }}{{ s.t }}\"\n";
    let reading = Reading::new(&[path], Rules::CURRENT, more).unwrap();
    let rows = reading.window().rows;
    let is_ok: Vec<bool> = rows.iter().map(|row| row.outcome.is_ok()).collect();
    assert_eq!(is_ok, [true, false, true]);
}

/// Two rows whose ids differ in the last of 30 digits, and prices of which float64 holds the second.
fn decimals(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("decimals.parquet");
    let first = 123_456_789_012_345_678_901_234_567_890;
    let ids = Decimal128Array::from(vec![first, first + 1]);
    let ids = ids.with_precision_and_scale(38, 0).unwrap();
    let prices = Decimal128Array::from(vec![1_234_567_890_123_456_725, 150]);
    let prices = prices.with_precision_and_scale(20, 2).unwrap();
    let texts: ArrayRef = Arc::new(StringArray::from(vec![QUESTION; 2]));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("question", texts),
        ("id", Arc::new(ids)),
        ("price", Arc::new(prices)),
    ];
    write(&path, columns, None);
    path
}

#[test]
fn decimals_keep_their_digits() {
    let folder = TempDir::new().unwrap();
    let path = decimals(folder.path());
    let ids = [
        "123456789012345678901234567890",
        "123456789012345678901234567891",
    ];
    for format in ["parquet", "jsonl"] {
        let job = job(&path, format, "");
        job.run_ok(&[]);
        assert_eq!(values(&job, "id"), ids);
        let shown = job.command(&["show", "--json", "out"]).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        let prices = shown.lines().map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            row["price"].clone()
        });
        let expected = [json!("12345678901234567.25"), json!(1.5)];
        assert_eq!(prices.collect::<Vec<_>>(), expected);
    }
    let first = Reading::new(&[path], Rules::FIRST, BY_QUESTION).unwrap();
    let rows = first.window().rows;
    assert!(rows.iter().all(|row| row.id == "1.2345678901234568e+29"));
}

#[test]
fn a_template_does_not_round() {
    let folder = TempDir::new().unwrap();
    let path = decimals(folder.path());
    let more = "prompt.template = \"{{ question }}{{ price }}\"\n";
    let reading = Reading::new(&[path], Rules::CURRENT, more).unwrap();
    let rows = reading.window().rows;
    let reason = &rows[0].outcome.as_ref().unwrap_err().reason;
    let expected = "column `price`: holds 12345678901234567.25, which float64 cannot hold exactly; \
                    write the column as text";
    assert_eq!(reason, expected);
    let prompt = rows[1].outcome.as_ref().unwrap();
    assert_eq!(prompt.text, format!("{QUESTION}1.5"));
}
