//! Class B timing: beacon periods, ping slots and the hopping of both over channels.
//!
//! Beacons start at GPS times that are multiples of 128 s. The time between the reserved span after a beacon and the
//! guard before the next is cut into 4096 slots of 30 ms; an address listens in some of them, differently in each
//! beacon period. Which slot to use when several addresses compete, data rates and frequencies are decided elsewhere.
//!
//! Source: TS001-1.0.4 §11 (slot timing and randomization) and its beacon chapter; TS005-2.0.0 §4.6
//! (`McClassBSessionReq`).

use std::num::NonZeroU8;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::identifiers::DevAddr;
use super::keys::{Key128, aes128_encrypt};
use crate::time::GpsTime;

/// From the start of one beacon to the start of the next.
pub const BEACON_PERIOD: Duration = Duration::from_micros(BEACON_PERIOD_MICROS.cast_unsigned());

/// From the start of a beacon to its first ping slot.
pub const BEACON_RESERVED: Duration = Duration::from_micros(BEACON_RESERVED_MICROS.cast_unsigned());

/// Before a beacon, free of ping slots.
pub const BEACON_GUARD: Duration = Duration::from_secs(3);

/// Length of a ping slot. A downlink starts with its slot and may last longer.
pub const PING_SLOT_LENGTH: Duration = Duration::from_micros(PING_SLOT_MICROS.cast_unsigned());

/// Ping slots in a beacon period, of all addresses together.
pub const PING_SLOTS_PER_BEACON: u16 = 4096;

const BEACON_PERIOD_MICROS: i64 = 128_000_000;
const BEACON_RESERVED_MICROS: i64 = 2_120_000;
const PING_SLOT_MICROS: i64 = 30_000;

/// How often an address listens: `Periodicity`, 0 (about every second) to 7 (once a beacon period).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "u8", into = "u8")]
pub struct PingSlotPeriodicity(u8);

/// A ping slot periodicity lies outside 0 to 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ping slot periodicity {0} is not in 0 to 7")]
pub struct InvalidPeriodicity(
    /// The value found.
    pub u8,
);

impl PingSlotPeriodicity {
    /// The value as it stands on the wire, 0 to 7.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// `PingNb`: slots in a beacon period, 128 down to 1.
    pub const fn ping_nb(self) -> u16 {
        1 << (7 - self.0)
    }

    /// `PingPeriod`: from one slot of the address to its next, 32 to 4096, in slots.
    pub const fn ping_period(self) -> u16 {
        1 << (5 + self.0)
    }
}

impl TryFrom<u8> for PingSlotPeriodicity {
    type Error = InvalidPeriodicity;

    fn try_from(number: u8) -> Result<Self, InvalidPeriodicity> {
        if number <= 7 {
            Ok(Self(number))
        } else {
            Err(InvalidPeriodicity(number))
        }
    }
}

impl From<PingSlotPeriodicity> for u8 {
    fn from(periodicity: PingSlotPeriodicity) -> Self {
        periodicity.0
    }
}

/// Start of the beacon period that `at` lies in: the last multiple of 128 s not after it.
pub const fn beacon_start(at: GpsTime) -> GpsTime {
    GpsTime::from_micros(
        at.as_micros()
            .saturating_sub(at.as_micros().rem_euclid(BEACON_PERIOD_MICROS)),
    )
}

/// The first start of a beacon not before `at`. A class B session starts at one (TS005-2.0.0 §4.6).
pub const fn ceil_beacon_start(at: GpsTime) -> GpsTime {
    match at.as_micros().rem_euclid(BEACON_PERIOD_MICROS) {
        0 => at,
        past => GpsTime::from_micros(at.as_micros().saturating_add(BEACON_PERIOD_MICROS - past)),
    }
}

/// `PingOffset`: the first slot of `address` in the beacon period that `at` lies in, below `PingPeriod`. For a
/// multicast group the address is its `McAddr`.
pub fn ping_offset(at: GpsTime, address: DevAddr, periodicity: PingSlotPeriodicity) -> u16 {
    let mut block = [0; 16];
    block[..4].copy_from_slice(&beacon_start(at).wire_seconds().to_le_bytes());
    block[4..8].copy_from_slice(&address.to_le_bytes());
    let [low, high, ..] = aes128_encrypt(&Key128::from_bytes([0; 16]), block);
    u16::from_le_bytes([low, high]) % periodicity.ping_period()
}

/// Start of ping slot number `slot` (0 to 4095) of the beacon period that `at` lies in. A larger number counts on at
/// the same pace, into the guard and beyond.
pub fn ping_slot_start(at: GpsTime, slot: u16) -> GpsTime {
    GpsTime::from_micros(
        beacon_start(at)
            .as_micros()
            .saturating_add(BEACON_RESERVED_MICROS + PING_SLOT_MICROS * i64::from(slot)),
    )
}

/// Start of the first ping slot of `address` that starts after `after`; a slot that starts exactly then has gone. In
/// the last two beacon periods of the range of [`GpsTime`], the end of the range.
pub fn next_ping_slot(
    after: GpsTime,
    address: DevAddr,
    periodicity: PingSlotPeriodicity,
) -> GpsTime {
    let first = first_ping_slot(after, address, periodicity);
    if after < first {
        return first;
    }
    let step = PING_SLOT_MICROS * i64::from(periodicity.ping_period());
    // Both instants lie in one beacon period, so nothing here comes near the ends of the range.
    let slots_gone = (after.as_micros() - first.as_micros()) / step + 1;
    if slots_gone < i64::from(periodicity.ping_nb()) {
        return GpsTime::from_micros(first.as_micros().saturating_add(slots_gone * step));
    }
    let next_period = beacon_start(after)
        .as_micros()
        .saturating_add(BEACON_PERIOD_MICROS);
    if next_period > i64::MAX - BEACON_PERIOD_MICROS {
        return GpsTime::from_micros(i64::MAX);
    }
    first_ping_slot(GpsTime::from_micros(next_period), address, periodicity)
}

