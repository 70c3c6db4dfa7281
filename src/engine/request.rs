//! What goes into an engine: a row with its context and settings.

use std::sync::Arc;

use crate::ids::RowId;
use crate::job::GenerationSpec;
use crate::tokenize::Encoded;

/// A row ready to be answered.
#[derive(Clone, Debug)]
pub struct Request {
    /// The row; with the seed and the sample it keys the draw.
    pub row: RowId,
    /// Its context.
    pub encoded: Encoded,
    /// The job's settings with the row's own on top.
    pub settings: Arc<GenerationSpec>,
    /// `max_new_tokens` resolved for this row: the most answer tokens, ending token included.
    pub max_new_tokens: u32,
}
