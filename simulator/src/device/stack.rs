//! What distinguishes the FUOTA packages of one device stack from another's: a table of quirks.
//!
//! Data only; the packages look at it where the specifications leave a choice or stacks leave the specifications.
//! Whoever wants to simulate a stack of their own starts from [`StackQuirks::spec`] or from a public stack's
//! ([`StackProfile::quirks`](super::StackProfile::quirks)), changes what differs, and puts the table into
//! [`DeviceConfig::stack`](super::DeviceConfig::stack). `docs/stack-profiles.md` has an example.

use std::time::Duration;

use lorawan_fuota::lorawan::PackageVersion;

/// How the packages of a stack behave, beside their versions and limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackQuirks {
    /// What the numbers of a `FragSessionStatusAns` are (TS004 §3.2).
    pub status: StatusQuirks,
    /// Fragmentation sessions and their decoder (TS004 §3).
    pub sessions: SessionQuirks,
    /// Multicast groups and their sessions (TS005).
    pub multicast: MulticastQuirks,
    /// The time (TS003).
    pub clock: ClockQuirks,
    /// How commands are read and answers are collected and sent, in all packages.
    pub answers: AnswerQuirks,
}

/// What the numbers of a `FragSessionStatusAns` are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusQuirks {
    /// What `NbFragReceived` counts.
    pub received: Received,
    /// What `MissingFrag` counts.
    pub missing: Missing,
    /// What is answered between set-up and first fragment.
    pub before_data: BeforeData,
    /// What a `MissingFrag` of 256 and more turns into.
    pub overflow: Overflow,
    /// What is answered for a session that does not exist.
    pub absent: AbsentStatus,
    /// `NbFragReceived` keeps its value over a new set-up until a fragment comes. LoRaMac-node: `FragDecoderInit` does
    /// not reset `FragNbRx`.
    pub stale_received: bool,
    /// `MICError` is computed whenever the decoder's count of missing fragments is 0 modulo 256, block or no block.
    /// LoRa Basics Modem version 2.
    pub mic_error_without_block: bool,
}

/// What `NbFragReceived` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Fragments received, of any kind, until completion: the specifications.
    Fragments,
    /// As before, and fragments that come after completion or for no session: Zephyr.
    FragmentsForAnySession,
    /// The counter N of the last fragment, until completion: LoRaMac-node (`FragNbRx`).
    LastCounter,
    /// The last counter less the uncoded fragments known to be lost: LoRa Basics Modem.
    LastCounterLessLost,
}

/// What `MissingFrag` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Independent fragments still needed: TS004-1.0.0 §3.2.
    Independent,
    /// Uncoded fragments still missing, all until the block is decoded: TS004-2.0.0 §3.2.
    Uncoded,
    /// Gaps seen so far in the uncoded fragments, never cleared: LoRaMac-node (`FragNbLost`).
    LostSoFar,
    /// As [`Missing::Independent`], but 1 after a pass without loss: LoRa Basics Modem (SWL2001 issue 101).
    IndependentOrOne,
    /// `max(0, NbFrag - NbFragReceived)`, decodable or not: Zephyr.
    LessReceived,
}

/// What a status answer says between set-up and first fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeforeData {
    /// The same counts as at any time.
    Counts,
    /// Both numbers are 0, so that it looks complete: LoRa Basics Modem version 2 (`FRAG_SESSION_NOT_STARTED`).
    Zeros,
}

/// What becomes of a count that does not fit its byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// 255.
    Saturates,
    /// The remainder modulo 256: LoRaMac-node, LoRa Basics Modem.
    Wraps,
}

/// The status answer for a session that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbsentStatus {
    /// Zeros, which look complete. Version 1 does not say what to answer.
    Zeros,
    /// The status byte alone: TS004-2.0.0 §3.2.
    OneByte,
    /// The counts the decoder last had, of whatever session; in version 2 with "session does not exist" set and all
    /// four bytes. LoRaMac-node, LoRa Basics Modem, Zephyr: they have one decoder and do not look whether a session is
    /// on.
    DecoderCounts,
}

