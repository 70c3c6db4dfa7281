//! gzip members and zstd frames to the bytes that they hold.
//!
//! Members and frames may follow one another. Zero bytes between and behind them are skipped, as `gzip` does, because
//! tapes and block devices pad with them. Anything else behind them is an error, because it may be rows that are lost.
//! Used by [`super::lines`].

use std::fs::File;
use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::path::Path;

use flate2::bufread::GzDecoder;
use zstd::stream::read::Decoder as ZstdDecoder;

/// Widest window of a zstd frame: what `zstd` itself unpacks unless told otherwise.
const MAX_WINDOW_LOG: u32 = 27;

/// First bytes of a gzip member.
const GZIP_MAGIC: &[u8] = &[0x1F, 0x8B];

/// First bytes of a zstd frame.
const ZSTD_MAGIC: &[u8] = &[0x28, 0xB5, 0x2F, 0xFD];

/// First bytes of a zstd frame that holds no data, except the lower half of the first one.
const SKIPPABLE_MAGIC: &[u8] = &[0x50, 0x2A, 0x4D, 0x18];

/// How a file is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    Zstd,
}

impl Packing {
    /// By the first bytes, which no JSON line begins with; `None` is plain. The file is left at its start.
    ///
    /// # Errors
    /// A file whose name says that it is packed and that is not.
    pub(super) fn of(path: &Path, file: &mut File) -> io::Result<Option<Self>> {
        let mut begin = Vec::with_capacity(ZSTD_MAGIC.len());
        let length = ZSTD_MAGIC.len() as u64;
        Read::by_ref(file).take(length).read_to_end(&mut begin)?;
        file.seek(SeekFrom::Start(0))?;
        let packing = [Self::Gzip, Self::Zstd]
            .into_iter()
            .find(|packing| packing.begins(&begin));
        match (packing, Self::of_name(path)) {
            (None, Some(named)) if begin.len() < ZSTD_MAGIC.len() && named.may_begin(&begin) => {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            (None, Some(named)) => Err(invalid(format!(
                "its name says {0}, and it does not begin as {0} does",
                named.name()
            ))),
            (packing, _) => Ok(packing),
        }
    }

    fn of_name(path: &Path) -> Option<Self> {
        let ending = path.extension()?;
        if ending.eq_ignore_ascii_case("gz") {
            return Some(Self::Gzip);
        }
        ending.eq_ignore_ascii_case("zst").then_some(Self::Zstd)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// Whether a member or frame begins with these bytes.
    fn begins(self, bytes: &[u8]) -> bool {
        let length = match self {
            Self::Gzip => GZIP_MAGIC.len(),
            Self::Zstd => ZSTD_MAGIC.len(),
        };
        bytes.len() >= length && self.may_begin(bytes)
    }

    /// The same for bytes that may be too few to tell.
    fn may_begin(self, bytes: &[u8]) -> bool {
        let agrees = |magic: &[u8]| bytes.iter().zip(magic).all(|(a, b)| a == b);
        match self {
            Self::Gzip => agrees(GZIP_MAGIC),
            Self::Zstd => {
                let is_skippable = bytes.first().is_none_or(|first| first & 0xF0 == 0x50)
                    && bytes
                        .iter()
                        .zip(SKIPPABLE_MAGIC)
                        .skip(1)
                        .all(|(a, b)| a == b);
                agrees(ZSTD_MAGIC) || is_skippable
            }
        }
    }
}

/// Unpacks members or frames that follow one another.
pub(super) struct Packed<R: BufRead> {
    packing: Packing,
    /// The member or frame that is being read; `None` behind the last one.
    frame: Option<Frame<R>>,
}

enum Frame<R: BufRead> {
    Gzip(Box<GzDecoder<R>>),
    Zstd(Box<ZstdDecoder<'static, R>>),
}

impl<R: BufRead> Frame<R> {
    fn begin(packing: Packing, mut stored: R) -> io::Result<Self> {
        Ok(match packing {
            Packing::Gzip => Self::Gzip(Box::new(GzDecoder::new(stored))),
            Packing::Zstd => {
                refuse_long_window(stored.fill_buf()?)?;
                let mut decoder = ZstdDecoder::with_buffer(stored)?.single_frame();
                decoder.window_log_max(MAX_WINDOW_LOG)?;
                Self::Zstd(Box::new(decoder))
            }
        })
    }

    fn into_inner(self) -> R {
        match self {
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
        }
    }
}

impl<R: BufRead> Packed<R> {
    pub(super) fn new(packing: Packing, stored: R) -> io::Result<Self> {
        let frame = Some(Frame::begin(packing, stored)?);
        Ok(Self { packing, frame })
    }

    /// Begins what follows a member or frame.
    fn next_frame(&self, mut stored: R) -> io::Result<Option<Frame<R>>> {
        loop {
            let block = stored.fill_buf()?;
            if block.is_empty() {
                return Ok(None);
            }
            let zeros = block.iter().take_while(|byte| **byte == 0).count();
            if zeros < block.len() {
                if !self.packing.may_begin(&block[zeros..]) {
                    let name = self.packing.name();
                    return Err(invalid(format!(
                        "something that is not {name} stands behind the packed rows"
                    )));
                }
                stored.consume(zeros);
                return Frame::begin(self.packing, stored).map(Some);
            }
            stored.consume(zeros);
        }
    }
}

impl<R: BufRead> Read for Packed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = match &mut self.frame {
                None => return Ok(0),
                Some(Frame::Gzip(decoder)) => decoder.read(buffer)?,
                Some(Frame::Zstd(decoder)) => decoder.read(buffer)?,
            };
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            if let Some(frame) = self.frame.take() {
                self.frame = self.next_frame(frame.into_inner())?;
            }
        }
    }
}