/// Index of the channel on which `address` listens in the beacon period that `at` lies in, where ping slots hop over
/// `channels` channels (8 in US915 and AU915).
pub fn ping_slot_channel(at: GpsTime, address: DevAddr, channels: NonZeroU8) -> u8 {
    let beacon_number = u64::from(beacon_start(at).wire_seconds()) / BEACON_PERIOD.as_secs();
    let [index, ..] =
        ((u64::from(address.0) + beacon_number) % u64::from(channels.get())).to_le_bytes();
    index
}

/// Index of the channel of the beacon at the start of the period that `at` lies in, where beacons hop over `channels`
/// channels.
pub fn beacon_channel(at: GpsTime, channels: NonZeroU8) -> u8 {
    ping_slot_channel(at, DevAddr(0), channels)
}

fn first_ping_slot(at: GpsTime, address: DevAddr, periodicity: PingSlotPeriodicity) -> GpsTime {
    ping_slot_start(at, ping_offset(at, address, periodicity))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(seconds: i64) -> GpsTime {
        GpsTime::from_seconds(seconds)
    }

    #[test]
    fn beacon_periods_are_multiples_of_128_seconds() {
        assert_eq!(beacon_start(seconds(127)), seconds(0));
        assert_eq!(beacon_start(seconds(128)), seconds(128));
        assert_eq!(beacon_start(seconds(-1)), seconds(-128));
        assert_eq!(ceil_beacon_start(seconds(128)), seconds(128));
        assert_eq!(
            ceil_beacon_start(GpsTime::from_micros(128_000_001)),
            seconds(256)
        );
        assert_eq!(ceil_beacon_start(seconds(-1)), seconds(0));
    }

    #[test]
    fn slots_fill_the_beacon_window() {
        let end_of_last = ping_slot_start(seconds(0), PING_SLOTS_PER_BEACON).as_micros();
        let guard = i64::try_from(BEACON_GUARD.as_micros()).unwrap();
        assert_eq!(end_of_last + guard, BEACON_PERIOD_MICROS);
        for number in 0..=7 {
            let periodicity = PingSlotPeriodicity::try_from(number).unwrap();
            assert_eq!(
                periodicity.ping_nb() * periodicity.ping_period(),
                PING_SLOTS_PER_BEACON
            );
        }
        assert_eq!(PingSlotPeriodicity::try_from(8), Err(InvalidPeriodicity(8)));
        assert!(serde_json::from_str::<PingSlotPeriodicity>("8").is_err());
    }

    #[test]
    fn channels_hop_with_the_beacon() {
        let eight = NonZeroU8::new(8).unwrap();
        let address = DevAddr(0x2601_1bda);
        assert_eq!(ping_slot_channel(seconds(0), address, eight), 2);
        assert_eq!(ping_slot_channel(seconds(127), address, eight), 2);
        assert_eq!(ping_slot_channel(seconds(6 * 128), address, eight), 0);
        assert_eq!(beacon_channel(seconds(9 * 128), eight), 1);
        // No wrap of the sum at 2^32: for 3 channels that would change the answer (0xffff_ffff is a multiple of 3).
        let three = NonZeroU8::new(3).unwrap();
        assert_eq!(ping_slot_channel(seconds(128), DevAddr(u32::MAX), three), 1);
    }

    proptest! {
        #[test]
        fn the_next_slot_is_the_first_of_all_slots_after(
            after in -10_000_000_000i64..10_000_000_000_000_000,
            address: u32,
            number in 0u8..8,
        ) {
            let periodicity = PingSlotPeriodicity::try_from(number).unwrap();
            let after = GpsTime::from_micros(after);
            let next_period = GpsTime::from_micros(beacon_start(after).as_micros() + BEACON_PERIOD_MICROS);
            let expected = [after, next_period]
                .into_iter()
                .flat_map(|period| {
                    let offset = ping_offset(period, DevAddr(address), periodicity);
                    (0..periodicity.ping_nb())
                        .map(move |index| ping_slot_start(period, offset + index * periodicity.ping_period()))
                })
                .find(|slot| *slot > after);
            prop_assert_eq!(Some(next_ping_slot(after, DevAddr(address), periodicity)), expected);
        }

        #[test]
        fn nothing_panics(at: i64, address: u32, number in 0u8..8, channels in 1u8..) {
            let periodicity = PingSlotPeriodicity::try_from(number).unwrap();
            for at in [at, i64::MAX - at.rem_euclid(300_000_000), i64::MIN + at.rem_euclid(300_000_000)] {
                let at = GpsTime::from_micros(at);
                prop_assert!(beacon_start(at) <= at);
                prop_assert!(ceil_beacon_start(at) >= at);
                prop_assert!(next_ping_slot(at, DevAddr(address), periodicity) >= at);
                let channels = NonZeroU8::new(channels).unwrap();
                prop_assert!(ping_slot_channel(at, DevAddr(address), channels) < channels.get());
            }
        }
    }
}
