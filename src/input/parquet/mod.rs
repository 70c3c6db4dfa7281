//! Parquet files to windows of rows in one schema.
//!
//! [`schema`] finds the schema that all files share, by [`common`]; [`footer`] is the first pass, for which
//! [`encrypted`] and [`unknown`] name columns that cannot be read; [`layout`] says how values are held, [`fit`] and
//! [`times`] bring the values of a file there, [`odd_integers`] knows integers that will not fit; [`group`] decodes
//! rows of one row group, [`decoder`] makes reasons of the decoder's failures, [`source`] reads windows, [`cells`]
//! shows a batch as records, [`logical`] marks what Arrow has no type for, [`json`] writes rows as JSON, [`nested`] is
//! the walk over types that have others inside.

mod cells;
mod common;
mod decoder;
mod encrypted;
mod fit;
mod footer;
mod group;
mod json;
mod layout;
mod logical;
mod nested;
mod odd_integers;
mod paths;
mod schema;
mod source;
mod times;
mod unknown;

pub(super) use footer::{first_pass, footer_fingerprint};
pub use json::json_lines;
pub(crate) use json::{JsonColumn, json_options};
pub(super) use layout::compact;
pub(crate) use logical::{Logical, marked_batches, stored_batches};
pub(crate) use nested::{list_item, with_children};
pub(crate) use schema::is_first_rule;
pub(super) use schema::{Shared, by_parquet};
pub(super) use source::ParquetSource;
