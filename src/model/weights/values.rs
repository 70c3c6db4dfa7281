//! The bytes of a tensor to f32 values, rounded to another type where that is wanted.

use std::borrow::Cow;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::super::FloatType;

/// Values that are converted at once; small enough for the first-level cache.
pub(super) const CHUNK: usize = 4096;

/// One tensor's values, convertible piece by piece.
pub(in crate::model) struct Weight<'a> {
    pub(super) bytes: Cow<'a, [u8]>,
    pub(super) stored: FloatType,
    pub(super) float: FloatType,
    pub(super) count: usize,
}

impl Weight<'_> {
    /// Writes rounded values; false if one is not finite.
    pub(super) fn fill(&self, start: usize, out: &mut [f32]) -> bool {
        let mut finite = true;
        for (number, out) in out.chunks_mut(CHUNK).enumerate() {
            let start = start + number * CHUNK;
            decode(self.stored, &self.bytes, start, out);
            if self.stored != self.float {
                round(self.float, out);
            }
            finite &= out
                .iter()
                .fold(true, |finite, value| finite & value.is_finite());
        }
        finite
    }
}

fn decode(stored: FloatType, bytes: &[u8], start: usize, out: &mut [f32]) {
    let width = stored.dtype().size_in_bytes();
    let bytes = &bytes[start * width..(start + out.len()) * width];
    match stored {
        FloatType::F16 => {
            let mut halves = [f16::ZERO; CHUNK];
            let halves = &mut halves[..out.len()];
            for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks().0) {
                *half = f16::from_le_bytes(*bytes);
            }
            halves.convert_to_f32_slice(out);
        }
        FloatType::Bf16 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = bf16::from_le_bytes(*bytes).to_f32();
            }
        }
        FloatType::F32 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = f32::from_le_bytes(*bytes);
            }
        }
    }
}

/// Rounds to the type and back.
fn round(float: FloatType, values: &mut [f32]) {
    match float {
        FloatType::F32 => {}
        FloatType::F16 => {
            let mut halves = [f16::ZERO; CHUNK];
            let halves = &mut halves[..values.len()];
            halves.convert_from_f32_slice(values);
            halves.convert_to_f32_slice(values);
        }
        FloatType::Bf16 => {
            for value in values {
                *value = bf16::from_f32(*value).to_f32();
            }
        }
    }
}
