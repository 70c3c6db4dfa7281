//! What ends the work of an engine.

use crate::model::ModelError;

/// What ends the work of an engine as a whole; what ends one row alone is a
/// [`BadRow`](crate::outcome::BadRow).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The model cannot go on.
    #[error("the model failed while {doing}")]
    Model {
        /// What it was doing.
        doing: &'static str,
        /// Why.
        source: ModelError,
    },
}
