//! What the command line may have.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::PossibleValue;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::deadline::When;
use crate::device::DeviceChoice;
use crate::job::{Phase, read_word};
use crate::precision::{CacheChoice, Precision, PrecisionChoice};

/// Most rows in flight that `bench` tries: no machine gains by more.
const MOST_BENCH_ROWS: usize = 65_536;

/// Offline batch runner for GLM: prompts in, answers out, resumable at any instant.
#[derive(Debug, Parser)]
#[command(name = "glm-batch", version, max_term_width = 100)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a job, or resume it
    Run(RunArgs),
    /// Say what running a job would take; loads no weights, writes nothing
    Plan(PlanArgs),
    /// Show the progress of a job from its output folder
    Status(StatusArgs),
    /// Show result rows in readable form, those of windows that are still open too
    Show(ShowArgs),
    /// Write a page about the results, or print how well the answers fit their references
    Report(ReportArgs),
    /// Write result rows in the form that another program loads
    Export(ExportArgs),
    /// Check every checksum of an output folder
    Verify(VerifyArgs),
    /// Encode JSON lines from standard input as `run` would
    Tokenize(TokenizeArgs),
    /// Write a model folder in another precision
    Convert(ConvertArgs),
    /// Measure a model's speed beside the limits of this machine
    Bench(BenchArgs),
    /// Print the JSON Schema of job files
    Schema,
    /// Print a completion script
    Completions {
        /// Shell to print it for
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

/// Which job, with which of its keys changed.
#[derive(Debug, Args)]
pub(super) struct JobArgs {
    /// Job file; in its place, `--model`, `--input` and `--output`
    #[arg(required_unless_present = "model", conflicts_with_all = ["model", "input", "output", "prompt_column"])]
    pub(super) job: Option<PathBuf>,
    /// Model folder, for a job without a job file
    #[arg(long, value_name = "DIR", requires_all = ["input", "output"], help_heading = "Instead of a job file")]
    pub(super) model: Option<PathBuf>,
    /// File, glob or folder with the rows; may be repeated; `-` is standard input
    #[arg(
        long,
        value_name = "FILE",
        requires = "model",
        help_heading = "Instead of a job file"
    )]
    pub(super) input: Vec<String>,
    /// Folder of the results; it gets the job file as `job.toml`
    #[arg(
        long,
        value_name = "DIR",
        requires = "model",
        help_heading = "Instead of a job file"
    )]
    pub(super) output: Option<PathBuf>,
    /// Column that holds the prompts [default: the only column of texts, or the one named so]
    #[arg(
        long,
        value_name = "NAME",
        requires = "model",
        help_heading = "Instead of a job file"
    )]
    pub(super) prompt_column: Option<String>,
    /// Set a key of the job file, as in `--set generation.top_p=0.9`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(super) overrides: Vec<String>,
}

