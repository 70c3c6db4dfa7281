//! What the machine or its GPU could do at best: memory, products, and a model's own products.
//!
//! The limits are measured, not looked up. All figures are the best of some tries, because other work on
//! the machine only slows them.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Result as TensorResult, Tensor};
use rayon::prelude::*;

use crate::kernels::{Epilogue, PackedLinear, Pages, Storage};
use crate::measure::batch_size;
use crate::model::Glm;

use super::report::ProductPeak;

/// Bytes that are read to measure memory; more than caches hold.
const READ_BYTES: usize = 256 << 20;

/// Bytes that one task reads.
const READ_TASK: usize = 1 << 20;

/// Rows of as many numbers that are read to measure a GPU's memory: more than its caches hold, and a block of
/// threads for each row.
const DEVICE_READ: usize = 1 << 14;

/// Rows and columns of the square product that gives a GPU's best rate.
const DEVICE_PRODUCT: usize = 4096;

/// How long each limit is measured.
const LIMIT_TIME: Duration = Duration::from_millis(400);

/// The machine's best rate of products with weights in each storage; those are left out for which memory
/// is short.
pub(super) fn product_peaks() -> Vec<ProductPeak> {
    let peak = |storage: Storage| {
        Some(ProductPeak {
            storage: storage.name().to_owned(),
            operations_per_second: batch_size::peak_rate(storage)?,
        })
    };
    Storage::ALL.into_iter().filter_map(peak).collect()
}

/// The best rate of products on a GPU in each precision that it takes.
pub(super) fn device_product_peaks(device: &Device) -> Vec<ProductPeak> {
    let peak = |(storage, dtype): (Storage, DType)| {
        Some(ProductPeak {
            storage: storage.name().to_owned(),
            operations_per_second: device_product_rate(device, dtype, DEVICE_PRODUCT).ok()?,
        })
    };
    let kinds = [
        (Storage::F32, DType::F32),
        (Storage::F16, DType::F16),
        (Storage::Bf16, DType::BF16),
    ];
    kinds.into_iter().filter_map(peak).collect()
}

fn device_product_rate(device: &Device, dtype: DType, width: usize) -> TensorResult<f64> {
    let square = Tensor::ones((width, width), dtype, device)?;
    let seconds = try_best(|| {
        square.matmul(&square.t()?)?;
        device.synchronize()
    })?;
    Ok(2.0 * (width as f64).powi(3) / seconds)
}

/// Bytes a second that a GPU reads from its memory; `None` where too little is left.
pub(super) fn device_read_rate(device: &Device) -> Option<f64> {
    read_square(device, DEVICE_READ).ok()
}

fn read_square(device: &Device, width: usize) -> TensorResult<f64> {
    let tensor = Tensor::ones((width, width), DType::F32, device)?;
    let seconds = try_best(|| {
        tensor.sum(1)?;
        device.synchronize()
    })?;
    Ok((width * width * size_of::<f32>()) as f64 / seconds)
}

/// Tokens a second if a step were its products and nothing else; `None` on a device.
pub(super) fn product_rate(glm: &Glm, rows: usize) -> Option<f64> {
    let layers = glm.packed_layers();
    let widest = |width: fn(&PackedLinear) -> usize| layers.iter().map(|layer| width(layer)).max();
    let x = vec![0.5; rows * widest(PackedLinear::width_in)?];
    let mut out = vec![0.0; rows * widest(PackedLinear::width_out)?];
    let seconds = best(|| {
        // As in a step: the pool is entered once, not once a product.
        rayon::scope(|_| {
            for layer in &layers {
                let x = &x[..rows * layer.width_in()];
                let out = &mut out[..rows * layer.width_out()];
                layer.forward(x, out, Epilogue::None);
            }
        });
    });
    Some(rows as f64 / seconds)
}

/// Bytes a second that all threads together read from memory; `None` where too little is left.
pub(super) fn read_rate() -> Option<f64> {
    let mut bytes = Pages::<u64>::zeroed(READ_BYTES / size_of::<u64>()).ok()?;
    bytes.fill(1);
    let seconds = best(|| {
        let sum = |part: &[u64]| {
            part.iter()
                .fold(0_u64, |sum, &value| sum.wrapping_add(value))
        };
        let sum: u64 = bytes
            .par_chunks(READ_TASK / size_of::<u64>())
            .map(sum)
            .sum();
        std::hint::black_box(sum);
    });
    Some(READ_BYTES as f64 / seconds)
}

/// Seconds of the fastest of the calls that fit into [`LIMIT_TIME`].
fn best(mut call: impl FnMut()) -> f64 {
    let mut one = || {
        call();
        Ok::<_, Infallible>(())
    };
    let Ok(seconds) = try_best(&mut one);
    seconds
}

/// As [`best`], with calls that can fail.
fn try_best<E>(mut call: impl FnMut() -> Result<(), E>) -> Result<f64, E> {
    let started = Instant::now();
    let mut best = f64::INFINITY;
    while best.is_infinite() || started.elapsed() < LIMIT_TIME {
        let one = Instant::now();
        call()?;
        best = best.min(one.elapsed().as_secs_f64().max(1e-9));
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_a_device_are_measured_by_its_tensors() {
        let device = Device::Cpu;
        // No machine that can run this is a thousand times slower or a thousand times faster.
        let rates = 1e6..1e15;
        assert!(rates.contains(&device_product_rate(&device, DType::F32, 64).unwrap()));
        assert!(rates.contains(&read_square(&device, 256).unwrap()));
    }
}
