//! Our own small network server: LoRaWAN 1.0.x behind plain gateways. PURE core; the transports are beside it.
//!
//! One step: `listen` takes messages in (`uplinks`, `joins`: de-duplication, sender, counters, receive windows), `send`
//! decides what leaves (`downlinks` for one device, `groups` for many) and returns every change that has to be
//! committed before it does. `air` finds a start that is free, legal and in the operator's share, with `schedule` (what
//! is on air when), `ledger` (the duty cycle) and `clock` (a gateway's counter against server time); `turns` says which
//! gateways of a group send together, in class B in which ping slot.
//!
//! Not here: LoRaWAN 1.1, adaptive data rate. Records live in the snapshot and the changes; what is in memory
//! only (windows, reservations, queues) may be lost with the process at any time.

mod air;
mod clock;
mod counters;
mod deduplication;
mod downlinks;
mod gateway_message;
mod gateways;
mod gps;
mod groups;
mod joins;
mod ledger;
mod mac;
mod packets;
mod receive_windows;
mod schedule;
pub mod semtech;
mod sessions;
mod turns;
pub mod udp;
mod uplinks;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use self::air::{Air, AirConfig};
use self::deduplication::Deduplication;
use self::gateways::GatewayState;
use self::groups::Groups;
use self::schedule::Gaps;
use self::sessions::Devices;
use super::{Network, NetworkCommand, NetworkCounters, NetworkEvent, Sending};
use crate::lorawan::identifiers::{DevAddr, DevEui, GatewayEui};
use crate::record::{
    AirLedger, ClockReading, Gateway, GatewayStatus, McGroup, NetworkRequest, Snapshot, Target,
};
use crate::time::Timestamp;

pub use counters::NativeCounters;
pub use gateway_message::{
    GatewayCommand, GatewayMessage, ReceivedFrame, TransmissionId, When, refusal_of_word,
    refusal_word,
};

/// Addresses a network may give out: those that begin with a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DevAddrPrefix {
    prefix: u32,
    bits: u8,
}

impl DevAddrPrefix {
    /// The addresses whose first `bits` (0..=31, more count as 31) are those of `prefix`.
    pub fn new(prefix: DevAddr, bits: u8) -> Self {
        let bits = bits.min(31);
        let mut all = Self { prefix: 0, bits };
        all.prefix = prefix.0 & !all.host_mask();
        all
    }

    /// The address of this prefix with the low bits of `host`.
    fn address(self, host: u32) -> DevAddr {
        DevAddr(self.prefix | host & self.host_mask())
    }

    fn host_mask(self) -> u32 {
        u32::MAX >> self.bits
    }
}

/// Settings of the network server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NativeConfig {
    /// NetID, 24 bits.
    pub net_id: u32,
    /// Where addresses of joining devices come from.
    pub dev_addr_prefix: DevAddrPrefix,
    /// How long copies of a frame are waited for.
    pub deduplication_window: Duration,
    /// How long after handing over a frame its `TX_ACK` is waited for.
    pub tx_ack_timeout: Duration,
    /// A gateway not heard for so long is absent.
    pub gateway_liveness: Duration,
    /// Least time between handing over a timed frame and its start; less is too late.
    pub min_lead: Duration,
    /// Pause between two frames of a gateway that start by its counter.
    pub frame_gap: Duration,
    /// Pause beside a frame that starts when the gateway gets it.
    pub immediate_gap: Duration,
    /// US915 and AU915: the eight channels (1..=8) joining devices are told to keep to; `None` leaves them all 64.
    pub channel_sub_band: Option<u8>,
}

impl Default for NativeConfig {
    /// NetID 0 with its seven-bit prefix, which is for private networks, and the pauses of common packet forwarders.
    fn default() -> Self {
        Self {
            net_id: 0,
            dev_addr_prefix: DevAddrPrefix::new(DevAddr(0), 7),
            deduplication_window: Duration::from_millis(200),
            tx_ack_timeout: Duration::from_secs(2),
            gateway_liveness: Duration::from_secs(60),
            min_lead: Duration::from_millis(100),
            // 42.5 ms, and the millisecond by which forwarders round air time up.
            frame_gap: Duration::from_micros(43_500),
            immediate_gap: Duration::from_millis(100),
            channel_sub_band: None,
        }
    }
}

/// The network server: the deterministic half.
#[derive(Clone, Debug)]
pub struct Native {
    config: NativeConfig,
    devices: Devices,
    groups: Groups,
    air: Air,
    deduplication: Deduplication,
    counters: NativeCounters,
    events: Vec<NetworkEvent>,
    /// Devices whose last uplink wants an answer.
    unanswered: BTreeSet<DevEui>,
    now: Timestamp,
}

impl Native {
    /// As of the snapshot. Gateways count as absent until they are heard.
    pub fn restore(config: NativeConfig, snapshot: &Snapshot) -> Self {
        let gateways: BTreeMap<GatewayEui, GatewayState> = snapshot
            .gateways
            .iter()
            .map(|gateway| (gateway.settings.eui, GatewayState::restore(gateway.clone())))
            .collect();
        let air_config = AirConfig {
            gaps: Gaps {
                timed: config.frame_gap,
                immediate: config.immediate_gap,
            },
            min_lead: config.min_lead,
            give_up: config.tx_ack_timeout,
            liveness: config.gateway_liveness,
        };
        Self {
            config,
            devices: Devices::restore(snapshot),
            groups: Groups::restore(&snapshot.mc_groups),
            air: Air::restore(air_config, gateways, &snapshot.ledgers),
            deduplication: Deduplication::new(config.deduplication_window),
            counters: NativeCounters::default(),
            events: Vec::new(),
            unanswered: BTreeSet::new(),
            now: Timestamp::default(),
        }
    }

