//! Input files to [`Prompt`]s, one window at a time.

mod types;

pub use types::*;
