//! Retries, calendar and tags on success of a task between the API and the records.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::proto::v1;
use crate::record::{Blackout, Calendar, DeviceReason, RetryPolicy, TaskRules, WeeklyWindow};

use super::fields::{Fields, show_length, show_moment};
use super::task_part_records::show_device_reason;

const MOST_RETRIES: u8 = 10;
const LONGEST_PAUSE: Duration = Duration::from_secs(30 * 86_400);
const MOST_WINDOWS: usize = 50;
const MOST_BLACKOUTS: usize = 100;
/// Farthest a clock is from UTC, minutes.
const FARTHEST: i16 = 840;

/// Reasons a device can fail for.
const REASONS: [DeviceReason; 22] = [
    DeviceReason::WrongDescriptor,
    DeviceReason::FragIndexUnsupported,
    DeviceReason::NotEnoughMemory,
    DeviceReason::FragAlgoUnsupported,
    DeviceReason::SessionCntReplay,
    DeviceReason::MemoryError,
    DeviceReason::MicError,
    DeviceReason::SessionLost,
    DeviceReason::McGroupIdError,
    DeviceReason::DrError,
    DeviceReason::FreqError,
    DeviceReason::McGroupUndefined,
    DeviceReason::StartMissed,
    DeviceReason::NoAnswer,
    DeviceReason::PackageNotSupported,
    DeviceReason::VersionMismatch,
    DeviceReason::ClockNotSynced,
    DeviceReason::NoGateway,
    DeviceReason::ImageRejected,
    DeviceReason::WrongVersion,
    DeviceReason::BudgetSpent,
    DeviceReason::WindowClosed,
];

pub(super) fn read_rules(fields: &mut Fields, given: &v1::FuotaTask) -> TaskRules {
    fields.marks("tags_on_success", &given.tags_on_success, 255);
    TaskRules {
        retry: read_retry(fields, given.retry.as_ref()),
        calendar: read_calendar(fields, given.calendar.as_ref()),
        tags_on_success: given.tags_on_success.clone(),
    }
}

fn read_retry(fields: &mut Fields, given: Option<&v1::RetryPolicy>) -> RetryPolicy {
    let Some(given) = given else {
        return RetryPolicy::default();
    };
    let max_retries = fields.number("retry.max_retries", given.max_retries, 0..=MOST_RETRIES);
    let pause = given.pause.as_ref();
    let pause = fields.length("retry.pause", pause, Duration::ZERO..=LONGEST_PAUSE);
    let mut reasons = BTreeSet::new();
    for (at, reason) in given.reasons.iter().enumerate() {
        let known = REASONS
            .iter()
            .find(|r| i32::from(show_device_reason(**r)) == *reason);
        match known {
            Some(reason) => {
                reasons.insert(*reason);
            }
            None => fields.bad(&format!("retry.reasons[{at}]"), "no reason to fail for"),
        }
    }
    RetryPolicy {
        max_retries: max_retries.unwrap_or_default(),
        pause: pause.unwrap_or_default(),
        reasons,
    }
}

pub(super) fn show_retry(policy: &RetryPolicy) -> Option<v1::RetryPolicy> {
    (*policy != RetryPolicy::default()).then(|| v1::RetryPolicy {
        max_retries: policy.max_retries.into(),
        pause: Some(show_length(policy.pause)),
        reasons: policy
            .reasons
            .iter()
            .map(|reason| show_device_reason(*reason).into())
            .collect(),
    })
}

fn read_calendar(fields: &mut Fields, given: Option<&v1::Calendar>) -> Calendar {
    let Some(given) = given else {
        return Calendar::default();
    };
    let offset = i16::try_from(given.utc_offset_minutes).unwrap_or(i16::MAX);
    if !(-FARTHEST..=FARTHEST).contains(&offset) {
        let what = format!("not in -{FARTHEST}..={FARTHEST}");
        fields.bad("calendar.utc_offset_minutes", what);
    }
    if given.weekly_windows.len() > MOST_WINDOWS {
        fields.bad(
            "calendar.weekly_windows",
            format!("more than {MOST_WINDOWS}"),
        );
    }
    if given.blackouts.len() > MOST_BLACKOUTS {
        fields.bad("calendar.blackouts", format!("more than {MOST_BLACKOUTS}"));
    }
    let weekly = given.weekly_windows.iter().take(MOST_WINDOWS).enumerate();
    let weekly = weekly
        .map(|(at, window)| read_window(fields, at, window))
        .collect();
    let mut blackouts = Vec::new();
    for (at, blackout) in given.blackouts.iter().take(MOST_BLACKOUTS).enumerate() {
        let field = format!("calendar.blackouts[{at}]");
        let from = fields.moment(&format!("{field}.from_time"), blackout.from_time.as_ref());
        let to = fields.moment(&format!("{field}.to_time"), blackout.to_time.as_ref());
        match from.zip(to) {
            Some((from, to)) if from < to => blackouts.push(Blackout { from, to }),
            _ => fields.bad(&field, "needs from_time and a later to_time"),
        }
    }
    Calendar {
        utc_offset_minutes: offset,
        weekly,
        blackouts,
    }
}

fn read_window(fields: &mut Fields, at: usize, given: &v1::WeeklyWindow) -> WeeklyWindow {
    let field = format!("calendar.weekly_windows[{at}]");
    let mut days = 0u8;
    for day in &given.days {
        match u32::try_from(*day) {
            Ok(day @ 1..=7) => days |= 1 << (day - 1),
            _ => fields.bad(
                &format!("{field}.days"),
                "a value this server does not know",
            ),
        }
    }
    if days == 0 {
        fields.bad(&format!("{field}.days"), "missing");
    }
    let from = fields.number(&format!("{field}.from_minute"), given.from_minute, 0..=1439);
    let to = fields.number(&format!("{field}.to_minute"), given.to_minute, 0..=1440);
    WeeklyWindow {
        days,
        from_minute: from.unwrap_or_default(),
        to_minute: to.unwrap_or_default(),
    }
}

pub(super) fn show_calendar(calendar: &Calendar) -> Option<v1::Calendar> {
    (*calendar != Calendar::default()).then(|| v1::Calendar {
        weekly_windows: calendar.weekly.iter().map(show_window).collect(),
        utc_offset_minutes: calendar.utc_offset_minutes.into(),
        blackouts: calendar
            .blackouts
            .iter()
            .map(|blackout| v1::Blackout {
                from_time: Some(show_moment(blackout.from)),
                to_time: Some(show_moment(blackout.to)),
            })
            .collect(),
    })
}

fn show_window(window: &WeeklyWindow) -> v1::WeeklyWindow {
    let begins = |day: &i32| window.days & (1 << (day - 1)) != 0;
    v1::WeeklyWindow {
        days: (1..=7).filter(begins).collect(),
        from_minute: window.from_minute.into(),
        to_minute: window.to_minute.into(),
    }
}
