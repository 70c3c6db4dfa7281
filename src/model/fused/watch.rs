//! Which steps are computed both ways, and which differences rounding explains.

use candle_core::DType;

/// Steps that are computed both ways, for each class of numbers of rows: 1, 2 and 3, 4 to 7, and so on. A kernel that other
/// rows or their number disturb shows it in other classes than one that works on a single row.
pub(in crate::model) const WATCHED: u8 = 3;

/// Classes of numbers of rows.
const CLASSES: usize = usize::BITS as usize;

/// How a step is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum Turn {
    /// By the kernels alone.
    Own,
    /// Both ways, compared; what candle's operations give counts.
    Both,
    /// By candle's operations alone.
    Candle,
}

impl Turn {
    pub(super) fn of(given_up: bool, watch: &Watch, rows: usize) -> Self {
        if given_up {
            Self::Candle
        } else if watch.is_due(rows) {
            Self::Both
        } else {
            Self::Own
        }
    }
}

/// How often each class of numbers of rows was computed both ways.
#[derive(Debug)]
pub(super) struct Watch([u8; CLASSES]);

impl Default for Watch {
    fn default() -> Self {
        Self([0; CLASSES])
    }
}

impl Watch {
    fn is_due(&self, rows: usize) -> bool {
        self.0[class(rows)] < WATCHED
    }

    pub(super) fn seen(&mut self, rows: usize) {
        let count = &mut self.0[class(rows)];
        *count = count.saturating_add(1);
    }
}

fn class(rows: usize) -> usize {
    rows.max(1).ilog2() as usize
}

/// The largest difference of two logits, as a share of the row's largest logit, that rounding explains.
///
/// Both ways round keys, values and products to the type of the model, but only candle's operations round what is added to a
/// product, and each weight of the attention. On a model of 4 layers and one of 24, with caches of each type, that came to
/// 1.2e-3 at most in f16 and to 8e-3 in bf16. In f32 it came to 1e-6, and to 1e-5 where keys that are cached in 16 bits were rounded
/// to other numbers. The bound is about ten times that, and more in f32, where few keys decide.
fn bound(dtype: DType) -> f32 {
    match dtype {
        DType::F16 => 0.01,
        DType::BF16 => 0.08,
        _ => 1e-3,
    }
}

/// What the logits of the kernels have that rounding does not explain, in words; `None` where there is nothing.
///
/// A row may be not finite in both: then something else is wrong with it, and the run says so.
///
/// # Shapes
///
/// Both are (rows, `width`), row-major.
pub(super) fn difference(
    own: &[f32],
    theirs: &[f32],
    width: usize,
    dtype: DType,
) -> Option<String> {
    let bound = bound(dtype);
    for (own, theirs) in own.chunks(width).zip(theirs.chunks(width)) {
        let is_finite = |row: &[f32]| row.iter().all(|logit| logit.is_finite());
        match (is_finite(own), is_finite(theirs)) {
            (true, true) => {}
            (false, false) => continue,
            (true, false) => {
                return Some("give a number where candle's give none".to_owned());
            }
            (false, true) => {
                return Some("give no number where candle's give one".to_owned());
            }
        }
        let largest = theirs
            .iter()
            .fold(0.0_f32, |top, logit| top.max(logit.abs()));
        let pairs = own.iter().zip(theirs);
        let off = pairs.fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
        if off > bound * largest {
            return Some(format!(
                "give logits that differ from candle's by {:.1}% of the largest one, and rounding explains {:.1}%",
                100.0 * off / largest,
                100.0 * bound
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_of_rows_is_watched_for_its_first_steps() {
        let mut watch = Watch::default();
        for rows in [1, 64, 65, 127] {
            assert_eq!(Turn::of(false, &watch, rows), Turn::Both, "{rows}");
            watch.seen(rows);
        }
        assert_eq!(Turn::of(false, &watch, 100), Turn::Own);
        assert_eq!(Turn::of(true, &watch, 100), Turn::Candle);
        for rows in [1, 63, 128] {
            assert_eq!(Turn::of(false, &watch, rows), Turn::Both, "{rows}");
        }
    }

    #[test]
    fn rounding_passes_and_more_does_not() {
        let theirs = [4.0, -8.0, 1.0, 0.5, 0.25, -0.5];
        let judge = |at: usize, value: f32, dtype| {
            let mut own = theirs;
            own[at] = value;
            difference(&own, &theirs, 3, dtype)
        };
        for dtype in [DType::F16, DType::BF16, DType::F32] {
            let (first, second) = (8.0 * bound(dtype), 0.5 * bound(dtype));
            assert_eq!(judge(0, 4.0 + 0.9 * first, dtype), None);
            assert!(judge(0, 4.0 + 1.1 * first, dtype).is_some());
            // A row of small logits is held to its own largest.
            assert_eq!(judge(4, 0.25 - 0.9 * second, dtype), None);
            assert!(judge(4, 0.25 - 1.1 * second, dtype).is_some());
        }
    }

    #[test]
    fn a_row_is_finite_both_ways_or_neither() {
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (sound, rows) = ([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, broken, 4.0]);
            let judge = |own: &[f32], theirs: &[f32]| difference(own, theirs, 2, DType::F32);
            assert!(judge(&rows, &sound).unwrap().contains("no number where"));
            assert!(judge(&sound, &rows).unwrap().contains("a number where"));
            assert_eq!(judge(&rows, &rows), None);
            // The other rows count all the same.
            assert!(judge(&[9.0, 2.0, broken, 4.0], &rows).is_some());
        }
    }
}
