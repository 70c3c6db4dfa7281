//! Job TOML to a validated [`JobSpec`].

mod types;

pub use types::*;
