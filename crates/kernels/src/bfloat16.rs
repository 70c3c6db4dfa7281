//! The product in bfloat16: both factors are rounded to it, the sums are in f32.
//!
//! Every machine must give the same bits, so every output is summed in the order of VDPBF16PS, the instruction of
//! `AVX512_BF16`, also where a machine lacks it: over k in blocks of [`BLOCK`], each block from zero, pair by pair. The
//! odd value of a pair comes first, then the even one, each with a fused multiply-add that rounds to the nearest, ties
//! to even. The block sums are added in order.
//!
//! The instruction reads subnormal numbers as zeros and never gives one, and ordinary arithmetic keeps them. So they
//! must not occur: factors below 2^-56 count as zeros. All others are multiples of 2^-63, their products are
//! multiples of 2^-126, and so is every sum: zero or a normal number. Only the bits of a NaN may differ between
//! machines.

#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;
#[cfg(target_arch = "x86_64")]
use std::time::Instant;

use bytemuck::{cast_slice, must_cast};
use half::bf16;

#[cfg(target_arch = "x86_64")]
use super::floats::TASK_OUTPUTS;
use super::floats::{self, BLOCK, Layout, RowSums, fill_panels, pack_weights};
#[cfg(any(target_arch = "x86_64", test))]
use super::floats::{panel_by_panel, task_by_task};
#[cfg(test)]
use super::registers::Any;
#[cfg(target_arch = "x86_64")]
use super::registers::Avx512Bf16;
use super::registers::Pair;
use super::simd::multiversion;
#[cfg(any(target_arch = "x86_64", test))]
use super::tiles::in_tiles;
use super::tiles::{MOST_ROWS, Tiling, interleave};

/// The smallest factor that is not zero: 2^-56.
const SMALLEST: u32 = (127 - 56) << 23;

/// Outputs of a panel of pairs: two registers of 16.
const PANEL: usize = 32;

/// Most rows of a tile of pairs, as in [`Layout::Wide`].
const TILE: usize = 8;

const _: () = assert!(BLOCK.is_multiple_of(2), "no pair lies in two blocks");

/// How factors are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "other processors have no pairs")
)]
pub(super) enum Form {
    /// In pairs, as the instruction takes them.
    Pairs,
    /// As the floats of `floats`, the values of each pair swapped: summed over k ascending, they are
    /// summed in this module's order.
    Swapped(Layout),
}

impl Form {
    /// The fastest of this machine. All give the same bits, so a clock may decide.
    pub(super) fn of_machine() -> Self {
        let swapped = Self::Swapped(Layout::of_machine());
        #[cfg(target_arch = "x86_64")]
        {
            static FASTEST: OnceLock<Form> = OnceLock::new();
            if trusted().is_some() {
                // On some processors the instruction is slower than two fused multiply-adds and the widening.
                return *FASTEST.get_or_init(|| faster(Self::Pairs, swapped));
            }
        }
        swapped
    }

    /// Most rows of a tile.
    fn tile(self) -> usize {
        match self {
            Self::Pairs => TILE,
            Self::Swapped(layout) => layout.tile(),
        }
    }

    /// Words of a row of k values.
    pub(super) fn words(self, k: usize) -> usize {
        match self {
            Self::Pairs => k.div_ceil(2),
            Self::Swapped(_) => k,
        }
    }

    /// Numbers that the weights of so many outputs take.
    pub(super) fn size(self, k: usize, outputs: usize) -> usize {
        match self {
            Self::Pairs => outputs.next_multiple_of(PANEL) * k.next_multiple_of(2),
            Self::Swapped(layout) => outputs.next_multiple_of(layout.panel()) * k,
        }
    }
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "body of a multiversion function")]
fn round_body(values: &[f32], rounded: &mut [f32]) {
    for (rounded, value) in rounded.iter_mut().zip(values) {
        let bits = value.to_bits();
        // Half of the last place rounds up, unless the last place is even: ties go to even.
        let is_odd = (bits >> 16) & 1;
        let bits = if value.is_nan() {
            // The low bits may be the only ones that make it a NaN, and rounding would drop them.
            bits | 0x0040_0000
        } else {
            bits.wrapping_add(0x7fff + is_odd)
        };
        let is_zero = bits & 0x7fff_0000 < SMALLEST;
        *rounded = f32::from_bits(if is_zero { 0 } else { bits & 0xffff_0000 });
    }
}

