//! What a run says while it works and when it is done.
//!
//! [`Observer`] is told of progress; [`terminal`](observer_for) draws bars or prints plain lines.
//! [`RunReport`] is what remains: it is written to `report/shard-i.json` and printed as the summary. A finished
//! job also has a [`Card`]. Whatever is printed goes through [`say`], [`print()`] or [`print_json`].

mod card;
mod features;
mod groups;
mod live;
mod loading;
mod observer;
mod run_report;
mod table;
mod terminal;
mod time_left;
mod wrap;

pub(crate) use crate::numbers::{counted, first, grouped, rate};
pub(crate) use crate::shell::shell_word;
pub(crate) use card::{CARD_MARK, Card, settings};
pub use groups::GroupReport;
pub(crate) use groups::{MetricsReport, groups};
pub(crate) use live::about;
pub use loading::Loading;
pub(crate) use loading::loading;
pub use observer::{Observer, Progress, Silent, observer_for};
pub(crate) use run_report::peak_memory_bytes;
pub use run_report::{CheckedFiles, FailureReason, RunReport, RunTimes};
pub(crate) use table::{line, side_by_side, table};
pub(crate) use terminal::{
    JsonLines, as_message, erase_live, on_one_line, pause_live, print, print_bytes, print_data,
    print_json, print_json_line, say, say_lines,
};
pub use time_left::{Moment, RowWork, TimeLeft};
