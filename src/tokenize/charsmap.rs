//! SentencePiece's precompiled character map: a place in a text to its replacement.
//!
//! The blob is a double-array trie of UTF-8 sources (in the layout of darts-clone) and the
//! replacements, each ended by NUL. The *longest* source at a place wins. A damaged blob is found
//! when it is read or leads to "no match"; no lookup reads outside it.

/// Bits of a unit that say nothing about a label.
const VALUE_MASK: u32 = (1 << 31) - 1;
/// Bits that hold a label; the top bit marks a value and so never equals a byte.
const LABEL_MASK: u32 = (1 << 31) | 0xff;

/// A character map.
#[derive(Debug)]
pub(super) struct Charsmap {
    units: Vec<u32>,
    replacements: String,
}

impl Charsmap {
    /// Reads the blob: trie size in bytes, trie, replacements. All numbers are little-endian.
    ///
    /// # Errors
    /// A sentence that says what does not fit.
    pub(super) fn parse(blob: &[u8]) -> Result<Self, String> {
        let (size, rest) = blob
            .split_first_chunk::<4>()
            .ok_or("the character map has no size".to_owned())?;
        let size = u32::from_le_bytes(*size) as usize;
        if !size.is_multiple_of(4) || size > rest.len() {
            return Err(format!(
                "the character map is {} bytes, its trie {size}",
                rest.len()
            ));
        }
        let (trie, replacements) = rest.split_at(size);
        let units = trie
            .chunks_exact(4)
            .map(|unit| u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]]))
            .collect();
        let replacements = String::from_utf8(replacements.to_vec())
            .map_err(|_| "the replacements of the character map are not UTF-8".to_owned())?;
        Ok(Self {
            units,
            replacements,
        })
    }

    /// The replacement of the longest source at the start of `text`, with the source's bytes.
    pub(super) fn longest_match(&self, text: &[u8]) -> Option<(&str, usize)> {
        let mut found = None;
        let mut node = offset(*self.units.first()?);
        for (position, &byte) in text.iter().enumerate() {
            node ^= usize::from(byte);
            let Some(&unit) = self.units.get(node) else {
                break;
            };
            if unit & LABEL_MASK != u32::from(byte) {
                break;
            }
            node ^= offset(unit);
            if has_value(unit) {
                let Some(&value) = self.units.get(node) else {
                    break;
                };
                found = Some(((value & VALUE_MASK) as usize, position + 1));
            }
        }
        let (start, length) = found?;
        let replacement = self.replacements.get(start..)?;
        let end = replacement.find('\0').unwrap_or(replacement.len());
        Some((&replacement[..end], length))
    }
}

/// Distance to a node's children.
fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize
}

/// Whether a source ends at this node.
fn has_value(unit: u32) -> bool {
    (unit >> 8) & 1 == 1
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A map with the sources `a` to `b`, `ab` to `c `, `é` to nothing, laid out by hand.
    pub(in crate::tokenize) fn small_blob() -> Vec<u8> {
        let mut units = vec![0u32; 2048];
        let label = |byte: u8, value: bool, offset: usize| {
            u32::from(byte) | (u32::from(value) << 8) | ((offset as u32) << 10)
        };
        // Root: children at 256 ^ byte.
        units[0] = 256 << 10;
        let a = 256 ^ usize::from(b'a');
        units[a] = label(b'a', true, 512 ^ a);
        units[512] = 1 << 31;
        let ab = 512 ^ usize::from(b'b');
        units[ab] = label(b'b', true, 1024 ^ ab);
        units[1024] = 2 | (1 << 31);
        let first = 256 ^ 0xc3;
        units[first] = label(0xc3, false, 0x500 ^ first);
        let second = 0x500 ^ 0xa9;
        units[second] = label(0xa9, true, 0x600 ^ second);
        units[0x600] = 5 | (1 << 31);
        let mut blob = ((units.len() * 4) as u32).to_le_bytes().to_vec();
        blob.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        blob.extend(b"b\0c \0\0");
        blob
    }

    #[test]
    fn the_longest_source_wins() {
        let map = Charsmap::parse(&small_blob()).unwrap();
        assert_eq!(map.longest_match(b"abc"), Some(("c ", 2)));
        assert_eq!(map.longest_match(b"ac"), Some(("b", 1)));
        assert_eq!(map.longest_match("é".as_bytes()), Some(("", 2)));
        assert_eq!(map.longest_match(b"x"), None);
        assert_eq!(map.longest_match(b"\0"), None);
        assert_eq!(map.longest_match(b""), None);
    }

    #[test]
    fn a_damaged_blob_is_refused() {
        assert!(Charsmap::parse(b"abc").unwrap_err().contains("no size"));
        let blob = small_blob();
        assert!(
            Charsmap::parse(&blob[..1000])
                .unwrap_err()
                .contains("trie 8192")
        );
        let mut bad = blob;
        bad.push(0xff);
        assert!(Charsmap::parse(&bad).unwrap_err().contains("UTF-8"));
    }

    #[test]
    fn a_wrong_offset_is_no_match() {
        let mut blob = small_blob();
        // The root points far outside.
        blob[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        let map = Charsmap::parse(&blob).unwrap();
        assert_eq!(map.longest_match(b"a"), None);
    }
}
