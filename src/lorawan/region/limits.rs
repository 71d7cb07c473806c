//! Legal limits of a region: sub-bands with duty cycle and radiated power, and dwell time.
//!
//! A gateway's own limits (a licence, listen before talk in Japan and Korea) are not here. Power is EIRP: what leaves
//! the antenna, its gain and the loss of the cable counted; ERP figures of the rules are 2.15 dB lower.
//! EU868: ETSI EN 300 220-2 annex B. Others: RP002-1.0.4 §2.

use super::super::frame::Direction;
use super::Region;

/// A part of the spectrum with limits of its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SubBand {
    /// Which of its region, from 0 upwards in frequency. Air time is counted under it.
    pub id: u8,
    /// Lower edge, in Hz.
    pub from_hz: u32,
    /// Upper edge, in Hz.
    pub to_hz: u32,
    /// Share of time one transmitter may be on air, in thousandths; 1000 is no limit.
    pub duty_cycle_permille: u16,
    /// Largest radiated power, in dBm EIRP.
    pub max_eirp_dbm: f32,
}

impl SubBand {
    /// Whether a frame of this width lies inside.
    #[must_use]
    pub const fn holds(&self, frequency_hz: u32, bandwidth_hz: u32) -> bool {
        let half = bandwidth_hz / 2;
        self.from_hz <= frequency_hz.saturating_sub(half)
            && frequency_hz.saturating_add(half) <= self.to_hz
    }
}

impl Region {
    /// The sub-bands, upwards in frequency. Between them nothing may be sent.
    #[must_use]
    pub const fn sub_bands(self) -> &'static [SubBand] {
        match self {
            Self::Eu868 => EU868,
            Self::Us915 => US915,
            Self::Cn779 => CN779,
            Self::Eu433 => EU433,
            Self::Au915 => AU915,
            Self::Cn470 => CN470,
            Self::As923_1 => AS923_1,
            Self::As923_2 => AS923_2,
            Self::As923_3 => AS923_3,
            Self::As923_4 => AS923_4,
            Self::Kr920 => KR920,
            Self::In865 => IN865,
            Self::Ru864 => RU864,
            Self::Ism2400 => ISM2400,
        }
    }

    /// The sub-band a frame of this width lies in as a whole; `None` if it may not be sent there.
    #[must_use]
    pub fn sub_band(self, frequency_hz: u32, bandwidth_hz: u32) -> Option<SubBand> {
        self.sub_bands()
            .iter()
            .find(|band| band.holds(frequency_hz, bandwidth_hz))
            .copied()
    }

    /// Largest radiated power of a downlink at this frequency, in dBm EIRP; `None` where nothing may be sent.
    #[must_use]
    pub fn downlink_power_eirp_dbm(self, frequency_hz: u32) -> Option<f32> {
        self.sub_band(frequency_hz, 0).map(|band| band.max_eirp_dbm)
    }

    /// Longest a single frame may last, in microseconds; `None` if there is no limit.
    ///
    /// `dwell_400ms` tells that the network has set 400 ms (`TxParamSetupReq`), which AS923 and AU915 leave to the
    /// country. The limit of US915 is that of its 125 kHz channels; those of 500 kHz have none, nor have its downlinks.
    #[must_use]
    pub const fn dwell_limit_us(self, direction: Direction, dwell_400ms: bool) -> Option<u32> {
        match (self, direction) {
            (Self::Us915, Direction::Uplink) => Some(400_000),
            (Self::Au915, Direction::Uplink) if dwell_400ms => Some(400_000),
            (Self::As923_1 | Self::As923_2 | Self::As923_3 | Self::As923_4, _) if dwell_400ms => {
                Some(400_000)
            }
            (Self::Cn470, _) => Some(1_000_000),
            _ => None,
        }
    }
}

const fn band(
    id: u8,
    from_khz: u32,
    to_khz: u32,
    duty_cycle_permille: u16,
    max_eirp_dbm: f32,
) -> SubBand {
    SubBand {
        id,
        from_hz: from_khz * 1000,
        to_hz: to_khz * 1000,
        duty_cycle_permille,
        max_eirp_dbm,
    }
}

const NO_LIMIT: u16 = 1000;

//                                id, from kHz, to kHz, permille, dBm EIRP
const EU868: &[SubBand] = &[
    band(0, 863_000, 865_000, 1, 16.15),
    band(1, 865_000, 868_000, 10, 16.15),
    band(2, 868_000, 868_600, 10, 16.15),
    band(3, 868_700, 869_200, 1, 16.15),
    band(4, 869_400, 869_650, 100, 29.15),
    band(5, 869_700, 870_000, 10, 16.15),
];
const US915: &[SubBand] = &[band(0, 902_000, 928_000, NO_LIMIT, 28.15)];
const CN779: &[SubBand] = &[band(0, 779_000, 787_000, 10, 12.15)];
const EU433: &[SubBand] = &[band(0, 433_050, 434_790, 100, 12.15)];
const AU915: &[SubBand] = &[band(0, 915_000, 928_000, NO_LIMIT, 30.0)];
const CN470: &[SubBand] = &[band(0, 470_000, 510_000, NO_LIMIT, 19.15)];
const AS923_1: &[SubBand] = &[band(0, 915_000, 928_000, NO_LIMIT, 16.0)];
const AS923_2: &[SubBand] = &[band(0, 920_000, 923_000, NO_LIMIT, 16.0)];
const AS923_3: &[SubBand] = &[band(0, 915_000, 921_000, NO_LIMIT, 16.0)];
const AS923_4: &[SubBand] = &[band(0, 917_000, 920_000, NO_LIMIT, 16.0)];
const KR920: &[SubBand] = &[band(0, 920_800, 923_400, NO_LIMIT, 23.0)];
const IN865: &[SubBand] = &[band(0, 865_000, 867_000, NO_LIMIT, 30.0)];
const RU864: &[SubBand] = &[
    band(0, 864_000, 865_000, 1, 16.0),
    band(1, 866_000, 868_000, 10, 16.0),
    band(2, 868_700, 869_200, 10, 16.0),
];
const ISM2400: &[SubBand] = &[band(0, 2_400_000, 2_483_500, NO_LIMIT, 10.0)];

