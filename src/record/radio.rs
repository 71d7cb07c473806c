//! The datums that cross between a campaign and a network: what is heard, what is to be sent, what became of it.
//!
//! They are not durable, except [`McGroup`]. A network may be our own small network server or a foreign one; these
//! types say nothing of frames, counters or channels, which are the network's business.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{DeviceClass, TaskId};
use crate::lorawan::class_b::PingSlotPeriodicity;
use crate::lorawan::identifiers::{DevEui, GatewayEui, McAddr};
use crate::lorawan::keys::Key128;
use crate::lorawan::region::Region;
use crate::time::Timestamp;

/// One distribution session of one task.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId {
    /// The task.
    pub task: TaskId,
    /// Number of the session within the task, from 0.
    pub number: u16,
}

/// A multicast group on the air: address, key and counter of one distribution session. Durable, sealed at rest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct McGroup {
    /// The session it serves.
    pub session: SessionId,
    /// TS005 `McAddr`.
    pub mc_addr: McAddr,
    /// TS005 `McKey`, made for this session, or for an earlier one that left it on the same devices.
    #[serde(with = "crate::lorawan::keys::serde_hex")]
    pub mc_key: Key128,
    /// Next frame counter. Owned by the network; committed before a frame leaves and never goes back.
    pub next_mc_f_cnt: u32,
    /// Regional parameters of the frames.
    pub region: Region,
    /// Class of the window.
    pub class: DeviceClass,
    /// Frequency of the window.
    pub frequency_hz: u32,
    /// Data rate index of the window.
    pub data_rate: u8,
    /// The gateways that send each frame.
    pub gateways: Vec<GatewayEui>,
    /// Class B: how often the group listens.
    #[serde(default)]
    pub ping_slots: Option<PingSlotPeriodicity>,
    /// Gateways with the same number may send at the same time: no device of the session hears two of them. One that is
    /// not listed has a turn of its own.
    #[serde(default)]
    pub turns: BTreeMap<GatewayEui, u8>,
    /// Its session is over, and the group was left on the devices for a later one.
    #[serde(default)]
    pub kept: Option<KeptGroup>,
}

/// A group that a session left on its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptGroup {
    /// `McGroupID` on all of them.
    pub mc_group_id: u8,
    /// How many devices were ever given the key. As long as so many hold the group, nobody else can have it.
    pub holders: u32,
}

/// What a campaign asks of the network.
#[derive(Clone, Debug, PartialEq)]
pub enum NetworkRequest {
    /// Know this group (new, or changed gateways or window parameters). The network keeps its own counter if it has
    /// one.
    PutGroup(McGroup),
    /// Forget this group; frames still queued for it are dropped.
    RemoveGroup(SessionId),
    /// Send nothing more to this group, and know its key and counter all the same; frames still queued are dropped. It
    /// may be put again; with [`KeptGroup`] a later session may have its key and counter.
    KeepGroup(SessionId, Option<KeptGroup>),
    /// Send a frame.
    Send(Downlink),
}

/// Identifies a downlink within one run of the server: `owner` is the machine that sent it, `number` its own count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DownlinkId {
    /// 0 = the dialogue, otherwise a campaign.
    pub owner: u32,
    /// Counts up per owner.
    pub number: u32,
}

/// An application downlink to be put on air.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downlink {
    /// Echoed in the [`TxReport`].
    pub id: DownlinkId,
    /// Who is to hear it.
    pub target: Target,
    /// FPort, 1..=223; to one device also 225 (TS007).
    pub f_port: u8,
    /// Application payload in clear, 1..=242 bytes.
    pub payload: Vec<u8>,
    /// The uplink whose receive windows carry it; `None` = at once (class C or a group).
    pub answers: Option<UplinkRef>,
    /// Not on air before.
    pub earliest: Timestamp,
    /// Worthless when not on air by then; the network refuses it as [`Refusal::TooLate`].
    pub deadline: Timestamp,
    /// More waits: a device of class A is told to send again soon (`FPending`).
    pub more: bool,
}

/// Addressee of a downlink.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// One device, by unicast.
    Device(DevEui),
    /// All devices of a session's multicast group.
    Group(SessionId),
}

/// Names an uplink whose receive windows are still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UplinkRef {
    /// Who sent it.
    pub dev_eui: DevEui,
    /// Its full counter.
    pub f_cnt: u32,
}

