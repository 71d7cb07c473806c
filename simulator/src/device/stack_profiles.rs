//! The public stacks, each as a table of quirks: LoRaMac-node, LoRa Basics Modem with either version of its packages,
//! Zephyr; and devices by the book.
//!
//! Sources: LoRaMac-node dcbcfb32 (`LmhpFragmentation.c`, `FragDecoder.c`, `LmhpRemoteMcastSetup.c`, `LmhpClockSync.c`)
//! and SWL2001 v4.8.0 (`lorawan_packages/`), both observed running (`tests/vectors/device_behaviour.json`); Zephyr
//! (`subsys/lorawan/services/`), read only.

use std::time::Duration;

use lorawan_fuota::lorawan::PackageVersion;

use super::config::{FragmentationLimits, Packages};
use super::stack::{
    AbsentStatus, AnswerQuirks, AnswerRoom, BadParameters, BeforeData, ClassB, ClockQuirks,
    Decoders, GroupStatus, LateStart, Missing, MulticastQuirks, Overflow, Received, SessionQuirks,
    StackQuirks, StatusQuirks, Unreadable,
};

/// A stack whose behaviour is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StackProfile {
    /// By the book, version 1 of TS003, TS004 and TS005.
    SpecV1,
    /// By the book, version 2.
    SpecV2,
    /// LoRaMac-node: version 1, no TS006.
    LoramacNode,
    /// LoRa Basics Modem (SWL2001) built with version 1 of its packages.
    BasicsModemV1,
    /// LoRa Basics Modem (SWL2001) built with version 2 of its packages.
    BasicsModemV2,
    /// Zephyr: TS003 version 2, TS004 and TS005 version 1, no TS006.
    Zephyr,
}

impl StackProfile {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::SpecV1,
        Self::SpecV2,
        Self::LoramacNode,
        Self::BasicsModemV1,
        Self::BasicsModemV2,
        Self::Zephyr,
    ];

    /// A name for command lines and identifiers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SpecV1 => "spec-v1",
            Self::SpecV2 => "spec-v2",
            Self::LoramacNode => "loramac-node",
            Self::BasicsModemV1 => "basics-modem-v1",
            Self::BasicsModemV2 => "basics-modem-v2",
            Self::Zephyr => "zephyr",
        }
    }

    /// The stack of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stack| stack.name() == name)
    }

    /// The by-the-book stack of a version.
    pub const fn spec(version: PackageVersion) -> Self {
        match version {
            PackageVersion::V1 => Self::SpecV1,
            PackageVersion::V2 => Self::SpecV2,
        }
    }

    /// The packages it has, in which versions.
    pub const fn packages(self) -> Packages {
        let (v1, v2) = (
            Packages::all(PackageVersion::V1),
            Packages::all(PackageVersion::V2),
        );
        match self {
            Self::SpecV1 | Self::BasicsModemV1 => v1,
            Self::SpecV2 | Self::BasicsModemV2 => v2,
            Self::LoramacNode => Packages {
                firmware_management: false,
                ..v1
            },
            Self::Zephyr => Packages {
                clock_sync: Some(PackageVersion::V2),
                firmware_management: false,
                ..v1
            },
        }
    }

    /// Whether its packages take the time of `DeviceTimeAns`. Zephyr's service knows only TS003's.
    pub const fn takes_time_from_mac(self) -> bool {
        !matches!(self, Self::Zephyr)
    }

    /// What its decoder holds as published. Products raise it.
    pub fn published_limits(self) -> FragmentationLimits {
        let limits = FragmentationLimits::default();
        match self {
            Self::SpecV1 | Self::SpecV2 => limits,
            // FRAG_MAX_NB, FRAG_MAX_SIZE, FRAG_MAX_REDUNDANCY of FragDecoder.h.
            Self::LoramacNode => FragmentationLimits {
                nb_frag_max: 21,
                frag_size_max: 50,
                lost_max: 5,
                ..limits
            },
            Self::BasicsModemV1 | Self::BasicsModemV2 => FragmentationLimits {
                nb_frag_max: 100,
                frag_size_max: 242,
                lost_max: 100,
                ..limits
            },
            Self::Zephyr => FragmentationLimits {
                frag_index_count: 4,
                ..limits
            },
        }
    }

    /// How it behaves.
    pub const fn quirks(self) -> StackQuirks {
        match self {
            Self::SpecV1 => StackQuirks::spec(PackageVersion::V1),
            Self::SpecV2 => StackQuirks::spec(PackageVersion::V2),
            Self::LoramacNode => LORAMAC_NODE,
            Self::BasicsModemV1 => BASICS_MODEM_V1,
            Self::BasicsModemV2 => BASICS_MODEM_V2,
            Self::Zephyr => ZEPHYR,
        }
    }
}

const AT_ONCE: (Duration, Duration) = (Duration::ZERO, Duration::ZERO);

