//! [`Outcome`]s to result files: a window's rows in input order become one part.
//!
//! Invariant: the bytes of a part depend on the job, the window and its outcomes alone, and all parts
//! of a job have one schema. `checkpoint/` makes what is written here durable; it never looks inside.
//!
//! `columns` is what our own columns are, `layout` adds those of the input that are carried, `result_types` tells
//! readers their types, `lines` decides which lines there are;
//! `jsonl` and `parquet` write them, `sizes` says how much of them at once; `carried`, `annotations` and `json_line`
//! turn input values into one or the other, `failed` writes what has no result, `read` and `results` read parts again.

mod annotations;
mod carried;
mod columns;
mod error;
mod failed;
mod json_line;
mod jsonl;
mod layout;
mod lines;
mod parquet;
mod read;
mod result_types;
mod results;
mod sizes;

use std::io::Write;

use arrow_schema::Schema;

use crate::input::{InputIndex, InputWindow};
use crate::job::OutputFormat;
use crate::outcome::Outcomes;

use layout::Layout;

use columns::ID;
pub(crate) use columns::heading_columns;
pub(crate) use columns::{Column, Form, Kind, SampleValue, When};
#[cfg(test)]
pub(crate) use columns::{common, described};
pub use error::SinkError;
pub(crate) use failed::FAILED_COLUMNS;
pub use failed::write_failed;
pub(crate) use read::{PartLine, read_chunks, read_lines, stored_schema};
pub use read::{ResultRow, read_part};
pub(crate) use result_types::{ResultColumn, result_types};
pub(crate) use results::result_of;

/// Version of the results' layout. A resume with another one is refused, since one job has one layout.
pub(crate) const RESULTS_FORMAT: u32 = 1;

/// Writes parts in one file format.
pub trait ResultSink: Send + Sync {
    /// Ending of the part's file name, without the dot.
    fn extension(&self) -> &'static str;

    /// Writes all lines of a window in input order.
    ///
    /// A row without an entry in `outcomes` must be a bad one: it is written as failed.
    ///
    /// # Errors
    ///
    /// [`SinkError`], where a row has no outcome or the file cannot be written.
    fn write_part(
        &self,
        window: &InputWindow,
        outcomes: &dyn Outcomes,
        out: &mut (dyn Write + Send),
    ) -> Result<(), SinkError>;
}

/// Names of the columns that the results of a job have, in their order.
///
/// # Errors
///
/// As [`new_sink`].
pub(crate) fn result_columns(
    form: &Form<'_>,
    index: &InputIndex,
    id_column: Option<&str>,
) -> Result<Vec<String>, SinkError> {
    Ok(Layout::new(form, index, id_column)?.names())
}

/// Where the columns of results come from.
pub(crate) struct ResultRoles {
    /// Those that the job has made.
    pub(crate) results: Vec<String>,
    /// Those of its input, under their names in the results; without the identifier.
    pub(crate) carried: Vec<String>,
}

/// Which columns of a job's results are its own.
///
/// # Errors
///
/// As [`new_sink`].
pub(crate) fn result_roles(
    form: &Form<'_>,
    index: &InputIndex,
    id_column: Option<&str>,
) -> Result<ResultRoles, SinkError> {
    let layout = Layout::new(form, index, id_column)?;
    let carried: Vec<String> = layout.carried.iter().map(|one| one.name.clone()).collect();
    let mut results = layout.names();
    results.retain(|name| name != ID && !carried.contains(name));
    Ok(ResultRoles { results, carried })
}

/// A note on the result columns that readers which do not look at case take for one: `DuckDB`, Spark.
///
/// # Errors
///
/// As [`new_sink`].
pub(crate) fn case_note(
    form: &Form<'_>,
    index: &InputIndex,
    id_column: Option<&str>,
) -> Result<Option<String>, SinkError> {
    let layout = Layout::new(form, index, id_column)?;
    Ok(layout.case_note())
}

/// A note on carried columns that hold texts beside other values, where the parts have them as JSON text.
///
/// # Errors
///
/// As [`new_sink`].
pub(crate) fn kinds_note(
    form: &Form<'_>,
    index: &InputIndex,
    id_column: Option<&str>,
) -> Result<Option<String>, SinkError> {
    let is_typed = form.spec.output.format == OutputFormat::Parquet;
    let layout = Layout::new(form, index, id_column)?;
    Ok(layout.kinds_note().filter(|_| is_typed))
}

/// Makes the sink of a job: `id_column` is the input column that is written as `id`, `arrow_schema` the
/// schema that all Parquet files share.
///
/// # Errors
///
/// [`SinkError`], where a column is unknown, two have one name, or a type cannot be written.
pub fn new_sink(
    form: &Form<'_>,
    index: &InputIndex,
    id_column: Option<&str>,
    arrow_schema: Option<&Schema>,
) -> Result<Box<dyn ResultSink>, SinkError> {
    let layout = Layout::new(form, index, id_column)?;
    Ok(match form.spec.output.format {
        OutputFormat::Jsonl => Box::new(jsonl::JsonlSink::new(layout)),
        OutputFormat::Parquet => Box::new(parquet::ParquetSink::new(layout, arrow_schema)?),
    })
}
