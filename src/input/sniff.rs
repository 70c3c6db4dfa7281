//! The beginning of a file to what it is instead of JSON lines, a table or Parquet, with the cure.
//!
//! A file counts as another format only if none of its first lines is a JSON object. One good row is enough to read it:
//! everything else between the rows makes bad rows, which the job records, so that a few broken lines at the
//! beginning of a large file do not stop the job. The first pass asks for this before it reads.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::de::IgnoredAny;

use super::error::InputError;
use super::fields::Fields;
use super::formats::{KNOWN_ENDINGS, TABLE_ENDINGS, has_known_ending, has_table_ending, has_tabs};
use super::lines::{BOM, Lines, head};
use super::table::{NoTable, begins_object};
use super::types::InputFormat;
use crate::download::LFS_POINTER;
use crate::job::Rules;
use crate::stop::StopFlag;

/// Non-blank lines that are looked at.
const HEAD_LINES: usize = 100;

/// Bytes that are looked at, at most.
const HEAD_BYTES: u64 = 1 << 20;

/// First bytes of Parquet files, the second of those with an encrypted footer.
const PARQUET_MAGIC: [&[u8]; 2] = [b"PAR1", b"PARE"];

/// First bytes of other formats, what they are, and the cure.
const MAGIC: [(&[u8], &str, &str); 12] = [
    (
        b"PAR1",
        "a Parquet file",
        "give it a name that ends in `.parquet`",
    ),
    (b"ARROW1", "an Arrow IPC (Feather) file", TO_PARQUET),
    (b"ORC", "an ORC file", TO_PARQUET),
    (b"Obj\x01", "an Avro file", TO_PARQUET),
    (b"\x89HDF", "an HDF5 file", TO_PARQUET),
    (b"SQLite format 3", "an SQLite database", TO_PARQUET),
    (b"%PDF", "a PDF", TO_PARQUET),
    (b"\x7FELF", "a program", TO_PARQUET),
    (b"PK\x03\x04", "a zip archive", UNPACK),
    (b"BZh", "packed with bzip2", UNPACK),
    (b"\xFD7zXZ", "packed with xz", UNPACK),
    (b"\x04\x22\x4D\x18", "packed with lz4", UNPACK),
];

/// What the archives of Microsoft's and other Office programs begin with.
const OFFICE: [&[u8]; 2] = [
    b"[Content_Types].xml",
    b"mimetypeapplication/vnd.oasis.opendocument",
];

const TO_PARQUET: &str = "write its rows as Parquet or as JSON lines";
const UNPACK: &str = "unpack it; gzip and zstd are read as they are";

/// What a file is, in words that follow "is", and what helps.
struct Stranger {
    what: String,
    cure: String,
}

impl Stranger {
    fn new(what: &str, cure: impl Into<String>) -> Self {
        Self {
            what: what.to_owned(),
            cure: cure.into(),
        }
    }
}

/// Refuses a file of another format. One that cannot be read is left to the first pass, which names all of
/// them.
pub(super) fn refuse_other_format(path: &Path, format: InputFormat) -> Result<(), InputError> {
    let stranger = match format {
        InputFormat::Parquet => parquet_stranger(path),
        InputFormat::Jsonl => lines_stranger(path),
    };
    match stranger {
        Ok(Some(Stranger { what, cure })) => Err(InputError::OtherFormat {
            path: path.to_owned(),
            what,
            cure,
        }),
        Ok(None) | Err(_) => Ok(()),
    }
}

fn stored_head(path: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path)?.take(4096).read_to_end(&mut head)?;
    Ok(head)
}

fn parquet_stranger(path: &Path) -> io::Result<Option<Stranger>> {
    let head = stored_head(path)?;
    if PARQUET_MAGIC.iter().any(|magic| head.starts_with(magic)) {
        return Ok(None);
    }
    Ok(by_signature(&head))
}

fn lines_stranger(path: &Path) -> io::Result<Option<Stranger>> {
    let Ok((head, is_whole)) = head(path, HEAD_BYTES) else {
        // Somebody may have unpacked a file and kept its name.
        return Ok(by_signature(&stored_head(path)?));
    };
    let text = head.strip_prefix(BOM).unwrap_or(&head);
    let name = Shown::new(path);
    if has_table_ending(path) && !begins_object(&head) {
        let is_text = !text.contains(&0) && is_utf8(text);
        // Names of columns may begin as the magic numbers do that are words.
        let by_magic = || (!is_text).then(|| by_magic(text)).flatten();
        return Ok(by_text(text)
            .or_else(by_magic)
            .or_else(|| wide_text(&head, &name))
            .or_else(|| json_value(text, is_whole, &name))
            .or_else(|| other_encoding(text, |line| !line.is_ascii(), &name))
            .or_else(|| no_table(path)));
    }
    if has_object(text, is_whole) {
        return Ok(None);
    }
    let stranger = by_signature(text)
        .or_else(|| wide_text(&head, &name))
        .or_else(|| json_value(text, is_whole, &name))
        .or_else(|| other_encoding(text, begins_object, &name));
    let first = text.iter().find(|byte| !byte.is_ascii_whitespace());
    Ok(match (stranger, first) {
        (None, Some(byte)) if *byte != b'{' && !has_known_ending(path) => Some(unknown()),
        (stranger, _) => stranger,
    })
}

