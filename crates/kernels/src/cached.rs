//! Keys and values, written to where attention reads them.
//!
//! They lie in panels of [`PANEL`] tokens. Those in 8 bits are codes, each token's with a scale of its own: the scales of
//! a panel lie behind its codes.
//!
//! ```text
//! keys    number 0 of keys 0..16 | number 1 of keys 0..16 | ... | scales of keys 0..16; then keys 16..32; ...
//! values  all numbers of value 0 | all numbers of value 1 | ... | scales of values 0..16; then values 16..32; ...
//! ```

#![expect(
    clippy::inline_always,
    reason = "bodies must be compiled into the version of each instruction set"
)]

use std::ops::Range;

use bytemuck::{must_cast, pod_read_unaligned};

use super::attention::PANEL;
use super::int8::{self, Scale};
use super::registers::{Float, Number, prefetch};

/// Numbers that are rounded at once.
const AT_ONCE: usize = PANEL * PANEL;

/// How a number holds keys and values.
pub trait CachedNumber: Number {
    /// Numbers that the scales of a panel take.
    const SCALES: usize;

    /// Panels of keys whose sums run at once where a query is alone.
    const PANELS: usize;

    /// The scale of one token's numbers.
    fn scale_of(numbers: &[f32]) -> Scale;

    /// Rounds numbers, each times `inverse`.
    fn round(numbers: &[f32], inverse: f32, rounded: &mut [Self]);

    /// Puts a token's scale among those of its panel.
    fn put_scale(scales: &mut [Self], lane: usize, scale: Scale);

    /// What the numbers of each token of a panel are worth.
    fn scales(scales: &[Self]) -> [f32; PANEL];
}

/// Floats, which need no scales.
impl<W: Float> CachedNumber for W {
    const SCALES: usize = 0;

    /// Panels one after another are read from end to end, which memory gives fastest.
    const PANELS: usize = 1;

    fn scale_of(_: &[f32]) -> Scale {
        Scale::ONE
    }

    /// What the type cannot hold becomes NaN, because an infinite key may have no weight, and would be lost.
    fn round(numbers: &[f32], _: f32, rounded: &mut [Self]) {
        W::narrow_all(numbers, rounded);
        for number in rounded {
            *number = if number.is_finite() { *number } else { W::NAN };
        }
    }

    fn put_scale(_: &mut [Self], _: usize, _: Scale) {}

    fn scales(_: &[Self]) -> [f32; PANEL] {
        [1.0; PANEL]
    }
}

/// Codes. The scale of a token that has a number which is infinite or NaN is NaN.
impl CachedNumber for i8 {
    const SCALES: usize = PANEL * size_of::<f32>();

    /// Codes are so few bytes that the additions of one panel would take longer than reading it.
    const PANELS: usize = 4;

    fn scale_of(numbers: &[f32]) -> Scale {
        let mut scale = Scale::ONE;
        int8::find_scale(numbers, &mut scale);
        scale
    }

    fn round(numbers: &[f32], inverse: f32, rounded: &mut [Self]) {
        int8::round(numbers, inverse, rounded);
    }

    fn put_scale(scales: &mut [Self], lane: usize, scale: Scale) {
        let (scales, _) = scales.as_chunks_mut();
        scales[lane] = must_cast::<f32, [i8; size_of::<f32>()]>(scale.worth);
    }

    #[inline(always)]
    fn scales(scales: &[Self]) -> [f32; PANEL] {
        pod_read_unaligned(bytemuck::must_cast_slice(&scales[..Self::SCALES]))
    }
}

/// Numbers that the keys, or the values, of so many tokens of a head take: those of whole panels.
pub const fn cached_numbers<W: CachedNumber>(tokens: usize, size: usize) -> usize {
    tokens.div_ceil(PANEL) * (PANEL * size + W::SCALES)
}

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

impl<W: CachedNumber> Rounded<W> {
    fn new() -> Self {
        Self([W::zeroed(); AT_ONCE])
    }

    /// Rounds up to [`AT_ONCE`] numbers, each times `inverse`.
    fn round(&mut self, numbers: &[f32], inverse: f32) -> &[W] {
        let rounded = &mut self.0[..numbers.len()];
        W::round(numbers, inverse, rounded);
        rounded
    }
}

/// Rounds values and writes them to their places, the first of them to place number `at`.
///
/// # Shapes
///
/// `cached` is panels of values.
pub(super) fn write_values<W: CachedNumber>(cached: &mut [W], at: usize, values: NewTokens<'_>) {
    let size = values.size;
    let mut rounded = Rounded::new();
    for (place, number) in (at..).zip(0..values.count) {
        let (panel, scales) = cached[panel_of::<W>(place, size)].split_at_mut(PANEL * size);
        let (value, lane) = (values.token(number), place % PANEL);
        let scale = W::scale_of(value);
        W::put_scale(scales, lane, scale);
        let places = panel[lane * size..][..size].chunks_mut(AT_ONCE);
        for (numbers, place) in value.chunks(AT_ONCE).zip(places) {
            place.copy_from_slice(rounded.round(numbers, scale.inverse));
        }
    }
}

