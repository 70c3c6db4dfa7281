//! Rows with their [`Work`] to what the model [`Found`] for them, whatever their task.
//!
//! [`Devices`] runs an engine for each device. [`Engine`] keeps the model's slots full with rows from
//! [`crate::plan`]'s order; which tokens a sample takes from its
//! logits, and which of its slots go on, is the work of [`crate::generate`].
//!
//! ```text
//! request -> queue -> scheduler -> slots of the model             answers, token by token
//!            queued    decode: one step, in one call or two; tuning: how many rows are in flight
//!                      advance: tokens chosen, beams' caches copied
//!                      memory: what happens where it runs out
//!                   -> reading   -> one pass, no slot              texts that are judged
//! ```

mod advance;
mod decode;
mod devices;
mod error;
mod memory;
mod queue;
mod queued;
mod reading;
mod request;
mod scheduler;
mod statistics;
mod tuning;

pub use devices::{Devices, LoadModel};
pub use error::EngineError;
pub use request::{Finished, Found, Generation, Reading, Request, Want, Work};
pub use scheduler::Engine;
pub use statistics::EngineStatistics;
pub(crate) use tuning::most_rows;
pub use tuning::{Learned, Tuning};
