//! What this machine can do: free memory, the rows that are enough, the speed that a benchmark found.
//!
//! Runs and plans choose and foretell by it; `bench` prints the limits and keeps what it found. Nothing
//! here decides an answer: a wrong figure costs time or memory, and never a bit.

pub(crate) mod batch_size;
pub(crate) mod calibration;
pub(crate) mod device;
pub(crate) mod machine;

pub(crate) use calibration::BatchSpeed;
