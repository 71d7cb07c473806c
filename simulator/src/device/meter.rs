//! How long a device's radio was on: what it sent, its receive windows, and listening in sessions and class C.
//!
//! Between two inputs nothing about a device changes, so that continuous listening is added up when something happens.
//! Windows in which nothing is heard are closed after [`window`]; what is heard in one keeps it open.

use std::time::Duration;

use lorawan_fuota::lorawan::airtime::DataRate;
use lorawan_fuota::lorawan::class_b::BEACON_PERIOD;
use lorawan_fuota::time::Timestamp;

/// A window without a preamble is closed after so many symbols, and not before so long: 199 ms at SF12 and 46 ms at
/// SF7 were seen on an STM32WL55 with LoRaMac-node.
const WINDOW_SYMBOLS: u32 = 6;
const WINDOW_LEAST: Duration = Duration::from_millis(46);
/// Of each beacon period: the beacon itself at SF9 and 125 kHz, and as much before it as the crystal may be off.
const BEACON_LISTENING: Duration = Duration::from_millis(165);

/// How long a radio was on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RadioTime {
    /// It was sending.
    pub sending: Duration,
    /// It was receiving or listening.
    pub receiving: Duration,
}

/// Adds it up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Meter {
    sum: RadioTime,
    /// Continuous listening is in the sum up to here.
    until: Timestamp,
}

/// What listens all the time, or again and again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Continuous {
    /// Of the span looked at.
    pub(super) on: Duration,
    /// Of the span, in class B.
    pub(super) in_class_b: Duration,
    /// Ping slots of a beacon period, all together.
    pub(super) slots: Duration,
}

impl Continuous {
    fn listening(self) -> Duration {
        // Spans are shorter than a beacon period: each gets its part.
        let share = self.in_class_b.as_secs_f64() / BEACON_PERIOD.as_secs_f64();
        self.on + (self.slots + BEACON_LISTENING).mul_f64(share)
    }
}

impl Meter {
    pub(super) fn start(at: Timestamp) -> Self {
        Self {
            sum: RadioTime::default(),
            until: at,
        }
    }

    /// The span that is not in the sum yet.
    pub(super) fn span(&self, now: Timestamp) -> (Timestamp, Timestamp) {
        (self.until, now.max(self.until))
    }

    /// Takes in what listened in the span until `now`.
    pub(super) fn listened(&mut self, now: Timestamp, what: Continuous) {
        let span = now.since(self.until);
        self.sum.receiving += what.listening().min(span);
        self.until = self.until.max(now);
    }

    /// An uplink, and its windows if nothing comes in them.
    pub(super) fn sent(&mut self, airtime: Duration, windows: impl Iterator<Item = DataRate>) {
        self.sum.sending += airtime;
        self.sum.receiving += windows.map(window).sum::<Duration>();
    }

    /// A frame in one of these windows: it is heard to its end, and windows behind it stay closed.
    pub(super) fn heard(&mut self, airtime: Duration, unused: impl Iterator<Item = DataRate>) {
        let unused: Duration = unused.map(window).sum();
        self.sum.receiving = (self.sum.receiving + airtime).saturating_sub(unused);
    }

    pub(super) fn sum(&self) -> RadioTime {
        self.sum
    }
}

/// How long a window is open in which nothing is heard.
pub(super) fn window(data_rate: DataRate) -> Duration {
    let DataRate::Lora {
        spreading_factor,
        bandwidth,
    } = data_rate
    else {
        return WINDOW_LEAST;
    };
    let chips = u64::from(WINDOW_SYMBOLS) << spreading_factor.bits();
    Duration::from_micros(chips * 1_000_000 / u64::from(bandwidth.hz())).max(WINDOW_LEAST)
}

#[cfg(test)]
mod tests {
    use lorawan_fuota::lorawan::airtime::{Bandwidth, SpreadingFactor};

    use super::*;

    const START: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn empty_windows_are_as_long_as_on_hardware() {
        let sf = |sf| window(DataRate::lora(sf, Bandwidth::Khz125));
        assert_eq!(sf(SpreadingFactor::Sf12), Duration::from_micros(196_608));
        assert_eq!(sf(SpreadingFactor::Sf7), Duration::from_millis(46));
    }

    #[test]
    fn a_frame_in_the_first_window_takes_the_place_of_both() {
        let rate = DataRate::lora(SpreadingFactor::Sf7, Bandwidth::Khz125);
        let mut meter = Meter::start(START);
        meter.sent(50 * MS, [rate, rate].into_iter());
        assert_eq!(meter.sum().receiving, 92 * MS);
        meter.heard(70 * MS, [rate, rate].into_iter());
        assert_eq!(meter.sum().receiving, 70 * MS);
        assert_eq!(meter.sum().sending, 50 * MS);
    }

    #[test]
    fn listening_counts_once_and_no_longer_than_it_can() {
        let mut meter = Meter::start(START);
        let all = Continuous {
            on: 900 * MS,
            ..Continuous::default()
        };
        meter.listened(START + 500 * MS, all);
        assert_eq!(meter.sum().receiving, 500 * MS);
        assert_eq!(meter.span(START), (START + 500 * MS, START + 500 * MS));
        let slots = Continuous {
            in_class_b: Duration::from_secs(256),
            slots: 300 * MS,
            ..Continuous::default()
        };
        meter.listened(START + Duration::from_secs(300), slots);
        // Two periods.
        assert_eq!(meter.sum().receiving, (500 + 2 * (300 + 165)) * MS);
    }
}
