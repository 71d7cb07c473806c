//! When distribution windows may be open: weekly times without blackouts.
//!
//! Only windows are bound to it; set-up, checks and reboots take a frame or two per device at any time. Every search is
//! bounded: a calendar that allows nothing for long allows nothing.

use std::time::Duration;

use crate::record::{Calendar, SessionWindow, WeeklyWindow};
use crate::time::Timestamp;

/// A time shorter than this is not worth a window.
const LEAST: Duration = Duration::from_secs(60);
/// Times looked at before the search is given up: more than a year of days.
const MOST_SPANS: usize = 500;
const DAY_S: i64 = 86_400;

/// A time that is open from end to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its first moment, or the one that was asked about.
    pub start: Timestamp,
    /// The first moment after it; `None` if nothing ends it.
    pub end: Option<Timestamp>,
}

/// The first open time at or after `from` that is worth a window.
pub fn next_open(calendar: &Calendar, from: Timestamp) -> Option<Span> {
    let mut at = from;
    for _ in 0..MOST_SPANS {
        let blackout = calendar
            .blackouts
            .iter()
            .find(|b| b.from <= at && at < b.to);
        if let Some(blackout) = blackout {
            at = blackout.to;
            continue;
        }
        let weekly_end = if calendar.weekly.is_empty() {
            None
        } else if let Some(end) = weekly_end(calendar, at) {
            Some(end)
        } else {
            at = next_weekly(calendar, at)?;
            continue;
        };
        let blackouts = calendar.blackouts.iter();
        let black = blackouts
            .filter(|b| b.from > at && b.from < b.to)
            .map(|b| b.from);
        let end = black.chain(weekly_end).min();
        match end {
            Some(end) if end < at + LEAST => at = end,
            end => return Some(Span { start: at, end }),
        }
    }
    None
}

/// The moment at which the calendar has been open for `length` since `from`; `None` if that never comes.
pub fn after_open(calendar: &Calendar, from: Timestamp, length: Duration) -> Option<Timestamp> {
    let (mut at, mut left) = (from, length);
    for _ in 0..MOST_SPANS {
        let span = next_open(calendar, at)?;
        let open = span.end.map(|end| end.since(span.start));
        match (open, span.end) {
            (Some(open), Some(end)) if open < left => {
                left -= open;
                at = end;
            }
            _ => return Some(span.start + left),
        }
    }
    None
}

/// The window with the first start that is allowed at or after its own, ending with that time at the latest.
pub fn fit(calendar: &Calendar, window: SessionWindow) -> Option<SessionWindow> {
    let span = next_open(calendar, window.start)?;
    Some(SessionWindow {
        start: span.start.ceil_gps_second(),
        closes_at: span.end,
        ..window
    })
}

/// Local seconds since a Monday.
fn local(calendar: &Calendar, at: Timestamp) -> i64 {
    // 1970-01-01 was a Thursday.
    at.as_unix_seconds() + i64::from(calendar.utc_offset_minutes) * 60 + 3 * DAY_S
}

/// Begin and end of a weekly time on a day, local seconds.
fn on_day(window: &WeeklyWindow, day: i64) -> Option<(i64, i64)> {
    let weekday = u32::try_from(day.rem_euclid(7)).ok()?;
    if window.days & 1u8.checked_shl(weekday)? == 0 {
        return None;
    }
    let (from, to) = (i64::from(window.from_minute), i64::from(window.to_minute));
    let to = if to <= from { to + 1440 } else { to };
    Some((day * DAY_S + from * 60, day * DAY_S + to * 60))
}

/// When the weekly times that are open at `at` are over; times that touch are one.
fn weekly_end(calendar: &Calendar, at: Timestamp) -> Option<Timestamp> {
    let mut moment = local(calendar, at);
    let shift = moment - at.as_unix_seconds();
    let mut end = None;
    for _ in 0..16 {
        let day = moment.div_euclid(DAY_S);
        let times = calendar.weekly.iter();
        let open = times
            .flat_map(|window| [on_day(window, day - 1), on_day(window, day)])
            .flatten()
            .filter(|(from, to)| (*from..*to).contains(&moment))
            .map(|(_, to)| to)
            .max();
        let Some(open) = open else { break };
        end = Some(open);
        moment = open;
    }
    end.map(|end| Timestamp::from_unix_seconds(end - shift))
}

