//! Class B beacons as they go on air: when, on what, and what they say (LoRaWAN 1.0.4 §15, RP002-1.0.4 "Beacon").
//!
//! The gateway-specific part is left empty.

use lorawan_fuota::lorawan::airtime::DataRate;
use lorawan_fuota::lorawan::class_b::{beacon_start, ceil_beacon_start};
use lorawan_fuota::lorawan::frame::Direction;
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::time::{GpsTime, Timestamp};

/// Bytes that follow the first reserved ones: time, CRC, the gateway's part, more reserved ones for long beacons, CRC.
const TIME: usize = 4;
const CRC: usize = 2;
const GATEWAY_PART: usize = 7;

/// A beacon to be sent or listened for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beacon {
    /// Its first moment.
    pub start: Timestamp,
    /// Centre, in Hz.
    pub frequency_hz: u32,
    /// Modulation.
    pub data_rate: DataRate,
}

impl Beacon {
    /// The first beacon of a region that starts at `from` or later; `None` where class B has no parameters.
    pub fn next(region: Region, from: Timestamp) -> Option<Self> {
        Self::at(region, ceil_beacon_start(from.to_gps()))
    }

    /// The beacon whose period `at` lies in.
    pub fn last(region: Region, at: Timestamp) -> Option<Self> {
        Self::at(region, beacon_start(at.to_gps()))
    }

    fn at(region: Region, start: GpsTime) -> Option<Self> {
        let class_b = region.class_b()?;
        Some(Self {
            start: start.to_unix(),
            frequency_hz: class_b.beacon_frequency_hz(start.wire_seconds()),
            data_rate: region.data_rate(class_b.beacon_dr, Direction::Downlink)?,
        })
    }

    /// What it says: its time, between checks.
    pub fn payload(&self, region: Region) -> Vec<u8> {
        let length = region.class_b().map_or(0, |b| usize::from(b.beacon_length));
        let reserved = length.saturating_sub(TIME + CRC + GATEWAY_PART + CRC);
        // Five or three bytes before the time leave three or one after the gateway's part.
        let first = reserved.div_ceil(2) + usize::from(reserved > 2);
        let mut payload = vec![0; first.min(reserved)];
        let time = self.start.to_gps().wire_seconds();
        payload.extend(time.to_le_bytes());
        payload.extend(crc(&payload).to_le_bytes());
        let second = payload.len();
        payload.resize(length.saturating_sub(CRC), 0);
        payload.extend(crc(&payload[second..]).to_le_bytes());
        payload
    }
}

/// The time a beacon says, GPS microseconds, near `near`; `None` if it is not whole.
pub fn read_time(region: Region, payload: &[u8], near: GpsTime) -> Option<GpsTime> {
    let length = usize::from(region.class_b()?.beacon_length);
    let reserved = length.checked_sub(TIME + CRC + GATEWAY_PART + CRC)?;
    let first = (reserved.div_ceil(2) + usize::from(reserved > 2)).min(reserved);
    let (said, rest) = payload.split_at_checked(first + TIME)?;
    let crc_said = u16::from_le_bytes(rest.get(..CRC)?.try_into().ok()?);
    if payload.len() != length || crc(said) != crc_said {
        return None;
    }
    let time = u32::from_le_bytes(said.get(first..)?.try_into().ok()?);
    Some(GpsTime::from_wire_seconds(time, near))
}

/// CRC-16/XMODEM.
fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc: u16, _| {
            let carry = crc & 0x8000 != 0;
            (crc << 1) ^ if carry { 0x1021 } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beacon_says_its_time() {
        let now = Timestamp::from_unix_seconds(1_800_000_000);
        for region in [Region::Eu868, Region::Us915, Region::In865] {
            let beacon = Beacon::next(region, now).unwrap();
            assert_eq!(beacon.start.to_gps().seconds() % 128, 0);
            let mut payload = beacon.payload(region);
            let length = region.class_b().unwrap().beacon_length;
            assert_eq!(payload.len(), usize::from(length));
            let read = read_time(region, &payload, now.to_gps());
            assert_eq!(read, Some(beacon.start.to_gps()), "{region}");
            payload[4] ^= 1;
            assert_eq!(read_time(region, &payload, now.to_gps()), None);
        }
    }

    /// CRC-16/XMODEM of "123456789" is 0x31c3.
    #[test]
    fn the_check_is_the_usual_one() {
        assert_eq!(crc(b"123456789"), 0x31c3);
    }
}
