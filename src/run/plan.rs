//! A job to what running it would take: no weights loaded, nothing written.

use serde::Serialize;

use super::earlier;
use super::feed::{EncodedWindow, RowEncoder};
use super::load::{OpenRows, budget};
use super::model_facts::ModelFacts;
use super::read::{ReadInput, Reading, place_text};
use super::texts;
use crate::checkpoint::{self, JobRecord, OutputFolder};
use crate::device::DeviceKind;
use crate::engine::most_rows;
use crate::error::{Error, Result};
use crate::input::DuplicateIds;
use crate::job::{self, JobSpec, Rules};
use crate::measure::calibration::Calibration;
use crate::model::{Backend, ReadingSize};
use crate::outcome::LeftOutRows;
use crate::plan::{Budget, PlanStatistics, RowLength, simulate_windows};
use crate::precision::Precision;
use crate::report::{counted, grouped};
use crate::stop::StopFlag;
use crate::tasks;

mod phases;
mod text;

pub use phases::PhasePlan;

/// Bad rows that are shown by name.
const SHOWN_BAD_ROWS: usize = 5;

/// What running a job would take.
#[derive(Clone, Debug, Serialize)]
pub struct PlanReport {
    /// Name of the job.
    pub job: String,
    /// Input files.
    pub files: usize,
    /// Rows, broken lines included.
    pub rows: u64,
    /// Rows that fail before generation.
    pub bad_rows: u64,
    /// Rows that the job leaves out.
    #[serde(skip_serializing_if = "LeftOutRows::is_empty")]
    pub left_out: LeftOutRows,
    /// The first bad rows, in words.
    pub first_bad_rows: Vec<String>,
    /// What the user should know of the job, one line each.
    pub notes: Vec<String>,
    /// Rows whose prompt is cut to fit.
    pub truncated: u64,
    /// Rows whose prompt has more than one mask, of which the first is answered.
    pub several_masks: u64,
    /// Rows with two choices that are the same text.
    pub equal_choices: u64,
    /// Requests with keys that say nothing of the answer.
    pub passed_over: u64,
    /// Rows that lost examples, because their prompt would have been too long with all of them.
    pub shots_dropped: u64,
    /// Rows with fewer examples than the job asks for, because their file has no more for them.
    pub few_shots: u64,
    /// Rows with an id that an earlier one has.
    pub duplicate_ids: u64,
    /// Whether the count of duplicates stopped early, and after how many rows.
    pub duplicates_counted_to: Option<u64>,
    /// Windows.
    pub windows: usize,
    /// Kind of device.
    pub device: DeviceKind,
    /// Precision of the weights.
    pub dtype: Precision,
    /// Bytes of the weights once loaded.
    pub weight_bytes: u64,
    /// Bytes of the cache when it is fullest.
    pub cache_bytes: u64,
    /// Bytes that reading texts takes at most, where rows are read in one pass each.
    pub reading_bytes: u64,
    /// Rows in flight at most; where a run finds out how many are enough, the number that it begins with; the statistics
    /// use it.
    pub max_batch_size: usize,
    /// The most rows that such a run may come to; `cache_bytes` is for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub most_batch_size: Option<usize>,
    /// Padded context and reserved answers in flight at most, tokens.
    pub max_batch_tokens: u64,
    /// Floating-point operations of the products, where every answer is as long as it may be.
    pub operations: f64,
    /// Whether `bench` has measured such a model here, so that the estimate is made from its figures.
    pub calibrated: bool,
    /// Seconds of the whole job if every answer is as long as it may be: by what `bench` has measured, or else by the speed
    /// of an earlier job with such a model here; absent where there is neither.
    pub estimated_seconds: Option<f64>,
    /// Lengths, buckets, batches.
    pub statistics: PlanStatistics,
    /// What each phase of the job would take, where it has any; all else is about the first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<PhasePlan>,
}

