//! Keys and values, written to where attention reads them.

use std::ops::Range;

use super::attention::PANEL;
use super::registers::{Float, prefetch};

/// Numbers that are rounded at once.
const AT_ONCE: usize = PANEL * PANEL;

/// Keys or values of one head, those of tokens that follow one another.
///
/// # Shapes
///
/// Those of token t are `numbers[t * stride..][..size]`.
#[derive(Clone, Copy, Debug)]
pub struct NewTokens<'a> {
    /// The numbers.
    pub numbers: &'a [f32],
    /// From one token to the next.
    pub stride: usize,
    /// How many tokens.
    pub count: usize,
    /// Size of the head.
    pub size: usize,
}

impl<'a> NewTokens<'a> {
    fn token(&self, number: usize) -> &'a [f32] {
        &self.numbers[number * self.stride..][..self.size]
    }

    /// Those from a token on.
    fn from(&self, number: usize) -> Self {
        Self {
            numbers: &self.numbers[number * self.stride..],
            count: self.count - number,
            ..*self
        }
    }
}

/// Numbers as they are cached, on their way to memory: what was just written there is slow to read again.
struct Rounded<W>([W; AT_ONCE]);

impl<W: Float> Rounded<W> {
    fn new() -> Self {
        Self([W::zeroed(); AT_ONCE])
    }

    /// Rounds up to [`AT_ONCE`] numbers. What the type cannot hold becomes NaN, because an infinite key may have no weight,
    /// and would be lost.
    fn round(&mut self, numbers: &[f32]) -> &[W] {
        let rounded = &mut self.0[..numbers.len()];
        W::narrow_all(numbers, rounded);
        for number in &mut *rounded {
            *number = if number.is_finite() { *number } else { W::NAN };
        }
        rounded
    }
}

/// Rounds values and writes them to their places, the first of them to place number `at`.
///
/// # Shapes
///
/// `cached` is (places, head size).
pub fn write_values<W: Float>(cached: &mut [W], at: usize, values: NewTokens<'_>) {
    let places = cached[at * values.size..].chunks_exact_mut(values.size);
    let mut rounded = Rounded::new();
    for (number, place) in (0..values.count).zip(places) {
        let numbers = values.token(number).chunks(AT_ONCE);
        for (numbers, place) in numbers.zip(place.chunks_mut(AT_ONCE)) {
            place.copy_from_slice(rounded.round(numbers));
        }
    }
}

/// Rounds keys and writes them to their panels, the first of them to place number `at`.
///
/// # Shapes
///
/// `cached` is (panels, head size, [`PANEL`]).
pub fn write_keys<W: Float>(cached: &mut [W], at: usize, keys: NewTokens<'_>) {
    let mut rounded = Rounded::new();
    let mut done = 0;
    while done < keys.count {
        let (place, rest) = (at + done, keys.from(done));
        let panel = &mut cached[panel_of(place, keys.size)];
        let lane = place % PANEL;
        if lane == 0 && rest.count >= PANEL {
            write_panel(panel, rest, &mut rounded);
            done += PANEL;
        } else {
            write_lane(panel, lane, rest.token(0), &mut rounded);
            done += 1;
        }
    }
}

/// Asks for the panel of a place, which is read and written soon.
pub fn ask_for_panel<W>(cached: &[W], at: usize, size: usize) {
    prefetch(&cached[panel_of(at, size)]);
}

/// Where the panel of a place lies.
fn panel_of(at: usize, size: usize) -> Range<usize> {
    let start = at / PANEL * PANEL * size;
    start..start + PANEL * size
}

/// The keys of a whole panel.
fn write_panel<W: Float>(panel: &mut [W], keys: NewTokens<'_>, rounded: &mut Rounded<W>) {
    for (first, out) in (0..keys.size).step_by(PANEL).zip(panel.chunks_mut(AT_ONCE)) {
        let mut turned = [[0.0; PANEL]; PANEL];
        let numbers = out.len() / PANEL;
        for lane in 0..PANEL {
            let key = &keys.token(lane)[first..first + numbers];
            for (turned, &number) in turned.iter_mut().zip(key) {
                turned[lane] = number;
            }
        }
        let numbers = &turned.as_flattened()[..out.len()];
        out.copy_from_slice(rounded.round(numbers));
    }
}

/// One key of a panel.
fn write_lane<W: Float>(panel: &mut [W], lane: usize, key: &[f32], rounded: &mut Rounded<W>) {
    let places = panel.chunks_mut(AT_ONCE * PANEL);
    for (numbers, places) in key.chunks(AT_ONCE).zip(places) {
        let numbers = rounded.round(numbers);
        for (places, &number) in places.chunks_exact_mut(PANEL).zip(numbers) {
            places[lane] = number;
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::noise;

    fn check<W: Float + PartialEq + std::fmt::Debug>(size: usize) {
        let places = 3 * PANEL;
        for (at, count) in [
            (0, 1),
            (0, PANEL),
            (3, 2),
            (5, 40),
            (16, 20),
            (0, 48),
            (47, 1),
        ] {
            let stride = size + 7;
            let numbers = noise(count * stride, 3);
            let new = NewTokens {
                numbers: &numbers,
                stride,
                count,
                size,
            };
            let untouched = W::narrow(9.0);
            let mut keys = vec![untouched; places * size];
            let mut values = keys.clone();
            write_keys(&mut keys, at, new);
            write_values(&mut values, at, new);
            for place in 0..places {
                for number in 0..size {
                    let token = place.wrapping_sub(at);
                    let want = if token < count {
                        W::narrow(numbers[token * stride + number])
                    } else {
                        untouched
                    };
                    let panel = place / PANEL * PANEL * size;
                    let key = keys[panel + number * PANEL + place % PANEL];
                    assert_eq!((key, values[place * size + number]), (want, want));
                }
            }
        }
    }

    #[test]
    fn every_number_goes_to_its_place() {
        for size in [2, 16, 24, 64, 300] {
            check::<f32>(size);
            check::<f16>(size);
            check::<bf16>(size);
        }
    }

    #[test]
    fn what_cannot_be_held_becomes_nan() {
        for (number, fits) in [(65_504.0, true), (65_520.0, false), (f32::INFINITY, false)] {
            for count in [1, PANEL] {
                let numbers = vec![number; count];
                let new = NewTokens {
                    numbers: &numbers,
                    stride: 1,
                    count,
                    size: 1,
                };
                let mut cached = vec![f16::ZERO; PANEL];
                write_keys(&mut cached, 0, new);
                assert!(cached[..count].iter().all(|key| key.is_finite() == fits));
                assert!(cached[..count].iter().all(|key| key.is_nan() != fits));
                write_values(&mut cached, 0, new);
                assert!(cached[..count].iter().all(|value| value.is_nan() != fits));
            }
        }
    }
}