/// Fragmentation sessions and their decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionQuirks {
    /// How many sessions there can be.
    pub decoders: Decoders,
    /// Fragments are dropped that come through a group outside of `McGroupBitMask`. LoRaMac-node has the check
    /// commented out, Zephyr has none.
    pub checks_mask: bool,
    /// Unicast commands that come by multicast are carried out: Zephyr. TS004 §2 forbids it.
    pub commands_by_multicast: bool,
    /// A complete session is closed, so that its deletion is answered with "does not exist": Zephyr.
    pub closes_when_complete: bool,
    /// "Not enough matrix memory" is never taken back, not by a new session either, until a reboot: LoRaMac-node,
    /// Zephyr (zephyr issue 72764).
    pub memory_error_stays: bool,
    /// A session with too many fragments lost is handed to the application as if complete: LoRaMac-node, Zephyr.
    pub memory_error_completes: bool,
    /// `SessionCntPrev` is kept in RAM, so that a reboot forgets it: LoRa Basics Modem version 2.
    pub forgets_session_cnt: bool,
    /// Most transmissions of `FragDataBlockReceivedReq` (TS004-2.0.0 §3.5 leaves it to the device).
    pub block_received_sends: u8,
    /// `FragDataBlockReceivedAns` does not stop the transmission that is scheduled already: LoRa Basics Modem.
    pub block_received_sent_once_more: bool,
}

/// How many fragmentation sessions a device can have, within
/// [`FragmentationLimits::frag_index_count`](super::FragmentationLimits::frag_index_count).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoders {
    /// One for each `FragIndex`.
    PerIndex,
    /// All indices can be set up, and share one decoder: a set-up takes it from the session before. LoRaMac-node, LoRa
    /// Basics Modem.
    Shared,
    /// One session; another index is refused with "FragSession index not supported" while it lasts: Zephyr.
    One,
}

/// Multicast groups and their sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MulticastQuirks {
    /// What becomes of a `McGroupStatusReq`.
    pub group_status: GroupStatus,
    /// What becomes of a session request whose start is past.
    pub late_start: LateStart,
    /// A start in this very second is past already: LoRaMac-node, LoRa Basics Modem.
    pub now_is_late: bool,
    /// A session request for a group that is not there sets all three error bits (`041D`): LoRaMac-node.
    pub undefined_sets_all: bool,
    /// How an unusable frequency or data rate is refused.
    pub bad_parameters: BadParameters,
    /// What becomes of a `McClassBSessionReq`.
    pub class_b: ClassB,
    /// A session accepted without a time source starts once the clock is set; otherwise never (Zephyr).
    pub starts_once_clock_is_set: bool,
    /// `TimeToStart` is that of the request, not of the answer: all public stacks. It matters where answers wait.
    pub time_to_start_at_request: bool,
    /// A session request takes the timer from the sessions of other groups: LoRaMac-node.
    pub one_session_timer: bool,
    /// Commands that come by multicast are carried out: LoRaMac-node, Zephyr. TS005 §2 forbids it.
    pub commands_by_multicast: bool,
}

/// What becomes of a `McGroupStatusReq`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupStatus {
    /// It is answered, with at most so many groups.
    Answered {
        /// Records that fit.
        records: usize,
    },
    /// It is not implemented: the identifier is skipped and the mask is read as the next command. LoRaMac-node.
    MaskIsCommand,
    /// It is not implemented, and the answers to the whole downlink are lost: Zephyr.
    LosesAnswers,
}

/// What becomes of a session request whose start is past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LateStart {
    /// The session is on, `TimeToStart` is 0: TS005-1.0.0 has no error for it.
    Accepted,
    /// `StartMissed`: TS005-2.0.0; LoRa Basics Modem and Zephyr in version 1 too.
    StartMissed,
    /// `McGroupUndefined`: LoRaMac-node.
    GroupUndefined,
}

/// How an unusable frequency or data rate of a session is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadParameters {
    /// `FreqError` and `DRError`.
    Flags,
    /// The command identifier alone: Zephyr.
    BareCid,
}

/// What becomes of a `McClassBSessionReq` on a device that does not run class B
/// ([`DeviceConfig::class_b`](super::DeviceConfig::class_b)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassB {
    /// Refused with `FreqError` and `DRError`: a device without class B has no better words.
    Refused,
    /// Accepted; the device then waits for beacons it never finds: LoRa Basics Modem.
    Accepted,
    /// Accepted, and class C at `SessionTime`, for `2^TimeOut` s: LoRaMac-node.
    RunsAsClassC,
    /// It is not implemented, and the answers to the whole downlink are lost: Zephyr.
    LosesAnswers,
}

impl ClassB {
    /// The stack runs class B sessions where the device has class B.
    pub const fn is_honest(self) -> bool {
        matches!(self, Self::Refused | Self::Accepted)
    }
}

