//! MAC commands on the device: answers to what the network asks, and its own requests.
//!
//! LoRaWAN 1.0.4 §5. Channel masks and new channels are acknowledged and otherwise ignored: the simulated device stays
//! on the channels it was given.

use std::time::Duration;

use lorawan_fuota::lorawan::airtime::DataRate;
use lorawan_fuota::lorawan::frame::{Direction, MAX_F_OPTS_LENGTH};
use lorawan_fuota::lorawan::mac_commands::{DownlinkMacCommand, LinkAdrReq, UplinkMacCommand};
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::time::{GpsTime, Timestamp};

use super::environment::Environment;
use super::outbox::Tag;

/// Battery level reported: external power.
const EXTERNAL_POWER: u8 = 0;

/// Radio parameters the network may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parameters {
    pub(super) rx1_delay: Duration,
    pub(super) rx1_dr_offset: u8,
    pub(super) rx2_hz: u32,
    pub(super) rx2_dr: u8,
    pub(super) uplink_dr: u8,
}

impl Parameters {
    pub(super) fn new(region: Region, uplink_dr: u8) -> Self {
        let (rx2_hz, rx2_dr) = region.rx2();
        Self {
            rx1_delay: Duration::from_micros(region.rx1_delay_us().into()),
            rx1_dr_offset: 0,
            rx2_hz,
            rx2_dr,
            uplink_dr,
        }
    }

    pub(super) fn rx2_data_rate(&self, region: Region) -> Option<DataRate> {
        region.data_rate(self.rx2_dr, Direction::Downlink)
    }
}

/// The MAC layer's memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Mac {
    /// Encoded answers waiting for an uplink.
    answers: Vec<Vec<u8>>,
    /// The time is wanted.
    wants_time: bool,
    /// The uplink being made asks for the time.
    asks_time: bool,
    /// End of the uplink that carried the last `DeviceTimeReq`.
    time_asked_at: Option<Timestamp>,
    wants_link_check: bool,
}

impl Mac {
    pub(super) fn want_time(&mut self) {
        self.wants_time = true;
    }

    pub(super) fn want_link_check(&mut self) {
        self.wants_link_check = true;
    }

    /// Takes what fits the `FOpts` of an uplink. Its end is told by [`Mac::sent_until`] once it is known.
    pub(super) fn take_f_opts(&mut self, room: usize) -> Vec<u8> {
        let room = room.min(MAX_F_OPTS_LENGTH);
        let mut f_opts = Vec::new();
        self.answers.retain(|answer| {
            let fits = f_opts.len() + answer.len() <= room;
            if fits {
                f_opts.extend(answer);
            }
            !fits
        });
        if self.wants_time && f_opts.len() < room {
            UplinkMacCommand::DeviceTimeReq.encode(&mut f_opts);
            self.asks_time = true;
        }
        if self.wants_link_check && f_opts.len() < room {
            UplinkMacCommand::LinkCheckReq.encode(&mut f_opts);
            self.wants_link_check = false;
        }
        f_opts
    }

    /// The uplink made last ends then.
    pub(super) fn sent_until(&mut self, end: Timestamp) {
        if std::mem::take(&mut self.asks_time) {
            self.time_asked_at = Some(end);
        }
    }

    /// Whether answers wait.
    pub(super) fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    pub(super) fn handle(
        &mut self,
        commands: &[u8],
        parameters: &mut Parameters,
        environment: &mut Environment<'_>,
    ) {
        let parsed = DownlinkMacCommand::parse_all(commands);
        if parsed.unread > 0 {
            environment.note(format_args!(
                "{} bytes of MAC commands unread",
                parsed.unread
            ));
        }
        for command in parsed.commands {
            let answer = match command {
                DownlinkMacCommand::LinkCheckAns { margin, gw_cnt } => {
                    environment.note(format_args!(
                        "heard by {gw_cnt} gateways, margin {margin} dB"
                    ));
                    continue;
                }
                DownlinkMacCommand::DeviceTimeAns {
                    gps_seconds,
                    fraction,
                } => {
                    self.set_clock(gps_seconds, fraction, environment);
                    continue;
                }
                DownlinkMacCommand::LinkAdrReq(request) => {
                    link_adr(request, parameters, environment)
                }
                DownlinkMacCommand::PingSlotInfoAns => continue,
                DownlinkMacCommand::Other { cid, payload } => {
                    match other(cid, payload, parameters, environment.config.region) {
                        Some(answer) => answer,
                        None => continue,
                    }
                }
            };
            let mut bytes = Vec::new();
            answer.encode(&mut bytes);
            self.answers.push(bytes);
        }
    }

