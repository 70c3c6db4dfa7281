//! Records of CSV and TSV files to JSON lines, so that all that follows reads one kind of rows.
//!
//! The first record names the columns. Every value is a text: to guess numbers would change ids such as `007`. An empty
//! field is null, quoted or not. A column without a name is left out: it is mostly the index that pandas writes.
//! Used by [`super::lines`].

use std::io::{self, BufRead};
use std::path::Path;

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use super::formats::{has_table_ending, has_tabs};
use super::lines::{BOM, Unread};

/// What separates fields, in the order in which it is looked for; Excel writes semicolons where the decimal point is a comma.
const SEPARATORS: [u8; 3] = [b',', b';', b'\t'];

/// Most bytes of the names of the columns: a quote that is never closed would make them the whole file.
const MAX_NAMES_BYTES: u64 = 1 << 20;

/// Reads the records of one file.
pub(super) struct Table {
    reader: Reader,
    /// By place, a column's name as the beginning of a JSON member; `None` where it has no name.
    members: Vec<Option<String>>,
    /// The values of the last record, one behind the other.
    values: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
}

/// A record, beside the line that it became.
pub(super) struct Record {
    pub(super) taken: Taken,
    pub(super) unread: Option<Unread>,
}

/// What was read from a file.
#[derive(Clone, Copy, Default)]
pub(super) struct Taken {
    pub(super) bytes: u64,
    /// Line ends among them.
    pub(super) lines: u64,
}

impl Taken {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.lines += bytes.split(|byte| *byte == b'\n').count() as u64 - 1;
    }
}

/// How a record ended.
struct Ended {
    taken: Taken,
    fields: usize,
    /// Bytes without the line end, where they are more than a row may have.
    too_long: Option<u64>,
}

impl Table {
    /// Reads the names of the columns where a file is a table: by its ending, unless it begins as JSON lines do.
    ///
    /// # Errors
    ///
    /// Names that are not UTF-8, or of which two are equal, or that are all missing; a quote that is never closed.
    pub(super) fn begin(path: &Path, file: &mut dyn BufRead) -> io::Result<(Option<Self>, Taken)> {
        if !has_table_ending(path) {
            return Ok((None, Taken::default()));
        }
        let mut before = skip_blank(file)?;
        let head = filled(file)?;
        let (head, mark) = match head.strip_prefix(BOM) {
            Some(head) => (head, BOM.len()),
            None => (head, 0),
        };
        if head.starts_with(b"{") {
            return Ok((None, before));
        }
        let separator = if has_tabs(path) {
            b'\t'
        } else {
            separator(head)
        };
        file.consume(mark);
        before.bytes += mark as u64;
        let mut table = Self {
            reader: ReaderBuilder::new().delimiter(separator).build(),
            members: Vec::new(),
            values: vec![0; 1 << 10],
            ends: vec![0; 1 << 5],
        };
        let mut raw = Vec::new();
        let Some(names) = table.read(file, &mut raw, MAX_NAMES_BYTES, before.lines + 1)? else {
            return Ok((Some(table), before));
        };
        if names.too_long.is_some() {
            let what = "a table whose first line is longer than 1 MiB";
            return Err(no_table(what, "put the names of the columns there"));
        }
        table.members = table.named(names.fields)?;
        before.bytes += names.taken.bytes;
        before.lines += names.taken.lines;
        Ok((Some(table), before))
    }

    fn named(&self, fields: usize) -> io::Result<Vec<Option<String>>> {
        let mut names = Vec::with_capacity(fields);
        for value in self.each(fields) {
            let name = std::str::from_utf8(value).map_err(|_| {
                let what = "a table whose columns have names that are not UTF-8";
                no_table(what, "write the file as UTF-8")
            })?;
            if !name.is_empty() && names.contains(&name) {
                let what = format!("a table with two columns of the name `{name}`");
                return Err(no_table(what, "give each a name of its own"));
            }
            names.push(name);
        }
        if names.iter().all(|name| name.is_empty()) {
            let what = "a table whose first line names no column";
            return Err(no_table(what, "put the names of the columns there"));
        }
        let member = |name: &str| {
            let name = (!name.is_empty()).then(|| serde_json::Value::from(name));
            name.map(|name| format!("{name}:"))
        };
        Ok(names.into_iter().map(member).collect())
    }

    /// Appends the record that begins here, at `line`, to `arena`: as a JSON object where it can be one, else as it is, and
    /// of one that is too long the beginning; `None` at the end of the file.
    ///
    /// # Errors
    ///
    /// A quote that is never closed: nobody can tell how many rows are behind it.
    pub(super) fn next_record(
        &mut self,
        file: &mut dyn BufRead,
        arena: &mut Vec<u8>,
        max_bytes: u64,
        line: u64,
    ) -> io::Result<Option<Record>> {
        let begin = arena.len();
        let Some(read) = self.read(file, arena, max_bytes, line)? else {
            return Ok(None);
        };
        let mut record = Record {
            taken: read.taken,
            unread: None,
        };
        if let Some(bytes) = read.too_long {
            record.unread = Some(Unread::TooLong(bytes));
        } else if read.fields != self.members.len() {
            record.unread = Some(Unread::Ragged {
                fields: read.fields as u32,
                columns: self.members.len() as u32,
            });
        } else if let Ok(values) = self.texts(read.fields) {
            arena.truncate(begin);
            arena.push(b'{');
            for (member, value) in self.members.iter().zip(values) {
                let Some(member) = member else { continue };
                if arena.len() > begin + 1 {
                    arena.push(b',');
                }
                arena.extend_from_slice(member.as_bytes());
                match value {
                    "" => arena.extend_from_slice(b"null"),
                    text => serde_json::to_writer(&mut *arena, text)?,
                }
            }
            arena.push(b'}');
        }
        Ok(Some(record))
    }

