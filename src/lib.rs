//! Offline batch runner for GLM: prompt files in, answers out, resumable at any instant.
//!
//! ```text
//! job.toml -> job -> input -> tasks -> plan -> engine -> tasks -> sink + checkpoint -> report
//!             JobSpec Prompt   Work    order   Found    RowResult Part, Manifest      RunReport
//!                              |                 |
//!                          tokenize   model (over glm-batch-kernels): logits -> generate: tokens
//! run: a whole job     measure: what this machine can do     bench: a model's speed, over run
//! ```
//!
//! The binary `glm-batch` is [`cli::main`]; a program of its own calls [`run()`]:
//!
//! ```no_run
//! use glm_batch::{RunOptions, Silent, StopFlag, load_job, run};
//!
//! let job = load_job("jobs/demo.toml".as_ref(), &[])?;
//! let (report, end) = run(&job, &RunOptions::default(), &StopFlag::default(), &mut Silent)?;
//! println!("{report}{end:?}");
//! # Ok::<(), glm_batch::Error>(())
//! ```

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests make files by hand")
)]

mod bench;
mod checkpoint;
pub mod cli;
mod device;
mod download;
mod engine;
mod error;
mod export;
mod fsio;
mod generate;
mod ids;
mod input;
#[doc(hidden)]
pub mod internals;
mod job;
mod measure;
mod metrics;
mod model;
mod numbers;
mod outcome;
mod page;
mod plan;
mod precision;
mod report;
mod run;
mod shell;
mod sink;
mod stop;
mod task_list;
mod tasks;
mod tokenize;

// The library's API. What is not listed here is `pub(crate)`, or for this package's own tests.

// A job: its text or its file, checked.
pub use job::{
    BatchSpec, CarriedColumns, CheckpointSpec, ColumnNames, ColumnSpec, FewShotSpec,
    GenerationSpec, InputSpec, JobSpec, MaskToken, MaxNewTokens, ModelSpec, OnBadRow, OutputFormat,
    OutputSpec, Overflow, Pairs, Phase, PreferenceSpec, PromptSpec, Rank, RewardSpec, RowForm,
    SampleLayout, ScoreMethod, ScoreSpec, ShotOrder, TargetOverflow, Task, Unfinished,
    json_schema as job_schema, load as load_job, parse as parse_job,
};

// Running it, or planning what a run would do.
pub use input::Selection;
pub use plan::{BucketStatistics, LengthBin, PlanStatistics};
pub use report::{
    CheckedFiles, FailureReason, GroupReport, Loading, Observer, Progress, RunReport, RunTimes,
    Silent, observer_for,
};
pub use run::{PhasePlan, PlanReport, RunEnd, RunOptions, plan, run};
pub use stop::{Deadline, StopFlag};

// Looking at its output folder.
pub use checkpoint::{
    CommittedWindow, Example, FileEntry, GroupTotals, JobState, LockOptions, LockTiming,
    OutputFolder, Owner, OwnerState, OwnerStatus, Pace, Problem, ProblemKind, RepairReport,
    ShardStatus, Soundness, Status, Totals, VerifyReport, Work, committed_windows, repair, status,
    verify,
};
pub use fsio::FileDigest;
pub use sink::{ResultRow, read_part};

// The tokenizer and the model.
pub use model::{
    Asked, AttentionMask, Backend, DecodeRow, FloatType, Footprint, ForwardInput, ForwardOutput,
    Glm, GlmConfig, Head, Logits, ModelSource, Positions, PrefillRow, ReadRow, Scores, Sight,
    TextModel, TokenChance, convert, convert_source,
};
pub use tokenize::{Encoded, GlmTokenizer, SpecialIds, Unwritable};

// The engine, which answers rows without a job.
pub use engine::{
    Devices, Engine, EngineStatistics, Finished, Found, Generation, LoadModel, Reading, Request,
    Want, Work as EngineWork,
};
pub use generate::{Choices, TextCodec};
pub use plan::{Budget, GroupRow, Load, RowCost, RowLength, SlotSizes};

// What became of a row, and how well answers fit their references.
pub use ids::{RowId, ShardId, WindowId};
pub use metrics::Metrics;
pub use outcome::{
    BadRow, Cell, Completion, FinishReason, LeftOut, LeftOutRows, Measured, Outcome, RowCounts,
    RowResult, Sample, Stage, Sums,
};

// Devices and precisions.
pub use device::{DeviceChoice, DeviceId, DeviceKind};
pub use precision::{Precision, PrecisionChoice};

// Errors: one for each stage, and all of them in one.
pub use checkpoint::CheckpointError;
pub use engine::EngineError;
pub use error::{Error, Result};
pub use fsio::FsError;
pub use input::{FileProblem, InputError};
pub use job::{Hint, Place as JobPlace, SpecError};
pub use model::ModelError;
pub use sink::SinkError;
pub use tokenize::TokenizeError;
