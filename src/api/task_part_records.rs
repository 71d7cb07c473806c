//! Devices, waves and sessions of a task: record -> proto.

use crate::lorawan::identifiers::DevEui;
use crate::proto::v1;
use crate::record::{
    CleanupState, DeviceReason, DeviceState, DistributionSession, SessionPhase, StateCounts, Task,
    TaskDevice, TaskId, UnicastFragments, Wave,
};
use crate::time::Timestamp;

use super::fields::show_moment;
use super::task_records::{device_sequence, show_counts, show_frag_algo, verdict};
use super::{names, regions};

pub(super) fn show_device_state(state: DeviceState) -> v1::TaskDeviceState {
    match state {
        DeviceState::Pending => v1::TaskDeviceState::Pending,
        DeviceState::Preparing => v1::TaskDeviceState::Preparing,
        DeviceState::Ready => v1::TaskDeviceState::Ready,
        DeviceState::Receiving => v1::TaskDeviceState::Receiving,
        DeviceState::ReportedReceived => v1::TaskDeviceState::ReportedReceived,
        DeviceState::Verified => v1::TaskDeviceState::Verified,
        DeviceState::Rebooting => v1::TaskDeviceState::Rebooting,
        DeviceState::Running => v1::TaskDeviceState::Running,
        DeviceState::Skipped => v1::TaskDeviceState::Skipped,
        DeviceState::Failed => v1::TaskDeviceState::Failed,
        DeviceState::Silent => v1::TaskDeviceState::Silent,
        DeviceState::RolledBack => v1::TaskDeviceState::RolledBack,
        DeviceState::Removed => v1::TaskDeviceState::Removed,
        DeviceState::Cancelled => v1::TaskDeviceState::Cancelled,
    }
}

pub(super) fn show_device_reason(reason: DeviceReason) -> v1::DeviceReason {
    match reason {
        DeviceReason::WrongDescriptor => v1::DeviceReason::WrongDescriptor,
        DeviceReason::FragIndexUnsupported => v1::DeviceReason::FragIndexUnsupported,
        DeviceReason::NotEnoughMemory => v1::DeviceReason::NotEnoughMemory,
        DeviceReason::FragAlgoUnsupported => v1::DeviceReason::FragAlgoUnsupported,
        DeviceReason::SessionCntReplay => v1::DeviceReason::SessionCntReplay,
        DeviceReason::MemoryError => v1::DeviceReason::MemoryError,
        DeviceReason::MicError => v1::DeviceReason::MicError,
        DeviceReason::SessionLost => v1::DeviceReason::FragSessionUnknown,
        DeviceReason::McGroupIdError => v1::DeviceReason::McGroupIdError,
        DeviceReason::DrError => v1::DeviceReason::DrError,
        DeviceReason::FreqError => v1::DeviceReason::FreqError,
        DeviceReason::McGroupUndefined => v1::DeviceReason::McGroupUndefined,
        DeviceReason::StartMissed => v1::DeviceReason::StartMissed,
        DeviceReason::NoAnswer => v1::DeviceReason::NoAnswer,
        DeviceReason::PackageNotSupported => v1::DeviceReason::PackageNotSupported,
        DeviceReason::VersionMismatch => v1::DeviceReason::VersionMismatch,
        DeviceReason::ClockNotSynced => v1::DeviceReason::ClockNotSynced,
        DeviceReason::NoGateway => v1::DeviceReason::NoGateway,
        DeviceReason::ImageRejected => v1::DeviceReason::ImageRejected,
        DeviceReason::WrongVersion => v1::DeviceReason::WrongVersion,
        DeviceReason::BudgetSpent => v1::DeviceReason::BudgetSpent,
        DeviceReason::WindowClosed => v1::DeviceReason::WindowClosed,
        DeviceReason::Conflict => v1::DeviceReason::Conflict,
        DeviceReason::AlreadyCurrent => v1::DeviceReason::AlreadyUpToDate,
        DeviceReason::DecoderLimit => v1::DeviceReason::DecoderLimit,
        DeviceReason::WrongModel => v1::DeviceReason::ModelMismatch,
        DeviceReason::NoSuchComponent => v1::DeviceReason::NoSuchComponent,
        DeviceReason::NotReleased => v1::DeviceReason::NotReleased,
        DeviceReason::SourceVersion => v1::DeviceReason::SourceVersion,
        DeviceReason::Downgrade => v1::DeviceReason::Downgrade,
        DeviceReason::SecurityCounter => v1::DeviceReason::SecurityCounter,
        DeviceReason::SlotTooSmall => v1::DeviceReason::SlotTooSmall,
    }
}

