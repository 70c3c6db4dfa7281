//! What the machine or its GPU could do at best: memory, multiplying instructions, products, and a model's own products.
//!
//! The limits are measured, not looked up. All figures are the best of some tries, because other work on
//! the machine only slows them.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Result as TensorResult, Tensor};
use rayon::prelude::*;

use crate::measure::{batch_size, machine};
use crate::model::Glm;
use glm_batch_kernels::peaks::{self, Multiply};
use glm_batch_kernels::{PackedLinear, Pages, Storage};

use super::report::{Instruction, ProductPeak};

/// Bytes that are read to measure memory: more than the caches hold that a virtual machine may share with others.
const READ_BYTES: usize = 1 << 30;

/// Bytes that are read where so many would be a large part of the memory.
const FEWER_READ_BYTES: usize = READ_BYTES / 4;

/// Numbers that one task reads, 1 MiB.
const READ_TASK: usize = (1 << 20) / size_of::<u64>();

/// Rows of as many numbers that are read to measure a GPU's memory: more than its caches hold, and a block of
/// threads for each row.
const DEVICE_READ: usize = 1 << 14;

/// Rows and columns of the square product that gives a GPU's best rate.
const DEVICE_PRODUCT: usize = 4096;

/// How long each limit is measured.
const LIMIT_TIME: Duration = Duration::from_millis(400);

/// What is multiplied in f32: bf16 too, where its instruction is slower than widening.
const FLOATS: [Storage; 4] = [
    Storage::F32,
    Storage::F16,
    Storage::Bf16,
    Storage::Bf16Operands,
];

/// How long one measurement of an instruction takes: long beside waking all threads, and short enough that other
/// programs leave some of them alone.
const ROUNDS_TIME: Duration = Duration::from_millis(5);

/// The rates of the instructions that multiply, on all threads together.
pub(super) fn instructions() -> Vec<Instruction> {
    let all = [
        (Multiply::f32(), &FLOATS[..]),
        (Multiply::bf16(), &[Storage::Bf16Operands]),
        (Multiply::int8(), &[Storage::Q8]),
    ];
    let measured = |(multiply, storages): (Option<Multiply>, &[Storage])| {
        let multiply = multiply?;
        let storages = storages.iter().map(|storage| storage.name().to_owned());
        Some(Instruction {
            name: multiply.name.to_owned(),
            operations_per_second: multiply_rate(&multiply),
            storages: storages.collect(),
        })
    };
    all.into_iter().filter_map(measured).collect()
}

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

/// Operations a second of an instruction on all threads of the run together.
fn multiply_rate(multiply: &Multiply) -> f64 {
    let on_all = |rounds: u64| {
        rayon::broadcast(|_| multiply.run(rounds));
    };
    let timed = |rounds: u64| {
        let started = Instant::now();
        on_all(rounds);
        started.elapsed()
    };
    let mut rounds = 1 << 10;
    // Of three, because a moment that another program took would make few rounds look long.
    while (0..3).map(|_| timed(rounds)).min() < Some(ROUNDS_TIME) {
        rounds *= 2;
    }
    let seconds = best(|| on_all(rounds));
    let threads = rayon::current_num_threads() as u64;
    (threads * rounds * multiply.operations) as f64 / seconds
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

/// Bytes a second that a GPU reads from its memory.
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
                layer.forward_into(x, out);
            }
        });
    });
    Some(rows as f64 / seconds)
}

/// How fast memory is read. What else runs on the machine, or beside a virtual one, can halve that from one second to the
/// next, so a CPU's memory is measured again beside each figure that is compared with it.
pub(super) struct ReadRate {
    /// What is read; none on a device, and where too little is left.
    memory: Option<Pages<u64>>,
    last: Option<f64>,
    best: Option<f64>,
}

impl ReadRate {
    /// Of the machine's memory.
    pub(super) fn of_machine() -> Self {
        let memory = memory_to_read();
        let rate = memory.as_ref().map(read_rate);
        Self {
            memory,
            last: rate,
            best: rate,
        }
    }

    /// Of a GPU's memory, which nothing else uses: it is measured once.
    pub(super) fn of_device(device: &Device) -> Self {
        let rate = read_square(device, DEVICE_READ).ok();
        Self {
            memory: None,
            last: rate,
            best: rate,
        }
    }

    /// Bytes a second around what ran since the last call: the higher one of the rate before it and the rate now.
    pub(super) fn around(&mut self) -> Option<f64> {
        let before = self.last;
        if let Some(memory) = &self.memory {
            self.last = Some(read_rate(memory));
        }
        let faster = |one: Option<f64>, other| one.into_iter().chain(other).reduce(f64::max);
        self.best = faster(self.best, self.last);
        faster(before, self.last)
    }

    /// The highest rate so far.
    pub(super) fn best(&self) -> Option<f64> {
        self.best
    }
}

fn memory_to_read() -> Option<Pages<u64>> {
    let memory = machine::memory(0);
    let free_bytes = memory
        .cgroup_bytes
        .unwrap_or(u64::MAX)
        .min(memory.free_bytes);
    if free_bytes < 2 * FEWER_READ_BYTES as u64 {
        return None;
    }
    let is_little = free_bytes < 4 * READ_BYTES as u64;
    let bytes = if is_little {
        FEWER_READ_BYTES
    } else {
        READ_BYTES
    };
    let mut numbers = Pages::<u64>::zeroed(bytes / size_of::<u64>()).ok()?;
    numbers
        .par_chunks_mut(READ_TASK)
        .for_each(|part| part.fill(1));
    Some(numbers)
}

/// Bytes a second that all threads together read.
fn read_rate(numbers: &Pages<u64>) -> f64 {
    let seconds = best(|| numbers.par_chunks(READ_TASK).for_each(peaks::read));
    size_of_val(&numbers[..]) as f64 / seconds
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
    fn every_storage_has_an_instruction_that_is_measured() {
        let instructions = instructions();
        let named: Vec<&str> = instructions
            .iter()
            .flat_map(|instruction| &instruction.storages)
            .map(String::as_str)
            .collect();
        for instruction in &instructions {
            assert!((1e8..1e15).contains(&instruction.operations_per_second));
        }
        let is_there = |storage: Storage| named.contains(&storage.name());
        assert!(named.is_empty() || Storage::ALL.into_iter().all(is_there));
    }

    #[test]
    fn the_limits_of_a_device_are_measured_by_its_tensors() {
        let device = Device::Cpu;
        // No machine that can run this is a thousand times slower or a thousand times faster.
        let rates = 1e6..1e15;
        assert!(rates.contains(&device_product_rate(&device, DType::F32, 64).unwrap()));
        assert!(rates.contains(&read_square(&device, 256).unwrap()));
    }
}
