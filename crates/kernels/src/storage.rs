//! What weights are stored as once they are packed.

/// What packed weights are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// 32 bits.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
    /// bfloat16, multiplied with rows that are rounded to it too.
    Bf16Operands,
    /// 8-bit whole numbers, with a scale for each block of 256.
    Q8,
}

impl Storage {
    /// Every storage, in the order in which they are measured.
    pub const ALL: [Self; 5] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Bf16Operands,
        Self::Q8,
    ];

    /// The name, as `model.dtype` of a job has it where that alone decides.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16 weights",
            Self::Bf16Operands => "bf16",
            Self::Q8 => "q8",
        }
    }

    /// Bytes of so many weights, where every panel is full.
    pub fn bytes(self, weights: usize) -> usize {
        match self {
            Self::F32 => 4 * weights,
            Self::F16 | Self::Bf16 | Self::Bf16Operands => 2 * weights,
            // A block has a scale and the start of its sum.
            Self::Q8 => weights + weights / 32,
        }
    }
}
