//! The job file as it is written: every key, its default and its description.
//!
//! [`super::de`] fills these structs, [`super::check`] turns them into a [`super::JobSpec`], and
//! [`super::schema`] makes the JSON Schema of them, so the doc comments here are what editors
//! show. Values may still be out of range.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::scalars::{AllWord, AutoWord, NumberOr, Texts};
use super::types::{
    CarriedColumns, ColumnSpec, DeviceSpec, DtypeSpec, MaskToken, MaxNewTokens, OnBadRow,
    OutputFormat, Overflow, SampleLayout, Task, max_row_bytes,
};

/// The only version of the job file so far.
pub(super) const VERSION: u32 = 1;

/// A job of `glm-batch`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "glm-batch job")]
pub(super) struct JobFile {
    /// Version of the job file's form: 1.
    #[schemars(extend("const" = VERSION))]
    pub(super) version: u32,
    /// Name of the job, for people; the file's name where none is given.
    #[serde(default)]
    pub(super) name: Option<String>,
    /// What the job does with each row.
    #[serde(default)]
    pub(super) task: Task,
    /// Number of workers that the windows are dealt to; fixed by the first run.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    pub(super) shards: u32,
    /// Which weights, where they run, in which precision.
    pub(super) model: ModelSection,
    /// Which files, which columns.
    pub(super) input: InputSection,
    /// How a row becomes a context.
    #[serde(default)]
    pub(super) prompt: PromptSection,
    /// How answers are made; meaning and order of the processors as in transformers.
    #[serde(default)]
    pub(super) generation: GenerationSection,
    /// Limits of what runs together; they change the speed and the memory, never an answer.
    #[serde(default)]
    pub(super) batch: BatchSection,
    /// Where results go and in which form.
    pub(super) output: OutputSection,
    /// How late a finished row may become durable.
    #[serde(default)]
    pub(super) checkpoint: CheckpointSection,
}

fn one() -> u32 {
    1
}

/// `[model]`
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelSection {
    /// A folder in Hugging Face layout.
    pub(super) path: String,
    /// Where to run: `auto`, `cpu`, `cuda`, `cuda:1`, `cuda:0,cuda:1`, `cuda:all`, `metal`.
    #[serde(default = "auto_device")]
    pub(super) device: DeviceSpec,
    /// Precision of the weights; `auto` is `f16` on a GPU and `f32` on the CPU, which gives the
    /// reference's answers exactly.
    #[serde(default = "auto_dtype")]
    pub(super) dtype: DtypeSpec,
}

fn auto_device() -> DeviceSpec {
    DeviceSpec::Auto
}

fn auto_dtype() -> DtypeSpec {
    DtypeSpec::Auto
}

/// `[input]`
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct InputSection {
    /// Files, globs and folders: jsonl, jsonl.gz, jsonl.zst, parquet; `-` is standard input.
    pub(super) path: Texts,
    /// Columns that mean something to the job.
    #[serde(default)]
    pub(super) columns: ColumnSpec,
    /// What a row that fails before generation does to the job.
    #[serde(default = "record")]
    pub(super) on_bad_row: OnBadRow,
    /// Bytes that a JSON line may have; a longer one is a bad row, and is not kept in memory.
    #[serde(default = "max_row_bytes")]
    #[schemars(range(min = 1))]
    pub(super) max_row_bytes: u64,
}

fn record() -> OnBadRow {
    OnBadRow::Record
}

/// `[prompt]`
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PromptSection {
    /// minijinja template over the row's columns; wins over `input.columns.prompt`.
    pub(super) template: Option<String>,
    /// Text before the mask, which the answer continues; a prefix of the row wins.
    pub(super) prefix: Option<String>,
    /// Mask token that the answer fills.
    pub(super) mask: MaskToken,
    /// Context plus answer, tokens; default: 512, or what the model has if that is less.
    #[schemars(range(min = 2))]
    pub(super) max_length: Option<u32>,
    /// What happens to a prompt that is too long.
    pub(super) overflow: Overflow,
}

impl Default for PromptSection {
    fn default() -> Self {
        Self {
            template: None,
            prefix: None,
            mask: MaskToken::Mask,
            max_length: None,
            overflow: Overflow::Truncate,
        }
    }
}

