//! Times and durations as people write and read them.
//!
//! The only file of the command line that reads a clock: `+30m` and "3 min ago" need one.

use std::time::SystemTime;

use clap::builder::{StringValueParser, TypedValueParser};
use prost_types::{Duration, Timestamp};
use serde_json::Value;

/// A moment as the user gave it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum When {
    /// A point in time.
    At(Timestamp),
    /// That long after now.
    In(Duration),
}

impl When {
    /// The point in time.
    pub(super) fn resolve(&self, now: &Timestamp) -> Timestamp {
        match self {
            Self::At(time) => *time,
            Self::In(duration) => {
                let mut time = Timestamp {
                    seconds: now.seconds.saturating_add(duration.seconds),
                    nanos: now.nanos.saturating_add(duration.nanos),
                };
                time.normalize();
                time
            }
        }
    }
}

/// The time of this machine.
#[expect(
    clippy::disallowed_methods,
    reason = "a client at a terminal; nothing here is replayed"
)]
pub(super) fn now() -> Timestamp {
    SystemTime::now().into()
}

/// Reads `2026-03-01T02:00:00Z` or `+30m`.
///
/// # Errors
/// It is neither.
pub(super) fn parse_when(text: &str) -> Result<When, String> {
    if let Some(duration) = text.strip_prefix('+') {
        return parse_duration(duration).map(When::In);
    }
    text.parse()
        .map(When::At)
        .map_err(|_| "expected a time like 2026-03-01T02:00:00Z, or like +30m from now".into())
}

/// Reads `90s`, `1h30m`, `500ms`, `7d`.
///
/// # Errors
/// It is none, or longer than 100 years.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a duration like 90s, 30m, 1h30m or 7d";
    const LONGEST_MS: u64 = 100 * 366 * 86_400_000;
    let mut rest = text.trim();
    let mut total_ms = 0_u64;
    if rest.is_empty() {
        return Err(EXPECTED.into());
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, tail) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| EXPECTED)?;
        let letters = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let unit_ms = match unit.trim() {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(EXPECTED.into()),
        };
        total_ms = number
            .checked_mul(unit_ms)
            .and_then(|ms| total_ms.checked_add(ms))
            .filter(|ms| *ms <= LONGEST_MS)
            .ok_or("longer than 100 years")?;
        rest = tail;
    }
    Ok(Duration {
        seconds: i64::try_from(total_ms / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(total_ms % 1000 * 1_000_000).unwrap_or(0),
    })
}

/// [`parse_when`] for clap.
pub(super) fn when_parser() -> impl TypedValueParser<Value = When> {
    StringValueParser::new().try_map(|text| parse_when(&text))
}

/// [`parse_duration`] for clap.
pub(super) fn duration_parser() -> impl TypedValueParser<Value = Duration> {
    StringValueParser::new().try_map(|text| parse_duration(&text))
}

/// RFC 3339, null where there is none.
pub(super) fn time_json(time: Option<&Timestamp>) -> Value {
    time.map_or(Value::Null, |time| time.to_string().into())
}

/// Seconds with `s` as in the proto JSON mapping, null where there is none.
pub(super) fn duration_json(duration: Option<&Duration>) -> Value {
    duration.map_or(Value::Null, |duration| duration.to_string().into())
}

/// RFC 3339 to the second, and how far from now; empty where there is none.
pub(super) fn time_text(time: Option<&Timestamp>, now: &Timestamp) -> String {
    time.map_or_else(String::new, |time| {
        let seconds = Timestamp { nanos: 0, ..*time };
        format!("{seconds} ({})", distance(time, now))
    })
}

/// How far from now, for tables: `3m10s ago`, `in 2h`; empty where there is none.
pub(super) fn distance_text(time: Option<&Timestamp>, now: &Timestamp) -> String {
    time.map_or_else(String::new, |time| distance(time, now))
}

fn distance(time: &Timestamp, now: &Timestamp) -> String {
    let ahead = time.seconds.saturating_sub(now.seconds);
    let length = seconds_text(ahead.unsigned_abs());
    match ahead {
        0 => "now".into(),
        1.. => format!("in {length}"),
        _ => format!("{length} ago"),
    }
}

/// A duration for people; empty where there is none.
pub(super) fn duration_text(duration: Option<&Duration>) -> String {
    duration.map_or_else(String::new, |duration| {
        let seconds = u64::try_from(duration.seconds).unwrap_or(0);
        match duration.nanos / 1_000_000 {
            ms @ 1.. if seconds == 0 => format!("{ms}ms"),
            _ => seconds_text(seconds),
        }
    })
}

/// The two largest units of a duration in seconds: `45s`, `3m20s`, `2h05m`, `3d4h`.
pub(super) fn seconds_text(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (1.., 0, _) => format!("{days}d"),
        (1.., _, _) => format!("{days}d{hours}h"),
        (0, 1.., 0) => format!("{hours}h"),
        (0, 1.., _) => format!("{hours}h{minutes:02}m"),
        (0, 0, 1..) if rest == 0 => format!("{minutes}m"),
        (0, 0, 1..) => format!("{minutes}m{rest:02}s"),
        (0, 0, 0) => format!("{rest}s"),
    }
}

/// Air time in microseconds for people.
pub(super) fn airtime_text(microseconds: u64) -> String {
    match microseconds / 1000 {
        ms @ ..10_000 => format!("{ms}ms"),
        ms @ 10_000..120_000 => format!("{}.{}s", ms / 1000, ms % 1000 / 100),
        ms => seconds_text(ms / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn times_are_absolute_or_from_now() {
        let now = at("2026-03-01T12:00:00.75Z");
        let resolve = |text: &str| parse_when(text).unwrap().resolve(&now).to_string();
        assert_eq!(resolve("+30m"), "2026-03-01T12:30:00.750Z");
        assert_eq!(resolve("+500ms"), "2026-03-01T12:00:01.250Z");
        assert_eq!(resolve("2026-03-02T02:00:00+01:00"), "2026-03-02T01:00:00Z");
        for wrong in ["", "+", "soon", "+5", "+5x", "+m", "30m", "+99999d", "+é"] {
            assert!(parse_when(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_are_read_and_written() {
        for (text, seconds) in [
            ("90s", 90),
            ("1h30m", 5400),
            ("7d", 604_800),
            ("2h 5min", 7500),
        ] {
            assert_eq!(parse_duration(text).unwrap().seconds, seconds, "{text}");
        }
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (200, "3m20s"),
            (7500, "2h05m"),
            (86_400, "1d"),
            (273_600, "3d4h"),
        ] {
            assert_eq!(seconds_text(seconds), text);
        }
        assert_eq!(airtime_text(999_000), "999ms");
        assert_eq!(airtime_text(12_340_000), "12.3s");
    }

    #[test]
    fn distance_says_which_way() {
        let now = at("2026-03-01T12:00:00Z");
        assert_eq!(
            distance_text(Some(&at("2026-03-01T12:03:10Z")), &now),
            "in 3m10s"
        );
        assert_eq!(
            time_text(Some(&at("2026-03-01T11:00:00.5Z")), &now),
            "2026-03-01T11:00:00Z (1h ago)"
        );
        assert_eq!(time_text(None, &now), "");
    }
}
