//! Retries, calendar and tags on success of a task on the command line. Retries and calendar are each replaced whole:
//! flags of one kind are given together.

use clap::Args;
use prost_types::{Duration, Timestamp};
use serde_json::{Value, json};

use crate::cli::moment::{duration_json, duration_parser, duration_text, time_json};
use crate::cli::names::{enum_parser, parse_pair, word, word_json};
use crate::cli::settings::Mask;
use crate::proto::v1;

const RETRIES: &str = "Retries (replaced as a whole)";
const CALENDAR: &str = "Calendar (replaced as a whole)";

/// Days of the week as they are written, Monday first.
const DAYS: [&str; 7] = ["MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"];

/// Retries, calendar and tags on success.
#[derive(Args)]
pub(super) struct RuleArgs {
    /// How often a device that failed is tried again before the task ends, 0 to 10 [default: 0]
    #[arg(long, value_name = "COUNT", help_heading = RETRIES)]
    max_retries: Option<u32>,

    /// From a failure to the next try, such as 6h [default: 0s]
    #[arg(long, value_name = "DURATION", value_parser = duration_parser(), help_heading = RETRIES)]
    retry_pause: Option<Duration>,

    /// For which reason; may be repeated [default: all that may pass, such as NO_ANSWER]
    #[arg(long = "retry-reason", value_parser = enum_parser::<v1::DeviceReason>(), hide_possible_values = true, help_heading = RETRIES)]
    retry_reasons: Vec<v1::DeviceReason>,

    /// A time of the week distribution is allowed in, such as "mon-fri 22:00-06:00"; may be repeated
    #[arg(long = "weekly-window", value_name = "DAYS FROM-TO", value_parser = parse_window, help_heading = CALENDAR)]
    weekly_windows: Vec<v1::WeeklyWindow>,

    /// What days and hours of --weekly-window are ahead of UTC, such as +01:00 [default: +00:00]
    #[arg(long, value_name = "OFFSET", value_parser = parse_offset, allow_hyphen_values = true, help_heading = CALENDAR)]
    utc_offset: Option<i32>,

    /// A time without distribution: two times of RFC 3339 with a slash between; may be repeated
    #[arg(long = "blackout", value_name = "FROM/TO", value_parser = parse_blackout, help_heading = CALENDAR)]
    blackouts: Vec<v1::Blackout>,

    /// Mark a device that succeeds with KEY=VALUE; may be repeated
    #[arg(long = "tag-on-success", value_name = "KEY=VALUE", value_parser = parse_pair)]
    tags_on_success: Vec<(String, String)>,
}

impl RuleArgs {
    /// Writes what was given into a task.
    pub(super) fn apply(self, task: &mut v1::FuotaTask, mask: &mut Mask) {
        let retry = v1::RetryPolicy {
            max_retries: self.max_retries.unwrap_or_default(),
            pause: self.retry_pause,
            reasons: self.retry_reasons.into_iter().map(i32::from).collect(),
        };
        if retry != v1::RetryPolicy::default() || self.max_retries.is_some() {
            mask.put("retry", &mut task.retry, Some(Some(retry)));
        }
        let calendar = v1::Calendar {
            weekly_windows: self.weekly_windows,
            utc_offset_minutes: self.utc_offset.unwrap_or_default(),
            blackouts: self.blackouts,
        };
        if calendar != v1::Calendar::default() {
            mask.put("calendar", &mut task.calendar, Some(Some(calendar)));
        }
        if !self.tags_on_success.is_empty() {
            mask.touch("tags_on_success");
            task.tags_on_success.extend(self.tags_on_success);
        }
    }
}

fn parse_window(text: &str) -> Result<v1::WeeklyWindow, String> {
    const EXPECTED: &str =
        "expected days and times like \"mon-fri 22:00-06:00\" or \"sat,sun 00:00-24:00\"";
    let read = || {
        let (days, times) = text.trim().split_once(' ')?;
        let (from, to) = times.trim().split_once('-')?;
        Some(v1::WeeklyWindow {
            days: read_days(days)?,
            from_minute: read_minute(from)?,
            to_minute: read_minute(to)?,
        })
    };
    read().ok_or_else(|| EXPECTED.to_owned())
}

fn read_days(text: &str) -> Option<Vec<i32>> {
    let day = |name: &str| {
        let at = DAYS.iter().position(|day| day.eq_ignore_ascii_case(name))?;
        i32::try_from(at + 1).ok()
    };
    let mut days = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut next, last) = (day(first)?, day(last)?);
        days.push(next);
        while next != last {
            next = next % 7 + 1;
            days.push(next);
        }
    }
    Some(days)
}

fn read_minute(text: &str) -> Option<u32> {
    let (hours, minutes) = text.split_once(':')?;
    let (hours, minutes): (u32, u32) = (hours.parse().ok()?, minutes.parse().ok()?);
    (minutes < 60 && hours <= 24).then_some(hours * 60 + minutes)
}

fn parse_offset(text: &str) -> Result<i32, String> {
    let (sign, time) = match text.split_at_checked(1) {
        Some(("-", time)) => (-1, time),
        Some(("+", time)) => (1, time),
        _ => (1, text),
    };
    let minutes = read_minute(time).and_then(|minutes| i32::try_from(minutes).ok());
    let minutes = minutes.ok_or("expected an offset like +01:00")?;
    Ok(sign * minutes)
}

