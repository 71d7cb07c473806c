//! What a gateway's GPS time says of the server's clock.
//!
//! A frame carries the GPS time of its reception; its message arrives some delay later. A delay looks like a server
//! clock that is ahead, so of the last few readings the one nearest to nothing counts: one slow message, or one wrong
//! time, says nothing. What follows from it is decided in `task::clock`.

use std::collections::VecDeque;

use crate::record::ClockReading;
use crate::time::{GpsTime, Timestamp};

/// Readings kept: so many in a row have to agree that the clock is off.
const KEPT: usize = 4;

/// The last readings of one gateway.
#[derive(Clone, Debug, Default)]
pub(super) struct GpsClock {
    readings: VecDeque<ClockReading>,
}

impl GpsClock {
    /// Takes in that a frame ended at `gps` and its message arrived at `at`; returns what is to be said of the clock,
    /// once there are enough readings.
    pub(super) fn observe(&mut self, gps: GpsTime, at: Timestamp) -> Option<ClockReading> {
        let ahead_us = at.micros_since(gps.to_unix());
        if self.readings.len() == KEPT {
            self.readings.pop_front();
        }
        self.readings.push_back(ClockReading { ahead_us, at });
        let nearest = self
            .readings
            .iter()
            .min_by_key(|reading| reading.ahead_us.unsigned_abs());
        nearest
            .filter(|_| self.readings.len() == KEPT)
            .map(|nearest| ClockReading {
                ahead_us: nearest.ahead_us,
                at,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn read(clock: &mut GpsClock, true_us: i64, ahead_us: i64) -> Option<i64> {
        let true_time = Timestamp::from_micros(1_800_000_000 * SECOND + true_us);
        let server = Timestamp::from_micros(true_time.as_micros() + ahead_us);
        let reading = clock.observe(true_time.to_gps(), server)?;
        assert_eq!(reading.at, server);
        Some(reading.ahead_us)
    }

    #[test]
    fn four_readings_have_to_agree() {
        let mut clock = GpsClock::default();
        let readings = [9, 9, 9, 9].map(|s| read(&mut clock, 0, s * SECOND));
        assert_eq!(readings, [None, None, None, Some(9 * SECOND)]);
    }

    #[test]
    fn slow_messages_and_wrong_times_do_not_count() {
        let mut clock = GpsClock::default();
        for ahead in [SECOND / 5, 8 * SECOND, -500 * SECOND] {
            read(&mut clock, 0, ahead);
        }
        assert_eq!(read(&mut clock, 0, 30 * SECOND), Some(SECOND / 5));
    }

    #[test]
    fn a_clock_that_is_behind_is_told() {
        let mut clock = GpsClock::default();
        let last = (0..5)
            .map(|at| read(&mut clock, at * SECOND, -7 * SECOND))
            .last();
        assert_eq!(last.flatten(), Some(-7 * SECOND));
    }
}