multiversion! {
    /// The nearest bf16 of each value, ties to even, and zero below [`SMALLEST`].
    fn round(values: &[f32], rounded: &mut [f32]) = round_body
}

/// One pair, or the last value and a zero, from values that are rounded.
fn pair(values: &[f32]) -> Pair {
    let mut pair = [bf16::ZERO; 2];
    for (half, value) in pair.iter_mut().zip(values) {
        *half = bf16::from_bits((value.to_bits() >> 16) as u16);
    }
    pair
}

/// Swaps the values of each pair; a last one stays, for its partner would be zero.
fn swap_pairs(values: &mut [f32]) {
    for pair in values.chunks_exact_mut(2) {
        pair.swap(0, 1);
    }
}

/// How rows of k values are laid out.
pub(super) fn tiling(form: Form, k: usize) -> Tiling {
    Tiling {
        k,
        rows: form.tile(),
        words: form.words(k),
    }
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "body of a multiversion function")]
fn encode_tile_body(form: Form, k: usize, x: &[f32], words: &mut [u32]) {
    let count = x.len() / k;
    for first in (0..k).step_by(BLOCK) {
        let width = BLOCK.min(k - first);
        let of_block = form.words(width);
        let mut rows = [[0; BLOCK]; MOST_ROWS];
        for (row, x) in rows.iter_mut().zip(x.chunks_exact(k)) {
            let mut rounded = [0.0; BLOCK];
            let rounded = &mut rounded[..width];
            round_body(&x[first..][..width], rounded);
            match form {
                Form::Pairs => {
                    for (word, values) in row.iter_mut().zip(rounded.chunks(2)) {
                        *word = must_cast(pair(values));
                    }
                }
                Form::Swapped(_) => {
                    swap_pairs(rounded);
                    for (word, value) in row.iter_mut().zip(rounded) {
                        *word = value.to_bits();
                    }
                }
            }
        }
        let start = form.words(first) * count;
        let words = &mut words[start..][..of_block * count];
        interleave(rows.as_flattened(), BLOCK, count, words);
    }
}

multiversion! {
    /// Rounds the rows of a tile and lays them out.
    ///
    /// # Shapes
    ///
    /// `x` is (rows, k), row-major; `words` is ([`Form::words`], rows): two bf16 each, or the bits of an f32.
    pub(super) fn encode_tile(form: Form, k: usize, x: &[f32], words: &mut [u32]) = encode_tile_body
}

/// Rounds weights of some panels and lays them out.
///
/// # Shapes
///
/// `weights` is (outputs, k), row-major; `packed` is (panels, pairs of k, outputs of a panel, 2) or as in
/// [`pack_weights`], all zeros at first.
pub(super) fn encode_weights(form: Form, k: usize, weights: &[f32], packed: &mut [bf16]) {
    let mut rounded = vec![0.0; weights.len()];
    round(weights, &mut rounded);
    match form {
        Form::Pairs => {
            let width = form.words(k);
            let mut pairs = vec![[bf16::ZERO; 2]; weights.len() / k * width];
            for (weights, pairs) in rounded.chunks_exact(k).zip(pairs.chunks_exact_mut(width)) {
                for (values, place) in weights.chunks(2).zip(pairs) {
                    *place = pair(values);
                }
            }
            fill_panels(PANEL, width, &pairs, packed.as_chunks_mut().0);
        }
        Form::Swapped(layout) => {
            rounded.chunks_exact_mut(k).for_each(swap_pairs);
            pack_weights(layout, k, &rounded, packed);
        }
    }
}