/// Of all that a task may leave on a device, what is farthest from gone.
fn show_cleanup(device: &TaskDevice) -> v1::CleanupState {
    let mut both = vec![device.frag_cleanup, device.group_cleanup];
    let course = device.images.iter();
    both.extend(course.flat_map(|c| c.frag_sessions.values().chain(c.discard.values())));
    if both.contains(&CleanupState::Left) {
        v1::CleanupState::Left
    } else if both.contains(&CleanupState::Pending) {
        v1::CleanupState::Pending
    } else if both.contains(&CleanupState::Kept) {
        v1::CleanupState::Kept
    } else if both.contains(&CleanupState::Confirmed) {
        v1::CleanupState::Confirmed
    } else {
        v1::CleanupState::NotNeeded
    }
}

/// What the messages of a task's devices say of the task.
pub(super) struct TaskContext {
    pub(super) task: Task,
    pub(super) waves: Vec<Wave>,
    pub(super) sessions: Vec<DistributionSession>,
}

impl TaskContext {
    fn wave_of(&self, device: &TaskDevice) -> Option<u16> {
        let session = self.session_of(device).map(|session| session.wave);
        session.or(match self.waves.as_slice() {
            [one] => Some(one.number),
            _ => None,
        })
    }

    fn session_of(&self, device: &TaskDevice) -> Option<&DistributionSession> {
        let number = device.session?;
        self.sessions
            .iter()
            .find(|session| session.id.number == number)
    }

    /// The place of the image a device is at.
    pub(super) fn image_of(&self, device: &TaskDevice) -> u8 {
        self.session_of(device).map_or(0, |session| session.image)
    }

    /// A device as the API shows it; `version` is what it reported since the start.
    pub(super) fn show(&self, device: &TaskDevice, version: Option<u32>) -> v1::TaskDevice {
        let mut entered: Vec<(Timestamp, DeviceState)> = device
            .entered
            .iter()
            .map(|(state, at)| (*at, *state))
            .collect();
        entered.sort_unstable();
        let id = &device.task;
        v1::TaskDevice {
            name: device_name(id, device.dev_eui),
            device: names::name("devices", device.dev_eui),
            multicast_group: device
                .group
                .as_ref()
                .map_or(String::new(), |group| names::name("multicastGroups", group)),
            state: show_device_state(device.state).into(),
            reason: device
                .reason
                .map_or(v1::DeviceReason::Unspecified, show_device_reason)
                .into(),
            evidence: device.evidence.clone(),
            verdict: verdict(device.state, self.task.success).into(),
            fragments_received: device.fragments.map(|report| report.received.into()),
            fragments_missing: device.fragments.map(|report| report.deficit.into()),
            nb_frag: self
                .session_of(device)
                .map_or(0, |session| session.block.nb_frag.into()),
            attempts: device.attempts,
            wave: self
                .wave_of(device)
                .map_or(String::new(), |wave| wave_name(id, wave)),
            session: device
                .session
                .map_or(String::new(), |number| session_name(id, number)),
            cleanup_state: show_cleanup(device).into(),
            version_before: device.version_before,
            version_reported: version,
            state_entries: entered
                .into_iter()
                .map(|(at, state)| v1::TaskDeviceStateEntry {
                    state: show_device_state(state).into(),
                    enter_time: Some(show_moment(at)),
                })
                .collect(),
            sequence: device_sequence(device.sequence),
            update_time: Some(show_moment(device.changed_at)),
            images: self.show_images(device),
        }
    }

