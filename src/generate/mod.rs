//! Encoded contexts to [`Completion`](crate::outcome::Completion)s: scheduler, slots, sampling, stop rules.
//!
//! [`Devices`] runs an engine for each device. [`Engine`] keeps the model's slots full with rows from [`crate::plan`]'s order; [`Rules`] say what a
//! row's settings do to the logits, [`choose`] takes the next token from them, and an answer decides
//! when it has ended. Invariant: an answer depends on its row's ids, settings, row number and the
//! logits alone, never on the rows beside it.

mod answer;
mod bad_words;
mod choose;
mod codec;
mod engine;
mod philox;
mod request;
mod rules;
mod statistics;
mod warp;

pub use bad_words::BadWords;
pub use choose::{Scratch, choose, log_probability};
pub use codec::{FirstTextRule, TextCodec};
pub use engine::{Devices, Engine, LoadModel};
pub use philox::{Draw, philox4x32_10};
pub use request::Request;
pub use rules::{Endings, Rules, process};
pub use statistics::EngineStatistics;
pub use warp::{Buffers, Candidate, Kept, Warp, probabilities};

use crate::model::ModelError;

/// What ends generation as a whole; what ends one row alone is an [`Outcome::Failed`](crate::outcome::Outcome::Failed).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The model cannot go on.
    #[error("the model failed while {doing}")]
    Model {
        /// What it was doing.
        doing: &'static str,
        /// Why.
        source: ModelError,
    },
}
