//! Many numbers to their mean, their range and a histogram, in little memory.

use crate::numbers::counted;

/// Numbers that are kept for the histogram.
const MOST_KEPT: usize = 32_768;

/// Bars of a histogram.
const BARS: usize = 40;

/// Numbers of one column.
#[derive(Clone, Debug)]
pub(super) struct Numbers {
    count: u64,
    sum: f64,
    lowest: f64,
    highest: f64,
    are_whole: bool,
    /// A number is kept where the mark of its place is not above this.
    highest_mark: u64,
    /// Kept numbers, each with the mark of its place.
    kept: Vec<(u64, f64)>,
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            count: 0,
            sum: 0.0,
            lowest: f64::INFINITY,
            highest: f64::NEG_INFINITY,
            are_whole: true,
            highest_mark: u64::MAX,
            kept: Vec::new(),
        }
    }
}

/// A number that looks drawn and follows from the place alone (splitmix64), so that what is kept follows no pattern of the
/// rows, such as the order of their samples.
fn mark(place: u64) -> u64 {
    let mut z = place.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// One bar: from where to where, and the share of all numbers that it holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bar {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) count: f64,
}

impl Numbers {
    /// Takes one more number; NaN is left out.
    pub(super) fn add(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.lowest = self.lowest.min(value);
        self.highest = self.highest.max(value);
        self.are_whole &= value.fract() == 0.0;
        let mark = mark(self.count);
        if mark <= self.highest_mark {
            self.kept.push((mark, value));
        }
        self.count += 1;
        self.sum += value;
        while self.kept.len() >= MOST_KEPT {
            self.highest_mark /= 2;
            let highest = self.highest_mark;
            self.kept.retain(|(mark, _)| *mark <= highest);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many there are, their mean and their range, for people.
    pub(super) fn summary(&self) -> String {
        let mean = self.sum / self.count.max(1) as f64;
        let (decimals, of_mean) = if self.are_whole { (0, 1) } else { (3, 3) };
        let digits = |value: f64| format!("{value:.decimals$}");
        let mean = format!("{mean:.of_mean$}");
        let (lowest, highest) = (digits(self.lowest), digits(self.highest));
        format!(
            "{}, mean {mean}, from {lowest} to {highest}",
            counted(self.count, "value")
        )
    }

    /// Bars over the range, of whole numbers where the numbers are.
    pub(super) fn bars(&self) -> Vec<Bar> {
        let range = self.highest - self.lowest;
        let width = if self.are_whole {
            ((range + 1.0) / BARS as f64).ceil()
        } else if range > 0.0 {
            range / BARS as f64
        } else {
            1.0
        };
        let bars = (range / width).floor() as usize + usize::from(self.are_whole || range == 0.0);
        let mut counts = vec![0.0; bars.clamp(1, BARS)];
        // The bars hold all numbers, also where not all are kept.
        let weight = self.count as f64 / self.kept.len().max(1) as f64;
        let last = counts.len() - 1;
        for (_, value) in &self.kept {
            let at = ((value - self.lowest) / width) as usize;
            counts[at.min(last)] += weight;
        }
        let bar = |(at, count)| {
            let from = self.lowest + at as f64 * width;
            Bar {
                from,
                to: from + width,
                count,
            }
        };
        counts.into_iter().enumerate().map(bar).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl IntoIterator<Item = f64>) -> Numbers {
        let mut numbers = Numbers::default();
        values.into_iter().for_each(|value| numbers.add(value));
        numbers
    }

    #[test]
    fn whole_numbers_get_bars_of_whole_numbers() {
        let numbers = of([3.0, 3.0, 5.0, f64::NAN]);
        let bars: Vec<_> = numbers.bars().iter().map(|b| (b.from, b.count)).collect();
        assert_eq!(bars, [(3.0, 2.0), (4.0, 0.0), (5.0, 1.0)]);
        assert_eq!(numbers.summary(), "3 values, mean 3.7, from 3 to 5");
    }

    #[test]
    fn every_number_is_in_a_bar() {
        for numbers in [
            of((0..1000).map(f64::from)),
            of((0..1000).map(|n| f64::from(n) / 7.0 - 50.0)),
            of([0.25]),
            of([-7.0]),
        ] {
            let counts: f64 = numbers.bars().iter().map(|bar| bar.count).sum();
            assert!((counts - numbers.count as f64).abs() < 1e-6, "{counts}");
            assert!(numbers.bars().len() <= BARS);
        }
    }

    #[test]
    fn a_million_numbers_take_little_memory_and_keep_their_shape() {
        let numbers = of((0..1_000_000).map(|n| f64::from(n % 10)));
        assert!(numbers.kept.len() < MOST_KEPT);
        let bars = numbers.bars();
        assert_eq!(bars.len(), 10);
        for bar in bars {
            let share = bar.count / 1_000_000.0;
            assert!((0.09..0.11).contains(&share), "{bar:?}");
        }
    }
}
