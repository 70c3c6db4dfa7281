//! Bytes of a plain or packed file to its non-blank lines, or those of the records of a [table](super::table), with the
//! place of each.
//!
//! A line of JSON ends at `\n` alone; one `\r` before it belongs to the line end. A byte order mark counts
//! only at the very start of a file. Blank lines are counted as lines and give no row. Of a line that is
//! longer than a row may be the beginning alone is kept. Offsets are in the unpacked bytes. Used by the
//! first pass and by the reader of windows.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::formats::has_table_ending;
use super::packed::{Packed, Packing};
use super::table::{Record, Table};
use crate::stop::StopFlag;

/// Bytes read from a file at once.
const READ_BYTES: usize = 1 << 18;

/// UTF-8 byte order mark.
pub(super) const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Bytes of a line that is too long which are kept, for people to see what it is.
const KEPT_OF_LONG: usize = 1000;

/// What a line may have besides its content: a mark in front, CR LF behind.
const AROUND_CONTENT: u64 = BOM.len() as u64 + 2;

/// One non-blank line. `start..end` is its place in the arena, without line end and mark.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowLine {
    pub(super) start: usize,
    pub(super) end: usize,
    /// Where the line begins in the unpacked file.
    pub(super) offset: u64,
    /// Number from 1.
    pub(super) line: u64,
    /// Bytes with the line end; of a table's record those of its line, where that is longer.
    pub(super) bytes: u64,
    /// Why the line has no fields; the arena then holds the line itself.
    pub(super) unread: Option<Unread>,
}

/// Why the fields of a line are not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// Its content has so many bytes, which is more than a row may have; the arena holds its beginning.
    TooLong(u64),
    /// A record of a table that has more or fewer fields than the first line.
    Ragged { fields: u32, columns: u32 },
    /// A record of a table in which a quoted field goes on behind its closing quote.
    StrayQuote,
}

/// blake3 of all bytes that passed.
pub(super) type SharedHasher = Arc<Mutex<blake3::Hasher>>;

/// The non-blank lines of one file, or the records of a table, from some offset on.
pub(super) struct Lines {
    reader: Box<dyn BufRead + Send>,
    /// Where the file is a table, what makes lines of its records.
    table: Option<Box<Table>>,
    /// Offset of the next line in the unpacked file.
    pub(super) offset: u64,
    /// Number of the next line, from 1.
    pub(super) line: u64,
}

impl Lines {
    /// Opens a file at its start; the stored bytes go through `hasher`.
    pub(super) fn open(
        path: &Path,
        hasher: Option<SharedHasher>,
        stop: &StopFlag,
    ) -> io::Result<Self> {
        let mut reader = unpacked(path, hasher, stop)?;
        let (table, before) = Table::begin(path, &mut *reader)?;
        Ok(Self {
            reader,
            table: table.map(Box::new),
            offset: before.bytes,
            line: 1 + before.lines,
        })
    }

