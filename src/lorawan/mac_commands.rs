//! MAC commands of LoRaWAN 1.0.x: what `FOpts` and port 0 carry, in both directions.
//!
//! A parser of our own, because that of the `lorawan` crate panics on truncated commands. A command has no length on
//! the wire, so the first unknown or truncated one ends the walk, and what is left is counted. Nothing is answered
//! here. LoRaWAN 1.0.4 §5, and §12 for class B.

/// A command from an end-device to the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UplinkMacCommand {
    /// 0x02: the device asks whether it is heard.
    LinkCheckReq,
    /// 0x03: what the device took of a `LinkADRReq`.
    LinkAdrAns {
        /// All channels of the mask are defined.
        channel_mask_ack: bool,
        /// The data rate is known and possible.
        data_rate_ack: bool,
        /// The power is possible, or the lowest was set.
        power_ack: bool,
    },
    /// 0x04: the duty cycle was set.
    DutyCycleAns,
    /// 0x05: what the device took of a `RXParamSetupReq`.
    RxParamSetupAns {
        /// The frequency of RX2 is possible.
        channel_ack: bool,
        /// The data rate of RX2 is possible.
        rx2_data_rate_ack: bool,
        /// The offset of the data rate of RX1 is possible.
        rx1_dr_offset_ack: bool,
    },
    /// 0x06: the state of the device.
    DevStatusAns {
        /// 0: external power; 1 to 254: battery from empty to full; 255: unknown.
        battery: u8,
        /// Signal-to-noise ratio of the request as it was received, in dB, -32 to 31.
        snr_margin: i8,
    },
    /// 0x07: what the device took of a `NewChannelReq`.
    NewChannelAns {
        /// The frequency is possible.
        channel_frequency_ok: bool,
        /// The range of data rates is possible.
        data_rate_range_ok: bool,
    },
    /// 0x08: the delay of RX1 was set.
    RxTimingSetupAns,
    /// 0x09: power and dwell time were set.
    TxParamSetupAns,
    /// 0x0A: what the device took of a `DlChannelReq`.
    DlChannelAns {
        /// The frequency is possible.
        channel_frequency_ok: bool,
        /// The channel has an uplink frequency.
        uplink_frequency_exists: bool,
    },
    /// 0x0D: the device asks for the time.
    DeviceTimeReq,
    /// 0x10: the device tells its ping-slot periodicity.
    PingSlotInfoReq {
        /// 0 to 7: a ping slot each 2^periodicity seconds, nearly.
        periodicity: u8,
    },
    /// 0x11: what the device took of a `PingSlotChannelReq`.
    PingSlotChannelAns {
        /// The frequency is possible.
        channel_frequency_ok: bool,
        /// The data rate is possible.
        data_rate_ok: bool,
    },
    /// 0x12: the device asks when the next beacon comes; deprecated since 1.0.3, and answered with silence.
    BeaconTimingReq,
    /// 0x13: whether the device took the frequency of the beacon.
    BeaconFreqAns {
        /// The frequency is possible.
        beacon_frequency_ok: bool,
    },
}

/// A command from the network to an end-device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DownlinkMacCommand<'a> {
    /// 0x02: how well the device is heard.
    LinkCheckAns {
        /// Margin above the demodulation floor of the best gateway, in dB, 0 to 254.
        margin: u8,
        /// How many gateways heard the request.
        gw_cnt: u8,
    },
    /// 0x03: data rate, power, channels and repetitions.
    LinkAdrReq(LinkAdrReq),
    /// 0x0D: GPS time at the end of the uplink that asked.
    DeviceTimeAns {
        /// Seconds since the GPS epoch, modulo 2^32.
        gps_seconds: u32,
        /// Units of 1/256 s.
        fraction: u8,
    },
    /// 0x10: the periodicity is known.
    PingSlotInfoAns,
    /// Any other known command, by its payload.
    Other {
        /// Which.
        cid: u8,
        /// What follows the `CID`.
        payload: &'a [u8],
    },
}

/// Parameters of a `LinkADRReq` (LoRaWAN 1.0.4 §5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkAdrReq {
    /// 0 to 15; 15 keeps the one in use.
    pub data_rate: u8,
    /// 0 to 15; 15 keeps the one in use.
    pub tx_power: u8,
    /// Channels of the block `ch_mask_cntl` tells, the first in the lowest bit.
    pub ch_mask: u16,
    /// 0 to 7.
    pub ch_mask_cntl: u8,
    /// How often an uplink is sent, 1 to 15; 0 keeps the number in use (1.0.4) or means one.
    pub nb_trans: u8,
}