fn parse_blackout(text: &str) -> Result<v1::Blackout, String> {
    let read = || {
        let (from, to) = text.split_once('/')?;
        let (from, to): (Timestamp, Timestamp) = (from.parse().ok()?, to.parse().ok()?);
        Some(v1::Blackout {
            from_time: Some(from),
            to_time: Some(to),
        })
    };
    read().ok_or_else(|| {
        "expected two times like 2026-12-24T00:00:00Z/2026-12-27T00:00:00Z".to_owned()
    })
}

/// Retries as JSON, null for none.
pub(super) fn retry_json(policy: Option<&v1::RetryPolicy>) -> Value {
    policy.map_or(Value::Null, |policy| {
        let reasons = policy.reasons.iter();
        json!({
            "max_retries": policy.max_retries,
            "pause": duration_json(policy.pause.as_ref()),
            "reasons": reasons.map(|reason| word_json::<v1::DeviceReason>(*reason)).collect::<Vec<_>>(),
        })
    })
}

/// A calendar as JSON, null for always.
pub(super) fn calendar_json(calendar: Option<&v1::Calendar>) -> Value {
    calendar.map_or(Value::Null, |calendar| {
        let windows = calendar.weekly_windows.iter().map(|window| {
            let days = window.days.iter();
            json!({
                "days": days.map(|day| word_json::<v1::Weekday>(*day)).collect::<Vec<_>>(),
                "from_minute": window.from_minute,
                "to_minute": window.to_minute,
            })
        });
        let blackouts = calendar.blackouts.iter().map(|blackout| {
            json!({
                "from_time": time_json(blackout.from_time.as_ref()),
                "to_time": time_json(blackout.to_time.as_ref()),
            })
        });
        json!({
            "weekly_windows": windows.collect::<Vec<_>>(),
            "utc_offset_minutes": calendar.utc_offset_minutes,
            "blackouts": blackouts.collect::<Vec<_>>(),
        })
    })
}

/// Retries for people, empty for none.
pub(super) fn retry_text(policy: Option<&v1::RetryPolicy>) -> String {
    let Some(policy) = policy.filter(|policy| policy.max_retries > 0) else {
        return String::new();
    };
    let mut text = format!("{} for each device", policy.max_retries);
    if policy
        .pause
        .is_some_and(|pause| pause != Duration::default())
    {
        text += &format!(", {} after a failure", duration_text(policy.pause.as_ref()));
    }
    let reasons: Vec<_> = policy
        .reasons
        .iter()
        .map(|r| word::<v1::DeviceReason>(*r))
        .collect();
    if !reasons.is_empty() {
        text += &format!(", for {}", reasons.join(" "));
    }
    text
}

/// A calendar for people, empty for always.
pub(super) fn calendar_text(calendar: Option<&v1::Calendar>) -> String {
    let Some(calendar) = calendar else {
        return String::new();
    };
    let time = |minute: u32| format!("{:02}:{:02}", minute / 60, minute % 60);
    let mut parts: Vec<String> = Vec::new();
    for window in &calendar.weekly_windows {
        let days = window.days.iter().filter_map(|day| {
            let at = usize::try_from(*day).ok()?.checked_sub(1)?;
            DAYS.get(at).copied()
        });
        let days: Vec<_> = days.collect();
        let (from, to) = (time(window.from_minute), time(window.to_minute));
        parts.push(format!("{} {from}-{to}", days.join(",")));
    }
    if calendar.utc_offset_minutes != 0 && !parts.is_empty() {
        let minutes = calendar.utc_offset_minutes;
        let sign = if minutes < 0 { '-' } else { '+' };
        parts.push(format!("at UTC{sign}{}", time(minutes.unsigned_abs())));
    }
    for blackout in &calendar.blackouts {
        let moment = |at: Option<&Timestamp>| at.map_or_else(String::new, Timestamp::to_string);
        let (from, to) = (
            moment(blackout.from_time.as_ref()),
            moment(blackout.to_time.as_ref()),
        );
        parts.push(format!("not {from} to {to}"));
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weekly_windows_are_read() {
        let window = parse_window("fri-mon,wed 22:00-06:30").unwrap();
        assert_eq!(window.days, [5, 6, 7, 1, 3]);
        assert_eq!((window.from_minute, window.to_minute), (1320, 390));
        for bad in [
            "",
            "mon",
            "mon 22:00",
            "day 1:00-2:00",
            "mon 25:00-2:00",
            "mon 1:60-2:00",
        ] {
            assert!(parse_window(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn offsets_and_blackouts_are_read() {
        assert_eq!(parse_offset("+01:00"), Ok(60));
        assert_eq!(parse_offset("-03:30"), Ok(-210));
        assert!(parse_offset("one").is_err());
        let blackout = parse_blackout("2026-12-24T00:00:00Z/2026-12-27T00:00:00Z").unwrap();
        assert!(blackout.from_time.unwrap().seconds < blackout.to_time.unwrap().seconds);
        assert!(parse_blackout("2026-12-24T00:00:00Z").is_err());
    }

    #[test]
    fn a_calendar_is_shown_as_it_is_written() {
        let calendar = v1::Calendar {
            weekly_windows: vec![parse_window("sat,sun 00:00-24:00").unwrap()],
            utc_offset_minutes: 120,
            blackouts: vec![],
        };
        let shown = calendar_text(Some(&calendar));
        assert_eq!(shown, "SAT,SUN 00:00-24:00; at UTC+02:00");
    }
}