const LORAMAC_NODE: StackQuirks = StackQuirks {
    status: StatusQuirks {
        received: Received::LastCounter,
        missing: Missing::LostSoFar,
        before_data: BeforeData::Counts,
        overflow: Overflow::Wraps,
        absent: AbsentStatus::DecoderCounts,
        stale_received: true,
        mic_error_without_block: false,
    },
    sessions: SessionQuirks {
        decoders: Decoders::Shared,
        checks_mask: false,
        commands_by_multicast: false,
        closes_when_complete: false,
        memory_error_stays: true,
        memory_error_completes: true,
        forgets_session_cnt: false,
        block_received_sends: 0,
        block_received_sent_once_more: false,
    },
    multicast: MulticastQuirks {
        group_status: GroupStatus::MaskIsCommand,
        late_start: LateStart::GroupUndefined,
        now_is_late: true,
        undefined_sets_all: true,
        bad_parameters: BadParameters::Flags,
        class_b: ClassB::RunsAsClassC,
        starts_once_clock_is_set: true,
        time_to_start_at_request: true,
        one_session_timer: true,
        commands_by_multicast: true,
    },
    clock: ClockQuirks {
        has_periodicity: false,
        sets_ans_required: false,
        send_delay: Duration::ZERO,
        resync_spacing: Duration::ZERO,
        // Its example applications ask in their main loop.
        asks_until_set: true,
    },
    answers: AnswerQuirks {
        unreadable: Unreadable::SkipsByte,
        room: AnswerRoom::Frame,
        status_delays_all: true,
        status_is_overwritten: true,
        fragmentation_delay: AT_ONCE,
        multicast_delay: AT_ONCE,
    },
};

const BASICS_MODEM_V1: StackQuirks = StackQuirks {
    status: StatusQuirks {
        received: Received::LastCounterLessLost,
        missing: Missing::IndependentOrOne,
        before_data: BeforeData::Counts,
        overflow: Overflow::Wraps,
        absent: AbsentStatus::DecoderCounts,
        stale_received: false,
        mic_error_without_block: false,
    },
    sessions: SessionQuirks {
        decoders: Decoders::Shared,
        checks_mask: true,
        commands_by_multicast: false,
        closes_when_complete: false,
        memory_error_stays: false,
        memory_error_completes: false,
        forgets_session_cnt: true,
        block_received_sends: 4,
        block_received_sent_once_more: true,
    },
    multicast: MulticastQuirks {
        group_status: GroupStatus::Answered { records: 2 },
        late_start: LateStart::StartMissed,
        now_is_late: true,
        undefined_sets_all: false,
        bad_parameters: BadParameters::Flags,
        class_b: ClassB::Accepted,
        starts_once_clock_is_set: true,
        time_to_start_at_request: true,
        one_session_timer: false,
        commands_by_multicast: false,
    },
    clock: ClockQuirks {
        has_periodicity: true,
        sets_ans_required: false,
        send_delay: Duration::from_secs(5),
        resync_spacing: Duration::ZERO,
        asks_until_set: true,
    },
    answers: AnswerQuirks {
        unreadable: Unreadable::LosesAnswers,
        room: AnswerRoom::Bytes {
            other: 15,
            firmware: 9,
        },
        status_delays_all: true,
        status_is_overwritten: false,
        fragmentation_delay: (Duration::ZERO, Duration::from_secs(3)),
        multicast_delay: AT_ONCE,
    },
};

const BASICS_MODEM_V2: StackQuirks = StackQuirks {
    status: StatusQuirks {
        before_data: BeforeData::Zeros,
        mic_error_without_block: true,
        ..BASICS_MODEM_V1.status
    },
    ..BASICS_MODEM_V1
};

const ZEPHYR: StackQuirks = StackQuirks {
    status: StatusQuirks {
        received: Received::FragmentsForAnySession,
        missing: Missing::LessReceived,
        before_data: BeforeData::Counts,
        overflow: Overflow::Saturates,
        absent: AbsentStatus::DecoderCounts,
        stale_received: false,
        mic_error_without_block: false,
    },
    sessions: SessionQuirks {
        decoders: Decoders::One,
        checks_mask: false,
        commands_by_multicast: true,
        closes_when_complete: true,
        memory_error_stays: true,
        memory_error_completes: true,
        forgets_session_cnt: false,
        block_received_sends: 0,
        block_received_sent_once_more: false,
    },
    multicast: MulticastQuirks {
        group_status: GroupStatus::LosesAnswers,
        late_start: LateStart::StartMissed,
        now_is_late: false,
        undefined_sets_all: false,
        bad_parameters: BadParameters::BareCid,
        class_b: ClassB::LosesAnswers,
        starts_once_clock_is_set: false,
        time_to_start_at_request: true,
        one_session_timer: false,
        commands_by_multicast: true,
    },
    clock: ClockQuirks {
        has_periodicity: true,
        sets_ans_required: false,
        send_delay: Duration::ZERO,
        resync_spacing: Duration::from_secs(10),
        asks_until_set: false,
    },
    answers: AnswerQuirks {
        unreadable: Unreadable::LosesAnswers,
        room: AnswerRoom::Answers(3),
        status_delays_all: true,
        status_is_overwritten: false,
        fragmentation_delay: AT_ONCE,
        multicast_delay: (Duration::from_secs(1), Duration::from_secs(3)),
    },
};