/// The commands found in bytes, and how much of them could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MacCommands<C> {
    /// In the order of the wire.
    pub commands: Vec<C>,
    /// Bytes from the first unknown or truncated command on; 0 if all was read.
    pub unread: usize,
}

impl UplinkMacCommand {
    /// Reads all commands of an uplink's `FOpts` or port 0 payload.
    #[must_use]
    pub fn parse_all(bytes: &[u8]) -> MacCommands<Self> {
        walk(bytes, uplink_payload_length, |cid, payload| {
            Self::from_parts(cid, payload)
        })
    }

    /// Appends the command as it is on the wire. Values are cut to the width of their field.
    pub fn encode(self, out: &mut Vec<u8>) {
        match self {
            Self::LinkCheckReq => out.push(0x02),
            Self::LinkAdrAns {
                channel_mask_ack,
                data_rate_ack,
                power_ack,
            } => {
                out.extend([0x03, bits([channel_mask_ack, data_rate_ack, power_ack])]);
            }
            Self::DutyCycleAns => out.push(0x04),
            Self::RxParamSetupAns {
                channel_ack,
                rx2_data_rate_ack,
                rx1_dr_offset_ack,
            } => {
                out.extend([
                    0x05,
                    bits([channel_ack, rx2_data_rate_ack, rx1_dr_offset_ack]),
                ]);
            }
            Self::DevStatusAns {
                battery,
                snr_margin,
            } => {
                out.extend([0x06, battery, snr_margin.cast_unsigned() & 0x3f]);
            }
            Self::NewChannelAns {
                channel_frequency_ok,
                data_rate_range_ok,
            } => {
                out.extend([
                    0x07,
                    bits([channel_frequency_ok, data_rate_range_ok, false]),
                ]);
            }
            Self::RxTimingSetupAns => out.push(0x08),
            Self::TxParamSetupAns => out.push(0x09),
            Self::DlChannelAns {
                channel_frequency_ok,
                uplink_frequency_exists,
            } => {
                out.extend([
                    0x0a,
                    bits([channel_frequency_ok, uplink_frequency_exists, false]),
                ]);
            }
            Self::DeviceTimeReq => out.push(0x0d),
            Self::PingSlotInfoReq { periodicity } => out.extend([0x10, periodicity & 0x07]),
            Self::PingSlotChannelAns {
                channel_frequency_ok,
                data_rate_ok,
            } => {
                out.extend([0x11, bits([channel_frequency_ok, data_rate_ok, false])]);
            }
            Self::BeaconTimingReq => out.push(0x12),
            Self::BeaconFreqAns {
                beacon_frequency_ok,
            } => {
                out.extend([0x13, bits([beacon_frequency_ok, false, false])]);
            }
        }
    }

    fn from_parts(cid: u8, payload: &[u8]) -> Option<Self> {
        let bit = |n: u8| payload.first().is_some_and(|byte| byte >> n & 1 == 1);
        Some(match (cid, payload) {
            (0x02, []) => Self::LinkCheckReq,
            (0x03, [_]) => Self::LinkAdrAns {
                channel_mask_ack: bit(0),
                data_rate_ack: bit(1),
                power_ack: bit(2),
            },
            (0x04, []) => Self::DutyCycleAns,
            (0x05, [_]) => Self::RxParamSetupAns {
                channel_ack: bit(0),
                rx2_data_rate_ack: bit(1),
                rx1_dr_offset_ack: bit(2),
            },
            // Six bits of two's complement: shifted up, then down with the sign.
            (0x06, &[battery, margin]) => Self::DevStatusAns {
                battery,
                snr_margin: (margin << 2).cast_signed() >> 2,
            },
            (0x07, [_]) => Self::NewChannelAns {
                channel_frequency_ok: bit(0),
                data_rate_range_ok: bit(1),
            },
            (0x08, []) => Self::RxTimingSetupAns,
            (0x09, []) => Self::TxParamSetupAns,
            (0x0a, [_]) => Self::DlChannelAns {
                channel_frequency_ok: bit(0),
                uplink_frequency_exists: bit(1),
            },
            (0x0d, []) => Self::DeviceTimeReq,
            (0x10, &[param]) => Self::PingSlotInfoReq {
                periodicity: param & 0x07,
            },
            (0x11, [_]) => Self::PingSlotChannelAns {
                channel_frequency_ok: bit(0),
                data_rate_ok: bit(1),
            },
            (0x12, []) => Self::BeaconTimingReq,
            (0x13, [_]) => Self::BeaconFreqAns {
                beacon_frequency_ok: bit(0),
            },
            _ => return None,
        })
    }
}

