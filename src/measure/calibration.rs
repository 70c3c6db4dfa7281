//! What `bench` measured, or a job's own steps have shown, kept for the estimates of `plan` and beside the times of a run.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::fsio;
use crate::model::GlmConfig;
use crate::precision::Precision;

use super::{kept_rows, machine};

/// What the names of the files of `bench` begin with.
const KIND: &str = "bench";

/// Speed of one batch size.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BatchSpeed {
    /// Rows in flight.
    pub rows: usize,
    /// Context tokens a second.
    pub prefill: f64,
    /// Answer tokens a second.
    pub decode: f64,
    /// Answer tokens a second if nothing but the products were done; absent on a device.
    pub products: Option<f64>,
    /// Bytes a second that memory gave in the same moments; absent where there was too little to measure it.
    #[serde(default)]
    pub read_bytes_per_second: Option<f64>,
    /// Answer tokens a second if nothing but reading the weights took time; absent as its rate.
    pub reading: Option<f64>,
    /// The same for reading keys and values.
    #[serde(default)]
    pub cache: Option<f64>,
}

/// What is read of a benchmark's report.
#[derive(Deserialize)]
struct Kept {
    batches: Vec<BatchSpeed>,
}

/// The speed of a model of this shape on this machine.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Calibration {
    /// Context tokens a second, at the best of the measured batches.
    prefill: f64,
    /// Answer tokens a second by rows in flight, fewest rows first; not empty.
    decode: Vec<(usize, f64)>,
}

/// What decides the speed of a model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) config: &'a GlmConfig,
    pub(crate) weight_bytes: u64,
    /// What the device is called.
    pub(crate) device: &'a str,
    /// Precision of the weights.
    pub(crate) dtype: Precision,
    /// What keys and values are cached as.
    pub(crate) cache_dtype: Precision,
}

impl Subject<'_> {
    /// Where its measurements of one kind are kept; `None` for a user without a home.
    pub(super) fn file(&self, cache: Option<&Path>, kind: &str) -> Option<PathBuf> {
        let text = format!(
            "{} {} {} {} {} {} {} {} {} {}",
            self.config.num_layers,
            self.config.hidden_size,
            self.config.num_attention_heads,
            self.config.vocab_size,
            self.weight_bytes,
            self.device,
            self.dtype,
            self.cache_dtype.name(),
            rayon::current_num_threads(),
            machine::cpu_kind(),
        );
        let name = blake3::hash(text.as_bytes()).to_hex();
        Some(cache?.join(format!("{kind}-{}.json", &name[..16])))
    }
}

/// The folder for what can be measured again.
pub(super) fn cache_folder() -> Option<PathBuf> {
    let named = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let of_home = || Some(std::env::home_dir()?.join(".cache"));
    let folder = named.filter(|path| path.is_absolute()).or_else(of_home)?;
    folder.is_absolute().then(|| folder.join("glm-batch"))
}

/// Keeps the report of a measurement, which has a field `batches` with the speeds given here. Returns its
/// file, or `None` where nothing could be written.
pub(crate) fn keep(
    subject: &Subject<'_>,
    batches: &[BatchSpeed],
    report: &impl Serialize,
) -> Option<PathBuf> {
    keep_in(cache_folder().as_deref(), subject, batches, report)
}

pub(super) fn keep_in(
    cache: Option<&Path>,
    subject: &Subject<'_>,
    batches: &[BatchSpeed],
    report: &impl Serialize,
) -> Option<PathBuf> {
    // What cannot be used later is not kept.
    Calibration::new(batches)?;
    let file = subject.file(cache, KIND)?;
    fsio::create_dir_all(file.parent()?).ok()?;
    fsio::write_atomic(&file, |out| {
        serde_json::to_writer_pretty(&mut *out, report)?;
        out.write_all(b"\n")
    })
    .ok()?;
    Some(file)
}

impl Calibration {
    /// What was kept for such a model; `None` where `bench` has not run, or its file cannot be read.
    pub(crate) fn load(subject: &Subject<'_>) -> Option<Self> {
        Self::load_from(cache_folder().as_deref(), subject)
    }

    pub(super) fn load_from(cache: Option<&Path>, subject: &Subject<'_>) -> Option<Self> {
        Self::read(&subject.file(cache, KIND)?)
    }

    /// What a job's own steps have shown of such a model; `None` where no job has kept it.
    pub(crate) fn of_jobs(subject: &Subject<'_>) -> Option<Self> {
        Self::of_jobs_from(cache_folder().as_deref(), subject)
    }

    pub(super) fn of_jobs_from(cache: Option<&Path>, subject: &Subject<'_>) -> Option<Self> {
        Self::read(&subject.file(cache, kept_rows::KIND)?)
    }

