//! Rows of a window to the order in which they are taken: longest padded context first.
//!
//! Invariant: the order is a permutation, and rows of one bucket are neighbours, so that a prefill
//! group, which a GPU keeps to one bucket, is always a run of the order.

use std::cmp::Reverse;

/// What planning knows of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowLength {
    /// Position in the slice that was handed in.
    pub index: usize,
    /// Context tokens, without the start token; those of all texts where a row without a slot is read as several.
    pub context: u32,
    /// Tokens kept free in each slot of the row: the start token and the longest answer, whose last token is
    /// never fed. As many as the longest answer has; 0 for a row that is read in one pass and needs no slot.
    pub reserve: u32,
    /// Samples of the row, each of which may start without the others; at least 1.
    pub samples: u32,
    /// Slots that a sample takes all at once: one, or as many as its beams need; at least 1.
    pub places: u32,
    /// Texts that a row without a slot is read as, one pass of each; 1 for any other row.
    pub texts: u32,
    /// Tokens of the longest text; those of the context where there is one.
    pub longest: u32,
}

impl RowLength {
    /// Tokens of all texts of a row without a slot, each padded as the longest.
    pub fn padded_texts(&self, bucket: u32) -> u64 {
        u64::from(self.texts.max(1)) * u64::from(padded(self.longest, bucket))
    }
}

/// A length rounded up to the next multiple of `bucket` tokens: in steps of 8, 8 stays 8 and 9 becomes 16.
pub fn padded(length: u32, bucket: u32) -> u32 {
    length.div_ceil(bucket.max(1)).saturating_mul(bucket.max(1))
}

/// Positions in `rows`, in the order in which they are taken.
///
/// Longest padded context first; inside a bucket the row with the largest reserve, then the most
/// samples, the most places, the longest true context, the most texts; what is left keeps the input order. Everything that the
/// budget looks at is in the key, so statistics do not depend on the input order.
pub fn order(rows: &[RowLength], bucket_tokens: u32) -> Vec<usize> {
    let mut positions: Vec<usize> = (0..rows.len()).collect();
    positions.sort_by_key(|&position| {
        let row = &rows[position];
        Reverse((
            padded(row.longest, bucket_tokens),
            row.reserve,
            row.samples,
            row.places,
            row.longest,
            row.texts,
        ))
    });
    positions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(index: usize, context: u32, reserve: u32) -> RowLength {
        RowLength {
            index,
            context,
            reserve,
            samples: 1,
            places: 1,
            texts: 1,
            longest: context,
        }
    }

    #[test]
    fn lengths_round_up_to_the_bucket() {
        assert_eq!(padded(0, 8), 0);
        assert_eq!(padded(1, 8), 8);
        assert_eq!(padded(8, 8), 8);
        assert_eq!(padded(17, 8), 24);
        assert_eq!(padded(5, 0), 5, "a bucket of 0 pads nothing");
        assert_eq!(padded(u32::MAX, 32), u32::MAX);
    }

    #[test]
    fn the_longest_bucket_comes_first_and_ties_keep_the_input_order() {
        let rows = [
            row(0, 5, 10),
            row(1, 20, 10),
            row(2, 18, 10),
            row(3, 20, 10),
            row(4, 7, 11),
        ];
        assert_eq!(order(&rows, 8), [1, 3, 2, 4, 0]);
    }
}
