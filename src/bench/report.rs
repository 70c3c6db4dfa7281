//! What `bench` measured, and how it is printed.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::readings::ReadingSpeed;
use crate::device::DeviceKind;
use crate::measure::BatchSpeed;
use crate::precision::Precision;
use crate::report::{counted, grouped, on_one_line, table};

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BenchReport {
    /// Folder of the model.
    pub model: String,
    /// Kind of device.
    pub device: DeviceKind,
    /// Precision of the weights.
    pub dtype: Precision,
    /// Threads that compute.
    pub threads: usize,
    /// Seconds from the folder to a model that is ready.
    pub load_seconds: f64,
    /// Bytes of the weights that every step reads.
    pub weight_bytes: u64,
    /// Operations of one token in the products, logits included.
    pub operations_per_token: u64,
    /// Bytes a second that memory gives; absent where there was too little to measure it.
    pub read_bytes_per_second: Option<f64>,
    /// The best rate of products by what the weights are stored as.
    #[serde(default)]
    pub product_peaks: Vec<ProductPeak>,
    /// Tokens of each context.
    pub context: usize,
    /// One entry a batch size.
    pub batches: Vec<BatchSpeed>,
    /// Rows in flight that memory was too short for.
    #[serde(default)]
    pub no_room: Vec<usize>,
    /// What the tasks that read do, one entry a shape.
    #[serde(default)]
    pub readings: Vec<ReadingSpeed>,
}

/// The machine's best rate of products with weights in one storage, all threads together.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ProductPeak {
    /// What the weights are stored as.
    pub storage: String,
    /// Operations a second.
    pub operations_per_second: f64,
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {}, {}, {} threads, ready in {:.2} s",
            on_one_line(&self.model),
            self.device,
            self.dtype,
            self.threads,
            self.load_seconds
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
        if !self.product_peaks.is_empty() {
            writeln!(f, "  products reach {} GFLOP/s", self.peaks())?;
        }
        writeln!(
            f,
            "  contexts of {}; tokens a second:\n",
            counted(self.context as u64, "token")
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
        lines.extend(self.batches.iter().map(row));
        f.write_str(&table(&lines, usize::MAX))?;
        if !self.no_room.is_empty() {
            let rows = self.no_room.iter().map(|&rows| grouped(rows as u64));
            let rows = rows.collect::<Vec<_>>().join(", ");
            writeln!(f, "  out of memory with these rows in flight: {rows}")?;
        }
        if self.readings.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "\n  reading to judge; tokens a second, a context once:\n"
        )?;
        let heading = ["task", "tokens of a row", "prefill", "read", "share"];
        let mut lines = vec![heading.map(str::to_owned).to_vec()];
        lines.extend(self.readings.iter().map(reading));
        f.write_str(&table(&lines, usize::MAX))
    }
}

impl BenchReport {
    fn peaks(&self) -> String {
        let peaks = self.product_peaks.iter().map(|peak| {
            let rate = peak.operations_per_second / 1e9;
            format!("{rate:.1} ({})", peak.storage)
        });
        peaks.collect::<Vec<_>>().join(", ")
    }
}

fn reading(speed: &ReadingSpeed) -> Vec<String> {
    let tokens = match speed.branches {
        0 => speed.context.to_string(),
        1 => format!("{} + {}", speed.context, speed.branch),
        branches => format!("{} + {branches} x {}", speed.context, speed.branch),
    };
    vec![
        speed.task.clone(),
        tokens,
        format!("{:.1}", speed.prefill),
        format!("{:.1}", speed.read),
        format!("{:.0}%", speed.read / speed.prefill * 100.0),
    ]
}

fn row(batch: &BatchSpeed) -> Vec<String> {
    let rate = |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"));
    let limits = [batch.products, batch.reading].into_iter().flatten();
    let limit = limits.reduce(f64::min);
    vec![
        batch.rows.to_string(),
        rate(Some(batch.prefill)),
        rate(Some(batch.decode)),
        rate(batch.products),
        rate(batch.reading),
        limit.map_or_else(
            || "-".to_owned(),
            |limit| format!("{:.0}%", batch.decode / limit * 100.0),
        ),
    ]
}
