//! What a link carries: the margin of a device's uplinks at each gateway over what each downlink data rate needs, the
//! fastest rate a device can be expected to follow, and the gateways that together reach devices.
//!
//! Assumption: a downlink arrives as strong as the uplink did. Gateways send with no less power than devices (EU868:
//! 16 or 29 dBm EIRP against 16), their receivers are a few dB better, and ADR may have turned a device down; the three
//! are not known, and [`SAFETY_DB`] is kept on top, as the usual ADR algorithm keeps it.

use std::collections::{BTreeMap, BTreeSet};

use crate::lorawan::airtime::{Bandwidth, DataRate, SpreadingFactor};
use crate::lorawan::frame::Direction;
use crate::lorawan::identifiers::GatewayEui;
use crate::lorawan::region::Region;
use crate::record::{FleetDevice, Link};

use super::sizing;

/// Kept over the demodulation floor for fading, dB: what the usual ADR algorithm keeps.
pub const SAFETY_DB: f32 = 10.0;
/// Noise in 125 kHz at a gateway: -174 dBm/Hz, 51 dB of bandwidth, 6 dB of noise figure.
const NOISE_DBM: f32 = -117.0;
/// Above this ratio receivers report less than there is: signal strength tells more.
const SATURATED_DB: f32 = 5.0;
/// FSK at 50 kbit/s: some 20 dB less sensitive than SF7 at 125 kHz (-104 dBm in the usual data sheets).
const FSK_FLOOR_DB: f32 = 13.0;

/// Signal-to-noise ratio a data rate needs, dB, over its own bandwidth (SX126x data sheet §6.1.1.1).
pub fn floor_db(rate: DataRate) -> f32 {
    match rate {
        DataRate::Fsk50 => FSK_FLOOR_DB,
        DataRate::Lora {
            spreading_factor, ..
        } => match spreading_factor {
            SpreadingFactor::Sf5 => -2.5,
            SpreadingFactor::Sf6 => -5.0,
            SpreadingFactor::Sf7 => -7.5,
            SpreadingFactor::Sf8 => -10.0,
            SpreadingFactor::Sf9 => -12.5,
            SpreadingFactor::Sf10 => -15.0,
            SpreadingFactor::Sf11 => -17.5,
            SpreadingFactor::Sf12 => -20.0,
        },
    }
}

/// By how much a link's signal exceeds the floor of a downlink at this rate, dB. Negative: not to be heard.
pub fn margin_db(link: &Link, rate: DataRate) -> f32 {
    let mut snr = link.snr_db;
    if snr >= SATURATED_DB {
        snr = snr.max(f32::from(link.rssi_dbm) - NOISE_DBM);
    }
    snr - wider_db(rate) - floor_db(rate)
}

/// Noise a rate's bandwidth lets in beyond that of 125 kHz, dB.
fn wider_db(rate: DataRate) -> f32 {
    let times = match rate {
        DataRate::Fsk50 => 1.0,
        DataRate::Lora { bandwidth, .. } => f64::from(bandwidth.hz()) / 125_000.0,
    };
    #[expect(clippy::cast_possible_truncation, reason = "between 0 and 12 dB")]
    let db = (10.0 * times.log10()) as f32;
    db
}

/// The downlink data rates a planner may choose by itself, slowest first: LoRa with SF7 to SF12, not at 250 kHz, which
/// every device of a region has; none slower than RX2's, where every device of the network has to be in reach; and
/// those only that carry a fragment of `frag_size` bytes on that frequency.
pub fn candidate_rates(region: Region, frequency_hz: u32, frag_size: Option<u8>) -> Vec<u8> {
    let airtime = |dr: u8| sizing::frame_airtime(region, dr, 20);
    let slowest = airtime(region.rx2().1);
    let mut rates: Vec<u8> = (0..=15u8)
        .filter(|dr| {
            let Some(rate) = region.data_rate(*dr, Direction::Downlink) else {
                return false;
            };
            let common = matches!(
                rate,
                DataRate::Lora { spreading_factor, bandwidth }
                    if spreading_factor >= SpreadingFactor::Sf7 && bandwidth != Bandwidth::Khz250
            );
            let largest = sizing::largest_fragment(region, *dr);
            common
                && largest.is_some_and(|most| frag_size.is_none_or(|size| size <= most))
                && region.sub_band(frequency_hz, rate.bandwidth_hz()).is_some()
        })
        .collect();
    if rates.iter().any(|dr| airtime(*dr) == slowest) {
        rates.retain(|dr| airtime(*dr) <= slowest);
    }
    rates.sort_by_key(|dr| std::cmp::Reverse(airtime(*dr)));
    // The same modulation under two numbers (US915 DR8 and DR13 stand for different ones; CN470 has none).
    rates.dedup_by_key(|dr| airtime(*dr));
    rates
}

