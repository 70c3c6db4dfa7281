//! The rows in flight that are enough for a model here: what a job's own steps have shown, kept for the jobs after it,
//! or what `bench` measured.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::fsio;

use super::batch_size::{FIRST_ROWS, MOST_ROWS, fewest};
use super::calibration::{BatchSpeed, Calibration, Subject, cache_folder};

/// What the names of these files begin with.
pub(super) const KIND: &str = "rows";

/// The file of a job.
#[derive(Serialize, Deserialize)]
struct KeptRows {
    /// Rows in flight.
    rows: usize,
    /// Whether more are no faster; else no job has tried them yet.
    is_enough: bool,
    /// How fast it was with these and with the others that were tried, as in the files of `bench`.
    batches: Vec<BatchSpeed>,
}

/// A number of rows in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FoundRows {
    /// More are no faster.
    Enough(usize),
    /// Fewer are slower, and more have not been tried.
    OrMore(usize),
}

/// Keeps what a job has found. Returns its file, or `None` where nothing could be written.
pub(crate) fn keep(
    subject: &Subject<'_>,
    found: FoundRows,
    batches: Vec<BatchSpeed>,
) -> Option<PathBuf> {
    keep_in(cache_folder().as_deref(), subject, found, batches)
}

fn keep_in(
    cache: Option<&Path>,
    subject: &Subject<'_>,
    found: FoundRows,
    batches: Vec<BatchSpeed>,
) -> Option<PathBuf> {
    let (rows, is_enough) = match found {
        FoundRows::Enough(rows) => (rows, true),
        FoundRows::OrMore(rows) => (rows, false),
    };
    // What cannot be used later is not kept.
    Calibration::new(&batches)?;
    let file = subject.file(cache, KIND).filter(|_| is_choice(rows))?;
    fsio::create_dir_all(file.parent()?).ok()?;
    let kept = KeptRows {
        rows,
        is_enough,
        batches,
    };
    fsio::write_atomic(&file, |out| {
        serde_json::to_writer_pretty(&mut *out, &kept)?;
        out.write_all(b"\n")
    })
    .ok()?;
    Some(file)
}

/// The rows that are enough, where a job has found them or `bench` has measured several numbers; `None` where neither
/// has, or what was kept cannot be used.
pub(crate) fn load(subject: &Subject<'_>) -> Option<FoundRows> {
    load_from(cache_folder().as_deref(), subject)
}

fn load_from(cache: Option<&Path>, subject: &Subject<'_>) -> Option<FoundRows> {
    let by_job = || {
        let bytes = std::fs::read(subject.file(cache, KIND)?).ok()?;
        let kept: KeptRows = serde_json::from_slice(&bytes).ok()?;
        let rows = Some(kept.rows).filter(|&rows| is_choice(rows))?;
        Some(if kept.is_enough || rows == MOST_ROWS {
            FoundRows::Enough(rows)
        } else {
            FoundRows::OrMore(rows)
        })
    };
    let by_bench = || by_bench(&Calibration::load_from(cache, subject)?);
    by_job().or_else(by_bench)
}

/// Of the numbers that a job would try, the one that is enough by the speeds of `bench`; more are still to be tried where
/// that is the largest which was measured.
fn by_bench(measured: &Calibration) -> Option<FoundRows> {
    let choices = measured
        .decode()
        .iter()
        .filter(|(rows, _)| is_choice(*rows));
    let choices: Vec<(usize, f64)> = choices.copied().collect();
    // One number says nothing of the others.
    let rows = fewest(&choices).filter(|_| choices.len() > 1)?;
    let is_largest = choices.last().is_some_and(|&(most, _)| most == rows);
    Some(if is_largest && rows < MOST_ROWS {
        FoundRows::OrMore(rows)
    } else {
        FoundRows::Enough(rows)
    })
}

/// Whether a job could have found this number: the first one, doubled as often as it is allowed to be.
fn is_choice(rows: usize) -> bool {
    (FIRST_ROWS..=MOST_ROWS).contains(&rows)
        && (rows / FIRST_ROWS).is_power_of_two()
        && rows.is_multiple_of(FIRST_ROWS)
}

#[cfg(test)]
mod tests {
    use super::FoundRows::{Enough, OrMore};
    use super::*;
    use crate::measure::calibration;
    use crate::model::GlmConfig;
    use crate::precision::Precision;

    fn speed(rows: usize, decode: f64) -> BatchSpeed {
        BatchSpeed {
            rows,
            prefill: 500.0,
            decode,
            products: None,
            read_bytes_per_second: None,
            reading: None,
            cache: None,
        }
    }

    fn config() -> GlmConfig {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo/model"));
        GlmConfig::load(folder).unwrap()
    }

