//! The network on a CUDA device: the reference's answers in each precision, memory that runs out, and speed.
//!
//! One run tells all: `cargo test --release --features cuda --test gpu -- --nocapture`. The tests take turns, because they
//! share a device. Without a device each says that it was skipped, and with `GLM_BATCH_GPU_REQUIRED=1` fails.
//! `GLM_BATCH_GPU_MODEL` names a model folder whose steps are timed.
#![cfg(feature = "cuda")]
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests"
)]

#[path = "gpu/answers.rs"]
mod answers;
#[path = "it/faulty_ops.rs"]
mod faulty_ops;
#[path = "gpu/kernels.rs"]
mod kernels;
#[path = "gpu/memory.rs"]
mod memory;
#[path = "it/nano.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod nano;
#[path = "gpu/own_steps.rs"]
mod own_steps;
#[path = "gpu/speed.rs"]
mod speed;
#[path = "gpu/support.rs"]
mod support;
