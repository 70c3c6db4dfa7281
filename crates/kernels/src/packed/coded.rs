//! A file's codes to a packed layer: read into pages of its own and laid out for this machine.

use std::io;

use rayon::prelude::*;

use super::super::floats::TASK_OUTPUTS;
use super::super::int8::Dot;
use super::super::int8::stored::{StoredShape, sum_codes};
use super::super::pages::Pages;
use super::{PackedLinear, Quantized, Weights};

/// A weight's codes in a file, as [`StoredShape`] describes them.
pub struct CodesSource<'a> {
    /// Shape of the weight.
    pub shape: StoredShape,
    /// What a code of each block is worth.
    pub scales: &'a [f32],
    /// Sums of the codes of each block.
    pub sums: &'a [i32],
    /// Reads codes from number `start` on into the buffer.
    pub read: &'a (dyn Fn(usize, &mut [i8]) -> io::Result<()> + Sync),
}

/// Why a file's codes cannot be taken.
#[derive(Debug)]
pub enum CodesError {
    /// The system has no memory left.
    NoMemory,
    /// The file cannot be read.
    Read(io::Error),
    /// The codes of a block have another sum than the file says.
    Sums,
}

impl PackedLinear {
    /// Reads a weight that was encoded before; its products have the bits of [`PackedLinear::pack`] with
    /// [`Storage::Q8`](super::Storage::Q8) of the same values.
    ///
    /// # Errors
    ///
    /// [`CodesError`].
    pub fn read_codes(
        source: &CodesSource<'_>,
        bias: Option<Vec<f32>>,
    ) -> Result<Self, CodesError> {
        let (dot, k) = (Dot::of_machine(), source.shape.width_in);
        let (count, scales) = dot.sizes(k, source.shape.width_out);
        let mut codes = Pages::zeroed(count).map_err(|_| CodesError::NoMemory)?;
        let mut scales = Pages::zeroed(scales).map_err(|_| CodesError::NoMemory)?;
        let (codes_at_once, scales_at_once) = dot.sizes(k, TASK_OUTPUTS);
        codes
            .par_chunks_mut(codes_at_once)
            .zip(scales.par_chunks_mut(scales_at_once))
            .enumerate()
            .try_for_each(|(task, (codes, scales))| source.task(dot, task, codes, scales))?;
        Ok(Self {
            width_in: k,
            width_out: source.shape.width_out,
            weights: Weights::Q8(Quantized { dot, codes, scales }),
            bias,
        })
    }
}

impl CodesSource<'_> {
    /// Fills the panels of one task.
    fn task(
        &self,
        dot: Dot,
        task: usize,
        codes: &mut [i8],
        scales: &mut [f32],
    ) -> Result<(), CodesError> {
        let k = self.shape.width_in;
        let outputs = TASK_OUTPUTS.min(self.shape.width_out - task * TASK_OUTPUTS);
        let (count, scale_count) = self.shape.sizes(outputs);
        let (codes_before, scales_before) = self.shape.sizes(task * TASK_OUTPUTS);
        let sums = &self.sums[scales_before..][..scale_count];
        if dot.takes_stored() {
            let codes = &mut codes[..count];
            (self.read)(codes_before, codes).map_err(CodesError::Read)?;
            check_sums(k, codes, sums)?;
        } else {
            let mut stored = vec![0; count];
            (self.read)(codes_before, &mut stored).map_err(CodesError::Read)?;
            check_sums(k, &stored, sums)?;
            dot.lay_out(k, &stored, codes);
        }
        let stored = &self.scales[scales_before..][..scale_count];
        dot.lay_out_scales(k, stored, sums, scales);
        Ok(())
    }
}

/// Refuses codes whose sums are others: some instructions use the sums, and results must not depend on the machine.
fn check_sums(k: usize, codes: &[i8], sums: &[i32]) -> Result<(), CodesError> {
    let mut found = vec![0; sums.len()];
    sum_codes(k, codes, &mut found);
    if found == sums {
        Ok(())
    } else {
        Err(CodesError::Sums)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::int8::stored::StoredCodes;
    use super::super::{Epilogue, Storage};
    use super::*;
    use crate::noise;

    fn read(shape: StoredShape, stored: &StoredCodes) -> Result<PackedLinear, CodesError> {
        let source = CodesSource {
            shape,
            scales: &stored.scales,
            sums: &stored.sums,
            read: &|start, codes| {
                codes.copy_from_slice(&stored.codes[start..start + codes.len()]);
                Ok(())
            },
        };
        PackedLinear::read_codes(&source, None)
    }

    #[test]
    fn products_have_the_bits_of_weights_that_are_packed_here() {
        for (width_in, width_out) in [(64, 192), (700, 301), (5, 7), (256, 80)] {
            let weights = noise(width_in * width_out, 7);
            let fill = |start: usize, out: &mut [f32]| {
                out.copy_from_slice(&weights[start..start + out.len()]);
            };
            let packed = PackedLinear::pack(width_out, width_in, Storage::Q8, None, &fill).unwrap();
            let shape = StoredShape {
                width_out,
                width_in,
            };
            let read = read(shape, &StoredCodes::encode(width_in, &weights)).unwrap();
            let x = noise(9 * width_in, 3);
            let product = |layer: &PackedLinear| {
                let out = layer.forward(&x, None, Epilogue::None);
                out.iter().map(|value| value.to_bits()).collect::<Vec<_>>()
            };
            assert!(product(&read) == product(&packed), "{width_in} {width_out}");
        }
    }

    #[test]
    fn codes_that_do_not_have_their_sums_are_refused() {
        let shape = StoredShape {
            width_out: 130,
            width_in: 300,
        };
        let mut stored = StoredCodes::encode(300, &noise(130 * 300, 7));
        stored.codes[20_000] ^= 1;
        assert!(matches!(read(shape, &stored), Err(CodesError::Sums)));
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let shape = StoredShape {
            width_out: 16,
            width_in: 4,
        };
        let source = CodesSource {
            shape,
            scales: &[1.0; 16],
            sums: &[0; 16],
            read: &|_, _| Err(io::ErrorKind::UnexpectedEof.into()),
        };
        let error = PackedLinear::read_codes(&source, None).unwrap_err();
        assert!(matches!(error, CodesError::Read(_)), "{error:?}");
    }
}
