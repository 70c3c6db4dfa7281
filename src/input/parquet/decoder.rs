//! What the decoder of Parquet does with bytes that it cannot read: a reason, whatever happens.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::input::error::one_line;

/// Whether the program failed and not the bytes: something in them that the decoder cannot do.
pub(super) fn is_beyond_decoder(reason: &str) -> bool {
    reason.contains("NYI: ")
        || reason.contains("not yet implemented")
        || reason.contains("overflow")
}

/// Runs a decoder, which may panic on damaged bytes.
///
/// The panic becomes a reason like any other. Its message still goes to standard error: only a hook for
/// the whole process could hold it back, and that is for the program to set, not for a library.
pub(super) fn guarded<T>(decode: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(decode))
        .unwrap_or_else(|_| Err("the decoder gave up on it".to_owned()))
        .map_err(|reason| one_line(&reason))
}
