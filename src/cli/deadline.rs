//! `--deadline` and Slurm's own end of a job to the point in time at which a run must have ended.
//!
//! A deadline is a time of the clock, not a span: a machine that sleeps or a job that waits for its weights has
//! no more time for that.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::Error;
use crate::report::say;
use crate::stop::Deadline;

/// When Slurm ends the job that this process runs in, in unix seconds.
const SLURM_END: &str = "SLURM_JOB_END_TIME";

const SECONDS_A_DAY: u64 = 86_400;

/// Longest span that is read: a hundred years, which any clock can add.
const LONGEST_SECONDS: u64 = 36_525 * SECONDS_A_DAY;

/// What `--deadline` may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// So long after the start.
    In(Duration),
    /// A point in time.
    At(SystemTime),
}

/// The deadline of a run that begins now: the command line's, else Slurm's.
///
/// # Errors
///
/// [`Error::Usage`] where the command line's is past.
pub(super) fn deadline(asked: Option<When>) -> Result<Option<Deadline>, Error> {
    let now = SystemTime::now();
    match asked {
        Some(When::In(span)) => Ok(Some(Deadline::at(now + span))),
        Some(When::At(at)) if at <= now => Err(Error::Usage(format!(
            "`--deadline` is {}, which is past: it is {} now\nhint: give a later time, or how long the run may take, as in `--deadline 3h`",
            written(at),
            written(now)
        ))),
        Some(When::At(at)) => Ok(Some(Deadline::at(at))),
        None => Ok(slurm_end(std::env::var(SLURM_END).ok().as_deref(), now)),
    }
}

/// Slurm's deadline. One that is past is left out: the variable is from the start of the job, and an administrator
/// may have given it more time since, or a shell of an earlier job may have handed it down.
fn slurm_end(text: Option<&str>, now: SystemTime) -> Option<Deadline> {
    let text = text.filter(|text| !text.is_empty())?;
    let seconds = text.parse().ok().filter(|&seconds| seconds < 1 << 40);
    let Some(seconds) = seconds else {
        say(&format!(
            "warning: `{SLURM_END}` is not a time in unix seconds, and is ignored; `--deadline` gives one"
        ));
        return None;
    };
    let at = UNIX_EPOCH + Duration::from_secs(seconds);
    if at <= now {
        say(&format!(
            "warning: `{SLURM_END}` ({}) is past, and is ignored; `--deadline` gives the time at which the job ends",
            written(at)
        ));
        return None;
    }
    say(&format!(
        "note: Slurm ends this job at {}, and the run stops before that; `--deadline` gives another time",
        written(at)
    ));
    Some(Deadline::at(at))
}

/// Reads a span such as `90s`, `3h` or `1h30m`, or a time such as `2026-03-01T06:00:00+01:00`.
pub(super) fn parse(text: &str) -> Result<When, String> {
    let found = if text.contains(['T', 't', '-']) {
        time(text).map(When::At)
    } else {
        span(text).map(When::In)
    };
    found.ok_or_else(|| {
        "give how long the run may take, as in `3h`, `90m` or `1h30m`, or when it must have ended, as in `2026-03-01T06:00:00+01:00`".to_owned()
    })
}

/// A span in days, hours, minutes and seconds; longer than none.
fn span(text: &str) -> Option<Duration> {
    let mut seconds = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let unit_at = rest.find(|sign: char| !sign.is_ascii_digit())?;
        let number: u64 = rest[..unit_at].parse().ok()?;
        let unit = match rest.as_bytes()[unit_at] {
            b'd' => SECONDS_A_DAY,
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            _ => return None,
        };
        seconds = seconds.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[unit_at + 1..];
    }
    (1..=LONGEST_SECONDS)
        .contains(&seconds)
        .then(|| Duration::from_secs(seconds))
}

/// A time in RFC 3339; the part of a second is left out, so that the deadline is not late.
fn time(text: &str) -> Option<SystemTime> {
    let (date, clock) = text.split_once(['T', 't', ' '])?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let zone_at = clock.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = clock.split_at(zone_at);
    let (clock, part) = clock.split_once('.').unwrap_or((clock, "0"));
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    let is_a_time = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60
        && !part.is_empty()
        && part.bytes().all(|sign| sign.is_ascii_digit());
    if !is_a_time {
        return None;
    }
    let local = days_before(year, month, day) * SECONDS_A_DAY + hour * 3600 + minute * 60 + second;
    let seconds = match zone.split_at(1) {
        ("Z" | "z", "") => local,
        ("+", ahead) => local.checked_sub(offset(ahead)?)?,
        ("-", behind) => local + offset(behind)?,
        _ => return None,
    };
    Some(UNIX_EPOCH + Duration::from_secs(seconds))
}

