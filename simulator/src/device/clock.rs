//! A device's clock: GPS time as the device believes it, which drifts and may be unset or wrong.

use std::time::Duration;

use lorawan_fuota::time::{GpsTime, Timestamp};

use super::config::ClockConfig;

/// A clock that was right, or wrong by a known amount, at one moment, and has run at its own speed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceClock {
    /// When it was last set (true time), and what it showed then, GPS microseconds.
    set_at: Timestamp,
    shown_us: i64,
    drift_ppm: i32,
    is_set: bool,
}

impl DeviceClock {
    /// The clock of a device that starts at `now`.
    pub(super) fn start(now: Timestamp, config: &ClockConfig) -> Self {
        let shown_us = config
            .offset_us
            .map_or(0, |offset| now.to_gps().as_micros().saturating_add(offset));
        Self {
            set_at: now,
            shown_us,
            drift_ppm: config.drift_ppm,
            is_set: config.offset_us.is_some(),
        }
    }

    /// Forgets the time.
    pub(super) fn unset(&mut self, now: Timestamp) {
        self.set_at = now;
        self.shown_us = 0;
        self.is_set = false;
    }

    /// Whether it was ever set.
    pub fn is_set(&self) -> bool {
        self.is_set
    }

    /// What it shows, GPS microseconds.
    pub fn gps_us(&self, now: Timestamp) -> i64 {
        let elapsed = now.micros_since(self.set_at);
        let gained = match elapsed.checked_mul(i64::from(self.drift_ppm)) {
            Some(product) => product / 1_000_000,
            None => {
                let gained = i128::from(elapsed) * i128::from(self.drift_ppm) / 1_000_000;
                i64::try_from(gained).unwrap_or(0)
            }
        };
        self.shown_us.saturating_add(elapsed).saturating_add(gained)
    }

    /// What it shows, as the wire carries it.
    pub fn gps_seconds(&self, now: Timestamp) -> u32 {
        self.gps(now).wire_seconds()
    }

    /// The moment a wire time means to this device: the nearest one.
    pub(super) fn read_wire(&self, wire: u32, now: Timestamp) -> i64 {
        GpsTime::from_wire_seconds(wire, self.gps(now)).as_micros()
    }

    /// When it will show this.
    pub(super) fn when(&self, gps_us: i64) -> Timestamp {
        let ahead = i128::from(gps_us.saturating_sub(self.shown_us));
        let speed = 1_000_000 + i128::from(self.drift_ppm);
        let elapsed = if speed > 0 {
            ahead * 1_000_000 / speed
        } else {
            i128::from(i64::MAX)
        };
        let elapsed = i64::try_from(elapsed).unwrap_or(i64::MAX);
        Timestamp::from_micros(self.set_at.as_micros().saturating_add(elapsed))
    }

    /// Sets it: at `at` it was `gps_us`.
    pub(super) fn set(&mut self, at: Timestamp, gps_us: i64) {
        self.set_at = at;
        self.shown_us = gps_us;
        self.is_set = true;
    }

    /// Adds whole seconds.
    pub(super) fn correct(&mut self, now: Timestamp, seconds: i32) {
        let shown = self.gps_us(now);
        self.set(now, shown.saturating_add(i64::from(seconds) * 1_000_000));
    }

    /// Moves it without having been asked to.
    pub(super) fn step(&mut self, now: Timestamp, by_us: i64) {
        self.shown_us = self.gps_us(now).saturating_add(by_us);
        self.set_at = now;
    }

    /// Runs at another speed from now on.
    pub(super) fn run_at(&mut self, now: Timestamp, drift_ppm: i32) {
        self.step(now, 0);
        self.drift_ppm = drift_ppm;
    }

    /// How wrong it is: microseconds it is ahead of true time.
    pub fn error_us(&self, now: Timestamp) -> i64 {
        self.gps_us(now).saturating_sub(now.to_gps().as_micros())
    }

    fn gps(&self, now: Timestamp) -> GpsTime {
        // Whole seconds suffice for all that the wire carries.
        GpsTime::from_seconds(self.gps_us(now).div_euclid(1_000_000))
    }
}

/// `Duration` of a number of microseconds; zero if negative.
pub(super) fn micros(us: i64) -> Duration {
    Duration::from_micros(u64::try_from(us).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

    #[test]
    fn drift_adds_up_and_setting_ends_it() {
        let config = ClockConfig {
            offset_us: Some(-2_000_000),
            drift_ppm: 50,
            device_time_req: false,
        };
        let mut clock = DeviceClock::start(START, &config);
        assert_eq!(clock.error_us(START), -2_000_000);
        let later = START + Duration::from_secs(10_000);
        assert_eq!(clock.error_us(later), -1_500_000);
        clock.correct(later, 2);
        assert_eq!(clock.error_us(later), 500_000);
        clock.set(later, later.to_gps().as_micros());
        assert_eq!(clock.error_us(later), 0);
    }

    #[test]
    fn when_is_the_inverse() {
        let config = ClockConfig {
            offset_us: Some(7_000_000),
            drift_ppm: -200,
            device_time_req: false,
        };
        let clock = DeviceClock::start(START, &config);
        let gps_us = clock.gps_us(START) + 3_600_000_000;
        let at = clock.when(gps_us);
        assert!((clock.gps_us(at) - gps_us).abs() <= 1);
    }

    #[test]
    fn an_unset_clock_counts_from_zero() {
        let config = ClockConfig {
            offset_us: None,
            drift_ppm: 0,
            device_time_req: true,
        };
        let clock = DeviceClock::start(START, &config);
        assert!(!clock.is_set());
        assert_eq!(clock.gps_seconds(START + Duration::from_secs(9)), 9);
    }
}