    /// What was dropped or refused, by kind.
    pub fn counters(&self) -> &NativeCounters {
        &self.counters
    }

    /// The gateways that may talk to the server, for the transport's allow-list.
    pub fn allowed_gateways(&self) -> BTreeSet<GatewayEui> {
        self.air.gateways.keys().copied().collect()
    }

    /// What was seen of a gateway so far, newer than what is stored.
    pub fn gateway_status(&self, gateway: GatewayEui) -> Option<&GatewayStatus> {
        Some(&self.air.gateways.get(&gateway)?.status)
    }
}

impl Network for Native {
    type Inbound = GatewayMessage;
    type Outbound = GatewayCommand;

    fn listen(&mut self, now: Timestamp, inbound: Vec<GatewayMessage>) -> Vec<NetworkEvent> {
        self.now = now;
        for message in inbound {
            self.take_message(message);
        }
        while let Some(copies) = self.deduplication.next_due(now) {
            self.take_frame(now, &copies);
        }
        self.air.give_up(now);
        let reports = self.air.take_reports();
        self.events
            .extend(reports.into_iter().map(NetworkEvent::Report));
        std::mem::take(&mut self.events)
    }

    fn apply(&mut self, command: &NetworkCommand) {
        match command {
            NetworkCommand::PutGateway(settings) => {
                self.air.gateways_changed();
                let state = self.air.gateways.entry(settings.eui);
                state
                    .and_modify(|state| state.settings = settings.clone())
                    .or_insert_with(|| {
                        GatewayState::restore(Gateway {
                            settings: settings.clone(),
                            status: GatewayStatus::default(),
                        })
                    });
            }
            NetworkCommand::DeleteGateway(eui) => {
                self.air.gateways.remove(eui);
            }
            NetworkCommand::PutDevice { dev_eui, link } => self.devices.put_device(*dev_eui, *link),
            NetworkCommand::DeleteDevice(dev_eui) => self.devices.delete_device(*dev_eui),
            NetworkCommand::PutJoinState(dev_eui, join) => {
                self.devices.import_join(*dev_eui, join.clone());
            }
            NetworkCommand::PutSession(dev_eui, session) => {
                self.devices.import_session(*dev_eui, session.clone());
            }
        }
    }

    fn send(&mut self, now: Timestamp, requests: Vec<NetworkRequest>) -> Sending<GatewayCommand> {
        self.now = now;
        for request in requests {
            match request {
                NetworkRequest::PutGroup(group) => self.groups.put(group),
                NetworkRequest::RemoveGroup(session) => {
                    self.groups.remove(&session, &mut self.air);
                }
                NetworkRequest::KeepGroup(session, kept) => {
                    self.groups.keep(&session, kept, &mut self.air);
                }
                NetworkRequest::Send(downlink) => match &downlink.target {
                    Target::Device(dev_eui) => self.send_unicast(now, *dev_eui, &downlink),
                    Target::Group(session) => {
                        let session = session.clone();
                        self.groups.send(now, &session, downlink, &mut self.air);
                    }
                },
            }
        }
        self.answer_uplinks(now);
        self.groups.pump(now, &mut self.air);
        let outbound = self.air.release(now);
        let mut changes = Vec::new();
        self.devices.take_changes(&mut changes);
        self.groups.take_changes(&mut changes);
        self.air.take_changes(now, &mut changes);
        Sending { changes, outbound }
    }

    fn wake(&self) -> Option<Timestamp> {
        // A report made while sending is heard at once.
        let events = (!self.events.is_empty() || self.air.has_reports()).then_some(self.now);
        let due = [
            events,
            self.deduplication.wake(),
            self.groups.wake(),
            self.air.wake(),
        ];
        due.into_iter().flatten().min()
    }

    fn groups(&self) -> Vec<McGroup> {
        self.groups.records().cloned().collect()
    }

    fn air_ledgers(&self) -> Vec<AirLedger> {
        self.air.ledgers()
    }

    fn clock_readings(&self) -> Vec<ClockReading> {
        let gateways = self.air.gateways.values();
        gateways
            .filter_map(|gateway| gateway.status.clock)
            .collect()
    }

    fn counts(&self) -> NetworkCounters {
        let own = &self.counters;
        NetworkCounters {
            uplinks_received: own.received,
            uplinks_duplicate: own.copies + own.late_copies,
            uplinks_malformed: own.malformed + own.unknown_data_rate,
            uplinks_unknown_device: own.unknown_address + own.join_unknown,
            uplinks_mic_failed: own.wrong_mic + own.join_wrong_mic,
            uplinks_replayed: own.replayed + own.repeated + own.join_replayed,
            uplinks_accepted: own.uplinks,
            uplinks_dropped: own.overflow,
            joins_accepted: own.joins,
            downlinks_handed_over: self.air.handed_over(),
            downlinks_dropped: self.air.dropped() + own.join_unanswered + own.answers_dropped,
        }
    }
}
