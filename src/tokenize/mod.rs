//! Prompt text to GLM context ids, and ids back to text.

mod types;

pub use types::*;
