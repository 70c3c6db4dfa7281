//! The bits of the arithmetic: hashes of the nano model's logits, which every kind of CPU gives alike.

use candle_core::Device;
use glm_batch::internals::kernels::ARITHMETIC;
use glm_batch::internals::model::{DecodeRow, Glm, Precision, TextModel};

use crate::nano::{Nano, committed, list};

/// The version that these bits belong to.
const VERSION: &str = "3";

/// blake3 of all logits in each precision.
const BITS: [(Precision, &str); 4] = [
    (
        Precision::F32,
        "acbebcc085bf05168ef767a8057527317caf351c2da045e5b3ac8ac00008e5ae",
    ),
    (
        Precision::F16,
        "7181e2bc789cb42a2c259e288edddbc9711f99b26ab7b660a21c163d3fd77f48",
    ),
    (
        Precision::Bf16,
        "7a5399821293a9adb772f5476fb04e10b4ce1aa77b1ce5f79b8fe22e517439f2",
    ),
    (
        Precision::Q8,
        "954c6736b7c622e37d36fb2f056b9e75c51e79db4d48e8877fc2f4532673fec2",
    ),
];

/// Steps behind the contexts.
const STEPS: u32 = 6;

/// A hash over the logits of some contexts, read together, and of the steps that follow.
fn bits(nano: &Nano, precision: Precision) -> String {
    let mut model = Glm::load(&nano.folder, &Device::Cpu, precision).unwrap();
    let cases = nano.cases("greedy_single");
    let prompts: Vec<Vec<u32>> = cases.iter().map(|case| list(&case["prompt"])).collect();
    let ids = nano.ids();
    let rows: Vec<_> = prompts
        .iter()
        .enumerate()
        .map(|(slot, prompt)| ids.prefill(slot, prompt, STEPS as usize + 1))
        .collect();
    let mut hasher = blake3::Hasher::new();
    let mut add = |values: &[f32]| {
        for value in values {
            hasher.update(&value.to_bits().to_le_bytes());
        }
    };
    add(&model.prefill(&rows).unwrap().values);
    for step in 0..STEPS {
        let rows: Vec<DecodeRow> = rows
            .iter()
            .map(|row| DecodeRow {
                slot: row.slot,
                // Any token will do, so long as no rounding chooses it.
                id: (row.slot as u32 * 31 + step * 7) % 500,
                mask_position: row.mask_position,
                block_position: step + 2,
            })
            .collect();
        add(&model.decode(&rows).unwrap().values);
    }
    hasher.finalize().to_hex().to_string()
}

#[test]
fn new_bits_raise_the_version() {
    let nano = committed();
    let found = BITS.map(|(precision, _)| (precision, bits(&nano, precision)));
    let is_same = BITS
        .iter()
        .zip(&found)
        .all(|((_, want), (_, found))| want == found);
    assert!(
        is_same && VERSION == ARITHMETIC,
        "the arithmetic gives other bits than version {VERSION} of it, or has another version: raise `ARITHMETIC` in \
         src/kernels/mod.rs (a resumed job would otherwise mix answers of both), then write it and these hashes into this \
         test: {found:#?}"
    );
}
