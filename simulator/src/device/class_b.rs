//! Class B on the device: which beacons it heard, and when its multicast groups listen (LoRaWAN 1.0.4 §12).
//!
//! Only for multicast sessions: unicast stays class A.

use std::time::Duration;

use lorawan_fuota::lorawan::class_b::{
    BEACON_PERIOD, PING_SLOT_LENGTH, PingSlotPeriodicity, next_ping_slot,
};
use lorawan_fuota::lorawan::identifiers::DevAddr;
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::time::{GpsTime, Timestamp};

use crate::beacon::Beacon;

use super::radio::{Listening, WINDOW_TOLERANCE};

/// Without a beacon for so long it goes back to class A (LoRaWAN 1.0.4 §12.1).
const BEACONLESS: Duration = Duration::from_secs(7200);
/// How long before a session it begins to look for beacons.
pub(super) const LOOKS_AHEAD: Duration = BEACON_PERIOD.saturating_mul(3);

/// When a group listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PingSlots {
    /// Of the group.
    pub mc_addr: DevAddr,
    /// How often.
    pub periodicity: PingSlotPeriodicity,
}

/// The last beacon heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BeaconLock {
    heard: Option<Timestamp>,
}

impl BeaconLock {
    pub(super) fn heard(&mut self, at: Timestamp) {
        self.heard = Some(at);
    }

    /// Whether slots can still be timed.
    pub(super) fn holds(&self, at: Timestamp) -> bool {
        self.heard
            .is_some_and(|heard| at.since(heard) <= BEACONLESS)
    }

    /// Whether a slot of the group is open at a moment. Its own clock is taken for right since the last beacon.
    pub(super) fn is_open(&self, slots: PingSlots, at: Timestamp) -> bool {
        if !self.holds(at) {
            return false;
        }
        let before = at.to_gps().as_micros() - micros(WINDOW_TOLERANCE);
        let slot = next_ping_slot(
            GpsTime::from_micros(before - 1),
            slots.mc_addr,
            slots.periodicity,
        );
        slot.as_micros() <= at.to_gps().as_micros() + micros(PING_SLOT_LENGTH.min(WINDOW_TOLERANCE))
    }
}

/// What it is tuned to at a moment at which a beacon begins.
pub(super) fn beacon_at(region: Region, at: Timestamp) -> Option<Listening> {
    let early = Beacon::next(region, at - WINDOW_TOLERANCE)?;
    (early.start <= at + WINDOW_TOLERANCE).then_some(Listening {
        frequency_hz: early.frequency_hz,
        data_rate: early.data_rate,
    })
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_open_while_beacons_are_heard() {
        let slots = PingSlots {
            mc_addr: DevAddr(0x0100_0001),
            periodicity: PingSlotPeriodicity::default(),
        };
        let start = Timestamp::from_unix_seconds(1_800_000_000);
        let slot = next_ping_slot(start.to_gps(), slots.mc_addr, slots.periodicity).to_unix();
        let mut lock = BeaconLock::default();
        assert!(!lock.is_open(slots, slot));
        lock.heard(start);
        assert!(lock.is_open(slots, slot));
        assert!(lock.is_open(slots, slot + Duration::from_millis(10)));
        assert!(!lock.is_open(slots, slot + Duration::from_millis(300)));
        let much_later = start + BEACONLESS + Duration::from_secs(1);
        let slot = next_ping_slot(much_later.to_gps(), slots.mc_addr, slots.periodicity);
        assert!(!lock.is_open(slots, slot.to_unix()));
    }
}
