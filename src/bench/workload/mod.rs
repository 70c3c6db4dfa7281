//! A workload of prompts with fixed answer lengths, run as a job of its own and timed end to end.
//!
//! `rows` reads and checks the file, an ordinary job in a temporary folder answers it, `report` sets the
//! answers' lengths beside those that were wanted. Nothing of the job is kept.

mod report;
mod rows;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

pub(crate) use report::{AnswerLength, WorkloadReport, write_counts};

use crate::checkpoint::{self, OutputFolder};
use crate::device::DeviceChoice;
use crate::error::{Error, Result};
use crate::fsio;
use crate::job::{self, JobSpec};
use crate::model::GlmConfig;
use crate::precision::{CacheChoice, PrecisionChoice};
use crate::report::Observer;
use crate::run::{RunEnd, RunOptions, run};
use crate::sink::{self, ResultRow};
use crate::stop::StopFlag;
use crate::tokenize::GlmTokenizer;
use rows::Row;

/// The file that the job reads, in its folder.
const PROMPTS: &str = "prompts.jsonl";

/// The job; where the model lies and how long rows may be is filled in.
const JOB: &str = r#"
version = 1
model.path = "model"
input.path = "prompts.jsonl"
input.columns = { prompt = "text", prefix = "prefix", generation = "generation" }
prompt.overflow = "fail"
output = { path = "out", format = "jsonl", columns = "none" }
"#;

/// Which workload runs, and with what.
#[derive(Clone, Debug)]
pub(crate) struct WorkloadOptions {
    /// Folder of the model.
    pub model: PathBuf,
    /// JSON lines with `text` (or `prompt`), `out_len`, and where wanted `id` and `prefix`.
    pub file: PathBuf,
    /// Device of the model.
    pub device: DeviceChoice,
    /// Precision of the weights.
    pub dtype: PrecisionChoice,
    /// What keys and values are cached as.
    pub cache_dtype: CacheChoice,
}

/// Answers every row of a workload with exactly as many tokens as it asks for, and says how long it took.
///
/// # Errors
///
/// What [`run`] would refuse; [`Error::WorkloadLine`] for a line that is not a row, or a row that does not
/// fit the model; [`Error::Interrupted`] where a stop was requested.
pub(crate) fn workload(
    options: &WorkloadOptions,
    stop: &StopFlag,
    observer: &mut dyn Observer,
) -> Result<WorkloadReport> {
    let started = Instant::now();
    let config = GlmConfig::load(&options.model)?;
    let rows = rows::read(&options.file)?;
    let tokenizer = GlmTokenizer::load(&options.model)?;
    rows::check(&rows, &options.file, &config, &tokenizer)?;
    let folder = fsio::temporary_folder("glm-batch-workload-")?;
    write_prompts(&folder.path().join(PROMPTS), &rows)?;
    let spec = job(options, folder.path(), config.max_sequence_length)?;
    let run_options = RunOptions {
        grace: Duration::ZERO,
        ..RunOptions::default()
    };
    let before = started.elapsed();
    let (mut report, end) = run(&spec, &run_options, stop, observer)?;
    if end == RunEnd::Interrupted {
        return Err(Error::Interrupted);
    }
    report.times.wall += before.as_secs_f64();
    // They are gone with the folder.
    report.results.clear();
    report.loading.clear();
    let results = results(&spec.output.path)?;
    let answers = rows.into_iter().zip(0..).map(|(row, number)| {
        let result = results.get(&number);
        AnswerLength::new(row, result)
    });
    Ok(WorkloadReport::new(
        &options.file,
        answers.collect(),
        report,
    ))
}

/// Writes the rows as the job reads them.
fn write_prompts(path: &Path, rows: &[Row]) -> Result<()> {
    fsio::write_atomic(path, |out| {
        for row in rows {
            let length = row.out_len;
            let line = json!({
                "id": row.id,
                "text": row.text,
                "prefix": row.prefix,
                "generation": { "min_new_tokens": length, "max_new_tokens": length },
            });
            writeln!(out, "{line}")?;
        }
        Ok(())
    })?;
    Ok(())
}

/// The job of a workload whose prompts lie in `folder`.
fn job(options: &WorkloadOptions, folder: &Path, positions: usize) -> Result<JobSpec> {
    let name = options.file.display().to_string();
    let mut spec = job::parse(JOB, &name, folder, &[])?;
    spec.name = name;
    spec.model.path = std::path::absolute(&options.model)
        .map_err(|cause| fsio::FsError::new("find", &options.model, cause))?;
    spec.model.device = options.device.clone();
    spec.model.dtype = options.dtype;
    spec.model.cache_dtype = options.cache_dtype;
    // The longest context and the longest answer, which count their positions apart.
    spec.prompt.max_length = Some(2 * positions as u32 + 1);
    Ok(spec)
}

/// The results of a finished job by row number.
fn results(output: &Path) -> Result<BTreeMap<u64, ResultRow>> {
    let folder = OutputFolder::existing(output)?;
    let mut results = BTreeMap::new();
    for window in checkpoint::committed_windows(&folder)? {
        for row in sink::read_part(&folder.entry(&window.part.name))? {
            let row = row?;
            if let Some(number) = row.get("row").and_then(serde_json::Value::as_u64) {
                results.insert(number, row);
            }
        }
    }
    Ok(results)
}
