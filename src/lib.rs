//! Offline batch runner for GLM: prompt files in, answers out, resumable at any instant.
//!
//! ```text
//! job.toml -> job -> input -> tasks -> plan -> engine -> tasks -> sink + checkpoint -> report
//!             JobSpec Prompt   Work    order   Found    RowResult Part, Manifest      RunReport
//!                              |                 |
//!                          tokenize   model (over kernels): logits -> generate: tokens
//! run: a whole job     measure: what this machine can do     bench: a model's speed, over run
//! ```
//!
//! The binary `glm-batch` is [`cli::main`]; a program of its own calls [`run()`]:
//!
//! ```no_run
//! use glm_batch::report::Silent;
//! use glm_batch::{RunOptions, StopFlag, job, run};
//!
//! let job = job::load("jobs/demo.toml".as_ref(), &[])?;
//! let (report, end) = run(&job, &RunOptions::default(), &StopFlag::default(), &mut Silent)?;
//! println!("{report}{end:?}");
//! # Ok::<(), glm_batch::Error>(())
//! ```

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests make files by hand")
)]

pub mod bench;
pub mod checkpoint;
pub mod cli;
pub mod device;
pub mod download;
pub mod engine;
pub mod error;
pub mod fsio;
pub mod generate;
pub mod ids;
pub mod input;
pub mod job;
pub mod kernels;
pub(crate) mod measure;
pub mod model;
pub mod outcome;
pub mod plan;
pub mod precision;
pub mod report;
pub mod run;
pub mod sink;
pub mod stop;
pub(crate) mod task_list;
pub mod tasks;
pub mod tokenize;

pub use error::{Error, Result};
pub use run::{RunEnd, RunOptions, run};
pub use stop::{Deadline, StopFlag};
