//! The seam between the scheduler and the network: prefill, decode, slots.

use super::ModelError;

/// A language model with a KV cache in numbered slots.
///
/// A slot holds one running answer. Rows of a call are independent: a row's logits do not depend on
/// the other rows, on the slot's number, or on what the slot held before.
pub trait TextModel {
    /// Width of the logits.
    fn vocab_size(&self) -> usize;

    /// Reads contexts, each followed by the start token, into their slots.
    ///
    /// # Shapes
    ///
    /// The result has one row per entry of `rows`: the logits after the start token.
    ///
    /// # Errors
    ///
    /// [`ModelError::OutOfMemory`] leaves every slot of `rows` empty and the model usable.
    fn prefill(&mut self, rows: &[PrefillRow<'_>]) -> Result<Logits, ModelError>;

    /// Copies the cache of slot `from` into slot `to`, so that another sample goes on from it.
    ///
    /// # Errors
    ///
    /// As [`TextModel::prefill`].
    fn fork(&mut self, from: usize, to: usize) -> Result<(), ModelError>;

    /// Feeds one token to each of the given slots.
    ///
    /// # Errors
    ///
    /// As [`TextModel::prefill`]; the slots keep what they held.
    fn decode(&mut self, rows: &[DecodeRow]) -> Result<Logits, ModelError>;

    /// As [`TextModel::decode`], where nothing but the likeliest token of each row is wanted.
    ///
    /// A device then copies two numbers a row to the host instead of its logits. A model may give the logits all
    /// the same, and does so where they are not finite, so that the caller can say what is wrong with them.
    ///
    /// # Errors
    ///
    /// As [`TextModel::decode`].
    fn decode_likeliest(&mut self, rows: &[DecodeRow]) -> Result<Scores, ModelError> {
        self.decode(rows).map(Scores::Logits)
    }

    /// Frees a slot's cache.
    fn release(&mut self, slot: usize);
}

/// A context to read.
///
/// # Source
///
/// `GLMTokenizerMixin.build_inputs_for_generation` of `tokenization_glm.py`: token `i` of a context has the position
/// `i` and the block position 0; the start token and the answer have the position of the first mask, of any kind, and
/// the block positions 1, 2, 3 and so on.
#[derive(Clone, Copy, Debug)]
pub struct PrefillRow<'a> {
    /// Slot that takes it.
    pub slot: usize,
    /// Context ids without the start token.
    pub ids: &'a [u32],
    /// Id of the start token.
    pub start: u32,
    /// Position of the mask that the answer fills.
    pub mask_position: u32,
    /// Tokens that the slot must be able to hold: context, start token and answer.
    pub capacity: usize,
}

/// A token to feed.
#[derive(Clone, Copy, Debug)]
pub struct DecodeRow {
    /// Slot it goes to.
    pub slot: usize,
    /// Its id.
    pub id: u32,
    /// Position of the mask that the answer fills.
    pub mask_position: u32,
    /// Its block position: 2 for the first answer token (the start token has 1).
    pub block_position: u32,
}

/// What a decode step found for its rows, in their order.
#[derive(Clone, Debug)]
pub enum Scores {
    /// All logits.
    Logits(Logits),
    /// The likeliest token of each row: the lowest id of its largest logit.
    Likeliest(Vec<u32>),
}

/// Logits on the host.
///
/// # Shapes
///
/// `values` is (rows, vocabulary), row-major, f32.
#[derive(Clone, Debug)]
pub struct Logits {
    /// Width of a row.
    pub vocab_size: usize,
    /// All rows.
    pub values: Vec<f32>,
}

impl Logits {
    /// One row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.vocab_size..(row + 1) * self.vocab_size]
    }
}