/// Multiplies rows with some panels of weights.
///
/// # Shapes
///
/// `weights` comes from [`encode_weights`] and begins with the task's first panel, `words` from [`encode_tile`]; `sums`
/// are the rows', of so many `outputs`.
pub(super) fn multiply(
    form: Form,
    k: usize,
    weights: &[bf16],
    words: &[u32],
    outputs: usize,
    sums: &mut [RowSums],
) {
    match form {
        Form::Pairs => pairs(k, weights, words, outputs, sums),
        Form::Swapped(layout) => {
            floats::multiply(layout, k, weights, cast_slice(words), outputs, sums);
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn pairs(k: usize, weights: &[bf16], words: &[u32], outputs: usize, sums: &mut [RowSums]) {
    match trusted() {
        Some(instruction) => with_instruction(instruction, k, weights, words, outputs, sums),
        None => pairs_elsewhere(k, weights, words, outputs, sums),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn pairs(k: usize, weights: &[bf16], words: &[u32], outputs: usize, sums: &mut [RowSums]) {
    pairs_elsewhere(k, weights, words, outputs, sums);
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "calls the version whose features are there")]
fn with_instruction(
    instruction: Avx512Bf16,
    k: usize,
    weights: &[bf16],
    words: &[u32],
    outputs: usize,
    sums: &mut [RowSums],
) {
    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512bf16")]
    fn version(
        instruction: Avx512Bf16,
        steps: usize,
        weights: &[[Pair; PANEL]],
        tiles: &[Pair],
        outputs: usize,
        sums: &mut [RowSums],
    ) {
        panel_by_panel::<Pair, _, TILE, PANEL>(instruction, steps, weights, tiles, outputs, sums);
    }
    let (steps, tiles) = (Form::Pairs.words(k), cast_slice(words));
    // SAFETY: an `Avx512Bf16` exists only where the features of `version` were detected.
    unsafe { version(instruction, steps, panels(weights), tiles, outputs, sums) }
}

/// Pairs without their instruction: only tests have them there.
#[cfg(test)]
fn pairs_elsewhere(
    k: usize,
    weights: &[bf16],
    words: &[u32],
    outputs: usize,
    sums: &mut [RowSums],
) {
    let steps = Form::Pairs.words(k);
    let (weights, tiles) = (panels(weights), cast_slice(words));
    panel_by_panel::<Pair, _, TILE, PANEL>(Any, steps, weights, tiles, outputs, sums);
}

#[cfg(not(test))]
fn pairs_elsewhere(_: usize, _: &[bf16], _: &[u32], _: usize, _: &mut [RowSums]) {
    unreachable!("pairs are chosen for their instruction alone");
}

/// Weights in steps of one pair of each output.
#[cfg(any(target_arch = "x86_64", test))]
fn panels(weights: &[bf16]) -> &[[Pair; PANEL]] {
    weights.as_chunks::<2>().0.as_chunks::<PANEL>().0
}

/// The instruction, where the machine has it and it passed a trial: bits must not depend on a processor
/// that does it in another order.
#[cfg(target_arch = "x86_64")]
fn trusted() -> Option<Avx512Bf16> {
    static PASSED: OnceLock<bool> = OnceLock::new();
    let instruction = Avx512Bf16::of_machine()?;
    let multiply = |k, weights: &[bf16], words: &[u32], outputs, sums: &mut [RowSums]| {
        with_instruction(instruction, k, weights, words, outputs, sums);
    };
    PASSED
        .get_or_init(|| passes_trial(multiply))
        .then_some(instruction)
}

/// Which of two forms multiplies faster, by the best of some short runs in turn.
#[cfg(target_arch = "x86_64")]
fn faster(first: Form, second: Form) -> Form {
    const RUNS: usize = 9;
    // As many weights as the first cache holds: what a form reads is the same.
    let (k, outputs, rows) = (BLOCK, PANEL, 4 * TILE);
    let (x, weights) = (
        trial_values(rows * k, 12, 1),
        trial_values(outputs * k, 12, 2),
    );
    let time = |form: Form| {
        let mut packed = vec![bf16::ZERO; form.size(k, outputs)];
        encode_weights(form, k, &weights, &mut packed);
        let words = in_tiles(tiling(form, k), &x, |x, tile| encode_tile(form, k, x, tile));
        let mut sums = [[0.0; TASK_OUTPUTS]; 4 * TILE];
        let start = Instant::now();
        multiply(form, k, &packed, &words, outputs, &mut sums);
        start.elapsed()
    };
    let best = (0..RUNS).map(|_| (time(first), time(second)));
    let best = best.reduce(|best, times| (best.0.min(times.0), best.1.min(times.1)));
    match best {
        Some((first_time, second_time)) if second_time < first_time => second,
        _ => first,
    }
}

/// Whether products of pairs have the same bits as those in plain Rust. The trial has values of similar size, values so
/// small that they count as zeros, and values so large that sums become infinite or NaN, in tiles of one row and of
/// several rows.
#[cfg(any(target_arch = "x86_64", test))]
fn passes_trial(multiply: impl Fn(usize, &[bf16], &[u32], usize, &mut [RowSums])) -> bool {
    let (k, outputs) = (301, 5 * PANEL);
    let plain = Form::Swapped(Layout::Plain);
    let trials = [(1, 12), (2, 12), (9, 12), (9, 120), (9, 250)];
    trials.into_iter().all(|(rows, exponents)| {
        let x = trial_values(rows * k, exponents, 1);
        let weights = trial_values(outputs * k, exponents, 2);
        let got = product_by(Form::Pairs, k, &weights, &x, &multiply);
        let want = product_by(
            plain,
            k,
            &weights,
            &x,
            |k, weights, words, outputs, sums| {
                self::multiply(plain, k, weights, words, outputs, sums);
            },
        );
        let mut values = got.iter().zip(&want);
        values.all(|(got, want)| got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()))
    })
}

/// Values of both signs and of so many binary exponents around zero, the same for the same seed.
#[cfg(any(target_arch = "x86_64", test))]
fn trial_values(count: usize, exponents: u32, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let exponent = 127 - exponents / 2 + (state >> 24) % exponents;
        f32::from_bits((state << 31) ^ (exponent << 23) ^ ((state >> 1) & 0x007f_ffff))
    };
    (0..count).map(|_| next()).collect()
}

/// Packs, multiplies and gives the product.
#[cfg(any(target_arch = "x86_64", test))]
fn product_by(
    form: Form,
    k: usize,
    weights: &[f32],
    x: &[f32],
    multiply: impl Fn(usize, &[bf16], &[u32], usize, &mut [RowSums]),
) -> Vec<f32> {
    let (rows, outputs) = (x.len() / k, weights.len() / k);
    let mut packed = vec![bf16::ZERO; form.size(k, outputs)];
    encode_weights(form, k, weights, &mut packed);
    let words = in_tiles(tiling(form, k), x, |x, tile| encode_tile(form, k, x, tile));
    task_by_task(rows, outputs, |first, width, sums| {
        multiply(k, &packed[form.size(k, first)..], &words, width, sums);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise;

    /// A factor as another crate rounds it.
    fn factor(value: f32) -> f32 {
        let rounded = bf16::from_f32(value).to_f32();
        if rounded.abs() < 2.0_f32.powi(-56) {
            0.0
        } else {
            rounded
        }
    }

    /// The order of the module's documentation, one output at a time.
    fn output(x: &[f32], weights: &[f32]) -> f32 {
        let blocks = x.chunks(BLOCK).zip(weights.chunks(BLOCK));
        let sums = blocks.map(|(x, weights)| {
            let mut sum = 0.0_f32;
            for (x, weights) in x.chunks(2).zip(weights.chunks(2)) {
                for (&x, &weight) in x.iter().zip(weights).rev() {
                    sum = factor(x).mul_add(factor(weight), sum);
                }
            }
            sum
        });
        sums.reduce(|all, sum| all + sum).unwrap()
    }

    /// Those that this machine can run; pairs and the wide layout run anywhere in tests.
    fn forms() -> Vec<Form> {
        let mut forms = vec![
            Form::Pairs,
            Form::Swapped(Layout::Plain),
            Form::Swapped(Layout::Wide),
        ];
        if Layout::of_machine() != Layout::Plain {
            forms.push(Form::Swapped(Layout::Narrow));
        }
        forms
    }

    fn product(form: Form, k: usize, weights: &[f32], x: &[f32]) -> Vec<f32> {
        product_by(form, k, weights, x, |k, weights, words, outputs, sums| {
            multiply(form, k, weights, words, outputs, sums);
        })
    }

    #[test]
    fn every_number_of_rows_sums_in_the_documented_order() {
        for (k, outputs) in [(1, 1), (2, 40), (41, 16), (256, 33), (300, 100), (701, 70)] {
            let weights = noise(outputs * k, 3);
            let x = noise(130 * k, 5);
            let want: Vec<u32> = x
                .chunks_exact(k)
                .flat_map(|x| weights.chunks_exact(k).map(|weights| output(x, weights)))
                .map(f32::to_bits)
                .collect();
            for form in forms() {
                // Without its instructions a fused multiply-add is a slow call.
                let is_slow = matches!(form, Form::Pairs | Form::Swapped(Layout::Plain));
                for rows in 1..=if is_slow { 20 } else { 130 } {
                    let out = product(form, k, &weights, &x[(130 - rows) * k..]);
                    let bits: Vec<u32> = out.iter().map(|value| value.to_bits()).collect();
                    let want = &want[(130 - rows) * outputs..];
                    assert!(
                        bits == want,
                        "{form:?}, k {k}, {outputs} outputs, {rows} rows"
                    );
                }
            }
        }
    }

    #[test]
    fn values_round_to_the_nearest() {
        let mut values = trial_values(100_000, 250, 9);
        // Ties, the largest numbers, and those around the smallest factor.
        values.extend((0..1 << 16).map(|high: u32| f32::from_bits(high << 16 | 0x8000)));
        values.extend([f32::MAX, f32::MIN, 0.0, -0.0, 1e-40, -1e-45]);
        values.extend((0..64).map(|low| f32::from_bits(SMALLEST - 0x8020 + low)));
        values.extend([f32::INFINITY, f32::NEG_INFINITY]);
        let mut rounded = vec![7.0; values.len()];
        round(&values, &mut rounded);
        for (&value, rounded) in values.iter().zip(rounded) {
            let want = factor(value);
            assert!(
                rounded == want || (rounded.is_nan() && want.is_nan()),
                "{value:e}: {rounded:e} for {want:e}"
            );
        }
    }

    #[test]
    fn what_is_no_number_is_not_lost() {
        for form in forms() {
            let weights = noise(301, 1);
            for bad in [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001)] {
                let mut x = noise(602, 2);
                x[290] = bad;
                let out = product(form, 301, &weights, &x);
                assert!(out[0].is_nan() && out[1].is_finite(), "{form:?}: {out:?}");
            }
            let mut x = [0.0; 301];
            x[300] = f32::INFINITY;
            let infinite = f32::INFINITY * weights[300];
            assert_eq!(product(form, 301, &weights, &x), [infinite]);
        }
    }

    #[test]
    fn no_sum_is_subnormal() {
        for exponents in [12, 120, 250] {
            let (x, weights) = (
                trial_values(300, exponents, 3),
                trial_values(300, exponents, 4),
            );
            let mut sum = 0.0_f32;
            for (&x, &weight) in x.iter().zip(&weights) {
                let product = factor(x) * factor(weight);
                sum = factor(x).mul_add(factor(weight), sum);
                assert!(!product.is_subnormal() && !sum.is_subnormal());
            }
        }
        let least = 2.0_f32.powi(-56);
        let next = least * (1.0 + 2.0_f32.powi(-7));
        let sums = [
            least * -least,
            next * least - least * least,
            next * next - next * least,
        ];
        assert!(sums.iter().all(|sum| sum.is_normal()), "{sums:?}");
    }

    #[test]
    fn the_trial_tells_orders_apart() {
        assert!(passes_trial(pairs));
        let even_first =
            |k: usize, weights: &[bf16], words: &[u32], outputs: usize, sums: &mut [RowSums]| {
                let words: Vec<u32> = words.iter().map(|word| word.rotate_left(16)).collect();
                let mut weights = weights.to_vec();
                weights.chunks_exact_mut(2).for_each(|pair| pair.swap(0, 1));
                pairs(k, &weights, &words, outputs, sums);
            };
        assert!(!passes_trial(even_first));
    }
}
