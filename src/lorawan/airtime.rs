//! Time on air of LoRa and FSK frames, in exact integer arithmetic, and the data rates it depends on.
//!
//! It knows nothing of regions, duty cycles or gateways. Explicit header, sync word and coding rate are those LoRaWAN
//! prescribes (RP002-1.0.4 §4.1.1); the formula is the one of the SX126x data sheet §6.1.4, which differs from the
//! older SX127x one for SF5 and SF6 only. At 2.4 GHz the long-interleaved 4/8 code is counted as plain 4/8.
//!
//! A length is that of the `PHYPayload` in bytes, so [`MAC_OVERHEAD`] is part of it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::frame::Direction;

/// Bytes a data frame with an `FPort` and no `FOpts` adds to its `FRMPayload`: MHDR 1, FHDR 7, FPort 1, MIC 4.
pub const MAC_OVERHEAD: u8 = 13;

/// LoRa spreading factor: bits per symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SpreadingFactor {
    /// 5 bits per symbol (SX126x, SX128x and newer radios only).
    Sf5 = 5,
    /// 6 bits per symbol (as LoRaWAN uses it: SX126x, SX128x and newer radios only).
    Sf6 = 6,
    /// 7 bits per symbol.
    Sf7 = 7,
    /// 8 bits per symbol.
    Sf8 = 8,
    /// 9 bits per symbol.
    Sf9 = 9,
    /// 10 bits per symbol.
    Sf10 = 10,
    /// 11 bits per symbol.
    Sf11 = 11,
    /// 12 bits per symbol.
    Sf12 = 12,
}

impl SpreadingFactor {
    /// Bits per symbol, 5 to 12.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self as u8
    }

    /// The spreading factor of so many bits per symbol; `None` outside 5 to 12.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            5 => Self::Sf5,
            6 => Self::Sf6,
            7 => Self::Sf7,
            8 => Self::Sf8,
            9 => Self::Sf9,
            10 => Self::Sf10,
            11 => Self::Sf11,
            12 => Self::Sf12,
            _ => return None,
        })
    }
}

/// LoRa bandwidth, named by its width in kHz.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Bandwidth {
    /// 125 kHz.
    Khz125,
    /// 203.125 kHz (2.4 GHz radios).
    Khz203,
    /// 250 kHz.
    Khz250,
    /// 406.25 kHz (2.4 GHz radios).
    Khz406,
    /// 500 kHz.
    Khz500,
    /// 812.5 kHz (2.4 GHz radios).
    Khz812,
    /// 1625 kHz (2.4 GHz radios).
    Khz1625,
}

impl Bandwidth {
    /// Width in Hz.
    #[must_use]
    pub const fn hz(self) -> u32 {
        match self {
            Self::Khz125 => 125_000,
            Self::Khz203 => 203_125,
            Self::Khz250 => 250_000,
            Self::Khz406 => 406_250,
            Self::Khz500 => 500_000,
            Self::Khz812 => 812_500,
            Self::Khz1625 => 1_625_000,
        }
    }

    /// The bandwidth whose width in whole kHz is `khz` (812.5 kHz is 812).
    #[must_use]
    pub const fn from_khz(khz: u32) -> Option<Self> {
        Some(match khz {
            125 => Self::Khz125,
            203 => Self::Khz203,
            250 => Self::Khz250,
            406 => Self::Khz406,
            500 => Self::Khz500,
            812 => Self::Khz812,
            1625 => Self::Khz1625,
            _ => return None,
        })
    }

    /// Denominator of the coding rate 4/x LoRaWAN uses at this bandwidth.
    const fn coding_rate_denominator(self) -> u32 {
        match self {
            Self::Khz125 | Self::Khz250 | Self::Khz500 => 5,
            Self::Khz203 | Self::Khz406 | Self::Khz812 | Self::Khz1625 => 8,
        }
    }
}

/// How a frame is modulated. Written as gateways write it: `SF7BW125`, or the bit rate for FSK, `50000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DataRate {
    /// LoRa.
    Lora {
        /// Bits per symbol.
        spreading_factor: SpreadingFactor,
        /// Channel width.
        bandwidth: Bandwidth,
    },
    /// FSK at 50 kbit/s, the only rate LoRaWAN has.
    Fsk50,
}

impl DataRate {
    /// LoRa with this spreading factor and bandwidth.
    #[must_use]
    pub const fn lora(spreading_factor: SpreadingFactor, bandwidth: Bandwidth) -> Self {
        Self::Lora {
            spreading_factor,
            bandwidth,
        }
    }

