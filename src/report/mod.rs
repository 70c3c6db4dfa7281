//! What a run says while it works and when it is done.
//!
//! [`Observer`] is told of progress; [`terminal`](observer_for) draws bars or prints plain lines.
//! [`RunReport`] is what remains: it is written to `report/shard-i.json` and printed as the summary. A finished
//! job also has a [`Card`]. Whatever is printed goes through [`say`], [`print()`] or [`print_json`].

mod card;
mod features;
mod loading;
mod observer;
mod run_report;
mod table;
mod terminal;

pub use card::{CARD_MARK, Card};
pub use loading::{Loading, loading};
pub use observer::{Observer, Progress, Silent, duration, observer_for};
pub use run_report::{CheckedFiles, RunReport, RunTimes, peak_memory_bytes};
pub use table::{counted, grouped, line, side_by_side, table};
pub use terminal::{
    as_message, on_one_line, print, print_bytes, print_json, print_json_line, say, say_lines,
};