    fn subject(config: &GlmConfig) -> Subject<'_> {
        Subject {
            config,
            weight_bytes: 10,
            device: "cpu",
            dtype: Precision::F32,
            cache_dtype: Precision::F32,
        }
    }

    #[test]
    fn what_a_job_keeps_is_found_for_the_same_model_alone() {
        let (cache, config) = (tempfile::tempdir().unwrap(), config());
        let (cache, subject) = (Some(cache.path()), subject(&config));
        assert_eq!(load_from(cache, &subject), None);
        let speeds = || vec![speed(64, 100.0), speed(128, 130.0)];
        keep_in(cache, &subject, Enough(128), speeds()).unwrap();
        assert_eq!(load_from(cache, &subject), Some(Enough(128)));
        let other = Subject {
            cache_dtype: Precision::F16,
            ..subject
        };
        assert_eq!(load_from(cache, &other), None);
        keep_in(cache, &subject, Enough(64), speeds()).unwrap();
        assert_eq!(
            load_from(cache, &subject),
            Some(Enough(64)),
            "the last one counts"
        );
        keep_in(cache, &subject, OrMore(128), speeds()).unwrap();
        assert_eq!(load_from(cache, &subject), Some(OrMore(128)));
        keep_in(cache, &subject, OrMore(256), speeds()).unwrap();
        assert_eq!(load_from(cache, &subject), Some(Enough(256)), "the most");
        let speeds_of_jobs = Calibration::of_jobs_from(cache, &subject);
        assert_eq!(speeds_of_jobs, Calibration::new(&speeds()));
        assert_eq!(Calibration::load_from(cache, &subject), None, "by `bench`");
    }

    #[test]
    fn a_file_that_is_damaged_or_out_of_range_is_as_none() {
        let (cache, config) = (tempfile::tempdir().unwrap(), config());
        let (cache, subject) = (Some(cache.path()), subject(&config));
        let file = keep_in(cache, &subject, Enough(64), vec![speed(64, 1.0)]).unwrap();
        for text in [
            "",
            "{\"rows\": 64, \"is_enough\": true",
            "{\"rows\": -64, \"is_enough\": true, \"batches\": []}",
            "{\"rows\": 65, \"is_enough\": true, \"batches\": []}",
            "{\"rows\": 96, \"is_enough\": true, \"batches\": []}",
            "{\"rows\": 32, \"is_enough\": true, \"batches\": []}",
            "{\"rows\": 0, \"is_enough\": true, \"batches\": []}",
            "{\"rows\": 512, \"is_enough\": true, \"batches\": []}",
            "{\"rows\": 1e30, \"is_enough\": true, \"batches\": []}",
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(load_from(cache, &subject), None, "{text}");
        }
        std::fs::write(
            &file,
            "{\"rows\": 128, \"is_enough\": true, \"batches\": []}",
        )
        .unwrap();
        assert_eq!(load_from(cache, &subject), Some(Enough(128)));
    }

    #[test]
    fn what_cannot_be_written_or_used_is_not_kept() {
        let config = config();
        let subject = subject(&config);
        assert_eq!(
            keep_in(None, &subject, Enough(64), vec![speed(64, 1.0)]),
            None
        );
        let cache = tempfile::tempdir().unwrap();
        assert_eq!(
            keep_in(
                Some(cache.path()),
                &subject,
                Enough(48),
                vec![speed(64, 1.0)]
            ),
            None
        );
        assert_eq!(
            keep_in(
                Some(cache.path()),
                &subject,
                Enough(64),
                vec![speed(64, f64::NAN)]
            ),
            None
        );
        let file = cache.path().join("file");
        std::fs::write(&file, "").unwrap();
        let below_a_file = file.join("cache");
        assert_eq!(
            keep_in(
                Some(&below_a_file),
                &subject,
                Enough(64),
                vec![speed(64, 1.0)]
            ),
            None
        );
    }

    #[test]
    fn without_a_job_the_speeds_of_bench_decide() {
        let (cache, config) = (tempfile::tempdir().unwrap(), config());
        let (cache, subject) = (Some(cache.path()), subject(&config));
        let measured = |speeds: &[(usize, f64)]| {
            let batches: Vec<BatchSpeed> = speeds
                .iter()
                .map(|&(rows, decode)| speed(rows, decode))
                .collect();
            let report = serde_json::json!({ "batches": batches });
            calibration::keep_in(cache, &subject, &batches, &report).unwrap();
            load_from(cache, &subject)
        };
        assert_eq!(
            measured(&[(1, 900.0), (32, 100.0), (64, 140.0), (128, 144.0)]),
            Some(Enough(64))
        );
        assert_eq!(
            measured(&[(64, 100.0), (100, 300.0), (128, 101.0)]),
            Some(Enough(64))
        );
        assert_eq!(measured(&[(1, 20.0), (64, 100.0)]), None, "one of them");
        // The largest that was measured says nothing of larger ones.
        assert_eq!(measured(&[(64, 100.0), (128, 140.0)]), Some(OrMore(128)));
        assert_eq!(measured(&[(64, 100.0), (256, 140.0)]), Some(Enough(256)));
        keep_in(cache, &subject, Enough(128), vec![speed(64, 1.0)]).unwrap();
        assert_eq!(
            measured(&[(64, 100.0), (128, 140.0)]),
            Some(Enough(128)),
            "the job's counts"
        );
    }
}
