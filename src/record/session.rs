//! A distribution session: one multicast group, one fragmentation session and its window. A few integers say how far it
//! is.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{DeviceClass, SessionId, Sha256};
use crate::lorawan::PackageVersion;
use crate::lorawan::class_b::PingSlotPeriodicity;
use crate::lorawan::identifiers::GatewayEui;
use crate::lorawan::multicast_setup;
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
    /// `N` of a released fragment that no gateway sent: it goes out before any other does.
    #[serde(default)]
    pub resend: Option<u16>,
    /// Rounds begun: 1 = the uncoded pass with its first coded fragments.
    pub round: u16,
    /// Roll calls made in vain since the last fragment.
    pub roll_calls: u8,
    /// The last 100 polls and what they showed, oldest first.
    #[serde(default)]
    pub rounds: Vec<StatusRound>,
    /// Air time by gateway, of frames that were on air or may have been, microseconds.
    #[serde(default)]
    pub airtime_us: BTreeMap<GatewayEui, u64>,
    /// Class B: how often the group listens.
    #[serde(default)]
    pub ping_slots: Option<PingSlotPeriodicity>,
    /// Gateways with the same number send at the same time: none of its devices hears two of them. One that is not
    /// listed has a turn of its own.
    #[serde(default)]
    pub turns: BTreeMap<GatewayEui, u8>,
    /// Who holds the key of its group, and whose it was before.
    #[serde(default)]
    pub group_use: GroupUse,
    /// The patch it distributes; `None`: its image itself.
    #[serde(default)]
    pub delta: Option<Sha256>,
    /// The image it is for: its place among those of the task, from 0.
    #[serde(default)]
    pub image: u8,
    /// Number of the session it takes the place of for some devices.
    #[serde(default)]
    pub follows: Option<u16>,
}

/// What decides whether the group of a session can be left on its devices for a later one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupUse {
    /// Devices that were ever given its key, or may have been; counted in tasks that keep their groups.
    pub given: u32,
    /// One of them does not hold it any more, or is about to lose it.
    pub spoiled: bool,
    /// The group was on the devices before.
    pub reused: Option<ReusedGroup>,
}

/// A group that an earlier session had left on the devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReusedGroup {
    /// The session it was made for, or taken over by last.
    pub from: SessionId,
    /// Its counter when it was taken over: frames below are older.
    pub first_mc_f_cnt: u32,
}

/// Most polls remembered.
const MAX_ROUNDS: usize = 100;

/// A poll, and what its answers showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRound {
    /// Number among the polls of the session, from 1.
    pub number: u32,
    /// When the status was asked for.
    pub at: Timestamp,
    /// Coded fragments released by then.
    pub coded_sent: u16,
    /// Answers that came.
    pub answers: u32,
    /// Most fragments a device that answered still needs.
    pub deficit_max: u16,
}

impl DistributionSession {
    /// Notes that the status is asked for.
    pub fn note_poll(&mut self, now: Timestamp) {
        let number = self.rounds.last().map_or(1, |last| last.number + 1);
        if self.rounds.len() >= MAX_ROUNDS {
            self.rounds.remove(0);
        }
        self.rounds.push(StatusRound {
            number,
            at: now,
            coded_sent: self.coded_sent,
            answers: 0,
            deficit_max: 0,
        });
    }

    /// Notes an answer to the last poll.
    pub fn note_answer(&mut self, deficit: u16) {
        if let Some(round) = self.rounds.last_mut() {
            round.answers = round.answers.saturating_add(1);
            round.deficit_max = round.deficit_max.max(deficit);
        }
    }

    /// Notes air time of a gateway.
    pub fn note_airtime(&mut self, gateway: GatewayEui, airtime: Duration) {
        let us = u64::try_from(airtime.as_micros()).unwrap_or(u64::MAX);
        let sum = self.airtime_us.entry(gateway).or_default();
        *sum = sum.saturating_add(us);
    }
}

/// Parameters of `FragSessionSetupReq` that all devices of a session share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockParameters {
    /// Version of TS004: wire layout and coding matrix.
    pub version: PackageVersion,
    /// `FragAlgo`: the code of the coded fragments.
    #[serde(default)]
    pub frag_algo: FragAlgo,
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

/// The code that coded fragments are made with.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum FragAlgo {
    /// That of TS004, which every device with the package decodes.
    #[default]
    Ts004,
    /// The Reed-Solomon code of `erasure::reed_solomon`, for devices that were built for it.
    ReedSolomon,
}

impl FragAlgo {
    /// `FragAlgo` in `FragSessionSetupReq`, 3 bits (TS004-2.0.0 §3.2; 7 is reserved there and ours).
    pub fn number(self) -> u8 {
        match self {
            Self::Ts004 => 0,
            Self::ReedSolomon => 7,
        }
    }
}

/// A distribution window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionWindow {
    /// Number within the session.
    pub number: WindowNumber,
    /// `SessionTime`: a whole GPS second; in class B the start of a beacon.
    pub start: Timestamp,
    /// `TimeOut`: the window lasts 2^n seconds (class C) or 2^n beacon periods (class B).
    pub time_out: u8,
    /// Class, which decides the unit of `time_out`.
    #[serde(default)]
    pub class: DeviceClass,
    /// Nothing is sent from here on, since the calendar of the task forbids it; `None`: it does not.
    #[serde(default)]
    pub closes_at: Option<Timestamp>,
}

impl SessionWindow {
    /// When devices stop listening, or the calendar closes it.
    pub fn end(&self) -> Timestamp {
        let end = self.start + self.lasts(self.time_out);
        self.closes_at.map_or(end, |closes| closes.min(end))
    }

    /// `TimeOut` to ask for: devices do not listen much longer than is sent.
    pub fn wire_time_out(&self) -> u8 {
        let lasts = self.end().since(self.start);
        (0..self.time_out)
            .find(|n| self.lasts(*n) >= lasts)
            .unwrap_or(self.time_out)
    }

    /// How long a `TimeOut` is (TS005-2.0.0 §3.5, §3.6).
    fn lasts(&self, time_out: u8) -> Duration {
        match self.class {
            DeviceClass::B => multicast_setup::class_b_session_length_max(time_out),
            DeviceClass::A | DeviceClass::C => {
                multicast_setup::class_c_session_length_max(time_out)
            }
        }
    }
}

/// Where a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionPhase {
    /// Its wave has not begun.
    Planned,
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
    /// Fragments go to each device alone, if at all: the session has no group, or needs it no more.
    Individual,
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
