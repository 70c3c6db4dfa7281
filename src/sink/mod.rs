//! Completions to result files.
