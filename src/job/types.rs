//! A validated job: every value in range, every path absolute, every default but the model's filled in.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A job that has been checked and cannot be wrong in itself.
///
/// It is stored in `job.json` and compared on resume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// Name of the job, for people.
    pub name: String,
    /// What the job does with each row; `job.json` of earlier versions does not say it.
    #[serde(default)]
    pub task: Task,
    /// Number of shards, at least 1; fixed by the first run.
    pub shards: u32,
    /// `[model]`
    pub model: ModelSpec,
    /// `[input]`
    pub input: InputSpec,
    /// `[prompt]`
    pub prompt: PromptSpec,
    /// `[generation]`
    pub generation: GenerationSpec,
    /// `[batch]`
    pub batch: BatchSpec,
    /// `[output]`
    pub output: OutputSpec,
    /// `[checkpoint]`
    pub checkpoint: CheckpointSpec,
}

/// What a job does with each row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Answers the prompt.
    #[default]
    Generate,
}

/// `[model]`: which weights, where they run, in which precision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// Absolute path of a folder in Hugging Face layout.
    pub path: PathBuf,
    /// Where to run.
    pub device: DeviceSpec,
    /// Precision of the weights.
    pub dtype: DtypeSpec,
}

/// Where to run, as written in the job: `auto`, `cpu`, `cuda`, `cuda:1`, `cuda:0,cuda:1`, `cuda:all`, `metal`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceSpec {
    /// The first GPU that the build supports and the machine has, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA devices of these numbers, at least one and none twice.
    Cuda(Vec<usize>),
    /// Every CUDA device of the machine.
    CudaAll,
    /// The first Metal device.
    Metal,
}

/// A precision as written in the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DtypeSpec {
    /// `f16` on a GPU, `f32` on the CPU.
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit floats; on the CPU rounded weights with 32-bit arithmetic.
    F16,
    /// bfloat16; on the CPU rounded weights and inputs of products, with 32-bit sums.
    Bf16,
    /// 8-bit whole numbers; on the CPU alone.
    Q8,
}

/// `[input]`: which files, which columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InputSpec {
    /// Files, globs and folders, absolute; or the single entry `-` for standard input.
    pub path: Vec<String>,
    /// Columns that mean something to the job.
    pub columns: ColumnSpec,
    /// What a row that fails before generation does to the job.
    pub on_bad_row: OnBadRow,
    /// A JSON line of more bytes fails.
    #[serde(default = "max_row_bytes")]
    pub max_row_bytes: u64,
}

/// Default of [`InputSpec::max_row_bytes`].
pub(super) const fn max_row_bytes() -> u64 {
    64 << 20
}

/// Names of the columns that mean something to the job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ColumnSpec {
    /// Identifier; default: column `id` where the input has it, else the row number.
    pub id: Option<String>,
    /// Prompt text; needed unless a template is given.
    pub prompt: Option<String>,
    /// Text before the mask, which the answer continues.
    pub prefix: Option<String>,
    /// Expected answer, compared in the summary.
    pub reference: Option<String>,
    /// Settings of this row alone.
    pub generation: Option<String>,
}

/// What a row that fails before generation does to the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnBadRow {
    /// The row fails, the job goes on.
    Record,
    /// The job stops.
    Stop,
}

/// `[prompt]`: how a row becomes a context.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptSpec {
    /// minijinja template over the row's columns; wins over `columns.prompt`.
    pub template: Option<String>,
    /// Prefix of every row that has none of its own.
    pub prefix: Option<String>,
    /// Mask token that the answer fills.
    pub mask: MaskToken,
    /// Context plus answer, tokens; `None`: min(512, the model's `max_sequence_length`).
    pub max_length: Option<u32>,
    /// What happens to a prompt that is too long.
    pub overflow: Overflow,
}

