//! The bits of the arithmetic: hashes of the nano model's logits, which every kind of CPU gives alike.

use candle_core::Device;
use glm_batch::internals::model::{Glm, Precision};
use glm_batch_kernels::ARITHMETIC;

use crate::nano::{Nano, committed};

/// The version that these bits belong to.
const VERSION: &str = "4";

/// blake3 of all logits in each precision, with keys and values cached as they were in all jobs at first, and as they have
/// been beside 8-bit weights since.
const BITS: [(Precision, Precision, &str); 6] = [
    (
        Precision::F32,
        Precision::F32,
        "8a9d05903774b5966ae8f9fe6c408742dc04dc4327c0ca71014599d08c61f273",
    ),
    (
        Precision::F16,
        Precision::F32,
        "906531ba567346e742823a17eabe758bf8908d4646c305b41ae039dd671ead1d",
    ),
    (
        Precision::Bf16,
        Precision::F32,
        "cd176c35111a88abceab0c375024d934a97ca3b878e0ba5adbbb28acc8cb9965",
    ),
    (
        Precision::Q8,
        Precision::F32,
        "1cbefcf3d090e1d7deddfc83e7646ab8ac792bb6cde8ada1f06bb430c64bce63",
    ),
    (
        Precision::Q8,
        Precision::F16,
        "8461a1225c88106e048a4edd501443695541d1dae3217ada1e211a1a2fc4df9a",
    ),
    (
        Precision::Q8,
        Precision::Q8,
        "43db5d8cb17ce2c2d94114c5c66beadc0d78037da299c88394dd753261ee37a2",
    ),
];

/// Steps behind the contexts.
const STEPS: u32 = 6;

/// A hash over the logits of some contexts, read together, and of the steps that follow.
fn bits(nano: &Nano, precision: Precision, cache: Precision) -> String {
    let model = Glm::load(&nano.folder, &Device::Cpu, precision).unwrap();
    let mut model = model.cached_as(cache);
    let mut hasher = blake3::Hasher::new();
    for logit in nano.logits(&mut model, STEPS) {
        hasher.update(&logit.to_bits().to_le_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

#[test]
fn new_bits_raise_the_version() {
    let nano = committed();
    let found = BITS.map(|(precision, cache, _)| (precision, cache, bits(&nano, precision, cache)));
    let is_same = BITS
        .iter()
        .zip(&found)
        .all(|((_, _, want), (_, _, found))| want == found);
    assert!(
        is_same && VERSION == ARITHMETIC,
        "the arithmetic gives other bits than version {VERSION} of it, or has another version: raise `ARITHMETIC` in \
         crates/kernels/src/lib.rs (a resumed job would otherwise mix answers of both), then write it and these hashes into this \
         test: {found:#?}"
    );
}
