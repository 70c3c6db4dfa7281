use half::{bf16, f16};

use super::*;
use crate::noise;
use crate::tiles::in_tiles;

/// The order of the module's documentation, one output at a time.
fn output(x: &[f32], weights: &[f32]) -> f32 {
    let blocks = x.chunks(BLOCK).zip(weights.chunks(BLOCK));
    let sums = blocks.map(|(x, weights)| {
        let pairs = x.iter().zip(weights);
        pairs.fold(0.0, |sum: f32, (x, weight)| x.mul_add(*weight, sum))
    });
    sums.reduce(|all, sum| all + sum).unwrap()
}

fn check<W: Float>(layout: Layout, k: usize, outputs: usize) {
    // Without its instructions a fused multiply-add is a slow call.
    let most = if layout == Layout::Plain { 20 } else { 130 };
    let round = |value: &f32| W::narrow(*value).widen();
    let weights: Vec<f32> = noise(outputs * k, 3).iter().map(round).collect();
    let x = noise(most * k, 5);
    let mut packed = vec![W::zeroed(); outputs.next_multiple_of(layout.panel()) * k];
    pack_weights(layout, k, &weights, &mut packed);
    let want: Vec<u32> = x
        .chunks_exact(k)
        .flat_map(|x| weights.chunks_exact(k).map(|weights| output(x, weights)))
        .map(f32::to_bits)
        .collect();
    for rows in 1..=most {
        let x = &x[(most - rows) * k..];
        let tiles = in_tiles(tiling(layout, k), x, |x, tile| pack_tile(k, x, tile));
        let out = task_by_task(rows, outputs, |first, width, sums| {
            multiply(layout, k, &packed[first * k..], &tiles, width, sums);
        });
        let bits: Vec<u32> = out.iter().map(|value| value.to_bits()).collect();
        let want = &want[(most - rows) * outputs..];
        assert!(
            bits == want,
            "{layout:?}, k {k}, {outputs} outputs, {rows} rows"
        );
    }
}

/// Those that this machine can run; the wide one runs anywhere in tests.
fn layouts() -> Vec<Layout> {
    let mut layouts = vec![Layout::Plain, Layout::Wide];
    if Layout::of_machine() != Layout::Plain {
        layouts.push(Layout::Narrow);
    }
    layouts
}

#[test]
fn every_number_of_rows_sums_in_the_documented_order() {
    for layout in layouts() {
        for (k, outputs) in [(1, 1), (40, 16), (256, 33), (300, 100), (700, 70)] {
            check::<f32>(layout, k, outputs);
            check::<f16>(layout, k, outputs);
            check::<bf16>(layout, k, outputs);
        }
    }
}