/// One of GLM's three mask tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MaskToken {
    /// `[MASK]`, a short span.
    #[serde(rename = "[MASK]")]
    Mask,
    /// `[sMASK]`, a sentence.
    #[serde(rename = "[sMASK]")]
    Sentence,
    /// `[gMASK]`, the rest of the text.
    #[serde(rename = "[gMASK]")]
    Generation,
}

impl MaskToken {
    /// The token as it stands in a text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mask => "[MASK]",
            Self::Sentence => "[sMASK]",
            Self::Generation => "[gMASK]",
        }
    }
}

/// What happens to a prompt that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Overflow {
    /// Tokens are cut from the prompt's left.
    Truncate,
    /// The row fails.
    Fail,
}

/// `[generation]`: how answers are made. Also the effective settings of one row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerationSpec {
    /// Draw tokens instead of taking the likeliest.
    pub do_sample: bool,
    /// Logits are divided by this, over 0.
    pub temperature: f64,
    /// Only this many likeliest tokens; 0 is all.
    pub top_k: u32,
    /// Only the likeliest tokens whose probabilities sum to this, in (0, 1].
    pub top_p: f64,
    /// Only tokens at least this share as likely as the likeliest, in [0, 1].
    pub min_p: f64,
    /// Logits of tokens seen before are divided (positive) or multiplied (negative) by this.
    pub repetition_penalty: f64,
    /// No n-gram of this size twice; 0 is off.
    pub no_repeat_ngram_size: u32,
    /// Ending tokens are barred before this many answer tokens.
    pub min_new_tokens: u32,
    /// Most answer tokens; `None`: half of `max_length`.
    pub max_new_tokens: Option<MaxNewTokens>,
    /// Samples a row.
    pub num_return_sequences: u32,
    /// Texts whose token sequences are barred.
    pub bad_words: Vec<String>,
    /// Texts that end an answer; it is cut before them.
    pub stop: Vec<String>,
    /// Seed of the draw.
    pub seed: u64,
    /// Whether log-probabilities are written; a setting of the job, never of a row.
    pub logprobs: bool,
}

/// Most answer tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxNewTokens {
    /// This many.
    Count(u32),
    /// All that `max_length` leaves after the context.
    Rest,
}

/// `[batch]`: limits of what runs together; `None` is `auto`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchSpec {
    /// Rows in flight.
    pub max_batch_size: Option<u32>,
    /// Padded context plus reserved answer of every slot, tokens.
    pub max_batch_tokens: Option<u64>,
    /// Rows a window.
    pub window_rows: u32,
    /// Padded lengths are multiples of this.
    pub bucket_tokens: Option<u32>,
}

/// `[output]`: where results go and in which form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputSpec {
    /// Absolute path of the output folder.
    pub path: PathBuf,
    /// File format of the parts.
    pub format: OutputFormat,
    /// Input columns that are carried through.
    pub columns: CarriedColumns,
    /// Carried columns under another name: from, to.
    pub rename: Vec<(String, String)>,
    /// Layout of several samples.
    pub samples: SampleLayout,
    /// Whether the answer's token ids are written.
    pub token_ids: bool,
    /// More failed rows than this stop the job; `None` is `all`.
    pub max_failed: Option<u64>,
}

/// File format of the parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OutputFormat {
    /// Apache Parquet.
    Parquet,
    /// JSON lines.
    Jsonl,
}

impl OutputFormat {
    /// Ending of a part's file name, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Jsonl => "jsonl",
        }
    }
}

/// Input columns that are carried through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CarriedColumns {
    /// Every column.
    All,
    /// No column.
    None,
    /// These columns.
    Names(Vec<String>),
}

/// Layout of several samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SampleLayout {
    /// A line a sample, column `sample`.
    Flat,
    /// A line a row, list columns.
    Nested,
}

/// `[checkpoint]`: how late a finished row may become durable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointSpec {
    /// Seconds; finished rows are durable at most this late.
    pub interval_seconds: f64,
}