/// What the network heard.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// An accepted uplink; never reported twice.
    Uplink(Uplink),
    /// A device joined; groups and sessions it held may be gone.
    Joined {
        /// Who.
        dev_eui: DevEui,
        /// When the join request was received.
        at: Timestamp,
    },
}

/// An uplink with a checked MIC and an accepted counter.
#[derive(Clone, Debug, PartialEq)]
pub struct Uplink {
    /// Sender.
    pub dev_eui: DevEui,
    /// Full 32-bit counter.
    pub f_cnt: u32,
    /// FPort; `None` for frames without payload.
    pub f_port: Option<u8>,
    /// Decrypted application payload; empty for port 0 and for frames without payload.
    pub payload: Vec<u8>,
    /// End of reception at the gateway, in server time.
    pub received_at: Timestamp,
    /// Uplink data rate index.
    pub data_rate: u8,
    /// Uplink frequency.
    pub frequency_hz: u32,
    /// The device asked for an acknowledgement.
    pub confirmed: bool,
    /// The ClassB bit of FCtrl.
    pub class_b: bool,
    /// The frame carried a `DeviceTimeReq`, which the network answers by itself.
    pub asked_time: bool,
    /// Every gateway that heard it, best signal first.
    pub receptions: Vec<Reception>,
}

impl Uplink {
    /// The reference a downlink carries to use this uplink's receive windows.
    pub fn reference(&self) -> UplinkRef {
        UplinkRef {
            dev_eui: self.dev_eui,
            f_cnt: self.f_cnt,
        }
    }
}

/// One gateway's reception of an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reception {
    /// The gateway.
    pub gateway: GatewayEui,
    /// Signal strength, dBm.
    pub rssi_dbm: i16,
    /// Signal-to-noise ratio, dB.
    pub snr_db: f32,
}

/// What became of a downlink, once every gateway it went to has said so or was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxReport {
    /// Which downlink.
    pub id: DownlinkId,
    /// One entry per gateway; a single entry without gateway when none was tried.
    pub outcomes: Vec<GatewayOutcome>,
}

impl TxReport {
    /// At least one gateway may have put the frame on air.
    pub fn on_air(&self) -> bool {
        self.outcomes
            .iter()
            .any(|o| !matches!(o.outcome, TxOutcome::Refused(_)))
    }

    /// Gateways that have, or may have, put the frame on air.
    pub fn transmissions(&self) -> u32 {
        u32::try_from(
            self.outcomes
                .iter()
                .filter(|o| !matches!(o.outcome, TxOutcome::Refused(_)))
                .count(),
        )
        .unwrap_or(u32::MAX)
    }
}

/// What one gateway did with a downlink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayOutcome {
    /// The gateway; `None` when the network refused before choosing one.
    pub gateway: Option<GatewayEui>,
    /// What happened.
    pub outcome: TxOutcome,
}

/// Fate of a downlink at one gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxOutcome {
    /// In the gateway's queue; this is all a Semtech `TX_ACK` says.
    Queued {
        /// Predicted start on air.
        on_air_at: Timestamp,
        /// Time on air.
        airtime: Duration,
    },
    /// Really on air, where the transport reports it.
    Sent {
        /// Start on air.
        on_air_at: Timestamp,
        /// Time on air.
        airtime: Duration,
    },
    /// Certainly not on air.
    Refused(Refusal),
    /// Nothing was heard; counted as on air.
    Unknown,
}

/// Why a downlink did not go on air.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// Too late for its receive window, its deadline or the gateway's queue.
    TooLate,
    /// Too far ahead for the gateway's queue.
    TooEarly,
    /// Overlaps another frame of the gateway.
    CollisionPacket,
    /// Overlaps a beacon.
    CollisionBeacon,
    /// The gateway cannot send on this frequency.
    TxFreq,
    /// The gateway cannot send at this power.
    TxPower,
    /// The gateway has lost GPS.
    GpsUnlocked,
    /// The gateway's queue is full.
    QueueFull,
    /// The gateway gave a reason outside the protocol.
    Other,
    /// No gateway is known that reaches the device, or none is connected.
    NoGateway,
    /// The receive windows are already used by another downlink.
    WindowTaken,
    /// The device has no session, or its counter is used up.
    NoSession,
    /// The payload does not fit the data rate.
    TooLong,
    /// The duty cycle, dwell time or air share leaves no room before the deadline.
    NoAirTime,
}
