//! Rules of a task that hold for all its devices: who is tried again, when distribution is allowed, what a device that
//! succeeded is marked with.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::DeviceReason;
use crate::time::Timestamp;

/// Rules beside waves and thresholds. The default asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRules {
    /// Which failed devices are tried again before the task ends.
    pub retry: RetryPolicy,
    /// When distribution windows may be open.
    pub calendar: Calendar,
    /// Put into the tags of a device when it succeeds.
    pub tags_on_success: BTreeMap<String, String>,
}

/// Which failed devices are tried again within the task. The default is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// How often a device is tried again, 0 to 10.
    pub max_retries: u8,
    /// From a device's failure to the next try, at least.
    pub pause: Duration,
    /// For which reasons; none named: for those that may pass ([`DeviceReason::may_pass`]).
    pub reasons: BTreeSet<DeviceReason>,
}

impl RetryPolicy {
    /// A device that failed for this reason may be tried again.
    pub fn covers(&self, reason: Option<DeviceReason>) -> bool {
        reason.is_some_and(|reason| {
            self.reasons.contains(&reason) || (self.reasons.is_empty() && reason.may_pass())
        })
    }
}

/// When distribution windows may be open. The default is always.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calendar {
    /// What the days and minutes of `weekly` are ahead of UTC, minutes, -1440 to 1440.
    pub utc_offset_minutes: i16,
    /// Allowed times of the week; none: the whole week.
    pub weekly: Vec<WeeklyWindow>,
    /// Never within these.
    pub blackouts: Vec<Blackout>,
}

/// A time that comes back every week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeeklyWindow {
    /// Days it begins on: bit 0 is Monday, bit 6 Sunday.
    pub days: u8,
    /// First minute of the day, 0 to 1439.
    pub from_minute: u16,
    /// First minute it is over, 0 to 1440; not later than `from_minute`: on the next day.
    pub to_minute: u16,
}

/// A time without distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blackout {
    /// Its first moment.
    pub from: Timestamp,
    /// The first moment after it.
    pub to: Timestamp,
}
