//! All integration tests, one module a purpose.
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
