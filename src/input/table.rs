//! Records of CSV and TSV files to JSON lines, so that all that follows reads one kind of rows.
//!
//! The first record names the columns. Every value is a text: to guess numbers would change ids such as `007`. An empty
//! field is null, quoted or not. A column without a name is left out: it is mostly the index that pandas writes. A record
//! without any value is passed over as a blank line is: spreadsheets write such rows at the end.
//!
//! A record ends at LF, CR LF or CR outside quotes. Used by [`super::lines`].

use std::collections::HashSet;
use std::io::{self, BufRead, Cursor, Read};
use std::path::Path;

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use super::formats::{has_table_ending, has_tabs};
use super::lines::{BOM, Unread};

/// What separates fields, in the order in which it is looked for; Excel writes semicolons where the decimal point is a comma.
const SEPARATORS: [u8; 3] = [b',', b';', b'\t'];

/// Most bytes of the names of the columns: a quote that is never closed would make them the whole file.
const MAX_NAMES_BYTES: u64 = 1 << 20;

/// Whether a file begins as JSON lines do, whatever its ending says.
pub(super) fn begins_object(head: &[u8]) -> bool {
    let head = head.strip_prefix(BOM).unwrap_or(head);
    head.trim_ascii_start().starts_with(b"{")
}

/// Reads the records of one file.
pub(super) struct Table {
    reader: Reader,
    separator: u8,
    /// What lines are counted by: LF, or CR where the first line ends in it alone.
    line_end: u8,
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
    /// Whether it has no value, so that it is no row.
    pub(super) is_blank: bool,
}

/// What was read from a file.
#[derive(Clone, Copy, Default)]
pub(super) struct Taken {
    pub(super) bytes: u64,
    /// Line ends among them.
    pub(super) lines: u64,
}