    /// How far a device is with each of several images it needs.
    fn show_images(&self, device: &TaskDevice) -> Vec<v1::TaskDeviceImage> {
        use v1::TaskDeviceImageState as State;
        let Some(course) = &device.images else {
            return Vec::new();
        };
        let shown = |image: u8, state: State, session: u16, before, at: Option<Timestamp>| {
            v1::TaskDeviceImage {
                image: image_name(&self.task, image),
                state: state.into(),
                session: session_name(&device.task, session),
                version_before: before,
                done_time: at.map(show_moment),
            }
        };
        let done = course.done.iter().map(|d| {
            shown(
                d.image,
                State::Done,
                d.session,
                d.version_before,
                Some(d.at),
            )
        });
        let at = self.session_of(device).map(|session| {
            let (image, number) = (session.image, session.id.number);
            shown(
                image,
                State::InProgress,
                number,
                device.version_before,
                None,
            )
        });
        let ahead = course
            .ahead
            .iter()
            .map(|a| shown(a.image, State::Waiting, a.session, a.version_before, None));
        done.chain(at).chain(ahead).collect()
    }

    /// A wave as the API shows it.
    pub(super) fn show_wave(&self, wave: &Wave, counts: &StateCounts) -> v1::Wave {
        v1::Wave {
            name: wave_name(&wave.task, wave.number),
            state: if wave.ended_at.is_some() {
                v1::WaveState::Ended
            } else if wave.started_at.is_none() {
                v1::WaveState::Planned
            } else {
                v1::WaveState::Running
            }
            .into(),
            device_counts: Some(show_counts(counts, self.task.success)),
            sessions: self
                .sessions
                .iter()
                .filter(|session| session.wave == wave.number)
                .map(|session| session_name(&wave.task, session.id.number))
                .collect(),
            start_time: wave.started_at.map(show_moment),
            end_time: wave.ended_at.map(show_moment),
        }
    }
}

/// A distribution session as the API shows it, with the devices in it and those that have gone on to another image.
pub(super) fn show_session(
    task: &Task,
    session: &DistributionSession,
    devices: &[&TaskDevice],
) -> v1::DistributionSession {
    let block = &session.block;
    let (devices, gone_on): (Vec<&TaskDevice>, Vec<&TaskDevice>) = devices
        .iter()
        .partition(|d| d.session == Some(session.id.number));
    // Of devices that are sent to alone, the one that got most.
    let alone = |sent: fn(UnicastFragments) -> u16| {
        let devices = devices.iter().filter_map(|d| d.unicast);
        devices.map(sent).max().unwrap_or(0)
    };
    let uncoded_done = session.uncoded_sent >= block.nb_frag
        || session.coded_sent > 0
        || alone(|d| d.coded_sent) > 0;
    v1::DistributionSession {
        name: session_name(&session.id.task, session.id.number),
        wave: wave_name(&session.id.task, session.wave),
        state: match session.phase {
            SessionPhase::Planned => v1::DistributionSessionState::Planned,
            SessionPhase::Preparing => v1::DistributionSessionState::Preparing,
            SessionPhase::Sending | SessionPhase::Individual if !uncoded_done => {
                v1::DistributionSessionState::Uncoded
            }
            SessionPhase::Sending | SessionPhase::Polling { .. } | SessionPhase::Individual => {
                v1::DistributionSessionState::Coded
            }
            SessionPhase::Closed => v1::DistributionSessionState::Ended,
        }
        .into(),
        state_reason: session_reason(session, &devices).into(),
        region: regions::show(session.region).into(),
        device_class: regions::show_class(session.class).into(),
        data_rate: session.data_rate.into(),
        frequency_hz: session.frequency_hz,
        fragmentation_version: block.version.number().into(),
        frag_index: block.frag_index.into(),
        nb_frag: block.nb_frag.into(),
        frag_size: block.frag_size.into(),
        padding_bytes: block.padding.into(),
        window_start: Some(show_moment(session.window.start)),
        window_end: Some(show_moment(session.window.end())),
        device_count: count(devices.len() + gone_on.len()),
        received_count: count(
            devices.iter().filter(|d| has_image(d.state)).count() + gone_on.len(),
        ),
        uncoded_fragments_sent: alone(|d| d.uncoded_sent).max(session.uncoded_sent).into(),
        coded_fragments_sent: alone(|d| d.coded_sent).max(session.coded_sent).into(),
        rounds: show_rounds(session),
        gateways: show_airtime(session),
        frag_algo: show_frag_algo(block.frag_algo).into(),
        ping_slot_periodicity: session.ping_slots.map(|slots| slots.number().into()),
        image: image_name(task, session.image),
    }
}

