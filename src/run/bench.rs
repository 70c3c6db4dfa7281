//! A model's speed on this machine, beside what the machine could do at best.
//!
//! Two limits are measured, not looked up: how fast memory is read, and how fast products with packed
//! weights of the model's own shapes go when nothing else is done. All figures are the best of some
//! tries, because other work on the machine only slows them.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::kernels::{Epilogue, PackedLinear, Storage};
use crate::model::{
    self, DecodeRow, DeviceChoice, Glm, GlmConfig, Precision, PrefillRow, TextModel,
};
use crate::report::{grouped, table};

/// Bytes that are read to measure memory; more than caches hold.
const READ_BYTES: usize = 256 << 20;

/// Bytes that one task reads.
const READ_TASK: usize = 1 << 20;

/// How long each limit is measured.
const LIMIT_TIME: Duration = Duration::from_millis(400);

/// What is measured.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Device of the model.
    pub device: DeviceChoice,
    /// Precision of the weights.
    pub precision: Precision,
    /// Rows in flight, one measurement each.
    pub batches: Vec<usize>,
    /// Tokens of each row's context.
    pub context: usize,
    /// Decode steps of each measurement.
    pub steps: usize,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
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
#[derive(Clone, Debug, Serialize)]
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

/// Measures a model.
///
/// # Errors
///
/// What loading the model would refuse; [`Error::Usage`] where context and steps do not fit the model.
pub fn bench(folder: &Path, options: &BenchOptions) -> Result<BenchReport> {
    let config = GlmConfig::load(folder)?;
    let (context, steps) = (options.context, options.steps);
    if context + steps > config.max_sequence_length || context < 2 || steps == 0 {
        return Err(Error::Usage(format!(
            "{context} context tokens and {steps} steps do not fit a model of {} positions\nhint: lower `--context` or `--steps`",
            config.max_sequence_length
        )));
    }
    let device = model::open_device(options.device)?;
    let started = Instant::now();
    let mut glm = Glm::load(folder, &device, options.precision)?;
    let load_seconds = started.elapsed().as_secs_f64();
    let storage = glm.weight_storage();
    let weight_bytes = (config.matrix_weights() * storage.bytes()) as u64;
    let products = device.is_cpu().then(|| Products::new(&config, storage));
    let read_rate = device.is_cpu().then(read_rate);
    let mut batches = Vec::with_capacity(options.batches.len());
    for &rows in &options.batches {
        let (prefill, decode) = run_batch(&mut glm, &config, rows, context, steps)?;
        batches.push(BatchSpeed {
            rows,
            prefill,
            decode,
            products: products.as_ref().map(|products| products.rate(rows)),
            reading: read_rate.map(|rate| rows as f64 * rate / weight_bytes as f64),
        });
    }
    Ok(BenchReport {
        model: folder.display().to_string(),
        device: if device.is_cpu() { "cpu" } else { "gpu" }.to_owned(),
        dtype: options.precision.name().to_owned(),
        threads: rayon::current_num_threads(),
        load_seconds,
        weight_bytes,
        operations_per_token: 2 * config.matrix_weights() as u64,
        read_bytes_per_second: read_rate,
        context,
        batches,
    })
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
    let prefill: Vec<PrefillRow<'_>> = (0..rows)
        .map(|slot| PrefillRow {
            slot,
            ids: &ids,
            start: 0,
            mask_position,
            capacity: context + steps + 1,
        })
        .collect();
    let started = Instant::now();
    glm.prefill(&prefill)?;
    let prefill_seconds = started.elapsed().as_secs_f64();
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
    let tokens = (rows * context) as f64;
    Ok((tokens / prefill_seconds, rows as f64 / step_seconds))
}

/// The products of a model, each shape once, without a model around them.
struct Products {
    layers: usize,
    of_a_layer: Vec<Product>,
    logits: Product,
}

struct Product {
    width_in: usize,
    width_out: usize,
    layer: PackedLinear,
}

impl Products {
    fn new(config: &GlmConfig, storage: Storage) -> Self {
        let hidden = config.hidden_size;
        let product = |width_out: usize, width_in: usize| Product {
            width_in,
            width_out,
            layer: PackedLinear::pack(width_out, width_in, storage, None, &|_, values| {
                values.fill(0.5);
            }),
        };
        Self {
            layers: config.num_layers,
            of_a_layer: vec![
                product(3 * hidden, hidden),
                product(hidden, hidden),
                product(4 * hidden, hidden),
                product(hidden, 4 * hidden),
            ],
            logits: product(config.vocab_size, hidden),
        }
    }

    /// Tokens a second for so many rows.
    fn rate(&self, rows: usize) -> f64 {
        let layer: f64 = self
            .of_a_layer
            .iter()
            .map(|product| product.seconds(rows))
            .sum();
        rows as f64 / (layer * self.layers as f64 + self.logits.seconds(rows))
    }
}

impl Product {
    fn seconds(&self, rows: usize) -> f64 {
        let x = vec![0.5; rows * self.width_in];
        let mut out = vec![0.0; rows * self.width_out];
        // As in a run: the pool is entered once, not once a product.
        best(|| rayon::scope(|_| self.layer.forward(&x, &mut out, Epilogue::None)))
    }
}

/// Bytes a second that all threads together read from memory.
fn read_rate() -> f64 {
    let bytes = vec![1_u64; READ_BYTES / size_of::<u64>()];
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
    READ_BYTES as f64 / seconds
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
