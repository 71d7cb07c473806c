//! From a gateway's message to an accepted uplink: parse, find the sender, move its counter, open its receive windows.

use super::Native;
use super::deduplication::{Copy, Taken};
use super::mac;
use super::receive_windows::{HeardUplink, Window};
use super::sessions::Match;
use super::{GatewayMessage, ReceivedFrame};
use crate::lorawan::airtime::DataRate;
use crate::lorawan::frame::{DataFrame, Direction, Frame};
use crate::lorawan::identifiers::{DevEui, GatewayEui};
use crate::lorawan::region::Region;
use crate::network::NetworkEvent;
use crate::record::{Heard, Reception, Uplink};
use crate::time::Timestamp;

/// How often the same confirmed uplink is acknowledged: as often as a device may repeat it, and no more, for a replayed
/// frame would draw on the air for ever.
const MAX_REPEATS_ANSWERED: u8 = 8;

/// A frame with all its copies.
#[derive(Clone, Debug)]
pub(super) struct HeardFrame {
    pub(super) received_at: Timestamp,
    frequency_hz: u32,
    data_rate: DataRate,
    gateways: Vec<(GatewayEui, u32)>,
    pub(super) receptions: Vec<Reception>,
}

impl HeardFrame {
    /// The uplink as its receive windows see it.
    pub(super) fn uplink(&self, data_rate: u8) -> HeardUplink {
        HeardUplink {
            received_at: self.received_at,
            frequency_hz: self.frequency_hz,
            data_rate,
            gateways: self.gateways.clone(),
        }
    }

    /// The index of its data rate, if the region has such uplinks.
    pub(super) fn data_rate_index(&self, region: Region) -> Option<u8> {
        region.data_rate_index(self.data_rate, Direction::Uplink)
    }
}

impl Native {
    /// Takes in what a gateway said.
    pub(super) fn take_message(&mut self, message: GatewayMessage) {
        let (eui, at) = match &message {
            GatewayMessage::Alive { gateway, at }
            | GatewayMessage::Malformed { gateway, at }
            | GatewayMessage::TxAck { gateway, at, .. } => (*gateway, *at),
            GatewayMessage::Received(frame) => (frame.gateway, frame.at),
        };
        let Some(gateway) = self.air.gateways.get_mut(&eui) else {
            self.counters.not_allow_listed += 1;
            return;
        };
        if matches!(message, GatewayMessage::Malformed { .. }) {
            gateway.status_mut().counters.malformed += 1;
            return;
        }
        if gateway.heard(at) {
            self.events.push(NetworkEvent::GatewaySeen(eui));
        }
        match message {
            GatewayMessage::Alive { .. } | GatewayMessage::Malformed { .. } => {}
            GatewayMessage::TxAck { id, result, .. } => {
                if !self.air.tx_ack(eui, id, result) {
                    self.counters.stray_tx_acks += 1;
                }
            }
            GatewayMessage::Received(frame) => {
                self.counters.received += 1;
                gateway.status_mut().counters.received += 1;
                gateway.clock.observe(frame.counter_us, at);
                if let Some(gps) = frame.gps {
                    gateway.tells_time(gps, at);
                }
                let received_at = gateway.clock.time_of(frame.counter_us, at);
                self.take_copy(Copy { frame, received_at });
            }
        }
    }

    /// A frame whose copies are all there.
    pub(super) fn take_frame(&mut self, now: Timestamp, copies: &[Copy]) {
        let Some(best) = copies.first() else {
            return;
        };
        let heard = HeardFrame {
            received_at: best.received_at,
            frequency_hz: best.frame.frequency_hz,
            data_rate: best.frame.data_rate,
            gateways: copies
                .iter()
                .map(|copy| (copy.frame.gateway, copy.frame.counter_us))
                .collect(),
            receptions: copies.iter().map(|copy| reception(&copy.frame)).collect(),
        };
        match Frame::parse(&best.frame.phy_payload) {
            Ok(Frame::JoinRequest(request)) => self.join_request(now, &request, &heard),
            Ok(Frame::Data(frame)) if frame.direction == Direction::Uplink => {
                self.data_uplink(&frame, &heard);
            }
            _ => self.counters.malformed += 1,
        }
    }

    fn take_copy(&mut self, copy: Copy) {
        match self.deduplication.take(copy) {
            Taken::Waiting => {}
            Taken::Joined => self.counters.copies += 1,
            Taken::Late => self.counters.late_copies += 1,
            Taken::Overflow => self.counters.overflow += 1,
        }
    }

