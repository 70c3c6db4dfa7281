//! Parquet files to windows of rows in one schema.
//!
//! [`schema`] finds the schema that all files share, [`footer`] is the first pass, [`group`] decodes
//! rows of one row group, [`source`] reads windows, [`cells`] shows a batch as records, [`logical`] marks
//! what Arrow has no type for, [`json`] writes rows as JSON.

mod cells;
mod footer;
mod group;
mod json;
mod logical;
mod schema;
mod source;

pub(super) use footer::first_pass;
pub use json::{JsonColumn, json_lines, json_options};
pub use logical::{Logical, marked_batches};
pub(super) use source::ParquetSource;