    fn read(file: &Path) -> Option<Self> {
        let bytes = std::fs::read(file).ok()?;
        let report: Kept = serde_json::from_slice(&bytes).ok()?;
        Self::new(&report.batches)
    }

    pub(super) fn new(batches: &[BatchSpeed]) -> Option<Self> {
        let is_rate = |rate: f64| rate.is_finite() && rate > 0.0;
        if batches
            .iter()
            .any(|batch| !is_rate(batch.prefill) || !is_rate(batch.decode))
        {
            return None;
        }
        let prefill = batches.iter().map(|batch| batch.prefill).reduce(f64::max)?;
        let mut decode: Vec<_> = batches
            .iter()
            .map(|batch| (batch.rows, batch.decode))
            .collect();
        decode.sort_unstable_by_key(|&(rows, _)| rows);
        Some(Self { prefill, decode })
    }

    /// Answer tokens a second by rows in flight, fewest rows first.
    pub(super) fn decode(&self) -> &[(usize, f64)] {
        &self.decode
    }

    /// Seconds of prefill and decode for so many tokens with so many rows in flight; `None` where
    /// nothing near as many rows was measured.
    pub(crate) fn seconds(
        &self,
        prompt_tokens: u64,
        answer_tokens: u64,
        rows: usize,
    ) -> Option<f64> {
        let most = self.decode.last().map_or(0, |&(rows, _)| rows);
        if rows > 2 * most {
            return None;
        }
        let decode = answer_tokens as f64 / self.decode_rate(rows);
        Some(prompt_tokens as f64 / self.prefill + decode)
    }

    /// Between two measured batches on the straight line between them, else at the nearest one.
    fn decode_rate(&self, rows: usize) -> f64 {
        let above = self
            .decode
            .partition_point(|&(measured, _)| measured < rows);
        let last = self.decode.len() - 1;
        let (low, high) = (
            self.decode[above.saturating_sub(1)],
            self.decode[above.min(last)],
        );
        if low.0 >= high.0 {
            return high.1;
        }
        let share = (rows.clamp(low.0, high.0) - low.0) as f64 / (high.0 - low.0) as f64;
        low.1 + (high.1 - low.1) * share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speed(rows: usize, prefill: f64, decode: f64) -> BatchSpeed {
        BatchSpeed {
            rows,
            prefill,
            decode,
            products: None,
            read_bytes_per_second: None,
            reading: None,
            cache: None,
        }
    }

    #[test]
    fn rates_lie_between_those_that_were_measured() {
        let batches = [
            speed(64, 100.0, 80.0),
            speed(1, 50.0, 10.0),
            speed(4, 90.0, 40.0),
        ];
        let calibration = Calibration::new(&batches).unwrap();
        for (rows, rate) in [
            (1, 10.0),
            (2, 20.0),
            (4, 40.0),
            (34, 60.0),
            (64, 80.0),
            (500, 80.0),
        ] {
            assert!(
                (calibration.decode_rate(rows) - rate).abs() < 1e-9,
                "{rows}"
            );
        }
        assert!((calibration.decode_rate(0) - 10.0).abs() < 1e-9);
        assert!((calibration.seconds(1000, 160, 64).unwrap() - 12.0).abs() < 1e-9);
        assert_eq!(calibration.seconds(1000, 160, 129), None);
    }

    #[test]
    fn nothing_is_foretold_from_nothing() {
        assert_eq!(Calibration::new(&[]), None);
        assert_eq!(Calibration::new(&[speed(1, 0.0, 1.0)]), None);
    }

    #[test]
    fn what_is_kept_is_found_for_the_same_model_alone() {
        let cache = tempfile::tempdir().unwrap();
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo/model"));
        let config = GlmConfig::load(folder).unwrap();
        let subject = Subject {
            config: &config,
            weight_bytes: 10,
            device: "cpu",
            dtype: Precision::F32,
            cache_dtype: Precision::F32,
        };
        let batches = [speed(8, 5.0, 6.0)];
        let report = serde_json::json!({ "model": "m", "batches": batches });
        assert_eq!(Calibration::load_from(Some(cache.path()), &subject), None);
        let file = keep_in(Some(cache.path()), &subject, &batches, &report).unwrap();
        let found = Calibration::load_from(Some(cache.path()), &subject);
        assert_eq!(found, Calibration::new(&batches));
        let other = Subject {
            weight_bytes: 20,
            ..subject
        };
        assert_eq!(Calibration::load_from(Some(cache.path()), &other), None);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(Calibration::load_from(Some(cache.path()), &subject), None);
        assert_eq!(keep_in(None, &subject, &batches, &report), None);
        assert_eq!(keep_in(Some(cache.path()), &subject, &[], &report), None);
    }
}