#[cfg(test)]
mod tests {
    use super::super::super::airtime::MAC_OVERHEAD;
    use super::*;

    #[test]
    fn a_frame_must_lie_inside_its_sub_band() {
        let permille = |hz, width| {
            Region::Eu868
                .sub_band(hz, width)
                .map(|band| band.duty_cycle_permille)
        };
        assert_eq!(permille(869_525_000, 125_000), Some(100));
        assert_eq!(
            permille(869_525_000, 250_000),
            Some(100),
            "fills it exactly"
        );
        assert_eq!(permille(869_526_000, 250_000), None);
        assert_eq!(permille(868_100_000, 125_000), Some(10));
        assert_eq!(permille(867_100_000, 125_000), Some(10));
        assert_eq!(permille(864_100_000, 125_000), Some(1));
        assert_eq!(permille(868_800_000, 125_000), Some(1));
        assert_eq!(permille(868_650_000, 125_000), None, "alarms");
        assert_eq!(permille(868_000_000, 125_000), None, "astride two");
        assert_eq!(permille(0, 125_000), None);
        assert_eq!(permille(u32::MAX, 125_000), None);
    }

    #[test]
    fn power_depends_on_the_sub_band() {
        assert_eq!(
            Region::Eu868.downlink_power_eirp_dbm(869_525_000),
            Some(29.15)
        );
        assert_eq!(
            Region::Eu868.downlink_power_eirp_dbm(868_300_000),
            Some(16.15)
        );
        assert_eq!(Region::Eu868.downlink_power_eirp_dbm(869_300_000), None);
        assert_eq!(
            Region::Au915.downlink_power_eirp_dbm(923_300_000),
            Some(30.0)
        );
    }

    #[test]
    fn sub_bands_are_in_order_and_apart() {
        for region in Region::ALL {
            let bands = region.sub_bands();
            assert!(
                bands
                    .iter()
                    .enumerate()
                    .all(|(index, band)| usize::from(band.id) == index),
                "{region}"
            );
            assert!(
                bands.iter().all(|band| band.from_hz < band.to_hz),
                "{region}"
            );
            assert!(
                bands
                    .windows(2)
                    .all(|pair| pair[0].to_hz <= pair[1].from_hz),
                "{region}"
            );
        }
    }

    #[test]
    fn every_default_frequency_lies_in_a_sub_band() {
        for region in Region::ALL {
            let check = |hz: u32, dr: u8, direction: Direction| {
                let width = region.data_rate(dr, direction).unwrap().bandwidth_hz();
                assert!(
                    region.sub_band(hz, width).is_some(),
                    "{region} {hz} Hz DR{dr}"
                );
            };
            let (rx2_hz, rx2_dr) = region.rx2();
            check(rx2_hz, rx2_dr, Direction::Downlink);
            for channel in region.uplink_channels() {
                check(channel.frequency_hz, channel.min_dr, Direction::Uplink);
                let (hz, dr) = region
                    .rx1(channel.frequency_hz, channel.min_dr, 0, false)
                    .unwrap();
                check(hz, dr, Direction::Downlink);
            }
            for beacon_time_s in (0..8).map(|period| period * 128) {
                let Some(class_b) = region.class_b() else {
                    continue;
                };
                check(
                    class_b.beacon_frequency_hz(beacon_time_s),
                    class_b.beacon_dr,
                    Direction::Downlink,
                );
            }
        }
    }

    #[test]
    fn the_largest_frames_keep_the_dwell_time() {
        for region in Region::ALL {
            for (dr, direction) in
                (0..=15).flat_map(|dr| [(dr, Direction::Uplink), (dr, Direction::Downlink)])
            {
                let Some(limit_us) = region.dwell_limit_us(direction, true) else {
                    continue;
                };
                let Some(n) = region.max_payload(dr, direction, true) else {
                    continue;
                };
                let us = region
                    .data_rate(dr, direction)
                    .unwrap()
                    .time_on_air_us(n + MAC_OVERHEAD, direction);
                // A 242-byte frame at SF7 and 125 kHz lasts 399.6 ms, so there is no slack to hide an error in.
                assert!(us <= limit_us, "{region} DR{dr} {direction:?}: {us} µs");
            }
        }
    }
}