/// Rounds keys and writes them to their panels, the first of them to place number `at`.
///
/// # Shapes
///
/// `cached` is panels of keys.
pub(super) fn write_keys<W: CachedNumber>(cached: &mut [W], at: usize, keys: NewTokens<'_>) {
    let mut rounded = Rounded::new();
    let mut done = 0;
    while done < keys.count {
        let (place, rest) = (at + done, keys.from(done));
        let (panel, scales) =
            cached[panel_of::<W>(place, keys.size)].split_at_mut(PANEL * keys.size);
        let lane = place % PANEL;
        if lane == 0 && rest.count >= PANEL {
            write_panel(panel, scales, rest, &mut rounded);
            done += PANEL;
        } else {
            write_lane(panel, scales, lane, rest.token(0), &mut rounded);
            done += 1;
        }
    }
}

/// Asks for the panel of a place, which is read and written soon.
pub fn ask_for_panel<W: CachedNumber>(cached: &[W], at: usize, size: usize) {
    prefetch(&cached[panel_of::<W>(at, size)]);
}

/// Where the panel of a place lies.
fn panel_of<W: CachedNumber>(at: usize, size: usize) -> Range<usize> {
    let numbers = cached_numbers::<W>(PANEL, size);
    let start = at / PANEL * numbers;
    start..start + numbers
}

/// The keys of a whole panel.
fn write_panel<W: CachedNumber>(
    panel: &mut [W],
    scales: &mut [W],
    keys: NewTokens<'_>,
    rounded: &mut Rounded<W>,
) {
    let mut inverses = [0.0; PANEL];
    for (lane, inverse) in inverses.iter_mut().enumerate() {
        let scale = W::scale_of(keys.token(lane));
        W::put_scale(scales, lane, scale);
        *inverse = scale.inverse;
    }
    for (first, out) in (0..keys.size).step_by(PANEL).zip(panel.chunks_mut(AT_ONCE)) {
        let mut turned = [[0.0; PANEL]; PANEL];
        let numbers = out.len() / PANEL;
        for (lane, inverse) in inverses.iter().enumerate() {
            let key = &keys.token(lane)[first..first + numbers];
            for (turned, &number) in turned.iter_mut().zip(key) {
                turned[lane] = number * inverse;
            }
        }
        let numbers = &turned.as_flattened()[..out.len()];
        out.copy_from_slice(rounded.round(numbers, 1.0));
    }
}

/// One key of a panel.
fn write_lane<W: CachedNumber>(
    panel: &mut [W],
    scales: &mut [W],
    lane: usize,
    key: &[f32],
    rounded: &mut Rounded<W>,
) {
    let scale = W::scale_of(key);
    W::put_scale(scales, lane, scale);
    let places = panel.chunks_mut(AT_ONCE * PANEL);
    for (numbers, places) in key.chunks(AT_ONCE).zip(places) {
        let numbers = rounded.round(numbers, scale.inverse);
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

    /// The number and its worth at a place of a panel.
    fn read<W: CachedNumber>(cached: &[W], place: usize, size: usize, at: usize) -> (f32, f32) {
        let panel = &cached[panel_of::<W>(place, size)];
        (
            panel[at].widen(),
            W::scales(&panel[PANEL * size..])[place % PANEL],
        )
    }

    fn check<W: CachedNumber>(size: usize) {
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
            let untouched = vec![7.0; places * size];
            let untouched = NewTokens {
                numbers: &untouched,
                stride: size,
                count: places,
                size,
            };
            let mut keys = vec![W::zeroed(); cached_numbers::<W>(places, size)];
            let mut values = keys.clone();
            for new in [untouched, new] {
                let at = if new.count == places { 0 } else { at };
                write_keys(&mut keys, at, new);
                write_values(&mut values, at, new);
            }
            for place in 0..places {
                let (token, of) = match place.wrapping_sub(at) {
                    token if token < count => (token, new),
                    _ => (0, untouched),
                };
                let token = of.token(token);
                let scale = W::scale_of(token);
                let mut want = vec![W::zeroed(); size];
                W::round(token, scale.inverse, &mut want);
                for (number, want) in want.into_iter().enumerate() {
                    let lane = place % PANEL;
                    let want = (want.widen(), scale.worth);
                    assert_eq!(read(&keys, place, size, number * PANEL + lane), want);
                    assert_eq!(read(&values, place, size, lane * size + number), want);
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
            check::<i8>(size);
        }
    }

    #[test]
    fn codes_are_the_nearest_to_the_numbers() {
        let token = noise(64, 5);
        let scale = i8::scale_of(&token);
        let mut codes = vec![0; 64];
        i8::round(&token, scale.inverse, &mut codes);
        assert_eq!(
            codes.iter().map(|code| code.unsigned_abs()).max(),
            Some(127)
        );
        for (&code, number) in codes.iter().zip(&token) {
            let error = (f32::from(code) * scale.worth - number).abs();
            assert!(error <= scale.worth * 0.501, "{code} for {number}");
        }
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(i8::scale_of(&[1.0, bad, 2.0]).worth.is_nan());
        }
        for small in [0.0, 1e-44, 1e-38] {
            let scale = i8::scale_of(&[small, -small]);
            i8::round(&[small, -small], scale.inverse, &mut codes[..2]);
            let error = f32::from(codes[0]) * scale.worth - small;
            assert!(error.abs() <= small, "{small}");
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
