//! What a model weighs once loaded, from the headers of its files alone.
//!
//! The loader asks here what each tensor becomes, so that the figures of a plan and the memory of a run cannot
//! drift apart. A [`Footprint`] counts the weights; what attention keeps for each token comes on top.

use glm_batch_kernels::{PackedLinear, Storage};

use super::weights::{Inspection, Part, Role};
use super::{Backend, FloatType, Precision};

/// What a model weighs once loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// What the weights of the logits are stored as, and so most others.
    pub storage: Storage,
    /// Bytes of the matrices, which every step reads whole.
    pub step_bytes: u64,
    /// Bytes of all weights: the matrices, the tables of which a step looks up rows, norms and biases.
    pub loaded_bytes: u64,
}

/// What decides what a tensor becomes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    pub(super) precision: Precision,
    pub(super) backend: Backend,
}

impl Form {
    /// What a table becomes that is stored as `stored`. On a CPU that is the narrowest type that holds its rounded
    /// values exactly, because less memory is read then and the bits stay the same.
    pub(super) fn table(self, stored: FloatType) -> FloatType {
        match (self.backend, self.precision.float()) {
            (Backend::Packed, FloatType::F32) => stored,
            (_, rounded) => rounded,
        }
    }

    /// What the weight of a product becomes.
    pub(super) fn product(self, stored: FloatType) -> Storage {
        match (self.backend, self.precision) {
            (Backend::Packed, Precision::Q8) => Storage::Q8,
            (Backend::Packed, Precision::Bf16) => Storage::Bf16Operands,
            _ => match self.table(stored) {
                FloatType::F32 => Storage::F32,
                FloatType::F16 => Storage::F16,
                FloatType::Bf16 => Storage::Bf16,
            },
        }
    }

    fn product_bytes(self, shape: &[usize], stored: FloatType) -> usize {
        let storage = self.product(stored);
        match (self.backend, shape) {
            (Backend::Packed, &[out, width]) => PackedLinear::bytes_of(out, width, storage),
            _ => storage.bytes(shape.iter().product()),
        }
    }

    fn table_bytes(self, shape: &[usize], stored: FloatType) -> usize {
        shape.iter().product::<usize>() * self.table(stored).dtype().size_in_bytes()
    }
}

impl Footprint {
    /// That of these tensors, each with what it is stored as.
    pub(super) fn of(parts: &[(Part, FloatType)], form: Form) -> Self {
        let mut footprint = Self {
            storage: form.product(FloatType::F32),
            step_bytes: 0,
            loaded_bytes: 0,
        };
        for (part, stored) in parts {
            let shape = &part.shape;
            let floats = shape.iter().product::<usize>() * size_of::<f32>();
            // What a step reads whole, and what lies beside it.
            let (step, beside) = match (part.role, form.backend) {
                (Role::Words, Backend::Packed) => (
                    form.product_bytes(shape, *stored),
                    form.table_bytes(shape, *stored),
                ),
                // One tensor on the device serves as table and as matrix.
                (Role::Words, Backend::Padded) | (Role::Matrix, _) => {
                    (form.product_bytes(shape, *stored), 0)
                }
                (Role::Table, _) | (Role::Bias, Backend::Padded) => {
                    (0, form.table_bytes(shape, *stored))
                }
                (Role::Norm | Role::Head, _) | (Role::Bias, Backend::Packed) => (0, floats),
            };
            if part.role == Role::Words {
                footprint.storage = form.product(*stored);
            }
            footprint.step_bytes += step as u64;
            footprint.loaded_bytes += (step + beside) as u64;
        }
        footprint
    }
}

impl Inspection {
    /// What the model weighs once it is loaded so.
    pub fn footprint(&self, precision: Precision, backend: Backend) -> Footprint {
        Footprint::of(&self.parts, Form { precision, backend })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words, one matrix with a bias, and a table, where words and matrix are stored in 16 bits.
    fn parts() -> Vec<(Part, FloatType)> {
        let part = |role, shape: &[usize], stored| {
            let (name, shape) = (String::new(), shape.to_vec());
            (Part { name, shape, role }, stored)
        };
        vec![
            part(Role::Words, &[128, 64], FloatType::F16),
            part(Role::Matrix, &[64, 256], FloatType::Bf16),
            part(Role::Bias, &[64], FloatType::F32),
            part(Role::Table, &[10, 64], FloatType::F32),
            part(Role::Norm, &[64], FloatType::F16),
        ]
    }

    fn of(precision: Precision, backend: Backend) -> (Storage, u64, u64) {
        let footprint = Footprint::of(&parts(), Form { precision, backend });
        let beside = footprint.loaded_bytes - footprint.step_bytes;
        (footprint.storage, footprint.step_bytes, beside)
    }

    #[test]
    fn on_a_cpu_words_are_held_twice_and_16_bits_stay_16_bits() {
        let (words, matrix, table) = (128 * 64, 64 * 256, 10 * 64);
        let floats = 4 * (64 + 64);
        let packed = |precision| of(precision, Backend::Packed);
        let halves = 2 * (words + matrix);
        assert_eq!(
            packed(Precision::F32),
            (Storage::F16, halves, 2 * words + 4 * table + floats)
        );
        assert_eq!(
            packed(Precision::F16),
            (Storage::F16, halves, 2 * words + 2 * table + floats)
        );
        let (storage, step, beside) = packed(Precision::Bf16);
        assert_eq!(
            (storage, beside),
            (Storage::Bf16Operands, 2 * words + 2 * table + floats)
        );
        assert!(step >= halves);
        let (storage, step, beside) = packed(Precision::Q8);
        assert_eq!(
            (storage, beside),
            (Storage::Q8, 2 * words + 4 * table + floats)
        );
        assert!(step > words + matrix && step < halves, "{step}");
    }

    #[test]
    fn on_a_device_everything_but_the_norms_has_the_precision() {
        let all = 128 * 64 + 64 * 256;
        let beside = 64 + 10 * 64;
        let padded = |precision| of(precision, Backend::Padded);
        assert_eq!(
            padded(Precision::F32),
            (Storage::F32, 4 * all, 4 * (beside + 64))
        );
        assert_eq!(
            padded(Precision::F16),
            (Storage::F16, 2 * all, 2 * beside + 4 * 64)
        );
        assert_eq!(padded(Precision::Bf16).0, Storage::Bf16);
    }
}
