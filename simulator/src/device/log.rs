//! What a device tells about itself: the last events in words, and counts of frames by fate.

use std::collections::VecDeque;
use std::fmt;

use lorawan_fuota::time::Timestamp;

/// The last events of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventLog {
    events: VecDeque<(Timestamp, String)>,
    capacity: usize,
}

impl Default for EventLog {
    fn default() -> Self {
        Self::new(Self::CAPACITY)
    }
}

impl EventLog {
    /// Events kept unless told otherwise; older ones are forgotten.
    pub const CAPACITY: usize = 256;

    pub(super) fn new(capacity: usize) -> Self {
        Self {
            events: VecDeque::new(),
            capacity,
        }
    }

    /// The events kept, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (Timestamp, &str)> {
        self.events.iter().map(|(at, text)| (*at, text.as_str()))
    }

    pub(super) fn note(&mut self, at: Timestamp, text: impl fmt::Display) {
        if self.capacity == 0 {
            return;
        }
        if self.events.len() >= self.capacity {
            self.events.pop_front();
        }
        self.events.push_back((at, text.to_string()));
    }
}

impl fmt::Display for EventLog {
    /// A line per event.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, text) in self.iter() {
            writeln!(f, "{at} {text}")?;
        }
        Ok(())
    }
}

/// How many frames a device sent, and what became of those it heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameCounts {
    /// Uplinks sent, joins among them.
    pub sent: u64,
    /// Class B beacons.
    pub beacons: u64,
    /// Downlinks to itself that were good.
    pub unicast: u64,
    /// Downlinks to one of its groups that were good.
    pub multicast: u64,
    /// Joins that were accepted.
    pub joins: u64,
    /// No LoRaWAN downlink.
    pub malformed: u64,
    /// For another address.
    pub not_for_us: u64,
    /// The MIC was wrong.
    pub wrong_mic: u64,
    /// The counter was not above the last one.
    pub replayed: u64,
    /// The counter was outside the range of its group.
    pub counter_out_of_range: u64,
    /// For a group whose session was not on.
    pub no_session: u64,
    /// Good, but not allowed: a confirmed multicast, a unicast command in a multicast.
    pub not_allowed: u64,
}
