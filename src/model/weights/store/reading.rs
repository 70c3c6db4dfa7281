//! Tensors of a store to their values: checked, rounded, and their pages given back behind them.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::super::{FloatType, ModelError};
use super::super::tensors::Kind;
use super::super::values::{CHUNK, Weight};
use super::{Stored, WeightStore};

/// Bytes of a file that are looked at before their pages are given back; a call for less would cost more than it
/// gives.
const FORGET_BYTES: usize = 64 << 10;

/// Values after which [`WeightStore::map_values`] gives pages back.
const FORGET_VALUES: usize = 64 * CHUNK;

impl WeightStore {
    /// A tensor that [`WeightStore::check`] has seen.
    pub(in crate::model) fn weight(&self, name: &str) -> Weight<'_> {
        let (stored, float) = self.found(name);
        Weight {
            bytes: self.bytes(stored),
            stored: float,
            float: self.float,
            count: stored.tensor.shape.iter().product(),
        }
    }

    /// A whole tensor as f32, its values checked.
    pub(in crate::model) fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let weight = self.weight(name);
        let mut values = reserved(weight.count)?;
        values.resize(weight.count, 0.0);
        self.fill(name, &weight, 0, &mut values);
        Ok(values)
    }

    /// A whole tensor, each value turned into something narrower.
    pub(in crate::model) fn map_values<T>(
        &self,
        name: &str,
        narrow: impl Fn(f32) -> T,
    ) -> Result<Vec<T>, ModelError> {
        let weight = self.weight(name);
        let mut all = reserved(weight.count)?;
        let mut values = [0.0; CHUNK];
        for start in (0..weight.count).step_by(CHUNK) {
            let values = &mut values[..CHUNK.min(weight.count - start)];
            self.fill(name, &weight, start, values);
            all.extend(values.iter().map(|&value| narrow(value)));
            if all.len().is_multiple_of(FORGET_VALUES) || all.len() == weight.count {
                let first = start / FORGET_VALUES * FORGET_VALUES;
                self.forget(name, &weight, first, all.len() - first);
            }
        }
        Ok(all)
    }

    /// Writes values of a tensor from number `start` on, and remembers it if one is not finite.
    pub(in crate::model) fn fill(
        &self,
        name: &str,
        weight: &Weight<'_>,
        start: usize,
        out: &mut [f32],
    ) {
        if !weight.fill(start, out) {
            let mut tensors = lock(&self.not_finite);
            if !tensors.iter().any(|seen| seen == name) {
                tensors.push(name.to_owned());
            }
        }
        self.forget(name, weight, start, out.len());
    }

    /// Gives back the pages of values that were looked at.
    fn forget(&self, name: &str, weight: &Weight<'_>, start: usize, count: usize) {
        let width = weight.stored.dtype().size_in_bytes();
        if count * width < FORGET_BYTES {
            return;
        }
        let (stored, _) = self.found(name);
        let first = stored.tensor.bytes.start + start * width;
        // A tensor that lies otherwise than row by row was copied as a whole.
        let bytes = match stored.tensor.strides {
            None => first..first + count * width,
            Some(_) => stored.tensor.bytes.clone(),
        };
        self.files[stored.file].map.forget(bytes);
    }

    /// A whole tensor of whole numbers, which [`WeightStore::check`] has seen.
    pub(in crate::model::weights) fn whole_numbers(
        &self,
        name: &str,
    ) -> Result<Vec<i32>, ModelError> {
        let bytes = self.bytes(self.tensor(name));
        let (numbers, _) = bytes.as_chunks::<4>();
        let mut values = reserved(numbers.len())?;
        values.extend(numbers.iter().map(|number| i32::from_le_bytes(*number)));
        Ok(values)
    }

    /// Copies bytes of a tensor that [`WeightStore::check`] has seen, from its byte `start` on.
    pub(in crate::model::weights) fn read_bytes(
        &self,
        name: &str,
        start: usize,
        out: &mut [u8],
    ) -> io::Result<()> {
        let stored = self.tensor(name);
        let first = stored.tensor.bytes.start + start;
        self.files[stored.file].map.read(first, out)
    }

    /// An error if any value read so far was NaN or infinite.
    pub(in crate::model) fn check_finite(&self) -> Result<(), ModelError> {
        let mut tensors = lock(&self.not_finite).clone();
        if tensors.is_empty() {
            return Ok(());
        }
        tensors.sort();
        let precision = self.float.name();
        Err(ModelError::NotFinite {
            folder: self.folder.clone(),
            precision,
            tensors,
        })
    }

    /// A tensor that is there.
    pub(super) fn tensor(&self, name: &str) -> &Stored {
        let stored = self.tensors.get(name);
        stored.expect("`check` refuses weights without this tensor")
    }

    pub(super) fn found(&self, name: &str) -> (&Stored, FloatType) {
        let stored = self.tensor(name);
        let float = match stored.tensor.kind {
            Kind::Float(float) => Some((stored, float)),
            Kind::Other(_) => None,
        };
        float.expect("`check` refuses weights that have this tensor in another kind")
    }
}

/// An empty list with room for so many values.
fn reserved<T>(count: usize) -> Result<Vec<T>, ModelError> {
    let mut values = Vec::new();
    values
        .try_reserve_exact(count)
        .map_err(|_| ModelError::OutOfMemory)?;
    Ok(values)
}

fn lock(names: &Mutex<Vec<String>>) -> MutexGuard<'_, Vec<String>> {
    names.lock().unwrap_or_else(PoisonError::into_inner)
}
