//! What a run says while it works and when it is done.
//!
//! [`Observer`] is told of progress; [`terminal`](observer_for) draws bars or prints plain lines.
//! [`RunReport`] is what remains: it is written to `report/shard-i.json` and printed as the summary.

mod observer;
mod run_report;
mod table;

pub use observer::{Observer, Progress, Silent, observer_for};
pub use run_report::{CheckedFiles, RunReport, RunTimes, peak_memory_bytes};
pub use table::{counted, grouped, line, side_by_side, table};