/// Refuses a zstd frame that would need more memory than the widest window, with its size.
fn refuse_long_window(begin: &[u8]) -> io::Result<()> {
    let window = zstd_window(begin).unwrap_or_default();
    if window <= 1 << MAX_WINDOW_LOG {
        return Ok(());
    }
    Err(invalid(format!(
        "it was packed with a window of {} MiB, over the limit of {} MiB; pack it again: `zstd -dc --long=31 OLD.zst | zstd -o NEW.zst`",
        window >> 20,
        (1 << MAX_WINDOW_LOG) >> 20
    )))
}

/// The window that a zstd frame asks for; `None` where these bytes are none or too few.
///
/// # Source
/// RFC 8878, section 3.1.1.1.
fn zstd_window(begin: &[u8]) -> Option<u64> {
    let header = begin.strip_prefix(ZSTD_MAGIC)?;
    let descriptor = *header.first()?;
    if descriptor & 0x20 == 0 {
        let window = *header.get(1)?;
        let base = 1_u64 << (10 + u32::from(window >> 3));
        return Some(base + base / 8 * u64::from(window & 7));
    }
    // One segment: the window is the content.
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let bytes = 1 << (descriptor >> 6);
    let mut size = [0; 8];
    size[..bytes].copy_from_slice(header.get(1 + dictionary..)?.get(..bytes)?);
    // The form of two bytes begins at 256.
    Some(u64::from_le_bytes(size) + if bytes == 2 { 256 } else { 0 })
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::{Packed, Packing, zstd_window};

    fn unpacked(packing: Packing, stored: &[u8]) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        // Blocks of three bytes: every border falls into a header once.
        let stored = std::io::BufReader::with_capacity(3, stored);
        let read = Packed::new(packing, stored).and_then(|mut packed| packed.read_to_end(&mut out));
        read.map(|_| out).map_err(|error| error.to_string())
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let level = flate2::Compression::fast();
        flate2::bufread::GzEncoder::new(bytes, level)
            .read_to_end(&mut out)
            .unwrap();
        out
    }

    #[test]
    fn zero_bytes_are_padding_and_all_else_is_refused() {
        let zeros = [0; 700];
        let skippable = [&[0x5A, 0x2A, 0x4D, 0x18, 4, 0, 0, 0][..], b"note"].concat();
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        for (packing, one, two) in [
            (Packing::Gzip, gzip(b"one"), gzip(b"two")),
            (Packing::Zstd, zstd(b"one"), zstd(b"two")),
            (
                Packing::Zstd,
                [&skippable[..], &zstd(b"one")].concat(),
                [&skippable[..], &zstd(b"two"), &skippable].concat(),
            ),
        ] {
            for pieces in [
                vec![&one[..], &two],
                vec![&one, &two, &zeros],
                vec![&one, &zeros, &two, &zeros],
            ] {
                assert_eq!(unpacked(packing, &pieces.concat()).unwrap(), b"onetwo");
            }
            for more in ["{\"prompt\": \"x\"}\n", "\0\0{}"] {
                let error = unpacked(packing, &[&one, more.as_bytes()].concat()).unwrap_err();
                let name = packing.name();
                assert_eq!(
                    error,
                    format!("something that is not {name} stands behind the packed rows")
                );
            }
            let cut = unpacked(packing, &[&one[..], &two[..two.len() - 2]].concat());
            assert!(cut.is_err(), "{packing:?}");
        }
    }

    #[test]
    fn the_window_is_read_from_the_header() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.include_contentsize(false).unwrap();
        std::io::Write::write_all(&mut encoder, b"rows").unwrap();
        let mut long = encoder.finish().unwrap();
        long[5] = (28 - 10) << 3;
        assert_eq!(zstd_window(&long), Some(1 << 28));
        let one_segment = zstd::bulk::compress(&[b'x'; 300], 1).unwrap();
        assert_eq!(zstd_window(&one_segment), Some(300));
        assert_eq!(zstd_window(&long[..5]), None);
        assert_eq!(zstd_window(b"rows of JSON"), None);
    }
}
