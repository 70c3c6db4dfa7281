//! The bytes of a footer to the columns that are encrypted.
//!
//! A footer in plain text may list encrypted columns; the decoder of footers passes over what says so and would
//! take their pages for damaged ones. The footer is Thrift in its compact protocol: everything is skipped but
//! the row groups and their column chunks. It is read after that decoder has accepted it, so that what does not
//! parse here is simply not encrypted.
//!
//! # Source
//! `parquet.thrift` of apache/parquet-format: `FileMetaData`, `RowGroup`, `ColumnChunk`, `ColumnCryptoMetaData`.

/// `FileMetaData.row_groups`
const ROW_GROUPS: i64 = 4;
/// `RowGroup.columns`
const COLUMNS: i64 = 1;
/// `ColumnChunk.meta_data`, and in it `path_in_schema`
const META_DATA: i64 = 3;
const PATH_OF_META_DATA: i64 = 3;
/// `ColumnChunk.crypto_metadata`, in it the kind with a key of its own, and in that `path_in_schema`
const CRYPTO: i64 = 8;
const COLUMN_KEY: i64 = 2;
const PATH_OF_COLUMN_KEY: i64 = 1;

const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
const STRUCT: u8 = 12;

/// Levels below which a footer has nothing that we look for; damaged bytes could name endless ones.
const MAX_DEPTH: u32 = 32;

/// Paths of the encrypted columns, each once, in order.
pub(super) fn encrypted_columns(footer: &[u8]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut bytes = Compact(footer);
    let _ = bytes.fields(|bytes, id, kind| {
        if (id, kind) != (ROW_GROUPS, LIST) {
            return bytes.skip(kind, 0);
        }
        bytes.items(|bytes, _| {
            bytes.fields(|bytes, id, kind| {
                if (id, kind) != (COLUMNS, LIST) {
                    return bytes.skip(kind, 0);
                }
                bytes.items(|bytes, _| {
                    let chunk = chunk(bytes)?;
                    if chunk.is_encrypted && !found.contains(&chunk.path) {
                        found.push(chunk.path);
                    }
                    Some(())
                })
            })
        })
    });
    found
}

#[derive(Default)]
struct Chunk {
    path: String,
    is_encrypted: bool,
}

fn chunk(bytes: &mut Compact<'_>) -> Option<Chunk> {
    let mut chunk = Chunk::default();
    bytes.fields(|bytes, id, kind| match (id, kind) {
        (META_DATA, STRUCT) => bytes.fields(|bytes, id, kind| match (id, kind) {
            (PATH_OF_META_DATA, LIST) => {
                chunk.path = bytes.path()?;
                Some(())
            }
            _ => bytes.skip(kind, 0),
        }),
        (CRYPTO, STRUCT) => {
            chunk.is_encrypted = true;
            bytes.fields(|bytes, id, kind| match (id, kind) {
                (COLUMN_KEY, STRUCT) => bytes.fields(|bytes, id, kind| match (id, kind) {
                    (PATH_OF_COLUMN_KEY, LIST) => {
                        chunk.path = bytes.path()?;
                        Some(())
                    }
                    _ => bytes.skip(kind, 0),
                }),
                _ => bytes.skip(kind, 0),
            })
        }
        _ => bytes.skip(kind, 0),
    })?;
    Some(chunk)
}

/// What is left of some bytes in the compact protocol. `None` where they are not in it.
struct Compact<'a>(&'a [u8]);

impl<'a> Compact<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(count).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// Gives the number and kind of each field of a struct to `each`, which must read or skip it.
    fn fields(&mut self, mut each: impl FnMut(&mut Self, i64, u8) -> Option<()>) -> Option<()> {
        let mut id = 0;
        loop {
            let header = self.byte()?;
            if header == 0 {
                return Some(());
            }
            id = match header >> 4 {
                0 => {
                    let zigzag = self.varint()?;
                    (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64)
                }
                step => id + i64::from(step),
            };
            each(self, id, header & 0x0F)?;
        }
    }

    /// Gives the kind of each item of a list to `each`, which must read or skip it.
    fn items(&mut self, mut each: impl FnMut(&mut Self, u8) -> Option<()>) -> Option<()> {
        let header = self.byte()?;
        let count = match header >> 4 {
            15 => self.varint()?,
            count => u64::from(count),
        };
        for _ in 0..count {
            each(self, header & 0x0F)?;
        }
        Some(())
    }

    fn path(&mut self) -> Option<String> {
        let mut parts = Vec::new();
        self.items(|bytes, kind| {
            if kind != BINARY {
                return bytes.skip_item(kind, 0);
            }
            let length = bytes.varint()?;
            parts.push(String::from_utf8_lossy(bytes.take(length)?).into_owned());
            Some(())
        })?;
        Some(parts.join("."))
    }

    /// Passes over the value of a field.
    fn skip(&mut self, kind: u8, depth: u32) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        match kind {
            // The kind of a truth value is the value.
            1 | 2 => Some(()),
            3 => self.byte().map(drop),
            4..=6 => self.varint().map(drop),
            7 => self.take(8).map(drop),
            BINARY => {
                let length = self.varint()?;
                self.take(length).map(drop)
            }
            LIST | SET => self.items(|bytes, kind| bytes.skip_item(kind, depth + 1)),
            MAP => self.skip_map(depth + 1),
            STRUCT => self.fields(|bytes, _, kind| bytes.skip(kind, depth + 1)),
            _ => None,
        }
    }

    /// Passes over an item of a list, where a truth value takes a byte.
    fn skip_item(&mut self, kind: u8, depth: u32) -> Option<()> {
        match kind {
            1 | 2 => self.byte().map(drop),
            _ => self.skip(kind, depth),
        }
    }

    fn skip_map(&mut self, depth: u32) -> Option<()> {
        let count = self.varint()?;
        if count == 0 {
            return Some(());
        }
        let kinds = self.byte()?;
        for _ in 0..count {
            self.skip_item(kinds >> 4, depth)?;
            self.skip_item(kinds & 0x0F, depth)?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::encrypted_columns;

    /// A footer with one row group of two columns; the second one is encrypted with a key of its own.
    const FOOTER: &[u8] = &[
        0x15, 0x02, // version = 1
        0x39, 0x1C, // row_groups, a list of one struct
        0x19, 0x2C, // columns, a list of two structs
        0x3C, 0x39, 0x18, 0x01, b'a', 0x00, 0x00, // meta_data { path_in_schema = ["a"] }
        0x3C, 0x39, 0x18, 0x01, b'b', 0x00, // meta_data { path_in_schema = ["b"] }
        0x5C, 0x2C, 0x19, 0x28, 0x01, b'b', 0x01, b'c', 0x00, 0x00, // crypto_metadata
        0x00, 0x00, // ends of the chunk and of the row group
        0x00,
    ];

    #[test]
    fn encrypted_columns_are_named() {
        assert_eq!(encrypted_columns(FOOTER), ["b.c"]);
        for cut in 0..FOOTER.len() {
            assert!(encrypted_columns(&FOOTER[..cut]).len() < 2);
        }
        assert!(encrypted_columns(&[0x39, 0xFF, 0xFF, 0xFF]).is_empty());
    }
}