/// Plans a job.
///
/// # Errors
///
/// What [`run`](super::run) would refuse in the job file, the input, the result columns or the model's folder.
pub fn plan(spec: &JobSpec) -> Result<PlanReport> {
    let model = ModelFacts::load(spec, Rules::of_new(spec))?;
    if spec.input.path == ["-"] {
        return Err(Error::Usage(
            "`plan` cannot read standard input: it would be gone for `run`\nhint: write the rows to a file and name it in `input.path`".to_owned(),
        ));
    }
    let found = earlier::input_files(&spec.input, &spec.output.path, Rules::CURRENT)?;
    let read = ReadInput::open(&Reading {
        spec,
        files: &found.files,
        previous: None,
        rules: Rules::of_new(spec),
        stop: &StopFlag::default(),
    })?;
    // `run` would refuse the columns of the results before its first row.
    drop(read.sink(spec)?);
    let mut notes: Vec<String> = present(spec).into_iter().collect();
    notes.extend(found.notes);
    notes.extend(model.warnings(spec));
    notes.extend(read.case_note(spec)?);
    notes.extend(read.kinds_note(spec)?);
    notes.extend(texts::notes(spec, &model.tokenizer)?);
    let rows = Rows::collect(spec, &model, &read)?;
    notes.extend(texts::idle_rows(rows.idle));
    notes.extend(rows.end_note(spec, read.index.rows));
    let weight_bytes = model.footprint.loaded_bytes;
    let cache_bytes_per_token = model.cache_bytes_per_token();
    let memory = model.memory(weight_bytes)?;
    let open = OpenRows::of(spec, &model);
    let budget = budget(&spec.batch, &model, open, memory.as_ref());
    let statistics = rows.simulate(&budget);
    let most = most_batch_size(spec, &model, open, &rows);
    let peak_tokens = match most {
        // More rows in flight take more of the cache.
        Some(max_batch_size) => {
            rows.simulate(&Budget {
                max_batch_size,
                ..budget
            })
            .peak_tokens
        }
        None => statistics.peak_tokens,
    };
    let tokens = statistics.prompt_tokens + statistics.reserved_tokens;
    let operations = 2.0 * model.config.matrix_weights() as f64 * tokens as f64;
    let seconds = |calibration: Calibration| {
        calibration.seconds(
            statistics.prompt_tokens,
            statistics.reserved_tokens,
            match statistics.reserved_tokens {
                0 => 1,
                _ => (statistics.slot_use * statistics.peak_slots as f64).round() as usize,
            },
        )
    };
    let by_bench = model.calibration().and_then(seconds);
    let estimated_seconds = by_bench
        .or_else(|| model.speeds_of_jobs().and_then(seconds))
        .map(|seconds| seconds / model.devices.len() as f64);
    let phases = phases::phases(spec, &model, &rows, &statistics, estimated_seconds)?;
    Ok(PlanReport {
        phases,
        job: spec.name.clone(),
        files: found.files.len(),
        rows: read.index.rows,
        bad_rows: rows.bad,
        left_out: rows.left_out,
        first_bad_rows: rows.first_bad,
        notes,
        truncated: rows.truncated,
        several_masks: rows.several_masks,
        equal_choices: rows.equal_choices,
        passed_over: rows.passed_over,
        shots_dropped: rows.shots_dropped,
        few_shots: rows.few_shots,
        duplicate_ids: rows.duplicates.duplicates(),
        duplicates_counted_to: rows.duplicates.stopped_after(),
        windows: read.index.windows.len(),
        device: model.device_kind(),
        dtype: model.precision,
        weight_bytes,
        // What is read in one pass leaves nothing in the cache.
        cache_bytes: match statistics.reserved_tokens {
            0 => 0,
            _ => peak_tokens * cache_bytes_per_token as u64,
        },
        reading_bytes: reading_bytes(spec, &model, &statistics),
        max_batch_size: budget.max_batch_size,
        most_batch_size: most,
        max_batch_tokens: budget.max_batch_tokens,
        operations,
        calibrated: by_bench.is_some(),
        estimated_seconds,
        statistics,
    })
}

/// The most rows that a run may come to which finds out how many are enough; `None` for all others.
fn most_batch_size(
    spec: &JobSpec,
    model: &ModelFacts,
    open: OpenRows,
    rows: &Rows,
) -> Option<usize> {
    let OpenRows::First(first) = open else {
        return None;
    };
    let slots = |row: &RowLength| u64::from(row.samples.max(1)) * u64::from(row.places.max(1));
    let all: u64 = rows.lengths.iter().flatten().map(slots).sum();
    let of_shard = all / u64::from(spec.shards.max(1));
    let is_open = model.is_cpu() && spec.batch.max_batch_size.is_none();
    Some(most_rows(first, of_shard)).filter(|&most| is_open && most > first)
}

/// What reading texts takes beside the weights; 0 for a job that generates.
fn reading_bytes(spec: &JobSpec, model: &ModelFacts, statistics: &PlanStatistics) -> u64 {
    if statistics.texts == 0 {
        return 0;
    }
    let size = ReadingSize {
        tokens: usize::try_from(statistics.peak_tokens).unwrap_or(usize::MAX),
        longest: statistics.longest_prompt as usize,
        needs_logits: !tasks::of(spec.task).needs_value_head(),
    };
    let backend = if model.is_cpu() {
        Backend::Packed
    } else {
        Backend::Padded
    };
    size.bytes(&model.config, backend, model.precision)
}