/// Why a session is over: the first of its devices' ends that says so.
fn session_reason(
    session: &DistributionSession,
    devices: &[&TaskDevice],
) -> v1::DistributionSessionReason {
    use v1::DistributionSessionReason as Reason;

    let any = |is: fn(&TaskDevice) -> bool| devices.iter().any(|device| is(device));
    if session.phase != SessionPhase::Closed {
        Reason::Unspecified
    } else if any(|d| d.state == DeviceState::Cancelled) {
        Reason::TaskEnded
    } else if any(|d| d.reason == Some(DeviceReason::BudgetSpent)) {
        Reason::BudgetSpent
    } else if any(|d| d.reason == Some(DeviceReason::WindowClosed)) {
        Reason::WindowClosed
    } else {
        Reason::AllDone
    }
}

fn show_rounds(session: &DistributionSession) -> Vec<v1::StatusRound> {
    let ends = session.rounds.iter().skip(1).map(|next| next.coded_sent);
    let ends = ends.chain([session.coded_sent]);
    let rounds = session.rounds.iter().zip(ends);
    let shown = rounds.map(|(round, end)| v1::StatusRound {
        round: round.number,
        poll_time: Some(show_moment(round.at)),
        answers_received: round.answers,
        fragments_missing_max: round.deficit_max.into(),
        coded_fragments_sent: end.saturating_sub(round.coded_sent).into(),
    });
    shown.collect()
}

/// The gateways that send, and those that sent before.
fn show_airtime(session: &DistributionSession) -> Vec<v1::GatewayAirtime> {
    let mut airtime = session.airtime_us.clone();
    for gateway in &session.gateways {
        airtime.entry(*gateway).or_default();
    }
    let shown = airtime
        .into_iter()
        .map(|(gateway, airtime_us)| v1::GatewayAirtime {
            gateway: names::name("gateways", gateway),
            airtime_us,
        });
    shown.collect()
}

/// The name of an image by its place in the task; empty if it has none there.
pub(super) fn image_name(task: &Task, image: u8) -> String {
    let sha256 = task.images.get(usize::from(image));
    sha256.map_or(String::new(), |sha256| names::name("images", sha256))
}

fn count(items: usize) -> u32 {
    u32::try_from(items).unwrap_or(u32::MAX)
}

/// Whether a device in this state has the whole image.
fn has_image(state: DeviceState) -> bool {
    matches!(
        state,
        DeviceState::ReportedReceived
            | DeviceState::Verified
            | DeviceState::Rebooting
            | DeviceState::Running
            | DeviceState::RolledBack
    )
}

fn device_name(task: &TaskId, dev_eui: DevEui) -> String {
    format!("tasks/{task}/devices/{dev_eui}")
}

fn wave_name(task: &TaskId, number: u16) -> String {
    format!("tasks/{task}/waves/{}", u32::from(number) + 1)
}

fn session_name(task: &TaskId, number: u16) -> String {
    format!("tasks/{task}/sessions/{}", u32::from(number) + 1)
}
