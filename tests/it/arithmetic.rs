//! The bits of the arithmetic: hashes of the nano model's logits, which every kind of CPU gives alike.

use candle_core::Device;
use glm_batch::internals::model::{Glm, Precision};
use glm_batch_kernels::ARITHMETIC;

use crate::nano::{Nano, committed};

/// The version that these bits belong to.
const VERSION: &str = "4";

/// blake3 of all logits in each precision.
const BITS: [(Precision, &str); 4] = [
    (
        Precision::F32,
        "8a9d05903774b5966ae8f9fe6c408742dc04dc4327c0ca71014599d08c61f273",
    ),
    (
        Precision::F16,
        "906531ba567346e742823a17eabe758bf8908d4646c305b41ae039dd671ead1d",
    ),
    (
        Precision::Bf16,
        "cd176c35111a88abceab0c375024d934a97ca3b878e0ba5adbbb28acc8cb9965",
    ),
    (
        Precision::Q8,
        "1cbefcf3d090e1d7deddfc83e7646ab8ac792bb6cde8ada1f06bb430c64bce63",
    ),
];

/// Steps behind the contexts.
const STEPS: u32 = 6;

/// A hash over the logits of some contexts, read together, and of the steps that follow.
fn bits(nano: &Nano, precision: Precision) -> String {
    let mut model = Glm::load(&nano.folder, &Device::Cpu, precision).unwrap();
    let mut hasher = blake3::Hasher::new();
    for logit in nano.logits(&mut model, STEPS) {
        hasher.update(&logit.to_bits().to_le_bytes());
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
         crates/kernels/src/lib.rs (a resumed job would otherwise mix answers of both), then write it and these hashes into this \
         test: {found:#?}"
    );
}