/// Reads the input and looks whether it has the columns that the job names. Nothing is written.
///
/// # Errors
///
/// What [`run`](super::run) would refuse in the input.
pub(crate) fn check_columns(spec: &JobSpec) -> Result<()> {
    let found = earlier::input_files(&spec.input, &spec.output.path, Rules::of_new(spec))?;
    ReadInput::open(&Reading {
        spec,
        files: &found.files,
        previous: None,
        rules: Rules::of_new(spec),
        stop: &StopFlag::default(),
    })
    .map(drop)
}

/// What the output folder holds already, and what that means for a run.
fn present(spec: &JobSpec) -> Option<String> {
    let folder = OutputFolder::existing(&spec.output.path).ok()?;
    let place = folder.root().display();
    let first = match JobRecord::load(&folder) {
        Ok(first) => first?,
        Err(error) => {
            return Some(format!(
                "`{place}` holds a job that cannot be read: {error}"
            ));
        }
    };
    let different: Vec<String> = job::differences(&first.spec, spec)
        .into_iter()
        .map(|difference| format!("`{}`", difference.key))
        .collect();
    if !different.is_empty() {
        return Some(format!(
            "`{place}` belongs to a job that differs in {}: `run` will refuse, unless it has `--restart`",
            different.join(", ")
        ));
    }
    let status = checkpoint::status(&folder).ok()?;
    Some(if status.is_finished {
        format!("`{place}` holds this job, finished: `run` has nothing left to do")
    } else {
        format!(
            "`{place}` holds this job, {} of {} done: `run` goes on with the rest; the plan is for all of them",
            grouped(status.rows_done()),
            counted(status.rows_taken(), "row")
        )
    })
}

/// Lengths and faults of all rows.
#[derive(Default)]
struct Rows {
    lengths: Vec<Vec<RowLength>>,
    bad: u64,
    left_out: LeftOutRows,
    first_bad: Vec<String>,
    truncated: u64,
    several_masks: u64,
    equal_choices: u64,
    passed_over: u64,
    shots_dropped: u64,
    few_shots: u64,
    duplicates: DuplicateIds,
    /// Rows whose own settings for drawing do nothing.
    idle: u64,
}

impl Rows {
    fn collect(spec: &JobSpec, model: &ModelFacts, read: &ReadInput) -> Result<Self> {
        let encoder = RowEncoder::new(spec, model, Rules::of_new(spec), read.examples.as_ref())?;
        let mut rows = Self::default();
        for span in &read.index.windows {
            let encoded = encoder.read(read.source.as_ref(), span, &|_| true, &|_| false)?;
            rows.add(&encoded, read);
        }
        rows.left_out.limit += read.index.rows_behind();
        Ok(rows)
    }

    fn simulate(&self, budget: &Budget) -> PlanStatistics {
        simulate_windows(self.lengths.iter().map(Vec::as_slice), budget)
    }

    /// How a run would end for its bad rows.
    fn end_note(&self, spec: &JobSpec, all: u64) -> Option<String> {
        let taken = all - self.left_out.total().min(all);
        let cause = if taken > 0 && self.bad == taken {
            "every row is bad".to_owned()
        } else {
            let allowed = spec
                .output
                .max_failed
                .filter(|&allowed| self.bad > allowed)?;
            // Each shard is allowed as many.
            if spec.shards > 1 {
                return None;
            }
            format!(
                "{} and `output.max_failed` allows {}",
                counted(self.bad, "bad row"),
                grouped(allowed)
            )
        };
        Some(format!("{cause}: `run` will end with exit code 3"))
    }

    fn add(&mut self, encoded: &EncodedWindow, read: &ReadInput) {
        let mut lengths = Vec::with_capacity(encoded.rows.len());
        self.idle += encoded.idle_rows;
        self.left_out += encoded.sifting.left_out;
        let rows = encoded.window.rows.iter().zip(&encoded.rows);
        for ((row, encoded), noted) in rows.zip(&encoded.sifting.noted) {
            if row.is_record {
                self.duplicates.observe(&row.id);
            }
            match encoded {
                None => {}
                Some(Ok(row)) => {
                    self.truncated += u64::from(row.work.is_truncated());
                    self.several_masks += u64::from(noted.has_several_masks);
                    self.equal_choices += u64::from(noted.has_equal_choices);
                    self.passed_over += u64::from(noted.has_passed_over);
                    self.shots_dropped += u64::from(noted.drops_shots);
                    self.few_shots += u64::from(noted.has_few_shots);
                    lengths.push(row.work.length(lengths.len()));
                }
                Some(Err(bad)) => {
                    self.bad += 1;
                    if self.first_bad.len() < SHOWN_BAD_ROWS {
                        let place = place_text(&row.place, &read.index.files);
                        self.first_bad
                            .push(format!("{place}: {}: {}", bad.stage, bad.reason));
                    }
                }
            }
        }
        self.lengths.push(lengths);
    }
}
