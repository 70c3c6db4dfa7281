//! A model's speed on this machine, beside what the machine could do at best.
//!
//! `steps` times the model where it answers, `readings` where it judges, `limits` measures what memory and products allow, `report` holds the figures and
//! prints them. `workload` runs a job with fixed answer lengths, which is why this module lies above
//! [`run`](mod@crate::run).

mod limits;
mod readings;
mod report;
mod steps;
mod workload;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Instant;

pub(crate) use crate::measure::BatchSpeed;
pub(crate) use report::BenchReport;
pub(crate) use workload::{WorkloadOptions, workload, write_counts};

use crate::device::DeviceChoice;
use crate::error::{Error, Result};
use crate::measure::calibration::{self, Subject};
use crate::model::{self, FurtherLayers, Glm, GlmConfig, TextModel};
use crate::precision::{CacheChoice, PrecisionChoice};

use limits::ReadRate;

/// Rows in flight that are measured on a CPU.
const CPU_ROWS: [usize; 7] = [1, 4, 8, 16, 32, 64, 128];

/// Rows in flight that are measured on a GPU.
const DEVICE_ROWS: [usize; 7] = [1, 8, 32, 128, 256, 512, 1024];

/// What is measured.
#[derive(Clone, Debug)]
pub(crate) struct BenchOptions {
    /// Device of the model.
    pub device: DeviceChoice,
    /// Precision of the weights.
    pub dtype: PrecisionChoice,
    /// What keys and values are cached as.
    pub cache_dtype: CacheChoice,
    /// Rows in flight, one measurement each; where there are none, 1 to 128 on a CPU and 1 to 1,024 on a GPU.
    pub batches: Vec<NonZeroUsize>,
    /// Tokens of each row's context.
    pub context: usize,
    /// Decode steps of each measurement.
    pub steps: usize,
}

/// Measures a model, and keeps what it found for the estimates of `plan`. The second value is the file
/// that it is kept in, if it could be written.
///
/// # Errors
///
/// What loading the model would refuse; [`Error::Usage`] where context and steps do not fit the model.
pub(crate) fn bench(
    folder: &Path,
    options: &BenchOptions,
) -> Result<(BenchReport, Option<PathBuf>)> {
    let config = GlmConfig::load(folder)?;
    let (context, steps) = (options.context, options.steps);
    let positions = config.max_sequence_length;
    if context < 2 || steps == 0 || context.saturating_add(steps) > positions {
        return Err(Error::Usage(format!(
            "{context} context tokens and {steps} steps cannot be measured\nhint: at least 2 tokens and 1 step, and no more together than the model's {positions} positions"
        )));
    }
    let devices = model::find_devices(&options.device)?;
    let [device] = devices[..] else {
        return Err(Error::Usage(format!(
            "{} devices cannot be measured together\nhint: name one, such as `cuda:0`",
            devices.len()
        )));
    };
    let is_cpu = device.is_cpu();
    let inspection = model::inspect(folder, &config, FurtherLayers::Refused)?;
    let precision = inspection.precision(options.dtype, is_cpu)?;
    options.cache_dtype.check(is_cpu)?;
    let started = Instant::now();
    let opened = device.open()?;
    let cache = options.cache_dtype.resolve(is_cpu, precision);
    let mut glm = Glm::load(folder, &opened, precision)?.cached_as(cache);
    let row_bytes = (context + 2) * config.cached_bytes_per_token(cache);
    let load_seconds = started.elapsed().as_secs_f64();
    let weight_bytes = glm.footprint().step_bytes;
    let (mut read_rate, instructions, product_peaks) = if is_cpu {
        let (rate, instructions) = (ReadRate::of_machine(), limits::instructions());
        (rate, instructions, limits::product_peaks())
    } else {
        let peaks = limits::device_product_peaks(&opened);
        (ReadRate::of_device(&opened), Vec::new(), peaks)
    };
    let mut batches = Vec::new();
    let mut no_room = Vec::new();
    let rows_in_flight = match &options.batches[..] {
        [] if is_cpu => CPU_ROWS.to_vec(),
        [] => DEVICE_ROWS.to_vec(),
        asked => asked.iter().map(|rows| rows.get()).collect(),
    };
    for rows in rows_in_flight {
        let Some((prefill, decode)) = steps::rates(&mut glm, &config, rows, context, steps)? else {
            no_room.push(rows);
            continue;
        };
        let rate = read_rate.around();
        batches.push(BatchSpeed {
            rows,
            prefill,
            decode,
            products: limits::product_rate(&glm, rows),
            read_bytes_per_second: rate,
            reading: rate.map(|rate| rows as f64 * rate / weight_bytes as f64),
            cache: rate.map(|rate| rate / row_bytes as f64),
        });
    }
    if let (true, Some(fewest)) = (batches.is_empty(), no_room.iter().min()) {
        return Err(Error::Usage(format!(
            "out of memory with {fewest} rows in flight\nhint: fewer rows (`--batch 1`) or a shorter `--context` may fit"
        )));
    }
    let readings = readings::speeds(&mut glm, &config)?;
    let note = glm.take_note();
    let report = BenchReport {
        model: folder.display().to_string(),
        device: device.kind(),
        dtype: precision,
        cache_dtype: cache,
        threads: rayon::current_num_threads(),
        load_seconds,
        weight_bytes,
        operations_per_token: 2 * config.matrix_weights() as u64,
        operations_per_context_token: 2
            * (config.matrix_weights() - config.vocab_size * config.hidden_size) as u64,
        read_bytes_per_second: read_rate.best(),
        instructions,
        product_peaks,
        context,
        batches,
        no_room,
        note,
        readings,
    };
    let subject = Subject {
        config: &config,
        weight_bytes,
        device: &device.label(),
        dtype: precision,
        cache_dtype: cache,
    };
    let kept = calibration::keep(&subject, &report.batches, &report);
    Ok((report, kept))
}
