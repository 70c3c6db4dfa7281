//! A model's speed on this machine, beside what the machine could do at best.
//!
//! Two limits are measured, not looked up: how fast memory is read, and how fast the products of all the
//! model's layers go when nothing else is done. All figures are the best of some
//! tries, because other work on the machine only slows them.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::calibration::{self, Subject};
use super::prepare::{device_choice, precision};
use crate::error::{Error, Result};
use crate::kernels::{Epilogue, PackedLinear, Pages};
use crate::model::{self, DecodeRow, Glm, GlmConfig, PrefillRow, TextModel};
use crate::report::{grouped, table};
use crate::spec::{DeviceSpec, DtypeSpec};

/// Bytes that are read to measure memory; more than caches hold.
const READ_BYTES: usize = 256 << 20;

/// Bytes that one task reads.
const READ_TASK: usize = 1 << 20;

/// How often contexts are read.
const PREFILLS: usize = 2;

/// Tokens of contexts that are read at once, as far as the rows have so many; the other rows copy them.
const PREFILL_TOKENS: usize = 1024;

/// How long each limit is measured.
const LIMIT_TIME: Duration = Duration::from_millis(400);

/// What is measured.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Device of the model.
    pub device: DeviceSpec,
    /// Precision of the weights.
    pub dtype: DtypeSpec,
    /// Rows in flight, one measurement each.
    pub batches: Vec<NonZeroUsize>,
    /// Tokens of each row's context.
    pub context: usize,
    /// Decode steps of each measurement.
    pub steps: usize,
}

/// What was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BenchReport {
    /// Folder of the model.
    pub model: String,
    /// Kind of device.
    pub device: String,
    /// Precision of the weights.
    pub dtype: String,
    /// Threads that compute.
    pub threads: usize,
    /// Seconds from the folder to a model that is ready.
    pub load_seconds: f64,
    /// Bytes of the weights that every step reads.
    pub weight_bytes: u64,
    /// Operations of one token in the products, logits included.
    pub operations_per_token: u64,
    /// Bytes a second that memory gives; absent on a device.
    pub read_bytes_per_second: Option<f64>,
    /// Tokens of each context.
    pub context: usize,
    /// One entry a batch size.
    pub batches: Vec<BatchSpeed>,
}

/// Speed of one batch size.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BatchSpeed {
    /// Rows in flight.
    pub rows: usize,
    /// Context tokens a second.
    pub prefill: f64,
    /// Answer tokens a second.
    pub decode: f64,
    /// Answer tokens a second if nothing but the products were done; absent on a device.
    pub products: Option<f64>,
    /// Answer tokens a second if nothing but reading the weights took time; absent on a device.
    pub reading: Option<f64>,
}

/// Measures a model, and keeps what it found for the estimates of `plan`. The second value is the file
/// that it is kept in, if it could be written.
///
/// # Errors
///
/// What loading the model would refuse; [`Error::Usage`] where context and steps do not fit the model.
pub fn bench(folder: &Path, options: &BenchOptions) -> Result<(BenchReport, Option<PathBuf>)> {
    let config = GlmConfig::load(folder)?;
    let (context, steps) = (options.context, options.steps);
    let positions = config.max_sequence_length;
    if context < 2 || steps == 0 || context.saturating_add(steps) > positions {
        return Err(Error::Usage(format!(
            "{context} context tokens and {steps} steps cannot be measured\nhint: at least 2 tokens and 1 step, and no more together than the model's {positions} positions"
        )));
    }
    let devices = model::find_devices(&device_choice(&options.device))?;
    let [device] = devices[..] else {
        return Err(Error::Usage(format!(
            "{} devices cannot be measured together\nhint: name one, such as `cuda:0`",
            devices.len()
        )));
    };
    let device = device.open()?;
    let precision = precision(options.dtype, device.is_cpu());
    let started = Instant::now();
    let mut glm = Glm::load(folder, &device, precision)?;
    let load_seconds = started.elapsed().as_secs_f64();
    let storage = glm.weight_storage();
    let weight_bytes = storage.bytes(config.matrix_weights()) as u64;
    let read_rate = device.is_cpu().then(read_rate).flatten();
    let mut batches = Vec::with_capacity(options.batches.len());
    for rows in options.batches.iter().map(|rows| rows.get()) {
        let (prefill, decode) = run_batch(&mut glm, &config, rows, context, steps)?;
        batches.push(BatchSpeed {
            rows,
            prefill,
            decode,
            products: product_rate(&glm, rows),
            reading: read_rate.map(|rate| rows as f64 * rate / weight_bytes as f64),
        });
    }
    let report = BenchReport {
        model: folder.display().to_string(),
        device: if device.is_cpu() { "cpu" } else { "gpu" }.to_owned(),
        dtype: precision.name().to_owned(),
        threads: rayon::current_num_threads(),
        load_seconds,
        weight_bytes,
        operations_per_token: 2 * config.matrix_weights() as u64,
        read_bytes_per_second: read_rate,
        context,
        batches,
    };
    let subject = Subject {
        config: &config,
        weight_bytes,
        on_cpu: device.is_cpu(),
    };
    let kept = calibration::keep(&subject, &report);
    Ok((report, kept))
}

