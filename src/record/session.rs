//! A distribution session: one multicast group, one fragmentation session and its window. A few integers say how far it
//! is.

use serde::{Deserialize, Serialize};

use super::{DeviceClass, SessionId};
use crate::lorawan::PackageVersion;
use crate::lorawan::identifiers::GatewayEui;
use crate::lorawan::region::Region;
use crate::time::Timestamp;

/// Number of a window within its session, from 0.
pub type WindowNumber = u8;

/// A distribution session of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DistributionSession {
    /// Identity.
    pub id: SessionId,
    /// Wave it belongs to.
    pub wave: u16,
    /// Where it is.
    pub phase: SessionPhase,
    /// Regional parameters.
    pub region: Region,
    /// Class of the window.
    pub class: DeviceClass,
    /// Data rate index of the window.
    pub data_rate: u8,
    /// Frequency of the window.
    pub frequency_hz: u32,
    /// Gateways that send; chosen when the window opens.
    pub gateways: Vec<GatewayEui>,
    /// TS005 `McGroupID` on the devices.
    pub mc_group_id: u8,
    /// Version of TS005 the devices of this session speak.
    pub multicast_version: PackageVersion,
    /// FPort of TS004 on the devices of this session.
    pub frag_port: u8,
    /// The fragmentation session.
    pub block: BlockParameters,
    /// The current window.
    pub window: SessionWindow,
    /// Uncoded fragments released so far: the last `N` of the first pass.
    pub uncoded_sent: u16,
    /// Coded fragments released so far.
    pub coded_sent: u16,
    /// Coded fragments to have been released when the current round ends.
    pub coded_target: u16,
    /// Rounds begun: 1 = the uncoded pass with its first coded fragments.
    pub round: u16,
    /// Roll calls made in vain since the last fragment.
    pub roll_calls: u8,
}

/// Parameters of `FragSessionSetupReq` that all devices of a session share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockParameters {
    /// Version of TS004: wire layout and coding matrix.
    pub version: PackageVersion,
    /// `FragIndex`, 0..=3.
    pub frag_index: u8,
    /// `NbFrag`, 1..=16383.
    pub nb_frag: u16,
    /// `FragSize`, bytes.
    pub frag_size: u8,
    /// `Padding`, bytes.
    pub padding: u8,
    /// `Descriptor`, wire order.
    pub descriptor: [u8; 4],
    /// `BlockAckDelay`, 0..=7.
    pub block_ack_delay: u8,
}

/// A distribution window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionWindow {
    /// Number within the session.
    pub number: WindowNumber,
    /// `SessionTime`: a whole GPS second.
    pub start: Timestamp,
    /// `TimeOut`: the window lasts 2^n seconds (class C).
    pub time_out: u8,
}

impl SessionWindow {
    /// When devices stop listening (class C).
    pub fn end(&self) -> Timestamp {
        self.start + std::time::Duration::from_secs(1 << u32::from(self.time_out.min(15)))
    }
}

/// Where a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionPhase {
    /// Devices are being set up; the window is still to come.
    Preparing,
    /// Fragments are being released.
    Sending,
    /// Status was asked; answers are awaited.
    Polling {
        /// Who was asked.
        kind: PollKind,
        /// No answer is expected after.
        until: Timestamp,
    },
    /// No fragment will be sent any more.
    Closed,
}

/// How a status is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PollKind {
    /// Participants = 0: those with gaps.
    Gaps,
    /// Participants = 1: all.
    RollCall,
    /// Unicast, in the receive windows of each device nothing certain is known of.
    Individual,
}

/// Fragments of a session released so far, uncoded and coded.
pub fn fragments_sent(session: &DistributionSession) -> u16 {
    session.uncoded_sent.saturating_add(session.coded_sent)
}
