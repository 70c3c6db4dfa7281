//! What this machine can do: free memory, the rows that are enough, the speeds that were found.
//!
//! Runs and plans choose and foretell by it; `bench` prints the limits and keeps what it found, and so does a job with the
//! rows that its own steps have shown to be enough. Nothing here decides an answer: a wrong figure costs time or memory, and never a bit.

pub(crate) mod batch_size;
pub(crate) mod calibration;
pub(crate) mod device;
pub(crate) mod kept_rows;
pub(crate) mod machine;

pub(crate) use calibration::BatchSpeed;