    /// Opens a file where a line begins: seeks in a plain file, unpacks and drops in a packed one.
    pub(super) fn open_at(
        path: &Path,
        offset: u64,
        line: u64,
        stop: &StopFlag,
    ) -> io::Result<Self> {
        let mut file = File::open(path)?;
        if Packing::of(path, &mut file)?.is_none() {
            if file.metadata()?.len() < offset {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            file.seek(SeekFrom::Start(offset))?;
            let reader = Interruptible {
                inner: file,
                stop: stop.clone(),
            };
            let reader = Box::new(BufReader::with_capacity(READ_BYTES, reader));
            let table = if has_table_ending(path) {
                // The names of the columns are at its start.
                Self::open(path, None, stop)?.table
            } else {
                None
            };
            return Ok(Self {
                reader,
                table,
                offset,
                line,
            });
        }
        let mut lines = Self::open(path, None, stop)?;
        lines.skip_to(offset, line)?;
        Ok(lines)
    }

    /// Drops everything before `offset`, where line `line` begins.
    pub(super) fn skip_to(&mut self, offset: u64, line: u64) -> io::Result<()> {
        let distance = offset - self.offset;
        let skipped = io::copy(
            &mut Read::by_ref(&mut self.reader).take(distance),
            &mut io::sink(),
        )?;
        if skipped < distance {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        (self.offset, self.line) = (offset, line);
        Ok(())
    }

    /// Appends the next non-blank line to `arena`, or the beginning of one with more than `max_bytes`;
    /// `None` at the end of the file.
    pub(super) fn next_row(
        &mut self,
        arena: &mut Vec<u8>,
        max_bytes: u64,
    ) -> io::Result<Option<RowLine>> {
        if let Some(mut table) = self.table.take() {
            let record = self.next_record(&mut table, arena, max_bytes);
            self.table = Some(table);
            return record;
        }
        loop {
            let begin = arena.len();
            let most = max_bytes.saturating_add(AROUND_CONTENT);
            let mut bytes = (&mut self.reader).take(most).read_until(b'\n', arena)? as u64;
            if bytes == 0 {
                return Ok(None);
            }
            let (offset, line) = (self.offset, self.line);
            let (start, end) = trim_line(arena, begin, offset == 0);
            let mut blank = is_blank(&arena[start..end]);
            let mut content = (end - start) as u64;
            if bytes == most && !arena.ends_with(b"\n") {
                let rest = self.drop_line()?;
                bytes += rest.bytes;
                content += rest.bytes - rest.line_end;
                blank &= rest.is_blank;
            }
            self.offset += bytes;
            self.line += 1;
            if blank {
                arena.truncate(begin);
                continue;
            }
            let too_long = (content > max_bytes).then_some(content);
            let end = match too_long {
                None => end,
                Some(_) => shortened(arena, start, end),
            };
            return Ok(Some(RowLine {
                start,
                end,
                offset,
                line,
                bytes,
                unread: too_long.map(Unread::TooLong),
            }));
        }
    }

    /// The same for the records of a table.
    fn next_record(
        &mut self,
        table: &mut Table,
        arena: &mut Vec<u8>,
        max_bytes: u64,
    ) -> io::Result<Option<RowLine>> {
        loop {
            let blank = table.skip_blank(&mut *self.reader)?;
            self.offset += blank.bytes;
            self.line += blank.lines;
            let (offset, line, start) = (self.offset, self.line, arena.len());
            let read = table.next_record(&mut *self.reader, arena, max_bytes, line)?;
            let Some(Record {
                taken,
                unread,
                is_blank,
            }) = read
            else {
                return Ok(None);
            };
            self.offset += taken.bytes;
            self.line += taken.lines;
            if is_blank {
                arena.truncate(start);
                continue;
            }
            let mut end = arena.len();
            if let Some(Unread::TooLong(_)) = unread {
                end = shortened(arena, start, end);
            }
            return Ok(Some(RowLine {
                start,
                end,
                offset,
                line,
                // What a window holds is the line, which has the names of the columns too.
                bytes: taken.bytes.max((end - start) as u64),
                unread,
            }));
        }
    }

    /// Reads to the end of a line without keeping it.
    fn drop_line(&mut self) -> io::Result<Dropped> {
        let mut dropped = Dropped {
            bytes: 0,
            line_end: 0,
            is_blank: true,
        };
        let mut last = 0;
        loop {
            let block = match self.reader.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                block => block?,
            };
            let end = block.iter().position(|byte| *byte == b'\n');
            let content = &block[..end.unwrap_or(block.len())];
            dropped.is_blank &= is_blank(content);
            last = content.last().copied().unwrap_or(last);
            let used = content.len() + usize::from(end.is_some());
            let is_over = used == 0 || end.is_some();
            self.reader.consume(used);
            dropped.bytes += used as u64;
            if is_over {
                if end.is_some() {
                    dropped.line_end = if last == b'\r' { 2 } else { 1 };
                }
                return Ok(dropped);
            }
        }
    }
}

/// The part of a line that was not kept.
struct Dropped {
    bytes: u64,
    /// How many of them belong to the line end.
    line_end: u64,
    is_blank: bool,
}

fn is_blank(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .all(|byte| matches!(byte, b' ' | b'\t' | b'\r'))
}

/// Cuts a line that is too long down to its beginning, at the border of a character; returns its new end.
fn shortened(arena: &mut Vec<u8>, start: usize, end: usize) -> usize {
    let mut kept = end.min(start + KEPT_OF_LONG);
    let borders = start.max(kept.saturating_sub(3))..kept;
    if let Some(border) = borders.rev().find(|at| arena[*at] & 0xC0 != 0x80)
        && std::str::from_utf8(&arena[border..kept]).is_err()
    {
        kept = border;
    }
    arena.truncate(kept);
    kept
}

/// The bytes of a file, unpacked; the stored ones go through `hasher`.
fn unpacked(
    path: &Path,
    hasher: Option<SharedHasher>,
    stop: &StopFlag,
) -> io::Result<Box<dyn BufRead + Send>> {
    let mut file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::Error::from(io::ErrorKind::IsADirectory));
    }
    let packing = Packing::of(path, &mut file)?;
    let stored = BufReader::with_capacity(
        READ_BYTES,
        Interruptible {
            inner: Hashing {
                inner: file,
                hasher,
            },
            stop: stop.clone(),
        },
    );
    Ok(match packing {
        None => Box::new(stored),
        Some(packing) => Box::new(BufReader::with_capacity(
            READ_BYTES,
            Interruptible {
                inner: Packed::new(packing, stored)?,
                stop: stop.clone(),
            },
        )),
    })
}

