//! All integration tests, one module a purpose.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests"
)]

mod job_file;
mod tokenizer_golden;
mod engine;
mod plan_props;
mod sampling_golden;
mod batch_invariance;
mod model_files;
mod model_golden;
mod nano;
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr, reason = "tests")]
mod demo_data;
