//! What the pictures of a report share: the axis of time, and how states look.
//!
//! PURE.

use lorawan_fuota::record::{DeviceState, TaskDevice};
use lorawan_fuota::time::Timestamp;

use crate::svg::{Anchor, Svg};

/// Width of every picture over time, and what stands left of its axis.
pub(super) const WIDTH: f64 = 1100.0;
pub(super) const LEFT: f64 = 130.0;
pub(super) const RIGHT: f64 = 16.0;

/// Time from left to right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct TimeAxis {
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
}

impl TimeAxis {
    pub(super) fn new(from: Timestamp, to: Timestamp) -> Self {
        // A run that ended at once has a width all the same.
        let least = from + std::time::Duration::from_secs(1);
        Self {
            from,
            to: to.max(least),
        }
    }

    fn seconds(self) -> f64 {
        self.to.since(self.from).as_secs_f64()
    }

    /// Where a moment is, kept within the picture.
    pub(super) fn x(self, at: Timestamp) -> f64 {
        let share = at.since(self.from).as_secs_f64() / self.seconds();
        LEFT + share.min(1.0) * (WIDTH - LEFT - RIGHT)
    }

    /// The moment of a column.
    pub(super) fn moment(self, share: f64) -> Timestamp {
        self.from + self.to.since(self.from).mul_f64(share.clamp(0.0, 1.0))
    }

    /// Ticks with their labels, and the lines above them.
    pub(super) fn draw(self, svg: &mut Svg, top: f64, base: f64) {
        let step = tick(self.seconds());
        let mut at = 0.0;
        while at <= self.seconds() {
            let x = LEFT + at / self.seconds() * (WIDTH - LEFT - RIGHT);
            svg.line((x, top), (x, base), "axis");
            svg.text((x, base + 15.0), Anchor::Middle, "note", &clock(at));
            at += step;
        }
        svg.line((LEFT, base), (WIDTH - RIGHT, base), "axis");
    }
}

/// A round distance between ticks that gives six to twelve of them.
fn tick(seconds: f64) -> f64 {
    const STEPS: [f64; 18] = [
        1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0,
        14_400.0, 21_600.0, 43_200.0, 86_400.0,
    ];
    let wanted = seconds / 10.0;
    let step = STEPS.into_iter().find(|step| *step >= wanted);
    step.unwrap_or_else(|| (wanted / 86_400.0).ceil() * 86_400.0)
}

/// Time since the start: `40 s`, `2:30`, `1 h 05`, `2 d 4 h`.
pub(super) fn clock(seconds: f64) -> String {
    let s = whole(seconds);
    let (minutes, hours, days) = (s / 60, s / 3600, s / 86_400);
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{minutes}:{:02}", s % 60),
        3600..86_400 => format!("{hours} h {:02}", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "seconds of a run, not negative"
)]
pub(super) fn whole(value: f64) -> u64 {
    value.max(0.0).round() as u64
}

#[expect(clippy::cast_precision_loss, reason = "counts of devices and frames")]
pub(super) fn real(count: usize) -> f64 {
    count as f64
}

/// How a state looks: class and words.
pub(super) fn look(state: DeviceState) -> (&'static str, &'static str) {
    match state {
        DeviceState::Pending => ("wait", "waiting"),
        DeviceState::Preparing => ("prep", "being set up"),
        DeviceState::Ready => ("ready", "ready"),
        DeviceState::Receiving => ("recv", "receiving"),
        DeviceState::ReportedReceived => ("have", "has the image"),
        DeviceState::Verified => ("verif", "verified it"),
        DeviceState::Rebooting => ("boot", "rebooting"),
        DeviceState::Running => ("run", "runs it"),
        DeviceState::Failed | DeviceState::RolledBack => ("bad", "failed"),
        DeviceState::Silent => ("quiet", "silent"),
        DeviceState::Skipped | DeviceState::Removed | DeviceState::Cancelled => {
            ("other", "left out")
        }
    }
}

/// Each look once, in the order devices pass through them.
pub(super) const LOOKS: [DeviceState; 11] = [
    DeviceState::Pending,
    DeviceState::Preparing,
    DeviceState::Ready,
    DeviceState::Receiving,
    DeviceState::ReportedReceived,
    DeviceState::Verified,
    DeviceState::Rebooting,
    DeviceState::Running,
    DeviceState::Failed,
    DeviceState::Silent,
    DeviceState::Skipped,
];

/// The colours of states, in words.
pub(super) fn legend() -> String {
    let mut out = String::from("<div class=\"key\">");
    for state in LOOKS {
        let (class, words) = look(state);
        out += &format!("<span><i class=\"{class}\"></i>{words}</span>");
    }
    out + "</div>"
}

/// The state of a device at a moment: the last it had entered by then.
pub(super) fn state_at(device: &TaskDevice, at: Timestamp) -> DeviceState {
    let entered = device.entered.iter().filter(|(_, when)| **when <= at);
    entered
        .max_by_key(|(state, when)| (**when, **state))
        .map_or(DeviceState::Pending, |(state, _)| *state)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        for seconds in [3.0, 59.0, 600.0, 5_000.0, 90_000.0, 2_000_000.0] {
            let ticks = seconds / tick(seconds);
            assert!((2.0..=10.0).contains(&ticks), "{seconds}: {ticks}");
        }
        assert_eq!(clock(40.0), "40 s");
        assert_eq!(clock(150.0), "2:30");
        assert_eq!(clock(3_900.0), "1 h 05");
        assert_eq!(clock(187_200.0), "2 d 4 h");
    }

    #[test]
    fn every_state_has_a_look_in_the_legend() {
        for state in LOOKS {
            assert!(legend().contains(look(state).1), "{state:?}");
        }
    }

    #[test]
    fn moments_stay_in_the_picture() {
        let start = Timestamp::from_unix_seconds(1_800_000_000);
        let axis = TimeAxis::new(start, start + Duration::from_secs(100));
        assert!((axis.x(start) - LEFT).abs() < 1e-9);
        let late = axis.x(start + Duration::from_secs(900));
        assert!((late - (WIDTH - RIGHT)).abs() < 1e-9);
        let none = TimeAxis::new(start, start);
        assert!(none.x(start).is_finite());
    }
}
