//! MAC commands of end-devices and what the network answers: LinkCheckReq, DeviceTimeReq, PingSlotInfoReq. Every other
//! command is an answer to something this server does not ask, and is consumed.

use crate::lorawan::airtime::DataRate;
use crate::lorawan::mac_commands::{DownlinkMacCommand, UplinkMacCommand};
use crate::time::Timestamp;

/// What the network side knows of an uplink that carried commands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Heard {
    /// End of reception.
    pub(super) received_at: Timestamp,
    pub(super) data_rate: DataRate,
    /// Of the best gateway.
    pub(super) snr_db: f32,
    pub(super) gateways: usize,
}

/// Answers as they are on the wire, and how many bytes of the commands were unreadable. At most 10 bytes: each command
/// is answered once, however often it stands in the uplink.
pub(super) fn answer(commands: &[u8], heard: &Heard) -> (Vec<u8>, usize) {
    let parsed = UplinkMacCommand::parse_all(commands);
    let asks = |wanted: fn(&UplinkMacCommand) -> bool| parsed.commands.iter().any(wanted);
    let mut answers = Vec::new();
    if asks(|command| matches!(command, UplinkMacCommand::LinkCheckReq)) {
        DownlinkMacCommand::LinkCheckAns {
            margin: margin_db(heard),
            gw_cnt: u8::try_from(heard.gateways).unwrap_or(u8::MAX),
        }
        .encode(&mut answers);
    }
    if asks(|command| matches!(command, UplinkMacCommand::DeviceTimeReq)) {
        device_time(heard.received_at).encode(&mut answers);
    }
    if asks(|command| matches!(command, UplinkMacCommand::PingSlotInfoReq { .. })) {
        DownlinkMacCommand::PingSlotInfoAns.encode(&mut answers);
    }
    (answers, parsed.unread)
}

/// Whether an uplink's commands ask for the time.
pub(super) fn asks_time(commands: &[u8]) -> bool {
    let parsed = UplinkMacCommand::parse_all(commands).commands;
    parsed.contains(&UplinkMacCommand::DeviceTimeReq)
}

fn device_time(at: Timestamp) -> DownlinkMacCommand<'static> {
    let gps = at.to_gps();
    let micros = gps.as_micros().rem_euclid(1_000_000);
    DownlinkMacCommand::DeviceTimeAns {
        gps_seconds: gps.wire_seconds(),
        // Below 256, because the microseconds are below a million.
        fraction: u8::try_from(micros * 256 / 1_000_000).unwrap_or(u8::MAX),
    }
}

/// Signal above the demodulation floor: -7.5 dB at SF7, 2.5 dB less for each step up. FSK has no such figure.
fn margin_db(heard: &Heard) -> u8 {
    let DataRate::Lora {
        spreading_factor, ..
    } = heard.data_rate
    else {
        return 0;
    };
    let floor = -7.5 - 2.5 * (f32::from(spreading_factor.bits()) - 7.0);
    let margin = heard.snr_db - floor;
    (0..=254)
        .rev()
        .find(|&whole| f32::from(whole) <= margin)
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(data_rate: &str, snr_db: f32) -> Heard {
        Heard {
            // GPS time is 18 s ahead of UTC since 2017.
            received_at: Timestamp::from_micros(
                (315_964_800 + 1_400_000_000 - 18) * 1_000_000 + 500_000,
            ),
            data_rate: data_rate.parse().unwrap(),
            snr_db,
            gateways: 3,
        }
    }

    #[test]
    fn questions_are_answered_once_each() {
        let (answers, unread) = answer(
            &[0x02, 0x0d, 0x02, 0x10, 0x03, 0x06, 0xff, 0x01],
            &heard("SF10BW125", 3.0),
        );
        let mut expected = vec![0x02, 18, 3, 0x0d];
        expected.extend(1_400_000_000u32.to_le_bytes());
        expected.extend([0x80, 0x10]);
        assert_eq!((answers, unread), (expected, 0));
    }

    #[test]
    fn answers_of_devices_are_consumed_and_garbage_is_counted() {
        assert_eq!(
            answer(&[0x03, 0x07, 0x06, 0xff, 0x01], &heard("SF7BW125", 0.0)),
            (vec![], 0)
        );
        assert_eq!(answer(&[0x02, 0xee, 0x02], &heard("50000", 0.0)).1, 2);
    }

    #[test]
    fn the_margin_counts_from_the_demodulation_floor() {
        for (rate, snr, margin) in [
            ("SF7BW125", -7.5, 0),
            ("SF7BW125", -20.0, 0),
            ("SF12BW125", -20.0, 0),
            ("SF12BW125", 10.0, 30),
            ("SF7BW125", 1e9, 254),
            ("SF7BW125", f32::NAN, 0),
            ("50000", 10.0, 0),
        ] {
            assert_eq!(margin_db(&heard(rate, snr)), margin, "{rate} {snr}");
        }
    }
}