/// Whether one of the first lines is a JSON object, or may be one that goes on behind the head.
fn has_object(head: &[u8], is_whole: bool) -> bool {
    let mut lines = head
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.trim_ascii().is_empty())
        .peekable();
    let mut seen = 0;
    while let Some(line) = lines.next() {
        let is_cut = lines.peek().is_none() && !is_whole;
        let begins = line.trim_ascii_start().starts_with(b"{");
        if begins && (is_cut || Fields::parse(line.trim_ascii_end(), Rules::CURRENT).is_ok()) {
            return true;
        }
        seen += 1;
        if seen == HEAD_LINES {
            return false;
        }
    }
    false
}

/// Formats that are known by their first bytes.
fn by_signature(head: &[u8]) -> Option<Stranger> {
    by_text(head).or_else(|| by_magic(head))
}

/// Those that are no text.
fn by_magic(head: &[u8]) -> Option<Stranger> {
    let has = |name: &[u8]| head.windows(name.len()).any(|part| part == name);
    let is_sheet = |name| head.starts_with(b"PK\x03\x04") && has(name);
    if head.starts_with(b"\xD0\xCF\x11\xE0") || OFFICE.into_iter().any(is_sheet) {
        let what = "an Excel workbook or another Office document";
        let cure = "save the sheet with the rows as \"CSV UTF-8\", or write its rows as Parquet";
        return Some(Stranger::new(what, cure));
    }
    let (_, what, cure) = MAGIC.iter().find(|(magic, ..)| head.starts_with(magic))?;
    Some(Stranger::new(what, *cure))
}

/// Those that are text.
fn by_text(head: &[u8]) -> Option<Stranger> {
    if head.starts_with(LFS_POINTER) {
        let what = "a Git LFS pointer, not the file itself";
        return Some(Stranger::new(
            what,
            "fetch the file itself: `git lfs pull`, or download it from where the repository is",
        ));
    }
    let text = head.strip_prefix(BOM).unwrap_or(head).trim_ascii_start();
    let begins = |with: &[u8]| {
        text.get(..with.len())
            .is_some_and(|text| text.eq_ignore_ascii_case(with))
    };
    if begins(b"<!doctype html") || begins(b"<html") {
        let cure = "it may be the page of a login or of an error; download the file itself";
        return Some(Stranger::new("an HTML page", cure));
    }
    (begins(b"<?xml") || begins(b"<!--")).then(|| Stranger::new("XML", TO_PARQUET))
}

/// Whether bytes are UTF-8, but for a character that they break off in.
fn is_utf8(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).map_or_else(|error| error.error_len().is_none(), |_| true)
}

/// UTF-16 and UTF-32, by their mark or by the zero bytes of their first two signs.
fn wide_text(head: &[u8], name: &Shown<'_>) -> Option<Stranger> {
    let marked = match head {
        [0xFF, 0xFE, 0, 0, ..] | [0, 0, 0xFE, 0xFF, ..] => Some("UTF-32"),
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => Some("UTF-16"),
        _ => None,
    };
    // What JSON begins with is ASCII.
    let is_zero = |places: [usize; 4]| places.map(|at| head.get(at).map(|byte| *byte == 0));
    let (yes, no) = (Some(true), Some(false));
    let by_zeros = || match (is_zero([0, 1, 2, 3]), is_zero([4, 5, 6, 7])) {
        (a, b) if a == b && a == [no, yes, yes, yes] => Some("UTF-32LE"),
        (a, b) if a == b && a == [yes, yes, yes, no] => Some("UTF-32BE"),
        (a, _) if a == [no, yes, no, yes] => Some("UTF-16LE"),
        (a, _) if a == [yes, no, yes, no] => Some("UTF-16BE"),
        _ => None,
    };
    let encoding = marked.or_else(by_zeros)?;
    let cure = format!(
        "convert it: `{} | iconv -f {encoding} -t UTF-8 > {}`",
        name.printed(),
        name.beside(&format!("utf8.{}", name.ending()))
    );
    Some(Stranger::new(
        &format!("{encoding} text; {} are UTF-8", name.kind()),
        cure,
    ))
}

/// Lines that tell the encoding, none of which is UTF-8.
fn other_encoding(text: &[u8], tells: fn(&[u8]) -> bool, name: &Shown<'_>) -> Option<Stranger> {
    let mut lines = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.trim_ascii().is_empty())
        .take(HEAD_LINES)
        .filter(|line| tells(line))
        .peekable();
    lines.peek()?;
    lines.all(|line| !is_utf8(line)).then(|| {
        let cure = format!(
            "convert it; Chinese text is often GB18030: `{} | iconv -f GB18030 -t UTF-8 > {}`",
            name.printed(),
            name.beside(&format!("utf8.{}", name.ending()))
        );
        let what = format!("text in another encoding; {} are UTF-8", name.kind());
        Stranger::new(&what, cure)
    })
}