impl<'a> DownlinkMacCommand<'a> {
    /// Reads all commands of a downlink's `FOpts` or port 0 payload.
    #[must_use]
    pub fn parse_all(bytes: &'a [u8]) -> MacCommands<Self> {
        walk(bytes, downlink_payload_length, |cid, payload| {
            Some(Self::from_parts(cid, payload))
        })
    }

    /// Appends the command as it is on the wire. Values are cut to the width of their field.
    pub fn encode(self, out: &mut Vec<u8>) {
        match self {
            Self::LinkCheckAns { margin, gw_cnt } => out.extend([0x02, margin, gw_cnt]),
            Self::LinkAdrReq(request) => {
                let [mask_low, mask_high] = request.ch_mask.to_le_bytes();
                let rate_and_power = request.data_rate << 4 | request.tx_power & 0x0f;
                let redundancy = (request.ch_mask_cntl & 0x07) << 4 | request.nb_trans & 0x0f;
                out.extend([0x03, rate_and_power, mask_low, mask_high, redundancy]);
            }
            Self::DeviceTimeAns {
                gps_seconds,
                fraction,
            } => {
                out.push(0x0d);
                out.extend(gps_seconds.to_le_bytes());
                out.push(fraction);
            }
            Self::PingSlotInfoAns => out.push(0x10),
            Self::Other { cid, payload } => {
                out.push(cid);
                out.extend(payload);
            }
        }
    }

    fn from_parts(cid: u8, payload: &'a [u8]) -> Self {
        match (cid, payload) {
            (0x02, &[margin, gw_cnt]) => Self::LinkCheckAns { margin, gw_cnt },
            (0x03, &[rate_and_power, mask_low, mask_high, redundancy]) => {
                Self::LinkAdrReq(LinkAdrReq {
                    data_rate: rate_and_power >> 4,
                    tx_power: rate_and_power & 0x0f,
                    ch_mask: u16::from_le_bytes([mask_low, mask_high]),
                    ch_mask_cntl: redundancy >> 4 & 0x07,
                    nb_trans: redundancy & 0x0f,
                })
            }
            (0x0d, &[a, b, c, d, fraction]) => Self::DeviceTimeAns {
                gps_seconds: u32::from_le_bytes([a, b, c, d]),
                fraction,
            },
            (0x10, []) => Self::PingSlotInfoAns,
            _ => Self::Other { cid, payload },
        }
    }
}

/// Bytes after the `CID` of a command from a device; `None` if the command is unknown.
#[must_use]
pub const fn uplink_payload_length(cid: u8) -> Option<usize> {
    Some(match cid {
        0x02 | 0x04 | 0x08 | 0x09 | 0x0d | 0x12 => 0,
        0x03 | 0x05 | 0x07 | 0x0a | 0x10 | 0x11 | 0x13 => 1,
        0x06 => 2,
        _ => return None,
    })
}

/// Bytes after the `CID` of a command to a device; `None` if the command is unknown.
#[must_use]
pub const fn downlink_payload_length(cid: u8) -> Option<usize> {
    Some(match cid {
        0x06 | 0x10 => 0,
        0x04 | 0x08 | 0x09 => 1,
        0x02 => 2,
        0x12 | 0x13 => 3,
        0x03 | 0x05 | 0x0a | 0x11 => 4,
        0x07 | 0x0d => 5,
        _ => return None,
    })
}

fn walk<'a, C>(
    bytes: &'a [u8],
    payload_length: impl Fn(u8) -> Option<usize>,
    read: impl Fn(u8, &'a [u8]) -> Option<C>,
) -> MacCommands<C> {
    let mut commands = Vec::new();
    let mut left = bytes;
    while let Some((&cid, after)) = left.split_first() {
        let Some((payload, rest)) =
            payload_length(cid).and_then(|length| after.split_at_checked(length))
        else {
            break;
        };
        let Some(command) = read(cid, payload) else {
            break;
        };
        commands.push(command);
        left = rest;
    }
    MacCommands {
        commands,
        unread: left.len(),
    }
}

