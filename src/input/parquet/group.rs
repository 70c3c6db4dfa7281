//! Rows of one row group, decoded in small batches.
//!
//! A row group is sound or damaged as a whole: before some of its rows are given out alone, all of it
//! is decoded once, so that the same rows fail however the windows are cut.

use std::fs::File;
use std::path::Path;

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use arrow_select::concat::concat_batches;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection,
    RowSelector,
};
use parquet::basic::Encoding;
use parquet::file::metadata::RowGroupMetaData;

use super::decoder::guarded;
use super::fit::Misfit;
use super::footer::{Footer, row_bytes};
use super::layout::compact;
use super::times::without_finer;
use crate::numbers::counted;

/// Rows decoded at once, at most.
const BATCH_ROWS: u64 = 1024;

/// Rows decoded at once where texts are stored as what differs from the one before: the few bytes of a
/// repeated text become all of them again.
const DELTA_BATCH_ROWS: u64 = 32;

/// Bytes decoded at once, at most, as far as the footer tells.
const BATCH_BYTES: u64 = 4 << 20;

/// A reader inside one row group.
pub(super) struct GroupReader {
    rows: Rows,
    /// The times of the same rows in nanoseconds.
    finer: Option<Rows>,
}

impl GroupReader {
    /// Begins at row `skip` of a row group.
    pub(super) fn open(
        path: &Path,
        footer: &Footer,
        group: u32,
        skip: u64,
    ) -> Result<Self, String> {
        let all = ProjectionMask::all();
        let rows = Rows::open(path, &footer.held, all, group, skip)?;
        let finer = footer
            .finer
            .as_ref()
            .map(|finer| Rows::open(path, &finer.metadata, finer.projection.clone(), group, skip));
        Ok(Self {
            rows,
            finer: finer.transpose()?,
        })
    }

    /// The next `rows` rows as one batch, as the file has them, and values that are finer than they are held.
    pub(super) fn take(
        &mut self,
        rows: u64,
        schema: &Schema,
    ) -> Result<(RecordBatch, Vec<Misfit>), String> {
        let held = self.rows.take(rows)?;
        let Some(finer) = &mut self.finer else {
            return Ok((held, Vec::new()));
        };
        let fine = finer.take(rows)?;
        without_finer(&held, &fine, schema).map_err(|error| error.to_string())
    }

    /// Decodes all that is left and says whether it was `rows` rows without damage.
    pub(super) fn check(mut self, rows: u64) -> Result<(), String> {
        let mut seen = 0;
        while let Some(batch) = self.rows.next()? {
            seen += batch.num_rows() as u64;
        }
        if seen == rows {
            Ok(())
        } else {
            Err(format!("it has {} instead of {rows}", counted(seen, "row")))
        }
    }
}

/// The rows of one row group under one schema.
struct Rows {
    reader: ParquetRecordBatchReader,
    /// Decoded and not given out yet.
    left: Option<RecordBatch>,
    /// Equal texts come apart in the decoder and are brought together again.
    compacts: bool,
}

impl Rows {
    fn open(
        path: &Path,
        metadata: &ArrowReaderMetadata,
        columns: ProjectionMask,
        group: u32,
        skip: u64,
    ) -> Result<Self, String> {
        let file = File::open(path).map_err(|error| error.to_string())?;
        let size = metadata.metadata().row_group(group as usize);
        let rows = size.num_rows().max(0) as u64;
        let compacts = has_deltas(size);
        let most = if compacts {
            DELTA_BATCH_ROWS
        } else {
            BATCH_ROWS
        };
        let fitting = BATCH_BYTES / row_bytes(size.total_byte_size(), rows).max(1);
        let mut builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata.clone())
                .with_projection(columns)
                .with_row_groups(vec![group as usize])
                .with_batch_size(fitting.clamp(1, most) as usize);
        if skip > 0 {
            builder = builder.with_row_selection(RowSelection::from(vec![
                RowSelector::skip(skip as usize),
                RowSelector::select((rows - skip) as usize),
            ]));
        }
        let reader = guarded(|| builder.build().map_err(|error| error.to_string()))?;
        Ok(Self {
            reader,
            left: None,
            compacts,
        })
    }

    fn next(&mut self) -> Result<Option<RecordBatch>, String> {
        if let Some(batch) = self.left.take() {
            return Ok(Some(batch));
        }
        guarded(|| match self.reader.next() {
            None => Ok(None),
            Some(batch) => batch
                .and_then(|batch| {
                    if self.compacts {
                        compact(&batch)
                    } else {
                        Ok(batch)
                    }
                })
                .map(Some)
                .map_err(|error| error.to_string()),
        })
    }

    fn take(&mut self, rows: u64) -> Result<RecordBatch, String> {
        let mut pieces = Vec::new();
        let mut missing = rows as usize;
        let mut schema = None;
        while missing > 0 {
            let Some(batch) = self.next()? else {
                return Err(format!("it ends {} early", counted(missing as u64, "row")));
            };
            let taken = batch.num_rows().min(missing);
            if taken < batch.num_rows() {
                self.left = Some(batch.slice(taken, batch.num_rows() - taken));
            }
            schema.get_or_insert_with(|| batch.schema());
            pieces.push(batch.slice(0, taken));
            missing -= taken;
        }
        let schema = schema.unwrap_or_else(|| Schema::empty().into());
        concat_batches(&schema, &pieces).map_err(|error| error.to_string())
    }
}

fn has_deltas(group: &RowGroupMetaData) -> bool {
    let mut columns = group.columns().iter();
    columns.any(|column| {
        column
            .encodings()
            .any(|kind| kind == Encoding::DELTA_BYTE_ARRAY)
    })
}
