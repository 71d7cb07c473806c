//! The way to the radio: the port. [`Network`] is the deterministic half (it decides), [`Transport`] the socket half
//! (it carries).
//!
//! One step of the ring: `Transport::receive` -> [`Network::listen`] -> campaigns and dialogue -> [`Network::send`] ->
//! `Store::commit` -> `Transport::transmit`. A network holds what its frames need (sessions, counters, queues,
//! ledgers), returns every durable change of them, and does nothing on its own: no clock, no socket, no store.

use std::collections::BTreeSet;
use std::future::Future;

use crate::lorawan::identifiers::{DevEui, GatewayEui};
use crate::record::{
    AirLedger, Change, ClockReading, GatewaySettings, Heard, JoinState, McGroup, NetworkRequest,
    Session, TxReport,
};
use crate::time::Timestamp;

mod counters;
pub mod native;

pub use counters::{NetworkCounters, TransportCounters};

/// The deterministic half of a network.
pub trait Network {
    /// What the transport brings in.
    type Inbound;
    /// What the transport carries out.
    type Outbound;

    /// Takes in what was received and what became due by `now`; returns what it means, in the order it happened.
    fn listen(&mut self, now: Timestamp, inbound: Vec<Self::Inbound>) -> Vec<NetworkEvent>;

    /// An operator's change of the records a network holds. The change itself is committed by the caller.
    fn apply(&mut self, command: &NetworkCommand);

    /// Takes in what is to be sent, and decides what leaves now. Called once per step, after [`Network::listen`].
    fn send(&mut self, now: Timestamp, requests: Vec<NetworkRequest>) -> Sending<Self::Outbound>;

    /// The next moment something becomes due without input.
    fn wake(&self) -> Option<Timestamp>;

    /// What came in and what was done with it, since the machine was restored.
    fn counts(&self) -> NetworkCounters;

    /// The multicast groups it knows, with their counters as they stand; nothing where it cannot leave a group to a
    /// later session.
    fn groups(&self) -> Vec<McGroup> {
        Vec::new()
    }

    /// What each gateway sent in the last hour, by sub-band, for forecasts; nothing where the network keeps no ledger.
    fn air_ledgers(&self) -> Vec<AirLedger> {
        Vec::new()
    }

    /// What gateways with GPS say of the server's clock; nothing where none tells the time.
    fn clock_readings(&self) -> Vec<ClockReading> {
        Vec::new()
    }
}

/// What a network reports to the machines above it.
#[derive(Clone, Debug, PartialEq)]
pub enum NetworkEvent {
    /// A device was heard.
    Heard(Heard),
    /// A device counts its uplinks from the start again, as it may after a reboot; the uplink itself follows.
    CounterRestarted(DevEui),
    /// The fate of a downlink is known, or given up.
    Report(TxReport),
    /// A gateway sent something; at most one per gateway and second.
    GatewaySeen(GatewayEui),
}

/// What leaves in one step, and what must be committed before it does.
#[derive(Clone, Debug)]
pub struct Sending<Out> {
    /// Counters, ledgers, sessions, statuses: commit them before `outbound` leaves.
    pub changes: Vec<Change>,
    /// For the transport.
    pub outbound: Vec<Out>,
}

/// An operator's change of what a network holds.
#[derive(Clone, Debug, PartialEq)]
pub enum NetworkCommand {
    /// A gateway was created or changed.
    PutGateway(GatewaySettings),
    /// A gateway was deleted: nothing is accepted from it or sent to it any more.
    DeleteGateway(GatewayEui),
    /// A device was created or changed its profile: its region and whether an uplink counter may restart.
    PutDevice {
        /// Whose.
        dev_eui: DevEui,
        /// Regional parameters and classes from its profile.
        link: DeviceLink,
    },
    /// A device was deleted with its activation.
    DeleteDevice(DevEui),
    /// Join state was set or replaced.
    PutJoinState(DevEui, JoinState),
    /// A session was imported.
    PutSession(DevEui, Session),
}

/// What a network needs to know of a device's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceLink {
    /// Regional parameters.
    pub region: crate::lorawan::region::Region,
    /// It listens continuously on RX2, so that a downlink need not answer an uplink.
    pub always_class_c: bool,
    /// Its uplink counter may restart at zero, once: its profile allows it, and a reboot was asked for (ABP).
    pub f_cnt_reset_allowed: bool,
}

/// The socket half of a network.
pub trait Transport {
    /// What comes in.
    type Inbound;
    /// What goes out.
    type Outbound;

    /// Waits until something was received, and returns all that is waiting. Dropping the future loses nothing.
    fn receive(&mut self) -> impl Future<Output = Vec<Self::Inbound>>;

    /// The gateways that may talk from now on; others are neither heard nor answered.
    fn allow(&mut self, gateways: BTreeSet<GatewayEui>);

    /// Carries out what it can; a frame that cannot be handed over comes back through [`Transport::receive`] as refused
    /// or is given up by the network's own time-out.
    fn transmit(&mut self, outbound: Vec<Self::Outbound>) -> impl Future<Output = ()>;

    /// What was dropped on the way in, since the transport was opened.
    fn counts(&self) -> TransportCounters;
}