    fn data_uplink(&mut self, frame: &DataFrame, heard: &HeardFrame) {
        match self.devices.identify(frame) {
            Match::Fresh { dev_eui, f_cnt } => self.accept(dev_eui, f_cnt, frame, heard),
            Match::Restarted { dev_eui, f_cnt } => {
                self.counters.f_cnt_restarts += 1;
                // Once: the next restart needs another reboot.
                if let Some(device) = self.devices.get_mut(dev_eui) {
                    device.link.f_cnt_reset_allowed = false;
                }
                self.events.push(NetworkEvent::CounterRestarted(dev_eui));
                self.accept(dev_eui, f_cnt, frame, heard);
            }
            Match::Repeated { dev_eui, f_cnt } => {
                self.counters.repeated += 1;
                self.repeat(dev_eui, f_cnt, frame, heard);
            }
            Match::Replayed => self.counters.replayed += 1,
            Match::WrongMic => self.counters.wrong_mic += 1,
            Match::UnknownAddress => self.counters.unknown_address += 1,
        }
    }

    fn accept(&mut self, dev_eui: DevEui, f_cnt: u32, frame: &DataFrame, heard: &HeardFrame) {
        let Some(data_rate) = self.data_rate_of(dev_eui, heard) else {
            self.counters.unknown_data_rate += 1;
            return;
        };
        let Some(session) = self.devices.session_mut(dev_eui) else {
            return;
        };
        session.f_cnt_up = Some(f_cnt);
        let on_port_0 = frame.f_port == Some(0);
        let key = if on_port_0 {
            &session.nwk_s_key
        } else {
            &session.app_s_key
        };
        let clear = frame.decrypt(key, f_cnt);
        let (commands, payload) = if on_port_0 {
            (clear, Vec::new())
        } else {
            (frame.f_opts.clone(), clear)
        };
        if let Some(device) = self.devices.get_mut(dev_eui) {
            device.heard_by.clone_from(&heard.receptions);
            device.repeats_answered = 0;
        }
        let answers = self.mac_answers(&commands, heard);
        self.open_window(dev_eui, f_cnt, frame, heard.uplink(data_rate), answers);
        self.counters.uplinks += 1;
        self.events.push(NetworkEvent::Heard(Heard::Uplink(Uplink {
            dev_eui,
            f_cnt,
            f_port: frame.f_port,
            payload,
            received_at: heard.received_at,
            data_rate,
            frequency_hz: heard.frequency_hz,
            confirmed: frame.confirmed,
            class_b: frame.f_ctrl.f_pending_or_class_b,
            asked_time: mac::asks_time(&commands),
            receptions: heard.receptions.clone(),
        })));
    }

    /// The last frame again: the device opens its windows once more, and is answered where it still wants an answer.
    fn repeat(&mut self, dev_eui: DevEui, f_cnt: u32, frame: &DataFrame, heard: &HeardFrame) {
        let Some(data_rate) = self.data_rate_of(dev_eui, heard) else {
            self.counters.unknown_data_rate += 1;
            return;
        };
        let Some(device) = self.devices.get_mut(dev_eui) else {
            return;
        };
        let answered = device.window.as_ref().is_some_and(|window| window.used);
        let bounded = device.repeats_answered >= MAX_REPEATS_ANSWERED;
        if bounded || answered && !frame.confirmed {
            return;
        }
        device.repeats_answered += 1;
        let commands = match (frame.f_port, &device.session) {
            (Some(0), Some(session)) => frame.decrypt(&session.nwk_s_key, f_cnt),
            _ => frame.f_opts.clone(),
        };
        let answers = if answered {
            Vec::new()
        } else {
            self.mac_answers(&commands, heard)
        };
        self.open_window(dev_eui, f_cnt, frame, heard.uplink(data_rate), answers);
    }

    fn open_window(
        &mut self,
        dev_eui: DevEui,
        f_cnt: u32,
        frame: &DataFrame,
        uplink: HeardUplink,
        answers: Vec<u8>,
    ) {
        if frame.confirmed || frame.f_ctrl.adr_ack_req || !answers.is_empty() {
            self.unanswered.insert(dev_eui);
        }
        if let Some(device) = self.devices.get_mut(dev_eui) {
            device.window = Some(Window {
                f_cnt,
                uplink,
                ack: frame.confirmed,
                answers,
                used: false,
            });
        }
    }

    fn mac_answers(&mut self, commands: &[u8], heard: &HeardFrame) -> Vec<u8> {
        let (answers, unread) = mac::answer(
            commands,
            &mac::Heard {
                received_at: heard.received_at,
                data_rate: heard.data_rate,
                snr_db: heard.receptions.first().map_or(0.0, |best| best.snr_db),
                gateways: heard.receptions.len(),
            },
        );
        self.counters.unread_mac_bytes += u64::try_from(unread).unwrap_or(u64::MAX);
        answers
    }

    fn data_rate_of(&self, dev_eui: DevEui, heard: &HeardFrame) -> Option<u8> {
        heard.data_rate_index(self.devices.get(dev_eui)?.link.region)
    }
}

fn reception(frame: &ReceivedFrame) -> Reception {
    Reception {
        gateway: frame.gateway,
        rssi_dbm: frame.rssi_dbm,
        snr_db: frame.snr_db,
    }
}
