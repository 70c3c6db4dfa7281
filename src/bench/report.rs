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
    /// What keys and values are cached as.
    pub cache_dtype: Precision,
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
    /// Bytes a second that memory gives at most; absent where there was too little to measure it.
    pub read_bytes_per_second: Option<f64>,
    /// The instructions that multiply; none on a device, and for a processor that this program knows none of.
    #[serde(default)]
    pub instructions: Vec<Instruction>,
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
    /// What the user should know of the steps: the kernels of a GPU were given up, say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
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

/// An instruction that multiplies, or a few that do so together: on registers alone, all threads together.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Instruction {
    /// Its name.
    pub name: String,
    /// Operations a second.
    pub operations_per_second: f64,
    /// What weights are stored as whose products it can do.
    pub storages: Vec<String>,
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {}, {}, cache in {}, {} threads, ready in {:.2} s",
            on_one_line(&self.model),
            self.device,
            self.dtype,
            self.cache_dtype.name(),
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
            writeln!(f, "  memory is read at {:.1} GB/s at most", rate / 1e9)?;
        }
        for instruction in &self.instructions {
            let rate = giga(instruction.operations_per_second);
            let Instruction { name, .. } = instruction;
            writeln!(f, "  {name}: {rate} G operations a second at most")?;
        }
        if !self.product_peaks.is_empty() {
            writeln!(
                f,
                "\n  products at best, G operations a second, and their share of the fastest instruction:\n"
            )?;
            let heading = ["weights", "products", "share"];
            let mut lines = vec![heading.map(str::to_owned).to_vec()];
            lines.extend(self.product_peaks.iter().map(|peak| self.peak(peak)));
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
            "memory GB/s",
            "of reading",
            "products alone",
            "of products",
            "cache alone",
            "of both",
        ];
        let mut lines = vec![heading.map(str::to_owned).to_vec()];
        lines.extend(self.batches.iter().map(|batch| self.row(batch)));
        f.write_str(&table(&lines, usize::MAX))?;
        if !self.no_room.is_empty() {
            let rows = self.no_room.iter().map(|&rows| grouped(rows as u64));
            let rows = rows.collect::<Vec<_>>().join(", ");
            writeln!(f, "  out of memory with these rows in flight: {rows}")?;
        }
        if let Some(note) = &self.note {
            writeln!(f, "  {}", on_one_line(note))?;
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
    /// Operations a second of the fastest instruction for weights that are stored so.
    fn instruction(&self, storage: &str) -> Option<f64> {
        let can =
            |instruction: &&Instruction| instruction.storages.iter().any(|one| one == storage);
        let rates = self.instructions.iter().filter(can);
        rates
            .map(|instruction| instruction.operations_per_second)
            .reduce(f64::max)
    }

    /// Operations a second that nothing can pass in the precision of the weights: those of the instruction, or on a
    /// device of the best product.
    fn limit(&self) -> Option<f64> {
        let storage = self.dtype.name();
        if self.device == DeviceKind::Cpu {
            return self.instruction(storage);
        }
        let peak = self
            .product_peaks
            .iter()
            .find(|peak| peak.storage == storage);
        peak.map(|peak| peak.operations_per_second)
    }

    fn peak(&self, peak: &ProductPeak) -> Vec<String> {
        let limit = self.instruction(&peak.storage);
        vec![
            peak.storage.clone(),
            giga(peak.operations_per_second),
            share(limit.map(|limit| peak.operations_per_second / limit)),
        ]
    }

    fn row(&self, batch: &BatchSpeed) -> Vec<String> {
        let limit = self.limit();
        let of_multiplying =
            |rate: f64, operations: u64| share(limit.map(|limit| rate * operations as f64 / limit));
        let share_of = |limit: Option<f64>| share(limit.map(|limit| batch.decode / limit));
        let alone = |rate: Option<f64>| rate.map_or_else(none, |rate| format!("{rate:.1}"));
        let both = batch.products.zip(batch.cache);
        let both = both.map(|(products, cache)| 1.0 / (1.0 / products + 1.0 / cache));
        vec![
            batch.rows.to_string(),
            format!("{:.1}", batch.prefill),
            of_multiplying(batch.prefill, self.operations_per_context_token),
            format!("{:.1}", batch.decode),
            of_multiplying(batch.decode, self.operations_per_token),
            alone(batch.read_bytes_per_second.map(|rate| rate / 1e9)),
            share_of(batch.reading),
            alone(batch.products),
            share_of(batch.products),
            alone(batch.cache),
            share_of(both),
        ]
    }
}

fn none() -> String {
    "-".to_owned()
}

fn share(share: Option<f64>) -> String {
    share.map_or_else(none, |share| format!("{:.0}%", share * 100.0))
}

fn giga(rate: f64) -> String {
    format!("{:.1}", rate / 1e9)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_rate_that_memory_had_beside_the_row() {
        let text = r#"{"model": "m", "device": "cpu", "dtype": "q8", "cache_dtype": "q8", "threads": 1, "load_seconds": 1.0,
            "weight_bytes": 1, "operations_per_token": 1, "read_bytes_per_second": 8e10, "context": 8, "batches": [
                {"rows": 1, "prefill": 9.0, "decode": 30.0, "products": null, "read_bytes_per_second": 4e10, "reading": 40.0},
                {"rows": 1, "prefill": 9.0, "decode": 60.0, "products": null, "read_bytes_per_second": 8e10, "reading": 80.0}]}"#;
        let report: BenchReport = serde_json::from_str(text).unwrap();
        let printed = report.to_string();
        let lines: Vec<Vec<&str>> = printed
            .lines()
            .map(|line| line.split_whitespace().collect())
            .filter(|line: &Vec<&str>| line.first() == Some(&"1"))
            .collect();
        let rate_and_share = |line: &Vec<&str>| (line[5].to_owned(), line[6].to_owned());
        let pair = |rate: &str, share: &str| (rate.to_owned(), share.to_owned());
        let found: Vec<_> = lines.iter().map(rate_and_share).collect();
        assert_eq!(
            found,
            [pair("40.0", "75%"), pair("80.0", "75%")],
            "{printed}"
        );
        assert!(printed.contains("read at 80.0 GB/s at most"), "{printed}");
    }

    #[test]
    fn what_the_model_has_to_say_is_printed() {
        let text = r#"{"model": "m", "device": "cuda", "dtype": "f16", "cache_dtype": "f16", "threads": 1, "load_seconds": 1.0,
            "weight_bytes": 1, "operations_per_token": 1, "read_bytes_per_second": null, "context": 8, "batches": []}"#;
        let mut report: BenchReport = serde_json::from_str(text).unwrap();
        assert!(!report.to_string().contains("warning"));
        assert!(!serde_json::to_string(&report).unwrap().contains("note"));
        report.note = Some("warning: a kernel\nfails".to_owned());
        let printed = report.to_string();
        let line = format!("\n  {}\n", on_one_line("warning: a kernel\nfails"));
        assert!(printed.ends_with(&line), "{printed}");
        assert!(
            serde_json::to_string(&report)
                .unwrap()
                .contains(r#""note":"warning"#)
        );
    }
}
