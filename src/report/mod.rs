//! Progress and run reports.