    /// The values of a record; an error where one is not UTF-8.
    fn texts(&self, fields: usize) -> Result<Vec<&str>, std::str::Utf8Error> {
        self.each(fields).map(std::str::from_utf8).collect()
    }

    fn each(&self, fields: usize) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends[..fields].iter().map(move |&end| {
            let value = &self.values[start..end];
            start = end;
            value
        })
    }

    /// Reads a record, and appends its bytes to `raw` without the line end, no more than `max_bytes` of them.
    fn read(
        &mut self,
        file: &mut dyn BufRead,
        raw: &mut Vec<u8>,
        max_bytes: u64,
        line: u64,
    ) -> io::Result<Option<Ended>> {
        let (begin, mut content) = (raw.len(), 0_u64);
        let (mut values, mut fields, mut taken) = (0, 0, Taken::default());
        loop {
            let block = filled(file)?;
            let is_end = block.is_empty();
            if is_end && taken.bytes == 0 {
                return Ok(None);
            }
            // A line end behind the file's last byte ends the record, unless a quote is open.
            let input = if is_end { b"\n" } else { block };
            let (result, used, written, ended) = self.reader.read_record(
                input,
                &mut self.values[values..],
                &mut self.ends[fields..],
            );
            (values, fields) = (values + written, fields + ended);
            if !is_end {
                let block = &block[..used];
                taken.add(block);
                let room = max_bytes.saturating_sub(content).min(used as u64) as usize;
                content += used as u64;
                raw.extend_from_slice(&block[..room]);
                file.consume(used);
            }
            let is_over = content > max_bytes.saturating_add(1);
            match result {
                ReadRecordResult::InputEmpty if is_end => {
                    let what = format!(
                        "a table whose record at line {line} opens a quote that is never closed"
                    );
                    return Err(no_table(what, "write a quote inside a quoted field twice"));
                }
                ReadRecordResult::InputEmpty => {}
                // What is read behind the limit is dropped.
                ReadRecordResult::OutputFull if is_over => values = 0,
                ReadRecordResult::OutputFull => self.values.resize(self.values.len() * 2, 0),
                ReadRecordResult::OutputEndsFull if is_over => fields = 0,
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::Record | ReadRecordResult::End => {
                    content -= u64::from(!is_end);
                    raw.truncate(begin + content.min(max_bytes) as usize);
                    return Ok(Some(Ended {
                        taken,
                        fields,
                        too_long: (content > max_bytes).then_some(content),
                    }));
                }
            }
        }
    }
}

/// What separates the names of the columns, which are in the first line.
fn separator(head: &[u8]) -> u8 {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let found = SEPARATORS.into_iter().find(|one| line.contains(one));
    found.unwrap_or(SEPARATORS[0])
}

/// Passes over line ends.
pub(super) fn skip_blank(file: &mut dyn BufRead) -> io::Result<Taken> {
    let mut blank = Taken::default();
    loop {
        let block = filled(file)?;
        let ends = |byte: &u8| matches!(byte, b'\r' | b'\n');
        let count = block.iter().take_while(|byte| ends(byte)).count();
        if count == 0 {
            return Ok(blank);
        }
        blank.add(&block[..count]);
        file.consume(count);
    }
}

/// What is read and not taken yet; nothing at the end of the file.
fn filled(file: &mut dyn BufRead) -> io::Result<&[u8]> {
    loop {
        match file.fill_buf() {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // It is there: nothing is read again.
    file.fill_buf()
}

/// Why a file cannot be read as a table.
#[derive(Debug, thiserror::Error)]
#[error("{what}; {cure}")]
pub(super) struct NoTable {
    /// What it is, in words that follow "is".
    pub(super) what: String,
    pub(super) cure: &'static str,
}

fn no_table(what: impl Into<String>, cure: &'static str) -> io::Error {
    let what = what.into();
    io::Error::new(io::ErrorKind::InvalidData, NoTable { what, cure })
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make files by hand")]
mod tests {
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

    #[test]
    fn json_lines_of_this_name_are_json_lines() {
        for text in ["{\"q\": \"a,b\"}\n", "\u{FEFF}{\"q\": \"a,b\"}"] {
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
            block in 4_usize..40,
        ) {
            let names = ["x", "y", "z"].map(String::from).to_vec();
            let bytes = written(&[std::slice::from_ref(&names), &records].concat());
            let mut file = BufReader::with_capacity(block, &bytes[..]);
            let (table, before) = Table::begin(Path::new("t.csv"), &mut file).unwrap();
            let (mut table, mut offset) = (table.unwrap(), before.bytes);
            for record in &records {
                offset += skip_blank(&mut file).unwrap().bytes;
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
            prop_assert_eq!(skip_blank(&mut file).unwrap().bytes + offset, bytes.len() as u64);
        }
    }
}
