//! Records of CSV and TSV files to JSON lines, so that all that follows reads one kind of rows.
//!
//! The first record names the columns. Every value is a text: to guess numbers would change ids such as `007`. An empty
//! field is null, quoted or not. A column without a name is left out: it is mostly the index that pandas writes. A record
//! of separators alone is passed over as a blank line is: spreadsheets write such rows at the end.
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
    /// Whether it holds separators alone; such a record is not a row.
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
    /// A quote is never closed, so the rows behind it cannot be told apart.
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
mod tests;