/// Which of `rates` (slowest first) is the fastest a device can be expected to follow: some gateway of `usable` has
/// [`SAFETY_DB`] to spare. The first one where it was never heard, or is not heard that well.
pub fn fastest_rate(
    device: &FleetDevice,
    region: Region,
    rates: &[u8],
    usable: &BTreeSet<GatewayEui>,
) -> usize {
    let reaches = |dr: u8| {
        let Some(rate) = region.data_rate(dr, Direction::Downlink) else {
            return false;
        };
        let links = device.status.links.iter();
        links
            .filter(|(eui, _)| usable.contains(*eui))
            .any(|(_, link)| margin_db(link, rate) >= SAFETY_DB)
    };
    let found = (0..rates.len()).rev().find(|index| reaches(rates[*index]));
    found.unwrap_or(0)
}

/// The gateways that together reach all `devices` at a data rate, as few as a greedy choice finds; ties go to the
/// stronger signal. A gateway reaches a device it hears with [`SAFETY_DB`] to spare; where none does, the one that
/// hears the device best.
pub fn covering_gateways<'a>(
    devices: impl Iterator<Item = &'a FleetDevice>,
    usable: &BTreeSet<GatewayEui>,
    region: Region,
    data_rate: u8,
) -> Vec<GatewayEui> {
    let rate = region.data_rate(data_rate, Direction::Downlink);
    let reaching = |device: &FleetDevice| -> BTreeMap<GatewayEui, f32> {
        let known = device.status.links.iter();
        let links = known
            .filter(|(eui, _)| usable.contains(*eui))
            .map(|(eui, link)| (*eui, rate.map_or(link.snr_db, |rate| margin_db(link, rate))));
        let links: BTreeMap<GatewayEui, f32> = links.collect();
        let enough: BTreeMap<GatewayEui, f32> = links
            .iter()
            .filter(|(_, margin)| **margin >= SAFETY_DB)
            .map(|(eui, margin)| (*eui, *margin))
            .collect();
        if !enough.is_empty() {
            return enough;
        }
        let best = links.into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
        best.into_iter().collect()
    };
    let mut open: Vec<BTreeMap<GatewayEui, f32>> =
        devices.map(reaching).filter(|l| !l.is_empty()).collect();
    let mut chosen = Vec::new();
    while !open.is_empty() {
        let mut score: BTreeMap<GatewayEui, (usize, f32)> = BTreeMap::new();
        for (eui, margin) in open.iter().flatten() {
            let entry = score.entry(*eui).or_insert((0, f32::INFINITY));
            *entry = (entry.0 + 1, entry.1.min(*margin));
        }
        let best = score
            .into_iter()
            .max_by(|(_, a), (_, b)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let Some((eui, _)) = best else { break };
        open.retain(|links| !links.contains_key(&eui));
        chosen.push(eui);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    fn link(rssi_dbm: i16, snr_db: f32) -> Link {
        Link {
            rssi_dbm,
            snr_db,
            at: Timestamp::default(),
        }
    }

    fn rate(region: Region, dr: u8) -> DataRate {
        region.data_rate(dr, Direction::Downlink).unwrap()
    }

    #[test]
    fn margins_are_those_over_the_floor_of_the_rate() {
        let weak = link(-120, -8.0);
        assert!((margin_db(&weak, rate(Region::Eu868, 0)) - 12.0).abs() < 0.01);
        assert!((margin_db(&weak, rate(Region::Eu868, 5)) + 0.5).abs() < 0.01);
        // Four times the bandwidth lets four times the noise in.
        assert!((margin_db(&weak, rate(Region::Us915, 8)) - 5.98).abs() < 0.01);
        // A receiver that reports 9 dB at -60 dBm has far more.
        assert!(margin_db(&link(-60, 9.0), rate(Region::Eu868, 5)) > 60.0);
        assert!(margin_db(&link(-60, 4.0), rate(Region::Eu868, 5)) < 12.0);
        assert!(margin_db(&link(-100, 9.0), DataRate::Fsk50) < SAFETY_DB);
    }

    #[test]
    fn candidates_are_what_every_device_of_the_region_has() {
        assert_eq!(
            candidate_rates(Region::Eu868, 869_525_000, None),
            [0, 1, 2, 3, 4, 5]
        );
        assert_eq!(
            candidate_rates(Region::Eu868, 869_525_000, Some(100)),
            [3, 4, 5]
        );
        assert_eq!(
            candidate_rates(Region::Us915, 923_300_000, None),
            [8, 9, 10, 11, 12, 13]
        );
        assert!(candidate_rates(Region::Eu868, 868_650_000, None).is_empty());
        for region in Region::ALL {
            let hz = region.default_multicast_hz();
            assert!(!candidate_rates(region, hz, None).is_empty(), "{region}");
        }
    }
}