/// The time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockQuirks {
    /// `DeviceAppTimePeriodicityReq` is obeyed; otherwise answered with `NotSupported` (LoRaMac-node).
    pub has_periodicity: bool,
    /// `AnsRequired` is set as long as the device has no time. LoRaMac-node and Zephyr never set it.
    pub sets_ans_required: bool,
    /// From deciding to send to sending; `DeviceTime` is that of sending. LoRa Basics Modem: 5 s.
    pub send_delay: Duration,
    /// Between the requests of one `ForceDeviceResync`, beside [`ClockQuirks::send_delay`].
    pub resync_spacing: Duration,
    /// A device without time asks again and again; otherwise once, and then when it is told to (Zephyr: after a day).
    pub asks_until_set: bool,
}

/// How commands are read and answers are collected and sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerQuirks {
    /// What an unreadable command does to the rest of its frame.
    pub unreadable: Unreadable,
    /// Room for the answers to one downlink.
    pub room: AnswerRoom,
    /// All answers of TS004 to one downlink leave in one frame: a status answer holds up the others. All public stacks.
    pub status_delays_all: bool,
    /// Answers of any package overwrite a status answer that waits: its first bytes become theirs, its length stays.
    /// LoRaMac-node (one `DataBuffer` for all packages).
    pub status_is_overwritten: bool,
    /// Least and most that the answers of TS004 wait beside `BlockAckDelay`.
    pub fragmentation_delay: (Duration, Duration),
    /// Least and most that the answers of TS005 wait.
    pub multicast_delay: (Duration, Duration),
}

/// What an unreadable command does to the rest of its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// The rest is not read; what was read is answered.
    EndsReading,
    /// The rest is not read, and nothing in the frame is answered, though it was carried out: LoRa Basics Modem,
    /// Zephyr.
    LosesAnswers,
    /// An unknown identifier is skipped and the next byte is read as the next one: LoRaMac-node.
    SkipsByte,
}

/// Room for the answers to one downlink. What does not fit is left out without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerRoom {
    /// As much as a frame holds.
    Frame,
    /// So many bytes; a command whose answer does not fit is carried out all the same: LoRa Basics Modem.
    Bytes {
        /// Of TS004 and TS005.
        other: usize,
        /// Of TS006. `DevUpgradeImageAns` is admitted with two bytes free and overruns the buffer.
        firmware: usize,
    },
    /// So many answers of at most 5 bytes; the rest of the downlink is not carried out: Zephyr.
    Answers(usize),
}

/// Bytes Zephyr reserves for an answer of TS004 or TS005.
pub(super) const ANSWER_SIZE_MAX: usize = 5;

impl StackQuirks {
    /// None: by the specifications. Where TS004 and TS005 differ between versions, the behaviour is that of `version`.
    pub const fn spec(version: PackageVersion) -> Self {
        let second = matches!(version, PackageVersion::V2);
        Self {
            status: StatusQuirks {
                received: Received::Fragments,
                missing: if second {
                    Missing::Uncoded
                } else {
                    Missing::Independent
                },
                before_data: BeforeData::Counts,
                overflow: Overflow::Saturates,
                absent: if second {
                    AbsentStatus::OneByte
                } else {
                    AbsentStatus::Zeros
                },
                stale_received: false,
                mic_error_without_block: false,
            },
            sessions: SessionQuirks {
                decoders: Decoders::PerIndex,
                checks_mask: true,
                commands_by_multicast: false,
                closes_when_complete: false,
                memory_error_stays: false,
                memory_error_completes: false,
                forgets_session_cnt: false,
                block_received_sends: 3,
                block_received_sent_once_more: false,
            },
            multicast: MulticastQuirks {
                group_status: GroupStatus::Answered { records: 4 },
                late_start: if second {
                    LateStart::StartMissed
                } else {
                    LateStart::Accepted
                },
                now_is_late: false,
                undefined_sets_all: false,
                bad_parameters: BadParameters::Flags,
                class_b: ClassB::Refused,
                starts_once_clock_is_set: true,
                time_to_start_at_request: false,
                one_session_timer: false,
                commands_by_multicast: false,
            },
            clock: ClockQuirks {
                has_periodicity: true,
                sets_ans_required: true,
                send_delay: Duration::ZERO,
                resync_spacing: Duration::from_secs(20),
                asks_until_set: true,
            },
            answers: AnswerQuirks {
                unreadable: Unreadable::EndsReading,
                room: AnswerRoom::Frame,
                status_delays_all: false,
                status_is_overwritten: false,
                fragmentation_delay: (Duration::ZERO, Duration::ZERO),
                multicast_delay: (Duration::ZERO, Duration::ZERO),
            },
        }
    }
}