    /// Width of the spectrum the frame fills, in Hz. FSK occupies a 125 kHz channel.
    #[must_use]
    pub const fn bandwidth_hz(self) -> u32 {
        match self {
            Self::Lora { bandwidth, .. } => bandwidth.hz(),
            Self::Fsk50 => 125_000,
        }
    }

    /// Time on air of a `PHYPayload` of `phy_length` bytes, in microseconds, rounded up.
    ///
    /// Uplinks carry a payload CRC, LoRa downlinks do not (RP002-1.0.4 §4.1.1).
    #[must_use]
    pub const fn time_on_air_us(self, phy_length: u8, direction: Direction) -> u32 {
        match self {
            Self::Lora {
                spreading_factor,
                bandwidth,
            } => {
                let crc = matches!(direction, Direction::Uplink);
                lora_us(
                    spreading_factor.bits() as u32,
                    bandwidth,
                    phy_length as u32,
                    crc,
                )
            }
            Self::Fsk50 => (FSK_FRAMING_BYTES + phy_length as u32) * FSK_BYTE_US,
        }
    }

    /// Whether the low data rate optimisation is on: a symbol lasts 16 ms or longer.
    #[must_use]
    pub const fn low_data_rate_optimisation(self) -> bool {
        match self {
            Self::Lora {
                spreading_factor,
                bandwidth,
            } => low_data_rate(spreading_factor.bits() as u32, bandwidth),
            Self::Fsk50 => false,
        }
    }
}

impl fmt::Display for DataRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lora {
                spreading_factor,
                bandwidth,
            } => {
                write!(
                    f,
                    "SF{}BW{}",
                    spreading_factor.bits(),
                    bandwidth.hz() / 1000
                )
            }
            Self::Fsk50 => write!(f, "50000"),
        }
    }
}

/// A text that names no data rate of LoRaWAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown data rate")]
pub struct UnknownDataRate;

impl FromStr for DataRate {
    type Err = UnknownDataRate;

    fn from_str(text: &str) -> Result<Self, UnknownDataRate> {
        if text == "50000" {
            return Ok(Self::Fsk50);
        }
        let (bits, khz) = text
            .strip_prefix("SF")
            .and_then(|rest| rest.split_once("BW"))
            .ok_or(UnknownDataRate)?;
        let spreading_factor = bits.parse().ok().and_then(SpreadingFactor::from_bits);
        let bandwidth = khz.parse().ok().and_then(Bandwidth::from_khz);
        match (spreading_factor, bandwidth) {
            (Some(spreading_factor), Some(bandwidth)) => Ok(Self::Lora {
                spreading_factor,
                bandwidth,
            }),
            _ => Err(UnknownDataRate),
        }
    }
}

/// Preamble 5, sync word 3, length 1, CRC 2.
const FSK_FRAMING_BYTES: u32 = 11;
const FSK_BYTE_US: u32 = 160;

const fn low_data_rate(bits: u32, bandwidth: Bandwidth) -> bool {
    // 2^SF / BW >= 16 ms
    (1 << bits) * 1000 >= 16 * bandwidth.hz()
}