/// Prefill and decode tokens a second; the fastest of the steps counts.
fn run_batch(
    glm: &mut Glm,
    config: &GlmConfig,
    rows: usize,
    context: usize,
    steps: usize,
) -> Result<(f64, f64)> {
    let ids: Vec<u32> = (0..context)
        .map(|at| (at * 37 % config.vocab_size) as u32)
        .collect();
    let mask_position = context as u32 - 1;
    let read = rows.min(PREFILL_TOKENS.div_ceil(context));
    let contexts: Vec<PrefillRow<'_>> = (0..read)
        .map(|slot| PrefillRow {
            slot,
            ids: &ids,
            start: 0,
            mask_position,
            capacity: context + steps + 1,
        })
        .collect();
    let mut prefill_seconds = f64::INFINITY;
    for _ in 0..PREFILLS {
        let started = Instant::now();
        glm.prefill(&contexts)?;
        prefill_seconds = prefill_seconds.min(started.elapsed().as_secs_f64());
    }
    for slot in read..rows {
        glm.fork(slot % read, slot)?;
    }
    let mut step_seconds = f64::INFINITY;
    for step in 0..steps {
        let rows: Vec<DecodeRow> = (0..rows)
            .map(|slot| DecodeRow {
                slot,
                id: (slot * 7 % config.vocab_size) as u32,
                mask_position,
                block_position: step as u32 + 2,
            })
            .collect();
        let started = Instant::now();
        glm.decode(&rows)?;
        step_seconds = step_seconds.min(started.elapsed().as_secs_f64());
    }
    for slot in 0..rows {
        glm.release(slot);
    }
    let tokens = (read * context) as f64;
    Ok((tokens / prefill_seconds, rows as f64 / step_seconds))
}

/// Tokens a second if a step were its products and nothing else; `None` on a device.
fn product_rate(glm: &Glm, rows: usize) -> Option<f64> {
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
fn read_rate() -> Option<f64> {
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
    let started = Instant::now();
    let mut best = f64::INFINITY;
    while best.is_infinite() || started.elapsed() < LIMIT_TIME {
        let one = Instant::now();
        call();
        best = best.min(one.elapsed().as_secs_f64().max(1e-9));
    }
    best
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {}, {}, {} threads, ready in {:.2} s",
            self.model, self.device, self.dtype, self.threads, self.load_seconds
        )?;
        writeln!(
            f,
            "  a step reads {} MiB of weights, a token takes {:.2} GFLOP of products",
            grouped(self.weight_bytes >> 20),
            self.operations_per_token as f64 / 1e9
        )?;
        if let Some(rate) = self.read_bytes_per_second {
            writeln!(f, "  memory is read at {:.1} GB/s", rate / 1e9)?;
        }
        writeln!(
            f,
            "  contexts of {} tokens; tokens a second:\n",
            self.context
        )?;
        let heading = [
            "rows",
            "prefill",
            "decode",
            "products alone",
            "reading alone",
            "share",
        ];
        let mut lines = vec![heading.map(str::to_owned).to_vec()];
        lines.extend(self.batches.iter().map(BatchSpeed::line));
        f.write_str(&table(&lines, usize::MAX))
    }
}

impl BatchSpeed {
    fn line(&self) -> Vec<String> {
        let rate =
            |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"));
        let limit = self.products.map(|products| {
            let reading = self.reading.unwrap_or(f64::INFINITY);
            products.min(reading)
        });
        vec![
            self.rows.to_string(),
            rate(Some(self.prefill)),
            rate(Some(self.decode)),
            rate(self.products),
            rate(self.reading),
            limit.map_or_else(
                || "-".to_owned(),
                |limit| format!("{:.0}%", self.decode / limit * 100.0),
            ),
        ]
    }
}