#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of its own on the command line"
)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) job: JobArgs,
    /// Move the output folder to `OUT.old-N` and begin anew
    #[arg(long, conflicts_with_all = ["limit", "sample"])]
    pub(super) restart: bool,
    /// Work on one shard only: its number from 0, of the job's `shards`
    #[arg(long, value_name = "I/N", value_parser = shard, conflicts_with_all = ["limit", "sample"])]
    pub(super) shard: Option<(u32, u32)>,
    /// A trial of the first N rows, written anew each time to `OUT.trial`
    #[arg(long, value_name = "N", conflicts_with = "sample", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) limit: Option<u64>,
    /// A trial of N rows drawn at random, the same ones for the same `generation.seed`
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) sample: Option<u64>,
    /// Seconds that rows in flight may go on after the first signal; so long before a deadline no more rows start
    #[arg(long, value_name = "SECONDS", default_value_t = 20.0, value_parser = seconds)]
    pub(super) grace: f64,
    /// When the run must have ended: in `3h` or `1h30m`, or at a time such as `2026-03-01T06:00:00+01:00`
    /// [default: the end of the Slurm job, if it runs in one]
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true, value_parser = super::deadline::parse)]
    pub(super) deadline: Option<When>,
    /// Take over another host's lock without waiting for its heartbeat to stop
    #[arg(long)]
    pub(super) break_lock: bool,
    /// Read every file of the job first and compare it with its checksum, not only its name and size
    #[arg(long, conflicts_with_all = ["restart", "limit", "sample"])]
    pub(super) verify: bool,
    /// Print the summary as JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Show no progress; warnings are still printed
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// Print the whole summary: tokens, batching, times, and a call for each library that loads the results
    #[arg(short, long)]
    pub(super) verbose: bool,
    /// Only plan, as `plan` does: nothing is run or written
    #[arg(long, conflicts_with_all = ["restart", "limit", "sample", "shard", "break_lock", "verify"])]
    pub(super) dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    pub(super) job: JobArgs,
    /// Print the plan as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Output folder of a job, or its job file
    pub(super) output: PathBuf,
    /// Print the status as JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Print it again every two seconds until the job is finished
    #[arg(long)]
    pub(super) watch: bool,
    /// Wait until the job is finished, or nothing works on it any more (exit 75)
    #[arg(long, conflicts_with = "watch")]
    pub(super) wait: bool,
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// Output folder of a job, or its job file
    pub(super) output: PathBuf,
    /// What a phase of the task `preference` found, instead of the pairs
    #[arg(long, value_enum)]
    pub(super) phase: Option<Phase>,
    /// Only rows that failed, with their reasons
    #[arg(long)]
    pub(super) failed: bool,
    /// Only rows for which this minijinja expression is true, as in `completion_tokens > 100`
    #[arg(long = "where", value_name = "EXPRESSION")]
    pub(super) filter: Option<String>,
    /// Only the rows with this id
    #[arg(long)]
    pub(super) id: Option<String>,
    /// Show prompts and prefixes too, made again from the input where the job did not keep them
    #[arg(long)]
    pub(super) prompt: bool,
    /// Rows to show; 0 shows all
    #[arg(short = 'n', long, default_value_t = 20)]
    pub(super) limit: usize,
    /// Print JSON lines
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Output folder of a job, or its job file
    pub(super) output: PathBuf,
    /// File to write [default: `report.html` in the output folder]
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    /// Input column whose values split the metrics into groups [default: `report.by` of the job]
    #[arg(long, value_name = "COLUMN")]
    pub(super) by: Option<String>,
    /// Input column with the expected answers [default: `input.columns.reference` of the job]
    #[arg(long, value_name = "COLUMN")]
    pub(super) reference: Option<String>,
    /// Print the metrics instead
    #[arg(long, conflicts_with = "file")]
    pub(super) metrics: bool,
    /// Print them as JSON
    #[arg(long, requires = "metrics")]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// Output folder of a job, or its job file
    #[arg(value_name = "OUT")]
    pub(super) results: PathBuf,
    /// Form of the lines
    #[arg(long = "to", value_name = "FORMAT", value_enum)]
    pub(super) format: crate::export::Format,
    /// File to write, in the form that its ending says, or a folder; it must not be there yet [default: JSON lines on
    /// standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// Only lines for which this minijinja expression is true, as in `completion_tokens > 100`
    #[arg(long = "where", value_name = "EXPRESSION")]
    pub(super) filter: Option<String>,
    /// Only answers whose tokens have at least this log-probability in the mean
    #[arg(
        long,
        value_name = "NUMBER",
        allow_negative_numbers = true,
        help_heading = "Which answers"
    )]
    pub(super) min_logprob: Option<f64>,
    /// Only answers of at most so many tokens
    #[arg(long, value_name = "N", help_heading = "Which answers")]
    pub(super) max_completion_tokens: Option<u64>,
    /// Only answers that ended so: `stop`, `length` or `stop_string`
    #[arg(long, value_name = "REASON", help_heading = "Which answers")]
    pub(super) finish: Option<String>,
    /// Each answer to a prompt once; case, width and white space make no difference
    #[arg(long, help_heading = "Which answers")]
    pub(super) dedup: bool,
    /// Write texts as lists of messages (formats of TRL)
    #[arg(long, help_heading = "Form of the lines")]
    pub(super) conversational: bool,
    /// Write the column `margin`, which TRL's reward trainer subtracts (`trl-preference`)
    #[arg(long, help_heading = "Form of the lines")]
    pub(super) margin: bool,
    /// Text of the prompt, a minijinja template over `prompt`, `prefix` and the columns [default: the prompt, and the
    /// prefix on a line of its own]
    #[arg(long, value_name = "TEMPLATE", help_heading = "Form of the lines")]
    pub(super) prompt_template: Option<String>,
    /// Which answers are good ones, a minijinja expression (`trl-unpaired`)
    #[arg(long, value_name = "EXPRESSION", help_heading = "Form of the lines")]
    pub(super) label: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// Output folder of a job, or its job file
    pub(super) output: PathBuf,
    /// Move what is wrong to `damaged/`; the next run makes it again
    #[arg(long)]
    pub(super) repair: bool,
}

