//! Encoded contexts to [`Completion`](crate::outcome::Completion)s: rows into slots, whatever they ask for.
//!
//! [`Devices`] runs an engine for each device. [`Engine`] keeps the model's slots full with rows from
//! [`crate::plan`]'s order; what a slot's answer takes from its logits is the work of [`crate::generate`].
//!
//! ```text
//! request -> queue -> scheduler -> slots of the model
//!            queued    memory: what happens where it runs out
//! ```

mod devices;
mod error;
mod memory;
mod queue;
mod queued;
mod request;
mod scheduler;
mod statistics;

pub use devices::{Devices, LoadModel};
pub use error::EngineError;
pub use request::Request;
pub use scheduler::Engine;
pub use statistics::EngineStatistics;