/// A file whose first lines are not those of a table.
fn no_table(path: &Path) -> Option<Stranger> {
    let read = || {
        let mut lines = Lines::open(path, None, &StopFlag::default())?;
        for _ in 0..HEAD_LINES {
            lines.next_row(&mut Vec::new(), HEAD_BYTES)?;
        }
        Ok(())
    };
    let error: io::Error = read().err()?;
    let NoTable { what, cure } = error.get_ref()?.downcast_ref()?;
    Some(Stranger::new(what, *cure))
}

/// One JSON value over many lines, or lines of arrays.
fn json_value(text: &[u8], is_whole: bool, name: &Shown<'_>) -> Option<Stranger> {
    let text = text.trim_ascii_start();
    let filter = match text.first() {
        Some(b'[') => ".[]",
        Some(b'{') => ".",
        _ => return None,
    };
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
    let what = match (values.next(), filter) {
        (Some(Ok(_)), ".[]") if has_array_behind(&text[values.byte_offset()..]) => {
            return Some(Stranger::new(
                "lines of JSON arrays, not of objects",
                "write each row as an object with the names of its columns",
            ));
        }
        (Some(Ok(_)), ".") if !text[..values.byte_offset()].contains(&b'\n') => return None,
        (Some(Ok(_)), ".[]") => "a JSON array, not JSON lines",
        (Some(Ok(_)), _) => "one JSON object over many lines, not JSON lines",
        (Some(Err(error)), ".[]") if error.is_eof() && !is_whole => "a JSON array, not JSON lines",
        (Some(Err(error)), ".") if error.is_eof() && !is_whole => {
            "JSON over many lines, not JSON lines"
        }
        _ => return None,
    };
    let cure = format!(
        "write one object a line, for example with `{} > {}`",
        name.through(&format!("jq -c '{filter}'")),
        name.beside("jsonl")
    );
    Some(Stranger::new(what, cure))
}

fn has_array_behind(rest: &[u8]) -> bool {
    rest.trim_ascii_start().starts_with(b"[")
}

/// A file's name in commands that are shown.
struct Shown<'a> {
    path: &'a Path,
    name: String,
    unpack: Option<&'static str>,
}

impl<'a> Shown<'a> {
    fn new(path: &'a Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let ending = path.extension().unwrap_or_default();
        let unpack = match ending {
            ending if ending.eq_ignore_ascii_case("gz") => Some("gzip -dc"),
            ending if ending.eq_ignore_ascii_case("zst") => Some("zstd -dc"),
            _ => None,
        };
        Self {
            path,
            name: name.into_owned(),
            unpack,
        }
    }

    /// What its name says that it holds.
    fn kind(&self) -> &'static str {
        if has_table_ending(self.path) {
            "CSV and TSV files"
        } else {
            "JSON lines"
        }
    }

    /// The ending for what it holds as UTF-8.
    fn ending(&self) -> &'static str {
        if has_tabs(self.path) {
            "tsv"
        } else if has_table_ending(self.path) {
            "csv"
        } else {
            "jsonl"
        }
    }

    /// The command that prints the file unpacked.
    fn printed(&self) -> String {
        format!("{} {}", self.unpack.unwrap_or("cat"), quoted(&self.name))
    }

    /// A command that reads the file unpacked.
    fn through(&self, command: &str) -> String {
        match self.unpack {
            None => format!("{command} {}", quoted(&self.name)),
            Some(_) => format!("{} | {command}", self.printed()),
        }
    }

    /// A name for what is made of the file, other than its own.
    fn beside(&self, ending: &str) -> String {
        let lower = self.name.to_lowercase();
        let known = KNOWN_ENDINGS
            .iter()
            .chain(&TABLE_ENDINGS)
            .filter(|known| lower.ends_with(*known))
            .map(|known| known.len())
            .max();
        let length = known.unwrap_or_else(|| {
            let ending = self.path.extension().map_or(0, |ending| ending.len() + 1);
            ending.min(self.name.len())
        });
        let stem = self.name.get(..self.name.len() - length);
        let stem = stem.unwrap_or(&self.name);
        let beside = format!("{stem}.{ending}");
        quoted(&if beside == self.name {
            format!("{stem}.lines.{ending}")
        } else {
            beside
        })
    }
}

/// A file of no known ending that does not begin as any input does.
fn unknown() -> Stranger {
    let cure = format!(
        "give it the ending of what it is, or convert it to one of {}, {}; JSON lines hold a JSON object in each line",
        KNOWN_ENDINGS.join(", "),
        TABLE_ENDINGS.join(", ")
    );
    Stranger::new("neither JSON lines nor Parquet", cure)
}

/// A name as a shell reads it.
fn quoted(name: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "._-+=@%,:/".contains(c);
    let option = if name.starts_with('-') { "./" } else { "" };
    if name.chars().all(is_plain) {
        format!("{option}{name}")
    } else {
        format!("{option}'{}'", name.replace('\'', r"'\''"))
    }
}