#[derive(Debug, Args)]
pub(super) struct TokenizeArgs {
    /// Model folder; lines are `{"text", "prefix", "max_length"}`
    #[arg(required_unless_present = "job", conflicts_with = "job")]
    pub(super) model: Option<PathBuf>,
    /// Encode as this job would: lines are rows of its input, and template, prefix, mask and limit are its own
    #[arg(long, value_name = "JOB")]
    pub(super) job: Option<PathBuf>,
    /// Set a key of the job file, as in `--set prompt.mask=[gMASK]`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "job")]
    pub(super) overrides: Vec<String>,
    /// Most tokens of a context whose line gives no `max_length` [default: the model's own limit]
    #[arg(long, value_name = "N", conflicts_with = "job")]
    pub(super) max_length: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct ConvertArgs {
    /// Model folder to read
    pub(super) model: PathBuf,
    /// Folder to write
    pub(super) output: PathBuf,
    /// Type of the weights to write; `q8` writes 8-bit codes, which start faster and take less memory
    #[arg(long, value_enum)]
    pub(super) dtype: Precision,
    /// File that makes a reward model of the folder, as `model.overlay` in a job; it goes into the new weights
    #[arg(long, value_name = "FILE")]
    pub(super) overlay: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// Model folder
    pub(super) model: PathBuf,
    /// Where it runs, as `model.device` in a job
    #[arg(long, value_parser = read_word::<DeviceChoice>, default_value = "auto")]
    pub(super) device: DeviceChoice,
    /// Precision of the weights, as `model.dtype` in a job
    #[arg(long, value_parser = read_word::<PrecisionChoice>, default_value = "auto")]
    pub(super) dtype: PrecisionChoice,
    /// What keys and values are cached as, as `model.cache_dtype` in a job
    #[arg(long, value_parser = read_word::<CacheChoice>, default_value = "auto")]
    pub(super) cache_dtype: CacheChoice,
    /// Rows in flight, one measurement each, as in `1,8,64` [default: seven numbers from 1 to 128, on a GPU to 1024]
    #[arg(long, value_delimiter = ',', value_name = "ROWS", value_parser = rows)]
    pub(super) batch: Vec<NonZeroUsize>,
    /// Tokens of each context
    #[arg(long, default_value_t = 64, value_name = "TOKENS")]
    pub(super) context: usize,
    /// Decode steps of each measurement
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub(super) steps: usize,
    /// Time a whole job instead: JSON lines with `text`, `out_len` (the tokens that the answer gets), and
    /// where wanted `id` and `prefix`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["batch", "context", "steps"])]
    pub(super) workload: Option<PathBuf>,
    /// Write a line `{"id", "n_tokens"}` for each answer of the workload
    #[arg(long, value_name = "FILE", requires = "workload")]
    pub(super) counts: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl ValueEnum for Phase {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

impl ValueEnum for Precision {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::F32, Self::F16, Self::Bf16, Self::Q8]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

impl ValueEnum for crate::export::Format {
    fn value_variants<'a>() -> &'a [Self] {
        Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

/// The whole command line, for completions, the manual page and the documentation's own test.
pub fn command() -> clap::Command {
    Cli::command()
}

fn shard(text: &str) -> Result<(u32, u32), String> {
    let parsed = text
        .split_once('/')
        .and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    parsed.ok_or_else(|| "give the shard's number and how many there are, as in `0/4`".to_owned())
}

fn rows(text: &str) -> Result<NonZeroUsize, String> {
    let rows = text.parse::<NonZeroUsize>().ok();
    let rows = rows.filter(|rows| rows.get() <= MOST_BENCH_ROWS);
    rows.ok_or_else(|| {
        format!("give numbers of rows from 1 to {MOST_BENCH_ROWS}, as in `--batch 1,8,64`")
    })
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..1e9).contains(&seconds) => Ok(seconds),
        _ => Err("give a number of seconds, 0 or more".to_owned()),
    }
}