/// Seconds of a zone's `hh:mm`.
fn offset(text: &str) -> Option<u64> {
    let (hours, minutes) = text.split_once(':')?;
    let [hours, minutes] = [number(hours, 2)?, number(minutes, 2)?];
    (hours < 24 && minutes < 60).then_some(hours * 3600 + minutes * 60)
}

/// Three numbers of so many digits between separators.
fn numbers(text: &str, separator: char, digits: [usize; 3]) -> Option<[u64; 3]> {
    let mut parts = text.split(separator);
    let mut found = [0; 3];
    for (found, digits) in found.iter_mut().zip(digits) {
        *found = number(parts.next()?, digits)?;
    }
    parts.next().is_none().then_some(found)
}

fn number(text: &str, digits: usize) -> Option<u64> {
    let is_number = text.len() == digits && text.bytes().all(|sign| sign.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date.
fn days_before(year: u64, month: u64, day: u64) -> u64 {
    let years: u64 = (1970..year)
        .map(|year| 365 + u64::from(is_leap(year)))
        .sum();
    let months: u64 = (1..month).map(|month| days_of(year, month)).sum();
    years + months + day - 1
}

/// A time as people read it, in UTC.
fn written(at: SystemTime) -> String {
    let seconds = at
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (mut days, clock) = (seconds / SECONDS_A_DAY, seconds % SECONDS_A_DAY);
    let (mut year, mut month) = (1970, 1);
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    while days >= days_of(year, month) {
        days -= days_of(year, month);
        month += 1;
    }
    let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
    let day = days + 1;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn spans_and_times_are_read() {
        for (text, seconds) in [
            ("3h", 10_800),
            ("1h30m", 5400),
            ("90s", 90),
            ("2d", 172_800),
        ] {
            assert_eq!(parse(text), Ok(When::In(Duration::from_secs(seconds))));
        }
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2024-02-29T12:00:00Z", 1_709_208_000),
            ("2026-03-01T06:00:00+01:00", 1_772_341_200),
            ("2026-03-01t05:00:00.75z", 1_772_341_200),
            ("2026-02-28T23:30:00-05:30", 1_772_341_200),
        ] {
            assert_eq!(parse(text), Ok(When::At(at(seconds))), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_forms() {
        for text in [
            "",
            "3",
            "h",
            "0s",
            "3 h",
            "3w",
            "-3h",
            "1.5h",
            "99999999999d",
            "2026-03-01",
            "2026-03-01T06:00:00",
            "2026-02-29T06:00:00Z",
            "2026-13-01T06:00:00Z",
            "2026-03-01T24:00:00Z",
            "2026-03-01T06:00:00+1:00",
            "1960-01-01T00:00:00Z",
            "2026-03-01T06:00:00.Z",
            "2026-3-1T06:00:00Z",
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains("`1h30m`"), "{text}: {error}");
        }
    }

    #[test]
    fn times_are_written_as_they_are_read() {
        for text in [
            "1970-01-01T00:00:00Z",
            "2024-02-29T23:59:59Z",
            "2026-12-31T00:00:01Z",
        ] {
            let Ok(When::At(time)) = parse(text) else {
                panic!("{text}");
            };
            assert_eq!(written(time), text);
        }
    }

    #[test]
    fn slurms_end_counts_only_where_it_is_to_come() {
        let now = at(1_000_000);
        for past in ["999999", "1000000", "soon", "-5", ""] {
            assert!(slurm_end(Some(past), now).is_none(), "{past}");
        }
        assert!(slurm_end(None, now).is_none());
        assert!(slurm_end(Some("1000001"), now).is_some());
    }

    #[test]
    fn a_past_deadline_is_refused_with_the_cure() {
        let error = deadline(Some(When::At(at(0)))).unwrap_err().to_string();
        assert!(error.contains("is past"), "{error}");
        assert!(error.contains("`--deadline 3h`"), "{error}");
    }
}
