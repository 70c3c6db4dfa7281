use std::io::BufReader;

use csv_core::{WriteResult, WriterBuilder};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::lines::Lines;
use super::*;
use crate::stop::StopFlag;

/// What the rows of a file are: objects, or their text where they are none.
fn rows(name: &str, bytes: &[u8], max_bytes: u64) -> io::Result<Vec<(u64, Value)>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join(name);
    std::fs::write(&path, bytes)?;
    let mut lines = Lines::open(&path, None, &StopFlag::default())?;
    let mut arena = Vec::new();
    let mut rows = Vec::new();
    while let Some(line) = lines.next_row(&mut arena, max_bytes)? {
        let text = String::from_utf8_lossy(&arena[line.start..line.end]);
        let row = match line.unread {
            None => serde_json::from_str(&text)?,
            Some(_) => Value::from(text),
        };
        rows.push((line.line, row));
    }
    assert_eq!(lines.offset, bytes.len() as u64);
    Ok(rows)
}

fn refused(bytes: &[u8]) -> String {
    rows("t.csv", bytes, 1 << 20).unwrap_err().to_string()
}

#[test]
fn values_are_texts_and_what_is_empty_is_null() {
    let expected = vec![
        (2, json!({"id": "007", "q": "a, \"b\"\r\nc", "x": null})),
        (5, json!({"id": "1.0", "q": null, "x": " "})),
    ];
    let text = "id,q,,x\r\n007,\"a, \"\"b\"\"\r\nc\",0,\r\n\r\n1.0,\"\",1, ";
    let marked = format!("\u{FEFF}{text}");
    for bytes in [text, &marked, &format!("{text}\r\n")] {
        assert_eq!(rows("t.csv", bytes.as_bytes(), 1 << 20).unwrap(), expected);
    }
    let tabs = text.replace(',', "\t").replace("a\t", "a,");
    let semicolons = text.replace(',', ";").replace("a;", "a,");
    for (name, text) in [("t.TSV", &tabs), ("t.csv", &tabs), ("t.csv", &semicolons)] {
        assert_eq!(
            rows(name, text.as_bytes(), 1 << 20).unwrap(),
            expected,
            "{text}"
        );
    }
    let zipped = zstd::encode_all(text.as_bytes(), 1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.csv.zst");
    std::fs::write(&path, zipped).unwrap();
    let mut lines = Lines::open(&path, None, &StopFlag::default()).unwrap();
    let first = lines.next_row(&mut Vec::new(), 1 << 20).unwrap().unwrap();
    assert_eq!(first.offset, "id,q,,x\r\n".len() as u64);
}

#[test]
fn a_record_of_another_shape_or_length_is_kept_as_it_is() {
    let text = b"a,b\nx\n1,2,3\n12345,678901\n\"12\n34\",\"56\n78\"\n1,2\n";
    let expected = vec![
        (2, json!("x")),
        (3, json!("1,2,3")),
        (4, json!("12345,6789")),
        (5, json!("\"12\n34\",\"5")),
        (8, json!({"a": "1", "b": "2"})),
    ];
    assert_eq!(rows("t.csv", text, 10).unwrap(), expected);
}

/// A record that needs more room than there is at first, with a good one behind it.
#[test]
fn a_record_over_the_limit_is_dropped_as_it_is_read() {
    let long = "x".repeat(5000);
    let wide = ",".repeat(5000);
    let quoted = format!("\"{}\"", "y\n".repeat(3000));
    let text = format!("a,b\n{long},{long}\n1,2\n{wide}\n3,4\n{quoted},\n5,6\n");
    let found = rows("t.csv", text.as_bytes(), 4000).unwrap();
    let values: Vec<&Value> = found.iter().map(|(_, row)| row).collect();
    assert_eq!(values[1], &json!({"a": "1", "b": "2"}));
    assert_eq!(values[3], &json!({"a": "3", "b": "4"}));
    assert_eq!(found[5], (3007, json!({"a": "5", "b": "6"})));
    let wide_enough = rows("t.csv", text.as_bytes(), 1 << 20).unwrap();
    assert_eq!(wide_enough[0].1["a"], long);
    assert_eq!(wide_enough[2].1, wide);
    assert_eq!(wide_enough[3..4], found[3..4]);
}

#[test]
fn lines_may_end_in_cr_alone() {
    let text = b"id;q\r1;a,b\r2\r\r;\r3;\"c\rd\"\r4;e";
    let expected = vec![
        (2, json!({"id": "1", "q": "a,b"})),
        (3, json!("2")),
        (6, json!({"id": "3", "q": "c\rd"})),
        (8, json!({"id": "4", "q": "e"})),
    ];
    assert_eq!(rows("t.csv", text, 1 << 20).unwrap(), expected);
}

#[test]
fn the_separator_is_told_or_found_outside_quotes() {
    let row = json!({"a,b": "1", "c": "2"});
    for text in [
        "\"a,b\";c\n1;2\n",
        "sep=;\n\"a,b\";c\n1;2\n",
        "\u{FEFF}SEP=|\r\na,b|c\r\n1|2\r\n",
        "sep=\t\na,b\tc\n1\t2\n",
    ] {
        let found = rows("t.csv", text.as_bytes(), 1 << 20).unwrap();
        assert_eq!(found.len(), 1, "{text}");
        assert_eq!(found[0].1, row, "{text}");
    }
}

#[test]
fn a_quote_that_is_not_doubled_fails_its_record() {
    let text = b"id,q\n1,\"abc\n2,\"def\"\n3,\"a \\\"b\\\" c\"\n4,5\" pipe\n5,\"x\" \n6,\"y\"\n";
    let expected = vec![
        (2, json!("1,\"abc\n2,\"def\"")),
        (4, json!("3,\"a \\\"b\\\" c\"")),
        (5, json!({"id": "4", "q": "5\" pipe"})),
        (6, json!("5,\"x\" ")),
        (7, json!({"id": "6", "q": "y"})),
    ];
    assert_eq!(rows("t.csv", text, 1 << 20).unwrap(), expected);
}

#[test]
fn json_lines_of_this_name_are_json_lines() {
    for text in [
        "{\"q\": \"a,b\"}\n",
        "\u{FEFF}{\"q\": \"a,b\"}",
        " {\"q\": \"a,b\"}\n",
    ] {
        let row = rows("t.csv", text.as_bytes(), 1 << 20).unwrap();
        assert_eq!(row, [(1, json!({"q": "a,b"}))]);
    }
    for empty in [&b""[..], b"\xEF\xBB\xBF", b"\r\na,b\r\n\r\n"] {
        assert!(rows("t.csv", empty, 1 << 20).unwrap().is_empty());
    }
}

#[test]
fn what_is_no_table_is_refused() {
    for (bytes, what) in [
        (&b"a,b,a\n"[..], "two columns of the name `a`"),
        (b",\n1,2\n", "names no column"),
        (b"a\xFF,b\n", "names that are not UTF-8"),
        (
            b"a,b\n1,2\n\n3,\"x\n4,5\n",
            "record at line 4 opens a quote",
        ),
        (b"\"a,b\n1,2\n", "record at line 1 opens a quote"),
    ] {
        let reason = refused(bytes);
        assert!(reason.contains(what), "{reason}");
    }
    let long = format!("\"a\n{}", "1,2\n".repeat(1 << 19));
    assert!(refused(long.as_bytes()).contains("opens a quote"));
    let long = format!("{}\n1,2\n", "a".repeat(2 << 20));
    assert!(refused(long.as_bytes()).contains("longer than 1 MiB"));
}

/// A file of these records, as another program writes it.
fn written(records: &[Vec<String>]) -> Vec<u8> {
    let mut writer = WriterBuilder::new().build();
    let mut bytes = Vec::new();
    let mut room = vec![0; 1 << 12];
    let mut add = |(result, count): (WriteResult, usize), room: &[u8]| {
        assert_eq!(result, WriteResult::InputEmpty);
        bytes.extend_from_slice(&room[..count]);
    };
    for record in records {
        for (place, field) in record.iter().enumerate() {
            if place > 0 {
                add(writer.delimiter(&mut room), &room);
            }
            let (result, _, count) = writer.field(field.as_bytes(), &mut room);
            add((result, count), &room);
        }
        add(writer.terminator(&mut room), &room);
    }
    bytes
}

proptest! {
    #[test]
    fn every_record_comes_back_in_blocks_of_any_size(
        records in prop::collection::vec(prop::collection::vec("[ab\"',;\r\n\t{}银行]{0,6}", 3), 0..8),
        block in 3_usize..40,
    ) {
        let names = ["x", "y", "z"].map(String::from).to_vec();
        let bytes = written(&[std::slice::from_ref(&names), &records].concat());
        let mut file = BufReader::with_capacity(block, &bytes[..]);
        let (table, before) = Table::begin(Path::new("t.csv"), &mut file).unwrap();
        let (mut table, mut offset) = (table.unwrap(), before.bytes);
        for record in &records {
            offset += table.skip_blank(&mut file).unwrap().bytes;
            let mut line = Vec::new();
            let read = table.next_record(&mut file, &mut line, 1 << 20, 1).unwrap().unwrap();
            prop_assert_eq!(read.unread, None);
            let found: Value = serde_json::from_slice(&line).unwrap();
            let value = |text: &String| match text.as_str() {
                "" => Value::Null,
                text => Value::from(text),
            };
            for (name, text) in names.iter().zip(record) {
                prop_assert_eq!(&found[name], &value(text));
            }
            // Another reader may begin where any record does.
            let (other, _) = Table::begin(Path::new("t.csv"), &mut &bytes[..]).unwrap();
            let mut again = Vec::new();
            let rest = &mut &bytes[offset as usize..];
            other.unwrap().next_record(rest, &mut again, 1 << 20, 1).unwrap();
            prop_assert_eq!(&again, &line);
            offset += read.taken.bytes;
        }
        prop_assert_eq!(table.skip_blank(&mut file).unwrap().bytes + offset, bytes.len() as u64);
    }
}
