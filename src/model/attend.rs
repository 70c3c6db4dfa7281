//! The seam between a block and what attends for it: the caches of both backends, and the reference.

use candle_core::{Result as TensorResult, Tensor};

/// Attention of one layer over the tokens of one call.
pub(super) trait Attend {
    /// Puts the tokens' keys and values where they belong and attends with their queries.
    ///
    /// # Shapes
    ///
    /// (tokens, 3 hidden), queries then keys then values, to (tokens, hidden).
    fn attend(&mut self, layer: usize, projected: &Tensor) -> TensorResult<Tensor>;
}
