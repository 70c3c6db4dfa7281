//! Candle tensors on the CPU as slices, and back.

use candle_core::{CpuStorage, Device, Result, Shape, Storage, Tensor};

/// Runs `use_values` on the values of a contiguous f32 tensor that lies on the CPU.
///
/// # Errors
///
/// When the tensor lies elsewhere, has another dtype, or is not contiguous.
pub(in crate::model) fn with_host<R>(
    tensor: &Tensor,
    use_values: impl FnOnce(&[f32]) -> R,
) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("a host kernel needs a contiguous tensor, got {layout:?}")
    };
    match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => Ok(use_values(&values[start..end])),
        _ => candle_core::bail!("a host kernel needs an f32 tensor on the CPU"),
    }
}

/// A CPU tensor from its values.
///
/// # Errors
///
/// When the number of values does not fit the shape.
pub(in crate::model) fn from_host(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}
