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
    /// Operations of one token of a context, which needs no logits.
    #[serde(default)]
    pub operations_per_context_token: u64,
    /// Bytes a second that memory gives; absent where there was too little to measure it.
    pub read_bytes_per_second: Option<f64>,
    /// The best rate of products by what the weights are stored as.
    #[serde(default)]
    pub product_peaks: Vec<ProductPeak>,
    /// Tokens of each context.
    pub context: usize,
    /// One entry a batch size.
    pub batches: Vec<BatchSpeed>,
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
    /// The instruction that multiplies; absent on a device, and for a processor that this program knows none of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instruction: Option<String>,
    /// Operations a second of that instruction alone, on registers, all threads together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instruction_per_second: Option<f64>,
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
            writeln!(f, "  products at best; G operations a second:\n")?;
            let heading = [
                "weights",
                "products",
                "instruction alone",
                "share",
                "instruction",
            ];
            let mut lines = vec![heading.map(str::to_owned).to_vec()];
            lines.extend(self.product_peaks.iter().map(peak));
            f.write_str(&table(&lines, usize::MAX))?;
        }
        writeln!(
            f,
            "\n  contexts of {}; tokens a second, and their share of the limits:\n",
            counted(self.context as u64, "token")
        )?;
        let heading = [
            "rows",
            "prefill",
            "of multiplying",
            "decode",
            "of multiplying",
            "of reading",
            "products alone",
            "of products",
        ];
        let mut lines = vec![heading.map(str::to_owned).to_vec()];
        lines.extend(self.batches.iter().map(|batch| self.row(batch)));
        f.write_str(&table(&lines, usize::MAX))?;
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
    /// Operations a second that nothing can pass in the precision of the weights: those of the instruction, or on a
    /// device of the best product.
    fn limit(&self) -> Option<f64> {
        let of_precision = |peak: &&ProductPeak| peak.storage == self.dtype.name();
        let peak = self.product_peaks.iter().find(of_precision)?;
        match self.device {
            DeviceKind::Cpu => peak.instruction_per_second,
            _ => Some(peak.operations_per_second),
        }
    }

    fn row(&self, batch: &BatchSpeed) -> Vec<String> {
        let limit = self.limit();
        let of_multiplying =
            |rate: f64, operations: u64| share(limit.map(|limit| rate * operations as f64 / limit));
        let share_of = |limit: Option<f64>| share(limit.map(|limit| batch.decode / limit));
        vec![
            batch.rows.to_string(),
            format!("{:.1}", batch.prefill),
            of_multiplying(batch.prefill, self.operations_per_context_token),
            format!("{:.1}", batch.decode),
            of_multiplying(batch.decode, self.operations_per_token),
            share_of(batch.reading),
            batch
                .products
                .map_or_else(none, |rate| format!("{rate:.1}")),
            share_of(batch.products),
        ]
    }
}

fn none() -> String {
    "-".to_owned()
}

fn share(share: Option<f64>) -> String {
    share.map_or_else(none, |share| format!("{:.0}%", share * 100.0))
}

/// A storage: our products, and what its instruction could do.
fn peak(peak: &ProductPeak) -> Vec<String> {
    let giga = |rate: f64| format!("{:.1}", rate / 1e9);
    let ours = peak.operations_per_second;
    vec![
        peak.storage.clone(),
        giga(ours),
        peak.instruction_per_second.map_or_else(none, giga),
        share(peak.instruction_per_second.map(|alone| ours / alone)),
        peak.instruction.clone().unwrap_or_else(none),
    ]
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