/// `[generation]`, and the settings of one row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct GenerationSection {
    /// Draw tokens instead of taking the likeliest.
    pub(super) do_sample: bool,
    /// Logits are divided by this.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub(super) temperature: f64,
    /// Only this many likeliest tokens; 0 is all.
    pub(super) top_k: u32,
    /// Only the likeliest tokens whose probabilities sum to this.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
    pub(super) top_p: f64,
    /// Only tokens at least this share as likely as the likeliest.
    #[schemars(range(min = 0, max = 1))]
    pub(super) min_p: f64,
    /// Logits of tokens seen before are divided (positive) or multiplied (negative) by this.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub(super) repetition_penalty: f64,
    /// No n-gram of this size twice; 0 is off.
    pub(super) no_repeat_ngram_size: u32,
    /// The ending tokens are barred before this many answer tokens.
    pub(super) min_new_tokens: u32,
    /// Most answer tokens; default: half of `prompt.max_length`; `rest`: all that the context
    /// leaves of it.
    pub(super) max_new_tokens: Option<MaxNewTokens>,
    /// Answers a row; more than one needs `do_sample`.
    #[schemars(range(min = 1, max = MAX_SAMPLES))]
    pub(super) num_return_sequences: u32,
    /// Beams; more than 1 comes in a later version.
    #[schemars(extend("const" = 1))]
    pub(super) num_beams: u32,
    /// Exponent of the length in a beam's score; comes with beams.
    #[schemars(extend("const" = 1.0))]
    pub(super) length_penalty: f64,
    /// Whether beams stop early; comes with beams.
    #[schemars(extend("const" = false))]
    pub(super) early_stopping: bool,
    /// Texts whose token sequences are barred.
    pub(super) bad_words: Vec<String>,
    /// Texts that end an answer; it is cut before them.
    pub(super) stop: Vec<String>,
    /// Seed of the draw.
    pub(super) seed: u64,
    /// Also write log-probabilities; a setting of the job, never of a row.
    pub(super) logprobs: bool,
}

/// Most samples a row: the context is kept once, each sample has its own cache.
pub(super) const MAX_SAMPLES: u32 = 65_536;

impl Default for GenerationSection {
    fn default() -> Self {
        Self {
            do_sample: false,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            no_repeat_ngram_size: 0,
            min_new_tokens: 0,
            max_new_tokens: None,
            num_return_sequences: 1,
            num_beams: 1,
            length_penalty: 1.0,
            early_stopping: false,
            bad_words: Vec::new(),
            stop: Vec::new(),
            seed: 42,
            logprobs: false,
        }
    }
}

/// `[batch]`
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct BatchSection {
    /// Rows in flight, at least 1.
    pub(super) max_batch_size: NumberOr<AutoWord>,
    /// Padded context plus reserved answer of every slot, tokens, on a GPU rounded up to few sizes: the real
    /// limit; `auto` is what memory allows.
    pub(super) max_batch_tokens: NumberOr<AutoWord>,
    /// Rows that are sorted by length, batched and committed together; fixed by the first run.
    #[schemars(range(min = 1))]
    pub(super) window_rows: u32,
    /// Padded lengths are multiples of this; `auto` is 32 on a GPU, 8 on the CPU.
    #[schemars(schema_with = "bucket_schema")]
    pub(super) bucket_tokens: NumberOr<AutoWord>,
}

/// Padded lengths beyond this would pad every row to the model's limit.
pub(super) const MAX_BUCKET: u64 = 4096;

fn bucket_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "anyOf": [
            { "const": "auto" },
            { "type": "integer", "minimum": 1, "maximum": MAX_BUCKET },
        ],
    })
}

impl Default for BatchSection {
    fn default() -> Self {
        Self {
            max_batch_size: NumberOr::default(),
            max_batch_tokens: NumberOr::default(),
            window_rows: 8192,
            bucket_tokens: NumberOr::default(),
        }
    }
}

/// `[output]`
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OutputSection {
    /// Folder of the results.
    pub(super) path: String,
    /// File format of the parts.
    #[serde(default = "parquet")]
    pub(super) format: OutputFormat,
    /// Input columns to carry through: `all`, `none` or a list of names.
    #[serde(default = "all_columns")]
    pub(super) columns: CarriedColumns,
    /// Carried columns under another name: `{ from = "to" }`.
    #[serde(default)]
    pub(super) rename: BTreeMap<String, String>,
    /// Layout of several samples.
    #[serde(default = "flat")]
    pub(super) samples: SampleLayout,
    /// Also write the answer's token ids.
    #[serde(default)]
    pub(super) token_ids: bool,
    /// More failed rows than this in a shard end the run with exit code 3.
    #[serde(default)]
    pub(super) max_failed: NumberOr<AllWord>,
}

fn parquet() -> OutputFormat {
    OutputFormat::Parquet
}

fn all_columns() -> CarriedColumns {
    CarriedColumns::All
}

fn flat() -> SampleLayout {
    SampleLayout::Flat
}

/// `[checkpoint]`
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct CheckpointSection {
    /// Seconds; finished rows are durable at most this late.
    #[schemars(range(min = 0, max = 86_400))]
    pub(super) interval_seconds: f64,
}

impl Default for CheckpointSection {
    fn default() -> Self {
        Self {
            interval_seconds: 5.0,
        }
    }
}
