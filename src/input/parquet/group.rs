//! Rows of one row group, decoded in small batches.
//!
//! A row group is sound or damaged as a whole: before some of its rows are given out alone, all of it
//! is decoded once, so that the same rows fail however the windows are cut.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection,
    RowSelector,
};

use super::footer::row_bytes;
use super::schema::fit;
use crate::input::error::one_line;

/// Rows decoded at once, at most.
const BATCH_ROWS: u64 = 1024;

/// Bytes decoded at once, at most, as far as the footer tells.
const BATCH_BYTES: u64 = 4 << 20;

/// A reader inside one row group.
pub(super) struct GroupReader {
    reader: ParquetRecordBatchReader,
    schema: SchemaRef,
    /// Decoded and not given out yet.
    left: Option<RecordBatch>,
}

impl GroupReader {
    /// Begins at row `skip` of a row group.
    pub(super) fn open(
        path: &Path,
        footer: &ArrowReaderMetadata,
        group: u32,
        skip: u64,
        schema: &SchemaRef,
    ) -> Result<Self, String> {
        let file = File::open(path).map_err(|error| error.to_string())?;
        let size = footer.metadata().row_group(group as usize);
        let rows = size.num_rows().max(0) as u64;
        let fitting = BATCH_BYTES / row_bytes(size.total_byte_size(), rows).max(1);
        let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, footer.clone())
            .with_row_groups(vec![group as usize])
            .with_batch_size(fitting.clamp(1, BATCH_ROWS) as usize);
        if skip > 0 {
            builder = builder.with_row_selection(RowSelection::from(vec![
                RowSelector::skip(skip as usize),
                RowSelector::select((rows - skip) as usize),
            ]));
        }
        let reader = guarded(|| builder.build().map_err(|error| error.to_string()))?;
        Ok(Self {
            reader,
            schema: schema.clone(),
            left: None,
        })
    }

    fn next(&mut self) -> Result<Option<RecordBatch>, String> {
        if let Some(batch) = self.left.take() {
            return Ok(Some(batch));
        }
        guarded(|| match self.reader.next() {
            None => Ok(None),
            Some(batch) => batch
                .and_then(|batch| fit(&batch, &self.schema))
                .map(Some)
                .map_err(|error| error.to_string()),
        })
    }

    /// The next `rows` rows as one batch.
    pub(super) fn take(&mut self, rows: u64) -> Result<RecordBatch, String> {
        let mut pieces = Vec::new();
        let mut missing = rows as usize;
        while missing > 0 {
            let Some(batch) = self.next()? else {
                return Err(format!("it ends {missing} rows early"));
            };
            let taken = batch.num_rows().min(missing);
            if taken < batch.num_rows() {
                self.left = Some(batch.slice(taken, batch.num_rows() - taken));
            }
            pieces.push(batch.slice(0, taken));
            missing -= taken;
        }
        concat_batches(&self.schema, &pieces).map_err(|error| error.to_string())
    }

    /// Decodes all that is left and says whether it was `rows` rows without damage.
    pub(super) fn check(mut self, rows: u64) -> Result<(), String> {
        let mut seen = 0;
        while let Some(batch) = self.next()? {
            seen += batch.num_rows() as u64;
        }
        if seen == rows {
            Ok(())
        } else {
            Err(format!("it has {seen} rows instead of {rows}"))
        }
    }
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
