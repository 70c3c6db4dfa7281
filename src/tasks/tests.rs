//! The list of columns in the document against those of the tasks.

use super::*;
use crate::sink::{common, described};

/// The section of the document on columns.
fn section() -> &'static str {
    let text = include_str!("../../docs/RESULTS.md");
    let (_, rest) = text.split_once("\n## Columns\n").unwrap();
    rest.split("\n## ").next().unwrap()
}
