//! The line of a terminal that shows how far a run has come: what it says, and how it is drawn over.
//!
//! The line is always shorter than the terminal is wide, so that it never wraps, and the cursor goes back to its first
//! cell once it is drawn. That place is the same in every terminal when its size changes: some wrap a line that has become
//! too long and others cut it, but all keep the cursor at the character where it was. So the line is taken away from
//! the cursor on, whatever has become of it meanwhile. The `^C` or `^Z` that a terminal writes at the cursor lies on the line
//! and goes with it. Pure; [`super::terminal`] prints it.

use std::time::Duration;

use unicode_width::UnicodeWidthStr;

use super::observer::Progress;
use super::{counted, grouped};

/// Cells that stay free at the end of the line: some terminals begin a new line as soon as the last cell is filled.
const FREE_CELLS: usize = 1;

/// Cells of the longest and of the shortest bar, without its brackets.
const BAR_CELLS: (usize, usize) = (30, 8);

/// The line for a terminal of this width.
pub(super) fn live_line(progress: &Progress, width: usize) -> String {
    let room = width.saturating_sub(FREE_CELLS);
    let share = match progress.rows_total {
        0 => 0.0,
        total => (progress.rows_done as f64 / total as f64).min(1.0),
    };
    let mut text = format!("{}%", (share * 100.0).floor());
    for (at, fact) in facts(progress).into_iter().enumerate() {
        let link = if at == 0 { "  " } else { ", " };
        if text.width() + link.len() + fact.width() > room {
            // A fact that has no room must not make room for a lesser one.
            break;
        }
        text = text + link + &fact;
    }
    text.truncate(room);
    let cells = room.saturating_sub(text.width() + "[] ".len());
    if cells < BAR_CELLS.1 {
        return text;
    }
    let cells = cells.min(BAR_CELLS.0);
    let full = (share * cells as f64).floor() as usize;
    format!("[{}{}] {text}", "#".repeat(full), ".".repeat(cells - full))
}

/// How far a run has come, in words.
pub(super) fn plain_line(progress: &Progress) -> String {
    facts(progress).join(", ")
}

/// What there is to say, the most important first. All of it is ASCII.
fn facts(progress: &Progress) -> Vec<String> {
    let rows = counted(progress.rows_total, "row");
    let mut facts = vec![format!("{} of {rows}", grouped(progress.rows_done))];
    facts.push(match progress.remaining {
        Some(left) => format!("{} left", about(left)),
        None => "time left not known yet".to_owned(),
    });
    if progress.failed > 0 {
        facts.push(format!("{} failed", grouped(progress.failed)));
    }
    facts.push(format!(
        "{} tokens/s",
        grouped(progress.tokens_per_second.round() as u64)
    ));
    let (used, slots) = (progress.slots_used as u64, progress.slots as u64);
    if slots > 0 {
        facts.push(format!("{} of {} slots", grouped(used), grouped(slots)));
    }
    facts.push(format!("padding {:.1}%", progress.padding_share * 100.0));
    facts
}

/// What takes the line off the terminal: the cursor is in its first row, and what has wrapped lies below.
pub(super) const ERASE: &str = "\r\u{1b}[J";

/// A time that is an estimate: work that goes on never has no time left.
pub(crate) fn about(time: Duration) -> String {
    let rounded = Duration::from_secs(time.as_secs_f64().round() as u64);
    if rounded.is_zero() {
        "under 1 s".to_owned()
    } else {
        duration(rounded)
    }
}

/// A time in its two largest units.
fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => {
            let hours = grouped(seconds / 3600);
            format!("{hours} h {:02} min", seconds / 60 % 60)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress() -> Progress {
        Progress {
            rows_done: 1_234,
            rows_total: 12_345,
            remaining: Some(Duration::from_mins(62)),
            tokens_per_second: 1_234.4,
            padding_share: 0.031,
            slots_used: 3,
            slots: 64,
            failed: 1,
            ..Progress::default()
        }
    }

    #[test]
    fn the_line_fits_every_width() {
        for width in 0..300 {
            let line = live_line(&progress(), width);
            assert!(
                line.width() <= width.saturating_sub(FREE_CELLS),
                "{width}: {line}"
            );
        }
    }

    #[test]
    fn the_line_says_the_most_important_first() {
        assert_eq!(
            live_line(&progress(), 80),
            "[.........] 9%  1,234 of 12,345 rows, 1 h 02 min left, 1 failed, 1,234 tokens/s"
        );
        assert_eq!(
            live_line(&progress(), 40),
            "[#...........] 9%  1,234 of 12,345 rows"
        );
        assert_eq!(live_line(&progress(), 34), "9%  1,234 of 12,345 rows");
        assert_eq!(
            live_line(&progress(), 120),
            "[#...................] 9%  1,234 of 12,345 rows, 1 h 02 min left, 1 failed, 1,234 tokens/s, 3 of 64 slots, padding 3.1%"
        );
        let unknown = Progress {
            rows_total: 10,
            slots: 8,
            ..Progress::default()
        };
        assert_eq!(
            live_line(&unknown, 80),
            "[.........] 0%  0 of 10 rows, time left not known yet, 0 tokens/s, 0 of 8 slots"
        );
    }

    #[test]
    fn work_that_goes_on_has_time_left() {
        let texts = [0.0, 0.4, 0.6, 1.4, 59.7, 61.0].map(|s| about(Duration::from_secs_f64(s)));
        assert_eq!(
            texts,
            [
                "under 1 s",
                "under 1 s",
                "1 s",
                "1 s",
                "1 min 00 s",
                "1 min 01 s"
            ]
        );
    }

    #[test]
    fn times_are_grouped_too() {
        assert_eq!(duration(Duration::from_secs(100)), "1 min 40 s");
        assert_eq!(duration(Duration::from_hours(1_000)), "1,000 h 00 min");
    }
}
