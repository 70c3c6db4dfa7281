//! What a cache does with its slots, and the calls that every cache refuses.

use candle_core::Tensor;

use super::super::network::Network;
use super::super::{DecodeRow, ModelError, PrefillRow, ReadRow};

/// A row to read without a slot, and the places whose hidden states are wanted, in order.
pub(in crate::model) struct Reading<'a> {
    pub(in crate::model) row: ReadRow<'a>,
    pub(in crate::model) places: Vec<u32>,
}

/// Keys and values of running answers, in slots.
pub(in crate::model) trait Cache: Send {
    /// Reads contexts into their slots; the hidden states after the start tokens, (rows, hidden).
    fn prefill(&mut self, network: &Network, rows: &[PrefillRow<'_>])
    -> Result<Tensor, ModelError>;

    /// Feeds one token a row; the hidden states after them and after the final norm, (rows, hidden).
    ///
    /// The slots' lengths stay until [`Cache::advance`], so that a step that fails later can be repeated.
    fn decode(&mut self, network: &Network, rows: &[DecodeRow]) -> Result<Tensor, ModelError>;

    /// Keeps the tokens of the last decode.
    fn advance(&mut self, rows: &[DecodeRow]);

    /// Copies a slot.
    fn fork(&mut self, from: usize, to: usize) -> Result<(), ModelError>;

    /// Empties a slot.
    fn release(&mut self, slot: usize);

    /// Splits rows into those that are read together, by their numbers; each row is in one part.
    fn parts(&self, rows: &[ReadRow<'_>]) -> Vec<Vec<usize>>;

    /// Reads rows together and touches no slot: hidden states before the final norm at the wanted places, row by row,
    /// (wanted, hidden). At least one place must be wanted.
    fn read(&mut self, network: &Network, rows: &[Reading<'_>]) -> Result<Tensor, ModelError>;
}

/// A row's tokens and room, checked before anything is touched.
pub(super) fn check_prefill(rows: &[PrefillRow<'_>]) -> Result<(), ModelError> {
    let mut slots: Vec<usize> = rows.iter().map(|row| row.slot).collect();
    slots.sort_unstable();
    if slots.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(ModelError::Call("a slot is named twice".to_owned()));
    }
    for row in rows {
        if row.ids.is_empty() || row.ids.len() + 1 > row.capacity {
            let (context, capacity) = (row.ids.len(), row.capacity);
            return Err(ModelError::Call(format!(
                "a context of {context} tokens and a start token do not fit a slot of {capacity}"
            )));
        }
    }
    Ok(())
}

/// The error for a slot that holds nothing.
pub(super) fn empty_slot(slot: usize) -> ModelError {
    ModelError::Call(format!("slot {slot} is empty"))
}

/// The error for a slot without room.
pub(super) fn full_slot(slot: usize, capacity: usize) -> ModelError {
    ModelError::Call(format!("slot {slot} is full at {capacity} tokens"))
}