impl Taken {
    fn add(&mut self, bytes: &[u8], line_end: u8) {
        self.bytes += bytes.len() as u64;
        self.lines += bytes.split(|byte| *byte == line_end).count() as u64 - 1;
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
    /// Reads the names of the columns where a file is a table: by its ending, unless it begins as JSON lines do. What was
    /// read before the first record comes with it.
    ///
    /// # Errors
    ///
    /// Names that are not UTF-8, or of which two are equal, or that are all missing, or longer than 1 MiB; a quote that is
    /// never closed.
    pub(super) fn begin(path: &Path, file: &mut dyn BufRead) -> io::Result<(Option<Self>, Taken)> {
        let mut before = Taken::default();
        if !has_table_ending(path) || begins_object(filled(file)?) {
            return Ok((None, before));
        }
        if filled(file)?.starts_with(BOM) {
            file.consume(BOM.len());
            before.bytes += BOM.len() as u64;
        }
        skip_line_ends(file, b'\n', &mut before)?;
        let mut line = first_line(file)?;
        let mut separator = has_tabs(path).then_some(b'\t');
        if let Some(named) = named_separator(&line) {
            separator = Some(named);
            before.add(&line, b'\n');
            skip_line_ends(file, b'\n', &mut before)?;
            line = first_line(file)?;
        }
        let separator = separator.unwrap_or_else(|| separator_of(&line));
        let is_cr_alone = line.ends_with(b"\r") && !filled(file)?.starts_with(b"\n");
        let mut table = Self {
            reader: ReaderBuilder::new().delimiter(separator).build(),
            separator,
            line_end: if is_cr_alone { b'\r' } else { b'\n' },
            members: Vec::new(),
            values: vec![0; 1 << 10],
            ends: vec![0; 1 << 5],
        };
        let number = before.lines + 1;
        // A name may go on in the next line.
        let mut rest = Cursor::new(line).chain(file);
        let Some(names) = table.read(&mut rest, &mut Vec::new(), MAX_NAMES_BYTES, number)? else {
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
        let mut members = Vec::with_capacity(fields);
        let mut names = HashSet::new();
        for value in self.each(fields) {
            let name = std::str::from_utf8(value).map_err(|_| {
                let what = "a table whose columns have names that are not UTF-8";
                no_table(what, "write the file as UTF-8")
            })?;
            if name.is_empty() {
                members.push(None);
                continue;
            }
            if !names.insert(name) {
                let what = format!("a table with two columns of the name `{name}`");
                return Err(no_table(what, "give each a name of its own"));
            }
            members.push(Some(format!("{}:", serde_json::Value::from(name))));
        }
        if names.is_empty() {
            let what = "a table whose first line names no column";
            return Err(no_table(what, "put the names of the columns there"));
        }
        Ok(members)
    }

    /// Passes over line ends.
    pub(super) fn skip_blank(&self, file: &mut dyn BufRead) -> io::Result<Taken> {
        let mut blank = Taken::default();
        skip_line_ends(file, self.line_end, &mut blank)?;
        Ok(blank)
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
        let unread = if let Some(bytes) = read.too_long {
            Some(Unread::TooLong(bytes))
        } else if has_stray_quote(&arena[begin..], self.separator) {
            Some(Unread::StrayQuote)
        } else if read.fields != self.members.len() {
            Some(Unread::Ragged {
                fields: read.fields as u32,
                columns: self.members.len() as u32,
            })
        } else {
            None
        };
        let is_blank = arena[begin..].iter().all(|byte| *byte == self.separator);
        if unread.is_none() {
            self.write_object(read.fields, arena, begin)?;
        }
        Ok(Some(Record {
            taken: read.taken,
            unread,
            is_blank: is_blank && unread.is_none(),
        }))
    }

    /// Writes the record in the place of what is in `arena` from `begin` on; one that is not UTF-8 stays as it is.
    fn write_object(&self, fields: usize, arena: &mut Vec<u8>, begin: usize) -> io::Result<()> {
        let values = self.each(fields).map(std::str::from_utf8);
        let Ok(values) = values.collect::<Result<Vec<&str>, _>>() else {
            return Ok(());
        };
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
        Ok(())
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
        let begin = raw.len();
        let (mut content, mut last) = (0_u64, 0);
        let (mut values, mut kept, mut fields) = (0, 0, 0);
        let mut taken = Taken::default();
        loop {
            let block = filled(file)?;
            let is_end = block.is_empty();
            if is_end && taken.bytes == 0 {
                return Ok(None);
            }
            // A line end behind the file's last byte ends the record, unless a quote is open.
            let input = if is_end { b"\n" } else { block };
            let (result, used, written, ended) =
                self.reader
                    .read_record(input, &mut self.values[values..], &mut self.ends[kept..]);
            values += written;
            kept += ended;
            fields += ended;
            if !is_end {
                let block = &block[..used];
                taken.add(block, self.line_end);
                let room = max_bytes.saturating_sub(content).min(used as u64) as usize;
                raw.extend_from_slice(&block[..room]);
                content += used as u64;
                last = block.last().copied().unwrap_or(last);
                file.consume(used);
            }
            // What is read of such a record is never looked at.
            let is_over = content > max_bytes.saturating_add(1);
            let is_ragged = !self.members.is_empty() && fields > self.members.len();
            match result {
                ReadRecordResult::InputEmpty if is_end => {
                    let what = format!(
                        "a table whose record at line {line} opens a quote that is never closed"
                    );
                    return Err(no_table(what, "write a quote inside a quoted field twice"));
                }
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if is_over || is_ragged => values = 0,
                ReadRecordResult::OutputFull => self.values.resize(self.values.len() * 2, 0),
                ReadRecordResult::OutputEndsFull if is_over || is_ragged => kept = 0,
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::End => return Ok(None),
                ReadRecordResult::Record => break,
            }
        }
        if matches!(last, b'\r' | b'\n') {
            content -= 1;
        }
        raw.truncate(begin + content.min(max_bytes) as usize);
        if last == b'\r' && filled(file)?.starts_with(b"\n") {
            taken.add(b"\n", self.line_end);
            file.consume(1);
        }
        Ok(Some(Ended {
            taken,
            fields,
            too_long: (content > max_bytes).then_some(content),
        }))
    }
}

/// The first line with its end, LF or CR, or as much of it as names may have.
fn first_line(file: &mut dyn BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    loop {
        let block = filled(file)?;
        let end = block.iter().position(|byte| is_line_end(*byte));
        let used = end.map_or(block.len(), |end| end + 1);
        line.extend_from_slice(&block[..used]);
        file.consume(used);
        if used == 0 || end.is_some() || line.len() as u64 > MAX_NAMES_BYTES {
            return Ok(line);
        }
    }
}

/// The separator that a line before the names tells, as Excel understands it.
fn named_separator(line: &[u8]) -> Option<u8> {
    let (name, rest) = line.split_at_checked(b"sep=".len())?;
    let separator = *rest.first()?;
    let is_alone = rest[1..].iter().all(u8::is_ascii_whitespace);
    let may_separate = separator.is_ascii_punctuation() || separator == b'\t';
    (name.eq_ignore_ascii_case(b"sep=") && is_alone && may_separate && separator != b'"')
        .then_some(separator)
}

/// What separates the names of the columns.
fn separator_of(line: &[u8]) -> u8 {
    let mut is_quoted = false;
    let outside = line.iter().filter(|byte| {
        is_quoted ^= **byte == b'"';
        !is_quoted
    });
    let outside: Vec<u8> = outside.copied().collect();
    let found = SEPARATORS.into_iter().find(|one| outside.contains(one));
    found.unwrap_or(SEPARATORS[0])
}

/// Whether a quoted field of a record goes on behind its closing quote: a quote inside it was not written twice, and where the
/// record ends is a guess.
fn has_stray_quote(record: &[u8], separator: u8) -> bool {
    let mut rest = record;
    loop {
        if let Some(quoted) = rest.strip_prefix(b"\"") {
            rest = quoted;
            loop {
                let Some(quote) = rest.iter().position(|byte| *byte == b'"') else {
                    return false;
                };
                rest = &rest[quote + 1..];
                match rest.first() {
                    Some(b'"') => rest = &rest[1..],
                    Some(after) if *after != separator => return true,
                    _ => break,
                }
            }
        }
        let Some(next) = rest.iter().position(|byte| *byte == separator) else {
            return false;
        };
        rest = &rest[next + 1..];
    }
}

/// Passes over line ends.
fn skip_line_ends(file: &mut dyn BufRead, line_end: u8, taken: &mut Taken) -> io::Result<()> {
    loop {
        let block = filled(file)?;
        let count = block.iter().take_while(|byte| is_line_end(**byte)).count();
        if count == 0 {
            return Ok(());
        }
        taken.add(&block[..count], line_end);
        file.consume(count);
    }
}

fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
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
        let text =
            b"id,q\n1,\"abc\n2,\"def\"\n3,\"a \\\"b\\\" c\"\n4,5\" pipe\n5,\"x\" \n6,\"y\"\n";
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
}
