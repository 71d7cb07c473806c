//! A device's receiver: when it is open, on what, and when the device may send again.
//!
//! LoRaWAN 1.0.4 §3.3 (class A windows) and §17 (class C). The windows of class A come before continuous listening: a
//! frame that is on air when a window opens elsewhere is lost. The radio does one thing at a time.

use std::time::Duration;

use lorawan_fuota::lorawan::airtime::DataRate;
use lorawan_fuota::time::Timestamp;

/// How far from the opening of a window a frame may begin and still be heard.
pub const WINDOW_TOLERANCE: Duration = Duration::from_millis(20);

/// What a receiver is tuned to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Centre, in Hz.
    pub frequency_hz: u32,
    /// Modulation.
    pub data_rate: DataRate,
}

/// A receive window of class A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) opens: Timestamp,
    pub(super) tuned: Listening,
}

/// The last uplink with its windows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LastUplink {
    start: Timestamp,
    end: Timestamp,
    /// RX1, then RX2; RX1 may be missing where the region gives none.
    windows: Vec<Window>,
}

/// The radio between its events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Radio {
    last: Option<LastUplink>,
    /// Busy with a frame in a window of class A until then.
    busy_until: Option<Timestamp>,
    /// The windows of the last uplink are closed: something good came.
    answered: bool,
    /// From then on the last uplink and its windows are over.
    over_at: Option<Timestamp>,
}

impl Radio {
    pub(super) fn sent(&mut self, start: Timestamp, end: Timestamp, windows: Vec<Window>) {
        let opens = windows.iter().map(|window| window.opens);
        self.over_at = Some(opens.fold(end, Timestamp::max) + WINDOW_TOLERANCE);
        self.last = Some(LastUplink {
            start,
            end,
            windows,
        });
        self.busy_until = None;
        self.answered = false;
    }

    /// A good downlink came, so the remaining windows stay closed.
    pub(super) fn answered(&mut self) {
        self.answered = true;
        self.busy_until = None;
    }

    /// A frame begins that will be heard until `until` at the latest. True if it is one for a window.
    pub(super) fn lock(&mut self, at: Timestamp, tuned: Listening, until: Timestamp) -> bool {
        let is_over = self.over_at.is_none_or(|over| over < at);
        let in_window = !is_over && self.window_at(at, tuned);
        if in_window {
            self.busy_until = Some(until);
        }
        in_window
    }

    /// When the windows of the last uplink open.
    pub(super) fn windows_open(&self) -> impl Iterator<Item = Timestamp> {
        self.last
            .iter()
            .flat_map(|last| last.windows.iter().map(|window| window.opens))
    }

    /// When the device may send again: after the windows and what is being heard in them.
    pub(super) fn ready_at(&self) -> Option<Timestamp> {
        if self.answered {
            return None;
        }
        let last = self.last.as_ref()?;
        let closed = last
            .windows
            .iter()
            .map(|window| window.opens + WINDOW_TOLERANCE * 2)
            .fold(last.end, Timestamp::max);
        Some(self.busy_until.map_or(closed, |busy| busy.max(closed)))
    }

    /// Whether the windows allow a frame to be heard, given what is listened to outside of them.
    pub(super) fn hears(
        &self,
        tuned: Listening,
        start: Timestamp,
        end: Timestamp,
        continuous: Option<Listening>,
    ) -> bool {
        if self.over_at.is_none_or(|over| over < start) {
            return continuous == Some(tuned);
        }
        if let Some(last) = &self.last
            && start < last.end
            && last.start < end
        {
            return false;
        }
        if self.window_at(start, tuned) {
            return true;
        }
        continuous == Some(tuned) && !self.interrupted(tuned, start, end)
    }

    /// Data rates of the windows that need not be waited in when a frame begins in one of them: that one and those
    /// behind it.
    pub(super) fn unused_windows(&self, start: Timestamp, tuned: Listening) -> Vec<DataRate> {
        let is_it = |w: &&Window| w.tuned == tuned && apart(start, w.opens) <= WINDOW_TOLERANCE;
        let Some(first) = self.open_windows().find(is_it) else {
            return Vec::new();
        };
        let behind = self.open_windows().filter(|w| w.opens >= first.opens);
        behind.map(|w| w.tuned.data_rate).collect()
    }