    /// `DeviceTimeAns` tells the time at the end of the uplink that asked (LoRaWAN 1.0.4 §5.9).
    fn set_clock(&mut self, gps_seconds: u32, fraction: u8, environment: &mut Environment<'_>) {
        let Some(asked_at) = self.time_asked_at.take() else {
            environment.note("time that was not asked for");
            return;
        };
        self.wants_time = false;
        let near = asked_at.to_gps();
        let told = GpsTime::from_wire_seconds(gps_seconds, near).as_micros();
        let told = told.saturating_add(i64::from(fraction) * 1_000_000 / 256);
        environment.clock.set(asked_at, told);
        environment.note("clock set by the network");
        environment.outbox.withdraw(Tag::AppTimeReq);
    }
}

fn link_adr(
    request: LinkAdrReq,
    parameters: &mut Parameters,
    environment: &mut Environment<'_>,
) -> UplinkMacCommand {
    let region = environment.config.region;
    let keeps = request.data_rate == 15;
    let data_rate_ack = keeps
        || region
            .max_payload(request.data_rate, Direction::Uplink, false)
            .is_some();
    if data_rate_ack && !keeps {
        parameters.uplink_dr = request.data_rate;
        environment.note(format_args!("data rate {} set", request.data_rate));
    }
    UplinkMacCommand::LinkAdrAns {
        channel_mask_ack: true,
        data_rate_ack,
        power_ack: true,
    }
}

/// The commands by their payload; `None` for those of class B, which the device does not know.
fn other(
    cid: u8,
    payload: &[u8],
    parameters: &mut Parameters,
    region: Region,
) -> Option<UplinkMacCommand> {
    Some(match (cid, payload) {
        (0x04, [_]) => UplinkMacCommand::DutyCycleAns,
        (0x05, &[settings, a, b, c]) => rx_param_setup(settings, [a, b, c], parameters, region),
        (0x06, []) => UplinkMacCommand::DevStatusAns {
            battery: EXTERNAL_POWER,
            snr_margin: 10,
        },
        (0x07, _) => UplinkMacCommand::NewChannelAns {
            channel_frequency_ok: true,
            data_rate_range_ok: true,
        },
        (0x08, &[settings]) => {
            parameters.rx1_delay = rx1_delay(settings & 0x0f);
            UplinkMacCommand::RxTimingSetupAns
        }
        (0x09, [_]) => UplinkMacCommand::TxParamSetupAns,
        (0x0a, _) => UplinkMacCommand::DlChannelAns {
            channel_frequency_ok: true,
            uplink_frequency_exists: true,
        },
        _ => return None,
    })
}

fn rx_param_setup(
    settings: u8,
    frequency: [u8; 3],
    parameters: &mut Parameters,
    region: Region,
) -> UplinkMacCommand {
    let [a, b, c] = frequency;
    let rx2_hz = u32::from_le_bytes([a, b, c, 0]).saturating_mul(100);
    let (offset, rx2_dr) = (settings >> 4 & 0x07, settings & 0x0f);
    let channel_ack = region.sub_band(rx2_hz, 0).is_some();
    let rx2_data_rate_ack = region.data_rate(rx2_dr, Direction::Downlink).is_some();
    if channel_ack && rx2_data_rate_ack {
        parameters.rx1_dr_offset = offset;
        parameters.rx2_hz = rx2_hz;
        parameters.rx2_dr = rx2_dr;
    }
    UplinkMacCommand::RxParamSetupAns {
        channel_ack,
        rx2_data_rate_ack,
        rx1_dr_offset_ack: true,
    }
}

/// `Del` of `RXTimingSetupReq` and `RxDelay` of a join-accept: seconds, 0 means 1.
pub(super) fn rx1_delay(delay: u8) -> Duration {
    Duration::from_secs(delay.max(1).into())
}
