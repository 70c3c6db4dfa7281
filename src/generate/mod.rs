//! Encoded contexts to [`Completion`]s: scheduler, slots, sampling, stop rules.

mod types;

pub use types::*;