fn bits(flags: [bool; 3]) -> u8 {
    u8::from(flags[0]) | u8::from(flags[1]) << 1 | u8::from(flags[2]) << 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_uplink_is_walked_to_its_end() {
        let found =
            UplinkMacCommand::parse_all(&[0x02, 0x03, 0x05, 0x06, 0xff, 0x3f, 0x0d, 0x10, 0x0c]);
        assert_eq!(
            found.commands,
            [
                UplinkMacCommand::LinkCheckReq,
                UplinkMacCommand::LinkAdrAns {
                    channel_mask_ack: true,
                    data_rate_ack: false,
                    power_ack: true
                },
                UplinkMacCommand::DevStatusAns {
                    battery: 255,
                    snr_margin: -1
                },
                UplinkMacCommand::DeviceTimeReq,
                UplinkMacCommand::PingSlotInfoReq { periodicity: 4 },
            ]
        );
        assert_eq!(found.unread, 0);
    }

    #[test]
    fn an_unknown_or_cut_command_ends_the_walk() {
        let unknown = UplinkMacCommand::parse_all(&[0x02, 0x80, 0x02]);
        assert_eq!((unknown.commands.len(), unknown.unread), (1, 2));
        let cut = UplinkMacCommand::parse_all(&[0x0d, 0x06, 0xff]);
        assert_eq!((cut.commands.len(), cut.unread), (1, 2));
        let cut = DownlinkMacCommand::parse_all(&[0x0d, 1, 2, 3, 4]);
        assert_eq!((cut.commands.len(), cut.unread), (0, 5));
    }

    #[test]
    fn answers_of_the_server_have_their_known_bytes() {
        let answers = [
            DownlinkMacCommand::LinkCheckAns {
                margin: 10,
                gw_cnt: 15,
            },
            DownlinkMacCommand::DeviceTimeAns {
                gps_seconds: 0x0403_0201,
                fraction: 0x80,
            },
            DownlinkMacCommand::LinkAdrReq(LinkAdrReq {
                data_rate: 5,
                tx_power: 1,
                ch_mask: 0x0007,
                ch_mask_cntl: 6,
                nb_trans: 2,
            }),
            DownlinkMacCommand::PingSlotInfoAns,
            DownlinkMacCommand::Other {
                cid: 0x08,
                payload: &[5],
            },
        ];
        let mut bytes = Vec::new();
        answers.iter().for_each(|answer| answer.encode(&mut bytes));
        let expected = [
            0x02, 10, 15, 0x0d, 1, 2, 3, 4, 0x80, 0x03, 0x51, 0x07, 0x00, 0x62, 0x10, 0x08, 0x05,
        ];
        assert_eq!(bytes, expected);
        let read = DownlinkMacCommand::parse_all(&bytes);
        assert_eq!((read.commands.as_slice(), read.unread), (&answers[..], 0));
    }

    #[test]
    fn the_margin_keeps_its_sign() {
        for snr_margin in -32..=31 {
            let command = UplinkMacCommand::DevStatusAns {
                battery: 0,
                snr_margin,
            };
            let mut bytes = Vec::new();
            command.encode(&mut bytes);
            assert_eq!(UplinkMacCommand::parse_all(&bytes).commands, [command]);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_and_kept(bytes in proptest::collection::vec(0u8..0x16, 0..243)) {
            let up = UplinkMacCommand::parse_all(&bytes);
            let mut again = Vec::new();
            up.commands.iter().for_each(|command| command.encode(&mut again));
            prop_assert_eq!(again.len() + up.unread, bytes.len());
            prop_assert_eq!(&UplinkMacCommand::parse_all(&again).commands, &up.commands);

            let down = DownlinkMacCommand::parse_all(&bytes);
            let mut again = Vec::new();
            down.commands.iter().for_each(|command| command.encode(&mut again));
            prop_assert_eq!(again.len() + down.unread, bytes.len());
            prop_assert_eq!(&DownlinkMacCommand::parse_all(&again).commands, &down.commands);
        }
    }
}