const fn lora_us(bits: u32, bandwidth: Bandwidth, length: u32, crc: bool) -> u32 {
    let short = bits < 7;
    let crc_bits = if crc { 16 } else { 0 };
    let header_bits = if short { 20 } else { 28 };
    // Saturating: the shortest frames at SF12 fit into the first eight symbols.
    let payload_bits = (8 * length + crc_bits + header_bits).saturating_sub(4 * bits);
    let bits_per_block = if low_data_rate(bits, bandwidth) {
        4 * (bits - 2)
    } else {
        4 * bits
    };
    let payload_symbols =
        8 + payload_bits.div_ceil(bits_per_block) * bandwidth.coding_rate_denominator();
    // The preamble ends in a quarter of a symbol: 8 + 4.25, or 12 + 6.25 for SF5 and SF6.
    let preamble_quarters = if short { 73 } else { 49 };
    let quarters = (preamble_quarters + 4 * payload_symbols) as u64;
    let us = (quarters * (1_000_000 << bits)).div_ceil(4 * bandwidth.hz() as u64);
    // At most 26 s: SF12 at 125 kHz with 255 bytes is 9.1 s.
    #[expect(clippy::cast_possible_truncation)]
    {
        us as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down(text: &str, n: u8) -> u32 {
        text.parse::<DataRate>()
            .unwrap()
            .time_on_air_us(n + MAC_OVERHEAD, Direction::Downlink)
    }

    fn up(text: &str, phy_length: u8) -> u32 {
        text.parse::<DataRate>()
            .unwrap()
            .time_on_air_us(phy_length, Direction::Uplink)
    }

    #[test]
    fn full_downlinks_take_the_published_time() {
        // Largest FRMPayload of every downlink data rate and its time on air in units of 100 µs, rounded.
        let rows = [
            ("SF12BW125", 51, 27_935),
            ("SF11BW125", 51, 14_787),
            ("SF10BW125", 51, 6_984),
            ("SF9BW125", 115, 6_769),
            ("SF8BW125", 242, 6_968),
            ("SF7BW125", 242, 3_945),
            ("SF7BW250", 242, 1_972),
            ("50000", 242, 426),
            ("SF5BW125", 242, 1_373),
            ("SF12BW500", 53, 6_164),
            ("SF11BW500", 129, 6_154),
            ("SF10BW500", 242, 5_637),
            ("SF9BW500", 242, 3_126),
            ("SF8BW500", 242, 1_742),
            ("SF7BW500", 242, 986),
        ];
        for (text, n, expected) in rows {
            let us = down(text, n);
            assert!(us.abs_diff(expected * 100) <= 50, "{text} N={n}: {us} µs");
        }
    }

    #[test]
    fn dwell_limited_downlinks_take_the_published_time() {
        for (text, n, expected_ms) in [
            ("SF10BW125", 11, 371),
            ("SF9BW125", 53, 390),
            ("SF8BW125", 125, 400),
        ] {
            assert_eq!((down(text, n) + 500) / 1000, expected_ms, "{text}");
        }
        for (text, n, expected_ms) in [
            ("SF11BW125", 23, 987),
            ("SF10BW125", 86, 985),
            ("SF9BW125", 184, 984),
        ] {
            assert_eq!((down(text, n) + 500) / 1000, expected_ms, "{text}");
        }
    }

    #[test]
    fn uplinks_with_crc_agree_with_the_radio_makers_calculator() {
        // Values of the SX127x calculator: explicit header, CRC on, preamble of 8 symbols, CR 4/5.
        assert_eq!(up("SF7BW125", 13), 46_336);
        assert_eq!(up("SF7BW125", 23), 61_696);
        assert_eq!(up("SF10BW125", 23), 370_688);
        assert_eq!(up("SF12BW125", 13), 1_155_072);
        assert_eq!(up("SF12BW125", 64), 2_793_472);
        assert_eq!(up("SF7BW500", 255), 99_904);
    }

    #[test]
    fn the_crc_costs_a_block_only_where_it_crosses_one() {
        assert_eq!(up("SF7BW125", 255) - down("SF7BW125", 242), 5_120);
        assert_eq!(up("SF12BW125", 64), down("SF12BW125", 51));
    }

    #[test]
    fn low_data_rate_optimisation_starts_at_16_ms() {
        for (text, on) in [
            ("SF10BW125", false),
            ("SF11BW125", true),
            ("SF11BW250", false),
            ("SF12BW250", true),
        ] {
            assert_eq!(
                text.parse::<DataRate>()
                    .unwrap()
                    .low_data_rate_optimisation(),
                on,
                "{text}"
            );
        }
    }

    #[test]
    fn time_grows_with_length_and_never_overflows() {
        for bits in 5..=12 {
            for khz in [125, 203, 250, 406, 500, 812, 1625] {
                let rate = DataRate::lora(
                    SpreadingFactor::from_bits(bits).unwrap(),
                    Bandwidth::from_khz(khz).unwrap(),
                );
                assert_eq!(rate.to_string().parse(), Ok(rate));
                let times: Vec<u32> = (0..=255)
                    .map(|n| rate.time_on_air_us(n, Direction::Uplink))
                    .collect();
                assert!(times.is_sorted(), "{rate}");
                assert!(times[255] < 10_000_000, "{rate}");
                assert!(times[0] > 0, "{rate}");
            }
        }
    }

    #[test]
    fn other_texts_are_no_data_rates() {
        for text in [
            "",
            "SF7",
            "SF4BW125",
            "SF13BW125",
            "SF7BW126",
            "SFBW",
            "LORA",
            "sf7bw125",
            "SF7BW125 ",
        ] {
            assert_eq!(text.parse::<DataRate>(), Err(UnknownDataRate), "{text}");
        }
    }
}
