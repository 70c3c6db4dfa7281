//! Bytes of a plain or packed file to its non-blank lines, with where each one stands.
//!
//! A line ends at `\n` alone; one `\r` before it belongs to the line end. A byte order mark counts
//! only at the very start of a file. Blank lines are counted as lines and give no row. Offsets are
//! in the unpacked bytes. Used by the first pass and by the reader of windows.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Arc, Mutex};

use flate2::bufread::MultiGzDecoder;

/// Bytes read from a file at once.
const READ_BYTES: usize = 1 << 18;

/// UTF-8 byte order mark.
pub(super) const BOM: &[u8] = b"\xEF\xBB\xBF";

/// How a JSONL file is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    /// By the ending, else by the first bytes, which no JSON line begins with.
    fn of(path: &Path, file: &mut File) -> io::Result<Self> {
        let ending = path.extension().unwrap_or_default();
        if ending.eq_ignore_ascii_case("gz") {
            return Ok(Self::Gzip);
        }
        if ending.eq_ignore_ascii_case("zst") {
            return Ok(Self::Zstd);
        }
        let mut magic = Vec::with_capacity(4);
        Read::by_ref(file).take(4).read_to_end(&mut magic)?;
        file.seek(SeekFrom::Start(0))?;
        Ok(match magic.as_slice() {
            [0x1F, 0x8B, ..] => Self::Gzip,
            [0x28, 0xB5, 0x2F, 0xFD] => Self::Zstd,
            _ => Self::Plain,
        })
    }
}

/// One non-blank line. `start..end` is its place in the arena, without line end and mark.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowLine {
    pub(super) start: usize,
    pub(super) end: usize,
    /// Where the line begins in the unpacked file.
    pub(super) offset: u64,
    /// Number from 1.
    pub(super) line: u64,
    /// Bytes with the line end.
    pub(super) bytes: u64,
}

/// blake3 of all bytes that passed.
pub(super) type SharedHasher = Arc<Mutex<blake3::Hasher>>;

/// The non-blank lines of one file, from some offset on.
pub(super) struct Lines {
    reader: Box<dyn BufRead + Send>,
    /// Offset of the next line in the unpacked file.
    pub(super) offset: u64,
    /// Number of the next line, from 1.
    pub(super) line: u64,
}

impl Lines {
    /// Opens a file at its start; the stored bytes go through `hasher`.
    pub(super) fn open(path: &Path, hasher: Option<SharedHasher>) -> io::Result<Self> {
        let mut file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        let packing = Packing::of(path, &mut file)?;
        if packing != Packing::Plain && file.metadata()?.len() == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let stored = BufReader::with_capacity(
            READ_BYTES,
            Hashing {
                inner: file,
                hasher,
            },
        );
        let reader: Box<dyn BufRead + Send> = match packing {
            Packing::Plain => Box::new(stored),
            Packing::Gzip => Box::new(BufReader::with_capacity(
                READ_BYTES,
                MultiGzDecoder::new(stored),
            )),
            Packing::Zstd => Box::new(BufReader::with_capacity(
                READ_BYTES,
                zstd::stream::read::Decoder::with_buffer(stored)?,
            )),
        };
        Ok(Self {
            reader,
            offset: 0,
            line: 1,
        })
    }

    /// Opens a file where a line begins: seeks in a plain file, unpacks and drops in a packed one.
    pub(super) fn open_at(path: &Path, offset: u64, line: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        if Packing::of(path, &mut file)? == Packing::Plain {
            if file.metadata()?.len() < offset {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            file.seek(SeekFrom::Start(offset))?;
            let reader = Box::new(BufReader::with_capacity(READ_BYTES, file));
            return Ok(Self {
                reader,
                offset,
                line,
            });
        }
        let mut lines = Self::open(path, None)?;
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

    /// Appends the next non-blank line to `arena`; `None` at the end of the file.
    pub(super) fn next_row(&mut self, arena: &mut Vec<u8>) -> io::Result<Option<RowLine>> {
        loop {
            let begin = arena.len();
            let bytes = self.reader.read_until(b'\n', arena)? as u64;
            if bytes == 0 {
                return Ok(None);
            }
            let (offset, line) = (self.offset, self.line);
            self.offset += bytes;
            self.line += 1;
            let (start, end) = trim_line(arena, begin, offset == 0);
            if arena[start..end]
                .iter()
                .all(|byte| matches!(byte, b' ' | b'\t' | b'\r'))
            {
                arena.truncate(begin);
                continue;
            }
            return Ok(Some(RowLine {
                start,
                end,
                offset,
                line,
                bytes,
            }));
        }
    }
}

/// The first byte of a file, unpacked, that is neither blank nor of the mark at its start.
pub(super) fn first_byte(path: &Path) -> io::Result<Option<u8>> {
    let mut reader = Lines::open(path, None)?.reader;
    let marked = reader.fill_buf()?.starts_with(BOM);
    reader.consume(if marked { BOM.len() } else { 0 });
    loop {
        let block = reader.fill_buf()?;
        if block.is_empty() {
            return Ok(None);
        }
        let first = block.iter().find(|byte| !byte.is_ascii_whitespace());
        if let Some(&byte) = first {
            return Ok(Some(byte));
        }
        let length = block.len();
        reader.consume(length);
    }
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
