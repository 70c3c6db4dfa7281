//! Logits to tokens: what a row's settings do to them, the draw, and when an answer has ended.
//!
//! [`Rules`] say what a row's settings do to the logits, [`choose`] takes the next token from them, and an
//! answer decides when it has ended. Which answers run, and in which slots, is the work of [`crate::engine`].
//! Invariant: an answer depends on its row's ids, settings, row number and the logits alone, never on the
//! rows beside it.

mod answer;
mod bad_words;
mod choose;
mod codec;
mod endings;
mod philox;
mod rules;
mod warp;

pub(crate) use answer::{Answer, Progress, Start};
pub(crate) use bad_words::BadWordLists;

pub use choose::{Scratch, choose, log_probability};
pub(crate) use codec::FirstTextRule;
pub use codec::TextCodec;
pub use endings::Endings;
pub use philox::Draw;
pub use rules::{Rules, process};
pub use warp::{Warp, probabilities};