/// The first bytes of a file, unpacked, and whether they are all of it.
pub(super) fn head(path: &Path, most: u64) -> io::Result<(Vec<u8>, bool)> {
    let mut head = Vec::new();
    unpacked(path, None, &StopFlag::default())?
        .take(most + 1)
        .read_to_end(&mut head)?;
    let is_whole = head.len() as u64 <= most;
    head.truncate(most as usize);
    Ok((head, is_whole))
}

/// Range of a line in the arena without its line end and, at the start of a file, its mark.
fn trim_line(arena: &[u8], begin: usize, first: bool) -> (usize, usize) {
    let mut end = arena.len();
    if arena[begin..end].ends_with(b"\n") {
        end -= 1;
        if arena[begin..end].ends_with(b"\r") {
            end -= 1;
        }
    }
    let marked = first && arena[begin..end].starts_with(BOM);
    (if marked { begin + BOM.len() } else { begin }, end)
}

/// Fails as soon as reading should end early. It looks for every buffer, since a packed line may go on for hours.
struct Interruptible<R> {
    inner: R,
    stop: StopFlag,
}

impl<R: Read> Read for Interruptible<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_requested() {
            // `ErrorKind::Interrupted` would be tried again.
            return Err(io::Error::other("interrupted"));
        }
        self.inner.read(buffer)
    }
}

struct Hashing {
    inner: File,
    hasher: Option<SharedHasher>,
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if let Some(hasher) = &self.hasher {
            let mut hasher = hasher
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            hasher.update(&buffer[..count]);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Says after some questions that reading should end, and counts them.
    fn soon(asked: &Arc<AtomicUsize>) -> StopFlag {
        let asked = Arc::clone(asked);
        StopFlag::asking(move || asked.fetch_add(1, Ordering::Relaxed) >= 4)
    }

    #[test]
    fn a_line_without_end_is_left_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zeros.jsonl.zst");
        let zeros = vec![b'0'; 64 << 20];
        std::fs::write(&path, zstd::encode_all(&zeros[..], 1).unwrap()).unwrap();
        for most in [10, u64::MAX] {
            let asked = Arc::new(AtomicUsize::new(0));
            let mut lines = Lines::open(&path, None, &soon(&asked)).unwrap();
            assert!(lines.next_row(&mut Vec::new(), most).is_err());
            assert_eq!(asked.load(Ordering::Relaxed), 5);
        }
        let asked = Arc::new(AtomicUsize::new(0));
        assert!(Lines::open_at(&path, 60 << 20, 2, &soon(&asked)).is_err());
        assert_eq!(asked.load(Ordering::Relaxed), 5);
    }

    #[test]
    fn a_line_of_no_characters_is_cut_inside_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        std::fs::write(&path, b"7\n\x80\x80\n").unwrap();
        let mut lines = Lines::open(&path, None, &StopFlag::default()).unwrap();
        let mut arena = Vec::new();
        lines.next_row(&mut arena, 1).unwrap().unwrap();
        let line = lines.next_row(&mut arena, 1).unwrap().unwrap();
        assert_eq!(line.unread, Some(Unread::TooLong(2)));
        assert!(line.start <= line.end && line.end == arena.len());
    }
}