/// When the next weekly time begins after `at`.
fn next_weekly(calendar: &Calendar, at: Timestamp) -> Option<Timestamp> {
    let moment = local(calendar, at);
    let shift = moment - at.as_unix_seconds();
    let day = moment.div_euclid(DAY_S);
    let begins = (day..=day + 7).flat_map(|day| {
        let times = calendar.weekly.iter();
        times.filter_map(move |window| Some(on_day(window, day)?.0))
    });
    let next = begins.filter(|begin| *begin > moment).min();
    next.map(|begin| Timestamp::from_unix_seconds(begin - shift))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Blackout;

    /// Monday 2024-01-01 00:00 UTC.
    const MONDAY: i64 = 1_704_067_200;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_unix_seconds(MONDAY + hours * 3600)
    }

    fn nights() -> Calendar {
        Calendar {
            weekly: vec![WeeklyWindow {
                days: 0b001_1111,
                from_minute: 22 * 60,
                to_minute: 6 * 60,
            }],
            ..Calendar::default()
        }
    }

    #[test]
    fn without_rules_it_is_always_open() {
        let span = next_open(&Calendar::default(), at(5)).unwrap();
        assert_eq!((span.start, span.end), (at(5), None));
    }

    #[test]
    fn nights_of_working_days_pass_midnight() {
        let calendar = nights();
        let span = |hours| {
            let span = next_open(&calendar, at(hours)).unwrap();
            (span.start, span.end.unwrap())
        };
        assert_eq!(span(10), (at(22), at(30)));
        assert_eq!(span(26), (at(26), at(30)));
        // Friday night lasts into Saturday; the next is Monday's.
        assert_eq!(span(4 * 24 + 23), (at(4 * 24 + 23), at(5 * 24 + 6)));
        assert_eq!(span(5 * 24 + 6), (at(7 * 24 + 22), at(8 * 24 + 6)));
    }

    #[test]
    fn days_and_hours_are_local() {
        let mut calendar = nights();
        calendar.utc_offset_minutes = 120;
        let span = next_open(&calendar, at(10)).unwrap();
        assert_eq!((span.start, span.end), (at(20), Some(at(28))));
    }

    #[test]
    fn blackouts_cut_times_and_shut_others() {
        let mut calendar = nights();
        let blackout = |from, to| Blackout {
            from: at(from),
            to: at(to),
        };
        calendar.blackouts = vec![blackout(24, 25), blackout(40, 60)];
        let first = next_open(&calendar, at(0)).unwrap();
        assert_eq!((first.start, first.end), (at(22), Some(at(24))));
        let second = next_open(&calendar, at(24)).unwrap();
        assert_eq!((second.start, second.end), (at(25), Some(at(30))));
        // Tuesday's night is shut whole.
        assert_eq!(next_open(&calendar, at(31)).unwrap().start, at(70));
    }

    #[test]
    fn touching_times_are_one_and_slivers_are_none() {
        let whole = WeeklyWindow {
            days: 0b111_1111,
            from_minute: 0,
            to_minute: 1440,
        };
        let calendar = Calendar {
            weekly: vec![whole],
            ..Calendar::default()
        };
        let span = next_open(&calendar, at(1)).unwrap();
        assert!(span.end.unwrap() >= at(10 * 24));
        let almost_over = at(30) - Duration::from_secs(30);
        assert_eq!(next_open(&nights(), almost_over).unwrap().start, at(46));
        let never = Calendar {
            weekly: vec![WeeklyWindow { days: 0, ..whole }],
            ..Calendar::default()
        };
        assert_eq!(next_open(&never, at(0)), None);
    }

    #[test]
    fn work_is_stretched_over_open_times() {
        let hours = |n: u64| Duration::from_secs(n * 3600);
        assert_eq!(after_open(&nights(), at(0), hours(3)), Some(at(25)));
        assert_eq!(after_open(&nights(), at(0), hours(10)), Some(at(48)));
        let always = Calendar::default();
        assert_eq!(after_open(&always, at(1), hours(10)), Some(at(11)));
    }

    #[test]
    fn a_window_is_moved_and_cut() {
        let window = SessionWindow {
            class: crate::record::DeviceClass::C,
            number: 0,
            start: at(10),
            time_out: 15,
            closes_at: None,
        };
        let fitted = fit(&nights(), window).unwrap();
        assert_eq!((fitted.start, fitted.end()), (at(22), at(30)));
        assert_eq!(fitted.wire_time_out(), 15);
        let late = fit(
            &nights(),
            SessionWindow {
                start: at(29),
                ..window
            },
        )
        .unwrap();
        assert_eq!((late.end(), late.wire_time_out()), (at(30), 12));
        assert_eq!(fit(&Calendar::default(), window), Some(window));
    }
}
