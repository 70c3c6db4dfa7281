//! Parquet files to windows of rows in one schema.
//!
//! [`schema`] finds the schema that all files share, [`footer`] is the first pass, [`group`] decodes
//! rows of one row group, [`source`] reads windows, [`cells`] shows a batch as records, [`json`] writes
//! rows as JSON.

mod cells;
mod footer;
mod group;
mod json;
mod schema;
mod source;

pub(super) use footer::{first_pass, footer_fingerprint};
pub use json::{json_lines, json_options};
pub(super) use source::ParquetSource;
