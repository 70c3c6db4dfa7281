//! Places that no merge can cross: a segment to parts that can be merged on their own.
//!
//! Merging a part costs more than its share of the whole, and short parts repeat and are
//! remembered. Invariant: the parts give the ids that the whole gives. A place is a border only
//! where its two characters are neighbours in no piece, so that no merge joins them, and are not
//! both unknown, so that no run of unknown characters is cut.

/// Bits of the table of neighbours. Two pairs may share a bit, which only hides a border; 70,000
/// pairs set 7% of a table that stays in a core's cache.
const PAIR_BITS: u32 = 20;
const CHARACTERS: usize = char::MAX as usize + 1;

/// Knows where a segment can be parted.
pub(super) struct Borders {
    /// A bit for each character that is a piece.
    known: Box<[u64]>,
    /// A bit for each pair of neighbours in a piece, by hash.
    neighbours: Box<[u64]>,
}

impl Borders {
    /// Collects the neighbours in `pieces`.
    pub(super) fn new<'a>(pieces: impl Iterator<Item = &'a str>) -> Self {
        let mut borders = Self {
            known: vec![0; CHARACTERS.div_ceil(64)].into(),
            neighbours: vec![0; (1 << PAIR_BITS) / 64].into(),
        };
        for piece in pieces {
            let mut chars = piece.chars();
            let Some(mut left) = chars.next() else {
                continue;
            };
            if chars.as_str().is_empty() {
                set(&mut borders.known, left as usize);
            }
            for right in chars {
                set(&mut borders.neighbours, pair_bit(left, right));
                left = right;
            }
        }
        borders
    }

    /// Calls `visit` for each part of `segment`, in order.
    pub(super) fn split<'a>(&self, segment: &'a str, mut visit: impl FnMut(&'a str)) {
        let mut from = 0;
        let mut chars = segment.char_indices();
        let Some((_, mut left)) = chars.next() else {
            return;
        };
        for (at, right) in chars {
            if self.is_border(left, right) {
                visit(&segment[from..at]);
                from = at;
            }
            left = right;
        }
        visit(&segment[from..]);
    }

    fn is_border(&self, left: char, right: char) -> bool {
        !is_set(&self.neighbours, pair_bit(left, right))
            && (is_set(&self.known, left as usize) || is_set(&self.known, right as usize))
    }
}

impl std::fmt::Debug for Borders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Borders").finish_non_exhaustive()
    }
}

/// The top bits of a product with 2^64 divided by the golden ratio, which spreads near keys.
fn pair_bit(left: char, right: char) -> usize {
    let key = (u64::from(left) << 32) | u64::from(right);
    let mixed = (key ^ (key >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (64 - PAIR_BITS)) as usize
}

fn set(bits: &mut [u64], position: usize) {
    bits[position / 64] |= 1 << (position % 64);
}

fn is_set(bits: &[u64], position: usize) -> bool {
    (bits[position / 64] >> (position % 64)) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(pieces: &[&str], segment: &str) -> Vec<String> {
        let mut parts = Vec::new();
        Borders::new(pieces.iter().copied()).split(segment, |part| parts.push(part.to_owned()));
        parts
    }

    #[test]
    fn neighbours_in_a_piece_stay_together() {
        let pieces = ["▁", "a", "b", "c", "▁ab", "bc"];
        assert_eq!(parts(&pieces, "▁abca▁b"), ["▁abc", "a", "▁", "b"]);
        assert!(parts(&pieces, "").is_empty());
        assert_eq!(parts(&pieces, "a"), ["a"]);
    }

    #[test]
    fn unknown_characters_stay_together() {
        assert_eq!(
            parts(&["a", "ba"], "a??\u{10ffff}a"),
            ["a", "??\u{10ffff}", "a"]
        );
        assert_eq!(
            parts(&["a", "ba"], "xb"),
            ["xb"],
            "`b` is part of a piece but none itself"
        );
    }
}