    /// Data rates of the windows of the last uplink.
    pub(super) fn windows(&self) -> impl Iterator<Item = DataRate> {
        self.open_windows().map(|window| window.tuned.data_rate)
    }

    /// What is listened to at a moment.
    pub(super) fn listening(
        &self,
        at: Timestamp,
        continuous: Option<Listening>,
    ) -> Option<Listening> {
        if let Some(last) = &self.last
            && (last.start..last.end).contains(&at)
        {
            return None;
        }
        self.open_windows()
            .find(|window| apart(at, window.opens) <= WINDOW_TOLERANCE)
            .map(|window| window.tuned)
            .or(continuous)
    }

    fn window_at(&self, start: Timestamp, tuned: Listening) -> bool {
        self.open_windows()
            .any(|window| window.tuned == tuned && apart(start, window.opens) <= WINDOW_TOLERANCE)
    }

    /// Whether a window on other parameters opens while the frame is on air.
    fn interrupted(&self, tuned: Listening, start: Timestamp, end: Timestamp) -> bool {
        self.open_windows().any(|window| {
            window.tuned != tuned && window.opens < end && start < window.opens + WINDOW_TOLERANCE
        })
    }

    fn open_windows(&self) -> impl Iterator<Item = &Window> {
        let windows = match &self.last {
            Some(last) if !self.answered => last.windows.as_slice(),
            _ => &[],
        };
        windows.iter()
    }
}

fn apart(a: Timestamp, b: Timestamp) -> Duration {
    a.since(b).max(b.since(a))
}

#[cfg(test)]
mod tests {
    use lorawan_fuota::lorawan::airtime::{Bandwidth, SpreadingFactor};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn tuned(frequency_hz: u32) -> Listening {
        Listening {
            frequency_hz,
            data_rate: DataRate::lora(SpreadingFactor::Sf7, Bandwidth::Khz125),
        }
    }

    /// Sends from 0 to 50 ms, RX1 on 1 Hz at 1050 ms, RX2 on 2 Hz at 2050 ms.
    fn radio() -> Radio {
        let mut radio = Radio::default();
        let windows = [(1050, 1), (2050, 2)].map(|(at, frequency_hz)| Window {
            opens: ms(at),
            tuned: tuned(frequency_hz),
        });
        radio.sent(ms(0), ms(50), windows.to_vec());
        radio
    }

    fn ms(at: u32) -> Timestamp {
        Timestamp::from_unix_seconds(1_800_000_000) + MS * at
    }

    #[test]
    fn a_window_takes_what_begins_in_time() {
        let radio = radio();
        let hears = |frequency_hz, at| radio.hears(tuned(frequency_hz), ms(at), ms(at + 60), None);
        assert!(hears(1, 1050));
        assert!(hears(1, 1040));
        assert!(hears(2, 2060));
        assert!(!hears(1, 1080), "30 ms late");
        assert!(!hears(1, 1020), "30 ms early");
        assert!(!hears(2, 1050), "other frequency");
        assert!(!hears(1, 2050));
    }

    #[test]
    fn nothing_is_heard_while_sending_or_once_answered() {
        let mut radio = radio();
        let all_day = Some(tuned(3));
        assert!(!radio.hears(tuned(3), ms(40), ms(100), all_day));
        assert!(radio.hears(tuned(3), ms(50), ms(100), all_day));
        radio.answered();
        assert!(!radio.hears(tuned(2), ms(2050), ms(2100), None));
    }

    #[test]
    fn windows_interrupt_continuous_listening_on_other_parameters() {
        let radio = radio();
        let hears = |frequency_hz, from, to| {
            radio.hears(
                tuned(frequency_hz),
                ms(from),
                ms(to),
                Some(tuned(frequency_hz)),
            )
        };
        assert!(!hears(3, 1000, 1100));
        assert!(hears(3, 1100, 1500));
        assert!(hears(2, 1900, 2100), "RX2 listens to the same");
        assert!(!hears(2, 1000, 2100), "RX1 does not");
    }

    #[test]
    fn the_device_waits_for_what_it_hears_in_a_window() {
        let mut radio = radio();
        assert_eq!(radio.ready_at(), Some(ms(2090)));
        radio.lock(ms(2050), tuned(2), ms(4000));
        assert_eq!(radio.ready_at(), Some(ms(4000)));
        radio.answered();
        assert_eq!(radio.ready_at(), None);
    }
}
