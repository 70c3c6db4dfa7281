//! All integration tests, one module a purpose.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod batch_invariance;
mod cli;
mod demo_data;
mod end_to_end;
mod engine;
mod job_file;
mod layering;
mod model_files;
mod model_golden;
mod nano;
mod plan_props;
mod resume;
mod sampling_golden;
mod support;
mod tokenizer_golden;
mod input;
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests"
)]

mod checkpoint;
mod manifest_compat;
mod sink;
mod windows;
