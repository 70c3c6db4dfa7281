//! Logits to tokens: what a row's settings do to them, the draw, and when an answer has ended.
//!
//! [`Rules`] say what a row's settings do to the logits, [`choose`] takes the next token from them, and an
//! answer decides when it has ended. A [`Writing`] is what an engine drives: the answers of all masks of a sample,
//! each written token by token or searched with [`Beams`]. Which answers run, and in which slots, is the work of
//! [`crate::engine`].
//! Invariant: an answer depends on its row's ids, settings, row number and the logits alone, never on the
//! rows beside it.

mod answer;
mod bad_words;
mod beam;
mod choices;
mod choose;
mod codec;
mod endings;
mod philox;
mod rules;
mod warp;
mod writing;

pub use answer::Start;
pub(crate) use bad_words::BadWordLists;
pub use bad_words::BadWords;
pub use beam::{BeamSearch, Beams, EarlyStopping, Fork, LengthOver, Scored, Searched};
pub use choices::Choices;
pub use choose::{Scratch, choose, log_probability};
pub(crate) use codec::FirstTextRule;
pub use codec::TextCodec;
pub use endings::Endings;
pub use philox::Draw;
pub use rules::{Rules, process};
pub use warp::{Warp, probabilities};
pub use writing::{Answered, Writing, Written, fill, mask_positions};
